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
pub(crate) struct Remote {
    destination: &'static str,
    metrics: CoreMetrics,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// No request is sent before this time.
    open_until: Option<Instant>,
}

/// The change that a request's outcome makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// The destination has stopped answering.
    Lost,
    /// The destination answers again.
    Back,
}

impl Remote {
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
    pub(crate) fn answered(&self, took: Duration) -> Change {
        let before = std::mem::take(&mut *self.lock());
        self.metrics.remote_connected(self.destination, true);
        self.metrics.remote_rtt(self.destination, took);
        self.metrics.remote_breaker(self.destination, BreakerState::Closed);
        self.metrics.remote_reconnects(self.destination, u64::from(before.failures > 0));
        if before.failures > 0 { Change::Back } else { Change::None }
    }

    /// Records that a request got no answer or was refused.
    pub(crate) fn failed(&self, now: Instant) -> Change {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        self.metrics.remote_connected(self.destination, false);
        self.metrics.errors("host", self.destination, 1);
        if state.failures >= MOST_FAILURES {
            state.open_until = Some(now + PAUSE);
            self.metrics.remote_breaker(self.destination, BreakerState::Open);
        }
        if state.failures == 1 { Change::Lost } else { Change::None }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_engine::metrics::MetricRegistry;

    fn remote() -> (Remote, impl Fn(&str) -> f64) {
        let registry = MetricRegistry::new().unwrap();
        let remote = Remote::new("there", CoreMetrics::register(&registry).unwrap());
        let shown = move |name: &str| {
            let families = registry.prometheus().gather();
            let family = families.into_iter().find(|family| family.name() == format!("dropsonde_remote_{name}"));
            family.map_or(f64::NAN, |family| {
                let metric = &family.get_metric()[0];
                metric.get_gauge().get_value() + metric.get_counter().get_value()
            })
        };
        (remote, shown)
    }

    #[test]
    fn after_some_failures_nothing_is_sent_for_a_while_and_then_one_to_see() {
        let (remote, shown) = remote();
        let now = Instant::now();
        assert_eq!(remote.failed(now), Change::Lost);
        assert_eq!(remote.failed(now), Change::None);
        assert!(remote.may_send(now));
        remote.failed(now);
        assert!(!remote.may_send(now));
        assert_eq!((shown("circuit_breaker"), shown("connected")), (1.0, 0.0));
        let later = now + PAUSE;
        assert!(remote.may_send(later));
        assert_eq!(shown("circuit_breaker"), 2.0);
        remote.failed(later);
        assert!(!remote.may_send(later), "one more failure opens the breaker again");
    }

    #[test]
    fn an_answer_closes_it_and_counts_a_reconnection() {
        let (remote, shown) = remote();
        assert_eq!(remote.answered(Duration::from_millis(5)), Change::None);
        assert_eq!((shown("rtt_seconds"), shown("reconnects_total")), (0.005, 0.0));
        for _ in 0..MOST_FAILURES {
            remote.failed(Instant::now());
        }
        assert_eq!(remote.answered(Duration::from_millis(5)), Change::Back);
        assert!(remote.may_send(Instant::now()));
        assert_eq!((shown("connected"), shown("circuit_breaker"), shown("reconnects_total")), (1.0, 0.0, 1.0));
    }
}
