//! Operations of the keeper on a frame, and those of a restart.

use super::write_times::WriteTimes;
use super::{
    Block, BlockPlace, Blocks, ChunkBytes, Frame, FrameView, FrameWriter, NewRow, OpenBlock, SealedBlock,
    StoreResources, blocks,
};
use crate::archive::{FrameKey, PageEntry, UnreadHistory};
use crate::cache::BlockId;
use crate::cell::Cells;
use crate::codec::{self, Effort};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

impl Frame {
    /// Returns the open block to seal next. A block is due when its time is over, or earlier when it got no row for
    /// long, so that ended instances give back their memory. A delay keeps frames on one schedule from sealing all at
    /// once. A block is also due if two newer blocks follow: it gets no more rows, and its time may be far ahead,
    /// because the clock was set back.
    pub(crate) fn to_seal(&self, now_ms: i64) -> Option<Arc<OpenBlock>> {
        const QUIET_INTERVALS: i64 = 20;
        const QUIET_MS: i64 = 60_000;
        let view = self.current();
        let first = view.opens.first()?;
        let last_ms = first.last_ms()?;
        let quiet_ms = self.key.interval_ms.saturating_mul(QUIET_INTERVALS).max(QUIET_MS);
        let ends_ms = first.until_ms.min(last_ms.saturating_add(quiet_ms));
        let over = ends_ms.saturating_add(self.sealing_delay_ms()) <= now_ms;
        (over || view.opens.len() > 2).then(|| first.clone())
    }

    /// Returns the delay of sealing in milliseconds: some seconds for late readings, then a part of a minute that
    /// depends on the frame.
    fn sealing_delay_ms(&self) -> i64 {
        const LATE_MS: i64 = 5_000;
        let spread = (self.layout.block_ms / 4).min(60_000).unsigned_abs().max(1);
        // Fibonacci hashing: neighbours end up far apart.
        let hash = self.id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        LATE_MS + ((hash * spread) >> 32) as i64
    }

    /// Compresses an open block. The open block does not change.
    pub(crate) fn seal(&self, open: &Arc<OpenBlock>) -> Option<SealedBlock> {
        let rows = open.read(open.len());
        let (first_ms, last_ms) = (*rows.at_ms.first()?, *rows.at_ms.last()?);
        let cells =
            rows.clone().into_values(&self.key.schema).parts(&self.key.schema, self.layout).whole(&self.key.schema);
        let chunk: Arc<[u8]> = codec::encode(&self.key.schema, &[&rows], &[&cells], Effort::Fast).into();
        let place = BlockPlace { bytes: ChunkBytes::Memory(chunk), page: 0 };
        let id = self.cache().new_id();
        let span = (first_ms, last_ms);
        let has_cells = self.key.schema.labels().is_none();
        let cells = has_cells.then(|| Cells::of(&cells, &self.key.schema, rows.len()));
        let block = Block::new(id, open.start_row, rows.len(), span, rows.generation, place, cells);
        Some(SealedBlock { open: open.clone(), block })
    }

    /// Publishes a sealed block in place of the open one. Returns `false`, and publishes nothing, if the open block has
    /// changed since; then it must be sealed again.
    pub(crate) fn replace(&self, sealed: SealedBlock) -> bool {
        self.replace_locked(&mut self.writer(), sealed)
    }

    pub(super) fn replace_locked(&self, writer: &mut FrameWriter, SealedBlock { open, block }: SealedBlock) -> bool {
        let view = self.view.load();
        let same = view.opens.first().is_some_and(|first| Arc::ptr_eq(first, &open)) && open.len() == block.rows;
        if same {
            let first_row = view.first_row(self.shared.samples);
            // The block that was sealed just now could not be written yet.
            let fresh = block.id;
            let in_memory =
                |blocks: &Blocks| !self.shared.archived || (blocks.unstored().is_some() && blocks.id() != fresh);
            let blocks = view.blocks.iter().cloned().chain([Blocks::One(Arc::new(block))]);
            let blocks = self.without(blocks, |blocks| blocks.end_row() <= first_row && in_memory(blocks));
            let opens: Vec<_> = view.opens.iter().skip(1).cloned().collect();
            if opens.is_empty() {
                // So the next push need not unpack the block.
                writer.next_before = Some(self.totals_after(&view));
            }
            self.publish(writer, FrameView { blocks, opens, ..**view });
        }
        same
    }

    /// Removes the blocks for which `is_over` returns true, given the blocks and the time they were written by. Returns
    /// whether there were any.
    pub(crate) fn prune(&self, trusted_ms: i64, is_over: impl Fn(&Blocks, i64) -> bool) -> bool {
        let over = |view: &FrameView| -> Vec<BlockId> {
            let written = WriteTimes::of(view, trusted_ms);
            let over = view.blocks.iter().filter(|blocks| is_over(blocks, written.by_ms(blocks)));
            over.map(Blocks::id).collect()
        };
        if over(&self.current()).is_empty() {
            return false;
        }
        let mut writer = self.writer();
        let view = self.view.load();
        let over = over(&view);
        let blocks = self.without(view.blocks.iter().cloned(), |blocks| over.contains(&blocks.id()));
        let floor = view.end_row();
        self.publish(&mut writer, FrameView { blocks, floor, ..(**view).clone() });
        true
    }

    /// Returns file numbers, and when the blocks in those files were written.
    pub(crate) fn written(&self, trusted_ms: i64) -> Vec<(u64, i64)> {
        let view = self.current();
        let written = WriteTimes::of(&view, trusted_ms);
        view.blocks.iter().filter_map(|blocks| Some((blocks.file()?, written.by_ms(blocks)))).collect()
    }

