use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The target that plugins are compiled for: no WASI unless a plugin asks for it.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// The environment variable with the folder of an unpacked toolchain that several target directories share.
const SHARED: &str = "DROPSONDE_WASM_TOOLCHAIN";

/// A compiler for wasm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Toolchain {
    /// cargo's own rustc, which has the target's standard library.
    Installed { library: PathBuf },
    /// Debian's rustc and library source, unpacked into a folder. The library is built together with the plugin.
    Unpacked { root: PathBuf },
}

impl Toolchain {
    /// Looks for a toolchain. Downloads nothing.
    pub fn find(target_dir: &Path) -> Option<Self> {
        Self::installed().or_else(|| Self::unpacked(&Self::unpacked_root(target_dir)))
    }

    /// Returns the folder that can have an unpacked toolchain: the one in DROPSONDE_WASM_TOOLCHAIN, or one below
    /// `target_dir`.
    pub fn unpacked_root(target_dir: &Path) -> PathBuf {
        std::env::var_os(SHARED).map_or_else(|| target_dir.join("wasm-toolchain"), PathBuf::from)
    }

    /// Returns the folder of an unpacked toolchain, whose paths the library that it compiles would have in it.
    pub(crate) fn root(&self) -> Option<&Path> {
        match self {
            Self::Installed { .. } => None,
            Self::Unpacked { root } => Some(root),
        }
    }

    /// Fetches the crates of the standard library. A build without network must find them in cargo's cache.
    pub fn fetch_library_crates(&self) -> Result<()> {
        let Self::Unpacked { root } = self else { return Ok(()) };
        let mut cargo = crate::plugin::cargo();
        cargo.args(["fetch", "--locked", "--quiet", "--manifest-path"]);
        cargo.arg(root.join("usr/lib/rustlib/src/rust/library/Cargo.toml"));
        Self::compile_with(root, &mut cargo)?;
        let output = cargo.output().context("cargo is not installed; rustup installs it")?;
        if !output.status.success() {
            bail!("cannot fetch the library's crates: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    fn compile_with(root: &Path, cargo: &mut Command) -> Result<()> {
        cargo
            .env("RUSTC", root.join("usr/bin/rustc"))
            // Building the standard library is an unstable feature.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("LD_LIBRARY_PATH", library_path(root)?);
        Ok(())
    }

    /// Returns a file that changes when the toolchain does, for `rerun-if-changed`.
    pub fn marker(&self) -> PathBuf {
        match self {
            Self::Installed { library } => library.clone(),
            Self::Unpacked { root } => root.join("usr/bin/rustc"),
        }
    }

    /// Makes a cargo command compile for wasm with this toolchain.
    pub(crate) fn apply(&self, cargo: &mut Command) -> Result<()> {
        cargo.args(["--target", TARGET]);
        let Self::Unpacked { root } = self else { return Ok(()) };
        let linker = sysroot()?.join(format!("lib/rustlib/{}/bin/rust-lld", host()?));
        if !linker.exists() {
            bail!("{} is missing; rustup's stable toolchain has it", linker.display());
        }
        Self::compile_with(root, cargo)?;
        cargo
            .arg("-Zbuild-std=std,panic_abort")
            .arg("--config")
            .arg(format!("target.{TARGET}.linker={:?}", linker.display().to_string()));
        Ok(())
    }

    /// Returns cargo's own compiler if it can compile for wasm.
    pub fn installed() -> Option<Self> {
        let library = sysroot().ok()?.join("lib/rustlib").join(TARGET).join("lib");
        library.is_dir().then_some(Self::Installed { library })
    }

    fn unpacked(root: &Path) -> Option<Self> {
        root.join("usr/bin/rustc").is_file().then(|| Self::Unpacked { root: root.to_owned() })
    }
}

fn library_path(root: &Path) -> Result<PathBuf> {
    let lib = root.join("usr/lib");
    fs::read_dir(&lib)
        .with_context(|| format!("cannot read {}", lib.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.to_string_lossy().ends_with("-linux-gnu"))
        .with_context(|| format!("{} contains no libraries", lib.display()))
}

/// Returns the folder in which cargo's own rustc keeps its libraries.
fn sysroot() -> Result<PathBuf> {
    rustc(&["--print", "sysroot"]).map(PathBuf::from)
}

fn host() -> Result<String> {
    let version = rustc(&["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not name its host")
}

fn rustc(args: &[&str]) -> Result<String> {
    // In a build script, cargo sets the compiler.
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(&rustc).args(args).output().context("rustc is not installed; rustup installs it")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
