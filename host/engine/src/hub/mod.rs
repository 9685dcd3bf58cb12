//! Live fan-out: each sample is encoded once, and all its readers share the bytes.
//!
//! A reader inside the process has a queue with room for some events. When the queue is full, only this reader loses
//! new events; before the next event that fits, it gets the number of lost ones. All other readers belong to the
//! writers of streams (`writers` in the HTTP server). The hub keeps the newest events for a while. A reader that
//! reconnects gets exactly the events that it missed; if some of them are no longer kept, it gets the time from which
//! on it has to query history.
//!
//! # Layout
//!
//! * `selection`: the samples that a reader follows; `channels`: the readers of each selection; `initial_events`:
//!   the beginning of a reader's stream.
//! * `event`: events as they are sent; `event_log`: the newest events; `start_note`: a note for the next start, for
//!   readers that were away during a restart.
//! * `watch`: readers inside the process; `queue`: the events that wait for one of them.
//! * `inbox`: the messages that wait for a writer of streams; `outlet`: the socket or body that takes a stream's bytes;
//!   `pipe`: the way of bytes to a body.

mod channels;
mod event;
mod event_log;
mod inbox;
mod initial_events;
mod outlet;
mod pipe;
mod queue;
mod selection;
mod start_note;
#[cfg(test)]
mod tests;
mod watch;

pub use event::{EventContent, EventSubject, StreamEvent};
pub use selection::{Selection, StreamForm};
pub use watch::{Watch, WatchItem};

pub use channels::ChannelId;
pub use event::{EncodedEvent, PING, RETRY};
pub use inbox::{Inbox, JoiningReader, WaitingMessages, WriterMessage, WriterWaker};
pub use initial_events::{FollowRequest, InitialEvent, InitialEvents};
pub use outlet::{Outlet, SEND_BUFFER};
pub use pipe::{AwakeBodies, PipeReader, WriterHandle};
pub(crate) use selection::WORKLOAD;
pub(crate) use start_note::next_boot;

use crate::quota::{ClientId, ClientShare, Quota, QuotaError, QuotaPermit};
use channels::StreamChannels;
use dropsonde_model::Labels;
use dropsonde_store::{InstanceId, Sample};
use event_log::EventLog;
use initial_events::ReaderStart;
use prometheus::IntCounter;
use queue::ReaderQueue;
use start_note::StartNote;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The smallest limit, in bytes, of the events in a writer's inbox, and of those in its backlog. It holds even if the
/// configuration allows less, and has room for one tick of some instances.
const LEAST_OF_WRITER: usize = 1 << 20;

/// Streams of one client that may take nothing or lose samples at a time, before the host reports the client.
pub const MOST_UNREAD: usize = 16;

/// The hub between published samples and their readers. Cheap to clone: all clones are the same hub.
#[derive(Debug, Clone)]
pub struct Hub(Arc<HubInner>);

#[derive(Debug)]
struct HubInner {
    /// The number of this start, in hex, by which its event ids differ from those of other starts.
    boot: Arc<str>,
    buffer: usize,
    most: AtomicUsize,
    open: Arc<Quota>,
    /// Counts clients that do not read their streams. Nobody takes a place here.
    unread: Quota,
    /// The most bytes of events that may wait for all readers of writers.
    bytes: AtomicUsize,
    state: Mutex<HubState>,
    /// Tells streams that no writer writes when all streams of clients end.
    ends: tokio::sync::watch::Sender<()>,
    /// Counts the events that slow readers lose.
    lost: IntCounter,
}

#[derive(Debug)]
struct HubState {
    sequence: u64,
    /// The host is stopping: a new reader only hears that its stream is over.
    is_closed: bool,
    log: EventLog,
    before: Option<StartNote>,
    topics: HashMap<InstanceId, PublishedInstance>,
    /// The latest event of each topic.
    in_order: BTreeMap<u64, Arc<StreamEvent>>,
    channels: StreamChannels,
    inboxes: Vec<Arc<Inbox>>,
    /// Counts readers: writers take turns.
    next_writer: usize,
}

/// An instance of which something was published.
#[derive(Debug)]
struct PublishedInstance {
    latest: Arc<StreamEvent>,
    is_discarded: Arc<AtomicBool>,
}

/// An instance that somebody may want to follow, as it is now.
#[derive(Debug, Clone)]
pub struct Member {
    pub id: InstanceId,
    pub generation: u64,
    pub labels: Labels,
}

/// A place among the open streams. Dropping it frees the place.
#[derive(Debug)]
pub struct StreamPermit {
    _place: QuotaPermit,
    /// The client of the stream. None: the stream is the program's own.
    peer: Option<ClientId>,
}

impl StreamPermit {
    /// Returns the client of the stream. None: the stream is the program's own.
    pub fn peer(&self) -> Option<ClientId> {
        self.peer
    }
}

