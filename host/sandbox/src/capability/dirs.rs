//! Read-only directories, for plugins whose language reads files through WASI. Files are opened relative to the
//! directory, so that neither symlinks nor `..` lead out of it.

use super::files::Files;
use std::path::{Component, Path, PathBuf};
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};

#[derive(Debug, Clone, Default)]
pub(crate) struct Dirs(Vec<PathBuf>);

impl Dirs {
    pub(crate) fn grant(&mut self, path: &str) -> Result<(), String> {
        let plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        let path = Path::new(path);
        if !path.is_absolute() || !path.components().all(plain) || path.as_os_str().as_encoded_bytes().contains(&0) {
            return Err("it is not an absolute path without `..`".to_owned());
        }
        self.0.push(path.components().collect());
        Ok(())
    }

    pub(crate) fn cover(&self, wanted: &str) -> bool {
        let wanted = Path::new(wanted);
        let is_plain = !wanted.components().any(|part| part == Component::ParentDir);
        is_plain && self.0.iter().any(|granted| wanted.starts_with(granted))
    }

    /// Opens the granted directories that exist now, under their own paths. `files` knows where those lead.
    pub(crate) fn show(&self, plugin: &str, files: &Files, wasi: &mut WasiCtxBuilder) {
        for path in &self.0 {
            let Some(name) = path.to_str() else { continue };
            let Some(leads_to) = files.leads_to(path) else {
                tracing::warn!(plugin, path = name, "a granted directory is not there; the plugin does not see it");
                continue;
            };
            if let Err(error) = wasi.preopened_dir(leads_to, name, FsPerms::ReadOnly) {
                tracing::warn!(
                    plugin,
                    path = name,
                    error = format!("{error:#}"),
                    "cannot open a granted directory; the plugin does not see it"
                );
            }
        }
    }
}
