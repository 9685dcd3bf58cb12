use super::{BlockRef, Blocks, OpenBlock};
use std::sync::Arc;

/// A frame's rows at one time.
#[derive(Debug, Clone, Default)]
pub(crate) struct FrameView {
    /// Sealed blocks in the order they were written. Times ascend within a generation.
    pub(crate) blocks: Arc<[Blocks]>,
    /// Open blocks, newer than the sealed ones. Rows are added to the last one.
    pub(crate) opens: Vec<Arc<OpenBlock>>,
    pub(crate) generation: u32,
    /// The lowest number of the next row. Numbers continue here after all blocks were removed.
    pub(crate) floor: u64,
}

impl FrameView {
    pub(crate) fn last_block(&self) -> Option<BlockRef<'_>> {
        self.blocks.last()?.last()
    }

    /// Returns how many rows there ever were.
    pub(crate) fn end_row(&self) -> u64 {
        let end_row = match (self.opens.last(), self.blocks.last()) {
            (Some(open), _) => open.end_row(),
            (None, Some(blocks)) => blocks.end_row(),
            (None, None) => 0,
        };
        end_row.max(self.floor)
    }

    /// Returns the number of the first row that counts, if the newest `capacity` rows count.
    pub(crate) fn first_row(&self, capacity: u64) -> u64 {
        let start_row = match (self.blocks.first(), self.opens.first()) {
            (Some(blocks), _) => blocks.start_row(),
            (None, Some(open)) => open.start_row,
            (None, None) => return self.floor,
        };
        self.end_row().saturating_sub(capacity).max(start_row)
    }

    pub(super) fn rows(&self, capacity: u64) -> u64 {
        let first_row = self.first_row(capacity);
        let count = |start: u64, end: u64| end.saturating_sub(start.max(first_row));
        let blocks: u64 = self.blocks.iter().map(|blocks| count(blocks.start_row(), blocks.end_row())).sum();
        blocks + self.opens.iter().map(|open| count(open.start_row, open.end_row())).sum::<u64>()
    }
}
