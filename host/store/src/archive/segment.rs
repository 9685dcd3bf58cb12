//! Files of chunks. A fresh file grows as blocks are sealed. A settled file holds all chunks of its time, frame by
//! frame, several blocks to a chunk, and ends in an index, so that a start need not read the rest.
//!
//! ```text
//! fresh:    file head · (schema, frame and chunk records)…
//! settled:  file head · (schema and frame records)… · chunk records… · index records… · end
//! ```

use super::definitions::{FrameKey, ReadDefinitions, WrittenDefinitions};
use super::disk::{AppendOnlyFile, Disk, ReadableFile};
use super::record::{self, FileHead, FileKind, FilePart, HEAD, RecordKind, Records};
use crate::codec::{self, ByteReader, CorruptData, MOST_PAGES, put_bytes, put_i64, put_u64};
use crate::frame::{BlockPlace, ChunkBytes, UnreadableBlock};
use crate::ladder;
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The length of the time that the blocks of one segment begin in, in milliseconds. Segments of one such partition are
/// merged together.
pub(crate) const PARTITION_MS: i64 = 6 * 3_600_000;

/// The approximate size of an index record in bytes.
const INDEX_PART: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) partition_ms: i64,
    pub(crate) settled: bool,
    size: AtomicU64,
    /// The number of blocks in the segment, as far as it is known.
    pages: AtomicU64,
    /// The owner of the blocks, if all have the same. Earlier versions wrote the blocks of all owners into one file.
    owner: OnceLock<Arc<str>>,
    file: Box<dyn ReadableFile>,
}

/// A block's entry in a segment.
#[derive(Debug, Clone)]
pub(crate) struct PageEntry {
    pub(crate) generation: u32,
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    pub(crate) rows: usize,
    pub(crate) place: BlockPlace,
}

/// The contents of a segment.
#[derive(Debug, Default)]
pub(crate) struct LoadedSegment {
    pub(crate) frames: Vec<(FrameKey, FramePages)>,
    /// Numbers of the files that this one replaces: it has all their chunks.
    pub(crate) replaces: Vec<u64>,
    /// The number of corrupt places.
    pub(crate) damaged: u64,
    /// Whether a later version wrote the file.
    pub(crate) newer: bool,
}

/// The blocks of one frame in a segment.
#[derive(Debug)]
pub(crate) enum FramePages {
    Pages(Vec<PageEntry>),
    /// A part of the segment's index, which is not read yet.
    Indexed {
        segment: Arc<Segment>,
        index: Arc<Vec<u8>>,
        part: Range<usize>,
    },
}

#[derive(Debug)]
pub(crate) struct SegmentWriter {
    pub(crate) segment: Arc<Segment>,
    file: Box<dyn AppendOnlyFile>,
    defined: WrittenDefinitions,
    pending: Vec<u8>,
    /// The offset of the next record.
    offset: u64,
    /// The offset of the first chunk, if all frames were defined before.
    chunks_at: u64,
}

pub(crate) fn partition_ms(at_ms: i64) -> i64 {
    ladder::floor(at_ms, PARTITION_MS)
}

pub(crate) fn name(partition_ms: i64, number: u64, settled: bool) -> String {
    format!("{}-{}-{number:010}", if settled { "seg" } else { "new" }, partition_ms.div_euclid(1000))
}

/// Returns the partition, the number, and whether the segment is settled.
pub(crate) fn parse_name(name: &str) -> Option<(i64, u64, bool)> {
    let (settled, rest) = match (name.strip_prefix("seg-"), name.strip_prefix("new-")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return None,
    };
    let (partition_s, number) = rest.rsplit_once('-')?;
    Some((partition_s.parse::<i64>().ok()?.checked_mul(1000)?, number.parse().ok()?, settled))
}

impl Segment {
    pub(crate) fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    pub(crate) fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    pub(crate) fn owner(&self) -> Option<&Arc<str>> {
        self.owner.get()
    }

