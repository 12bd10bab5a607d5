//! What the operating system says of a process.

use anyhow::{Context, Result};

/// Resident memory of a process in KiB, of which the operating system may share some.
///
/// # Errors
/// There is no such process, or no /proc.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    let number = number.with_context(|| format!("{path} has no VmRSS"))?;
    number.parse().with_context(|| format!("VmRSS of {path} is `{number}`"))
}

/// How many file descriptors a process has open, sockets and pipes included.
///
/// # Errors
/// There is no such process, or no /proc.
pub fn open_files(pid: u32) -> Result<usize> {
    let path = format!("/proc/{pid}/fd");
    let entries = std::fs::read_dir(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(entries.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_files() {
        let pid = std::process::id();
        assert!(resident_kib(pid).unwrap() > 100);
        let before = open_files(pid).unwrap();
        assert!(before >= 3, "{before}");
        // Other tests of this process open and close some at the same time, so far fewer.
        let held: Vec<_> =
            (0..100).map(|_| std::os::unix::net::UnixDatagram::unbound().unwrap()).collect();
        assert!(open_files(pid).unwrap() > before + 50);
        drop(held);
    }
}
