//! What waits for one of the writers of sockets, in the order it was published.

use super::Claim;
use super::begin::Beginning;
use super::channels::ChannelId;
use super::event::Event;
use super::queue::Queue;
use super::selection::Form;
use std::collections::HashMap;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Events that wait at most: beyond, the newest are lost, which the readers are told.
const MOST_EVENTS: usize = 1 << 16;

/// For a writer.
#[derive(Debug)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    wake: Wake,
}

/// Has a writer look into its inbox.
pub(crate) struct Wake(pub(crate) Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Wake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wake")
    }
}

#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) messages: Vec<Message>,
    events: usize,
    /// Where it says of a channel how many events there was no room for, since anybody joined.
    skips: HashMap<ChannelId, usize>,
}

#[derive(Debug)]
pub(crate) enum Message {
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
    },
    /// It is over for all who follow a channel.
    End {
        channel: ChannelId,
        last: Option<Arc<Event>>,
    },
    /// It is over for all.
    Stop,
}

/// A socket whose reader follows a channel.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) socket: TcpStream,
    /// What goes out before all else.
    pub(crate) head: Vec<u8>,
    pub(crate) beginning: Beginning,
    /// That is all there will be.
    pub(crate) ends: bool,
    pub(crate) channel: ChannelId,
    pub(crate) form: Form,
    pub(crate) queue: Queue,
    pub(crate) claim: Claim,
}

impl Inbox {
    pub(crate) fn new(wake: Wake) -> Self {
        Self { waiting: Mutex::default(), wake }
    }

    /// All that waits.
    pub(crate) fn take(&self) -> Waiting {
        std::mem::take(&mut *self.lock())
    }

    pub(crate) fn put(&self, message: Message) {
        let mut waiting = self.lock();
        // Who joins now misses nothing of what was skipped before.
        waiting.skips.clear();
        waiting.messages.push(message);
        self.wake(waiting);
    }

    pub(super) fn publish(&self, channel: ChannelId, event: &Arc<Event>) {
        let mut waiting = self.lock();
        if waiting.events >= MOST_EVENTS {
            let Waiting { messages, skips, .. } = &mut *waiting;
            match skips.get(&channel).and_then(|place| messages.get_mut(*place)) {
                Some(Message::Skip { count, .. }) => *count += 1,
                _ => {
                    skips.insert(channel, messages.len());
                    messages.push(Message::Skip { channel, count: 1 });
                }
            }
            return;
        }
        waiting.events += 1;
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
