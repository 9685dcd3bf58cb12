//! Reads and unpacks everything in a folder, and reports what is corrupt.

use super::definitions::{FrameKey, ReadDefinitions};
use super::disk::Disk;
use super::log;
use super::log_rows::LogRow;
use super::notes::{self, NoteValues};
use super::record::{self, FileHead, FileKind, FilePart, HEAD, RecordKind, Records};
use super::segment::{self, PageEntry, Segment};
use crate::cell::Cell;
use crate::codec::{ByteReader, Chunk, PageHead};
use crate::frame::ChunkBytes;
use crate::inspect::{FileDefect, VerifyReport};
use crate::{Schema, StoredField, clock_jumps};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// The relative tolerance of sums, because a later version may add doubles in another order.
const SUM_TOLERANCE: f64 = 1e-9;

/// The purpose of a file, which its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileRole {
    Log,
    Fresh,
    Settled,
    Notes,
}

impl FileRole {
    pub(crate) fn of(name: &str) -> Option<Self> {
        match segment::parse_name(name) {
            Some((.., settled)) => Some(if settled { Self::Settled } else { Self::Fresh }),
            None if log::parse_name(name).is_some() => Some(Self::Log),
            None => notes::parse_name(name).map(|_| Self::Notes),
        }
    }

    fn kind(self) -> FileKind {
        match self {
            Self::Log => FileKind::Log,
            Self::Fresh | Self::Settled => FileKind::Segment,
            Self::Notes => FileKind::Notes,
        }
    }
}

/// Checks all files. `progress` gets the number of bytes that are done and the total.
pub(crate) fn verify(disk: &dyn Disk, progress: &mut dyn FnMut(u64, u64)) -> io::Result<VerifyReport> {
    let mut names = disk.list()?;
    names.sort_unstable();
    let size = |name: &str| disk.open(name).and_then(|file| file.size()).unwrap_or(0);
    let files: Vec<_> = names.iter().filter_map(|name| Some((name, FileRole::of(name)?, size(name)))).collect();
    let all = files.iter().map(|(.., size)| size).sum();
    let mut verified = VerifyReport::default();
    let mut notes = NoteValues::new();
    let mut done = 0;
    for (name, role, size) in files {
        let mut file = FileVerifier { name, role, verified: &mut verified, contents: FileContents::default() };
        match disk.open(name).and_then(|file| record::read_all(&*file)) {
            Ok(bytes) => {
                file.read(disk, &bytes, &mut |at| progress(done + at, all));
                notes.append(&mut file.contents.notes);
            }
            Err(error) => file.damaged(0, format!("cannot read the file: {error}")),
        }
        done += size;
        verified.files += 1;
        verified.bytes += size;
    }
    progress(done, all);
    verified.clock_jumps = notes.get(clock_jumps::NOTE).map(|value| clock_jumps::read(value)).unwrap_or_default();
    Ok(verified)
}

/// A file that is being checked.
struct FileVerifier<'a> {
    name: &'a str,
    role: FileRole,
    verified: &'a mut VerifyReport,
    contents: FileContents,
}

/// The contents of a file that were read so far.
#[derive(Default)]
struct FileContents {
    definitions: ReadDefinitions,
    notes: NoteValues,
    /// Chunks by offset, to compare with the index. Only of settled files.
    chunks: BTreeMap<u64, IndexedChunk>,
    /// Offsets of damage that is reported.
    damaged: BTreeSet<u64>,
}

/// A chunk as an index describes it.
#[derive(Debug, PartialEq)]
struct IndexedChunk {
    key: FrameKey,
    length: u32,
    pages: Vec<PageSpan>,
}

#[derive(Debug, PartialEq)]
struct PageSpan {
    generation: u32,
    first_ms: i64,
    last_ms: i64,
    rows: usize,
}

