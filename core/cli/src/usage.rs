//! What a process has used: processor time and memory, from `/proc`.

use serde::Serialize;

/// Processor time is counted in hundredths of a second: `USER_HZ`, which Linux fixes at 100 for
/// every program whatever the kernel's own tick is (proc(5), time(7)).
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used so far.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Usage {
    /// Seconds of processor time, user and system, over all threads.
    pub cpu_seconds: f64,
    /// Bytes of memory resident now.
    pub resident_bytes: u64,
    /// The most that were ever resident.
    pub resident_bytes_max: u64,
}

impl Usage {
    /// Of the process `pid`; `None` where there is no such process or no `/proc`.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        Some(Self {
            cpu_seconds: cpu_seconds(&stat)?,
            resident_bytes: kib(&status, "VmRSS:")? * 1024,
            resident_bytes_max: kib(&status, "VmHWM:")? * 1024,
        })
    }

    /// Of this process.
    #[must_use]
    pub fn own() -> Option<Self> {
        Self::of(std::process::id())
    }
}

/// Fields 14 and 15 of `/proc/PID/stat`; counted from behind the name, which may hold spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

fn kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_behind_the_name() {
        let stat = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 13 14";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("7 (a) S 1"), None);
        assert_eq!(kib("Name: x\nVmRSS:\t    12 kB\n", "VmRSS:"), Some(12));
        assert_eq!(kib("Name: x\n", "VmRSS:"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_memory() {
        let usage = Usage::own().unwrap();
        assert!(usage.resident_bytes > 0 && usage.resident_bytes <= usage.resident_bytes_max);
    }
}
