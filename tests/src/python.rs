//! Programs from PyPI that the tests compare with, in environments of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The `bin` folder of an environment that has `packages`; made on the first use. `None`, with a
/// word on standard error, where Python 3 or PyPI are not to be had: the tests need Rust and a C
/// compiler only.
///
/// # Errors
/// In CI, that it cannot be made.
pub fn python(name: &str, packages: &[&str]) -> Result<Option<PathBuf>> {
    match install(name, packages) {
        Ok(bin) => Ok(Some(bin)),
        Err(error) if std::env::var_os("CI").is_some() => Err(error),
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "a test that does not run says so")]
            {
                eprintln!("SKIPPED: {packages:?} take Python 3 and PyPI: {error:#}");
            }
            Ok(None)
        }
    }
}

fn install(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = home.join(".cache/millstream/python").join(name);
    let (bin, ready) = (dir.join("bin"), dir.join("ready"));
    let wanted = packages.join(" ");
    if std::fs::read_to_string(&ready).is_ok_and(|made| made == wanted) {
        return Ok(bin);
    }
    let path = dir.to_str().context("a home directory in UTF-8")?;
    run(Path::new("python3"), &["-m", "venv", "--clear", path])?;
    let mut pip = vec!["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    pip.extend(packages);
    run(&bin.join("python"), &pip)?;
    std::fs::write(&ready, wanted)?;
    Ok(bin)
}

fn run(program: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {said}", program.display());
    Ok(())
}
