//! Sees the steps of an archive in a directory, by its files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millstream_tests::pause;

use super::{STEP_WITHIN, Step, Watch};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_micros(100);

/// Looks at a data directory that holds its own archive.
pub(super) struct Directory {
    data: PathBuf,
}

impl Directory {
    pub(super) fn new(data: &Path) -> Self {
        Self { data: data.to_owned() }
    }

    /// Every file whose path has `part` in it.
    fn files(&self, below: &str, part: &str) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut folders = vec![self.data.join(below)];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                // A folder that goes meanwhile has nothing in it.
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                } else if path.to_string_lossy().contains(part) {
                    found.insert(path);
                }
            }
        }
        found
    }
}

impl Watch for Directory {
    #[expect(clippy::disallowed_methods, reason = "another process keeps its own time")]
    fn wait_for(&mut self, step: Step) -> bool {
        let start = Instant::now();
        let (below, part) = match step {
            // What is being written has another ending yet.
            Step::Put | Step::PutReply => ("archive/topics", ".parquet"),
            Step::Commit | Step::CommitReply | Step::Head => ("archive/topics", "/manifest/"),
            Step::Deletion => ("topics", ".seg"),
        };
        let before = self.files(below, part);
        loop {
            let now = self.files(below, part);
            let come = match step {
                Step::Deletion => before.difference(&now).next().is_some(),
                _ => now.difference(&before).next().is_some(),
            };
            if come || start.elapsed() >= STEP_WITHIN {
                return come;
            }
            pause(LOOK);
        }
    }

    fn killed(&mut self) {}

    fn steps(&self) -> &'static [Step] {
        &[Step::Put, Step::Commit, Step::Head, Step::Deletion]
    }
}
