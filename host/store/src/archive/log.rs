//! The log of rows that are in no chunk yet, so that a crash loses no more than what came since the last flush. A new
//! log begins with all such rows there are; then the old one is superfluous.

use super::disk::{Disk, Growing};
use super::names::{Explained, FrameKey, Names};
use super::record::{self, FileHead, FileKind, Item, Kind, Records};
use super::rows::{self, Entry, Row};
use crate::codec::{Damaged, Reader, put_i64};
use crate::frame::Frame;
use crate::rows::Rows;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;

/// Bytes of a record, about: what a flipped bit costs.
const PART: usize = 4 << 10;

#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) name: String,
    pub(crate) number: u64,
    /// How many were written.
    pub(crate) rows: u64,
    pub(crate) size: u64,
    file: Box<dyn Growing>,
    explained: Explained,
    pending: Vec<u8>,
    /// The record under way, and its time.
    part: Vec<u8>,
    part_ms: i64,
}

pub(crate) fn name(number: u64) -> String {
    format!("log-{number:010}")
}

pub(crate) fn parse_name(name: &str) -> Option<u64> {
    name.strip_prefix("log-")?.parse().ok()
}

impl Log {
    pub(crate) fn create(disk: &dyn Disk, number: u64) -> io::Result<Self> {
        let name = name(number);
        let file = disk.create(&name)?;
        let mut pending = Vec::new();
        record::put_file_head(&mut pending, FileKind::Log, &[]);
        let explained = Explained::default();
        Ok(Self { name, number, rows: 0, size: 0, file, explained, pending, part: Vec::new(), part_ms: 0 })
    }

    pub(crate) fn add(&mut self, id: u32, key: &FrameKey, rows: &Rows, begins: bool) {
        self.explained.explain(&mut self.pending, id, key);
        if self.part.is_empty() {
            self.part_ms = rows.at_ms.first().copied().unwrap_or_default();
            put_i64(&mut self.part, self.part_ms);
        }
        rows::put(&mut self.part, self.part_ms, &key.schema, id, rows, begins);
        self.rows += rows.len() as u64;
        if self.part.len() >= PART {
            self.end_part();
        }
    }

    fn end_part(&mut self) {
        let part = &mut self.part;
        if !part.is_empty() {
            record::put(&mut self.pending, Kind::Rows, |out| out.append(part));
        }
    }

    /// Makes what was added stay; how many bytes those were.
    pub(crate) fn write(&mut self) -> io::Result<u64> {
        self.end_part();
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
    mut frame_of: impl FnMut(&FrameKey) -> Option<Arc<Frame>>,
) -> io::Result<Replayed> {
    let bytes = record::read_all(&*disk.open(name)?)?;
    let mut names = Names::default();
    let mut known: HashMap<u32, Option<Arc<Frame>>> = HashMap::new();
    let mut replayed = Replayed::default();
    let mut row = Row::default();
    for item in Records::of(&bytes) {
        let read = match item {
            Item::Record { kind: Kind::File, payload, .. } => match record::file_head(payload, FileKind::Log) {
                Ok(FileHead::Newer) => return Ok(Replayed { newer: true, ..Replayed::default() }),
                Ok(FileHead::Known { .. }) => Ok(()),
                Err(error) => Err(error),
            },
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
    Ok(replayed)
}

/// Shows the entries of a record, each to be read to its end.
pub(crate) fn entries(
    payload: &[u8],
    names: &Names,
    row: &mut Row,
    mut take: impl FnMut(&FrameKey, &mut Entry<'_, '_>) -> Result<(), Damaged>,
) -> Result<(), Damaged> {
    let mut reader = Reader(payload);
    let record_ms = reader.i64()?;
    while !reader.is_empty() {
        let schema_of = |id| names.frame(id).map(|key| &key.schema);
        let mut entry = Entry::read(&mut reader, record_ms, schema_of, row)?;
        take(names.frame(entry.id)?, &mut entry)?;
    }
    Ok(())
}
