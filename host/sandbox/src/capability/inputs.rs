//! The source of a plugin's inputs: this machine, or a recording of a machine, with which a test gives the same samples
//! anywhere.
//!
//! A recording has a folder for each tick. The folder contains the files that were read, each under its own path. A
//! file that is missing there is as it was in the tick before. A directory that was listed has at least an empty file
//! or folder for each name. Next to the folder, `FOLDER.space` has a line for each file system whose size was read:
//! `PATH<tab>total bytes<tab>available bytes<tab>inodes<tab>free inodes<tab>used bytes`. Without the last column, all
//! bytes that are not available count as used. `FOLDER.times` has a line for each file whose time was read:
//! `PATH<tab>milliseconds since 1970`. `FOLDER.http` has a line of JSON for each exchange of HTTP, without credentials.

use super::env::Env;
use super::files::{EntryKind, FileError, Files, Page, Resolver, Space, page};
use super::http::exchange::RecordedExchange;
use rustix::fs::{CWD, Mode, OFlags, openat};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use wasmtime_wasi::random::Deterministic;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtxBuilder};

/// The source of a plugin's files, clocks, environment and random numbers.
#[derive(Debug, Clone, Default)]
pub enum Inputs {
    /// This machine.
    #[default]
    Live,
    /// This machine. The recorder saves what the plugin reads from files.
    RecordedBy(Arc<Recorder>),
    /// A recording. Random numbers are always the same, and granted directories are absent. A request that was not
    /// recorded finds no server.
    Recorded(Arc<Recording>),
}

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

/// The suffixes of files of notes.
const SPACE: &str = ".space";
const TIMES: &str = ".times";
const HTTP: &str = ".http";

/// Saves what a plugin reads.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<RecorderState>);

#[derive(Debug, Default)]
struct RecorderState {
    folder: PathBuf,
    failed: Option<io::Error>,
}

// === impl Inputs ===

impl Inputs {
    pub(crate) fn read(&self, granted: &Files, path: &str, most: usize) -> Result<Vec<u8>, FileError> {
        match self {
            Self::Live => granted.read(path, most),
            Self::RecordedBy(recorder) => {
                let read = granted.read(path, most)?;
                recorder.write(path, Some(&read));
                Ok(read)
            }
            Self::Recorded(_) if !granted.may_ask(path) => Err(FileError::Denied),
            Self::Recorded(recording) => recording.read(path, most),
        }
    }

    pub(crate) fn entries(&self, granted: &Files, path: &str) -> Result<Vec<(String, EntryKind)>, FileError> {
        match self {
            Self::Live => granted.entries(path),
            Self::RecordedBy(recorder) => {
                let entries = granted.entries(path)?;
                recorder.list(path, &entries);
                Ok(entries)
            }
            Self::Recorded(_) if !granted.may_ask(path) => Err(FileError::Denied),
            Self::Recorded(recording) => recording.entries(path),
        }
    }

    pub(crate) fn read_range(
        &self,
        granted: &Files,
        path: &str,
        offset: u64,
        length: usize,
    ) -> Result<Vec<u8>, FileError> {
        match self {
            Self::Live => granted.read_range(path, offset, length),
            Self::RecordedBy(recorder) => {
                let read = granted.read_range(path, offset, length)?;
                recorder.write_range(path, offset, &read);
                Ok(read)
            }
            Self::Recorded(_) if !granted.may_ask(path) => Err(FileError::Denied),
            Self::Recorded(recording) => recording.read_range(path, offset, length),
        }
    }

    pub(crate) fn entries_from(&self, granted: &Files, path: &str, start: u64, most: usize) -> Result<Page, FileError> {
        match self {
            Self::Live => granted.entries_from(path, start, most),
            Self::RecordedBy(recorder) => {
                let page = granted.entries_from(path, start, most)?;
                recorder.list(path, &page.0);
                Ok(page)
            }
            Self::Recorded(_) if !granted.may_ask(path) => Err(FileError::Denied),
            Self::Recorded(recording) => recording.entries_from(path, start, most),
        }
    }

