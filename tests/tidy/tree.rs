//! The files that belong to the repository, read once, and its crates.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use toml::Table;

/// Directories that a walk of the file system leaves out; git knows them from .gitignore.
const NOT_OURS: &[&str] = &[".git", "target", "millstream-data", "corpus", "artifacts"];

/// Every file of the repository. Paths are relative to its root, with `/` between the parts.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    /// `None` for a file that is not UTF-8, which no check looks into.
    files: BTreeMap<String, Option<String>>,
    crates: Vec<Crate>,
}

/// One package: a directory with a manifest that names it.
#[derive(Debug)]
pub(crate) struct Crate {
    /// Relative to the root of the repository, never empty.
    pub(crate) dir: String,
    /// Package name.
    pub(crate) name: String,
    /// The whole of its Cargo.toml.
    pub(crate) manifest: Table,
}

impl Tree {
    /// Reads the repository at `root`: what git tracks or would add; where git cannot say (a
    /// source archive, say), every file that is not in a build or data directory.
    ///
    /// # Errors
    /// A file cannot be read, or a Cargo.toml is not TOML.
    pub(crate) fn read(root: &Path) -> Result<Tree> {
        let root = root.canonicalize().context("no such repository")?;
        let paths = match listed_by_git(&root) {
            Some(paths) => paths,
            None => walked(&root)?,
        };
        let mut files = BTreeMap::new();
        for path in paths {
            match std::fs::read(root.join(&path)) {
                Ok(bytes) => files.insert(path, String::from_utf8(bytes).ok()),
                // Deleted, but git has not been told; or a link to a directory.
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) =>
                {
                    continue;
                }
                Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
            };
        }
        Tree::new(root, files)
    }

    fn new(root: PathBuf, files: BTreeMap<String, Option<String>>) -> Result<Tree> {
        let mut crates = Vec::new();
        for (path, text) in &files {
            let (Some(dir), Some(text)) = (path.strip_suffix("/Cargo.toml"), text) else {
                continue;
            };
            let manifest: Table =
                text.parse().with_context(|| format!("{path} cannot be read as TOML"))?;
            let name = manifest.get("package").and_then(|package| package.get("name"));
            if let Some(name) = name.and_then(|name| name.as_str()) {
                let name = name.to_owned();
                crates.push(Crate { dir: dir.to_owned(), name, manifest });
            }
        }
        Ok(Tree { root, files, crates })
    }

    /// Where the repository lies.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Every package, by directory.
    pub(crate) fn crates(&self) -> &[Crate] {
        &self.crates
    }

    /// The package whose directory is the nearest above `path`.
    pub(crate) fn crate_of(&self, path: &str) -> Option<&Crate> {
        let above = self.crates.iter().filter(|krate| is_under(path, &krate.dir));
        above.max_by_key(|krate| krate.dir.len())
    }

    /// Every path, text or not.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// Path and text of every text file whose name ends with `suffix`.
    pub(crate) fn texts(&self, suffix: &str) -> impl Iterator<Item = (&str, &str)> {
        self.files
            .iter()
            .filter(move |(path, _)| path.ends_with(suffix))
            .filter_map(|(path, text)| Some((path.as_str(), text.as_deref()?)))
    }

    /// The text of a file; `None` if there is no such file or it is not text.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path)?.as_deref()
    }

    /// Whether `path` is a file, or a directory with a file in it. The root is `""`.
    pub(crate) fn exists(&self, path: &str) -> bool {
        path.is_empty()
            || self.files.contains_key(path)
            || self.files.keys().any(|file| is_under(file, path))
    }
}

/// Whether `path` is inside the directory `dir`.
pub(crate) fn is_under(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

/// The directory of a file, `""` for one at the root.
pub(crate) fn dir_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// `target` as seen from `dir`, with `.` and `..` resolved; `None` if it leaves the repository.
pub(crate) fn resolve(dir: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn listed_by_git(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        // A hook sets these for its own repository.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .output()
        .ok()?;
    if !output.status.success() {
        return None;
    }
    let paths = String::from_utf8(output.stdout).ok()?;
    let paths: Vec<String> =
        paths.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    // A source archive unpacked inside another repository that ignores it lists nothing.
    if paths.is_empty() { None } else { Some(paths) }
}

fn walked(root: &Path) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    let mut dirs = vec![String::new()];
    while let Some(dir) = dirs.pop() {
        let entries = std::fs::read_dir(root.join(&dir))
            .with_context(|| format!("cannot list the directory {dir:?}"))?;
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
            if !entry.file_type()?.is_dir() {
                paths.push(path);
            } else if !NOT_OURS.contains(&name.as_str()) {
                dirs.push(path);
            }
        }
    }
    Ok(paths)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A tree of made-up files.
    pub(crate) fn tree(files: &[(&str, &str)]) -> Tree {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), Some((*text).to_owned())));
        Tree::new(PathBuf::from("/repository"), files.collect()).unwrap()
    }

    #[test]
    fn paths_resolve_inside_the_repository_only() {
        assert_eq!(resolve("docs/adr", "../protocol.md").as_deref(), Some("docs/protocol.md"));
        assert_eq!(resolve("docs", "./adr//0001.md").as_deref(), Some("docs/adr/0001.md"));
        assert_eq!(resolve("docs", "..").as_deref(), Some(""));
        assert_eq!(resolve("docs", "../../other"), None);
    }

    #[test]
    fn the_nearest_crate_owns_a_file() {
        let manifest = |name: &str| format!("[package]\nname = \"{name}\"");
        let tree = tree(&[
            ("tests/Cargo.toml", &manifest("outer")),
            ("tests/fuzz/Cargo.toml", &manifest("inner")),
            ("tests-more/x.rs", ""),
        ]);
        let owner = |path| tree.crate_of(path).map(|krate| krate.name.as_str());
        assert_eq!(owner("tests/tidy.rs"), Some("outer"));
        assert_eq!(owner("tests/fuzz/a.rs"), Some("inner"));
        assert_eq!(owner("tests-more/x.rs"), None);
        assert!(tree.exists("tests/fuzz") && tree.exists("") && !tree.exists("tests/fu"));
    }

    #[test]
    fn git_and_the_walk_see_the_same_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let rust = |paths: Vec<String>| {
            let mut paths: Vec<String> =
                paths.into_iter().filter(|path| path.starts_with("tidy")).collect();
            paths.sort();
            paths
        };
        let walked = rust(walked(root).unwrap());
        assert!(walked.contains(&"tidy/tree.rs".to_owned()), "{walked:?}");
        if let Some(listed) = listed_by_git(root) {
            assert_eq!(rust(listed), walked);
        }
    }
}
