//! Rules about manifests: which crate uses which, and what every crate inherits.

use std::collections::BTreeSet;

use toml::{Table, Value};

use crate::table::{Edges, FUZZ, Home, LEAVES};
use crate::tree::{Crate, Tree, dir_of, resolve};

const ADVICE: &str = "the table is in tests/tidy/table.rs; change ARCHITECTURE.md with it";

/// A description that says nothing, in two halves as this file may not hold the word either.
const PLACEHOLDER: &str = concat!("tb", "d");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Build,
    Dev,
}

/// One line of a manifest's dependencies.
#[derive(Debug)]
struct Dependency {
    /// Name of the package, whatever name it has been given.
    package: String,
    kind: Kind,
    /// Whether version and source are the workspace's.
    inherited: bool,
}

/// Every row stands below the rows it uses: no circle is possible.
pub(crate) fn table_order(table: &[Edges]) -> Vec<String> {
    let mut above = BTreeSet::new();
    let mut problems = Vec::new();
    for row in table {
        for used in row.uses.iter().filter(|used| !above.contains(*used)) {
            problems.push(format!(
                "table: {} uses {used}, which has no row above its own: {ADVICE}",
                row.package
            ));
        }
        above.insert(row.package);
    }
    problems
}

/// The crates of ours depend on one another exactly as the table says. Tests of a crate may use
/// whatever is below it.
pub(crate) fn edges(tree: &Tree, table: &[Edges]) -> Vec<String> {
    let mut problems = Vec::new();
    let names: BTreeSet<&str> = tree.crates().iter().map(|krate| krate.name.as_str()).collect();
    for row in table.iter().filter(|row| !names.contains(row.package)) {
        problems.push(format!("table: there is no crate {}: remove its row", row.package));
    }
    for krate in tree.crates() {
        let ours: Vec<Dependency> = dependencies(tree, krate)
            .into_iter()
            .filter(|dependency| names.contains(dependency.package.as_str()))
            .collect();
        if LEAVES.contains(&krate.name.as_str()) {
            continue;
        }
        for leaf in ours.iter().filter(|used| LEAVES.contains(&used.package.as_str())) {
            problems.push(format!(
                "{}: {} is for tests and measurements, nothing else depends on it",
                manifest_path(krate),
                leaf.package
            ));
        }
        match table.iter().find(|row| row.package == krate.name) {
            Some(row) => problems.extend(edges_of(krate, row, &ours, table)),
            None => problems.push(format!("{} has no row: {ADVICE}", manifest_path(krate))),
        }
    }
    problems
}

fn edges_of(krate: &Crate, row: &Edges, ours: &[Dependency], table: &[Edges]) -> Vec<String> {
    let path = manifest_path(krate);
    let below = all_below(row.package, table);
    let mut problems = Vec::new();
    for used in ours {
        let allowed = match used.kind {
            Kind::Normal | Kind::Build => row.uses.contains(&used.package.as_str()),
            Kind::Dev => below.contains(used.package.as_str()),
        };
        if !allowed {
            problems.push(format!(
                "{path}: {} may not depend on {}; if it must, {ADVICE}",
                krate.name, used.package
            ));
        }
    }
    for unused in row.uses {
        if !ours.iter().any(|used| used.kind != Kind::Dev && used.package == **unused) {
            problems.push(format!(
                "{path}: {} no longer depends on {unused}; remove it from its row: {ADVICE}",
                krate.name
            ));
        }
    }
    problems
}

/// What `package` uses, directly or not.
fn all_below<'t>(package: &str, table: &'t [Edges]) -> BTreeSet<&'t str> {
    let mut below = BTreeSet::new();
    let mut open = vec![package];
    while let Some(package) = open.pop() {
        let rows = table.iter().filter(|row| row.package == package);
        for used in rows.flat_map(|row| row.uses) {
            if below.insert(*used) {
                open.push(used);
            }
        }
    }
    below
}

/// A heavy dependency is named only by its homes.
pub(crate) fn homes(tree: &Tree, table: &[Home]) -> Vec<String> {
    let mut problems = Vec::new();
    for krate in tree.crates() {
        let name = krate.name.as_str();
        for used in dependencies(tree, krate) {
            let Some(home) = table.iter().find(|home| home.dependency == used.package) else {
                continue;
            };
            let in_tests = used.kind == Kind::Dev && home.tests.contains(&name);
            if !in_tests && !home.homes.contains(&name) {
                problems.push(format!(
                    "{}: {} is not at home in {name} (homes: {:?}, in tests: {:?}); go through \
                     its home, or {ADVICE}",
                    manifest_path(krate),
                    used.package,
                    home.homes,
                    home.tests
                ));
            }
        }
    }
    problems
}

