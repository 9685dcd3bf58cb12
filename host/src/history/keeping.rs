use dropsonde_store::{Keeper, Step};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Below everything else that runs: what it does can wait, queries and polls cannot.
const NICE: i32 = 10;

/// A thread that lets a [`Keeper`] do its work in every flush interval.
#[derive(Debug)]
pub struct Keeping {
    stop: Sender<Sender<bool>>,
    /// What came of it, once it was stopped.
    written: OnceLock<bool>,
    thread: JoinHandle<()>,
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
        let (stop, stopped) = mpsc::channel::<Sender<bool>>();
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
                match stopped.recv_timeout(step_at.saturating_duration_since(Instant::now())) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                    Ok(done) => {
                        // Whoever asked may have stopped waiting.
                        let _ = done.send(keeper.close(around.now_ms()));
                        return;
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("history".to_owned()).spawn(work)?;
        Ok(Self { stop, thread, written: OnceLock::new() })
    }

    /// Writes what is left, unless that takes longer than there is time; whether all of it is written. A second time does
    /// nothing, and says the same.
    pub fn stop(&self, patience: Duration) -> bool {
        *self.written.get_or_init(|| {
            let (done, finished) = mpsc::channel();
            // Nobody there: it has failed.
            self.stop.send(done).is_ok() && finished.recv_timeout(patience) == Ok(true)
        })
    }

    /// Whether its thread is gone, which only a bug can bring about.
    pub fn has_failed(&self) -> bool {
        self.thread.is_finished() && self.written.get().is_none()
    }
}
