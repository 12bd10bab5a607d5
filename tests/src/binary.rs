//! The `millstream` binary: where it lies, and one run of it.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};

/// A run may write this much to stdout, and this much to stderr, before [`run`] refuses it.
pub const OUTPUT_BYTES_MAX: u64 = 256 << 20;

/// How long [`millstream`] lets a run take.
pub(crate) const RUN_WITHIN: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Runs `millstream` with these arguments and no input, for at most a minute. A non-zero exit is
/// not an error: it is in the output.
///
/// # Errors
/// As [`command`] and [`run`].
pub fn millstream<S: AsRef<OsStr>>(arguments: &[S]) -> Result<Output> {
    let mut command = command()?;
    command.args(arguments);
    run(command, &[], RUN_WITHIN)
}

/// A command for the `millstream` of this build, with no `MILLSTREAM_*` variable of the caller's.
///
/// The binary is the one in the target directory of the running test; if it is missing or older
/// than its sources, `cargo build -p millstream` makes it first, once per process. The variable
/// `MILLSTREAM_BIN` names another to test instead, an installed one say.
///
/// # Errors
/// There is no such binary and it cannot be built.
pub fn command() -> Result<Command> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let binary = BINARY.get_or_init(|| find_binary().map_err(|error| format!("{error:#}")));
    let mut command = Command::new(binary.as_ref().map_err(|error| anyhow!("{error}"))?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MILLSTREAM_") {
            command.env_remove(name);
        }
    }
    Ok(command)
}

/// Runs a command to its end with `input` on stdin; kills it when it takes longer than `within`.
///
/// # Errors
/// It cannot be started, took too long, or wrote more than [`OUTPUT_BYTES_MAX`].
pub fn run(mut command: Command, input: &[u8], within: Duration) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let stdout = read_all(child.stdout.take());
    let stderr = read_all(child.stderr.take());
    let stdin = child.stdin.take();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A process that ends without reading its input breaks the pipe, as it may.
        stdin.map_or(Ok(()), |mut stdin| stdin.write_all(&input)).ok();
    });
    let ended = wait_within(&mut child, within);
    if !matches!(ended, Ok(Some(_))) {
        child.kill().ok();
        child.wait().ok();
    }
    writer.join().map_err(|_| anyhow!("the writer of stdin panicked"))?;
    let stdout = stdout.join().map_err(|_| anyhow!("the reader of stdout panicked"))??;
    let stderr = stderr.join().map_err(|_| anyhow!("the reader of stderr panicked"))??;
    let Some(status) = ended? else {
        let stderr = String::from_utf8_lossy(&stderr);
        bail!("{command:?} was killed: it took longer than {within:?}; stderr:\n{stderr}");
    };
    Ok(Output { status, stdout, stderr })
}

/// Waits for a child's end until the deadline; `None` if it still runs then.
#[expect(clippy::disallowed_methods, reason = "another process keeps its own time")]
pub(crate) fn wait_within(child: &mut Child, within: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for the process")? {
            return Ok(Some(status));
        }
        if start.elapsed() >= within {
            return Ok(None);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Reads a pipe to its end, so that its writer never waits; keeps what is allowed.
fn read_all<R: Read + Send + 'static>(pipe: Option<R>) -> JoinHandle<Result<Vec<u8>>> {
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        let Some(mut pipe) = pipe else { return Ok(kept) };
        pipe.by_ref().take(OUTPUT_BYTES_MAX).read_to_end(&mut kept)?;
        let dropped = std::io::copy(&mut pipe, &mut std::io::sink())?;
        ensure!(dropped == 0, "a run may write {OUTPUT_BYTES_MAX} bytes; {dropped} more came");
        Ok(kept)
    })
}

fn find_binary() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("MILLSTREAM_BIN") {
        let given = PathBuf::from(given);
        ensure!(given.is_file(), "MILLSTREAM_BIN is {}, which is no file", given.display());
        return Ok(given);
    }
    let test = std::env::current_exe().context("cannot tell where the test lies")?;
    let dir = profile_dir(&test).with_context(|| {
        format!("{} is not in a target directory: set MILLSTREAM_BIN", test.display())
    })?;
    let binary = dir.join(format!("millstream{}", std::env::consts::EXE_SUFFIX));
    if !is_fresh(&binary, &dir.join("millstream.d")) {
        build(dir)?;
    }
    ensure!(binary.is_file(), "cargo built millstream, but not as {}", binary.display());
    Ok(binary)
}