/// Every crate says what it is and shares the workspace's versions, lints and publishing.
pub(crate) fn manifests(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for krate in tree.crates() {
        let path = manifest_path(krate);
        let key = |keys: &[&str]| lookup(&krate.manifest, keys);
        let description = key(&["package", "description"]).and_then(Value::as_str).unwrap_or("");
        if description.trim().is_empty() || description.eq_ignore_ascii_case(PLACEHOLDER) {
            problems.push(format!("{path}: say in `description` what {} is for", krate.name));
        }
        if krate.name == FUZZ {
            // Outside the workspace there is nothing to inherit.
            if key(&["package", "publish"]) != Some(&Value::Boolean(false)) {
                problems.push(format!("{path}: set `publish = false`"));
            }
            continue;
        }
        if !is_true(key(&["lints", "workspace"])) {
            problems.push(format!("{path}: add `[lints]` with `workspace = true`"));
        }
        for inherited in ["publish", "version", "edition", "rust-version", "license"] {
            if !is_true(key(&["package", inherited, "workspace"])) {
                problems.push(format!("{path}: write `{inherited}.workspace = true`"));
            }
        }
        for used in dependencies(tree, krate).iter().filter(|used| !used.inherited) {
            problems.push(format!(
                "{path}: give {} a version in [workspace.dependencies] of the root Cargo.toml and \
                 write `{}.workspace = true` here",
                used.package, used.package
            ));
        }
    }
    problems
}

/// The files in `fuzz_targets` and the `[[bin]]` entries of the fuzz crate are the same.
pub(crate) fn fuzz_targets(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    let Some(fuzz) = tree.crates().iter().find(|krate| krate.name == FUZZ) else {
        return vec![format!("there is no crate {FUZZ}: decoders are fuzzed from tests/fuzz")];
    };
    let listed: BTreeSet<String> = target_paths(fuzz, "bin").into_iter().collect();
    let dir = format!("{}/fuzz_targets", fuzz.dir);
    let present: BTreeSet<String> = tree
        .texts(".rs")
        .filter(|(path, _)| dir_of(path) == dir)
        .map(|(path, _)| path.to_owned())
        .collect();
    for path in present.difference(&listed) {
        problems
            .push(format!("{path} never runs: list it in {} as a [[bin]]", manifest_path(fuzz)));
    }
    for path in listed.difference(&present) {
        problems.push(format!("{}: there is no {path}: remove its [[bin]]", manifest_path(fuzz)));
    }
    if listed.is_empty() {
        problems.push(format!("{}: no fuzz target is listed", manifest_path(fuzz)));
    }
    problems
}

/// The files that a manifest names as targets of a kind: `bin`, `test`, `bench`, `example`.
pub(crate) fn target_paths(krate: &Crate, kind: &str) -> Vec<String> {
    let targets = krate.manifest.get(kind).and_then(Value::as_array).into_iter().flatten();
    let paths = targets.filter_map(|target| target.get("path")?.as_str());
    paths.filter_map(|path| resolve(&krate.dir, path)).collect()
}

/// The value at a path of keys.
pub(crate) fn lookup<'t>(table: &'t Table, keys: &[&str]) -> Option<&'t Value> {
    let (first, rest) = keys.split_first()?;
    let value = table.get(*first)?;
    rest.iter().try_fold(value, |value, key| value.get(*key))
}

fn is_true(value: Option<&Value>) -> bool {
    value == Some(&Value::Boolean(true))
}

fn manifest_path(krate: &Crate) -> String {
    format!("{}/Cargo.toml", krate.dir)
}

