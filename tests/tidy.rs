//! The tree keeps its own rules: who may depend on whom, where heavy dependencies live, how long
//! a file grows, that no file is dead and no link broken.
//!
//! A reviewer forgets, prose goes stale; this test does neither. Each rule is a function from the
//! tree to a list of problems, each of which says what to do about it. The tables that a change
//! of structure edits are in `tidy/table.rs`.

#[path = "tidy/crates.rs"]
mod crates;
#[path = "tidy/docs.rs"]
mod docs;
#[path = "tidy/modules.rs"]
mod modules;
#[path = "tidy/protocol.rs"]
mod protocol;
#[path = "tidy/sources.rs"]
mod sources;
#[path = "tidy/table.rs"]
mod table;
#[path = "tidy/tree.rs"]
mod tree;

use std::path::Path;

use anyhow::Result;
use tree::Tree;

/// The repository this test was built from.
fn repository() -> Result<Tree> {
    Tree::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
}

/// Fails with every problem at once, so that one run shows all there is to do.
#[track_caller]
fn require_none(problems: &[String]) {
    assert!(problems.is_empty(), "{} to put right:\n  {}", problems.len(), problems.join("\n  "));
}

/// The other tests say nothing about files they never saw.
#[test]
fn the_tree_is_seen_whole() -> Result<()> {
    let tree = repository()?;
    for path in ["Cargo.toml", "core/types/src/lib.rs", "tests/tidy.rs", ".ci/run"] {
        assert!(tree.text(path).is_some(), "{path} was not found from {}", tree.root().display());
    }
    assert!(tree.crates().len() >= table::EDGES.len(), "crates are missing from the tree");
    Ok(())
}

#[test]
fn crates_depend_in_one_direction() -> Result<()> {
    let tree = repository()?;
    require_none(&crates::table_order(table::EDGES));
    require_none(&crates::edges(&tree, table::EDGES));
    Ok(())
}

#[test]
fn heavy_dependencies_have_one_home() -> Result<()> {
    require_none(&crates::homes(&repository()?, table::HOMES));
    Ok(())
}

#[test]
fn manifests_share_versions_and_lints() -> Result<()> {
    require_none(&crates::manifests(&repository()?));
    Ok(())
}

#[test]
fn fuzz_targets_are_all_listed() -> Result<()> {
    require_none(&crates::fuzz_targets(&repository()?));
    Ok(())
}

#[test]
fn files_and_lines_are_short() -> Result<()> {
    let tree = repository()?;
    for note in sources::files_over_aim(&tree) {
        println!("{note}");
    }
    require_none(&sources::lengths(&tree));
    Ok(())
}

#[test]
fn nothing_is_left_for_later() -> Result<()> {
    require_none(&sources::words(&repository()?));
    Ok(())
}

#[test]
fn no_file_is_dead() -> Result<()> {
    require_none(&modules::dead_files(&repository()?));
    Ok(())
}

#[test]
fn links_lead_somewhere() -> Result<()> {
    require_none(&docs::broken_links(&repository()?));
    Ok(())
}

#[test]
fn documents_can_be_found_from_the_first_page() -> Result<()> {
    require_none(&docs::unreachable(&repository()?));
    Ok(())
}

#[test]
fn every_test_of_a_promise_is_on_the_page_of_tests() -> Result<()> {
    require_none(&docs::untold_tests(&repository()?));
    Ok(())
}

#[test]
fn decisions_are_numbered_without_gaps() -> Result<()> {
    require_none(&docs::decisions(&repository()?));
    Ok(())
}

#[test]
fn the_protocols_page_says_what_the_code_holds_to() -> Result<()> {
    let tree = repository()?;
    require_none(&protocol::limits(&tree));
    require_none(&protocol::frames(&tree));
    require_none(&protocol::error_codes(&tree));
    Ok(())
}
