//! A timeline that goes on steadily, however the wall clock is set. Rates follow it, and the host notices by it that
//! the wall clock was set.
//!
//! The timeline begins with the wall clock's time when the host first ran, and goes on steadily. Through a restart of
//! the host it follows the machine's clock since the boot. Through a reboot it adds the time that has passed by the
//! wall clock, unless that went back.

use crate::clock::Clock;
use crate::metrics::HostMetrics;
use dropsonde_store::{ClockJump, Store};
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The key of the note beside history that holds the last state of the timeline.
const NOTE: &str = "clock/timeline";

/// The time between two writes of the note.
const NOTED: Duration = Duration::from_secs(60);

/// The largest change of the wall clock that is not a jump, in milliseconds. Smaller changes come from a clock that is
/// corrected gradually.
const JUMP_MS: f64 = 500.0;

/// The longest time between reading both clocks. If it takes longer, they are read again.
const TOGETHER: Duration = Duration::from_millis(20);

/// The time for which `/health` reports a jump.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// The timeline of a host.
#[derive(Debug)]
pub(crate) struct Timeline {
    clock: Clock,
    /// The machine's id of this boot; none if it cannot be read.
    boot: Option<String>,
    /// The timeline's time when the steady clock was 0, in milliseconds.
    base_ms: f64,
    state: Mutex<ClockState>,
}

#[derive(Debug)]
struct ClockState {
    /// How far the wall clock is ahead of the timeline, in milliseconds.
    ahead_ms: f64,
    /// When the note was last written.
    noted: Option<Instant>,
    /// The last jump, and when it was noticed.
    last: Option<(Instant, ClockJump)>,
}

/// The last state of a timeline.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct TimelineNote {
    /// The machine's id of the boot.
    boot: Option<String>,
    base_ms: f64,
    /// The wall clock and the timeline, read together.
    wall_ms: i64,
    read_ms: f64,
}

impl Timeline {
    /// Continues the timeline of the last start. Reports a jump if the wall clock was set meanwhile.
    pub(crate) fn resume(clock: Clock, store: &Store, metrics: &HostMetrics) -> Self {
        Self::on(clock, boot_id(), store, metrics)
    }

    fn on(clock: Clock, boot: Option<String>, store: &Store, metrics: &HostMetrics) -> Self {
        let (wall_ms, steady_ms) = look(&clock);
        let noted: Option<TimelineNote> =
            store.notes(NOTE).first().and_then(|(_, value)| serde_json::from_slice(value).ok());
        let noted = noted.filter(|noted| noted.base_ms.is_finite() && noted.read_ms.is_finite());
        let is_same_boot = noted.as_ref().is_some_and(|noted| noted.boot.is_some() && noted.boot == boot);
        let base_ms = match &noted {
            None => wall_ms as f64 - steady_ms,
            Some(noted) if is_same_boot => noted.base_ms,
            Some(noted) => {
                let passed_ms = wall_ms.saturating_sub(noted.wall_ms).max(0) as f64;
                noted.read_ms + passed_ms - steady_ms
            }
        };
        let ahead_ms = noted.map_or(0.0, |noted| noted.wall_ms as f64 - noted.read_ms);
        let state = Mutex::new(ClockState { ahead_ms, noted: None, last: None });
        let timeline = Self { clock, boot, base_ms, state };
        timeline.look(store, metrics);
        timeline
    }

    /// Returns the timeline's time at a moment of the steady clock, in milliseconds.
    pub(crate) fn read_ms(&self, steady: Duration) -> f64 {
        self.base_ms + steady.as_secs_f64() * 1000.0
    }

    /// Checks whether the wall clock was set. If so, the jump is logged, counted and remembered.
    pub(crate) fn look(&self, store: &Store, metrics: &HostMetrics) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall_ms, steady_ms) = look(&self.clock);
        let read_ms = self.base_ms + steady_ms;
        let ahead_ms = wall_ms as f64 - read_ms;
        let by_ms = ahead_ms - state.ahead_ms;
        state.ahead_ms = ahead_ms;
        let has_jumped = by_ms.abs() > JUMP_MS;
        if has_jumped {
            let jump = ClockJump { at_ms: wall_ms, by_ms: by_ms as i64 };
            let direction = if jump.by_ms < 0 { "back" } else { "ahead" };
            tracing::warn!(
                by = %span(jump.by_ms),
                direction,
                "the clock was set; no history was removed"
            );
            metrics.clock_jumps.with_label_values(&[direction]).inc();
            metrics.clock_last_jump_seconds.set(jump.by_ms as f64 / 1000.0);
            store.clock_jumped(jump);
            state.last = Some((Instant::now(), jump));
        }
        if has_jumped || state.noted.is_none_or(|noted| noted.elapsed() >= NOTED) {
            state.noted = Some(Instant::now());
            let note = TimelineNote { boot: self.boot.clone(), base_ms: self.base_ms, wall_ms, read_ms };
            // This fails only for large notes.
            let _ = store.note(NOTE, serde_json::to_vec(&note).ok());
        }
    }

    /// Returns the last jump of the wall clock, if it was within the last hour.
    pub(crate) fn recent_jump(&self) -> Option<ClockJump> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.last.filter(|(at, _)| at.elapsed() < REMEMBERED).map(|(_, jump)| jump)
    }
}

