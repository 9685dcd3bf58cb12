//! The sealed blocks of a frame. The newest are separate objects. Older blocks, which are in files, are packed: only
//! their places are kept, in a few bytes per block. That matters because a sampler that records five times per second
//! seals ten thousand blocks a week.

use super::{Block, BlockPlace, ChunkBytes};
use crate::archive::{PageEntry, Segment};
use crate::cache::{BlockCache, BlockId};
use crate::codec::{ByteReader, CorruptData, MOST_PAGES, MOST_ROWS, put_i64, put_u64};
use crate::{Layout, Schema};
use std::ops::Deref;
use std::sync::Arc;

/// The fewest blocks that are packed at a time.
const STEP: usize = if cfg!(test) { 2 } else { 4 };

/// The most blocks that are packed together. Reading one of them unpacks the list of all.
const MOST: usize = if cfg!(test) { 16 } else { 64 };

/// One block, or several consecutive blocks of one generation in one file.
#[derive(Debug, Clone)]
pub(crate) enum Blocks {
    One(Arc<Block>),
    Packed(Arc<PackedBlocks>),
}

/// The places of some blocks, with their common properties.
#[derive(Debug)]
pub(crate) struct PackedBlocks {
    /// The id of the first block. The ids of the others follow it.
    first_id: BlockId,
    start_row: u64,
    end_row: u64,
    first_ms: i64,
    last_ms: i64,
    generation: u32,
    blocks: u32,
    file: Arc<Segment>,
    /// The list of pages that [`put`] wrote.
    pages: Box<[u8]>,
}

/// A reference to a block, or a block that was unpacked for this access.
#[derive(Debug)]
pub(crate) enum BlockRef<'a> {
    One(&'a Block),
    Unpacked(Block),
}

/// Returns how many blocks a frame keeps unpacked at least. If blocks are long, these are several days: their cells
/// answer the queries that people ask most. Labelled series keep no cells in memory.
pub(super) fn kept_unpacked(layout: Layout, schema: &Schema) -> usize {
    const LONG_MS: i64 = 45 * 60_000;
    if layout.block_ms < LONG_MS || schema.labels().is_some() { STEP } else { 128 }
}

/// Packs the blocks before the newest `kept_unpacked`, if there are enough to be worth it. `spread` makes frames on one schedule do so
/// at different times. In the result packed blocks come first and blocks in memory alone last.
pub(super) fn pack(blocks: Vec<Blocks>, kept_unpacked: usize, spread: u64, cache: &BlockCache) -> Arc<[Blocks]> {
    let is_packed = |blocks: &Blocks| matches!(blocks, Blocks::Packed(_));
    let (packed, ones) = blocks.split_at(blocks.partition_point(is_packed));
    let stored = ones.partition_point(|one| one.unstored().is_none());
    let excess = stored.saturating_sub(kept_unpacked + (spread % STEP as u64) as usize);
    if excess < STEP {
        return blocks.into();
    }
    let (over, left) = ones.split_at(excess);
    let mut all = packed.to_vec();
    let over: Vec<(PageEntry, u64)> =
        over.iter().filter_map(Blocks::one).map(|one| (one.page(), one.start_row)).collect();
    for mut run in over.chunk_by(|(page, _), (next, _)| go_together(page, next)) {
        if let Some(Blocks::Packed(last)) = all.last()
            && let (pages, Some((first, _))) = (last.pages(), run.first())
            && pages.last().is_some_and(|last| go_together(last, first))
        {
            let (joining, rest) = run.split_at(MOST.saturating_sub(pages.len()).min(run.len()));
            let pages = pages.into_iter().chain(joining.iter().map(|(page, _)| page.clone())).collect();
            let joined = PackedBlocks::of(pages, last.start_row, last.first_id);
            all.pop();
            all.extend(joined);
            run = rest;
        }
        for run in run.chunks(MOST) {
            let start_row = run.first().map_or(0, |(_, start_row)| *start_row);
            let pages = run.iter().map(|(page, _)| page.clone()).collect();
            all.extend(PackedBlocks::of(pages, start_row, cache.new_ids(MOST as u64)));
        }
    }
    all.extend_from_slice(left);
    all.into()
}

