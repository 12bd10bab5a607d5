//! Records in and out through the command line, and the files that they rest in.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::binary::{RUN_WITHIN, run};
use crate::broker::Broker;
use crate::outcome::{json_lines, success};

/// Appends records, each a JSON object as `produce --json` reads it, and returns the summary.
/// `flags` are further ones, such as the compression.
///
/// # Errors
/// They are not all stored.
pub fn produce(broker: &Broker, topic: &str, records: &[Value], flags: &[&str]) -> Result<Value> {
    let mut command = broker.command()?;
    command.args(["produce", topic, "--json", "-o", "json"]).args(flags);
    let mut input = String::new();
    for record in records {
        input.push_str(&record.to_string());
        input.push('\n');
    }
    let printed = success(&run(command, input.as_bytes(), RUN_WITHIN)?)?;
    let mut lines = json_lines(&printed)?;
    ensure!(lines.len() == 1, "expected one summary: {printed}");
    lines.pop().context("no summary")
}

/// Reads records as `consume -o json` prints them; `flags` are further ones.
///
/// # Errors
/// They cannot all be read.
pub fn consume(broker: &Broker, topic: &str, flags: &[&str]) -> Result<Vec<Value>> {
    let mut command = broker.command()?;
    command.args(["consume", topic, "-o", "json"]).args(flags);
    json_lines(&success(&run(command, &[], RUN_WITHIN)?)?)
}

/// The name and id of every topic, as `topic list` tells them.
///
/// # Errors
/// The list cannot be had.
pub fn topics(broker: &Broker) -> Result<Vec<(String, String)>> {
    let listed = json_lines(&success(&broker.millstream(&["topic", "list", "-o", "json"])?)?)?;
    let text = |row: &Value, name: &str| {
        let text = row.get(name).and_then(Value::as_str);
        text.map(str::to_owned).with_context(|| format!("no `{name}` in {row}"))
    };
    listed.iter().map(|row| Ok((text(row, "topic")?, text(row, "id")?))).collect()
}

/// Where a partition's segments lie below a data directory.
///
/// # Errors
/// There is no such topic.
pub fn partition_dir(broker: &Broker, data: &Path, topic: &str, partition: u32) -> Result<PathBuf> {
    let topics = topics(broker)?;
    let found = topics.iter().find(|(name, _)| name == topic);
    let (_, id) = found.with_context(|| format!("no topic {topic} in {topics:?}"))?;
    Ok(data.join("topics").join(id).join(partition.to_string()))
}

/// Copies a directory with all that is in it to a place that does not exist yet.
///
/// # Errors
/// Something cannot be read or written.
pub fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to).with_context(|| format!("cannot make {}", to.display()))?;
    let entries = std::fs::read_dir(from);
    for entry in entries.with_context(|| format!("cannot list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)
                .with_context(|| format!("cannot copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_everything() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("a/b")).unwrap();
        std::fs::write(from.join("a/b/c"), "text").unwrap();
        copy_dir(&from, &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("a/b/c")).unwrap(), "text");
        assert!(copy_dir(&from, &to).is_err(), "the target is there already");
    }
}
