//! The log of rows that are in no chunk yet, so that a crash loses no more than what came since the last flush. A new
//! log begins with all such rows there are; then the old one is superfluous.
//!
//! Its records are of one shard each, and a frame's rows all in one shard: several threads can read it.

use super::disk::{Disk, Growing};
use super::names::{ById, Explained, FrameKey, Names};
use super::record::{self, FileHead, FileKind, Item, Kind, Records};
use super::rows::{self, Entry, Row};
use crate::codec::{Damaged, Reader, put_i64};
use crate::frame::Frame;
use crate::rows::Rows;
use std::io;
use std::sync::Arc;
use std::thread;

/// Bytes of a record, about: what a flipped bit costs.
const PART: usize = 4 << 10;

/// Shards of a log of many frames; one of few has one.
const SHARDS: u8 = 8;
const MANY: usize = 1000;

/// Bytes of a log that one thread reads soon enough.
const SHORT: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) name: String,
    pub(crate) number: u64,
    /// How many were written.
    pub(crate) rows: u64,
    pub(crate) size: u64,
    /// Whether it is certain to be there.
    pub(crate) is_confirmed: bool,
    file: Box<dyn Growing>,
    explained: Explained,
    pending: Vec<u8>,
    /// By shard: the record under way.
    parts: Vec<Part>,
}

#[derive(Debug, Default)]
struct Part {
    bytes: Vec<u8>,
    /// Times are from it on.
    record_ms: i64,
}

pub(crate) fn name(number: u64) -> String {
    format!("log-{number:010}")
}

pub(crate) fn parse_name(name: &str) -> Option<u64> {
    name.strip_prefix("log-")?.parse().ok()
}

impl Log {
    /// For so many frames.
    pub(crate) fn create(disk: &dyn Disk, number: u64, frames: usize) -> io::Result<Self> {
        let name = name(number);
        let file = disk.create(&name)?;
        let mut pending = Vec::new();
        record::put_file_head(&mut pending, FileKind::Log, &[]);
        let explained = Explained::default();
        let parts = (0..if frames < MANY { 1 } else { SHARDS }).map(|_| Part::default()).collect();
        Ok(Self { name, number, rows: 0, size: 0, is_confirmed: false, file, explained, pending, parts })
    }

    pub(crate) fn add(&mut self, id: u32, key: &FrameKey, rows: &Rows, begins: bool) {
        self.explained.explain(&mut self.pending, id, key);
        self.rows += rows.len() as u64;
        let shard = id as usize % self.parts.len().max(1);
        let Some(part) = self.parts.get_mut(shard) else { return };
        if part.bytes.is_empty() {
            part.record_ms = rows.at_ms.first().copied().unwrap_or_default();
            part.bytes.push(shard as u8);
            put_i64(&mut part.bytes, part.record_ms);
        }
        rows::put(&mut part.bytes, part.record_ms, &key.schema, id, rows, begins);
        if part.bytes.len() >= PART {
            part.end(&mut self.pending);
        }
    }

    /// Makes what was added stay; how many bytes those were.
    pub(crate) fn write(&mut self) -> io::Result<u64> {
        self.parts.iter_mut().for_each(|part| part.end(&mut self.pending));
        if self.pending.is_empty() {
            return Ok(0);
        }
        let bytes = std::mem::take(&mut self.pending);
        self.file.append(&bytes)?;
        self.file.sync()?;
        self.size += bytes.len() as u64;
        Ok(bytes.len() as u64)
    }
}

impl Part {
    fn end(&mut self, pending: &mut Vec<u8>) {
        if !self.bytes.is_empty() {
            record::put(pending, Kind::Rows, |out| out.append(&mut self.bytes));
        }
    }
}

/// What reading a log came to.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    pub(crate) rows: u64,
    pub(crate) damaged: u64,
    pub(crate) newer: bool,
}

/// Gives the rows of a log, in the order they were written, to the frames they are of, if those are wanted.
pub(crate) fn read(
    disk: &dyn Disk,
    name: &str,
    frame_of: &(dyn Fn(&FrameKey) -> Option<Arc<Frame>> + Sync),
) -> io::Result<Replayed> {
    let bytes = record::read_all(&*disk.open(name)?)?;
    let threads = if bytes.len() <= SHORT { 1 } else { thread::available_parallelism().map_or(1, usize::from) };
    let read = |nth: usize| read_shards(&bytes, |shard| usize::from(shard) % threads == nth, frame_of);
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|nth| scope.spawn(move || read(nth))).collect();
        let mut replayed = read(0);
        for other in others {
            let other = other.join().map_err(|_| io::Error::other("a thread that read it has failed"))?;
            // What else is damaged all of them have seen.
            replayed.rows += other.rows;
            replayed.damaged = replayed.damaged.max(other.damaged);
        }
        Ok(replayed)
    })
}

fn read_shards(
    bytes: &[u8],
    wanted: impl Fn(u8) -> bool,
    frame_of: &(dyn Fn(&FrameKey) -> Option<Arc<Frame>> + Sync),
) -> Replayed {
    let mut names = Names::default();
    let mut known: ById<Option<Arc<Frame>>> = ById::default();
    let mut replayed = Replayed::default();
    let mut row = Row::default();
    for item in Records::of(bytes) {
        let read = match item {
            Item::Record { kind: Kind::File, payload, .. } => match record::file_head(payload, FileKind::Log) {
                Ok(FileHead::Newer) => return Replayed { newer: true, ..Replayed::default() },
                Ok(FileHead::Known { .. }) => Ok(()),
                Err(error) => Err(error),
            },
            Item::Record { kind: Kind::Rows, payload, .. } if payload.first().is_some_and(|shard| !wanted(*shard)) => {
                Ok(())
            }
            Item::Record { kind: Kind::Rows, payload, .. } => entries(payload, &names, &mut row, |key, entry| {
                let frame = known.entry(entry.id).or_insert_with(|| frame_of(key));
                let mut replaying = frame.as_ref().map(|frame| frame.replay(entry.generation, entry.before.take()));
                while let Some(row) = entry.next()? {
                    replayed.rows += 1;
                    if let Some(replaying) = &mut replaying {
                        replaying.row(row.at_ms, &row.readings);
                    }
                }
                Ok(())
            }),
            Item::Record { kind, payload, .. } => names.learn(kind, payload),
            Item::Torn { .. } => Ok(()),
            Item::Damaged { .. } => Err(Damaged),
        };
        replayed.damaged += u64::from(read.is_err());
    }
    replayed
}

/// Shows the entries of a record, each to be read to its end.
pub(crate) fn entries(
    payload: &[u8],
    names: &Names,
    row: &mut Row,
    mut take: impl FnMut(&FrameKey, &mut Entry<'_, '_>) -> Result<(), Damaged>,
) -> Result<(), Damaged> {
    let mut reader = Reader(payload);
    let _shard = reader.u8()?;
    let record_ms = reader.i64()?;
    while !reader.is_empty() {
        let schema_of = |id| names.frame(id).map(|key| &key.schema);
        let mut entry = Entry::read(&mut reader, record_ms, schema_of, row)?;
        take(names.frame(entry.id)?, &mut entry)?;
    }
    Ok(())
}
