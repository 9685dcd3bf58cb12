//! The generations of a frame's rows. There is one as long as nobody sets the clock back.

use super::{BlockRef, Blocks, FrameView, OpenBlock};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// The rows of one generation, ascending in time.
#[derive(Debug)]
pub(super) struct GenerationRows<'a> {
    pub(super) blocks: &'a [Blocks],
    /// Open blocks, after the sealed ones.
    pub(super) opens: &'a [Arc<OpenBlock>],
}

impl<'a> GenerationRows<'a> {
    /// Returns the generations that have rows, in the order they were written.
    pub(super) fn all(view: &'a FrameView) -> Vec<Self> {
        let (mut blocks, mut opens) = (&*view.blocks, &view.opens[..]);
        let mut runs = Vec::new();
        while let Some(generation) =
            blocks.first().map(Blocks::generation).or(opens.first().map(|open| open.generation))
        {
            // Fast path: most often all blocks are of one generation.
            let of_blocks = match blocks.last() {
                Some(last) if last.generation() == generation => blocks.len(),
                _ => blocks.partition_point(|blocks| blocks.generation() <= generation),
            };
            let of_opens = opens.partition_point(|open| open.generation <= generation);
            let of_opens = if of_blocks == blocks.len() { of_opens } else { 0 };
            let run = GenerationRows {
                blocks: blocks.get(..of_blocks).unwrap_or_default(),
                opens: opens.get(..of_opens).unwrap_or_default(),
            };
            (blocks, opens) = (blocks.get(of_blocks..).unwrap_or_default(), opens.get(of_opens..).unwrap_or_default());
            if run.span().is_some() {
                runs.push(run);
            }
        }
        runs
    }

    /// Returns the times of the first and the last row.
    pub(super) fn span(&self) -> Option<(i64, i64)> {
        let first = self.blocks.first().map(Blocks::first_ms).or(self.opens.first().and_then(|open| open.at_ms(0)));
        let last = self.opens.iter().rev().find_map(|open| open.last_ms()).or(self.blocks.last().map(Blocks::last_ms));
        Some((first?, last?))
    }

    /// Returns the start of the first block that begins at `at_ms` or later.
    pub(super) fn first_from(&self, at_ms: i64) -> Option<i64> {
        let from = self.blocks.partition_point(|blocks| blocks.last_ms() < at_ms);
        let blocks = self.blocks.iter().skip(from).flat_map(Blocks::each).map(|block| block.first_ms);
        let opens = self.opens.iter().filter_map(|open| open.at_ms(0));
        blocks.chain(opens).find(|first_ms| *first_ms >= at_ms)
    }

    pub(super) fn generation(&self) -> Option<u32> {
        self.blocks.first().map(Blocks::generation).or(self.opens.first().map(|open| open.generation))
    }

    pub(super) fn blocks_in(&self, window: Range<i64>) -> impl Iterator<Item = BlockRef<'a>> {
        let from = self.blocks.partition_point(|blocks| blocks.last_ms() < window.start);
        let blocks = self.blocks.iter().skip(from).flat_map(Blocks::each);
        let blocks = blocks.skip_while(move |block| block.last_ms < window.start);
        blocks.take_while(move |block| block.first_ms < window.end)
    }
}

/// Returns the rows of several generations in the order of their times: the number of the piece, and the row in it.
/// `pieces` has the times of each piece; a later piece was written later. Of rows with the same time only the one
/// written last is included.
pub(super) fn in_order(pieces: &[&[i64]]) -> Vec<(usize, usize)> {
    let mut order: Vec<(i64, usize, usize)> = Vec::new();
    for (nth, at_ms) in pieces.iter().enumerate() {
        order.extend(at_ms.iter().enumerate().map(|(row, &at)| (at, nth, row)));
    }
    order.sort_unstable();
    let is_replaced = |pair: &[(i64, usize, usize)]| matches!(pair, [row, next] if row.0 == next.0);
    let last = order.last().map(|&(_, nth, row)| (nth, row));
    let rows = order.windows(2).filter(|pair| !is_replaced(pair)).filter_map(|pair| pair.first());
    rows.map(|&(_, nth, row)| (nth, row)).chain(last).collect()
}

/// Divides a window where generations begin and end. Returns each part that has rows, with its generations in the order
/// they were written.
pub(super) fn spans<'r, 'a>(
    runs: &'r [GenerationRows<'a>],
    window: Range<i64>,
) -> Vec<(Range<i64>, Vec<&'r GenerationRows<'a>>)> {
    // Time of the edge, whether a generation begins there, and its index.
    let mut edges: Vec<(i64, bool, usize)> = Vec::new();
    for (nth, run) in runs.iter().enumerate() {
        let Some((first_ms, last_ms)) = run.span() else { continue };
        let (start, end) = (first_ms.max(window.start), last_ms.saturating_add(1).min(window.end));
        if start < end {
            edges.extend([(start, true, nth), (end, false, nth)]);
        }
    }
    edges.sort_unstable();
    let mut spans = Vec::new();
    let mut over: BTreeSet<usize> = BTreeSet::new();
    let mut from = window.start;
    for (at, begins, nth) in edges {
        if from < at && !over.is_empty() {
            spans.push((from..at, over.iter().filter_map(|&nth| runs.get(nth)).collect()));
        }
        from = at;
        if begins {
            over.insert(nth)
        } else {
            over.remove(&nth)
        };
    }
    spans
}
