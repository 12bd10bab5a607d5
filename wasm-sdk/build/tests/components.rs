//! What is a plugin, and what is refused, with the reason.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use millstream_plugin_build::{ComponentError, Toolchain, ToolchainError, World, componentize};

/// A core module with one function of no arguments, imported from `module` if that is given, and
/// exported under each of `names`.
fn core(module: Option<&str>, names: &[&str]) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let section = |id: u8, count: usize, body: Vec<u8>| {
        let bytes = [vec![u8::try_from(count).unwrap()], body].concat();
        [vec![id, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    };
    let mut wasm = b"\0asm\x01\0\0\0".to_vec();
    wasm.extend(section(1, 1, vec![0x60, 0, 0]));
    if let Some(module) = module {
        wasm.extend(section(2, 1, [text(module), text("f"), vec![0, 0]].concat()));
    } else {
        wasm.extend(section(3, 1, vec![0]));
    }
    let exports = names.iter().flat_map(|name| [text(name), vec![0, 0]].concat()).collect();
    wasm.extend(section(7, names.len(), exports));
    if module.is_none() {
        wasm.extend(section(10, 1, vec![2, 0, 0x0b]));
    }
    wasm
}

#[test]
fn what_is_committed_is_what_hosts_take() {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/built");
    let mut names = Vec::new();
    for entry in fs::read_dir(built).unwrap() {
        let path = entry.unwrap().path();
        let wasm = fs::read(&path).unwrap();
        let (world, component) = componentize(&wasm).unwrap();
        assert_eq!(component, wasm, "a component stays as it is");
        assert!(wasm.len() < 100_000, "{}: {} bytes", path.display(), wasm.len());
        // Neither the machine that built it nor a user of it can be told from its bytes.
        let home = std::env::var("HOME").map(|home| home + "/").unwrap_or_default();
        let dirs = ["/home/", "/Users/", "/.cache/", ".cargo/registry", "/rustlib/", &home];
        for dir in dirs.into_iter().filter(|dir| dir.len() > 1) {
            let found = wasm.windows(dir.len()).any(|bytes| bytes == dir.as_bytes());
            assert!(!found, "{} names a directory in {dir}", path.display());
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert_eq!(world == World::Partitioner, name == "hot-key-splitter", "{name}");
        names.push(name);
    }
    names.sort();
    assert_eq!(
        names,
        [
            "conformance",
            "conformance-as",
            "conformance-c",
            "filter",
            "hostile",
            "hot-key-splitter",
            "json-redactor",
            "router",
        ]
    );
}

#[test]
fn what_is_no_plugin_is_refused_with_the_reason() {
    let refused = |wasm: &[u8]| componentize(wasm).unwrap_err();
    assert!(matches!(refused(b"not WebAssembly"), ComponentError::NotWasm(_)));
    assert!(matches!(refused(b""), ComponentError::NotWasm(_)));
    assert!(matches!(refused(&core(None, &["main"])), ComponentError::NoWorld));
    assert!(matches!(refused(&core(None, &["apply", "assign"])), ComponentError::TwoWorlds));
    let wasi = core(Some("wasi_snapshot_preview1"), &["apply"]);
    match refused(&wasi) {
        ComponentError::Import(module) => assert_eq!(module, "wasi_snapshot_preview1"),
        other => panic!("{other}"),
    }
    match refused(&core(None, &["apply"])) {
        ComponentError::Fit { world, reason } => {
            assert_eq!(world, "transform");
            assert!(!reason.is_empty());
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_missing_tool_chain_says_what_to_do() {
    let error = Toolchain::unpacked(Path::new("/nowhere")).unwrap_err();
    assert!(matches!(&error, ToolchainError::NotUnpacked { .. }), "{error}");
    let advice = ToolchainError::NoTarget.to_string();
    for part in ["rustup target add", "apt-get download", "MILLSTREAM_RUSTC_WEB"] {
        assert!(advice.contains(part), "{advice}");
    }
}
