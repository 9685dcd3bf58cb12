//! The inbox of one writer of streams: events wait here in the order they were published.

use super::StreamPermit;
use super::channels::ChannelId;
use super::event::StreamEvent;
use super::initial_events::InitialEvents;
use super::outlet::Outlet;
use super::selection::Selection;
use crate::quota::ClientId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The size of a message without its event, in bytes.
const MESSAGE: usize = size_of::<WriterMessage>();

/// The inbox of a writer.
#[derive(Debug)]
pub struct Inbox {
    waiting: Mutex<WaitingMessages>,
    /// The most bytes of events that may wait. Beyond it the newest events are lost, and their readers are told.
    most: AtomicUsize,
    wake: WriterWaker,
}

/// Wakes a writer, which then looks into its inbox.
pub struct WriterWaker(pub Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for WriterWaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriterWaker")
    }
}

/// All messages that wait for a writer.
#[derive(Debug, Default)]
pub struct WaitingMessages {
    pub messages: Vec<WriterMessage>,
    bytes: usize,
    /// The sequence of the last event that was put in. An event is put in once for each of its channels.
    last: u64,
    /// An event did not fit. No event is put in until all messages are taken.
    is_full: bool,
    /// The positions of the messages that count the skipped events of each channel, since a reader last joined.
    skips: HashMap<ChannelId, usize>,
}

/// A message to a writer.
#[derive(Debug)]
pub enum WriterMessage {
    /// A reader begins.
    Join(Box<JoiningReader>),
    Publish {
        channel: ChannelId,
        event: Arc<StreamEvent>,
    },
    /// There was no room for some events of a channel.
    Skip {
        channel: ChannelId,
        count: u64,
        /// The sequence of the last of them.
        last: u64,
    },
    /// The streams of a channel end.
    End {
        channel: ChannelId,
        last: Option<Arc<StreamEvent>>,
    },
    /// The body that carries a reader's stream has room again or is gone, or few bodies of its client are still awake.
    Moved {
        peer: Option<ClientId>,
        token: usize,
        serial: u64,
    },
    /// All streams end, and the writer with them.
    Stop,
}

/// A reader that begins to follow a channel.
#[derive(Debug)]
pub struct JoiningReader {
    pub outlet: Outlet,
    /// The bytes that are sent before everything else.
    pub head: Vec<u8>,
    pub beginning: InitialEvents,
    /// The stream ends behind its beginning.
    pub ends: bool,
    pub channel: ChannelId,
    pub selection: Arc<Selection>,
    /// The sequence of the last event when the reader came. Its beginning covers everything up to that.
    pub since: u64,
    /// The most events of its channel that the reader may be behind.
    pub most: usize,
    pub claim: StreamPermit,
}

impl Inbox {
    pub fn new(wake: WriterWaker) -> Self {
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

    /// Takes all messages.
    pub fn take(&self) -> WaitingMessages {
        std::mem::take(&mut *self.lock())
    }

    /// Adds a message.
    pub fn put(&self, message: WriterMessage) {
        let mut waiting = self.lock();
        // A reader that joins now missed none of the events skipped before, so the next skips are counted anew.
        waiting.skips.clear();
        waiting.messages.push(message);
        self.wake(waiting);
    }

    /// Adds a message that has no influence on who gets which event.
    pub(super) fn tell(&self, message: WriterMessage) {
        let mut waiting = self.lock();
        waiting.messages.push(message);
        self.wake(waiting);
    }

    /// Adds an event of a channel, or counts it as skipped if there is no room.
    pub(super) fn publish(&self, channel: ChannelId, event: &Arc<StreamEvent>) {
        let mut waiting = self.lock();
        let own = if waiting.last == event.sequence { 0 } else { event.size() };
        let is_over = waiting.bytes.saturating_add(own + MESSAGE) > self.most() && waiting.bytes > 0;
        if is_over || waiting.is_full {
            waiting.is_full = true;
            let WaitingMessages { messages, skips, .. } = &mut *waiting;
            match skips.get(&channel).and_then(|place| messages.get_mut(*place)) {
                Some(WriterMessage::Skip { count, last, .. }) => (*count, *last) = (*count + 1, event.sequence),
                _ => {
                    skips.insert(channel, messages.len());
                    messages.push(WriterMessage::Skip { channel, count: 1, last: event.sequence });
                }
            }
            return;
        }
        waiting.bytes += own + MESSAGE;
        waiting.last = event.sequence;
        waiting.messages.push(WriterMessage::Publish { channel, event: event.clone() });
        self.wake(waiting);
    }

    /// Wakes the writer if the inbox was empty before.
    fn wake(&self, waiting: MutexGuard<'_, WaitingMessages>) {
        let is_first = waiting.messages.len() == 1;
        drop(waiting);
        if is_first {
            (self.wake.0)();
        }
    }

    fn lock(&self) -> MutexGuard<'_, WaitingMessages> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
