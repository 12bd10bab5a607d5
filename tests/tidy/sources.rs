//! Rules about the text of sources: length, and nothing left for later.

use crate::tree::Tree;

/// Lines of a Rust file without its tests: at most this many, ...
const FILE_LINES_MAX: usize = 800;
/// ... and about this many where it can be chosen.
const FILE_LINES_AIM: usize = 300;
/// Columns of a line of Rust, as in rustfmt.toml, which leaves comments and strings alone.
const LINE_COLUMNS_MAX: usize = 100;

/// Quoted or generated text, which is not ours to change.
const NOT_WRITTEN_HERE: &[&str] = &["LICENSE", "Cargo.lock", "tests/fuzz/Cargo.lock"];

/// Marks of unfinished work, in two halves so that this file holds none of them.
const FOR_LATER: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("TB", "D"),
    concat!("tb", "d"),
    concat!("unimplemented", "!"),
    concat!("todo", "!"),
];

/// Files and lines over their limits. Functions are clippy's (`too_many_lines`).
pub(crate) fn lengths(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in tree.texts(".rs") {
        let lines = lines_without_tests(text);
        if lines >= FILE_LINES_MAX {
            problems.push(format!(
                "{path}: {lines} lines without tests, under {FILE_LINES_MAX} are allowed: split \
                 it by subject, aiming at {FILE_LINES_AIM}"
            ));
        }
        for (index, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            // A link cannot be broken; alone on its line it may stick out.
            let link = line.contains("https://") && line.split_whitespace().count() <= 2;
            if columns > LINE_COLUMNS_MAX && !link {
                problems.push(format!(
                    "{path}:{}: {columns} columns, {LINE_COLUMNS_MAX} are allowed: break the line",
                    index + 1
                ));
            }
        }
    }
    problems
}

/// A note for each file that would read better split, though it need not be.
pub(crate) fn files_over_aim(tree: &Tree) -> Vec<String> {
    let files = tree.texts(".rs").map(|(path, text)| (path, lines_without_tests(text)));
    files
        .filter(|(_, lines)| *lines > FILE_LINES_AIM)
        .map(|(path, lines)| format!("{path}: {lines} lines, the aim is {FILE_LINES_AIM}"))
        .collect()
}

/// Work that was put off in a comment is forgotten there.
pub(crate) fn words(tree: &Tree) -> Vec<String> {
    let mut problems = Vec::new();
    for (path, text) in tree.texts("") {
        if NOT_WRITTEN_HERE.contains(&path) {
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            for word in FOR_LATER.iter().filter(|word| has_word(line, word)) {
                problems.push(format!(
                    "{path}:{}: `{word}`: do it now, or say what holds today and open an issue",
                    index + 1
                ));
            }
        }
    }
    problems
}

/// Lines before a `#[cfg(test)] mod tests { ... }` that ends the file; all of them if none does.
fn lines_without_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.iter().rposition(|line| *line == "#[cfg(test)]");
    let Some(start) = start else { return lines.len() };
    let after = &lines[start + 1..];
    let opens = after.iter().find(|line| !line.starts_with('#'));
    let is_tests = opens.is_some_and(|line| {
        line.starts_with("mod tests {") || line.starts_with("pub(crate) mod tests {")
    });
    let closes = after.iter().position(|line| *line == "}").map(|at| at + 1);
    if is_tests && closes == Some(after.len()) { start } else { lines.len() }
}

fn has_word(line: &str, word: &str) -> bool {
    let inside = |char: char| char.is_alphanumeric() || char == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        // What follows a `!` cannot make it another word.
        let ends = word.ends_with('!') || !after.is_some_and(inside);
        !before.is_some_and(inside) && ends
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::tree;

    #[test]
    fn only_tests_that_end_a_file_are_free() {
        let tests = "#[cfg(test)]\nmod tests {\n    fn a() {\n    }\n}\n";
        assert_eq!(lines_without_tests("a\nb\n"), 2);
        assert_eq!(lines_without_tests(&format!("a\nb\n{tests}")), 2);
        assert_eq!(lines_without_tests(&format!("a\n{tests}b\n")), 7);
        assert_eq!(lines_without_tests("a\n#[cfg(test)]\nmod other {\n}\n"), 4);
        assert_eq!(lines_without_tests("a\n#[cfg(test)]\nmod tests;\n"), 3);
    }

    #[test]
    fn long_files_and_lines_are_found() {
        let long = "//\n".repeat(FILE_LINES_MAX);
        let wide = format!("// {}", "é".repeat(LINE_COLUMNS_MAX));
        let just = format!("// {}", "é".repeat(LINE_COLUMNS_MAX - 3));
        let link = format!("// https://example.com/{}", "e".repeat(LINE_COLUMNS_MAX));
        let problems = lengths(&tree(&[
            ("long.rs", &long),
            ("fits.rs", &long[3..]),
            ("wide.rs", &format!("{just}\n{wide}\n{link}\n")),
        ]));
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("long.rs: 800 lines"), "{problems:?}");
        assert!(problems[1].starts_with("wide.rs:2: 103 columns"), "{problems:?}");
        assert_eq!(files_over_aim(&tree(&[("long.rs", &long), ("short.rs", "//")])).len(), 1);
    }

    #[test]
    fn words_count_whole_only() {
        for word in FOR_LATER {
            let text = format!("// {word} later\nmktemp a.{word}{word}y\n");
            let expected = if word.ends_with('!') { 2 } else { 1 };
            let problems = words(&tree(&[("a.sh", &text), ("LICENSE", &text)]));
            assert_eq!(problems.len(), expected, "{word}: {problems:?}");
        }
    }
}
