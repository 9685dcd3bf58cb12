//! Who follows samples inside the process: programs that embed the host, and streams that other protocols carry.

use super::event::{Encoded, Event};
use super::{Claim, Form, Leave};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{self, error::TrySendError};

/// The hub's end.
#[derive(Debug)]
pub(super) struct Watcher {
    events: mpsc::Sender<(u64, Arc<Event>)>,
    lost: u64,
    last: Arc<OnceLock<Arc<Event>>>,
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
    /// Before all else: some of what was missed is not there any more.
    reset: Option<Encoded>,
    /// What there was when it began.
    first: VecDeque<Arc<Event>>,
    events: mpsc::Receiver<(u64, Arc<Event>)>,
    /// Comes after all else.
    last: Arc<OnceLock<Arc<Event>>>,
    is_over: bool,
    form: Form,
    /// Its place is free again when it is dropped.
    _leave: Leave,
}

/// What a reader gets.
#[derive(Debug, Clone)]
pub enum Seen {
    Event(Arc<Event>),
    /// So many were lost just before the next one, as this reader was too slow.
    Lagged(u64),
}

impl Watcher {
    /// How many were lost of it.
    pub(super) fn offer(&mut self, event: &Arc<Event>) -> Result<u64, Gone> {
        match self.events.try_send((self.lost, event.clone())) {
            Ok(()) => (self.lost, self.full_since) = (0, None),
            Err(TrySendError::Full(_)) => {
                self.lost += 1;
                let since = *self.full_since.get_or_insert_with(Instant::now);
                if self.patience.is_some_and(|patience| since.elapsed() > patience) {
                    // Whoever carries it may not notice for long.
                    self.place.give_back();
                    return Err(Gone);
                }
                return Ok(1);
            }
            Err(TrySendError::Closed(_)) => return Err(Gone),
        }
        Ok(0)
    }

    /// Nothing comes after this.
    pub(super) fn end(self, last: Option<Arc<Event>>) {
        if let Some(last) = last {
            let _ = self.last.set(last);
        }
    }

    /// Whether a stream brings it out of the process.
    pub(super) fn is_carried(&self) -> bool {
        self.patience.is_some()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.events.is_closed()
    }
}

/// The other end is gone.
pub(super) struct Gone;

pub(super) fn watch(
    buffer: usize,
    form: Form,
    first: Vec<Arc<Event>>,
    reset: Option<Encoded>,
    leave: Leave,
    patience: Option<Duration>,
) -> (Watcher, Watch) {
    let (sender, events) = mpsc::channel(buffer);
    let last = Arc::<OnceLock<_>>::default();
    let place = leave.place.clone();
    let watcher = Watcher { events: sender, lost: 0, last: last.clone(), patience, full_since: None, place };
    (watcher, Watch { reset, first: first.into(), events, last, is_over: false, form, _leave: leave })
}

impl Watch {
    /// The next; none when it is over.
    pub async fn next(&mut self) -> Option<Seen> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    pub(crate) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Seen>> {
        if let Some(first) = self.first.pop_front() {
            return Poll::Ready(Some(Seen::Event(first)));
        }
        self.events.poll_recv(context).map(|received| match received {
            Some((0, event)) => Some(Seen::Event(event)),
            Some((lost, event)) => {
                self.first.push_back(event);
                Some(Seen::Lagged(lost))
            }
            None if std::mem::replace(&mut self.is_over, true) => None,
            None => self.last.get().cloned().map(Seen::Event),
        })
    }

    pub(crate) fn take_reset(&mut self) -> Option<Encoded> {
        self.reset.take()
    }

    pub(crate) fn form(&self) -> Form {
        self.form
    }
}