fn dependencies(tree: &Tree, krate: &Crate) -> Vec<Dependency> {
    let root: Table =
        tree.text("Cargo.toml").and_then(|text| text.parse().ok()).unwrap_or_default();
    let targets = krate.manifest.get("target").and_then(Value::as_table);
    let per_target = targets.into_iter().flatten().filter_map(|(_, table)| table.as_table());
    let mut found = Vec::new();
    for table in std::iter::once(&krate.manifest).chain(per_target) {
        for (key, kind) in [
            ("dependencies", Kind::Normal),
            ("build-dependencies", Kind::Build),
            ("dev-dependencies", Kind::Dev),
        ] {
            for (name, value) in table.get(key).and_then(Value::as_table).into_iter().flatten() {
                let inherited = is_true(value.get("workspace"));
                let shared = lookup(&root, &["workspace", "dependencies", name]);
                let origin = if inherited { shared } else { Some(value) };
                let renamed = origin.and_then(|origin| origin.get("package")?.as_str());
                let package = renamed.unwrap_or(name).to_owned();
                found.push(Dependency { package, kind, inherited });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::tree;

    const TABLE: &[Edges] = &[
        Edges { package: "low", uses: &[] },
        Edges { package: "middle", uses: &["low"] },
        Edges { package: "high", uses: &["middle"] },
    ];

    fn package(name: &str, rest: &str) -> String {
        format!("[package]\nname = \"{name}\"\n{rest}")
    }

    fn edges_with(middle: &str, high: &str) -> Vec<String> {
        let tree = tree(&[
            (
                "Cargo.toml",
                "[workspace.dependencies]\nl = { path = \"core/low\", package = \"low\" }",
            ),
            ("core/low/Cargo.toml", &package("low", "")),
            ("core/middle/Cargo.toml", &package("middle", middle)),
            ("core/high/Cargo.toml", &package("high", high)),
        ]);
        edges(&tree, TABLE)
    }

    #[test]
    fn edges_match_the_table_both_ways() {
        let middle = "[dependencies]\nlow.workspace = true";
        let high = "[dependencies]\nmiddle.workspace = true";
        assert_eq!(edges_with(middle, high), Vec::<String>::new());
        let gone = edges_with("", high);
        assert!(gone[0].contains("middle no longer depends on low"), "{gone:?}");
        let upward = edges_with(&format!("{middle}\nhigh.workspace = true"), high);
        assert!(upward[0].contains("middle may not depend on high"), "{upward:?}");
        let skip = format!("{high}\n[target.'cfg(unix)'.build-dependencies]\nl.workspace = true");
        let skipped = edges_with(middle, &skip);
        assert!(skipped[0].contains("high may not depend on low"), "{skipped:?}");
    }

    #[test]
    fn tests_may_use_what_is_below() {
        let middle = "[dependencies]\nlow.workspace = true";
        let high = "[dependencies]\nmiddle.workspace = true\n[dev-dependencies]\n";
        assert_eq!(edges_with(middle, &format!("{high}l.workspace = true")), Vec::<String>::new());
        let upward = format!("{middle}\n[dev-dependencies]\nhigh.workspace = true");
        assert_eq!(edges_with(&upward, high).len(), 1);
    }

    #[test]
    fn table_rows_are_crates_in_order() {
        assert_eq!(table_order(TABLE), Vec::<String>::new());
        let circle = [Edges { package: "a", uses: &["b"] }, Edges { package: "b", uses: &["a"] }];
        assert_eq!(table_order(&circle).len(), 1);
        let tree = tree(&[("core/new/Cargo.toml", &package("new", ""))]);
        let problems = edges(&tree, &TABLE[..1]);
        assert!(problems[0].contains("no crate low"), "{problems:?}");
        assert!(problems[1].contains("core/new/Cargo.toml has no row"), "{problems:?}");
    }

    #[test]
    fn heavy_dependencies_stay_at_home() {
        let table = [Home { dependency: "heavy", homes: &["low"], tests: &["middle"] }];
        let using = |name: &str, section: &str| {
            let manifest = package(name, &format!("[{section}]\nheavy = \"1\""));
            homes(&tree(&[("core/x/Cargo.toml", &manifest)]), &table).len()
        };
        assert_eq!(using("low", "dependencies"), 0);
        assert_eq!(using("middle", "dev-dependencies"), 0);
        assert_eq!(using("middle", "dependencies"), 1);
        assert_eq!(using("high", "dev-dependencies"), 1);
    }

    #[test]
    fn manifests_inherit_and_describe() {
        let good = "description = \"the log\"\nversion.workspace = true\nedition.workspace = true
            rust-version.workspace = true\nlicense.workspace = true\npublish.workspace = true
            [lints]\nworkspace = true\n[dependencies]\nbytes.workspace = true";
        let count =
            |text: &str| manifests(&tree(&[("core/low/Cargo.toml", &package("low", text))])).len();
        assert_eq!(count(good), 0);
        assert_eq!(count(&good.replace("the log", PLACEHOLDER)), 1);
        assert_eq!(count(&good.replace("publish.workspace = true", "publish = true")), 1);
        assert_eq!(count(&good.replace("bytes.workspace = true", "bytes = \"1\"")), 1);
        assert_eq!(count(&good.replace("[lints]\nworkspace = true", "")), 1);
        let fuzz = package(FUZZ, "description = \"fuzzing\"\npublish = false");
        assert_eq!(manifests(&tree(&[("tests/fuzz/Cargo.toml", &fuzz)])), Vec::<String>::new());
    }

    #[test]
    fn fuzz_targets_and_entries_agree() {
        let bin =
            |name: &str| format!("[[bin]]\nname = \"a\"\npath = \"fuzz_targets/{name}.rs\"\n");
        let found = |bins: &str, file: &str| {
            let manifest = package(FUZZ, bins);
            let file = format!("tests/fuzz/fuzz_targets/{file}.rs");
            fuzz_targets(&tree(&[("tests/fuzz/Cargo.toml", &manifest), (&file, "")])).len()
        };
        assert_eq!(found(&bin("batch"), "batch"), 0);
        assert_eq!(found(&bin("batch"), "frame"), 2);
        assert_eq!(found("", "batch"), 2);
        assert_eq!(fuzz_targets(&tree(&[])).len(), 1);
    }
}
