//! Estimates when blocks were written, from the rows before and after them. The times of the rows alone do not tell if
//! the wall clock was wrong.

use super::generations::GenerationRows;
use super::{Blocks, FrameView};

/// How far a clock may be ahead of the trusted time and still count as right, in milliseconds.
pub(crate) const AHEAD_MS: i64 = 3_600_000;

/// How many later generations are searched for the time when the clock was right again.
const LOOKED_THROUGH: usize = 64;

/// One frame's generations.
#[derive(Debug)]
pub(crate) struct WriteTimes {
    generations: Vec<GenerationTimes>,
    trusted_ms: i64,
}

#[derive(Debug)]
struct GenerationTimes {
    number: u32,
    first_ms: i64,
    /// The latest time in the generations before.
    before_ms: Option<i64>,
    /// The first block start in this or later generations that reaches `before_ms`: the clock is back where it was
    /// before it went back.
    again_ms: Option<i64>,
}

impl WriteTimes {
    /// Collects the generations of a view. `trusted_ms` is the trusted time.
    pub(super) fn of(view: &FrameView, trusted_ms: i64) -> Self {
        let runs = GenerationRows::all(view);
        let mut latest_ms: Option<i64> = None;
        let generations = runs.iter().enumerate().filter_map(|(nth, run)| {
            let (first_ms, last_ms) = run.span()?;
            let before_ms = latest_ms;
            latest_ms = latest_ms.max(Some(last_ms));
            let later = runs.get(nth..).unwrap_or_default().iter().take(LOOKED_THROUGH);
            let again_ms = before_ms.and_then(|before_ms| {
                let mut later = later.filter(|run| run.span().is_some_and(|(_, last_ms)| last_ms >= before_ms));
                later.find_map(|run| run.first_from(before_ms))
            });
            Some(GenerationTimes { number: run.generation()?, first_ms, before_ms, again_ms })
        });
        Self { generations: generations.collect(), trusted_ms }
    }

    /// Returns the time by which blocks were written:
    ///
    /// * If the clock was behind, as on a board without a battery that boots in 1970: the latest time before plus the
    ///   time that has passed in this generation, but at most the time when the clock was right again.
    /// * If the clock was ahead: the time when it was set back.
    /// * Otherwise: the time of the last row.
    pub(crate) fn by_ms(&self, blocks: &Blocks) -> i64 {
        let last_ms = blocks.last_ms();
        let nth = self.generations.partition_point(|generation| generation.number < blocks.generation());
        let Some(own) = self.generations.get(nth) else { return last_ms };
        let is_ahead = |at_ms: i64| at_ms > self.trusted_ms.saturating_add(AHEAD_MS);
        match own.before_ms {
            Some(before_ms) if last_ms < before_ms && !is_ahead(before_ms) => {
                let gone_on_ms = last_ms.saturating_sub(own.first_ms);
                before_ms.saturating_add(gone_on_ms).min(own.again_ms.unwrap_or(i64::MAX)).max(last_ms)
            }
            _ if is_ahead(last_ms) => {
                let mut later = self.generations.iter().skip(nth + 1).map(|later| later.first_ms);
                later.find(|first_ms| !is_ahead(*first_ms)).unwrap_or(self.trusted_ms)
            }
            _ => last_ms,
        }
    }
}