impl PackedBlocks {
    /// Packs pages; `None` if there are none or if they are not in a file.
    fn of(pages: Vec<PageEntry>, start_row: u64, first_id: BlockId) -> Option<Blocks> {
        let (first, last) = (pages.first()?, pages.last()?);
        let ChunkBytes::Stored { file, .. } = &first.place.bytes else { return None };
        let mut listed = Vec::with_capacity(pages.len() * 8);
        put(&mut listed, &pages);
        Some(Blocks::Packed(Arc::new(Self {
            first_id,
            start_row,
            end_row: start_row + pages.iter().map(|page| page.rows as u64).sum::<u64>(),
            first_ms: first.first_ms,
            last_ms: last.last_ms,
            generation: first.generation,
            blocks: pages.len() as u32,
            file: file.clone(),
            pages: listed.into(),
        })))
    }

    fn pages(&self) -> Vec<PageEntry> {
        let mut pages = Vec::with_capacity(self.blocks as usize);
        let read = self.read(&mut pages);
        debug_assert!(read.is_ok());
        pages
    }

    fn read(&self, pages: &mut Vec<PageEntry>) -> Result<(), CorruptData> {
        let mut reader = ByteReader(&self.pages);
        let (mut offset, mut before_ms, mut shape) = (0i64, 0i64, None);
        while !reader.is_empty() {
            offset = offset.wrapping_add(reader.i64()?);
            let length = u32::try_from(reader.u64()?).map_err(|_| CorruptData)?;
            let page = reader.up_to(MOST_PAGES)?;
            let (rows, ahead_ms, span_ms) = match (reader.up_to(MOST_ROWS)?, shape) {
                (0, same) => same.ok_or(CorruptData)?,
                (rows, _) => (rows, reader.i64()?, reader.i64()?),
            };
            shape = Some((rows, ahead_ms, span_ms));
            let first_ms = before_ms.wrapping_add(ahead_ms);
            let last_ms = first_ms.wrapping_add(span_ms);
            before_ms = last_ms;
            let place = self.file.place(offset as u64, length, page);
            pages.push(PageEntry { generation: self.generation, first_ms, last_ms, rows, place });
        }
        Ok(())
    }

    fn unpacked(&self) -> Vec<Block> {
        let mut start_row = self.start_row;
        let block = |(nth, page): (usize, PageEntry)| {
            let block = Block::unpacked(self.first_id.after(nth as u64), start_row, page);
            start_row = block.end_row();
            block
        };
        self.pages().into_iter().enumerate().map(block).collect()
    }
}

/// Writes the list of pages of one file and one generation. A 0 instead of the number of rows means: the same number of
/// rows, length and distance as the page before. It is unambiguous, because every page has rows.
fn put(out: &mut Vec<u8>, pages: &[PageEntry]) {
    let (mut before, mut before_ms, mut shape) = (0i64, 0i64, None);
    for page in pages {
        let ChunkBytes::Stored { offset, length, .. } = page.place.bytes else { continue };
        put_i64(out, (offset as i64).wrapping_sub(before));
        put_u64(out, u64::from(length));
        put_u64(out, u64::from(page.place.page));
        before = offset as i64;
        let own = (page.rows, page.first_ms.wrapping_sub(before_ms), page.last_ms.wrapping_sub(page.first_ms));
        before_ms = page.last_ms;
        if shape == Some(own) {
            put_u64(out, 0);
            continue;
        }
        shape = Some(own);
        put_u64(out, page.rows as u64);
        put_i64(out, own.1);
        put_i64(out, own.2);
    }
}

/// Returns whether two pages can be listed together.
fn go_together(page: &PageEntry, next: &PageEntry) -> bool {
    page.place.file() == next.place.file() && page.generation == next.generation
}

impl Blocks {
    pub(crate) fn one(&self) -> Option<&Arc<Block>> {
        match self {
            Self::One(block) => Some(block),
            Self::Packed(_) => None,
        }
    }

    /// Returns the block and its chunk, if the block is in memory alone.
    pub(crate) fn unstored(&self) -> Option<(&Arc<Block>, &[u8])> {
        let block = self.one()?;
        Some((block, block.unstored()?))
    }

