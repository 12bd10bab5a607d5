//! From a core module to a component of one of our worlds, and what a component may import.

use thiserror::Error;
use wasmparser::{Encoding, Parser, Payload};
use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, WorldId, WorldItem};

/// The package, as the specification has it.
pub const WIT: &str = include_str!("../../wit/plugin.wit");

/// What a component may import: the host's two calls, and the types that its exports have.
const IMPORTS: [&str; 2] = ["millstream:plugin/host@1.0.0", "millstream:plugin/types@1.0.0"];

/// What kind of plugin a module is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    /// Exports `assign`.
    Partitioner,
    /// Exports `apply`.
    Transform,
}

impl World {
    /// As in the package.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            World::Partitioner => "partitioner",
            World::Transform => "transform",
        }
    }

    fn exports(self) -> &'static [&'static str] {
        match self {
            World::Partitioner => &["manifest", "configure", "hotlist", "assign"],
            World::Transform => &["manifest", "configure", "apply"],
        }
    }
}

/// Why a file is no plugin.
#[derive(Debug, Error)]
pub enum ComponentError {
    /// Not WebAssembly.
    #[error("this is not WebAssembly: {0}")]
    NotWasm(String),
    /// Neither world's functions are exported.
    #[error(
        "the module exports neither `apply` nor `assign`: a transform exports manifest, configure \
         and apply, a partitioner manifest, configure, hotlist and assign (in Rust, one line of \
         `millstream_sdk::transform!` or `partitioner!`)"
    )]
    NoWorld,
    /// Both worlds' functions are exported.
    #[error("the module exports both `apply` and `assign`: a plugin is one of both")]
    TwoWorlds,
    /// An export is missing or not of the type that it must have.
    #[error("the module does not fit the world `{world}`: {reason}")]
    Fit {
        /// The world.
        world: &'static str,
        /// What the encoder says.
        reason: String,
    },
    /// Something is imported that no host has.
    #[error(
        "the plugin imports `{0}`, which no host offers: there is no WASI, no clock, no randomness \
         and no I/O; only millstream:plugin/host@1.0.0 (log and counter)"
    )]
    Import(String),
    /// The component does not export what its world asks for.
    #[error("the component does not export `{0}`")]
    Export(&'static str),
    /// Our own WIT cannot be read: this build is broken.
    #[error("plugin.wit cannot be read: {0}")]
    Wit(String),
}

/// Makes a component of a core module that follows the names of `docs/plugin-abi.md`. A component
/// is returned as it is. Either is checked.
///
/// # Errors
/// The bytes are no plugin.
pub fn componentize(wasm: &[u8]) -> Result<(World, Vec<u8>), ComponentError> {
    let not_wasm =
        |error: wasmparser::BinaryReaderError| ComponentError::NotWasm(error.message().to_owned());
    if Parser::is_component(wasm) {
        return Ok((check(wasm)?, wasm.to_vec()));
    }
    let found = inspect(wasm).map_err(not_wasm)?;
    let world = world_of(|name| found.exports.contains(&name))?;
    let other = found.imports.iter().find(|module| !IMPORTS.contains(module));
    if let Some(other) = other {
        return Err(ComponentError::Import((*other).to_owned()));
    }
    let mut module = wasm.to_vec();
    if !found.has_metadata {
        let (resolve, id) = package(world)?;
        embed_component_metadata(&mut module, &resolve, id, StringEncoding::UTF8)
            .map_err(|error| ComponentError::Wit(format!("{error:#}")))?;
    }
    let component =
        encode(&module).map_err(|reason| ComponentError::Fit { world: world.name(), reason })?;
    Ok((check(&component)?, component))
}

fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    let encoder = ComponentEncoder::default().validate(true);
    let encoded = encoder.module(module).and_then(|mut encoder| encoder.encode());
    encoded.map_err(|error| format!("{error:#}"))
}

/// Checks that a component exports one of our worlds and imports nothing but what hosts offer.
///
/// # Errors
/// It does not, or does.
pub fn check(component: &[u8]) -> Result<World, ComponentError> {
    let not_wasm = |error| ComponentError::NotWasm(format!("{error:#}"));
    let (resolve, id) = match wit_component::decode(component).map_err(not_wasm)? {
        DecodedWasm::Component(resolve, id) => (resolve, id),
        DecodedWasm::WitPackage(..) => {
            return Err(ComponentError::NotWasm("a WIT package, without code".to_owned()));
        }
    };
    let found = resolve.worlds.get(id).ok_or(ComponentError::NoWorld)?;
    for (key, item) in &found.imports {
        let name = resolve.name_world_key(key);
        let is_type = matches!(item, WorldItem::Type { .. });
        if !is_type && !IMPORTS.contains(&name.as_str()) {
            return Err(ComponentError::Import(name));
        }
    }
    let exports: Vec<String> =
        found.exports.keys().map(|key| resolve.name_world_key(key)).collect();
    let exported = |name: &str| exports.iter().any(|export| export == name);
    let world = world_of(exported)?;
    match world.exports().iter().find(|name| !exported(name)) {
        Some(missing) => Err(ComponentError::Export(missing)),
        None => Ok(world),
    }
}

fn world_of(exported: impl Fn(&str) -> bool) -> Result<World, ComponentError> {
    match (exported("assign"), exported("apply")) {
        (true, false) => Ok(World::Partitioner),
        (false, true) => Ok(World::Transform),
        (false, false) => Err(ComponentError::NoWorld),
        (true, true) => Err(ComponentError::TwoWorlds),
    }
}

fn package(world: World) -> Result<(Resolve, WorldId), ComponentError> {
    let mut resolve = Resolve::default();
    let found = resolve
        .push_str("plugin.wit", WIT)
        .and_then(|package| resolve.select_world(&[package], Some(world.name())));
    match found {
        Ok(id) => Ok((resolve, id)),
        Err(error) => Err(ComponentError::Wit(format!("{error:#}"))),
    }
}

/// What a core module has that matters here.
#[derive(Debug, Default)]
struct Inspected<'a> {
    exports: Vec<&'a str>,
    /// Modules that something is imported from.
    imports: Vec<&'a str>,
    /// A generator has embedded a world already.
    has_metadata: bool,
}

fn inspect(module: &[u8]) -> Result<Inspected<'_>, wasmparser::BinaryReaderError> {
    let mut found = Inspected::default();
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::Version { encoding: Encoding::Component, .. } => {}
            Payload::ExportSection(section) => {
                for export in section {
                    found.exports.push(export?.name);
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    found.imports.push(import?.module);
                }
            }
            Payload::CustomSection(section) => {
                found.has_metadata |= section.name().starts_with("component-type");
            }
            _ => {}
        }
    }
    Ok(found)
}
