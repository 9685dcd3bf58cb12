//! Which steps queries use, and where buckets begin.
//!
//! Steps come from a fixed ladder and buckets from the epoch, so that equal questions get equal answers, whenever they
//! are asked. Every rung divides a day.

/// 1 2 5 10 15 20 30 s, 1 2 3 5 6 10 15 30 45 90 min, 3 6 12 h, 1 d, in milliseconds.
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

/// Points an automatic step aims at.
pub const AUTO_POINTS: u32 = 120;

/// The smallest rung that cuts `window_ms` into at most `points` and is no finer than `interval_ms`; beyond the ladder,
/// whole days.
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

/// The bucket boundary at or before a time.
pub fn floor(at_ms: i64, step_ms: i64) -> i64 {
    at_ms.saturating_sub(at_ms.rem_euclid(step_ms.max(1)))
}

/// The bucket boundary at or after a time.
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
    fn the_usual_windows_get_the_steps_people_know() {
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
    fn boundaries_are_the_epochs_also_before_it() {
        assert_eq!((floor(95, 30), ceil(95, 30), ceil(90, 30)), (90, 120, 90));
        assert_eq!((floor(-5, 30), ceil(-5, 30)), (-30, 0));
        assert_eq!(floor(i64::MIN, 7), i64::MIN);
    }

    #[test]
    fn every_rung_divides_a_day() {
        assert!(RUNGS_MS.iter().all(|rung| DAY_MS % rung == 0));
    }
}
