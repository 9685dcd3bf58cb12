#[cfg(feature = "bindings")]
use crate::compiled::Compiled;
use crate::script::Script;
use crate::{Crate, Network, TARGET, Toolchain};
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};

/// Returns the language whose source file a folder has, or none.
pub(crate) fn language_in<L: Copy>(folder: &Path, [one, other]: [(&str, L); 2]) -> Result<Option<L>> {
    let has = |name: &str| folder.join(name).is_file();
    match (has(one.0), has(other.0)) {
        (true, true) => bail!("{} has a {} and a {}; remove one of them", folder.display(), one.0, other.0),
        (true, false) => Ok(Some(one.1)),
        (false, true) => Ok(Some(other.1)),
        (false, false) => Ok(None),
    }
}

/// Checks the name of a plugin in its project file: it becomes the name of the component's file.
pub(crate) fn check_file_name(name: &str, file: &Path) -> Result<()> {
    if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
        bail!("{}: the plugin name {name:?} cannot be a file name", file.display());
    }
    Ok(())
}

/// A plugin's sources, in any language.
#[derive(Debug, Clone)]
pub enum Project {
    Rust(Crate),
    Script(Script),
    #[cfg(feature = "bindings")]
    Compiled(Compiled),
}

impl Project {
    /// Opens the project in a folder: a crate, or a `plugin.py`, `plugin.js`, `plugin.c` or `plugin.go` with the
    /// project file of its language.
    pub fn at(folder: &Path) -> Result<Self> {
        if folder.join("Cargo.toml").is_file() {
            return Crate::at(folder).map(Self::Rust);
        }
        #[cfg(feature = "bindings")]
        if let Some(plugin) = Compiled::at(folder)? {
            return Ok(Self::Compiled(plugin));
        }
        match Script::at(folder)? {
            Some(script) => Ok(Self::Script(script)),
            None => bail!(
                "{} holds no plugin: no Cargo.toml, plugin.py, plugin.js, plugin.c or plugin.go; `dropsonde plugin new` \
                 makes one",
                folder.display()
            ),
        }
    }

    /// Returns the name of the plugin's component.
    pub fn name(&self) -> &str {
        match self {
            Self::Rust(plugin) => plugin.name(),
            Self::Script(plugin) => plugin.name(),
            #[cfg(feature = "bindings")]
            Self::Compiled(plugin) => plugin.name(),
        }
    }

    /// Builds the plugin and returns its component's bytes. A wasm toolchain for Rust is looked for in the given
    /// folders, too. In `cache`, what Rust plugins have in common is compiled
    /// once, unless the user chose a target directory, and components of other languages are kept.
    pub fn build(&self, toolchains: &[PathBuf], cache: Option<&Path>) -> Result<Vec<u8>> {
        match self {
            Self::Rust(plugin) => {
                let mut known = std::iter::once(plugin.target_dir()).chain(toolchains.iter().map(PathBuf::as_path));
                let found = known.find_map(Toolchain::find);
                let toolchain = found.with_context(|| {
                    format!("cargo cannot compile for WebAssembly yet: run `rustup target add {TARGET}`")
                })?;
                let shared = cache.filter(|_| std::env::var_os("CARGO_TARGET_DIR").is_none());
                match shared {
                    Some(cache) => plugin.build_in(&cache.join("rust"), &toolchain, Network::Allowed),
                    None => plugin.build(&toolchain, Network::Allowed),
                }
            }
            Self::Script(plugin) => plugin.build(cache),
            #[cfg(feature = "bindings")]
            Self::Compiled(plugin) => plugin.build(),
        }
    }
}