impl FileVerifier<'_> {
    fn read(&mut self, disk: &dyn Disk, bytes: &[u8], progress: &mut dyn FnMut(u64)) {
        if let Some(FilePart::Record { kind: RecordKind::File, payload, .. }) = Records::of(bytes).next()
            && let Ok(FileHead::Newer) = record::file_head(payload, self.role.kind())
        {
            self.verified.newer.push(self.name.to_owned());
            return;
        }
        if bytes.is_empty() {
            self.end(0, "the file is empty".to_owned());
        }
        for item in Records::of(bytes) {
            match item {
                FilePart::Record { offset, kind, payload } => {
                    progress(offset as u64);
                    self.verified.records += 1;
                    if offset == 0 && kind != RecordKind::File {
                        self.damaged(0, "the file does not begin with a file header".to_owned());
                    }
                    if let Err(what) = self.record(offset, kind, payload) {
                        self.damaged(offset, what);
                    }
                }
                FilePart::Corrupt { offset, length } => {
                    self.damaged(offset, format!("{length} bytes are not a record"))
                }
                FilePart::Torn { offset } => {
                    self.end(offset, format!("the last {} bytes are an incomplete record", bytes.len() - offset));
                }
            }
        }
        if self.role == FileRole::Settled {
            self.index(disk, bytes.len());
        }
    }

    fn damaged(&mut self, offset: usize, what: String) {
        // Report an offset once; more reports of it would only be consequences.
        if self.contents.damaged.insert(offset as u64) {
            self.verified.damaged.push(FileDefect { file: self.name.to_owned(), offset: offset as u64, what });
        }
    }

    /// Reports an incomplete end. It is normal if the writer was stopped, except in a settled file, which got its name
    /// when it was complete.
    fn end(&mut self, offset: usize, what: String) {
        match self.role {
            FileRole::Settled => self.damaged(offset, what),
            _ => self.verified.torn.push(FileDefect { file: self.name.to_owned(), offset: offset as u64, what }),
        }
    }

    fn record(&mut self, offset: usize, kind: RecordKind, payload: &[u8]) -> Result<(), String> {
        let FileContents { definitions, notes, .. } = &mut self.contents;
        match (kind, self.role) {
            (RecordKind::File, role) => match record::file_head(payload, role.kind()) {
                Ok(_) => Ok(()),
                Err(_) => Err("the file header names another kind of file".to_owned()),
            },
            (
                RecordKind::Schema | RecordKind::Frame | RecordKind::LabelledFrame,
                FileRole::Log | FileRole::Fresh | FileRole::Settled,
            ) => definitions.learn(kind, payload).map_err(|_| "corrupt definition of a frame or a schema".to_owned()),
            (RecordKind::Rows, FileRole::Log) => {
                let rows = &mut self.verified.rows;
                let mut row = LogRow::default();
                let read = log::entries(payload, |record_ms, _, entry| {
                    let mut entry = entry.rows(record_ms, &definitions.frame(entry.id)?.schema, &mut row)?;
                    while entry.next()?.is_some() {
                        *rows += 1;
                    }
                    Ok(())
                });
                read.map_err(|_| "corrupt rows, or rows of a frame that the file does not define".to_owned())
            }
            (RecordKind::Chunk, FileRole::Fresh | FileRole::Settled) => self.chunk(offset, payload),
            (RecordKind::Index | RecordKind::End, FileRole::Settled) | (RecordKind::End, FileRole::Notes) => Ok(()),
            (RecordKind::Note, FileRole::Notes) => {
                notes::note(payload, notes).map_err(|_| "corrupt note, cannot be read".to_owned())
            }
            _ => Err("this kind of record does not belong in this kind of file".to_owned()),
        }
    }

    fn chunk(&mut self, offset: usize, payload: &[u8]) -> Result<(), String> {
        let mut reader = ByteReader(payload);
        let id = reader.u64().ok().and_then(|id| u32::try_from(id).ok());
        let key = id.and_then(|id| self.contents.definitions.frame(id).ok());
        let key = key.ok_or_else(|| "chunk of a frame that the file does not define".to_owned())?;
        let unreadable = |_| "corrupt chunk, cannot be unpacked".to_owned();
        let chunk = Chunk::read(&key.schema, reader.0).map_err(unreadable)?;
        for (page, head) in chunk.pages.iter().enumerate() {
            let values = chunk.rows(page).map_err(unreadable)?.into_values(&key.schema);
            let cells = values.parts(&key.schema, key.schema.layout(key.interval_ms)).whole(&key.schema);
            agree(&key.schema, head, &cells).map_err(|why| format!("page {page} of the chunk: {why}"))?;
            self.verified.blocks += 1;
            self.verified.rows += head.rows as u64;
        }
        if self.role == FileRole::Settled {
            let length = u32::try_from(payload.len() + HEAD).unwrap_or(u32::MAX);
            let pages = chunk.pages.iter().map(PageSpan::of_head).collect();
            self.contents.chunks.insert(offset as u64, IndexedChunk { key: key.clone(), length, pages });
        }
        Ok(())
    }

    /// Checks that the index at the end matches the chunks.
    fn index(&mut self, disk: &dyn Disk, size: usize) {
        let loaded = match Segment::index(disk, self.name) {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return self.damaged(size, "the index at the end is missing or corrupt".to_owned()),
            Err(error) => return self.damaged(size, format!("cannot read the index: {error}")),
        };
        for (key, listed) in &loaded.frames {
            let mut pages = Vec::new();
            if listed.read(&mut pages).is_err() {
                self.damaged(size, format!("corrupt index entry of instance {}", key.instance));
            }
            for pages in pages.chunk_by(|a, b| place(a) == place(b)) {
                let Some((offset, length)) = pages.first().and_then(place) else { continue };
                let pages = pages.iter().map(PageSpan::of_page).collect();
                let said = IndexedChunk { key: key.clone(), length, pages };
                let at = usize::try_from(offset).unwrap_or(usize::MAX);
                match self.contents.chunks.remove(&offset) {
                    Some(found) if found == said => {}
                    Some(_) => self.damaged(at, "the index does not match this chunk".to_owned()),
                    None => self.damaged(at, "the index lists a chunk here, but there is none".to_owned()),
                }
            }
        }
        for offset in std::mem::take(&mut self.contents.chunks).into_keys() {
            self.damaged(
                usize::try_from(offset).unwrap_or(usize::MAX),
                "the index does not list this chunk".to_owned(),
            );
        }
    }
}

