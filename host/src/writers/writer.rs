use super::Patience;
use super::reader::{Reader, Went};
use crate::health::Pulse;
use crate::hub::{ChannelId, Hub, Inbox, Joining, Message, Waiting};
use mio::{Events, Interest, Poll, Token};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Something is in the inbox.
pub(super) const WAKE: Token = Token(usize::MAX);

/// What the kernel tells at a time.
const EVENTS: usize = 1024;

/// Time readers have to take what is left when the host stops.
const LAST: Duration = Duration::from_secs(1);

/// One thread and its readers.
pub(super) struct Writer {
    number: usize,
    hub: Hub,
    inbox: Arc<Inbox>,
    poll: Poll,
    patience: Patience,
    /// By token; places of those that are gone are taken again.
    readers: Vec<Option<Box<Reader>>>,
    free: Vec<usize>,
    by_channel: HashMap<ChannelId, Vec<usize>>,
    /// When to look after whom, soonest first. What is not a reader's own time is from before.
    due: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    /// Whom something came for.
    stirred: Vec<usize>,
    next_serial: u64,
    _pulse: Pulse,
}

impl Writer {
    pub(super) fn new(
        number: usize,
        hub: Hub,
        inbox: Arc<Inbox>,
        poll: Poll,
        patience: Patience,
        pulse: Pulse,
    ) -> Self {
        Self {
            number,
            hub,
            inbox,
            poll,
            patience,
            readers: Vec::new(),
            free: Vec::new(),
            by_channel: HashMap::new(),
            due: BinaryHeap::new(),
            stirred: Vec::new(),
            next_serial: 0,
            _pulse: pulse,
        }
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        // Set when the host stops: until then readers may take what is left.
        let mut until: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let nobody_left = self.readers.len() == self.free.len();
            if until.is_some_and(|until| nobody_left || now >= until) {
                return;
            }
            let due = self.due.peek().map(|Reverse((due, ..))| *due);
            let wait = due.into_iter().chain(until).min().map(|due| due.saturating_duration_since(now));
            if let Err(error) = self.poll.poll(&mut events, wait)
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "a writer of streams cannot wait for its sockets");
                return;
            }
            let now = Instant::now();
            for event in events.iter().filter(|event| event.token() != WAKE) {
                let Token(token) = event.token();
                if event.is_write_closed() || event.is_error() {
                    self.remove(token);
                    continue;
                }
                let Some(reader) = self.reader(token) else { continue };
                // It may have left, or only have nothing more to say: the kernel tells once something is sent to it.
                let is_asked = event.is_read_closed() && reader.ask_whether_it_is_there();
                if is_asked || (event.is_writable() && reader.has_waiting()) {
                    self.flush(token, now);
                }
            }
            let Waiting { messages, .. } = self.inbox.take();
            for message in messages {
                match message {
                    Message::Join(joining) => self.join(*joining, now),
                    Message::Publish { channel, event } => self.each(channel, |reader, hub| {
                        if !reader.offer(&event, hub, now) {
                            hub.lost(1);
                        }
                    }),
                    Message::Skip { channel, count } => self.each(channel, |reader, hub| {
                        reader.skip(count);
                        hub.lost(count);
                    }),
                    Message::End { channel, last } => self.each(channel, |reader, _| reader.end(last.as_ref())),
                    Message::Stop => until = Some(now + LAST),
                }
            }
            for token in std::mem::take(&mut self.stirred) {
                self.flush(token, now);
            }
            self.look_after(now);
        }
    }

    fn reader(&mut self, token: usize) -> Option<&mut Reader> {
        self.readers.get_mut(token)?.as_deref_mut()
    }

    fn join(&mut self, joining: Joining, now: Instant) {
        let channel = joining.channel;
        let token = self.free.pop().unwrap_or(self.readers.len());
        let place = self.by_channel.get(&channel).map_or(0, Vec::len);
        self.next_serial += 1;
        let serial = self.next_serial;
        let made = Reader::new(joining, serial, place, now).and_then(|mut reader| {
            // Told once when it takes more again, or is gone; it has nothing to say.
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut reader.socket, Token(token), interest)?;
            Ok(reader)
        });
        match made {
            Ok(reader) => {
                self.by_channel.entry(channel).or_default().push(token);
                let reader = Some(Box::new(reader));
                match self.readers.get_mut(token) {
                    Some(place) => *place = reader,
                    None => self.readers.push(reader),
                }
                self.stirred.push(token);
                self.look_later(token, now);
            }
            Err(error) => {
                tracing::debug!(%error, "a stream could not begin");
                if token < self.readers.len() {
                    self.free.push(token);
                }
                self.hub.left(channel, self.number);
            }
        }
    }

    /// Does something about all who follow a channel.
    fn each(&mut self, channel: ChannelId, mut act: impl FnMut(&mut Reader, &Hub)) {
        for &token in self.by_channel.get(&channel).into_iter().flatten() {
            let Some(reader) = self.readers.get_mut(token).and_then(Option::as_deref_mut) else { continue };
            // Who takes nothing is told by the kernel to go on, and is not tried each time.
            if !reader.is_blocked() && !reader.has_waiting() {
                self.stirred.push(token);
            }
            act(reader, &self.hub);
        }
    }

    fn flush(&mut self, token: usize, now: Instant) {
        let (heartbeat, stalled) = (self.patience.heartbeat, self.patience.stalled);
        let Some(reader) = self.readers.get_mut(token).and_then(Option::as_deref_mut) else { return };
        let was_blocked = reader.is_blocked();
        if reader.flush(&self.hub, now) == Went::Over {
            return self.remove(token);
        }
        // It may be due sooner than was thought.
        if reader.is_blocked() && !was_blocked && stalled < heartbeat {
            self.look_later(token, now);
        }
    }

    /// When it is due next.
    fn look_later(&mut self, token: usize, now: Instant) {
        let Patience { heartbeat, stalled } = self.patience;
        let Some(reader) = self.reader(token) else { return };
        reader.due = reader.wants(heartbeat, stalled).max(now + Duration::from_millis(1));
        let due = (reader.due, token, reader.serial);
        self.due.push(Reverse(due));
    }

    /// Tells those who have heard nothing for long that the stream still is, and cuts off those who take nothing.
    fn look_after(&mut self, now: Instant) {
        let Patience { heartbeat, stalled } = self.patience;
        while let Some(&Reverse((due, token, serial))) = self.due.peek() {
            if due > now {
                return;
            }
            self.due.pop();
            let is_meant = |reader: &&mut Reader| reader.serial == serial && reader.due == due;
            let Some(reader) = self.reader(token).filter(is_meant) else { continue };
            if reader.wants(heartbeat, stalled) <= now {
                if reader.is_blocked() {
                    let behind = reader.behind();
                    self.hub.lost(behind);
                    self.remove(token);
                    continue;
                }
                reader.ping();
                self.flush(token, now);
            }
            self.look_later(token, now);
        }
    }

    fn remove(&mut self, token: usize) {
        let Some(mut reader) = self.readers.get_mut(token).and_then(Option::take) else { return };
        let _ = self.poll.registry().deregister(&mut reader.socket);
        self.free.push(token);
        if let Some(list) = self.by_channel.get_mut(&reader.channel) {
            list.swap_remove(reader.place);
            let moved = list.get(reader.place).copied();
            if list.is_empty() {
                self.by_channel.remove(&reader.channel);
            }
            if let Some(moved) = moved.and_then(|moved| self.readers.get_mut(moved)?.as_deref_mut()) {
                moved.place = reader.place;
            }
        }
        self.hub.left(reader.channel, self.number);
        if self.free.len() == self.readers.len() {
            // What was needed for as many as there were.
            (self.readers, self.free, self.due) = Default::default();
        }
    }
}
