//! Running cargo for a guest crate.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

use crate::TARGET;
use crate::component::{ComponentError, World, componentize};
use crate::toolchain::Toolchain;

/// What to build, and with what.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory of the guest crate.
    pub dir: PathBuf,
    /// What compiles it.
    pub toolchain: Toolchain,
}

/// A plugin that was built.
#[derive(Debug, Clone)]
pub struct Built {
    /// The name of its package.
    pub name: String,
    /// What kind of plugin it is.
    pub world: World,
    /// The component, checked.
    pub component: Vec<u8>,
}

/// Why a crate is not built.
#[derive(Debug, Error)]
pub enum BuildError {
    /// cargo cannot be run.
    #[error("cargo cannot be run: {0}")]
    Cargo(std::io::Error),
    /// cargo failed, and has said why.
    #[error("cargo could not build {}: see above", .0.display())]
    Failed(PathBuf),
    /// The directory has no package.
    #[error("there is no package in {}: {reason}", .dir.display())]
    NoPackage {
        /// The directory.
        dir: PathBuf,
        /// What cargo says.
        reason: String,
    },
    /// cargo built no module.
    #[error(
        "cargo built no {}: the plugin's Cargo.toml needs\n  [lib]\n  crate-type = [\"cdylib\"]",
        .0.display()
    )]
    NoModule(PathBuf),
    /// The module is no plugin.
    #[error(transparent)]
    Component(#[from] ComponentError),
}

/// Builds the crate in `options.dir` and makes the component. cargo's own output goes to standard
/// error.
///
/// # Errors
/// It does not build, or is no plugin.
pub fn build(options: &Options) -> Result<Built, BuildError> {
    let package = package(&options.dir)?;
    // cargo's standard output is not ours: what calls this may print JSON there.
    let status = options
        .toolchain
        .cargo(&package.workspace)
        .current_dir(&options.dir)
        .arg("--target-dir")
        .arg(&package.target_dir)
        .stdout(Stdio::null())
        .status()
        .map_err(BuildError::Cargo)?;
    if !status.success() {
        return Err(BuildError::Failed(options.dir.clone()));
    }
    let module = format!("{}.wasm", package.name.replace('-', "_"));
    let module = package.target_dir.join(TARGET).join("release").join(module);
    let wasm = std::fs::read(&module).map_err(|_| BuildError::NoModule(module.clone()))?;
    let (world, component) = componentize(&wasm)?;
    Ok(Built { name: package.name, world, component })
}

#[derive(Debug, PartialEq, Eq)]
struct Package {
    name: String,
    workspace: PathBuf,
    target_dir: PathBuf,
}

/// Asks cargo which package is in `dir`, and where it builds.
fn package(dir: &Path) -> Result<Package, BuildError> {
    let no_package = |reason: String| BuildError::NoPackage { dir: dir.to_owned(), reason };
    let run = |arguments: &[&str]| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo).args(arguments).current_dir(dir).output();
        output.map_err(BuildError::Cargo)
    };
    let id = run(&["pkgid"])?;
    if !id.status.success() {
        return Err(no_package(String::from_utf8_lossy(&id.stderr).trim().to_owned()));
    }
    let id = String::from_utf8_lossy(&id.stdout);
    let name = name_of(id.trim()).ok_or_else(|| no_package(id.trim().to_owned()))?;
    let metadata = run(&["metadata", "--no-deps", "--format-version=1"])?;
    let metadata = String::from_utf8_lossy(&metadata.stdout);
    let dir_of = |field: &str| {
        let missing = || no_package(format!("cargo metadata has no {field}"));
        path_of(&metadata, field).ok_or_else(missing)
    };
    Ok(Package {
        name: name.to_owned(),
        workspace: dir_of("workspace_root")?,
        target_dir: dir_of("target_directory")?,
    })
}

/// The name in a package id: behind `#` and before a version, or, where that says the version
/// alone, the last part of the path.
fn name_of(id: &str) -> Option<&str> {
    let (path, fragment) = id.rsplit_once('#')?;
    match fragment.rsplit_once('@') {
        Some((name, _)) => Some(name),
        None => path.rsplit('/').next(),
    }
}

/// A path in cargo's JSON, which is a string without surprises but for backslashes.
fn path_of(metadata: &str, field: &str) -> Option<PathBuf> {
    let (_, rest) = metadata.split_once(&format!("\"{field}\":\""))?;
    let (dir, _) = rest.split_once('"')?;
    Some(PathBuf::from(dir.replace("\\\\", "\\")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_id_names_the_package() {
        for (id, name) in [
            ("path+file:///home/a/my-plugin#0.1.0", "my-plugin"),
            ("path+file:///home/a/dir#my-plugin@0.1.0", "my-plugin"),
        ] {
            assert_eq!(name_of(id), Some(name), "{id}");
        }
        assert_eq!(name_of("my-plugin"), None);
    }

    #[test]
    fn metadata_names_directories() {
        let metadata = r#"{"packages":[],"target_directory":"/home/a/target","version":1}"#;
        let found = path_of(metadata, "target_directory");
        assert_eq!(found, Some(PathBuf::from("/home/a/target")));
        assert_eq!(path_of("{}", "workspace_root"), None);
    }
}
