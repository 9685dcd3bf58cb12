use dropsonde_store::{Keeper, KeeperStep};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The niceness of the thread. All other threads have priority, because its work can wait; queries and polls cannot.
const NICE: i32 = 10;

/// The most steps in a flush interval when somebody asks for early steps.
const MOST_STEPS: u32 = 4;

/// A thread that has a [`Keeper`] do one step in every flush interval.
#[derive(Debug)]
pub struct Flusher {
    bell: Arc<FlushTrigger>,
    /// Whether everything was written when the thread was stopped.
    written: OnceLock<bool>,
    thread: JoinHandle<()>,
}

/// Asks for the next step before its time, because somebody was told that a change is made, and it is not on disk yet.
#[derive(Debug)]
pub struct FlushTrigger {
    is_rung: AtomicBool,
    tell: Sender<FlusherMessage>,
}

/// A message to the thread.
#[derive(Debug)]
enum FlusherMessage {
    /// Do the next step early.
    Hurry,
    /// Stop, and report whether everything is written.
    Stop(Sender<bool>),
}

/// A keeper's clock, and the listener to its steps.
pub trait FlushHooks: Send + 'static {
    /// Returns milliseconds since 1970 UTC. Called before every step.
    fn now_ms(&mut self) -> i64;

    /// Called after every step, with its result and its duration.
    fn stepped(&mut self, _: KeeperStep, _: Duration) {}
}

impl Flusher {
    /// Starts the thread.
    pub fn start(mut keeper: Keeper, interval: Duration, mut around: impl FlushHooks) -> std::io::Result<Self> {
        let (tell, told) = mpsc::channel();
        let bell = Arc::new(FlushTrigger { is_rung: AtomicBool::new(false), tell });
        let rung = Arc::downgrade(&bell);
        let work = move || {
            // If this fails, the thread only keeps its normal priority.
            let _ = rustix::process::nice(NICE);
            let mut step_at = Instant::now();
            loop {
                let now_ms = around.now_ms();
                let started = Instant::now();
                let step = keeper.step(now_ms);
                around.stepped(step, started.elapsed());
                step_at = (step_at + interval).max(started);
                loop {
                    match told.recv_timeout(step_at.saturating_duration_since(Instant::now())) {
                        Err(RecvTimeoutError::Timeout) => break,
                        Err(RecvTimeoutError::Disconnected) => return,
                        Ok(FlusherMessage::Hurry) => {
                            let Some(bell) = rung.upgrade() else { return };
                            // A change from now on needs another ring.
                            bell.is_rung.store(false, Ordering::Release);
                            step_at = step_at.min(started + interval / MOST_STEPS);
                        }
                        Ok(FlusherMessage::Stop(done)) => {
                            // The caller of `stop` may no longer wait.
                            let _ = done.send(keeper.close(around.now_ms()));
                            return;
                        }
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("history".to_owned()).spawn(work)?;
        Ok(Self { bell, thread, written: OnceLock::new() })
    }

    /// Returns the bell, for callers that cannot wait for the next step.
    pub fn bell(&self) -> Arc<FlushTrigger> {
        self.bell.clone()
    }

    /// Writes what is left, for at most `patience`, and stops the thread. Returns whether everything is written. A
    /// second call does nothing and returns the same.
    pub fn stop(&self, patience: Duration) -> bool {
        *self.written.get_or_init(|| {
            let (done, finished) = mpsc::channel();
            // Sending fails only if the thread has ended by itself.
            self.bell.tell.send(FlusherMessage::Stop(done)).is_ok() && finished.recv_timeout(patience) == Ok(true)
        })
    }

    /// Returns whether the thread has ended without [`stop`](Self::stop), which only a bug can cause.
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished() && self.written.get().is_none()
    }
}

impl FlushTrigger {
    /// Rings the bell. Several rings before the thread reacts count as one.
    pub fn ring(&self) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            // Sending fails while the host stops.
            let _ = self.tell.send(FlusherMessage::Hurry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_store::{Store, StoreLimits};

    struct Counting(Sender<()>);

    impl FlushHooks for Counting {
        fn now_ms(&mut self) -> i64 {
            0
        }

        fn stepped(&mut self, _: KeeperStep, _: Duration) {
            let _ = self.0.send(());
        }
    }

    #[test]
    fn ringing_the_bell_hastens_the_next_step_and_many_rings_cause_one_step() {
        let limits = StoreLimits::default();
        let (stepped, steps) = mpsc::channel();
        let keeper = Keeper::in_memory(Store::in_memory(&limits), &limits);
        let keeping = Flusher::start(keeper, Duration::from_secs(2), Counting(stepped)).unwrap();
        steps.recv().unwrap();
        let began = Instant::now();
        (0..1000).for_each(|_| keeping.bell().ring());
        steps.recv().unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "it did not wait for its time");
        assert!(keeping.stop(Duration::from_secs(10)));
        assert!(steps.try_iter().count() <= 1);
    }
}