impl PageSpan {
    fn of_head(head: &PageHead) -> Self {
        let PageHead { generation, first_ms, last_ms, rows, .. } = *head;
        Self { generation, first_ms, last_ms, rows }
    }

    fn of_page(page: &PageEntry) -> Self {
        let PageEntry { generation, first_ms, last_ms, rows, .. } = *page;
        Self { generation, first_ms, last_ms, rows }
    }
}

fn place(page: &PageEntry) -> Option<(u64, u32)> {
    match page.place.bytes {
        ChunkBytes::Stored { offset, length, .. } => Some((offset, length)),
        ChunkBytes::Memory(_) => None,
    }
}

/// Checks that a page's cells match its rows. A last value or a sum that is NaN was not stored.
fn agree(schema: &Schema, head: &PageHead, cells: &[Cell]) -> Result<(), String> {
    let same = |a: f64, b: f64| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    let close = |a: f64, b: f64| same(a, b) || (a - b).abs() <= SUM_TOLERANCE * a.abs().max(b.abs());
    for ((StoredField { name, .. }, kept), found) in schema.fields().iter().zip(&head.cells).zip(cells) {
        let wrong = [
            ("count", kept.count == found.count),
            ("smallest value", same(kept.min, found.min)),
            ("largest value", same(kept.max, found.max)),
            ("last value", kept.last.is_nan() || same(kept.last, found.last)),
            ("sum", kept.sum.is_nan() || close(kept.sum, found.sum)),
        ];
        if let Some((what, _)) = wrong.into_iter().find(|(_, fine)| !fine) {
            return Err(format!("the stored {what} of {name} differs from its rows"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InstanceId;
    use crate::archive::disk::HistoryFolder;
    use crate::archive::segment::SegmentWriter;
    use crate::codec::{self, Effort, put_u64};
    use crate::ladder::Layout;
    use crate::rows::RawRows;

    fn verified(disk: &dyn Disk) -> VerifyReport {
        verify(disk, &mut |_, _| {}).unwrap()
    }

    /// Verifies a settled file of one chunk. `falsify` changes the cell of its rows. The index has one row too few,
    /// unless `index_is_right`.
    fn settled(disk: &dyn Disk, falsify: impl Fn(&mut Cell), index_is_right: bool) -> VerifyReport {
        let schema = Schema::new("s", vec![StoredField::gauge("x")]);
        let instance = InstanceId::new("i").unwrap();
        let owner = schema.sampler().clone();
        let key = FrameKey { instance, schema: schema.clone(), interval_ms: 1000, born: 0, owner };
        let at_ms: Vec<i64> = (0..100).map(|nth| nth * 1000).collect();
        let rows = RawRows {
            columns: vec![(0..100).map(|nth| f64::from(nth * 7 % 31)).collect()],
            at_ms,
            ..RawRows::default()
        };
        let mut cells = rows.clone().into_values(&schema).parts(&schema, Layout::of(1000)).whole(&schema);
        falsify(&mut cells[0]);
        let name = segment::name(0, 1, true);
        let mut writer = SegmentWriter::create(disk, &name, (0, 1, true), None, &[]).unwrap();
        writer.define([(7, &key)].into_iter()).unwrap();
        let at = writer.add(7, &key, &codec::encode(&schema, &[&rows], &[&cells], Effort::Dense)).unwrap();
        let said = if index_is_right { 100 } else { 99 };
        let page = PageEntry { generation: 0, first_ms: 0, last_ms: 99_000, rows: said, place: writer.place(at, 0) };
        writer.finish(&[(7, vec![page])]).unwrap();
        writer.write().unwrap();
        let verified = verified(disk);
        disk.remove(&name).unwrap();
        verified
    }

    fn folder() -> (tempfile::TempDir, HistoryFolder) {
        let temp = tempfile::tempdir().unwrap();
        let folder = HistoryFolder::unlocked(temp.path()).unwrap();
        (temp, folder)
    }

    #[test]
    fn cells_that_differ_from_their_rows_are_reported_as_damage() {
        let (_temp, folder) = folder();
        let whole = settled(&folder, |_| {}, true);
        assert_eq!((whole.damaged, whole.blocks, whole.rows), (vec![], 1, 100));
        for what in ["count", "smallest", "largest", "sum"] {
            let falsify = |cell: &mut Cell| match what {
                "count" => cell.count -= 1,
                "smallest" => cell.min = -1.0,
                "largest" => cell.max = 30.5,
                _ => cell.sum += 0.01,
            };
            let verified = settled(&folder, falsify, true);
            let [found] = &verified.damaged[..] else { panic!("{what}: {verified:?}") };
            assert!(found.what.contains(what) && found.what.contains("of x"), "{found:?}");
        }
        assert!(settled(&folder, |cell| cell.sum *= 1.0 + 1e-12, true).is_whole(), "sums may be a bit off");
    }

    #[test]
    fn an_index_that_differs_from_its_chunks_is_reported_as_damage() {
        let (_temp, folder) = folder();
        let verified = settled(&folder, |_| {}, false);
        let [found] = &verified.damaged[..] else { panic!("{verified:?}") };
        assert!(found.what.contains("index"), "{found:?}");
    }

    #[test]
    fn a_file_of_a_later_version_is_named_and_not_checked() {
        let (_temp, folder) = folder();
        let mut bytes = Vec::new();
        record::put(&mut bytes, RecordKind::File, |out| {
            out.extend_from_slice(b"dropsonde");
            out.push(FileKind::Log as u8);
            put_u64(out, 1000);
        })
        .unwrap();
        bytes.extend_from_slice(b"whatever that may mean");
        folder.create("log-0000000001").unwrap().append(&bytes).unwrap();
        let verified = verified(&folder);
        assert_eq!(verified.newer, ["log-0000000001"]);
        assert!(verified.is_whole() && verified.torn.is_empty(), "{verified:?}");
    }

    #[test]
    fn a_record_in_the_wrong_kind_of_file_is_reported_as_damage() {
        let (_temp, folder) = folder();
        let mut bytes = Vec::new();
        record::put_file_head(&mut bytes, FileKind::Log, &[]).unwrap();
        let at = bytes.len() as u64;
        record::put(&mut bytes, RecordKind::Chunk, |out| out.push(1)).unwrap();
        folder.create("log-0000000001").unwrap().append(&bytes).unwrap();
        folder.create("notes-0000000002").unwrap().append(&bytes).unwrap();
        let verified = verified(&folder);
        let places: Vec<_> = verified.damaged.iter().map(|found| (&found.file[..3], found.offset)).collect();
        assert_eq!(places, [("log", at), ("not", 0), ("not", at)], "{verified:?}");
    }
}
