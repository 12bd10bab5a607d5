//! Where a compiler for WebAssembly is.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use crate::TARGET;

/// Names the directory that Debian's packages are unpacked in.
pub const UNPACKED_VARIABLE: &str = "MILLSTREAM_RUSTC_WEB";

/// The packages, whose versions go together.
const PACKAGES: &str = "rustc-web libstd-rust-web-dev 'libstd-rust-web-1.*' rust-web-src \
                        'libllvm22' libz3-4";

/// How guests in Rust are compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Toolchain {
    /// The compiler that is installed has the target.
    Installed,
    /// Debian's compiler for the web, unpacked somewhere, makes the standard library first.
    Unpacked {
        /// The directory that its packages are unpacked in.
        root: PathBuf,
        /// `rust-lld` of the compiler that is installed.
        linker: PathBuf,
    },
}

/// Why guests in Rust cannot be compiled here.
#[derive(Debug, Error)]
pub enum ToolchainError {
    /// Rust is not installed, or cannot be run.
    #[error("rustc cannot be run ({0}): install Rust from https://rustup.rs")]
    NoRust(String),
    /// The target is missing.
    #[error(
        "no compiler for {TARGET} was found. Where rustup can download:\n  \
         rustup target add {TARGET}\nOn Debian, nothing is installed by:\n  \
         apt-get download {PACKAGES}\n  \
         for f in *.deb; do dpkg -x \"$f\" rustc-web; done\n  \
         export {UNPACKED_VARIABLE}=$PWD/rustc-web"
    )]
    NoTarget,
    /// The variable names something else.
    #[error("{UNPACKED_VARIABLE} is {root}, where there is no {missing}")]
    NotUnpacked {
        /// What the variable says.
        root: String,
        /// A file that must be there.
        missing: String,
    },
    /// The compiler that is installed has no linker for WebAssembly.
    #[error(
        "there is no rust-lld at {0}: the compiler that is installed must be one of rustup's, as \
         Debian's for the web brings no linker"
    )]
    NoLinker(String),
}

impl Toolchain {
    /// Finds one: the compiler that is installed if it has the target, otherwise what
    /// `MILLSTREAM_RUSTC_WEB` names.
    ///
    /// # Errors
    /// There is none; the error says what to do.
    pub fn find() -> Result<Toolchain, ToolchainError> {
        let libraries = rustc(&["--print", "target-libdir", "--target", TARGET])?;
        if holds_core(Path::new(libraries.trim())) {
            return Ok(Toolchain::Installed);
        }
        match std::env::var_os(UNPACKED_VARIABLE).filter(|root| !root.is_empty()) {
            Some(root) => Toolchain::unpacked(Path::new(&root)),
            None => Err(ToolchainError::NoTarget),
        }
    }

    /// Debian's compiler, unpacked in `root`.
    ///
    /// # Errors
    /// It is not there, or the compiler that is installed brings no linker.
    pub fn unpacked(root: &Path) -> Result<Toolchain, ToolchainError> {
        for needed in ["usr/bin/rustc", "usr/lib/rustlib/src"] {
            if !root.join(needed).exists() {
                return Err(ToolchainError::NotUnpacked {
                    root: root.display().to_string(),
                    missing: needed.to_owned(),
                });
            }
        }
        let sysroot = rustc(&["--print", "sysroot"])?;
        let version = rustc(&["-vV"])?;
        let libraries = Path::new(sysroot.trim()).join("lib/rustlib");
        let bin = libraries.join(host(&version)).join("bin");
        let linker = bin.join("rust-lld");
        if !linker.exists() {
            return Err(ToolchainError::NoLinker(linker.display().to_string()));
        }
        Ok(Toolchain::Unpacked { root: root.to_owned(), linker })
    }

    /// `cargo build` for WebAssembly with this tool-chain, of a workspace in `workspace`.
    pub(crate) fn cargo(&self, workspace: &Path) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(cargo);
        command.args(["build", "--release", "--target", TARGET]);
        // In place of flags that may be there for another target.
        command.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", self.flags(workspace));
        if let Toolchain::Unpacked { root, linker } = self {
            let libraries = root.join("usr/lib").join(multiarch());
            command
                .arg("-Zbuild-std=std,panic_abort")
                .env("RUSTC", root.join("usr/bin/rustc"))
                .env("RUSTC_BOOTSTRAP", "1")
                .env("LD_LIBRARY_PATH", libraries)
                .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        command
    }
}

impl Toolchain {
    /// Panics name files. Without the directories of this machine, a plugin's bytes, and so its
    /// digest, are the same wherever the same compiler builds it, and tell nobody where that was.
    fn flags(&self, workspace: &Path) -> OsString {
        // Dependencies by path lie beside the workspace.
        let beside = workspace.parent().unwrap_or(workspace);
        let home = std::env::home_dir();
        let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let cargo_home = cargo_home.or_else(|| Some(home?.join(".cargo")));
        let mut mapped = vec![(beside.to_owned(), ".")];
        mapped.extend(cargo_home.map(|dir| (dir, "cargo")));
        if let Toolchain::Unpacked { root, .. } = self {
            mapped.push((root.join("usr/lib/rustlib/src/rust"), "rust"));
        }
        let mut flags = OsString::new();
        for (index, (from, to)) in mapped.into_iter().enumerate() {
            if index > 0 {
                flags.push("\x1f");
            }
            flags.push("--remap-path-prefix=");
            flags.push(from);
            flags.push("=");
            flags.push(to);
        }
        flags
    }
}

fn multiarch() -> String {
    format!("{}-linux-gnu", std::env::consts::ARCH)
}

fn rustc(arguments: &[&str]) -> Result<String, ToolchainError> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let failed = |reason: String| ToolchainError::NoRust(reason);
    let output = Command::new(rustc).args(arguments).output();
    let output = output.map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The line `host: ...` of `rustc -vV`.
fn host(version: &str) -> &str {
    version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or("").trim()
}

/// rustc names the directory of a target whether it is installed or not.
fn holds_core(libraries: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(libraries) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}
