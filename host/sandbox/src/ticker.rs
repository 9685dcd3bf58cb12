use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, Thread};
use std::time::Duration;
use wasmtime::EngineWeak;

/// How often a running guest checks its budget.
const PERIOD: Duration = Duration::from_millis(10);

/// Ticks without a call after which the thread sleeps until the next call.
const IDLE_TICKS: u32 = 10;

/// Advances the engine's epoch while guests run. An idle host has no timer.
#[derive(Debug, Clone)]
pub(crate) struct Ticker {
    shared: Arc<TickerState>,
    thread: Thread,
}

#[derive(Debug, Default)]
struct TickerState {
    calls: AtomicU64,
    running: AtomicU64,
    asleep: AtomicBool,
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct CallGuard<'a>(&'a TickerState);

impl Ticker {
    pub(crate) fn start(engine: EngineWeak) -> io::Result<Self> {
        let shared = Arc::new(TickerState::default());
        let ours = shared.clone();
        let thread = thread::Builder::new()
            .name("epoch".to_owned())
            // The thread only counts, so a small stack is enough.
            .stack_size(64 << 10)
            .spawn(move || tick(&engine, &ours))?;
        Ok(Self { shared, thread: thread.thread().clone() })
    }

    pub(crate) fn running(&self) -> CallGuard<'_> {
        self.shared.running.fetch_add(1, SeqCst);
        self.shared.calls.fetch_add(1, SeqCst);
        if self.shared.asleep.swap(false, SeqCst) {
            self.thread.unpark();
        }
        CallGuard(&self.shared)
    }
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

fn tick(engine: &EngineWeak, shared: &TickerState) {
    let mut idle = 0;
    let mut seen = 0;
    while let Some(engine) = engine.upgrade() {
        engine.increment_epoch();
        drop(engine);
        let calls = shared.calls.load(SeqCst);
        idle = if calls == seen && shared.running.load(SeqCst) == 0 { idle + 1 } else { 0 };
        seen = calls;
        if idle < IDLE_TICKS {
            thread::sleep(PERIOD);
            continue;
        }
        shared.asleep.store(true, SeqCst);
        // A call that began just before this line saw `asleep` unset and does not wake this thread. So check again.
        if shared.calls.load(SeqCst) == seen {
            // The engine may be dropped meanwhile. A check now and then lets the thread end.
            thread::park_timeout(Duration::from_secs(60));
        }
        shared.asleep.store(false, SeqCst);
        idle = 0;
    }
}