/// Returns how far a clock was set, as people read it.
pub fn span(by_ms: i64) -> String {
    let seconds = by_ms.unsigned_abs().div_ceil(1000);
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// Returns the wall clock and the steady clock at nearly the same moment, in milliseconds. The process may be held up
/// between reading the two, so it tries again a few times.
fn look(clock: &Clock) -> (i64, f64) {
    const TRIES: usize = 5;
    let mut before = clock.steady();
    for _ in 0..TRIES {
        let wall_ms = clock.now_ms();
        let after = clock.steady();
        if after.saturating_sub(before) <= TOGETHER {
            return (wall_ms, before.as_secs_f64() * 1000.0);
        }
        before = after;
    }
    (clock.now_ms(), before.as_secs_f64() * 1000.0)
}

/// Returns the kernel's id of this boot.
fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty() && id.len() <= 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_store::StoreLimits;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

    const NOON: i64 = 1_700_000_000_000;
    const HOUR: i64 = 3_600_000;

    struct World {
        start_ms: Arc<AtomicI64>,
        clock: Clock,
        store: Store,
        metrics: HostMetrics,
    }

    impl World {
        fn new() -> Self {
            let start_ms = Arc::new(AtomicI64::new(NOON));
            let set = start_ms.clone();
            let clock = Clock::set_by(move || set.load(Relaxed));
            let (store, metrics) = (Store::in_memory(&StoreLimits::default()), HostMetrics::new().unwrap());
            Self { start_ms, clock, store, metrics }
        }

        fn start(&self, boot: &str) -> Timeline {
            Timeline::on(self.clock.clone(), Some(boot.to_owned()), &self.store, &self.metrics)
        }

        fn set(&self, by_ms: i64) {
            self.start_ms.fetch_add(by_ms, Relaxed);
        }

        fn jumps(&self) -> Vec<i64> {
            self.store.clock_jumps().iter().map(|jump| jump.by_ms).collect()
        }
    }

    async fn pass(ms: u64) {
        tokio::time::advance(Duration::from_millis(ms)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_timeline_goes_on_steadily_while_the_wall_clock_is_set() {
        let world = World::new();
        let timeline = world.start("a");
        let read = || timeline.read_ms(world.clock.steady());
        let began = read();
        pass(1000).await;
        world.set(-2 * HOUR);
        timeline.look(&world.store, &world.metrics);
        pass(1000).await;
        world.set(365 * 24 * HOUR);
        timeline.look(&world.store, &world.metrics);
        assert_eq!(read() - began, 2000.0);
        assert_eq!(world.jumps(), [-2 * HOUR, 365 * 24 * HOUR]);
        assert_eq!(timeline.recent_jump().map(|jump| jump.by_ms), Some(365 * 24 * HOUR));
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_corrected_gradually_causes_no_jump() {
        let world = World::new();
        let timeline = world.start("a");
        for _ in 0..100 {
            pass(1000).await;
            world.set(-100);
            timeline.look(&world.store, &world.metrics);
        }
        assert!(world.jumps().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_set_between_two_starts_is_noticed_at_the_second_start() {
        let world = World::new();
        let first = world.start("a").read_ms(world.clock.steady());
        pass(5000).await;
        world.set(-2 * HOUR);
        let again = world.start("a");
        assert_eq!((world.jumps(), again.read_ms(world.clock.steady()) - first), (vec![-2 * HOUR], 5000.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reboot_adds_the_time_passed_by_the_wall_clock_unless_it_went_back() {
        let world = World::new();
        let first = world.start("a").read_ms(world.clock.steady());
        world.set(HOUR);
        let second = world.start("b").read_ms(world.clock.steady());
        assert_eq!((second - first, world.jumps()), (HOUR as f64, vec![]));
        world.set(-NOON);
        let third = world.start("c");
        assert_eq!((third.read_ms(world.clock.steady()) - second, world.jumps()), (0.0, vec![-NOON]));
    }
}