/// The error when the most streams are open, in all or of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooManyStreams {
    #[error(
        "stream limit of {0} reached; try again later, or raise stream.max_streams or the limit of open files \
         (`ulimit -n`)"
    )]
    InAll(usize),
    #[error("limit of {0} streams of one client reached; close some, or raise stream.max_streams_per_peer")]
    OfPeer(usize),
}

/// Held by a reader inside the process. Dropping it frees the reader's place and tells its channel.
#[derive(Debug)]
struct ReaderGuard {
    channel: ChannelId,
    hub: Hub,
    _claim: StreamPermit,
}

// === impl Hub ===

impl Hub {
    /// Makes a hub. `boot`: a number that no other start has. `buffer`: the samples of an instance that a reader may be
    /// behind, or away for, without loss. `most`: the most streams that may be open.
    pub fn new(boot: i64, start_ms: i64, buffer: usize, most: usize, lost: IntCounter) -> Self {
        let state = HubState {
            sequence: 0,
            is_closed: false,
            log: EventLog::new(start_ms),
            before: None,
            topics: HashMap::new(),
            in_order: BTreeMap::new(),
            channels: StreamChannels::default(),
            inboxes: Vec::new(),
            next_writer: 0,
        };
        Self(Arc::new(HubInner {
            boot: format!("{boot:x}").into(),
            buffer: buffer.max(1),
            most: AtomicUsize::new(most),
            open: Arc::default(),
            unread: Quota::default(),
            bytes: AtomicUsize::new(usize::MAX),
            state: Mutex::new(state),
            ends: tokio::sync::watch::Sender::new(()),
            lost,
        }))
    }

    /// Sets the inboxes of the writers that get streams. Called once, before there are any streams.
    pub fn set_writers(&self, inboxes: Vec<Arc<Inbox>>) {
        self.lock().inboxes = inboxes;
        self.allow_bytes(self.0.bytes.load(Relaxed));
    }

    /// Hands a sample to everyone who follows the instance. Never waits.
    pub fn publish(&self, id: &InstanceId, labels: &Labels, sample: Sample) {
        let at_ms = sample.at_ms;
        let mut state = self.lock();
        if state.is_closed {
            return;
        }
        let HubState { sequence, log, topics, in_order, channels, inboxes, .. } = &mut *state;
        *sequence += 1;
        let topic = topics.get_mut(id);
        let is_discarded = topic.as_ref().map(|topic| topic.is_discarded.clone()).unwrap_or_default();
        let of = EventSubject::Instance { id: id.clone(), labels: labels.clone(), is_discarded: is_discarded.clone() };
        let event = Arc::new(StreamEvent::new(&self.0.boot, *sequence, of, EventContent::Usage(sample)));
        in_order.insert(*sequence, event.clone());
        match topic {
            Some(topic) => {
                in_order.remove(&topic.latest.sequence);
                topic.latest = event.clone();
            }
            None => drop(topics.insert(id.clone(), PublishedInstance { latest: event.clone(), is_discarded })),
        }
        let lost = channels.offer(id, labels, &event, inboxes);
        let most = self.kept(topics.len() + channels.workloads());
        log.push(event, Some(at_ms), most);
        self.0.lost.inc_by(lost);
    }

    /// Returns the followed workloads of which something was published since the last call.
    pub fn take_stale_workloads(&self) -> BTreeSet<String> {
        let mut state = self.lock();
        let HubState { log, channels, .. } = &mut *state;
        channels.sweep_workloads(log);
        channels.take_stale()
    }

    /// Hands the combined sample of a workload's instances to everyone who follows the workload.
    pub fn publish_workload(&self, workload: &str, sample: Sample) {
        let at_ms = sample.at_ms;
        let mut state = self.lock();
        let HubState { sequence, log, topics, channels, inboxes, .. } = &mut *state;
        *sequence += 1;
        let of = EventSubject::Workload(workload.to_owned());
        let event = Arc::new(StreamEvent::new(&self.0.boot, *sequence, of, EventContent::Usage(sample)));
        let Some(lost) = channels.offer_workload(workload, &event, inboxes) else { return };
        self.0.lost.inc_by(lost);
        let most = self.kept(topics.len() + channels.workloads());
        log.push(event, Some(at_ms), most);
    }

    /// Changes how many streams may be open.
    pub fn allow(&self, most: usize) {
        self.0.most.store(most, Relaxed);
    }

    /// Changes how many bytes of events writers may keep, in and behind their inboxes.
    pub fn allow_bytes(&self, most: usize) {
        self.0.bytes.store(most, Relaxed);
        let state = self.lock();
        let each = (most / 2 / state.inboxes.len().max(1)).max(LEAST_OF_WRITER);
        state.inboxes.iter().for_each(|inbox| inbox.allow(each));
    }

    /// Takes a place for one more stream of a client. `share`: the most streams the client may have. Without a client
    /// the stream is the program's own.
    pub fn claim(&self, peer: Option<ClientId>, share: Option<ClientShare>) -> Result<StreamPermit, TooManyStreams> {
        let place = self.0.open.take(self.0.most.load(Relaxed), share);
        place.map(|place| StreamPermit { _place: place, peer }).map_err(|full| match full {
            QuotaError::All(most) => TooManyStreams::InAll(most),
            QuotaError::OfPeer(most) => TooManyStreams::OfPeer(most),
        })
    }

