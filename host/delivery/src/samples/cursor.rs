//! The durable place in history up to which a server has everything.
//!
//! Samples are sent window by window; those of a window in parts, in any order. The cursor knows the window that is
//! under way and its parts that the server took. It is written in place, alternately to two places of its file, so that
//! a crash while it is written leaves the state before.

use anyhow::{Context as _, Result, bail};
use dropsonde_sandbox::replace::{PRIVATE, make_inside};
use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of each of the two places.
const PLACE: usize = 4096;

/// Says which file it is, and in which version.
const MAGIC: u64 = u64::from_le_bytes(*b"DSCURS01");

/// Bytes before the parts.
const HEADER: usize = 64;

/// The most parts of a window.
pub(crate) const MOST_PARTS: usize = (PLACE - HEADER - 4) * 8;

/// The longest wait for another user of the file.
const PATIENCE: Duration = Duration::from_secs(1);

/// The place of one server.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// None: it is not kept.
    file: Option<File>,
    state: State,
    is_failing: bool,
    /// The number of the last write.
    number: u64,
}

/// The window to send next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CursorPlace {
    /// The window that is under way. If none is, it is empty, and the next one begins there.
    pub(crate) window: Range<i64>,
    /// The number of its parts.
    pub(crate) parts: usize,
    /// The time before which everything had been sent when the clock was set back.
    pub(crate) ahead_ms: Option<i64>,
}

/// The window that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    /// The server has nothing from before this time.
    began_ms: i64,
    /// The time up to which it had everything before the clock was set back; `i64::MIN` if that never happened.
    ahead_ms: i64,
    window: Range<i64>,
    /// Whether the server took each of the parts.
    parts: Vec<bool>,
    /// A number of the rules by which series get their labels, and so their parts.
    division: u64,
}

impl Cursor {
    /// Opens the cursor in a file. A server without one begins at `since_ms`. Without a file nothing is kept.
    /// `division`: a number of the rules by which series get their labels; with other rules, the parts are others.
    pub(crate) fn open(path: Option<&Path>, since_ms: i64, division: u64) -> Result<Self> {
        let state =
            State { began_ms: since_ms, ahead_ms: i64::MIN, window: since_ms..since_ms, parts: Vec::new(), division };
        let mut cursor = Self { file: None, state, is_failing: false, number: 0 };
        let Some(path) = path else { return Ok(cursor) };
        let cannot = || format!("cannot open {}", path.display());
        path.parent().map_or(Ok(()), make_inside).with_context(cannot)?;
        let opened = File::options().read(true).write(true).create(true).truncate(false).mode(PRIVATE).open(path);
        let file = match opened {
            // A new server gets samples all the same.
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::ReadOnlyFilesystem) => {
                tracing::error!(%error, file = %path.display(), "cannot note what is sent");
                return Ok(cursor);
            }
            opened => opened.with_context(cannot)?,
        };
        if !is_locked(&file) {
            bail!("{} is in use: something else sends to this server", path.display());
        }
        let is_new = file.metadata().with_context(cannot)?.len() == 0;
        let places = (0..2_u64).filter_map(|nth| {
            let mut bytes = vec![0; PLACE];
            file.read_exact_at(&mut bytes, nth * PLACE as u64).ok()?;
            State::read(&bytes)
        });
        let newest = places.max_by_key(|(number, _)| *number);
        match newest {
            Some((number, mut state)) => {
                if state.division != division {
                    state.parts.fill(false);
                }
                (cursor.number, cursor.state) = (number, State { division, ..state });
            }
            None if is_new => {}
            None => {
                tracing::error!(file = %path.display(), "the place up to which samples were sent cannot be read; beginning at `since`")
            }
        }
        let file = cursor.file.insert(file).try_clone().with_context(cannot)?;
        // The file has its full size from now on, so that a full disk does not matter.
        cursor.write();
        cursor.write();
        // Later writes reach the disk when the system likes: after a power failure, some samples are sent again.
        if !cursor.is_failing {
            file.sync_all().with_context(cannot)?;
        }
        Ok(cursor)
    }

    /// Returns the window to send next.
    pub(crate) fn place(&self) -> CursorPlace {
        let State { ahead_ms, window, parts, .. } = &self.state;
        let ahead_ms = Some(*ahead_ms).filter(|ahead_ms| *ahead_ms != i64::MIN);
        CursorPlace { window: window.clone(), parts: parts.len(), ahead_ms }
    }

    /// Returns the time before which the server has everything.
    pub(crate) fn sent_before_ms(&self) -> i64 {
        self.state.window.start
    }

    /// Returns the time from which on the server was sent samples.
    pub(crate) fn began_ms(&self) -> i64 {
        self.state.began_ms
    }

    /// Returns whether the server took a part of the window.
    pub(crate) fn has(&self, part: usize) -> bool {
        self.state.parts.get(part).copied().unwrap_or(false)
    }

    /// Begins a window that is sent in parts.
    pub(crate) fn begin(&mut self, window: Range<i64>, parts: usize) {
        self.state = State { window, parts: vec![false; parts], ..self.state };
        self.write();
    }

    /// Notes that the server took a part of the window.
    pub(crate) fn took(&mut self, part: usize) {
        self.state.parts.get_mut(part).into_iter().for_each(|took| *took = true);
        self.write();
    }

    /// Ends the window: everything before `at_ms` was sent.
    pub(crate) fn end(&mut self, at_ms: i64) {
        self.state = State { window: at_ms..at_ms, parts: Vec::new(), ..self.state };
        self.write();
    }

    /// Goes on at another time. Whatever was sent before counts no more.
    pub(crate) fn begin_at(&mut self, at_ms: i64) {
        self.state =
            State { began_ms: at_ms, ahead_ms: i64::MIN, window: at_ms..at_ms, parts: Vec::new(), ..self.state };
        self.write();
    }

    /// Goes on at an earlier time, because the clock was set back. When it has caught up, what was sent before counts
    /// again.
    pub(crate) fn set_back(&mut self, at_ms: i64) {
        let ahead_ms = self.state.ahead_ms.max(self.state.window.start);
        self.state = State { began_ms: at_ms, ahead_ms, window: at_ms..at_ms, parts: Vec::new(), ..self.state };
        self.write();
    }

    /// Writes the state. A disk that does not work is no reason to send nothing: then the state is in memory alone.
    fn write(&mut self) {
        let Some(file) = &self.file else { return };
        self.number += 1;
        let bytes = self.state.bytes(self.number);
        let written = file.write_all_at(&bytes, (self.number % 2) * PLACE as u64);
        match (&written, self.is_failing) {
            (Err(error), false) => {
                tracing::error!(%error, "cannot note what was sent; after a restart some samples may be sent again");
            }
            (Ok(()), true) => tracing::info!("what was sent is noted again"),
            _ => {}
        }
        self.is_failing = written.is_err();
    }
}

