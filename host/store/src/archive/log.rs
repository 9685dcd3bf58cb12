//! The log of rows that are in no chunk yet. It limits the loss in a crash to the rows since the last flush. A new log
//! begins with all such rows; then the old log is obsolete.

use super::definitions::{ById, FrameKey, ReadDefinitions, WrittenDefinitions};
use super::disk::{AppendOnlyFile, Disk};
use super::log_rows::{self, LogEntry, LogRow, LogRowReader};
use super::record::{self, FileHead, FileKind, FilePart, RecordKind, Records};
use crate::Schema;
use crate::codec::{ByteReader, CorruptData, put_i64};
use crate::rows::RawRows;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// The approximate size of a record in bytes, which is what a flipped bit can destroy.
const PART: usize = 4 << 10;

#[derive(Debug)]
pub(crate) struct LogWriter {
    pub(crate) name: String,
    pub(crate) number: u64,
    /// The number of rows that were added.
    pub(crate) rows: u64,
    pub(crate) size: u64,
    /// Whether the file is durable.
    pub(crate) is_confirmed: bool,
    file: Box<dyn AppendOnlyFile>,
    defined: WrittenDefinitions,
    pending: Vec<u8>,
    /// The record that is being filled.
    part: Vec<u8>,
    /// The time of that record. Times in it are relative to this.
    part_ms: i64,
}

pub(crate) fn name(number: u64) -> String {
    format!("log-{number:010}")
}

pub(crate) fn parse_name(name: &str) -> Option<u64> {
    name.strip_prefix("log-")?.parse().ok()
}

impl LogWriter {
    pub(crate) fn create(disk: &dyn Disk, number: u64) -> io::Result<Self> {
        let name = name(number);
        let file = disk.create(&name)?;
        let mut pending = Vec::new();
        record::put_file_head(&mut pending, FileKind::Log, &[])?;
        Ok(Self {
            name,
            number,
            rows: 0,
            size: 0,
            is_confirmed: false,
            file,
            defined: WrittenDefinitions::default(),
            pending,
            part: Vec::new(),
            part_ms: 0,
        })
    }

    /// Returns the bytes that were added, written or not.
    pub(crate) fn added(&self) -> u64 {
        self.size + (self.pending.len() + self.part.len()) as u64
    }

    pub(crate) fn add(&mut self, id: u32, key: &FrameKey, rows: &RawRows, begins: bool) -> io::Result<()> {
        self.defined.define(&mut self.pending, id, key)?;
        self.rows += rows.len() as u64;
        if self.part.is_empty() {
            self.part_ms = rows.at_ms.first().copied().unwrap_or_default();
            put_i64(&mut self.part, self.part_ms);
        }
        log_rows::put(&mut self.part, self.part_ms, &key.schema, id, rows, begins);
        if self.part.len() >= PART { self.end_part() } else { Ok(()) }
    }

    fn end_part(&mut self) -> io::Result<()> {
        if !self.part.is_empty() {
            record::put(&mut self.pending, RecordKind::Rows, |out| out.append(&mut self.part))?;
        }
        Ok(())
    }

    /// Writes the added bytes and makes them durable. Returns their number.
    pub(crate) fn write(&mut self) -> io::Result<u64> {
        self.end_part()?;
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

/// The contents of a log.
#[derive(Debug, Default)]
pub(crate) struct LoadedLog {
    pub(crate) frames: Vec<(FrameKey, LoggedRows)>,
    /// The number of corrupt places.
    pub(crate) damaged: u64,
    /// Whether a later version wrote the file.
    pub(crate) newer: bool,
}

/// The rows of one frame in a log, which are not read yet.
#[derive(Debug)]
pub(crate) struct LoggedRows {
    contents: Arc<LogContents>,
    entries: Vec<LogPosition>,
    pub(crate) rows: u64,
}

/// A log in memory, kept until all frames have read their part.
#[derive(Debug)]
struct LogContents {
    bytes: Vec<u8>,
    /// The ranges of the payloads with rows.
    records: Vec<Range<usize>>,
}

/// The number of a record, and the offset of an entry in its payload.
#[derive(Debug, Clone, Copy)]
struct LogPosition {
    record: u32,
    at: u32,
}

/// Reads which frames a log has, without reading the rows.
pub(crate) fn load(disk: &dyn Disk, name: &str) -> io::Result<LoadedLog> {
    let bytes = record::read_all(&*disk.open(name)?)?;
    let mut loaded = LoadedLog::default();
    let mut definitions = ReadDefinitions::default();
    let mut records = Vec::new();
    let mut found: ById<(Vec<LogPosition>, u64)> = ById::default();
    for item in Records::of(&bytes) {
        let read = match item {
            FilePart::Record { kind: RecordKind::File, payload, .. } => match record::file_head(payload, FileKind::Log)
            {
                Ok(FileHead::Newer) => return Ok(LoadedLog { newer: true, ..LoadedLog::default() }),
                Ok(FileHead::Known { .. }) => Ok(()),
                Err(error) => Err(error),
            },
            FilePart::Record { kind: RecordKind::Rows, payload, offset } => {
                let record = u32::try_from(records.len()).map_err(io::Error::other)?;
                let start = offset + record::HEAD;
                records.push(start..start + payload.len());
                entries(payload, |_, at, entry| {
                    definitions.frame(entry.id)?;
                    let (places, rows) = found.entry(entry.id).or_default();
                    places.push(LogPosition { record, at: u32::try_from(at).map_err(|_| CorruptData)? });
                    *rows += entry.rows as u64;
                    Ok(())
                })
            }
            FilePart::Record { kind, payload, .. } => definitions.learn(kind, payload),
            FilePart::Torn { .. } => Ok(()),
            FilePart::Corrupt { .. } => Err(CorruptData),
        };
        loaded.damaged += u64::from(read.is_err());
    }
    let contents = Arc::new(LogContents { bytes, records });
    let logged = |(entries, rows)| LoggedRows { contents: contents.clone(), entries, rows };
    let named = found.into_iter().filter_map(|(id, found)| Some((definitions.frame(id).ok()?.clone(), logged(found))));
    loaded.frames = named.collect();
    Ok(loaded)
}

/// Passes each entry of a record to `take`, with the record's time and the entry's offset.
pub(crate) fn entries<'a>(
    payload: &'a [u8],
    mut take: impl FnMut(i64, usize, LogEntry<'a>) -> Result<(), CorruptData>,
) -> Result<(), CorruptData> {
    let mut reader = ByteReader(payload);
    let record_ms = reader.i64()?;
    while !reader.is_empty() {
        let at = payload.len() - reader.0.len();
        take(record_ms, at, LogEntry::read(&mut reader)?)?;
    }
    Ok(())
}

impl LoggedRows {
    /// Passes the runs of rows to `take`, in the order they were written. Returns how many were corrupt.
    pub(crate) fn read(
        &self,
        schema: &Schema,
        mut take: impl FnMut(&mut LogRowReader<'_, '_>) -> Result<(), CorruptData>,
    ) -> u64 {
        let mut row = LogRow::default();
        let mut read = |place: &LogPosition| {
            let LogContents { bytes, records } = &*self.contents;
            let payload =
                records.get(place.record as usize).and_then(|range| bytes.get(range.clone())).ok_or(CorruptData)?;
            let record_ms = ByteReader(payload).i64()?;
            let entry = LogEntry::read(&mut ByteReader(payload.get(place.at as usize..).ok_or(CorruptData)?))?;
            take(&mut entry.rows(record_ms, schema, &mut row)?)
        };
        self.entries.iter().filter(|place| read(place).is_err()).count() as u64
    }
}
