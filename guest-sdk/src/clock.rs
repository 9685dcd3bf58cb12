//! A clock within a call. `std::time::Instant` ends a plugin for `wasm32-unknown-unknown` with a trap; this clock works
//! for every target.
//!
//! For the time of a sample use the tick, which is the same for all samples of a poll.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point in time, to measure how long something takes.
///
/// ```
/// # use dropsonde_guest::clock::Instant;
/// let started = Instant::now();
/// let took_ms = started.elapsed().as_secs_f64() * 1000.0;
/// # assert!(took_ms >= 0.0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    pub fn now() -> Self {
        Self(imp::nanos())
    }

    /// Returns the time since this point.
    pub fn elapsed(self) -> Duration {
        Self::now() - self
    }

    #[cfg(target_family = "wasm")]
    pub(crate) fn nanos(self) -> u64 {
        self.0
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, more: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(more.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// The time from one point to a later one; 0 if it is not later.
impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(target_family = "wasm")]
mod imp {
    pub(super) fn nanos() -> u64 {
        wasip2::clocks::monotonic_clock::now()
    }
}

#[cfg(not(target_family = "wasm"))]
mod imp {
    use std::sync::LazyLock;
    use std::time::Instant;

    pub(super) fn nanos() -> u64 {
        static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
        u64::try_from(FIRST.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_and_never_back() {
        let started = Instant::now();
        let later = started + Duration::from_secs(1);
        assert_eq!((later - started, started - later), (Duration::from_secs(1), Duration::ZERO));
        assert!(Instant::now() >= started && started + Duration::MAX > later);
    }
}
