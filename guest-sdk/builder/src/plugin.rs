use crate::{Toolchain, componentize};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Whether cargo may use the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Allowed,
    /// `--locked --offline`, for a build script: everything was fetched before.
    Forbidden,
}

/// A plugin's crate.
#[derive(Debug, Clone)]
pub struct Crate {
    manifest: PathBuf,
    package: String,
    target_dir: PathBuf,
    workspace: PathBuf,
}

/// The relevant part of the output of `cargo metadata`.
#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
    workspace_root: PathBuf,
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
}

/// A message of `cargo build` about a crate that it built.
#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: PathBuf,
    filenames: Vec<PathBuf>,
}

// === impl Crate ===

impl Crate {
    /// Opens the crate in a folder.
    pub fn at(folder: &Path) -> Result<Self> {
        let manifest = folder.join("Cargo.toml");
        if !manifest.is_file() {
            bail!("{} is missing; a Rust plugin is a crate", manifest.display());
        }
        let manifest = manifest.canonicalize()?;
        let mut cargo = cargo();
        cargo.args(["metadata", "--format-version=1", "--no-deps", "--offline", "--manifest-path"]).arg(&manifest);
        let output = cargo.output().context("cargo is not installed; rustup installs it")?;
        if !output.status.success() {
            bail!(
                "cargo does not understand {}: {}",
                manifest.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo's metadata")?;
        let own = metadata.packages.into_iter().find(|package| package.manifest_path == manifest);
        let package = own.with_context(|| format!("{} names no package", manifest.display()))?.name;
        Ok(Self { package, target_dir: metadata.target_directory, workspace: metadata.workspace_root, manifest })
    }

    /// Returns the package's name.
    pub fn name(&self) -> &str {
        &self.package
    }

    /// Returns cargo's target directory, which also holds an unpacked toolchain.
    pub fn target_dir(&self) -> &Path {
        &self.target_dir
    }

    /// Compiles the crate and returns its component's bytes. Warnings and errors go to standard error.
    pub fn build(&self, toolchain: &Toolchain, network: Network) -> Result<Vec<u8>> {
        // A separate target directory: an outer cargo holds the lock of the usual one while its build scripts run.
        self.build_in(&self.target_dir.join("guests"), toolchain, network)
    }

    /// Does the same in a target directory that several crates share: what they have in common is compiled once.
    pub fn build_in(&self, target_dir: &Path, toolchain: &Toolchain, network: Network) -> Result<Vec<u8>> {
        let built = build(cargo(), std::slice::from_ref(self), target_dir, toolchain, network)?;
        built.into_iter().next().context("cargo built no component")
    }

    /// Compiles several crates of one workspace at once, to be bundled: without the names of functions, which are up to a
    /// quarter of a component. Returns the components' bytes, in the same order.
    pub fn bundle(crates: &[Self], toolchain: &Toolchain, network: Network) -> Result<Vec<Vec<u8>>> {
        let Some(first) = crates.first() else { return Ok(Vec::new()) };
        let mut cargo = cargo();
        cargo.env("CARGO_PROFILE_RELEASE_STRIP", "true");
        build(cargo, crates, &first.target_dir.join("guests"), toolchain, network)
    }

    /// Makes the component of the module that cargo built. `messages`: what cargo wrote to standard output.
    fn component(&self, messages: &[u8]) -> Result<Vec<u8>> {
        let module = self.built_module(messages).with_context(|| {
            format!("{} builds no wasm module; add `[lib] crate-type = [\"cdylib\"]` to its Cargo.toml", self.package)
        })?;
        let module = std::fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
        componentize(&module).with_context(|| format!("{} is not a plugin", self.package))
    }

    fn built_module(&self, messages: &[u8]) -> Option<PathBuf> {
        messages
            .split(|&byte| byte == b'\n')
            .filter_map(|line| serde_json::from_slice::<Message>(line).ok())
            .filter(|message| message.reason == "compiler-artifact" && message.manifest_path == self.manifest)
            .flat_map(|message| message.filenames)
            .find(|path| path.extension().is_some_and(|extension| extension == "wasm"))
    }
}

/// Compiles crates of one workspace, and returns their components' bytes, which have no paths of this machine in them.
fn build(
    mut cargo: Command,
    crates: &[Crate],
    target_dir: &Path,
    toolchain: &Toolchain,
    network: Network,
) -> Result<Vec<Vec<u8>>> {
    cargo.args(["build", "--release", "--message-format=json-render-diagnostics"]);
    cargo.arg("--target-dir").arg(target_dir);
    if let Some(first) = crates.first() {
        cargo.arg("--manifest-path").arg(&first.manifest);
        let remap = remap_paths(toolchain.root().into_iter().chain([first.workspace.as_path()]));
        cargo.env("CARGO_ENCODED_RUSTFLAGS", remap.join("\x1f"));
    }
    for built in crates {
        cargo.arg("--package").arg(&built.package);
    }
    if network == Network::Forbidden {
        cargo.args(["--locked", "--offline"]);
    }
    toolchain.apply(&mut cargo)?;
    let output = cargo.stderr(Stdio::inherit()).output().context("cargo is not installed; rustup installs it")?;
    let names = || crates.iter().map(Crate::name).collect::<Vec<_>>().join(", ");
    if !output.status.success() {
        bail!("cargo could not build {}", names());
    }
    crates.iter().map(|built| built.component(&output.stdout)).collect()
}

/// Returns flags for rustc that keep the paths of this machine out of what it compiles: those below the given folders
/// and the user's own become relative, and those of crates begin with the crate's name.
pub fn remap_paths<'a>(folders: impl IntoIterator<Item = &'a Path>) -> Vec<String> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.components().count() > 1);
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(home.as_ref()?.join(".cargo")));
    let sources = cargo_home.map(|home| home.join("registry/src"));
    let registries = sources.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    let registries = registries.map(|registry| registry.path());
    // The last one that matches counts.
    let all = home.into_iter().chain(sources.clone()).chain(registries).chain(folders.into_iter().map(Path::to_owned));
    all.map(|folder| format!("--remap-path-prefix={}=", folder.display())).collect()
}

