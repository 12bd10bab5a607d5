//! The binary says which version it is. That this package has an integration test also makes
//! `cargo test` build the binary, which the tests of the workspace's promises start.

use std::process::Command;

#[test]
fn the_version_is_printed() {
    for flag in ["--version", "-V"] {
        let output = Command::new(env!("CARGO_BIN_EXE_millstream")).arg(flag).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let expected = format!("millstream {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    }
}
