use super::{Config, ConfigError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The file that a host and its commands read their configuration from: the one that was named, or the usual one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    path: PathBuf,
    is_named: bool,
}

impl ConfigFile {
    /// Returns the named file; else `/etc/dropsonde/dropsonde.toml` as root, else `dropsonde/dropsonde.toml` in the
    /// user's configuration directory. Returns none if nothing is named and the user has no such directory.
    pub fn find(named: Option<&Path>) -> Option<Self> {
        if let Some(named) = named {
            return Some(Self { path: named.to_owned(), is_named: true });
        }
        let usual = |folder: PathBuf| Self { path: folder.join("dropsonde/dropsonde.toml"), is_named: false };
        if rustix::process::geteuid().is_root() {
            return Some(usual("/etc".into()));
        }
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config"))).map(usual)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file. The usual file may be missing; then every key has its default.
    pub fn read(&self) -> Result<Config, ConfigError> {
        match Config::read(&self.path) {
            Err(ConfigError::Unreadable { why, .. }) if !self.is_named && is_missing(why.kind()) => {
                Ok(Config::default())
            }
            read => read,
        }
    }

    /// Returns the text of the file; empty if it is the usual file and missing.
    pub(crate) fn text(&self) -> Result<String, ConfigError> {
        match super::text_of(&self.path) {
            Err(why) if !self.is_named && is_missing(why.kind()) => Ok(String::new()),
            text => text.map_err(|why| ConfigError::Unreadable { path: self.path.clone(), why }),
        }
    }
}

fn is_missing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory)
}