    pub(crate) fn space(&self, granted: &Files, path: &str) -> Result<Space, FileError> {
        match self {
            Self::Live => granted.space(path),
            Self::RecordedBy(recorder) => {
                let space = granted.space(path)?;
                recorder.measure(path, &space);
                Ok(space)
            }
            Self::Recorded(_) if !granted.may_ask(path) => Err(FileError::Denied),
            Self::Recorded(recording) => recording.space(path),
        }
    }

    pub(crate) fn modified_ms(&self, granted: &Files, path: &str) -> Result<u64, FileError> {
        match self {
            Self::Live => granted.modified_ms(path),
            Self::RecordedBy(recorder) => {
                let modified_ms = granted.modified_ms(path)?;
                recorder.note(TIMES, path, format_args!("{modified_ms}"));
                Ok(modified_ms)
            }
            Self::Recorded(_) if !granted.may_ask(path) => Err(FileError::Denied),
            Self::Recorded(recording) => recording.modified_ms(path),
        }
    }
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

    pub(super) fn show(self: &Arc<Self>, granted: &Env, wasi: &mut WasiCtxBuilder) {
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

    fn read(&self, path: &str, most: usize) -> Result<Vec<u8>, FileError> {
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

    fn read_range(&self, path: &str, offset: u64, length: usize) -> Result<Vec<u8>, FileError> {
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
    fn entries_from(&self, path: &str, start: u64, most: usize) -> Result<Page, FileError> {
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
    fn entries(&self, path: &str) -> Result<Vec<(String, EntryKind)>, FileError> {
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

    fn space(&self, path: &str) -> Result<Space, FileError> {
        let known = self.noted(SPACE, path, |columns| {
            let mut next = || columns.next()?.parse::<u64>().ok();
            let (total_bytes, available_bytes, inodes, inodes_free) = (next()?, next()?, next()?, next()?);
            let used_bytes = next().unwrap_or(total_bytes.saturating_sub(available_bytes));
            Some(Space { total_bytes, available_bytes, used_bytes, inodes, inodes_free })
        });
        known.ok_or(FileError::NotFound)
    }

    fn modified_ms(&self, path: &str) -> Result<u64, FileError> {
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
        now.at_ms.saturating_sub(now.started_ms).saturating_mul(1_000_000)
    }
}

// === impl Recorder ===

impl Recorder {
    /// Saves to that folder from now on.
    pub fn go_to(&self, folder: PathBuf) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).folder = folder;
    }

    /// Returns the first error of saving, if there was one.
    pub fn failed(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).failed.take()
    }

    fn write(&self, path: &str, bytes: Option<&[u8]>) {
        self.put(|folder| {
            let file = inside(folder, path);
            // The name was only listed, and there is already a file for it.
            if bytes.is_none() && file.exists() {
                return Ok(());
            }
            make_folder(file.parent().unwrap_or(folder))?;
            fs::write(file, bytes.unwrap_or_default())
        });
    }

    fn write_range(&self, path: &str, offset: u64, bytes: &[u8]) {
        self.put(|folder| {
            let file = inside(folder, path);
            make_folder(file.parent().unwrap_or(folder))?;
            let mut file = File::options().write(true).create(true).truncate(offset == 0).open(file)?;
            // A read beyond the end must not make the recorded file longer.
            if bytes.is_empty() {
                return Ok(());
            }
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(bytes)
        });
    }

    fn list(&self, path: &str, entries: &[(String, EntryKind)]) {
        self.put(|folder| make_folder(&inside(folder, path)));
        for (name, kind) in entries {
            let path = format!("{path}/{name}");
            match kind {
                EntryKind::Directory => self.put(|folder| make_folder(&inside(folder, &path))),
                EntryKind::File | EntryKind::Other => self.write(&path, None),
            }
        }
    }

    fn measure(&self, path: &str, space: &Space) {
        let Space { total_bytes, available_bytes, used_bytes, inodes, inodes_free } = space;
        self.note(SPACE, path, format_args!("{total_bytes}\t{available_bytes}\t{inodes}\t{inodes_free}\t{used_bytes}"));
    }

    pub(crate) fn exchange(&self, exchange: &RecordedExchange) {
        self.put(|folder| {
            fs::create_dir_all(folder)?;
            let mut file = File::options().append(true).create(true).open(beside(folder, HTTP))?;
            writeln!(file, "{}", serde_json::to_string(exchange)?)
        });
    }

    /// Notes something of a path, in a file beside the tick's folder.
    fn note(&self, kind: &str, path: &str, columns: std::fmt::Arguments<'_>) {
        self.put(|folder| {
            fs::create_dir_all(folder)?;
            let mut file = File::options().append(true).create(true).open(beside(folder, kind))?;
            writeln!(file, "{path}\t{columns}")
        });
    }

    fn put(&self, put: impl FnOnce(&Path) -> io::Result<()>) {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = put(&recorded.folder) {
            recorded.failed.get_or_insert(error);
        }
    }
}

/// Creates a folder and its parents. A symlink that was only listed has been recorded as a file; if it turns out to
/// lead to a folder, that file is removed.
fn make_folder(folder: &Path) -> io::Result<()> {
    for above in folder.ancestors() {
        if above.is_file() {
            fs::remove_file(above)?;
        }
    }
    fs::create_dir_all(folder)
}

/// Returns the place of a machine's path in a recording. The path is absolute and has no `..`, because it matched a
/// grant.
fn inside(folder: &Path, path: &str) -> PathBuf {
    folder.join(path.trim_start_matches('/'))
}

/// Returns the file of notes beside the folder of a tick.
fn beside(folder: &Path, kind: &str) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(kind);
    PathBuf::from(name)
}

/// Opens a file or folder of a recording. Symlinks in the recording are not followed.
fn open(folder: &Path, path: &str) -> io::Result<File> {
    open_by(Resolver::of_this_process(), folder, path)
}

fn open_by(resolver: Resolver, folder: &Path, path: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let folder = openat(CWD, folder, flags | OFlags::DIRECTORY, Mode::empty())?;
    let path = Path::new(".").join(path.trim_start_matches('/'));
    Ok(resolver.open_beneath(&folder, &path, flags)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(glob: &str) -> Files {
        let mut files = Files::default();
        files.grant(glob).unwrap();
        files
    }

    #[test]
    fn what_is_recorded_reads_the_same_when_it_is_replayed() {
        let (machine, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = machine.path().canonicalize().unwrap();
        let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
        let granted = granted(&format!("{}/**", root.display()));
        fs::create_dir(root.join("sub")).unwrap();
        fs::write(path("a"), "first").unwrap();
        fs::write(path("b"), "always").unwrap();
        let recorder = Arc::new(Recorder::default());
        let live = Inputs::RecordedBy(recorder.clone());
        recorder.go_to(kept.path().join("tick-1"));
        let listed = live.entries(&granted, &path("sub/..").replace("/sub/..", "")).err();
        assert_eq!(listed, Some(FileError::Denied), "the folder itself is not granted");
        let reads = [live.read(&granted, &path("a"), 100), live.read(&granted, &path("b"), 100)];
        assert_eq!(reads, [Ok(b"first".to_vec()), Ok(b"always".to_vec())]);
        let sub = live.entries(&granted, &path("sub"));
        let space = live.space(&granted, &path("a")).unwrap();
        let modified_ms = live.modified_ms(&granted, &path("a")).unwrap();
        fs::write(path("a"), "second").unwrap();
        recorder.go_to(kept.path().join("tick-2"));
        live.read(&granted, &path("a"), 100).unwrap();
        assert!(recorder.failed().is_none());

        drop(machine);
        let recording = Arc::new(Recording::default());
        let replayed = Inputs::Recorded(recording.clone());
        recording.go_to(kept.path().join("tick-1"), 1000);
        assert_eq!(replayed.read(&granted, &path("a"), 100), Ok(b"first".to_vec()));
        assert_eq!(replayed.entries(&granted, &path("sub")), sub);
        recording.go_to(kept.path().join("tick-2"), 2000);
        assert_eq!(replayed.read(&granted, &path("a"), 100), Ok(b"second".to_vec()));
        assert_eq!(replayed.read(&granted, &path("b"), 100), Ok(b"always".to_vec()), "as it was before");
        assert_eq!(replayed.read(&granted, &path("b"), 3), Err(FileError::TooLarge(3)));
        assert_eq!(replayed.space(&granted, &path("a")), Ok(space));
        assert_eq!(replayed.modified_ms(&granted, &path("a")), Ok(modified_ms));
        assert_eq!(replayed.read(&granted, &path("c"), 100), Err(FileError::NotFound));
        assert_eq!(replayed.read(&granted, "/etc/passwd", 100), Err(FileError::Denied));
    }

    #[test]
    fn what_is_read_and_listed_in_pieces_replays_in_pieces() {
        let (machine, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = machine.path().canonicalize().unwrap();
        let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
        let granted = granted(&format!("{}/**", root.display()));
        fs::write(path("a"), "0123456789").unwrap();
        fs::create_dir(root.join("sub")).unwrap();
        ["x", "y", "z"].iter().for_each(|name| fs::write(root.join("sub").join(name), "").unwrap());
        let recorder = Arc::new(Recorder::default());
        recorder.go_to(kept.path().join("tick-1"));
        let live = Inputs::RecordedBy(recorder.clone());
        assert_eq!(live.read_range(&granted, &path("a"), 0, 4), Ok(b"0123".to_vec()));
        assert_eq!(live.read_range(&granted, &path("a"), 4, 3), Ok(b"456".to_vec()));
        assert_eq!(live.read_range(&granted, &path("a"), 99, 3), Ok(Vec::new()));
        assert_eq!(
            live.entries_from(&granted, &path("sub"), 0, 9).map(|(page, next)| (page.len(), next)),
            Ok((3, None))
        );
        assert!(recorder.failed().is_none());

        let recording = Arc::new(Recording::default());
        let replayed = Inputs::Recorded(recording.clone());
        recording.go_to(kept.path().join("tick-1"), 1000);
        assert_eq!(replayed.read_range(&granted, &path("a"), 2, 3), Ok(b"234".to_vec()));
        assert_eq!(replayed.read_range(&granted, &path("a"), 5, 99), Ok(b"56".to_vec()), "what was read of it");
        assert_eq!(replayed.read_range(&granted, &path("a"), u64::MAX, 9), Ok(Vec::new()));
        assert_eq!(replayed.read_range(&granted, &path("b"), 0, 9), Err(FileError::NotFound));
        assert_eq!(replayed.read_range(&granted, "/etc/passwd", 0, 9), Err(FileError::Denied));
        let (mut names, next) = replayed.entries_from(&granted, &path("sub"), 0, 2).unwrap();
        let (rest, end) = replayed.entries_from(&granted, &path("sub"), next.unwrap(), 2).unwrap();
        names.extend(rest);
        names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let named = |name: &str| (name.to_owned(), EntryKind::File);
        assert_eq!((names, end), (vec![named("x"), named("y"), named("z")], None));
    }

    #[test]
    fn a_recording_that_does_not_say_what_is_used_has_used_what_is_not_available() {
        let kept = tempfile::tempdir().unwrap();
        fs::create_dir(kept.path().join("tick-1")).unwrap();
        fs::write(kept.path().join("tick-1.space"), "/\t1000\t300\t50\t20\n/srv\t1000\t300\t50\t20\t600\n").unwrap();
        let recording = Arc::new(Recording::default());
        recording.go_to(kept.path().join("tick-1"), 0);
        let used =
            |path: &str| Inputs::Recorded(recording.clone()).space(&granted(path), path).map(|space| space.used_bytes);
        assert_eq!((used("/"), used("/srv")), (Ok(700), Ok(600)));
    }

    #[test]
    fn a_link_in_a_recording_leads_nowhere() {
        let kept = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", kept.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", kept.path().join("file")).unwrap();
        fs::create_dir(kept.path().join("sub")).unwrap();
        fs::write(kept.path().join("sub/file"), "kept").unwrap();
        for resolver in [Resolver::of_this_process(), Resolver::Stepwise] {
            let open = |path| open_by(resolver, kept.path(), path);
            for path in ["/etc/passwd", "/etc", "/file"] {
                assert!(open(path).is_err(), "{path}");
            }
            assert!(open("/sub").unwrap().metadata().unwrap().is_dir());
            assert!(open("/").unwrap().metadata().unwrap().is_dir());
            assert_eq!(io::read_to_string(open("/sub/file").unwrap()).unwrap(), "kept");
            assert_eq!(open("/sub/no").unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }
}