    pub(crate) fn name(&self) -> String {
        name(self.partition_ms, self.number, self.settled)
    }

    /// Opens a segment and reads its list of blocks.
    pub(crate) fn load(disk: &dyn Disk, name: &str) -> io::Result<(Arc<Self>, LoadedSegment)> {
        let segment = Self::open(disk, name)?;
        let indexed = if segment.settled { segment.read_index(segment.size())? } else { None };
        let loaded = match indexed {
            Some(loaded) => loaded,
            None => segment.scan()?,
        };
        let mut owners = loaded.frames.iter().map(|(key, _)| &key.owner);
        if let Some(first) = owners.next().filter(|first| owners.all(|other| other == *first)) {
            let _ = segment.owner.set(first.clone());
        }
        Ok((segment, loaded))
    }

    fn open(disk: &dyn Disk, name: &str) -> io::Result<Arc<Self>> {
        let (partition_ms, number, settled) =
            parse_name(name).ok_or_else(|| io::Error::other(format!("{name} is not the name of a segment")))?;
        let file = disk.open(name)?;
        let (size, pages) = (AtomicU64::new(file.size()?), AtomicU64::new(0));
        Ok(Arc::new(Self { number, partition_ms, settled, size, pages, owner: OnceLock::new(), file }))
    }

    /// Reads the index at the end of a segment; `None` if it is missing or corrupt.
    pub(crate) fn index(disk: &dyn Disk, name: &str) -> io::Result<Option<LoadedSegment>> {
        let segment = Self::open(disk, name)?;
        segment.read_index(segment.size())
    }

    /// Reads the index at the end; `None` if it is missing or corrupt.
    fn read_index(self: &Arc<Self>, size: u64) -> io::Result<Option<LoadedSegment>> {
        let mut end = [0; HEAD + 16];
        let Some(end_at) = size.checked_sub(end.len() as u64) else { return Ok(None) };
        self.file.read_at(end_at, &mut end)?;
        let Ok((chunks_at, index_at)) = record::whole(&end, RecordKind::End).and_then(read_end) else {
            return Ok(None);
        };
        let Some(index_length) = end_at.checked_sub(index_at).filter(|_| chunks_at <= index_at) else {
            return Ok(None);
        };
        let read = |at: u64, length: u64| -> io::Result<Vec<u8>> {
            let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            self.file.read_at(at, &mut bytes)?;
            Ok(bytes)
        };
        let (before, index) = (read(0, chunks_at)?, Arc::new(read(index_at, index_length)?));
        let mut loaded = LoadedSegment::default();
        let mut definitions = ReadDefinitions::default();
        for item in Records::of(&before).chain(Records::of(&index)) {
            let read = match item {
                FilePart::Record { kind: RecordKind::File, payload, .. } => {
                    match record::file_head(payload, FileKind::Segment) {
                        Ok(FileHead::Known { replaces }) => {
                            loaded.replaces = replaces;
                            Ok(())
                        }
                        Ok(FileHead::Newer) => {
                            return Ok(Some(LoadedSegment { newer: true, ..LoadedSegment::default() }));
                        }
                        Err(error) => Err(error),
                    }
                }
                // Index records are only at the end, so the offset is in `index`.
                FilePart::Record { kind: RecordKind::Index, payload, offset } => self.read_index_part(
                    &index,
                    offset + HEAD..offset + HEAD + payload.len(),
                    &definitions,
                    &mut loaded,
                ),
                FilePart::Record { kind, payload, .. } => definitions.learn(kind, payload),
                FilePart::Corrupt { .. } | FilePart::Torn { .. } => Err(CorruptData),
            };
            if read.is_err() {
                return Ok(None);
            }
        }
        Ok(Some(loaded))
    }

