use rustix::time::{ClockId, clock_gettime};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Measures the CPU time of a call: what its thread used inside `poll`.
///
/// A guest that waits for the host returns from `poll`, so waiting is free; counting epochs instead would charge it for
/// every tick of the clock, and the wall clock for everything else that runs on a busy machine. One thread polls and
/// reads the meter; the atomics only satisfy the compiler.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    budget_ns: AtomicU64,
    /// By polls that have returned.
    used_ns: AtomicU64,
    /// The thread's CPU time when the poll under way began; 0 between polls.
    polling_since_ns: AtomicU64,
}

impl Meter {
    /// Runs a call under a fresh budget.
    pub(crate) async fn run<F: Future>(&self, budget: Duration, call: F) -> F::Output {
        let inner = &*self.0;
        inner.budget_ns.store(u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        inner.used_ns.store(0, Relaxed);
        let mut call = pin!(call);
        poll_fn(|context| {
            let since = thread_ns();
            inner.polling_since_ns.store(since, Relaxed);
            let polled = call.as_mut().poll(context);
            let spent = thread_ns().saturating_sub(since);
            inner.polling_since_ns.store(0, Relaxed);
            inner.used_ns.fetch_add(spent, Relaxed);
            polled
        })
        .await
    }

    /// CPU time of the call under way, or of the last one. To be asked on the thread that polls.
    pub(crate) fn used(&self) -> Duration {
        let since = self.0.polling_since_ns.load(Relaxed);
        let current = if since == 0 { 0 } else { thread_ns().saturating_sub(since) };
        Duration::from_nanos(self.0.used_ns.load(Relaxed).saturating_add(current))
    }

    pub(crate) fn exhausted(&self) -> bool {
        self.used() >= Duration::from_nanos(self.0.budget_ns.load(Relaxed))
    }
}

/// CPU time of this thread so far; never 0, which means "not polling".
fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_for_the_host_is_not_charged() {
        let meter = Meter::default();
        meter.run(Duration::from_secs(1), tokio::time::sleep(Duration::from_secs(3600))).await;
        assert!(!meter.exhausted(), "{:?}", meter.used());
    }

    #[tokio::test]
    async fn waiting_for_the_processor_is_not_charged() {
        let meter = Meter::default();
        // The thread is there and does not run, as one that others are let go before.
        meter.run(Duration::from_millis(20), async { std::thread::park_timeout(Duration::from_millis(30)) }).await;
        assert!(!meter.exhausted(), "{:?}", meter.used());
    }

    #[tokio::test]
    async fn time_inside_poll_is_charged_while_it_goes_on() {
        let meter = Meter::default();
        let budget = Duration::from_millis(2);
        meter
            .run(budget, async {
                let start = std::time::Instant::now();
                while !meter.exhausted() {
                    std::hint::spin_loop();
                }
                assert!(start.elapsed() >= budget, "no more CPU time than time");
            })
            .await;
        assert!(meter.used() >= budget);
    }
}
