use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Measures the CPU time of a call as the time spent inside `poll`.
///
/// A guest that waits for the host returns from `poll`, so waiting is free; counting epochs instead would charge it for
/// every tick of the clock. One thread polls and reads the meter; the atomics only satisfy the compiler.
#[derive(Debug, Clone)]
pub(crate) struct Meter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    origin: Instant,
    budget_ns: AtomicU64,
    /// By polls that have returned.
    used_ns: AtomicU64,
    /// When the poll under way began, since `origin`; 0 between polls.
    polling_since_ns: AtomicU64,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner {
            origin: Instant::now(),
            budget_ns: AtomicU64::new(0),
            used_ns: AtomicU64::new(0),
            polling_since_ns: AtomicU64::new(0),
        }))
    }

    /// Runs a call under a fresh budget.
    pub(crate) async fn run<F: Future>(&self, budget: Duration, call: F) -> F::Output {
        let inner = &*self.0;
        inner.budget_ns.store(nanos(budget), Relaxed);
        inner.used_ns.store(0, Relaxed);
        let mut call = pin!(call);
        poll_fn(|context| {
            let since = inner.now_ns();
            inner.polling_since_ns.store(since, Relaxed);
            let polled = call.as_mut().poll(context);
            let spent = inner.now_ns().saturating_sub(since);
            inner.polling_since_ns.store(0, Relaxed);
            inner.used_ns.fetch_add(spent, Relaxed);
            polled
        })
        .await
    }

    /// CPU time of the call under way, or of the last one.
    pub(crate) fn used(&self) -> Duration {
        let since = self.0.polling_since_ns.load(Relaxed);
        let current = if since == 0 { 0 } else { self.0.now_ns().saturating_sub(since) };
        Duration::from_nanos(self.0.used_ns.load(Relaxed).saturating_add(current))
    }

    pub(crate) fn exhausted(&self) -> bool {
        self.used() >= Duration::from_nanos(self.0.budget_ns.load(Relaxed))
    }
}

impl Inner {
    /// Never 0, which means "not polling".
    fn now_ns(&self) -> u64 {
        nanos(self.origin.elapsed()).max(1)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_is_not_charged() {
        let meter = Meter::new();
        meter.run(Duration::from_secs(1), tokio::time::sleep(Duration::from_secs(3600))).await;
        assert!(!meter.exhausted(), "{:?}", meter.used());
    }

    #[tokio::test]
    async fn time_inside_poll_is_charged_while_it_goes_on() {
        let meter = Meter::new();
        let budget = Duration::from_millis(2);
        meter
            .run(budget, async {
                let start = Instant::now();
                while start.elapsed() < budget {
                    std::hint::spin_loop();
                }
                assert!(meter.exhausted());
            })
            .await;
        assert!(meter.used() >= budget);
    }
}
