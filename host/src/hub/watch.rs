//! Who follows samples inside the process: programs that embed the host, and streams that other protocols carry.

use super::begin::{Beginning, First};
use super::event::{Encoded, Event};
use super::queue::Queue;
use super::{Claim, Form, Leave};
use crate::places::PeerId;
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
    /// It had no room, and is told of nothing until it takes more: all up to some event it has, or will get from its queue.
    stalled: Option<u64>,
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
    /// How many events its channel had when it stalled, and how many of those since are counted as lost.
    stalled_at: u64,
    counted: u64,
    place: Arc<Held>,
    peer: Option<PeerId>,
}

/// What became of an event.
pub(super) enum Offered {
    Taken,
    /// It is lost for this reader alone.
    Lost,
    /// The same, and so is what follows until the reader takes more.
    Stalled,
    /// The other end is gone.
    Gone,
}

/// Its place among the streams that may be open.
#[derive(Debug)]
pub(super) struct Held(Mutex<Option<Claim>>);

impl Held {
    pub(super) fn new(claim: Claim) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(claim))))
    }

    fn peer(&self) -> Option<PeerId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(Claim::peer)
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
    /// Of its beginning: how many are yet to come that it was not told it lost.
    promised: u64,
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
    /// Hands an event to it. `before`: how many its channel had before.
    pub(super) fn offer(&mut self, event: &Arc<Event>, before: u64) -> Offered {
        let mut state = self.shared.lock();
        if state.is_gone {
            return Offered::Gone;
        }
        if state.queue.offer(event) {
            let waker = state.waker.take();
            drop(state);
            waker.into_iter().for_each(Waker::wake);
            return Offered::Taken;
        }
        if self.patience.is_none() {
            return Offered::Lost;
        }
        state.queue.forget_lost();
        state.stalled = Some(event.sequence.saturating_sub(1));
        drop(state);
        (self.stalled_at, self.counted) = (before, 1);
        self.full_since = Some(Instant::now());
        Offered::Stalled
    }

    /// Whether one that takes nothing may go on to. Adds how many it lost since this was last asked.
    pub(super) fn may_wait(&mut self, offered: u64, lost: &mut u64) -> bool {
        let all = offered.saturating_sub(self.stalled_at);
        *lost += all.saturating_sub(self.counted);
        self.counted = all;
        if self.is_gone() {
            return false;
        }
        let is_over = self.patience.zip(self.full_since).is_some_and(|(patience, since)| since.elapsed() > patience);
        if is_over {
            // Whoever carries it may not notice for long.
            self.place.give_back();
        }
        !is_over
    }

    /// Goes on with what comes from now on. Returns how many it lost, and how many of them are counted.
    fn rejoin(&mut self, offered: u64) -> (u64, u64) {
        self.full_since = None;
        self.shared.lock().stalled = None;
        (offered.saturating_sub(self.stalled_at), self.counted)
    }

    /// Whose stream it is. None: the program's own.
    pub(super) fn peer(&self) -> Option<PeerId> {
        self.peer
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

pub(super) fn watch(
    queue: Queue,
    form: Form,
    beginning: Beginning,
    leave: Leave,
    patience: Option<Duration>,
) -> (Watcher, Watch) {
    let state = State { queue, last: None, is_over: false, is_gone: false, waker: None, stalled: None };
    let shared = Arc::new(Shared(Mutex::new(state)));
    let place = leave.place.clone();
    let (shared_too, peer) = (shared.clone(), place.peer());
    let watcher = Watcher { shared: shared_too, patience, full_since: None, stalled_at: 0, counted: 0, place, peer };
    (watcher, Watch { beginning: Some(beginning), next: VecDeque::new(), promised: 0, shared, form, leave })
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
                Some(more) => {
                    self.promised = self.promised.saturating_sub(more.len() as u64);
                    self.next.extend(more.into_iter().map(|first| match first {
                        First::Reset(reset) => Told::Reset(reset),
                        First::Event(event) => Told::Seen(Seen::Event(event)),
                    }));
                }
                None => {
                    (self.beginning, self.next) = (None, VecDeque::new());
                    // Of those it was to have, some came newer before it was their turn.
                    let lost = std::mem::take(&mut self.promised);
                    self.leave.hub.lost(lost);
                    self.next.extend((lost > 0).then_some(Told::Seen(Seen::Lagged(lost))));
                }
            }
        }
        if let Some(next) = self.next.pop_front() {
            return Poll::Ready(Some(next));
        }
        if self.go_on() {
            return self.poll_next(context);
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

    /// Has one that stalled, and took all since, go on with the newest of each instance. Whether it does.
    fn go_on(&mut self) -> bool {
        let state = self.shared.lock();
        let Some(seen) = state.stalled.filter(|_| state.queue.is_empty() && !state.is_over) else { return false };
        drop(state);
        let hub = &self.leave.hub;
        let is_own = |watcher: &Watcher| Arc::ptr_eq(&watcher.shared, &self.shared);
        let Some((selection, until, lost, counted)) = hub.rejoin(self.leave.channel, is_own, Watcher::rejoin) else {
            return false;
        };
        let (beginning, newest) = hub.newest(&selection, seen, until);
        let lost = lost.saturating_sub(newest);
        hub.lost(lost.saturating_sub(counted));
        self.next.extend((lost > 0).then_some(Told::Seen(Seen::Lagged(lost))));
        (self.beginning, self.promised) = (Some(beginning), newest);
        true
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