/// Locks a file, so that nothing else sends to the same server. Who sent to it before a reload may need a moment to end.
/// A disk that has no locks is used without.
fn is_locked(file: &File) -> bool {
    let began = Instant::now();
    while matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
        if began.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(PATIENCE / 20);
    }
    true
}

impl State {
    /// Reads a place: the number of the write, and the state.
    fn read(bytes: &[u8]) -> Option<(u64, Self)> {
        let (content, sum) = bytes.split_at_checked(PLACE - 4)?;
        if crc32fast::hash(content) != u32::from_le_bytes(sum.try_into().ok()?) {
            return None;
        }
        let word = |nth: usize| Some(u64::from_le_bytes(content.get(nth * 8..nth * 8 + 8)?.try_into().ok()?));
        if word(0)? != MAGIC {
            return None;
        }
        let window = word(2)? as i64..word(3)? as i64;
        let (began_ms, ahead_ms, division) = (word(5)? as i64, word(6)? as i64, word(7)?);
        let parts = usize::try_from(word(4)?).ok().filter(|parts| *parts <= MOST_PARTS)?;
        let bits = content.get(HEADER..)?;
        let took = |part: usize| bits.get(part / 8).is_some_and(|byte| byte & (1 << (part % 8)) != 0);
        Some((word(1)?, Self { began_ms, ahead_ms, window, parts: (0..parts).map(took).collect(), division }))
    }

    fn bytes(&self, number: u64) -> Vec<u8> {
        let (start, end, began) = (self.window.start as u64, self.window.end as u64, self.began_ms as u64);
        let words = [MAGIC, number, start, end, self.parts.len() as u64, began, self.ahead_ms as u64, self.division];
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        bytes.extend(
            self.parts
                .chunks(8)
                .map(|bits| bits.iter().enumerate().fold(0_u8, |byte, (nth, took)| byte | (u8::from(*took) << nth))),
        );
        bytes.resize(PLACE - 4, 0);
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_cursor_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("remote-write/a.cursor");
        let open = || Cursor::open(Some(&path), 500, 1).unwrap();
        let mut cursor = open();
        assert_eq!(cursor.place().window, 500..500);
        cursor.begin(500..900, 11);
        cursor.took(10);
        cursor.took(3);
        drop(cursor);
        let cursor = open();
        assert_eq!((cursor.place().window, cursor.place().parts), (500..900, 11));
        assert_eq!((0..11).filter(|part| cursor.has(*part)).collect::<Vec<_>>(), [3, 10]);
        assert!(Cursor::open(Some(&path), 0, 1).is_err(), "two cannot use it");
        drop(cursor);
        let other = Cursor::open(Some(&path), 500, 2).unwrap();
        assert!(other.place().parts == 11 && !(0..11).any(|part| other.has(part)), "its parts are others");
        drop(other);
        let mut cursor = open();
        cursor.end(900);
        drop(cursor);
        let mut cursor = open();
        assert_eq!((cursor.began_ms(), cursor.sent_before_ms(), cursor.place().ahead_ms), (500, 900, None));
        cursor.set_back(30);
        drop(cursor);
        let mut cursor = open();
        assert_eq!((cursor.began_ms(), cursor.sent_before_ms(), cursor.place().ahead_ms), (30, 30, Some(900)));
        cursor.begin_at(950);
        assert_eq!((cursor.began_ms(), cursor.place().ahead_ms), (950, None));
    }

    #[test]
    fn a_write_that_was_cut_short_leaves_the_state_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.cursor");
        let mut cursor = Cursor::open(Some(&path), 0, 1).unwrap();
        cursor.end(1);
        cursor.end(2);
        let written = fs::read(&path).unwrap();
        let newest = (cursor.number % 2) as usize * PLACE;
        drop(cursor);
        for cut in [8, 20, HEADER, PLACE - 1] {
            let mut torn = written.clone();
            torn[newest + cut] ^= 0x55;
            fs::write(&path, &torn).unwrap();
            assert_eq!(Cursor::open(Some(&path), 77, 1).unwrap().sent_before_ms(), 1);
        }
        fs::write(&path, vec![0x55; 2 * PLACE]).unwrap();
        assert_eq!(Cursor::open(Some(&path), 77, 1).unwrap().sent_before_ms(), 77);
    }

    #[test]
    fn without_a_file_nothing_is_kept() {
        let mut cursor = Cursor::open(None, 5, 1).unwrap();
        cursor.end(9);
        assert_eq!(cursor.sent_before_ms(), 9);
    }
}
