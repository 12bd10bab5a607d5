//! No file is dead: every Rust source is a target of its crate, or a `mod` line leads to it.
//!
//! A `mod` line inside an inline module is not followed to that module's directory; the tree has
//! none of these.

use std::collections::BTreeSet;

use toml::Value;

use crate::crates::{lookup, target_paths};
use crate::tree::{Crate, Tree, dir_of, is_under, resolve};

/// Rust files that no compiler ever reads.
pub(crate) fn dead_files(tree: &Tree) -> Vec<String> {
    let mut alive: BTreeSet<String> = BTreeSet::new();
    let roots: Vec<String> = tree.crates().iter().flat_map(|krate| targets(tree, krate)).collect();
    let mut open: Vec<(String, bool)> = roots.into_iter().map(|path| (path, true)).collect();
    while let Some((path, is_root)) = open.pop() {
        if let Some(text) = tree.text(&path)
            && alive.insert(path.clone())
        {
            open.extend(modules(&path, is_root, text).into_iter().map(|path| (path, false)));
        }
    }
    let dead = tree.texts(".rs").filter(|(path, _)| !alive.contains(*path));
    dead.map(|(path, _)| {
        format!("{path} is never compiled: add a `mod` line or a target for it, or remove it")
    })
    .collect()
}

/// The files that cargo compiles first: those that the manifest names and those it finds by place.
fn targets(tree: &Tree, krate: &Crate) -> Vec<String> {
    let mut roots: Vec<String> = ["bin", "test", "bench", "example"]
        .iter()
        .flat_map(|kind| target_paths(krate, kind))
        .collect();
    let lib = lookup(&krate.manifest, &["lib", "path"]).and_then(Value::as_str);
    roots.extend(lib.and_then(|path| resolve(&krate.dir, path)));
    for file in ["src/lib.rs", "src/main.rs", "build.rs"] {
        roots.push(format!("{}/{file}", krate.dir));
    }
    for place in ["src/bin", "tests", "benches", "examples"] {
        let place = format!("{}/{place}", krate.dir);
        for (path, _) in tree.texts(".rs").filter(|(path, _)| is_under(path, &place)) {
            let inner = &path[place.len() + 1..];
            let parts: Vec<&str> = inner.split('/').collect();
            let is_target = matches!(parts.as_slice(), [_] | [_, "main.rs"]);
            if is_target && tree.crate_of(path).is_some_and(|owner| owner.dir == krate.dir) {
                roots.push(path.to_owned());
            }
        }
    }
    roots
}

/// Where the modules that a file declares may lie; not all of these need exist.
fn modules(path: &str, is_root: bool, text: &str) -> Vec<String> {
    let dir = dir_of(path);
    let own_dir = match path.strip_suffix(".rs") {
        Some(stem) if !is_root && !stem.ends_with("/mod") => stem,
        _ => dir,
    };
    let mut found = Vec::new();
    let mut given_path = None;
    for line in text.lines() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix("#[path = \"") {
            given_path = rest.split('"').next();
        }
        let Some(name) = module_name(line) else {
            // Attributes and docs may stand between the path and its module.
            if !line.starts_with('#') && !line.starts_with("//") {
                given_path = None;
            }
            continue;
        };
        match given_path.take() {
            Some(given) => found.extend(resolve(dir, given)),
            None => {
                found.push(format!("{own_dir}/{name}.rs"));
                found.push(format!("{own_dir}/{name}/mod.rs"));
            }
        }
    }
    found
}

/// The name in a line like `#[cfg(test)] pub(crate) mod name;`.
fn module_name(line: &str) -> Option<&str> {
    let mut rest = line;
    while rest.starts_with("#[") {
        rest = rest.split_once(']')?.1.trim_start();
    }
    if let Some(public) = rest.strip_prefix("pub") {
        rest = public.trim_start();
        if rest.starts_with('(') {
            rest = rest.split_once(')')?.1.trim_start();
        }
    }
    let (name, _) = rest.strip_prefix("mod ")?.split_once(';')?;
    let is_name = name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_');
    is_name.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::tree;

    #[test]
    fn module_lines_are_known_in_every_dress() {
        assert_eq!(module_name("mod a;"), Some("a"));
        assert_eq!(module_name("pub(crate) mod a_1; // why"), Some("a_1"));
        assert_eq!(module_name("#[cfg(test)] pub mod a;"), Some("a"));
        assert_eq!(module_name("mod tests {"), None);
        assert_eq!(module_name("// mod a;"), None);
        assert_eq!(module_name("mode a;"), None);
    }

    #[test]
    fn only_the_unreachable_is_dead() {
        let manifest = "[package]\nname = \"x\"\n[[test]]\nname = \"t\"\npath = \"t.rs\"";
        let problems = dead_files(&tree(&[
            ("core/x/Cargo.toml", manifest),
            ("core/x/t.rs", "#[path = \"t/deep.rs\"]\n#[cfg(unix)]\nmod odd;"),
            ("core/x/t/deep.rs", ""),
            ("core/x/src/lib.rs", "pub mod a;\nmod b;"),
            ("core/x/src/a.rs", "mod inner;"),
            ("core/x/src/a/inner.rs", ""),
            ("core/x/src/b/mod.rs", "mod c;"),
            ("core/x/src/b/c.rs", ""),
            ("core/x/src/inner.rs", ""),
            ("core/x/src/bin/tool/main.rs", "mod part;"),
            ("core/x/src/bin/tool/part.rs", ""),
            ("core/x/tests/one.rs", "mod common;"),
            ("core/x/tests/common/mod.rs", ""),
            ("core/x/tests/lost/helper.rs", ""),
            ("stray.rs", ""),
        ]));
        let files: Vec<&str> = problems.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(files, ["core/x/src/inner.rs", "core/x/tests/lost/helper.rs", "stray.rs"]);
    }
}