/// `target/debug` of `target/debug/deps/test-0123`.
fn profile_dir(test: &Path) -> Option<&Path> {
    let deps = test.parent()?;
    if deps.file_name()? == "deps" { deps.parent() } else { None }
}

/// Whether the binary is there and no older than any source that cargo lists in its dep-info.
///
/// `cargo test` rebuilds the binaries of a package only beside its own integration tests, so a
/// test in another package can find yesterday's.
fn is_fresh(binary: &Path, dep_info: &Path) -> bool {
    let Some(built) = modified(binary) else { return false };
    let Ok(text) = std::fs::read_to_string(dep_info) else { return false };
    let sources = sources_in(&text);
    !sources.is_empty()
        && sources.iter().all(|source| modified(source).is_some_and(|changed| changed <= built))
}

/// The files after the colon in a dep-info of one rule, where a space in a name is `\ `.
fn sources_in(dep_info: &str) -> Vec<PathBuf> {
    let rule = dep_info.lines().next().unwrap_or("");
    let Some((_, files)) = rule.split_once(": ") else { return Vec::new() };
    let files = files.replace("\\ ", "\0");
    files.split_whitespace().map(|file| PathBuf::from(file.replace('\0', " "))).collect()
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

fn build(dir: &Path) -> Result<()> {
    let target = dir.parent().context("the target directory has no parent")?;
    // Cargo calls the profile of `target/debug` dev.
    let profile = match dir.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--package", "millstream", "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output()
        .context("cannot start cargo to build millstream")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo build --package millstream failed:\n{stderr}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_run_gives_output_and_exit_code() {
        let output =
            run(shell("cat; echo oops >&2; exit 3"), b"in\n", Duration::from_secs(30)).unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(
            (output.stdout.as_slice(), output.stderr.as_slice()),
            (&b"in\n"[..], &b"oops\n"[..])
        );
    }

    #[test]
    fn a_run_that_ignores_much_input_ends() {
        let input = vec![b'x'; 4 << 20];
        let output = run(shell("exit 0"), &input, Duration::from_secs(30)).unwrap();
        assert!(output.status.success());
    }

    #[test]
    fn a_run_that_takes_too_long_is_killed() {
        let error = run(shell("echo started >&2; exec sleep 60"), &[], Duration::from_millis(300));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("longer than 300ms") && error.contains("started"), "{error}");
    }

    #[test]
    fn the_binary_lies_beside_the_deps() {
        assert_eq!(profile_dir(Path::new("/t/debug/deps/a-1")), Some(Path::new("/t/debug")));
        assert_eq!(profile_dir(Path::new("/usr/bin/a")), None);
    }

    #[test]
    fn dep_info_names_sources_with_spaces() {
        let sources = sources_in("/t/debug/millstream: /a/src/main.rs /b\\ c/lib.rs\n");
        assert_eq!(sources, [PathBuf::from("/a/src/main.rs"), PathBuf::from("/b c/lib.rs")]);
        assert_eq!(sources_in(""), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_binary_older_than_a_source_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let touch = |name: &str, seconds: u64| {
            std::fs::write(path(name), "").unwrap();
            let file = std::fs::OpenOptions::new().write(true).open(path(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        };
        let fresh = || is_fresh(&path("bin"), &path("bin.d"));
        std::fs::write(path("bin.d"), format!("bin: {}", path("main.rs").display())).unwrap();
        touch("main.rs", 100);
        assert!(!fresh(), "there is no binary");
        touch("bin", 99);
        assert!(!fresh(), "the source is newer");
        touch("bin", 100);
        assert!(fresh());
        std::fs::remove_file(path("main.rs")).unwrap();
        assert!(!fresh(), "a source is gone");
        std::fs::write(path("bin.d"), "").unwrap();
        assert!(!fresh(), "the dep-info says nothing");
    }
}
