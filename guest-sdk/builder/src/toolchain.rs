use crate::debian::Apt;
use crate::progress::{step, tell};
use anyhow::{Context, Result, anyhow, bail};
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
        Self::installed().or_else(|| Self::unpacked(&unpacked_root(target_dir)))
    }

    /// Looks for a toolchain, and fetches what is missing: rustup's target if rustup can add it, otherwise Debian's
    /// packages. Unpacked files stay under `target_dir`.
    pub fn find_or_fetch(target_dir: &Path) -> Result<Self> {
        if let Some(found) = Self::find(target_dir) {
            found.fetch_library_crates()?;
            return Ok(found);
        }
        let by_rustup = step(format_args!("adding rustup's {TARGET} target"), add_target);
        let why_not = match by_rustup {
            Ok(()) => match Self::installed() {
                Some(installed) => return Ok(installed),
                None => anyhow!("rustup added the target to a different toolchain than the one that cargo uses"),
            },
            Err(error) => {
                tell(format_args!("    {error:#}"));
                error
            }
        };
        let root = unpacked_root(target_dir);
        step("unpacking Debian's Rust library source instead (about 115 MB to fetch, 0.7 GB on disk)", || {
            fetch_debian(&root)
        })
        .with_context(|| {
            format!("no compiler for {TARGET}: rustup could not add it ({why_not:#}); run `rustup target add {TARGET}` with network access")
        })?;
        let unpacked = Self::unpacked(&root).context("Debian's packages were unpacked, but contain no compiler")?;
        unpacked.fetch_library_crates()?;
        Ok(unpacked)
    }

    /// Fetches the crates of the standard library. A build without network must find them in cargo's cache.
    fn fetch_library_crates(&self) -> Result<()> {
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

    fn installed() -> Option<Self> {
        let library = sysroot().ok()?.join("lib/rustlib").join(TARGET).join("lib");
        library.is_dir().then_some(Self::Installed { library })
    }

    fn unpacked(root: &Path) -> Option<Self> {
        root.join("usr/bin/rustc").is_file().then(|| Self::Unpacked { root: root.to_owned() })
    }
}

fn unpacked_root(target_dir: &Path) -> PathBuf {
    std::env::var_os(SHARED).map_or_else(|| target_dir.join("wasm-toolchain"), PathBuf::from)
}

fn add_target() -> Result<()> {
    let output = Command::new("rustup").args(["target", "add", TARGET]).output().context("rustup is not installed")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("rustup says: {}", said.lines().find(|line| line.starts_with("error")).unwrap_or("it failed").trim());
    }
    Ok(())
}

fn fetch_debian(root: &Path) -> Result<()> {
    let mut apt_folder = root.as_os_str().to_owned();
    apt_folder.push(".apt");
    let apt = Apt::in_folder(apt_folder.into())?;
    apt.update()?;
    // Package names contain versions (libstd-rust-web-1.96, libllvm22), so follow the dependencies that are parts of
    // the compiler.
    let is_part = |name: &String| name.starts_with("libstd-rust-web-") || name.starts_with("libllvm");
    let mut packages = vec!["rustc-web".to_owned(), "rust-web-src".to_owned()];
    let mut looked_at = 0;
    while let Some(package) = packages.get(looked_at).cloned() {
        looked_at += 1;
        let depends = apt.dependencies(&package).with_context(|| format!("Debian's index offers no {package}"))?;
        for part in depends.into_iter().filter(is_part) {
            if !packages.contains(&part) {
                packages.push(part);
            }
        }
    }
    apt.unpack(&packages, root)?;
    apt.clean_up()
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
