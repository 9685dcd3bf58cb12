//! Readers inside the process: programs that embed the host.

use super::Leave;
use super::begin::{Beginning, First};
use super::event::Event;
use super::queue::Queue;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Parts of its beginning that a reader is given at a time.
const AT_ONCE: usize = 16;

/// The state that both ends share.
#[derive(Debug)]
struct WatchShared(Mutex<WatchState>);

#[derive(Debug)]
struct WatchState {
    queue: Queue,
    /// The event that comes after all others.
    last: Option<Arc<Event>>,
    /// Nothing is added any more.
    is_over: bool,
    /// The reader's end was dropped.
    is_gone: bool,
    waker: Option<Waker>,
}

impl WatchShared {
    fn lock(&self) -> MutexGuard<'_, WatchState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hub's end.
#[derive(Debug)]
pub(super) struct Watcher(Arc<WatchShared>);

/// The result of offering an event to a reader.
pub(super) enum Offered {
    Taken,
    /// The event is lost for this reader alone.
    Lost,
    /// The reader's end was dropped.
    Gone,
}

/// The reader's end. Dropping it ends the stream.
#[derive(Debug)]
pub struct Watch {
    /// The events that come before those published since.
    beginning: Option<Beginning>,
    /// The items that come next.
    next: VecDeque<Told>,
    shared: Arc<WatchShared>,
    /// Frees the reader's place when it is dropped.
    leave: Leave,
}

/// An item that a reader gets.
#[derive(Debug, Clone)]
pub enum Seen {
    Event(Arc<Event>),
    /// The number of events lost just before the next one, because this reader was too slow.
    Lagged(u64),
}

/// The next item of a stream, in its beginning or after it.
#[derive(Debug)]
pub(super) enum Told {
    First(First),
    Seen(Seen),
}

impl Watcher {
    /// Offers an event to the reader.
    pub(super) fn offer(&self, event: &Arc<Event>) -> Offered {
        let mut state = self.0.lock();
        if state.is_gone {
            return Offered::Gone;
        }
        if !state.queue.offer(event) {
            return Offered::Lost;
        }
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        Offered::Taken
    }

    /// Ends the stream behind a last event.
    pub(super) fn end(self, last: Option<Arc<Event>>) {
        self.0.lock().last = last;
    }

    pub(super) fn is_gone(&self) -> bool {
        self.0.lock().is_gone
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_over = true;
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// Makes both ends.
pub(super) fn watch(queue: Queue, beginning: Beginning, leave: Leave) -> (Watcher, Watch) {
    let state = WatchState { queue, last: None, is_over: false, is_gone: false, waker: None };
    let shared = Arc::new(WatchShared(Mutex::new(state)));
    let watcher = Watcher(shared.clone());
    (watcher, Watch { beginning: Some(beginning), next: VecDeque::new(), shared, leave })
}

impl Watch {
    /// Waits for the next item; none when the stream is over.
    pub async fn next(&mut self) -> Option<Seen> {
        loop {
            match std::future::poll_fn(|context| self.poll_next(context)).await {
                // The reader saw nothing before, so it missed nothing.
                Some(Told::First(First::Reset(_))) => {}
                Some(Told::First(First::Event(event))) => return Some(Seen::Event(event)),
                Some(Told::Seen(seen)) => return Some(seen),
                None => return None,
            }
        }
    }

    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Told>> {
        if let Some(beginning) = self.beginning.as_mut().filter(|_| self.next.is_empty()) {
            match self.leave.hub.more(beginning, AT_ONCE) {
                Some(more) => self.next.extend(more.into_iter().map(Told::First)),
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
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Set before `leave` is dropped, when the hub drops watchers that are gone.
        self.shared.lock().is_gone = true;
    }
}
