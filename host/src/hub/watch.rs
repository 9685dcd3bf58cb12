//! Who follows samples inside the process: programs that embed the host, and streams that other protocols carry.

use super::begin::{Beginning, First};
use super::event::{Encoded, Event};
use super::queue::Queue;
use super::{Claim, Form, Leave};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Parts of its beginning that a reader is given at a time.
const AT_ONCE: usize = 16;

/// What both ends share.
#[derive(Debug)]
struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    queue: Queue,
    /// Comes after all else.
    last: Option<Arc<Event>>,
    /// Nothing is added any more.
    is_over: bool,
    /// Nobody reads any more.
    is_gone: bool,
    waker: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hub's end.
#[derive(Debug)]
pub(super) struct Watcher {
    shared: Arc<Shared>,
    /// How long a reader may take nothing; none: as long as it likes.
    patience: Option<Duration>,
    full_since: Option<Instant>,
    place: Arc<Held>,
}

/// Its place among the streams that may be open.
#[derive(Debug)]
pub(super) struct Held(Mutex<Option<Claim>>);

impl Held {
    pub(super) fn new(claim: Claim) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(claim))))
    }

    fn give_back(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// A reader's end. Dropped, it follows no more.
#[derive(Debug)]
pub struct Watch {
    /// What comes before what is published since.
    beginning: Option<Beginning>,
    /// What is to be told next.
    next: VecDeque<Told>,
    shared: Arc<Shared>,
    form: Form,
    /// Its place is free again when it is dropped.
    leave: Leave,
}

/// What a reader gets.
#[derive(Debug, Clone)]
pub enum Seen {
    Event(Arc<Event>),
    /// So many were lost just before the next one, as this reader was too slow.
    Lagged(u64),
}

/// The same of a reader that comes back.
#[derive(Debug)]
pub(crate) enum Told {
    /// Some of what was missed is not there any more.
    Reset(Encoded),
    Seen(Seen),
}

impl Watcher {
    /// How many were lost of it.
    pub(super) fn offer(&mut self, event: &Arc<Event>) -> Result<u64, Gone> {
        let mut state = self.shared.lock();
        if state.is_gone {
            return Err(Gone);
        }
        if state.queue.offer(event) {
            self.full_since = None;
            let waker = state.waker.take();
            drop(state);
            waker.into_iter().for_each(Waker::wake);
            return Ok(0);
        }
        drop(state);
        let since = *self.full_since.get_or_insert_with(Instant::now);
        if self.patience.is_some_and(|patience| since.elapsed() > patience) {
            // Whoever carries it may not notice for long.
            self.place.give_back();
            return Err(Gone);
        }
        Ok(1)
    }

    /// Nothing comes after this.
    pub(super) fn end(self, last: Option<Arc<Event>>) {
        self.shared.lock().last = last;
    }

    /// Whether a stream brings it out of the process.
    pub(super) fn is_carried(&self) -> bool {
        self.patience.is_some()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.shared.lock().is_gone
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_over = true;
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// The other end is gone.
pub(super) struct Gone;

pub(super) fn watch(
    queue: Queue,
    form: Form,
    beginning: Beginning,
    leave: Leave,
    patience: Option<Duration>,
) -> (Watcher, Watch) {
    let state = State { queue, last: None, is_over: false, is_gone: false, waker: None };
    let shared = Arc::new(Shared(Mutex::new(state)));
    let watcher = Watcher { shared: shared.clone(), patience, full_since: None, place: leave.place.clone() };
    (watcher, Watch { beginning: Some(beginning), next: VecDeque::new(), shared, form, leave })
}

impl Watch {
    /// The next; none when it is over.
    pub async fn next(&mut self) -> Option<Seen> {
        loop {
            match std::future::poll_fn(|context| self.poll_next(context)).await {
                // It was never here before.
                Some(Told::Reset(_)) => {}
                Some(Told::Seen(seen)) => return Some(seen),
                None => return None,
            }
        }
    }

    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Told>> {
        if let Some(beginning) = self.beginning.as_mut().filter(|_| self.next.is_empty()) {
            match self.leave.hub.more(beginning, AT_ONCE) {
                Some(more) => self.next.extend(more.into_iter().map(|first| match first {
                    First::Reset(reset) => Told::Reset(reset),
                    First::Event(event) => Told::Seen(Seen::Event(event)),
                })),
                None => (self.beginning, self.next) = (None, VecDeque::new()),
            }
        }
        if let Some(next) = self.next.pop_front() {
            return Poll::Ready(Some(next));
        }
        let mut state = self.shared.lock();
        let seen = match state.queue.pop() {
            Some((0, event)) => Some(Seen::Event(event)),
            Some((lost, event)) => {
                self.next.push_back(Told::Seen(Seen::Event(event)));
                Some(Seen::Lagged(lost))
            }
            None if state.is_over => state.last.take().map(Seen::Event),
            None => {
                state.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
        };
        Poll::Ready(seen.map(Told::Seen))
    }

    pub(crate) fn form(&self) -> Form {
        self.form
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Before the hub looks who is still there.
        self.shared.lock().is_gone = true;
    }
}
