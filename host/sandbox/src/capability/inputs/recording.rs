//! Replays what was recorded.

use super::{HTTP, SPACE, TIMES, beside, inside};
use crate::capability::env::Env;
use crate::capability::files::{EntryKind, FileError, Page, Resolver, Space, page};
use crate::capability::http::exchange::RecordedExchange;
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use wasmtime_wasi::random::Deterministic;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtxBuilder};

/// A recording, tick by tick.
#[derive(Debug, Default)]
pub struct Recording {
    env: BTreeMap<String, String>,
    now: Mutex<Now>,
}

#[derive(Debug, Clone, Default)]
struct Now {
    /// The folders of the ticks so far, the latest first.
    folders: Vec<PathBuf>,
    at_ms: u64,
    started_ms: u64,
    /// How often each request was sent in this tick, by method and URL.
    sent: BTreeMap<(String, String), usize>,
}

// === impl Recording ===

impl Recording {
    pub fn new(env: BTreeMap<String, String>) -> Self {
        Self { env, now: Mutex::default() }
    }

    /// Sets the time, and takes files from that folder. Files that are missing there stay as they were before.
    pub fn go_to(&self, folder: PathBuf, at_ms: u64) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.folders.is_empty() {
            now.started_ms = at_ms;
        }
        now.folders.insert(0, folder);
        now.sent.clear();
        now.at_ms = at_ms;
    }

    pub(in crate::capability) fn show(self: &Arc<Self>, granted: &Env, wasi: &mut WasiCtxBuilder) {
        for name in granted.names() {
            if let Some(value) = self.env.get(name) {
                wasi.env(name, value);
            }
        }
        let random = || Deterministic::new((0..=u8::MAX).collect());
        wasi.wall_clock(RecordedClock(self.clone()))
            .monotonic_clock(RecordedClock(self.clone()))
            .secure_random(random())
            .insecure_random(random())
            .insecure_random_seed(0);
    }

    pub(super) fn read(&self, path: &str, most: usize) -> Result<Vec<u8>, FileError> {
        for folder in self.now().folders {
            match open(&folder, path) {
                Ok(file) if file.metadata()?.is_dir() => return Err(FileError::NotAFile),
                Ok(file) => {
                    let mut bytes = Vec::new();
                    file.take(most as u64 + 1).read_to_end(&mut bytes)?;
                    return if bytes.len() > most { Err(FileError::TooLarge(most as u64)) } else { Ok(bytes) };
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(FileError::NotFound)
    }

    pub(super) fn read_range(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, FileError> {
        for folder in self.now().folders {
            match open(&folder, path) {
                Ok(file) if file.metadata()?.is_dir() => return Err(FileError::NotAFile),
                Ok(mut file) if offset <= i64::MAX as u64 => {
                    let mut bytes = Vec::new();
                    file.seek(SeekFrom::Start(offset))?;
                    file.take(length as u64).read_to_end(&mut bytes)?;
                    return Ok(bytes);
                }
                Ok(_) => return Ok(Vec::new()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(FileError::NotFound)
    }

    /// Lists names of a directory, from the latest tick that has it.
    pub(super) fn entries_from(&self, path: &str, start: u64, most: usize) -> Result<Page, FileError> {
        for folder in self.now().folders {
            match open(&folder, path) {
                Ok(directory) => return page(&directory.into(), start, most),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(FileError::NotFound)
    }

    /// Lists the names of a directory, from the latest tick that has it.
    pub(super) fn entries(&self, path: &str) -> Result<Vec<(String, EntryKind)>, FileError> {
        for folder in self.now().folders {
            match open(&folder, path) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error.into()),
            }
            let mut entries = Vec::new();
            for entry in fs::read_dir(inside(&folder, path))? {
                let entry = entry?;
                let kind = if entry.file_type()?.is_dir() { EntryKind::Directory } else { EntryKind::File };
                entries.extend(entry.file_name().into_string().ok().map(|name| (name, kind)));
            }
            entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            return Ok(entries);
        }
        Err(FileError::NotFound)
    }

    pub(super) fn space(&self, path: &str) -> Result<Space, FileError> {
        let known = self.noted(SPACE, path, |columns| {
            let mut next = || columns.next()?.parse::<u64>().ok();
            let (total_bytes, available_bytes, inodes, inodes_free) = (next()?, next()?, next()?, next()?);
            let used_bytes = next().unwrap_or(total_bytes.saturating_sub(available_bytes));
            Some(Space { total_bytes, available_bytes, used_bytes, inodes, inodes_free })
        });
        known.ok_or(FileError::NotFound)
    }

    pub(super) fn modified_ms(&self, path: &str) -> Result<u64, FileError> {
        self.noted(TIMES, path, |columns| columns.next()?.parse().ok()).ok_or(FileError::NotFound)
    }

    /// Returns the recorded exchange of a request: the next one of this tick, or else the last one of an earlier tick.
    pub(crate) fn exchange(&self, method: &str, url: &str) -> Option<RecordedExchange> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = now.sent.entry((method.to_owned(), url.to_owned())).or_default();
        let nth = std::mem::replace(sent, *sent + 1);
        now.folders.iter().find_map(|folder| {
            let text = fs::read_to_string(beside(folder, HTTP)).ok()?;
            let exchanges = text.lines().filter_map(|line| serde_json::from_str::<RecordedExchange>(line).ok());
            let mut same: Vec<_> =
                exchanges.filter(|exchange| exchange.method == method && exchange.url == url).collect();
            let last = same.len().checked_sub(1)?;
            Some(same.swap_remove(nth.min(last)))
        })
    }

    /// Returns what was noted of a path, from the latest tick that has it. `parse` gets the columns after the path.
    fn noted<T>(
        &self,
        kind: &str,
        path: &str,
        mut parse: impl FnMut(&mut dyn Iterator<Item = &str>) -> Option<T>,
    ) -> Option<T> {
        self.now().folders.into_iter().find_map(|folder| {
            let text = fs::read_to_string(beside(&folder, kind)).ok()?;
            text.lines().find_map(|line| parse(&mut line.strip_prefix(path)?.strip_prefix('\t')?.split('\t')))
        })
    }

    fn now(&self) -> Now {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct RecordedClock(Arc<Recording>);

impl HostWallClock for RecordedClock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.0.now().at_ms)
    }
}

impl HostMonotonicClock for RecordedClock {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        let now = self.0.now();
        // Go's runtime takes 0 for a clock that does not work.
        now.at_ms.saturating_sub(now.started_ms).saturating_mul(1_000_000).saturating_add(1)
    }
}

/// Opens a file or folder of a recording. Symlinks in the recording are not followed.
fn open(folder: &Path, path: &str) -> io::Result<File> {
    open_by(Resolver::of_this_process(), folder, path)
}

pub(super) fn open_by(resolver: Resolver, folder: &Path, path: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let folder = openat(CWD, folder, flags | OFlags::DIRECTORY, Mode::empty())?;
    let path = Path::new(".").join(path.trim_start_matches('/'));
    Ok(resolver.open_beneath(&folder, &path, flags)?.into())
}
