//! What the environment chooses; see the crate.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// The choices of one run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Rounds, each of everything.
    pub rounds: usize,
    /// Bytes through each ceiling and each run of the broker.
    pub bytes: u64,
    /// Where files are written.
    pub dir: PathBuf,
    /// Processors of the broker's side and of the load's, as taskset takes them.
    pub cpus: Option<(String, String)>,
    /// The binary to measure.
    pub binary: PathBuf,
    /// The rows to run; all where empty.
    pub rows: Vec<String>,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// A number is none, or this executable cannot be found.
    pub fn from_env() -> Result<Self> {
        let text = |name: &str| std::env::var(format!("MILLSTREAM_BENCH_{name}")).ok();
        let number = |name: &str, default: u64| match text(name) {
            Some(value) => value.parse().with_context(|| format!("MILLSTREAM_BENCH_{name}")),
            None => Ok(default),
        };
        let cpus = text("CPUS").and_then(|cpus| {
            let (broker, load) = cpus.split_once(':')?;
            Some((broker.to_owned(), load.to_owned()))
        });
        let binary = match text("BIN") {
            Some(path) => path.into(),
            None => beside_benchmark()?,
        };
        let rows = text("ROWS").unwrap_or_default();
        Ok(Self {
            rounds: usize::try_from(number("ROUNDS", 5)?.max(1))?,
            bytes: number("MIB", 1024)?.max(1) << 20,
            dir: text("DIR").map_or_else(std::env::temp_dir, PathBuf::from),
            cpus,
            binary,
            rows: rows.split(',').filter(|row| !row.is_empty()).map(str::to_owned).collect(),
        })
    }
}

/// Benchmarks lie in `target/release/deps`, binaries in `target/release`.
fn beside_benchmark() -> Result<PathBuf> {
    let executable = std::env::current_exe().context("cannot find this executable")?;
    let profile = executable.parent().and_then(|deps| deps.parent());
    Ok(profile.context("this executable has no folder")?.join("millstream"))
}