    /// Reads which frames a record of the index lists, and where the list of each frame is.
    fn read_index_part(
        self: &Arc<Self>,
        index: &Arc<Vec<u8>>,
        part: Range<usize>,
        definitions: &ReadDefinitions,
        loaded: &mut LoadedSegment,
    ) -> Result<(), CorruptData> {
        let mut reader = ByteReader(index.get(part.clone()).ok_or(CorruptData)?);
        while !reader.is_empty() {
            let id = u32::try_from(reader.u64()?).map_err(|_| CorruptData)?;
            let pages = reader.up_to(part.len())?;
            let length = reader.bytes()?.len();
            self.pages.fetch_add(pages as u64, Ordering::Relaxed);
            let end = part.end - reader.0.len();
            let listed = FramePages::Indexed { segment: self.clone(), index: index.clone(), part: end - length..end };
            loaded.frames.push((definitions.frame(id)?.clone(), listed));
        }
        Ok(())
    }

    /// Reads the blocks that the index lists for one frame, up to the first corrupt entry.
    fn read_pages(self: &Arc<Self>, listed: &[u8], pages: &mut Vec<PageEntry>) -> Result<(), CorruptData> {
        let mut reader = ByteReader(listed);
        let (mut offset, mut before_ms) = (0u64, self.partition_ms);
        let mut shape = None;
        while !reader.is_empty() {
            offset = offset.checked_add(reader.u64()?).ok_or(CorruptData)?;
            let length = u32::try_from(reader.u64()?).map_err(|_| CorruptData)?;
            for page in 0..reader.up_to(MOST_PAGES)? {
                let (rows, generation, ahead_ms, span_ms) = match (reader.up_to(codec::MOST_ROWS)?, shape.take()) {
                    (0, Some(same)) => same,
                    (0, None) => return Err(CorruptData),
                    (rows, _) => {
                        let generation = u32::try_from(reader.u64()?).map_err(|_| CorruptData)?;
                        (rows, generation, reader.i64()?, reader.u64()?)
                    }
                };
                shape = Some((rows, generation, ahead_ms, span_ms));
                let first_ms = before_ms.checked_add(ahead_ms).ok_or(CorruptData)?;
                let last_ms = first_ms.checked_add_unsigned(span_ms).ok_or(CorruptData)?;
                before_ms = last_ms;
                pages.push(PageEntry { generation, first_ms, last_ms, rows, place: self.place(offset, length, page) });
            }
        }
        Ok(())
    }

    /// Reads the segment record by record, without the index.
    fn scan(self: &Arc<Self>) -> io::Result<LoadedSegment> {
        let bytes = record::read_all(&*self.file)?;
        let mut loaded = LoadedSegment::default();
        let mut definitions = ReadDefinitions::default();
        let mut frames: HashMap<u32, Vec<PageEntry>> = HashMap::new();
        for item in Records::of(&bytes) {
            let read = match item {
                FilePart::Record { kind: RecordKind::File, payload, .. } => {
                    match record::file_head(payload, FileKind::Segment) {
                        Ok(FileHead::Newer) => return Ok(LoadedSegment { newer: true, ..LoadedSegment::default() }),
                        Ok(FileHead::Known { replaces }) => {
                            loaded.replaces = replaces;
                            Ok(())
                        }
                        Err(error) => Err(error),
                    }
                }
                FilePart::Record { kind: RecordKind::Chunk, payload, offset } => {
                    self.read_heads(payload, offset, &definitions, &mut frames)
                }
                FilePart::Record { kind, payload, .. } => definitions.learn(kind, payload),
                FilePart::Corrupt { .. } => Err(CorruptData),
                FilePart::Torn { .. } => Ok(()),
            };
            loaded.damaged += u64::from(read.is_err());
        }
        self.pages.store(frames.values().map(|pages| pages.len() as u64).sum(), Ordering::Relaxed);
        let listed = |(id, pages)| Some((definitions.frame(id).ok()?.clone(), FramePages::Pages(pages)));
        loaded.frames = frames.into_iter().filter_map(listed).collect();
        Ok(loaded)
    }