    fn without(&self, blocks: impl Iterator<Item = Blocks>, over: impl Fn(&Blocks) -> bool) -> Arc<[Blocks]> {
        let kept = blocks.filter(|blocks| {
            let over = over(blocks);
            if let Some((block, _)) = blocks.unstored().filter(|_| over && self.shared.archived) {
                self.shared.lost_rows.fetch_add(block.rows as u64, Ordering::Relaxed);
            }
            !over
        });
        kept.collect()
    }
}

// === archiving ===

impl Frame {
    /// Makes a frame from its history in files, which is read on first use.
    pub(crate) fn unread(key: FrameKey, shared: Arc<StoreResources>, unread: UnreadHistory) -> Self {
        let writer = Mutex::new(FrameWriter { unread: Some(Box::new(unread)), ..FrameWriter::default() });
        Self { is_unread: AtomicBool::new(true), writer, ..Self::new(key, shared) }
    }

    /// Lists the blocks in files, then adds the rows that are in logs but in no block.
    pub(super) fn read(&self, writer: &mut FrameWriter, unread: &UnreadHistory) {
        let (pages, mut damaged) = unread.pages();
        self.list(writer, pages);
        damaged += unread.rows(self.schema(), |rows| {
            // The counters' totals before the rows are known if a block begins with the rows.
            writer.next_before = rows.before.take();
            let generation = rows.generation;
            while let Some(row) = rows.next()? {
                self.replay(writer, generation, row.at_ms, &row.readings);
            }
            Ok(())
        });
        writer.next_before = None;
        self.shared.unreadable.fetch_add(damaged, Ordering::Relaxed);
    }

    fn list(&self, writer: &mut FrameWriter, pages: Vec<PageEntry>) {
        let mut start_row = 0;
        let blocks = pages.into_iter().map(|page| {
            let (id, span) = (self.cache().new_id(), (page.first_ms, page.last_ms));
            let block = Block::new(id, start_row, page.rows, span, page.generation, page.place, None);
            start_row = block.end_row();
            Blocks::One(Arc::new(block))
        });
        let blocks: Vec<_> = blocks.collect();
        let generation = blocks.last().map_or(0, Blocks::generation);
        writer.last_ms = blocks.last().map(Blocks::last_ms);
        let first_row = start_row.saturating_sub(self.capacity());
        let blocks = self.packed(blocks.into_iter().filter(|blocks| blocks.end_row() > first_row).collect());
        self.publish(writer, FrameView { blocks, generation, ..FrameView::default() });
    }

    /// Adds a row from a log, unless it is known: everything that was written before a row in a block is in blocks too.
    fn replay(&self, writer: &mut FrameWriter, generation: u32, at_ms: i64, readings: &[f64]) {
        let known = writer.last_ms.is_some_and(|last| at_ms <= last);
        if generation < writer.generation || (generation == writer.generation && known) {
            return;
        }
        self.push_locked(writer, generation, NewRow { at_ms, readings, delay_ms: f64::NAN, is_kept: true });
    }

    /// Gives back the memory that is reserved for further rows, if no row came for some intervals.
    pub(crate) fn give_back_if_idle(&self, now_ms: i64) {
        const INTERVALS: i64 = 3;
        if self.is_unread.load(Ordering::Acquire) {
            return;
        }
        let mut writer = self.writer();
        let quiet_ms = writer.last_ms.map_or(i64::MAX, |last_ms| now_ms.saturating_sub(last_ms));
        if quiet_ms > self.key.interval_ms.saturating_mul(INTERVALS) {
            writer.gave_back = true;
            self.memory.give_back(&self.view.load());
        }
    }

    /// Returns how many rows are in no sealed block.
    pub(crate) fn open_rows(&self) -> u64 {
        self.current().opens.iter().map(|open| open.len() as u64).sum()
    }

    /// Drops a block that cannot be read.
    pub(crate) fn discard(&self, id: BlockId) {
        let mut writer = self.writer();
        let view = self.view.load();
        let blocks = view.blocks.iter().flat_map(|blocks| blocks.without(id, self.cache())).collect();
        let floor = view.end_row();
        self.publish(&mut writer, FrameView { blocks, floor, ..(**view).clone() });
    }

    /// Records the place of a block that is in a file now. A block that was removed meanwhile is ignored.
    pub(crate) fn stored(&self, id: BlockId, place: &BlockPlace) {
        let mut writer = self.writer();
        let view = self.view.load();
        let moved = |blocks: &Blocks| match blocks.one() {
            Some(block) if block.id == id => Blocks::One(Arc::new(block.moved(place.clone()))),
            _ => blocks.clone(),
        };
        let blocks = self.packed(view.blocks.iter().map(moved).collect());
        self.publish(&mut writer, FrameView { blocks, ..(**view).clone() });
    }

    /// Records the new places of blocks, as pairs of old and new place.
    pub(crate) fn moved(&self, places: &[(BlockPlace, BlockPlace)]) {
        let places: HashMap<_, _> = places.iter().filter_map(|(from, to)| Some((from.stored()?, to))).collect();
        let place_of = |place: &BlockPlace| places.get(&place.stored()?).map(|place| (*place).clone());
        let mut writer = self.writer();
        let view = self.view.load();
        let blocks = view.blocks.iter().flat_map(|blocks| blocks.moved(place_of, self.cache())).collect();
        self.publish(&mut writer, FrameView { blocks, ..(**view).clone() });
    }

    fn packed(&self, blocks: Vec<Blocks>) -> Arc<[Blocks]> {
        blocks::pack(blocks, blocks::kept_unpacked(self.layout, self.schema()), self.id, self.cache())
    }
}
