//! Rules about documents: each can be found, each link leads somewhere, decisions are numbered.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{Tree, dir_of, is_under, resolve};

/// The pages a reader starts from.
const FIRST_PAGES: &[&str] = &["README.md", "ARCHITECTURE.md"];

const DECISIONS: &str = "docs/adr";
/// Says what is tested where.
const TESTING: &str = "docs/testing.md";

/// One link to a file of the repository.
#[derive(Debug, PartialEq, Eq)]
struct Link<'t> {
    /// Counted from 1.
    line: usize,
    /// As written, without the part after `#`.
    target: &'t str,
}

/// Relative links to files that are not there.
pub(crate) fn broken_links(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in tree.texts(".md") {
        for Link { line, target } in links(text) {
            let found = resolve(dir_of(path), target).is_some_and(|file| tree.exists(&file));
            if target.starts_with('/') || !found {
                problems.push(format!(
                    "{path}:{line}: `{target}` is not in the repository: correct the link; it is \
                     relative to the page's directory"
                ));
            }
        }
    }
    problems
}

/// Pages under docs/ that no first page links to, and crates that the code map leaves out.
pub(crate) fn unreachable(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    let mut linked = BTreeSet::new();
    for page in FIRST_PAGES {
        match tree.text(page) {
            Some(text) => {
                linked.extend(links(text).iter().filter_map(|link| resolve("", link.target)));
            }
            None => problems.push(format!("{page} is missing: write it")),
        }
    }
    let pages = tree.texts(".md").map(|(path, _)| path).filter(|path| is_under(path, "docs"));
    for path in pages.filter(|path| !linked.contains(*path)) {
        problems.push(format!("{path} cannot be found: link it from ARCHITECTURE.md or README.md"));
    }
    let map = tree.text("ARCHITECTURE.md").unwrap_or("");
    for krate in tree.crates().iter().filter(|krate| !map.contains(&krate.dir)) {
        problems.push(format!("ARCHITECTURE.md does not say what `{}` is: add it", krate.dir));
    }
    problems
}

/// Tests of `tests/` that the table of docs/testing.md leaves out, so that nobody can tell what
/// they are for.
pub(crate) fn untold_tests(tree: &Tree) -> Vec<String> {
    let page = tree.text(TESTING).unwrap_or("");
    let tests = tree.paths().filter(|path| {
        let name = path.strip_prefix("tests/").unwrap_or("/");
        name.ends_with(".rs") && !name.contains('/')
    });
    tests
        .filter(|path| !page.contains(&format!("`{path}`")))
        .map(|path| format!("{TESTING} does not say what `{path}` tests: add a row"))
        .collect()
}

/// Decisions are `docs/adr/NNNN-what.md`, counted from 0001, no number missing or used twice.
pub(crate) fn decisions(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    let mut by_number: BTreeMap<usize, &str> = BTreeMap::new();
    for path in tree.paths().filter(|path| is_under(path, DECISIONS)) {
        let Some(number) = decision_number(&path[DECISIONS.len() + 1..]) else {
            problems.push(format!("{path}: name it {DECISIONS}/NNNN-what-was-decided.md"));
            continue;
        };
        if let Some(other) = by_number.insert(number, path) {
            problems.push(format!("{path} has the number of {other}: give it the next free one"));
        }
    }
    for (expected, (number, path)) in (1..).zip(&by_number) {
        if *number != expected {
            problems.push(format!("{path}: the next number is {expected:04}: renumber it"));
            break;
        }
    }
    problems
}

fn decision_number(name: &str) -> Option<usize> {
    let (number, what) = name.strip_suffix(".md")?.split_once('-')?;
    let four_digits = number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    if !four_digits || what.is_empty() || what.contains('/') {
        return None;
    }
    number.parse().ok()
}

/// Links to files, in Markdown and in the HTML that pictures need; none from code.
fn links(text: &str) -> Vec<Link<'_>> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for (index, line) in text.lines().enumerate() {
        let start = line.trim_start();
        match fence {
            Some(mark) => {
                if start.starts_with(mark) {
                    fence = None;
                }
                continue;
            }
            None => fence = ["```", "~~~"].into_iter().find(|mark| start.starts_with(mark)),
        }
        let mut targets = Vec::new();
        if start.starts_with('[')
            && let Some((_, target)) = start.split_once("]: ")
        {
            targets.push(target);
        }
        for prose in outside_code(line) {
            targets.extend(after_each(prose, "](", ')'));
            targets.extend(after_each(prose, "src=\"", '"'));
            targets.extend(after_each(prose, "href=\"", '"'));
        }
        let files = targets.into_iter().filter_map(file_part);
        found.extend(files.map(|target| Link { line: index + 1, target }));
    }
    found
}