    /// Returns the number of open streams.
    pub fn open(&self) -> usize {
        self.0.open.taken()
    }

    /// Follows samples inside the process.
    pub(crate) fn watch(&self, claim: StreamPermit, follow: FollowRequest) -> Watch {
        let (mut state, ReaderStart { beginning, ends, buffer }) = self.begin(&follow);
        let HubState { is_closed, channels, inboxes, .. } = &mut *state;
        let (channel, members) = channels.of(follow.selection, inboxes.len());
        let leave = ReaderGuard { channel, hub: self.clone(), _claim: claim };
        let (watcher, watch) = watch::watch(ReaderQueue::new(buffer), beginning, leave);
        if !*is_closed && !ends {
            members.add(watcher);
        }
        watch
    }

    /// Follows samples outside the process: from now on a writer puts them into `outlet`. `head` is sent first.
    pub fn follow(&self, claim: StreamPermit, follow: FollowRequest, outlet: Outlet, head: Vec<u8>) {
        let (mut state, ReaderStart { beginning, ends, buffer }) = self.begin(&follow);
        let HubState { is_closed, channels, inboxes, next_writer, sequence, .. } = &mut *state;
        *next_writer += 1;
        let writer = *next_writer % inboxes.len().max(1);
        let Some(inbox) = inboxes.get(writer) else { return };
        let selection = follow.selection;
        let (channel, followed) = channels.of(selection.clone(), inboxes.len());
        followed.add_reader(writer);
        let (ends, since, most) = (ends || *is_closed, *sequence, buffer);
        let joining = JoiningReader { outlet, head, beginning, ends, channel, selection, since, most, claim };
        inbox.put(WriterMessage::Join(Box::new(joining)));
    }

    /// Notes that a reader of a writer is gone.
    pub fn left(&self, channel: ChannelId, writer: usize) {
        let mut state = self.lock();
        let sequence = state.sequence;
        state.channels.reader_left(channel, writer, sequence);
    }

    /// Notes that a client has many streams that it does not read.
    pub fn note_unread(&self, peer: ClientId) {
        self.0.unread.refuse(peer);
    }

    /// Returns the counts of clients that do not read their streams.
    pub(crate) fn unread(&self) -> &Quota {
        &self.0.unread
    }

    /// Counts the events that a slow reader lost.
    pub fn lost(&self, count: u64) {
        self.0.lost.inc_by(count);
    }

    /// Forgets an instance, and tells its readers. The stream of a reader that follows it alone ends; a reader that
    /// also follows others goes on. No reader is told of the instance's earlier events any more.
    pub fn close(&self, id: &InstanceId) {
        let mut state = self.lock();
        let HubState { sequence, log, topics, in_order, channels, inboxes, .. } = &mut *state;
        let topic = topics.remove(id);
        if topic.is_none() && !channels.has(id) {
            return;
        }
        *sequence += 1;
        let mut labels = Labels::new();
        let mut at_ms = None;
        if let Some(PublishedInstance { latest, is_discarded }) = &topic {
            in_order.remove(&latest.sequence);
            is_discarded.store(true, Relaxed);
            if let (EventSubject::Instance { labels: own, .. }, EventContent::Usage(sample)) =
                (&latest.of, &latest.what)
            {
                (labels, at_ms) = (own.clone(), Some(sample.at_ms));
            }
        }
        let of = EventSubject::Instance { id: id.clone(), labels: labels.clone(), is_discarded: Arc::default() };
        let event = Arc::new(StreamEvent::new(&self.0.boot, *sequence, of, EventContent::Untracked));
        channels.end_of(id, &event, inboxes);
        self.0.lost.inc_by(channels.offer(id, &labels, &event, inboxes));
        let most = self.kept(topics.len() + 1 + channels.workloads());
        log.push(event, at_ms, most);
    }

    /// Returns a signal that changes when all streams of clients end.
    pub fn ends(&self) -> tokio::sync::watch::Receiver<()> {
        self.0.ends.subscribe()
    }

    /// Ends the streams of clients. Readers that still may read can come back, and then miss nothing.
    pub fn end_client_streams(&self) {
        self.0.ends.send_replace(());
        let state = self.lock();
        state.channels.end_written(&state.inboxes);
    }

    /// Ends all streams, because the host stops.
    pub fn close_all(&self) {
        self.0.ends.send_replace(());
        let mut state = self.lock();
        state.is_closed = true;
        let HubState { channels, inboxes, .. } = &mut *state;
        channels.end_all(inboxes);
    }

    /// Returns how many events are kept for a number of instances and workloads.
    fn kept(&self, things: usize) -> usize {
        self.0.buffer.saturating_mul(things.max(1))
    }

    fn lock(&self) -> MutexGuard<'_, HubState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        let sequence = state.sequence;
        state.channels.sweep(self.channel, sequence);
    }
}
