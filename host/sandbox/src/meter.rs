use rustix::time::{ClockId, clock_gettime};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Measures the CPU time of a call: the CPU time of its thread since the previous call ended.
///
/// The thread belongs to the plugin alone. Its work while the guest waits is work for the guest, such as reading a
/// response; so is work left over from an earlier call. Waiting is free, whether for the host or for the processor.
/// Counting epochs instead would charge the guest for every tick of the clock. One thread calls and reads the meter;
/// the atomics only satisfy the compiler.
#[derive(Debug, Clone)]
pub(crate) struct Meter(Arc<MeterState>);

#[derive(Debug)]
struct MeterState {
    budget_ns: AtomicU64,
    /// The thread's CPU time at the end of the last call, in nanoseconds.
    since_ns: AtomicU64,
    /// CPU time of the last call, in nanoseconds.
    used_ns: AtomicU64,
}

impl Meter {
    /// Returns a meter for calls on this thread.
    pub(crate) fn new() -> Self {
        let (budget_ns, since_ns, used_ns) = (AtomicU64::new(0), AtomicU64::new(thread_ns()), AtomicU64::new(0));
        Self(Arc::new(MeterState { budget_ns, since_ns, used_ns }))
    }

    /// Runs a call with a new budget.
    pub(crate) async fn run<F: Future>(&self, budget: Duration, call: F) -> F::Output {
        self.0.budget_ns.store(u64::try_from(budget.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        // Dropped also when the call is cancelled.
        let _ended = Ended(&self.0);
        call.await
    }

    /// Returns the CPU time of the last call.
    pub(crate) fn used(&self) -> Duration {
        Duration::from_nanos(self.0.used_ns.load(Relaxed))
    }

    /// Returns whether the current call has used up its budget.
    pub(crate) fn exhausted(&self) -> bool {
        self.0.now() >= self.0.budget_ns.load(Relaxed)
    }
}

impl MeterState {
    fn now(&self) -> u64 {
        thread_ns().saturating_sub(self.since_ns.load(Relaxed))
    }
}

struct Ended<'a>(&'a MeterState);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let used = self.0.now();
        self.0.used_ns.store(used, Relaxed);
        self.0.since_ns.fetch_add(used, Relaxed);
    }
}

/// Returns the CPU time of this thread so far, in nanoseconds.
fn thread_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_for_the_host_is_not_charged() {
        let meter = Meter::new();
        meter.run(Duration::from_secs(1), tokio::time::sleep(Duration::from_secs(3600))).await;
        assert!(meter.used() < Duration::from_millis(20), "{:?}", meter.used());
    }

    #[tokio::test]
    async fn waiting_for_the_processor_is_not_charged() {
        let meter = Meter::new();
        // The thread exists and does not run, like one that others run before.
        meter.run(Duration::from_millis(20), async { std::thread::park_timeout(Duration::from_millis(30)) }).await;
        assert!(meter.used() < Duration::from_millis(20), "{:?}", meter.used());
    }

    #[tokio::test]
    async fn what_is_done_for_the_call_beside_it_is_charged() {
        let meter = Meter::new();
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
        let meter = Meter::new();
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
