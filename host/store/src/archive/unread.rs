//! What files have of a frame, until someone asks for it. A start finds out which frames there are, and no more: of ten
//! thousand of them, whoever comes first waits for one.

use super::log::Logged;
use super::rows::Reading;
use super::segment::{Listed, Page};
use crate::Schema;
use crate::codec::Damaged;
use std::cmp::Reverse;

#[derive(Debug, Default)]
pub(crate) struct Unread {
    pub(super) listed: Vec<Listed>,
    /// The older log first.
    pub(super) logged: Vec<Logged>,
}

impl Unread {
    /// The blocks as they follow each other, and how many files' lists made no sense.
    pub(crate) fn pages(&self) -> (Vec<Page>, u64) {
        let mut pages = Vec::new();
        let damaged = self.listed.iter().filter(|listed| listed.read(&mut pages).is_err()).count();
        in_order(&mut pages);
        (pages, damaged as u64)
    }

    /// Shows the runs of rows logs have, in the order they were written; how many made no sense.
    pub(crate) fn rows(
        &self,
        schema: &Schema,
        mut take: impl FnMut(&mut Reading<'_, '_>) -> Result<(), Damaged>,
    ) -> u64 {
        self.logged.iter().map(|logged| logged.read(schema, &mut take)).sum()
    }
}

/// Sorts pages as they follow each other; of two of one generation that overlap the longer stays: it was sealed again.
fn in_order(pages: &mut Vec<Page>) {
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
