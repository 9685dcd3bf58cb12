//! The steps that queries use, and the starts of buckets.
//!
//! Steps come from a fixed ladder and buckets are aligned to the epoch, so that equal queries get equal answers at any
//! time. Every rung divides a day.

/// The rungs in milliseconds: 1 2 5 10 15 20 30 s, 1 2 3 5 6 10 15 30 45 90 min, 3 6 12 h, 1 d.
const RUNGS_MS: [i64; 21] = {
    const S: i64 = 1000;
    const MIN: i64 = 60 * S;
    const H: i64 = 60 * MIN;
    [
        S,
        2 * S,
        5 * S,
        10 * S,
        15 * S,
        20 * S,
        30 * S,
        MIN,
        2 * MIN,
        3 * MIN,
        5 * MIN,
        6 * MIN,
        10 * MIN,
        15 * MIN,
        30 * MIN,
        45 * MIN,
        90 * MIN,
        3 * H,
        6 * H,
        12 * H,
        DAY_MS,
    ]
};

const DAY_MS: i64 = 86_400_000;

/// The number of points that an automatic step aims at.
pub const AUTO_POINTS: u32 = 120;

/// The lengths of blocks and their parts. Both are aligned to the epoch, so that they nest with the steps of long
/// windows, which are then answered from cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The length of a block in milliseconds.
    pub(crate) block_ms: i64,
    /// The length of a part in milliseconds. A block is a whole number of parts.
    pub(crate) part_ms: i64,
}

impl Layout {
    const MIN: i64 = 60_000;

    /// Lengths of block and part, shortest first. Each part divides 90 minutes, the automatic step for a week.
    const SPANS_MS: [(i64, i64); 8] = [
        (Self::MIN, Self::MIN),
        (5 * Self::MIN, Self::MIN),
        (10 * Self::MIN, 5 * Self::MIN),
        (15 * Self::MIN, 5 * Self::MIN),
        (45 * Self::MIN, 15 * Self::MIN),
        (90 * Self::MIN, 15 * Self::MIN),
        (360 * Self::MIN, 90 * Self::MIN),
        (DAY_MS, 90 * Self::MIN),
    ];

    /// The most rows of a block whose readings come on schedule.
    const ROWS: i64 = 600;

    /// The same for labelled series, of which there may be a million: the rows of an open block are not compressed.
    const LABELLED_ROWS: i64 = 300;

    pub(crate) fn of(interval_ms: i64) -> Self {
        Self::with_rows(interval_ms, Self::ROWS)
    }

    pub(crate) fn of_labelled(interval_ms: i64) -> Self {
        Self::with_rows(interval_ms, Self::LABELLED_ROWS)
    }

    fn with_rows(interval_ms: i64, rows: i64) -> Self {
        let fits = |(block_ms, _): &(i64, i64)| *block_ms <= interval_ms.saturating_mul(rows);
        let (block_ms, part_ms) = Self::SPANS_MS.into_iter().rfind(fits).unwrap_or((Self::MIN, Self::MIN));
        Self { block_ms, part_ms }
    }
}

/// Returns the smallest rung that divides `window_ms` into at most `points` and is no finer than `interval_ms`. Beyond
/// the ladder it returns whole days.
pub fn step_ms(window_ms: i64, points: u32, interval_ms: i64) -> i64 {
    let window_ms = window_ms.max(0);
    let points = i64::from(points.max(1));
    let enough = |step: i64| step >= interval_ms && step.saturating_mul(points) >= window_ms;
    match RUNGS_MS.into_iter().find(|&rung| enough(rung)) {
        Some(rung) => rung,
        None => {
            let least = interval_ms.max(window_ms.div_euclid(points) + i64::from(window_ms % points != 0));
            ceil(least, DAY_MS)
        }
    }
}

/// Returns the bucket boundary at or before a time.
pub fn floor(at_ms: i64, step_ms: i64) -> i64 {
    at_ms.saturating_sub(at_ms.rem_euclid(step_ms.max(1)))
}

/// Returns the bucket boundary at or after a time.
pub fn ceil(at_ms: i64, step_ms: i64) -> i64 {
    let down = floor(at_ms, step_ms);
    if down == at_ms { at_ms } else { down.saturating_add(step_ms.max(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: i64 = 60_000;
    const H: i64 = 60 * MIN;

    #[test]
    fn usual_windows_get_round_steps() {
        let auto = |window| step_ms(window, AUTO_POINTS, 10_000);
        assert_eq!(auto(H), 30_000);
        assert_eq!(auto(6 * H), 3 * MIN);
        assert_eq!(auto(24 * H), 15 * MIN);
        assert_eq!(auto(7 * 24 * H), 90 * MIN);
    }

    #[test]
    fn a_step_is_never_finer_than_the_readings() {
        assert_eq!(step_ms(MIN, AUTO_POINTS, 10_000), 10_000);
        assert_eq!(step_ms(MIN, AUTO_POINTS, 1_000), 1_000);
        assert_eq!(step_ms(MIN, AUTO_POINTS, 12_000), 15_000);
    }

    #[test]
    fn beyond_the_ladder_steps_are_whole_days() {
        assert_eq!(step_ms(365 * DAY_MS, AUTO_POINTS, 10_000), 4 * DAY_MS);
    }

    #[test]
    fn bucket_boundaries_are_multiples_of_the_step_also_before_1970() {
        assert_eq!((floor(95, 30), ceil(95, 30), ceil(90, 30)), (90, 120, 90));
        assert_eq!((floor(-5, 30), ceil(-5, 30)), (-30, 0));
        assert_eq!(floor(i64::MIN, 7), i64::MIN);
    }

    #[test]
    fn a_block_has_some_hundreds_of_rows_and_nests_with_the_step_of_a_week() {
        for (interval_ms, minutes, rows) in [(100, 1, 600), (1000, 10, 600), (10_000, 90, 540), (60_000, 360, 360)] {
            let layout = Layout::of(interval_ms);
            assert_eq!((layout.block_ms / MIN, layout.block_ms / interval_ms), (minutes, rows));
            assert_eq!(layout.block_ms % layout.part_ms, 0);
            assert_eq!((90 * MIN) % layout.part_ms, 0);
        }
        assert_eq!(Layout::of(DAY_MS), Layout { block_ms: DAY_MS, part_ms: 90 * MIN });
        assert_eq!(Layout::of(1).block_ms, MIN);
    }

    #[test]
    fn every_rung_divides_a_day() {
        assert!(RUNGS_MS.iter().all(|rung| DAY_MS % rung == 0));
    }
}
