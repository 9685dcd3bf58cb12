//! Readers inside the process: programs that embed the host.

use super::ReaderGuard;
use super::event::StreamEvent;
use super::initial_events::{InitialEvent, InitialEvents};
use super::queue::ReaderQueue;
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
    queue: ReaderQueue,
    /// The event that comes after all others.
    last: Option<Arc<StreamEvent>>,
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
pub(super) struct WatchSender(Arc<WatchShared>);

/// The result of offering an event to a reader.
pub(super) enum OfferOutcome {
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
    beginning: Option<InitialEvents>,
    /// The items that come next.
    next: VecDeque<StreamItem>,
    shared: Arc<WatchShared>,
    /// Frees the reader's place when it is dropped.
    leave: ReaderGuard,
}

/// An item that a reader gets.
#[derive(Debug, Clone)]
pub enum WatchItem {
    Event(Arc<StreamEvent>),
    /// The number of events lost just before the next one, because this reader was too slow.
    Lagged(u64),
}

/// The next item of a stream, in its beginning or after it.
#[derive(Debug)]
pub(super) enum StreamItem {
    Initial(InitialEvent),
    New(WatchItem),
}

impl WatchSender {
    /// Offers an event to the reader.
    pub(super) fn offer(&self, event: &Arc<StreamEvent>) -> OfferOutcome {
        let mut state = self.0.lock();
        if state.is_gone {
            return OfferOutcome::Gone;
        }
        if !state.queue.offer(event) {
            return OfferOutcome::Lost;
        }
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        OfferOutcome::Taken
    }

    /// Ends the stream behind a last event.
    pub(super) fn end(self, last: Option<Arc<StreamEvent>>) {
        self.0.lock().last = last;
    }

    pub(super) fn is_gone(&self) -> bool {
        self.0.lock().is_gone
    }
}

impl Drop for WatchSender {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_over = true;
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// Makes both ends.
pub(super) fn watch(queue: ReaderQueue, beginning: InitialEvents, leave: ReaderGuard) -> (WatchSender, Watch) {
    let state = WatchState { queue, last: None, is_over: false, is_gone: false, waker: None };
    let shared = Arc::new(WatchShared(Mutex::new(state)));
    let watcher = WatchSender(shared.clone());
    (watcher, Watch { beginning: Some(beginning), next: VecDeque::new(), shared, leave })
}

impl Watch {
    /// Waits for the next item; none when the stream is over.
    pub async fn next(&mut self) -> Option<WatchItem> {
        loop {
            match std::future::poll_fn(|context| self.poll_next(context)).await {
                // The reader saw nothing before, so it missed nothing.
                Some(StreamItem::Initial(InitialEvent::Reset(_))) => {}
                Some(StreamItem::Initial(InitialEvent::Event(event))) => return Some(WatchItem::Event(event)),
                Some(StreamItem::New(seen)) => return Some(seen),
                None => return None,
            }
        }
    }

    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<StreamItem>> {
        if let Some(beginning) = self.beginning.as_mut().filter(|_| self.next.is_empty()) {
            match self.leave.hub.more(beginning, AT_ONCE) {
                Some(more) => self.next.extend(more.into_iter().map(StreamItem::Initial)),
                None => (self.beginning, self.next) = (None, VecDeque::new()),
            }
        }
        if let Some(next) = self.next.pop_front() {
            return Poll::Ready(Some(next));
        }
        let mut state = self.shared.lock();
        let seen = match state.queue.pop() {
            Some((0, event)) => Some(WatchItem::Event(event)),
            Some((lost, event)) => {
                self.next.push_back(StreamItem::New(WatchItem::Event(event)));
                Some(WatchItem::Lagged(lost))
            }
            None if state.is_over => state.last.take().map(WatchItem::Event),
            None => {
                state.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
        };
        Poll::Ready(seen.map(StreamItem::New))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Set before `leave` is dropped, when the hub drops watchers that are gone.
        self.shared.lock().is_gone = true;
    }
}
