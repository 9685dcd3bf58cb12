//! A destination that the host sends requests to: its metrics, and a circuit breaker, so that a destination that does
//! not answer costs nothing.

use dropsonde_engine::metrics::{BreakerState, CoreMetrics};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Consecutive failures after which the circuit breaker opens.
const MOST_FAILURES: u32 = 3;

/// Time without requests while the circuit breaker is open.
const PAUSE: Duration = Duration::from_secs(30);

/// A destination, its metrics and its circuit breaker.
#[derive(Debug)]
pub(crate) struct CircuitBreaker {
    destination: &'static str,
    metrics: CoreMetrics,
    state: Mutex<CircuitBreakerState>,
}

#[derive(Debug, Default)]
struct CircuitBreakerState {
    failures: u32,
    /// No request is sent before this time.
    open_until: Option<Instant>,
}

/// The change that a request's outcome makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReachabilityChange {
    None,
    /// The destination has stopped answering.
    Lost,
    /// The destination answers again.
    Back,
}

impl CircuitBreaker {
    /// Makes a destination that is not connected yet.
    pub(crate) fn new(destination: &'static str, metrics: CoreMetrics) -> Self {
        metrics.remote_connected(destination, false);
        metrics.remote_reconnects(destination, 0);
        metrics.remote_breaker(destination, BreakerState::Closed);
        Self { destination, metrics, state: Mutex::default() }
    }

    /// Returns whether a request may be sent now.
    pub(crate) fn may_send(&self, now: Instant) -> bool {
        match self.lock().open_until {
            Some(until) if now < until => false,
            Some(_) => {
                self.metrics.remote_breaker(self.destination, BreakerState::HalfOpen);
                true
            }
            None => true,
        }
    }

    /// Records that a request was answered after `took`.
    pub(crate) fn answered(&self, took: Duration) -> ReachabilityChange {
        let before = std::mem::take(&mut *self.lock());
        self.metrics.remote_connected(self.destination, true);
        self.metrics.remote_rtt(self.destination, took);
        self.metrics.remote_breaker(self.destination, BreakerState::Closed);
        self.metrics.remote_reconnects(self.destination, u64::from(before.failures > 0));
        if before.failures > 0 { ReachabilityChange::Back } else { ReachabilityChange::None }
    }

    /// Records that a request got no answer or was refused.
    pub(crate) fn failed(&self, now: Instant) -> ReachabilityChange {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        self.metrics.remote_connected(self.destination, false);
        self.metrics.errors("host", self.destination, 1);
        if state.failures >= MOST_FAILURES {
            state.open_until = Some(now + PAUSE);
            self.metrics.remote_breaker(self.destination, BreakerState::Open);
        }
        if state.failures == 1 { ReachabilityChange::Lost } else { ReachabilityChange::None }
    }

    fn lock(&self) -> MutexGuard<'_, CircuitBreakerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_engine::metrics::MetricRegistry;

    fn breaker() -> (CircuitBreaker, impl Fn(&str) -> f64) {
        let registry = MetricRegistry::new().unwrap();
        let breaker = CircuitBreaker::new("there", CoreMetrics::register(&registry).unwrap());
        let shown = move |name: &str| {
            let families = registry.prometheus().gather();
            let family = families.into_iter().find(|family| family.name() == format!("dropsonde_remote_{name}"));
            family.map_or(f64::NAN, |family| {
                let metric = &family.get_metric()[0];
                metric.get_gauge().get_value() + metric.get_counter().get_value()
            })
        };
        (breaker, shown)
    }

    #[test]
    fn after_three_failures_the_breaker_stays_open_for_a_pause_and_then_allows_one_request() {
        let (breaker, shown) = breaker();
        let now = Instant::now();
        assert_eq!(breaker.failed(now), ReachabilityChange::Lost);
        assert_eq!(breaker.failed(now), ReachabilityChange::None);
        assert!(breaker.may_send(now));
        breaker.failed(now);
        assert!(!breaker.may_send(now));
        assert_eq!((shown("circuit_breaker"), shown("connected")), (1.0, 0.0));
        let later = now + PAUSE;
        assert!(breaker.may_send(later));
        assert_eq!(shown("circuit_breaker"), 2.0);
        breaker.failed(later);
        assert!(!breaker.may_send(later), "one more failure opens the breaker again");
    }

    #[test]
    fn an_answer_closes_the_breaker_and_counts_a_reconnection() {
        let (breaker, shown) = breaker();
        assert_eq!(breaker.answered(Duration::from_millis(5)), ReachabilityChange::None);
        assert_eq!((shown("rtt_seconds"), shown("reconnects_total")), (0.005, 0.0));
        for _ in 0..MOST_FAILURES {
            breaker.failed(Instant::now());
        }
        assert_eq!(breaker.answered(Duration::from_millis(5)), ReachabilityChange::Back);
        assert!(breaker.may_send(Instant::now()));
        assert_eq!((shown("connected"), shown("circuit_breaker"), shown("reconnects_total")), (1.0, 0.0, 1.0));
    }
}