/// The parts of a line that do not stand between backticks. An unpaired backtick is a backtick.
/// Link text in backticks leaves its brackets and target in the prose around it.
fn outside_code(line: &str) -> impl Iterator<Item = &str> {
    let paired = line.matches('`').count().is_multiple_of(2);
    line.split('`').enumerate().filter(move |(at, _)| !paired || at % 2 == 0).map(|(_, part)| part)
}

fn after_each<'t>(text: &'t str, open: &'t str, close: char) -> impl Iterator<Item = &'t str> {
    text.split(open).skip(1).filter_map(move |rest| Some(rest.split_once(close)?.0))
}

/// The path in a link's target, without title and fragment; `None` for a link that leaves the
/// repository or stays on its page.
fn file_part(target: &str) -> Option<&str> {
    let target = target.trim().trim_start_matches('<').split(['>', ' ', '#']).next()?;
    let leaves = target.contains("://") || target.starts_with("mailto:");
    (!target.is_empty() && !leaves).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::tree;

    #[test]
    fn links_are_found_outside_code_only() {
        let text = "[a](a.md) and [`b`](b/b.md#part \"title\"), `[no](no.md)`\n\
                    ```\n[no](no.md)\n```\n\
                    <img src=\"c.svg\"> [web](https://example.com) [here](#here)\n\
                    [ref]: <d.md>\n";
        let targets: Vec<(usize, &str)> =
            links(text).iter().map(|link| (link.line, link.target)).collect();
        assert_eq!(targets, [(1, "a.md"), (1, "b/b.md"), (5, "c.svg"), (6, "d.md")]);
    }

    #[test]
    fn broken_links_are_named_with_their_place() {
        let problems = broken_links(&tree(&[
            ("docs/a.md", "[up](../README.md)\n[gone](b.md) [out](../../x) [root](/docs/a.md)"),
            ("README.md", "[docs](docs) [docs](docs/) [a](./docs/a.md#top)"),
        ]));
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].starts_with("docs/a.md:2: `b.md`"), "{problems:?}");
    }

    #[test]
    fn pages_and_crates_are_on_the_map() {
        let manifest = "[package]\nname = \"low\"";
        let page = |map: &str| {
            unreachable(&tree(&[
                ("README.md", "[protocol](docs/protocol.md)"),
                ("ARCHITECTURE.md", map),
                ("docs/protocol.md", ""),
                ("docs/adr/0001-a.md", ""),
                ("core/low/Cargo.toml", manifest),
            ]))
        };
        assert_eq!(page("`core/low` [why](docs/adr/0001-a.md)"), Vec::<String>::new());
        assert_eq!(page("nothing").len(), 2);
        assert_eq!(unreachable(&tree(&[])).len(), 2);
    }

    #[test]
    fn tests_are_told_on_their_page() {
        let untold = |page: &str| {
            untold_tests(&tree(&[
                ("docs/testing.md", page),
                ("tests/a.rs", ""),
                ("tests/a/part.rs", ""),
                ("tests/Cargo.toml", ""),
                ("core/a.rs", ""),
            ]))
            .len()
        };
        assert_eq!(untold("| all | `tests/a.rs` |"), 0);
        assert_eq!(untold("| nothing | `tests/a.r` |"), 1);
    }

    #[test]
    fn decisions_count_up_from_one() {
        let names = |names: &[&str]| {
            let files: Vec<String> = names.iter().map(|name| format!("docs/adr/{name}")).collect();
            let files: Vec<(&str, &str)> = files.iter().map(|path| (path.as_str(), "")).collect();
            decisions(&tree(&files)).len()
        };
        assert_eq!(names(&["0001-a.md", "0002-b.md"]), 0);
        assert_eq!(names(&["0001-a.md", "0003-b.md"]), 1);
        assert_eq!(names(&["0002-a.md"]), 1);
        assert_eq!(names(&["0001-a.md", "0001-b.md"]), 1);
        assert_eq!(names(&["0001-a.md", "2-b.md"]), 1);
        assert_eq!(names(&["0001-a.md", "notes.txt"]), 1);
    }
}