/// Returns a cargo command without the environment of a cargo, rustc or clippy that may be running this process.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if leaks(&name) {
            command.env_remove(name);
        }
    }
    // An empty value also overrides flags in configuration files: those are meant for the machine, not for wasm.
    command.env("CARGO_ENCODED_RUSTFLAGS", "");
    command
}

fn leaks(name: &OsString) -> bool {
    const KEPT: [&str; 3] = ["CARGO_HOME", "CARGO_NET", "CARGO_REGISTRIES"];
    const PREFIXES: [&str; 6] = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "DEP_", "CLIPPY_"];
    const NAMES: [&str; 5] = ["LD_LIBRARY_PATH", "TARGET", "HOST", "PROFILE", "OUT_DIR"];
    let name = name.to_string_lossy();
    // The user chose this directory, and all tools of this project share it.
    if name == "CARGO_TARGET_DIR" {
        return false;
    }
    !KEPT.iter().any(|kept| name.starts_with(kept))
        && (PREFIXES.iter().any(|prefix| name.starts_with(prefix)) || NAMES.contains(&name.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_outer_cargo_sets_does_not_reach_the_inner_one() {
        for name in ["CARGO_MANIFEST_DIR", "RUSTC_WORKSPACE_WRAPPER", "DEP_Z_ROOT", "CLIPPY_ARGS", "OUT_DIR"] {
            assert!(leaks(&name.into()), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_REGISTRIES_X_TOKEN", "PATH", "HOME", "HOSTNAME", "RUSTUP_TOOLCHAIN"] {
            assert!(!leaks(&name.into()), "{name}");
        }
    }

    #[test]
    fn a_folder_without_a_crate_is_named() {
        let error = Crate::at(Path::new("/nowhere")).unwrap_err();
        assert_eq!(error.to_string(), "/nowhere/Cargo.toml is missing; a Rust plugin is a crate");
    }
}
