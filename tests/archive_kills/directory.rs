//! Sees the steps of an archive in a directory, by its files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millstream_tests::pause;

use super::{STEP_WITHIN, Step, Watch};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_micros(100);

/// What is looked at. What is being written has its name, `#` and a number, until it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    ObjectBegun,
    Object,
    ManifestBegun,
    Manifest,
    Segment,
}

impl Kind {
    /// Whose files tell of a step.
    fn of(step: Step) -> Self {
        match step {
            Step::Put => Self::ObjectBegun,
            Step::PutReply => Self::Object,
            Step::Commit => Self::ManifestBegun,
            Step::CommitReply | Step::Head => Self::Manifest,
            Step::Deletion => Self::Segment,
        }
    }

    fn is_of(self, path: &str) -> bool {
        match self {
            Self::ObjectBegun => path.contains(".parquet#"),
            Self::Object => path.ends_with(".parquet"),
            Self::ManifestBegun => path.contains("/manifest/") && path.contains(".json#"),
            Self::Manifest => path.contains("/manifest/") && path.ends_with(".json"),
            Self::Segment => path.ends_with(".seg"),
        }
    }
}

/// Looks at a data directory that holds its own archive.
pub(super) struct Directory {
    data: PathBuf,
}

impl Directory {
    pub(super) fn new(data: &Path) -> Self {
        Self { data: data.to_owned() }
    }

    /// Every file of `kind`.
    fn files(&self, kind: Kind) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let below = if kind == Kind::Segment { "topics" } else { "archive/topics" };
        let mut folders = vec![self.data.join(below)];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                // A folder that goes meanwhile has nothing in it.
                if entry.file_type().is_ok_and(|of| of.is_dir()) {
                    folders.push(path);
                } else if kind.is_of(&path.to_string_lossy()) {
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
        let kind = Kind::of(step);
        let before = self.files(kind);
        loop {
            let now = self.files(kind);
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
        &[Step::Put, Step::PutReply, Step::Commit, Step::CommitReply, Step::Head, Step::Deletion]
    }
}
