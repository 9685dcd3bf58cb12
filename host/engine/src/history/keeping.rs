use dropsonde_store::{Keeper, Step};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Below everything else that runs: what it does can wait, queries and polls cannot.
const NICE: i32 = 10;

/// Steps in a flush interval at most, when they are asked for.
const MOST_STEPS: u32 = 4;

/// A thread that lets a [`Keeper`] do its work in every flush interval.
#[derive(Debug)]
pub struct Keeping {
    bell: Arc<Bell>,
    /// What came of it, once it was stopped.
    written: OnceLock<bool>,
    thread: JoinHandle<()>,
}

/// Asks for the next step, before its time: somebody was told that something is done, and it is not on disk yet.
#[derive(Debug)]
pub struct Bell {
    is_rung: AtomicBool,
    tell: Sender<Told>,
}

#[derive(Debug)]
enum Told {
    Hurry,
    /// And to say whether all is written.
    Stop(Sender<bool>),
}

/// What a keeper needs to know, and tells.
pub trait Surroundings: Send + 'static {
    /// Milliseconds since 1970 UTC; called before every step.
    fn now_ms(&mut self) -> i64;

    /// Called after every step, with what it took.
    fn stepped(&mut self, _: Step, _: Duration) {}
}

impl Keeping {
    pub fn start(mut keeper: Keeper, interval: Duration, mut around: impl Surroundings) -> std::io::Result<Self> {
        let (tell, told) = mpsc::channel();
        let bell = Arc::new(Bell { is_rung: AtomicBool::new(false), tell });
        let rung = Arc::downgrade(&bell);
        let work = move || {
            // Refused, it is only less polite.
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
                        Ok(Told::Hurry) => {
                            let Some(bell) = rung.upgrade() else { return };
                            // What changes from now on is for another ring.
                            bell.is_rung.store(false, Ordering::Release);
                            step_at = step_at.min(started + interval / MOST_STEPS);
                        }
                        Ok(Told::Stop(done)) => {
                            // Whoever asked may have stopped waiting.
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

    /// For whoever cannot wait for the next step.
    pub fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    /// Writes what is left, unless that takes longer than there is time; whether all of it is written. A second time does
    /// nothing, and says the same.
    pub fn stop(&self, patience: Duration) -> bool {
        *self.written.get_or_init(|| {
            let (done, finished) = mpsc::channel();
            // Nobody there: it has failed.
            self.bell.tell.send(Told::Stop(done)).is_ok() && finished.recv_timeout(patience) == Ok(true)
        })
    }

    /// Whether its thread is gone, which only a bug can bring about.
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished() && self.written.get().is_none()
    }
}

impl Bell {
    /// Once more before it was heard is the same as once.
    pub fn ring(&self) {
        if !self.is_rung.swap(true, Ordering::AcqRel) {
            // Nobody there: the host is going.
            let _ = self.tell.send(Told::Hurry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_store::{Limits, Store};

    struct Counting(Sender<()>);

    impl Surroundings for Counting {
        fn now_ms(&mut self) -> i64 {
            0
        }

        fn stepped(&mut self, _: Step, _: Duration) {
            let _ = self.0.send(());
        }
    }

    #[test]
    fn a_step_that_is_asked_for_comes_before_its_time_and_rings_that_come_together_are_one() {
        let limits = Limits::default();
        let (stepped, steps) = mpsc::channel();
        let keeper = Keeper::in_memory(Store::in_memory(&limits), &limits);
        let keeping = Keeping::start(keeper, Duration::from_secs(2), Counting(stepped)).unwrap();
        steps.recv().unwrap();
        let began = Instant::now();
        (0..1000).for_each(|_| keeping.bell().ring());
        steps.recv().unwrap();
        assert!(began.elapsed() < Duration::from_secs(2), "it did not wait for its time");
        assert!(keeping.stop(Duration::from_secs(10)));
        assert!(steps.try_iter().count() <= 1);
    }
}
