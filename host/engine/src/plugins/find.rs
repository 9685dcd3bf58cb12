//! Finds plugins in the binary and in the operator's folder.

use super::debounce::{ComponentFiles, FileSignature};
use crate::options::Options;
use bytes::Bytes;
use dropsonde_model::names::is_plugin;
use dropsonde_sandbox::Limits;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The largest component that is read, in bytes. One with a compiled-in interpreter takes some 30 MB.
pub const LARGEST: u64 = 128 << 20;

/// The origin of a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ComponentOrigin {
    /// Part of the program that embeds the host.
    Native,
    Bundled(BundledPlugin),
    File(PathBuf),
}

/// A component that is part of the binary. It is as trusted as the binary, so it is granted what it says it needs. A
/// file of its name in the plugins folder replaces it, but does not get its grants.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BundledPlugin {
    pub name: &'static str,
    pub component: &'static [u8],
    /// Whether the plugin runs without a section in the configuration.
    pub is_default: bool,
    /// The limits that its section does not set.
    pub limits: &'static Limits,
    /// The time before the start of the host for which the plugin makes history. Its values must depend on the time of
    /// a tick alone.
    pub backfill: Option<Duration>,
}

impl fmt::Debug for BundledPlugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BundledPlugin").field(&self.name).finish()
    }
}

impl From<BundledPlugin> for Component {
    fn from(bundled: BundledPlugin) -> Self {
        Self { name: bundled.name.to_owned(), origin: ComponentOrigin::Bundled(bundled) }
    }
}

/// A plugin that was found, and not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    pub name: String,
    pub origin: ComponentOrigin,
}

/// Why the plugins folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error("cannot read the plugins folder {}: {why}", folder.display())]
    Unreadable { folder: PathBuf, why: io::Error },
    #[error(
        "the plugins folder {} can be written by others than its owner, who could run code in this host; \
         run `chmod go-w {}`",
        folder.display(),
        folder.display()
    )]
    Writable { folder: PathBuf },
}

/// The places where a plugin's component can be.
#[derive(Debug, Clone)]
pub(super) struct PluginLocation {
    pub(super) name: String,
    pub(super) folder: Option<PathBuf>,
    /// The bundled plugin of this name, which is used if there is no file.
    pub(super) bundled: Option<BundledPlugin>,
}

// === impl PluginLocation ===

impl PluginLocation {
    /// Returns the path of the plugin's file, whether the file exists or not; `None` without a plugins folder.
    pub(super) fn file(&self) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{}.wasm", self.name)))
    }

    /// Returns the plugin's file if it exists, else the bundled plugin.
    pub(super) fn component(&self) -> Option<Component> {
        let file = self.file().filter(|file| fs::symlink_metadata(file).is_ok());
        match file {
            Some(file) => Some(Component { name: self.name.clone(), origin: ComponentOrigin::File(file) }),
            None => self.bundled.map(Component::from),
        }
    }

    /// Returns the path of the plugin's file, and the signature of the file that is there now.
    pub(super) fn upload(&self) -> Option<(PathBuf, Option<FileSignature>)> {
        let file = self.file()?;
        let now = fs::metadata(&file).ok().map(|about| FileSignature::of(&about));
        Some((file, now))
    }
}

// === impl Component ===

