//! Python packages that the tests compare with, in an environment of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter of an environment that has `packages`; made on the first use, which takes PyPI.
/// `None`, with a word on standard error, where it cannot be made: the tests need Rust and a C
/// compiler only. In CI that is a failure.
pub(crate) fn with(name: &str, packages: &[&str]) -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = home.join(".cache/millstream/python").join(name);
    let made = make(&dir, packages);
    if let Err(why) = &made {
        assert!(std::env::var_os("CI").is_none(), "{why}");
        #[expect(clippy::print_stderr, reason = "a test that does not run says so")]
        {
            eprintln!("SKIPPED: the comparison with {packages:?} needs Python 3 and PyPI: {why}");
        }
    }
    made.ok().map(|()| dir.join("bin/python"))
}

fn make(dir: &Path, packages: &[&str]) -> Result<(), String> {
    let ready = dir.join("ready");
    let wanted = packages.join(" ");
    if std::fs::read_to_string(&ready).is_ok_and(|made| made == wanted) {
        return Ok(());
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(dir))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(Command::new(dir.join("bin/python")).args(pip).args(packages))?;
    std::fs::write(&ready, wanted).map_err(|error| error.to_string())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)))
}