    /// Returns the number of blocks.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Packed(packed) => packed.blocks as usize,
        }
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = BlockRef<'_>> {
        let (one, packed) = match self {
            Self::One(block) => (Some(BlockRef::One(block)), Vec::new()),
            Self::Packed(packed) => (None, packed.unpacked()),
        };
        one.into_iter().chain(packed.into_iter().map(BlockRef::Unpacked))
    }

    pub(crate) fn last(&self) -> Option<BlockRef<'_>> {
        match self {
            Self::One(block) => Some(BlockRef::One(block)),
            Self::Packed(packed) => packed.unpacked().pop().map(BlockRef::Unpacked),
        }
    }

    /// Returns the first block's id.
    pub(crate) fn id(&self) -> BlockId {
        match self {
            Self::One(block) => block.id,
            Self::Packed(packed) => packed.first_id,
        }
    }

    pub(crate) fn start_row(&self) -> u64 {
        match self {
            Self::One(block) => block.start_row,
            Self::Packed(packed) => packed.start_row,
        }
    }

    pub(crate) fn end_row(&self) -> u64 {
        match self {
            Self::One(block) => block.end_row(),
            Self::Packed(packed) => packed.end_row,
        }
    }

    pub(crate) fn first_ms(&self) -> i64 {
        match self {
            Self::One(block) => block.first_ms,
            Self::Packed(packed) => packed.first_ms,
        }
    }

    pub(crate) fn last_ms(&self) -> i64 {
        match self {
            Self::One(block) => block.last_ms,
            Self::Packed(packed) => packed.last_ms,
        }
    }

    pub(crate) fn generation(&self) -> u32 {
        match self {
            Self::One(block) => block.generation,
            Self::Packed(packed) => packed.generation,
        }
    }

    /// Returns the number of the blocks' file; `None` if they are in memory.
    pub(crate) fn file(&self) -> Option<u64> {
        match self {
            Self::One(block) => block.place.file(),
            Self::Packed(packed) => Some(packed.file.number),
        }
    }

    /// Returns the bytes of memory that rows and cells take.
    pub(crate) fn memory(&self) -> (u64, u64) {
        match self {
            Self::One(block) => block.memory(),
            Self::Packed(packed) => ((size_of::<PackedBlocks>() + packed.pages.len()) as u64, 0),
        }
    }

    /// Returns the bytes of memory that the blocks take once the cells of unpacked blocks are read.
    pub(crate) fn bytes(&self, schema: &Schema) -> u64 {
        match self {
            Self::One(block) => block.bytes(schema),
            Self::Packed(_) => self.memory().0,
        }
    }

    /// Returns the blocks without the block `id`; nothing if it was the only one.
    pub(super) fn without(&self, id: BlockId, cache: &BlockCache) -> Vec<Self> {
        match self {
            Self::One(block) if block.id == id => Vec::new(),
            Self::Packed(packed) if id.is_in(packed.first_id, u64::from(packed.blocks)) => {
                let blocks = packed.unpacked();
                let part = |part: &[Block]| {
                    let pages = part.iter().map(Block::page).collect();
                    PackedBlocks::of(pages, part.first()?.start_row, cache.new_ids(MOST as u64))
                };
                blocks.split(|block| block.id == id).filter_map(part).collect()
            }
            _ => vec![self.clone()],
        }
    }

    /// Returns the same blocks at their new places.
    pub(super) fn moved(&self, place_of: impl Fn(&BlockPlace) -> Option<BlockPlace>, cache: &BlockCache) -> Vec<Self> {
        let packed = match self {
            Self::One(block) => {
                let moved = place_of(&block.place).map(|place| Self::One(Arc::new(block.moved(place))));
                return vec![moved.unwrap_or_else(|| self.clone())];
            }
            Self::Packed(packed) => packed,
        };
        let mut pages = packed.pages();
        for page in &mut pages {
            page.place = place_of(&page.place).unwrap_or_else(|| page.place.clone());
        }
        let mut start_row = packed.start_row;
        let part = |part: &[PageEntry]| {
            // As a rule all blocks move to one file. Then they keep their ids.
            let is_all = part.len() == packed.blocks as usize;
            let first_id = if is_all { packed.first_id } else { cache.new_ids(MOST as u64) };
            let moved = PackedBlocks::of(part.to_vec(), start_row, first_id)?;
            start_row = moved.end_row();
            Some(moved)
        };
        pages.chunk_by(go_together).filter_map(part).collect()
    }
}

impl Deref for BlockRef<'_> {
    type Target = Block;

    fn deref(&self) -> &Block {
        match self {
            Self::One(block) => block,
            Self::Unpacked(block) => block,
        }
    }
}
