//! Where plugins come from: the binary, and the operator's folder.

use super::BUNDLED;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Larger files are refused unread: an interpreter compiled in takes some 30 MB.
const LARGEST: u64 = 128 << 20;

/// Where a component was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Bundled,
    File(PathBuf),
}

/// A plugin that was found, not yet looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    pub name: String,
    pub origin: Origin,
}

/// Why the plugins folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error("cannot read the plugins folder {}: {source}", folder.display())]
    Unreadable { folder: PathBuf, source: io::Error },
    #[error("the plugins folder {} can be written by others than its owner; whoever writes there runs code here: chmod go-w {}", folder.display(), folder.display())]
    Writable { folder: PathBuf },
}

// === impl Component ===

impl Component {
    /// Reads the component's bytes.
    pub fn bytes(&self) -> io::Result<Cow<'static, [u8]>> {
        match &self.origin {
            Origin::Bundled => {
                let bundled = BUNDLED.iter().find(|bundled| bundled.name == self.name);
                bundled.map(|bundled| Cow::Borrowed(bundled.component)).ok_or(io::ErrorKind::NotFound.into())
            }
            Origin::File(path) => read(path).map(Cow::Owned),
        }
    }
}

/// Reads a component file of bounded size.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let size = fs::metadata(path)?.len();
    if size > LARGEST {
        return Err(io::Error::other(format!("it has {size} bytes; at most {LARGEST} are read")));
    }
    fs::read(path)
}

/// The bundled plugins and those in the folder, by name. A file wins over a bundled plugin of its name. A folder that is
/// not there holds nothing.
pub fn find(folder: Option<&Path>) -> Result<Vec<Component>, FindError> {
    let bundled = BUNDLED.iter().map(|bundled| (bundled.name.to_owned(), Origin::Bundled));
    let mut found: BTreeMap<String, Origin> = bundled.collect();
    if let Some(folder) = folder {
        for path in files(folder)? {
            match path.file_stem().and_then(|stem| stem.to_str()).filter(|name| is_name(name)) {
                Some(name) => drop(found.insert(name.to_owned(), Origin::File(path))),
                None => tracing::warn!(
                    file = %path.display(),
                    "not loaded: a plugin's file name is letters, digits, `-` and `_`, at most 64"
                ),
            }
        }
    }
    Ok(found.into_iter().map(|(name, origin)| Component { name, origin }).collect())
}

/// Refuses a folder that others can write to.
fn check_folder(folder: &Path) -> Result<(), FindError> {
    match fs::metadata(folder) {
        Ok(found) if found.mode() & 0o022 != 0 => Err(FindError::Writable { folder: folder.to_owned() }),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(FindError::Unreadable { folder: folder.to_owned(), source }),
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, FindError> {
    check_folder(folder)?;
    let unreadable = |source| FindError::Unreadable { folder: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            files.push(path);
        }
    }
    Ok(files)
}

/// A plugin's name becomes a label, a file name and a TOML key.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !name.is_empty() && name.len() <= 64 && name.bytes().all(plain)
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
        let found = find(Some(folder.path())).unwrap();
        let names: Vec<_> = found.iter().map(|component| component.name.as_str()).collect();
        assert_eq!(names, ["mine", "procfs"]);
        assert!(found.iter().all(|component| matches!(component.origin, Origin::File(_))));
    }

    #[test]
    fn a_folder_others_can_write_to_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = find(Some(folder.path())).unwrap_err();
        assert!(error.to_string().contains("chmod go-w"), "{error}");
    }

    #[test]
    fn a_folder_that_is_not_there_holds_nothing() {
        let found = find(Some(Path::new("/no/such/folder"))).unwrap();
        assert_eq!(found.len(), BUNDLED.len());
    }
}
