//! Runs of `millstream bench`, each with a broker of its own.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::settings::Settings;

/// What one run told.
#[derive(Debug, Clone)]
pub struct Run(Value);

impl Run {
    /// Runs `millstream bench` with `flags`; it fails if any record was not as it was sent.
    ///
    /// # Errors
    /// The binary is missing, or the run failed.
    pub fn measure(settings: &Settings, flags: &[String]) -> Result<Self> {
        let binary = &settings.binary;
        ensure!(
            binary.is_file(),
            "{} is missing: build it with `cargo build --release`",
            binary.display()
        );
        let mut command = Command::new(binary);
        command.args(["bench", "--output", "json"]).args(flags);
        if let Some((broker, load)) = &settings.cpus {
            command.args(["--cpus", &format!("{broker}:{load}")]);
        }
        // Where the broker keeps its data, as the raw appends do.
        command.env("TMPDIR", &settings.dir).stderr(Stdio::inherit());
        let output = command.output().context("cannot run the broker's benchmark")?;
        ensure!(output.status.success(), "millstream bench {} failed", flags.join(" "));
        Ok(Self(serde_json::from_slice(&output.stdout).context("millstream bench said no JSON")?))
    }

    /// A number at a place such as `/produce/mb_per_second`.
    ///
    /// # Errors
    /// The run told none.
    pub fn number(&self, place: &str) -> Result<f64> {
        let found = self.0.pointer(place).and_then(Value::as_f64);
        found.with_context(|| format!("millstream bench told no number at {place}"))
    }
}
