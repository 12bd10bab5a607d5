//! What writers that died left in a directory: files that were never given their name. A listing
//! does not show them.

use std::fs::{DirEntry, read_dir, remove_dir, remove_file};
use std::io::{Error, ErrorKind};
use std::path::Path;
use std::time::UNIX_EPOCH;

/// Folders in folders that are looked into; an archive has four.
const DEPTH_MAX: usize = 8;

/// Removes unfinished files below `folder` that were last written at `until_ms` or before, and the
/// folders that are empty then. Returns how many. A folder that is not there has none. Blocks.
pub(super) fn remove(folder: &Path, until_ms: i64) -> Result<usize, Error> {
    below(folder, until_ms, DEPTH_MAX)
}

fn below(folder: &Path, until_ms: i64, depth: usize) -> Result<usize, Error> {
    let entries = match read_dir(folder) {
        Ok(entries) => entries,
        // Nothing was ever there, or somebody has removed it.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth > 0 {
            removed += below(&entry.path(), until_ms, depth - 1)?;
        } else if kind.is_file() && is_unfinished(&entry) && is_old(&entry, until_ms) {
            match remove_file(entry.path()) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    if removed > 0 {
        // Fails where something is left, and a writer makes its folder anew.
        let _kept = remove_dir(folder);
    }
    Ok(removed)
}

/// Whether a file is called as one that is being written: its name to be, and a number.
fn is_unfinished(entry: &DirEntry) -> bool {
    let name = entry.file_name();
    let parts = name.to_str().and_then(|name| name.rsplit_once('#'));
    parts.is_some_and(|(name, number)| {
        let ours = name.ends_with(".parquet") || name.ends_with(".json");
        ours && !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
    })
}

/// One whose time cannot be told is not known to be old.
fn is_old(entry: &DirEntry, until_ms: i64) -> bool {
    let modified = entry.metadata().and_then(|found| found.modified());
    let since = modified.ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let since = since.and_then(|since| i64::try_from(since.as_millis()).ok());
    since.is_some_and(|modified_ms| modified_ms <= until_ms)
}
