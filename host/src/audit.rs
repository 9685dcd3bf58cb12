//! Who changed what, and when: a line of JSON each, in the data directory.

use crate::json;
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// In the data directory.
const FILE: &str = "audit.log";

/// Bytes after which a new file begins; one older is kept, with `.1` behind.
const LARGEST: u64 = 8 << 20;

/// What was done, or tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Upload,
    Reload,
    /// A file in the plugins folder appeared.
    Add,
    /// It changed.
    Replace,
    /// What ran well before is back.
    Restore,
    Remove,
    Quarantine,
    Release,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Reload => "reload",
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Restore => "restore",
            Self::Remove => "remove",
            Self::Quarantine => "quarantine",
            Self::Release => "release",
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    pub action: Action,
    pub plugin: String,
    /// `folder`, or the address a request came from.
    pub by: String,
    /// sha256 of the component it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why it was not done, if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// The log; with nothing to keep it in, entries go to the host's own log alone.
#[derive(Debug)]
pub struct Audit {
    file: Option<Mutex<Appended>>,
    dropped: prometheus::IntCounterVec,
}

#[derive(Debug)]
struct Appended {
    path: PathBuf,
    file: File,
    size: u64,
    /// The last line may not be whole.
    is_cut: bool,
}

impl Audit {
    /// `dropped` counts lines that could not be written, by `reason`.
    pub fn open(data: Option<&Path>, dropped: prometheus::IntCounterVec) -> io::Result<Self> {
        let file = data.map(|data| Appended::open(data.join(FILE))).transpose()?;
        Ok(Self { file: file.map(Mutex::new), dropped })
    }

    pub fn write(&self, now_ms: i64, entry: Entry) {
        let Entry { action, plugin, by, refused, .. } = &entry;
        match refused {
            None => tracing::info!(action = action.as_str(), plugin, by, "a plugin was changed"),
            Some(why) => tracing::info!(action = action.as_str(), plugin, by, reason = why, "a change was refused"),
        }
        let Some(file) = &self.file else { return };
        #[derive(Serialize)]
        struct Line<'a> {
            at: String,
            #[serde(flatten)]
            entry: &'a Entry,
        }
        let at = json::time(now_ms);
        let written = serde_json::to_vec(&Line { at, entry: &entry }).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            file.lock().unwrap_or_else(PoisonError::into_inner).append(&line)
        });
        if let Err(error) = written {
            tracing::error!(%error, "cannot write the audit log");
            self.dropped.with_label_values(&["io"]).inc();
        }
    }
}

impl Appended {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let file = file.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        let size = file.metadata()?.len();
        Ok(Self { path, file, size, is_cut: false })
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size + line.len() as u64 > LARGEST {
            let mut older = self.path.clone().into_os_string();
            older.push(".1");
            // It may have been moved before, and the next one not opened.
            fs::rename(&self.path, older).or_else(|e| if e.kind() == ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
            *self = Self::open(self.path.clone())?;
        }
        // A line that was cut, as on a full disk, must not take the next one with it.
        if std::mem::replace(&mut self.is_cut, true) {
            self.file.write_all(b"\n")?;
        }
        self.file.write_all(line)?;
        self.is_cut = false;
        self.size += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(plugin: &str) -> Entry {
        let (plugin, by) = (plugin.to_owned(), "folder".to_owned());
        Entry { action: Action::Replace, plugin, by, digest: None, refused: None }
    }

    fn dropped() -> prometheus::IntCounterVec {
        prometheus::IntCounterVec::new(prometheus::Opts::new("dropped", "d"), &["reason"]).unwrap()
    }

    #[test]
    fn a_line_for_each_goes_on_where_the_last_host_ended() {
        let data = tempfile::tempdir().unwrap();
        for plugin in ["a\n\"", "b"] {
            Audit::open(Some(data.path()), dropped()).unwrap().write(0, entry(plugin));
        }
        let text = fs::read_to_string(data.path().join(FILE)).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines.len(), &lines[0]["plugin"], &lines[1]["action"]), (2, &"a\n\"".into(), &"replace".into()));
    }

    #[test]
    fn it_takes_two_files_at_most() {
        let data = tempfile::tempdir().unwrap();
        let audit = Audit::open(Some(data.path()), dropped()).unwrap();
        let long = "x".repeat(1 << 20);
        (0..40).for_each(|_| audit.write(0, entry(&long)));
        let sizes: Vec<_> = fs::read_dir(data.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= LARGEST), "{sizes:?}");
    }
}
