//! `plugin crate DIR OUT` builds a guest crate, `plugin module FILE OUT` makes a component of a
//! core module. What `plugins/build` calls.

#![expect(clippy::print_stdout, reason = "says what it made")]

use std::error::Error;

use millstream_plugin_build::{Options, Toolchain, build, componentize};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (world, component, out) = match arguments[..] {
        ["crate", dir, out] => {
            let options = Options { dir: dir.into(), toolchain: Toolchain::find()? };
            let built = build(&options)?;
            (built.world, built.component, out)
        }
        ["module", file, out] => {
            let (world, component) = componentize(&std::fs::read(file)?)?;
            (world, component, out)
        }
        _ => return Err("plugin crate DIR OUT | plugin module FILE OUT".into()),
    };
    std::fs::write(out, &component)?;
    println!("{out}: a {}, {} bytes", world.name(), component.len());
    Ok(())
}
