use rustix::time::{ClockId, clock_gettime};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Measures the CPU time of a call: what its thread used since the call began.
///
/// The thread is the plugin's alone: what it does while the guest waits is work for the guest, such as reading an answer.
/// Waiting itself is free, be it for the host or for the processor; counting epochs instead would charge the guest for
/// every tick of the clock. One thread calls and reads the meter; the atomics only satisfy the compiler.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    budget_ns: AtomicU64,
    /// The thread's CPU time when the call under way began; 0 between calls.
    since_ns: AtomicU64,
    /// Of the last call.
    used_ns: AtomicU64,
}

impl Meter {
    /// Runs a call under a fresh budget.
    pub(crate) async fn run<F: Future>(&self, budget: Duration, call: F) -> F::Output {
        let inner = &*self.0;
        inner.budget_ns.store(u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        inner.since_ns.store(thread_ns(), Relaxed);
        let _ended = Ended(inner);
        call.await
    }

    /// CPU time of the call under way, or of the last one. To be asked on the thread that calls.
    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(self.0.used())
    }

    pub(crate) fn exhausted(&self) -> bool {
        self.0.used() >= self.0.budget_ns.load(Relaxed)
    }
}

impl Inner {
    fn used(&self) -> u64 {
        match self.since_ns.load(Relaxed) {
            0 => self.used_ns.load(Relaxed),
            since => thread_ns().saturating_sub(since),
        }
    }
}

/// Stops the meter, also when the call is given up.
struct Ended<'a>(&'a Inner);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.used_ns.store(self.0.used(), Relaxed);
        self.0.since_ns.store(0, Relaxed);
    }
}

/// CPU time of this thread so far; never 0, which means that there is no call.
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
    async fn what_is_done_for_the_call_beside_it_is_charged() {
        let meter = Meter::default();
        let budget = Duration::from_millis(2);
        meter
            .run(budget, async {
                let beside = meter.clone();
                let work = async move { while !beside.exhausted() {} };
                tokio::spawn(work).await.unwrap();
            })
            .await;
        assert!(meter.used() >= budget);
    }

    #[tokio::test]
    async fn what_is_computed_is_charged_while_it_goes_on() {
        let meter = Meter::default();
        let budget = Duration::from_millis(2);
        meter
            .run(budget, async {
                while !meter.exhausted() {
                    std::hint::spin_loop();
                }
            })
            .await;
        assert!(meter.used() >= budget);
    }
}
