//! The history of a frame in files, until the frame is first used. A start only finds out which frames there are. With
//! ten thousand frames, the first query waits only for the frame it needs.

use super::log::LoggedRows;
use super::log_rows::LogRowReader;
use super::segment::{FramePages, PageEntry};
use crate::Schema;
use crate::codec::CorruptData;
use std::cmp::Reverse;

#[derive(Debug, Default)]
pub(crate) struct UnreadHistory {
    /// The blocks in segments.
    pub(super) listed: Vec<FramePages>,
    /// The rows in logs, the older log first.
    pub(super) logged: Vec<LoggedRows>,
}

impl UnreadHistory {
    /// Returns the blocks in order, and the number of files whose list of blocks is corrupt.
    pub(crate) fn pages(&self) -> (Vec<PageEntry>, u64) {
        let mut pages = Vec::new();
        let damaged = self.listed.iter().filter(|listed| listed.read(&mut pages).is_err()).count();
        in_order(&mut pages);
        (pages, damaged as u64)
    }

    /// Passes the runs of rows in logs to `take`, in the order they were written. Returns how many were corrupt.
    pub(crate) fn rows(
        &self,
        schema: &Schema,
        mut take: impl FnMut(&mut LogRowReader<'_, '_>) -> Result<(), CorruptData>,
    ) -> u64 {
        self.logged.iter().map(|logged| logged.read(schema, &mut take)).sum()
    }
}

/// Sorts pages in order. If two pages of one generation overlap, the block was sealed again: the longer one stays.
fn in_order(pages: &mut Vec<PageEntry>) {
    pages.sort_by_key(|page| (page.generation, page.first_ms, Reverse(page.rows)));
    let mut last: Option<(u32, i64)> = None;
    pages.retain(|page| {
        let again = last.is_some_and(|(generation, end)| generation == page.generation && page.first_ms <= end);
        if !again {
            last = Some((page.generation, page.last_ms));
        }
        !again
    });
}