impl Component {
    /// Reads the component's bytes.
    pub fn bytes(&self) -> io::Result<Bytes> {
        match &self.origin {
            ComponentOrigin::Bundled(bundled) => Ok(Bytes::from_static(bundled.component)),
            ComponentOrigin::File(path) => read(path).map(Bytes::from),
            ComponentOrigin::Native => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// Reads a component file of bounded size.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let about = fs::metadata(path)?;
    if !about.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if about.mode() & 0o022 != 0 {
        let why = "others than its owner can write to it, and could run code in this host; run `chmod go-w` on it";
        return Err(io::Error::other(why));
    }
    let too_large = |size| io::Error::other(format!("it has {size} bytes; at most {LARGEST} are read"));
    if about.len() > LARGEST {
        return Err(too_large(about.len()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0));
    // One byte beyond the limit tells whether the file grew beyond it in the meantime.
    fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST { Err(too_large(bytes.len() as u64)) } else { Ok(bytes) }
}

/// Returns the component files in the folder, by plugin. A folder that does not exist has none.
pub(super) fn files(folder: &Path) -> Result<ComponentFiles, FindError> {
    match check_folder(folder) {
        Err(FindError::Unreadable { why, .. }) if why.kind() == io::ErrorKind::NotFound => {
            return Ok(ComponentFiles::new());
        }
        checked => checked?,
    }
    let unreadable = |why| FindError::Unreadable { folder: folder.to_owned(), why };
    let mut files = ComponentFiles::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_component = path.extension().is_some_and(|extension| extension == "wasm");
        let name = path.file_stem().and_then(|stem| stem.to_str()).filter(|_| is_component);
        let Some(name) = name.filter(|name| is_plugin(name)).map(str::to_owned) else { continue };
        // The file may be gone by now.
        if let Ok(about) = fs::metadata(&path) {
            files.insert(name, (path, FileSignature::of(&about)));
        }
    }
    Ok(files)
}

/// Returns the bundled plugins in use and those in the folder. A folder that does not exist has none.
pub fn in_folder(folder: Option<&Path>, options: &Options) -> Result<Vec<Component>, FindError> {
    Ok(components(&folder.map(files).transpose()?.unwrap_or_default(), options.bundled_in_use()))
}

/// Returns the component files whose names no plugin can have.
pub(super) fn misnamed(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let components = entries.filter(|path| path.extension().is_some_and(|extension| extension == "wasm"));
    let named = |path: &PathBuf| path.file_stem().and_then(|stem| stem.to_str()).is_some_and(is_plugin);
    components.filter(|path| !named(path)).collect()
}

/// Returns the bundled plugins and the files, sorted by name. A file replaces a bundled plugin of its name.
pub(super) fn components(files: &ComponentFiles, bundled: impl Iterator<Item = BundledPlugin>) -> Vec<Component> {
    let bundled = bundled.map(|bundled| (bundled.name.to_owned(), ComponentOrigin::Bundled(bundled)));
    let files = files.iter().map(|(name, (path, _))| (name.clone(), ComponentOrigin::File(path.clone())));
    let found: BTreeMap<String, ComponentOrigin> = bundled.chain(files).collect();
    found.into_iter().map(|(name, origin)| Component { name, origin }).collect()
}

/// Refuses a folder that others can write to.
fn check_folder(folder: &Path) -> Result<(), FindError> {
    match fs::metadata(folder) {
        Ok(found) if found.mode() & 0o022 != 0 => Err(FindError::Writable { folder: folder.to_owned() }),
        Ok(_) => Ok(()),
        Err(why) => Err(FindError::Unreadable { folder: folder.to_owned(), why }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_wins_over_a_bundled_plugin_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["procfs.wasm", "mine.wasm", "notes.txt", "bad name.wasm"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let bundled = ["appstats", "procfs"].map(|name| BundledPlugin {
            name,
            component: &[],
            is_default: true,
            limits: &Limits::DEFAULT,
            backfill: None,
        });
        let found = components(&files(folder.path()).unwrap(), bundled.into_iter());
        let names: Vec<_> = found.iter().map(|component| component.name.as_str()).collect();
        assert_eq!(names, ["appstats", "mine", "procfs"]);
        let of_files = found.iter().filter(|component| matches!(component.origin, ComponentOrigin::File(_)));
        assert_eq!(of_files.map(|component| &*component.name).collect::<Vec<_>>(), ["mine", "procfs"]);
        assert_eq!(misnamed(folder.path()), [folder.path().join("bad name.wasm")]);
    }

    #[test]
    fn a_folder_others_can_write_to_is_refused_with_the_command_that_fixes_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = files(folder.path()).unwrap_err();
        assert!(error.to_string().contains("chmod go-w"), "{error}");
    }

    #[test]
    fn a_missing_plugins_folder_has_no_files() {
        assert_eq!(files(Path::new("/no/such/folder")).unwrap(), ComponentFiles::new());
    }

    #[test]
    fn a_pipe_in_the_plugins_folder_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe.wasm");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(read(&pipe).unwrap_err().to_string(), "it is no file");
    }

    #[test]
    fn a_file_others_can_write_to_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.wasm");
        fs::write(&file, "x").unwrap();
        assert!(read(&file).is_ok());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read(&file).unwrap_err().to_string().contains("chmod go-w"));
    }
}
