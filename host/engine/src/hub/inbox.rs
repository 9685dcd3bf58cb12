//! The inbox of one writer of streams: events wait here in the order they were published.

use super::Claim;
use super::begin::Beginning;
use super::channels::ChannelId;
use super::event::Event;
use super::outlet::Outlet;
use super::selection::Selection;
use crate::places::PeerId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes that a message takes beside its event.
const MESSAGE: usize = size_of::<Message>();

/// For a writer.
#[derive(Debug)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    /// Bytes of events that may wait: beyond, the newest are lost, which the readers are told.
    most: AtomicUsize,
    wake: Wake,
}

/// Has a writer look into its inbox.
pub struct Wake(pub Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Wake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wake")
    }
}

#[derive(Debug, Default)]
pub struct Waiting {
    pub messages: Vec<Message>,
    bytes: usize,
    /// The last event that was put in. It comes once for each channel it is for.
    last: u64,
    /// There was no room for one, and there is for none until all are taken.
    is_full: bool,
    /// Where it says of a channel how many events there was no room for, since anybody joined.
    skips: HashMap<ChannelId, usize>,
}

#[derive(Debug)]
pub enum Message {
    /// A reader begins.
    Join(Box<Joining>),
    Publish {
        channel: ChannelId,
        event: Arc<Event>,
    },
    /// There was no room for so many.
    Skip {
        channel: ChannelId,
        count: u64,
        /// The sequence of the last of them.
        last: u64,
    },
    /// It is over for all who follow a channel.
    End {
        channel: ChannelId,
        last: Option<Arc<Event>>,
    },
    /// The body that carries a reader's stream has room again, or is gone, or few of its peer's are still to take something.
    Moved {
        peer: Option<PeerId>,
        token: usize,
        serial: u64,
    },
    /// It is over for all.
    Stop,
}

/// A reader that follows a channel.
#[derive(Debug)]
pub struct Joining {
    pub outlet: Outlet,
    /// What goes out before all else.
    pub head: Vec<u8>,
    pub beginning: Beginning,
    /// That is all there will be.
    pub ends: bool,
    pub channel: ChannelId,
    pub selection: Arc<Selection>,
    /// The last event there was when it came. Its beginning covers all up to it.
    pub since: u64,
    /// Events of its channel that it may be behind.
    pub most: usize,
    pub claim: Claim,
}

impl Inbox {
    pub fn new(wake: Wake) -> Self {
        Self { waiting: Mutex::default(), most: AtomicUsize::new(usize::MAX), wake }
    }

    /// Changes how many bytes of events may wait here, and as many again with the writer.
    pub(super) fn allow(&self, bytes: usize) {
        self.most.store(bytes, Relaxed);
    }

    /// Returns how many bytes of events the writer may keep for its readers.
    pub fn most(&self) -> usize {
        self.most.load(Relaxed)
    }

    /// All that waits.
    pub fn take(&self) -> Waiting {
        std::mem::take(&mut *self.lock())
    }

    pub fn put(&self, message: Message) {
        let mut waiting = self.lock();
        // Who joins now misses nothing of what was skipped before.
        waiting.skips.clear();
        waiting.messages.push(message);
        self.wake(waiting);
    }

    /// The same of what changes nothing of what is published.
    pub(super) fn tell(&self, message: Message) {
        let mut waiting = self.lock();
        waiting.messages.push(message);
        self.wake(waiting);
    }

    pub(super) fn publish(&self, channel: ChannelId, event: &Arc<Event>) {
        let mut waiting = self.lock();
        let own = if waiting.last == event.sequence { 0 } else { event.size() };
        let is_over = waiting.bytes.saturating_add(own + MESSAGE) > self.most() && waiting.bytes > 0;
        if is_over || waiting.is_full {
            waiting.is_full = true;
            let Waiting { messages, skips, .. } = &mut *waiting;
            match skips.get(&channel).and_then(|place| messages.get_mut(*place)) {
                Some(Message::Skip { count, last, .. }) => (*count, *last) = (*count + 1, event.sequence),
                _ => {
                    skips.insert(channel, messages.len());
                    messages.push(Message::Skip { channel, count: 1, last: event.sequence });
                }
            }
            return;
        }
        waiting.bytes += own + MESSAGE;
        waiting.last = event.sequence;
        waiting.messages.push(Message::Publish { channel, event: event.clone() });
        self.wake(waiting);
    }

    /// Whoever puts something into an empty inbox.
    fn wake(&self, waiting: MutexGuard<'_, Waiting>) {
        let is_first = waiting.messages.len() == 1;
        drop(waiting);
        if is_first {
            (self.wake.0)();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