    fn read_heads(
        self: &Arc<Self>,
        payload: &[u8],
        offset: usize,
        definitions: &ReadDefinitions,
        frames: &mut HashMap<u32, Vec<PageEntry>>,
    ) -> Result<(), CorruptData> {
        let mut reader = ByteReader(payload);
        let id = u32::try_from(reader.u64()?).map_err(|_| CorruptData)?;
        let length = u32::try_from(payload.len() + HEAD).map_err(|_| CorruptData)?;
        let heads = codec::heads(&definitions.frame(id)?.schema, &mut reader)?;
        let pages = heads.into_iter().enumerate().map(|(page, head)| PageEntry {
            generation: head.generation,
            first_ms: head.first_ms,
            last_ms: head.last_ms,
            rows: head.rows,
            place: self.place(offset as u64, length, page),
        });
        frames.entry(id).or_default().extend(pages);
        Ok(())
    }

    pub(crate) fn place(self: &Arc<Self>, offset: u64, length: u32, page: usize) -> BlockPlace {
        let bytes = ChunkBytes::Stored { file: self.clone(), offset, length };
        BlockPlace { bytes, page: u16::try_from(page).unwrap_or(u16::MAX) }
    }
}

impl Segment {
    /// Reads the chunk at a place into `bytes` and checks it. Returns the chunk, with [`codec::SLACK`] bytes behind it that
    /// mean nothing.
    pub(crate) fn chunk<'b>(
        &self,
        offset: u64,
        length: u32,
        bytes: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], UnreadableBlock> {
        // Offset and length come from the index and are not trusted.
        if length as usize > HEAD + record::MOST || offset.saturating_add(u64::from(length)) > self.size() {
            return Err(CorruptData.into());
        }
        bytes.resize(length as usize + codec::SLACK, 0);
        let (read, _) = bytes.split_at_mut(length as usize);
        self.file.read_at(offset, read)?;
        let mut reader = ByteReader(record::whole(read, RecordKind::Chunk)?);
        reader.u64()?;
        let start = length as usize - reader.0.len();
        Ok(bytes.get(start..).unwrap_or_default())
    }
}

impl FramePages {
    /// Appends the blocks, up to the first corrupt entry.
    pub(crate) fn read(&self, pages: &mut Vec<PageEntry>) -> Result<(), CorruptData> {
        match self {
            Self::Pages(listed) => pages.extend_from_slice(listed),
            Self::Indexed { segment, index, part } => {
                segment.read_pages(index.get(part.clone()).ok_or(CorruptData)?, pages)?;
            }
        }
        Ok(())
    }
}

// === impl SegmentWriter ===

impl SegmentWriter {
    /// Creates a file. `name` is its name as long as it is written.
    pub(crate) fn create(
        disk: &dyn Disk,
        name: &str,
        (partition_ms, number, settled): (i64, u64, bool),
        owner: Option<&Arc<str>>,
        replaces: &[u64],
    ) -> io::Result<Self> {
        let file = disk.create(name)?;
        let size = AtomicU64::new(0);
        let pages = AtomicU64::new(0);
        let owner = owner.cloned().map(OnceLock::from).unwrap_or_default();
        let segment = Arc::new(Segment { number, partition_ms, settled, size, pages, owner, file: disk.open(name)? });
        let mut pending = Vec::new();
        record::put_file_head(&mut pending, FileKind::Segment, replaces)?;
        let offset = pending.len() as u64;
        Ok(Self { segment, file, defined: WrittenDefinitions::default(), pending, offset, chunks_at: offset })
    }

    /// Adds a chunk. Returns the offset and the length of its record.
    pub(crate) fn add(&mut self, id: u32, key: &FrameKey, chunk: &[u8]) -> io::Result<(u64, u32)> {
        let start = self.pending.len();
        self.defined.define(&mut self.pending, id, key)?;
        let record = self.pending.len();
        record::put(&mut self.pending, RecordKind::Chunk, |out| {
            put_u64(out, u64::from(id));
            out.extend_from_slice(chunk);
        })?;
        let offset = self.offset + (record - start) as u64;
        self.offset += (self.pending.len() - start) as u64;
        Ok((offset, u32::try_from(self.pending.len() - record).unwrap_or(u32::MAX)))
    }

    pub(crate) fn place(&self, (offset, length): (u64, u32), page: usize) -> BlockPlace {
        self.segment.place(offset, length, page)
    }

    /// Returns the number of bytes that were added since the last [`SegmentWriter::write`].
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Writes the added bytes. Returns their number.
    pub(crate) fn write(&mut self) -> io::Result<u64> {
        let bytes = std::mem::take(&mut self.pending);
        self.file.append(&bytes)?;
        self.segment.size.store(self.offset, Ordering::Relaxed);
        Ok(bytes.len() as u64)
    }

    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }

    /// Defines frames before their chunks are added.
    pub(crate) fn define<'a>(&mut self, mut frames: impl Iterator<Item = (u32, &'a FrameKey)>) -> io::Result<()> {
        let start = self.pending.len();
        frames.try_for_each(|(id, key)| self.defined.define(&mut self.pending, id, key))?;
        self.offset += (self.pending.len() - start) as u64;
        self.chunks_at = self.offset;
        Ok(())
    }

    /// Adds the index and the end.
    pub(crate) fn finish(&mut self, frames: &[(u32, Vec<PageEntry>)]) -> io::Result<()> {
        let (chunks_at, index_at) = (self.chunks_at, self.offset);
        let start = self.pending.len();
        let mut part = Vec::with_capacity(INDEX_PART);
        let mut listed = Vec::new();
        for (id, pages) in frames {
            put_u64(&mut part, u64::from(*id));
            put_u64(&mut part, pages.len() as u64);
            put_pages(&mut listed, pages, self.segment.partition_ms);
            put_bytes(&mut part, &listed);
            listed.clear();
            self.segment.pages.fetch_add(pages.len() as u64, Ordering::Relaxed);
            if part.len() >= INDEX_PART {
                record::put(&mut self.pending, RecordKind::Index, |out| out.append(&mut part))?;
            }
        }
        record::put(&mut self.pending, RecordKind::Index, |out| out.append(&mut part))?;
        record::put(&mut self.pending, RecordKind::End, |out| {
            [chunks_at, index_at].iter().for_each(|at| out.extend_from_slice(&at.to_le_bytes()));
        })?;
        self.offset += (self.pending.len() - start) as u64;
        Ok(())
    }
}

/// Reads the offsets of the first chunk and of the index.
fn read_end(payload: &[u8]) -> Result<(u64, u64), CorruptData> {
    let place = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).map_err(|_| CorruptData);
    let (chunks, index) = payload.split_at_checked(8).ok_or(CorruptData)?;
    Ok((place(chunks)?, place(index)?))
}

/// Writes the list of a frame's pages, chunk by chunk.
fn put_pages(out: &mut Vec<u8>, pages: &[PageEntry], partition_ms: i64) {
    let at = |page: &PageEntry| match page.place.bytes {
        ChunkBytes::Stored { offset, length, .. } => (offset, length),
        ChunkBytes::Memory(_) => (0, 0),
    };
    let (mut before, mut before_ms) = (0, partition_ms);
    let mut shape = None;
    for chunk in pages.chunk_by(|a, b| at(a) == at(b)) {
        let Some((offset, length)) = chunk.first().map(at) else { continue };
        put_u64(out, offset - before);
        before = offset;
        put_u64(out, u64::from(length));
        put_u64(out, chunk.len() as u64);
        for page in chunk {
            let own = (page.rows, page.generation, page.first_ms.wrapping_sub(before_ms), page.last_ms - page.first_ms);
            before_ms = page.last_ms;
            if shape == Some(own) {
                // 0 rows mark a page that is like the one before. Every page has rows.
                put_u64(out, 0);
                continue;
            }
            shape = Some(own);
            put_u64(out, page.rows as u64);
            put_u64(out, u64::from(page.generation));
            put_i64(out, own.2);
            put_u64(out, own.3 as u64);
        }
    }
}
