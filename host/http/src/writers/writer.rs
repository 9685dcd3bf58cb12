use super::ReaderTimeouts;
use super::backlog::Backlog;
use super::fair_queue::{FairQueue, TurnOwner};
use super::reader::{ReaderState, StreamReader, WriteOutcome};
use dropsonde_engine::health::TaskGuard;
use dropsonde_engine::hub::{
    ChannelId, Hub, Inbox, JoiningReader, StreamEvent, WaitingMessages, WriterHandle, WriterMessage,
};
use mio::{Events, Poll, Token};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The token of the wake-up for new messages in the inbox.
pub(super) const WAKE: Token = Token(usize::MAX);

/// Events that the kernel reports at a time.
const EVENTS: usize = 1024;

/// The time that readers have to take what is left when the host stops.
const LAST: Duration = Duration::from_secs(1);

/// The time for writes before the thread looks at new messages and socket events.
const ROUND: Duration = Duration::from_millis(1);

/// Turns between two looks at the clock.
const TURNS: usize = 8;

/// The time between two looks at readers that take nothing.
const LOOK: Duration = Duration::from_secs(1);

/// One thread and its readers.
pub(super) struct StreamWriter {
    number: usize,
    hub: Hub,
    inbox: Arc<Inbox>,
    poll: Poll,
    patience: ReaderTimeouts,
    /// Readers by token. The tokens of readers that are gone are used again.
    readers: Vec<Option<Box<StreamReader>>>,
    free: Vec<usize>,
    backlog: Backlog,
    turns: FairQueue,
    /// The number of readers that take nothing.
    blocked: usize,
    /// The times at which readers are due, soonest first, with their tokens and serial numbers. An entry with another
    /// time than the reader's own is out of date.
    due: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    next_serial: u64,
    _pulse: TaskGuard,
}

impl StreamWriter {
    pub(super) fn new(
        number: usize,
        hub: Hub,
        inbox: Arc<Inbox>,
        poll: Poll,
        patience: ReaderTimeouts,
        pulse: TaskGuard,
    ) -> Self {
        Self {
            number,
            hub,
            inbox,
            poll,
            patience,
            readers: Vec::new(),
            free: Vec::new(),
            backlog: Backlog::default(),
            turns: FairQueue::default(),
            blocked: 0,
            due: BinaryHeap::new(),
            next_serial: 0,
            _pulse: pulse,
        }
    }

    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        // The deadline for readers to take what is left; set when the host stops.
        let mut until: Option<Instant> = None;
        let mut look = Instant::now();
        loop {
            let now = Instant::now();
            let nobody_left = self.readers.len() == self.free.len();
            if until.is_some_and(|until| nobody_left || now >= until) {
                return;
            }
            let due = self.due.peek().map(|Reverse((due, ..))| *due);
            let look_again = (self.blocked > 0).then_some(look);
            let at_once = (!self.turns.is_empty()).then_some(now);
            let times = due.into_iter().chain(until).chain(look_again).chain(at_once);
            let wait = times.min().map(|due| due.saturating_duration_since(now));
            if let Err(error) = self.poll.poll(&mut events, wait)
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "a stream writer cannot wait for its sockets, and ends; restart the host");
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
                // The client may have left, or may only have closed its sending half: the kernel tells which once
                // something is sent.
                let is_asked = event.is_read_closed() && reader.ask_whether_it_is_there();
                if is_asked || (event.is_writable() && reader.is_blocked()) {
                    self.ready(token);
                }
            }
            let WaitingMessages { messages, .. } = self.inbox.take();
            if self.take(messages, now) {
                until = Some(now + LAST);
            }
            self.take_turns(now);
            self.check_due_readers(now);
            if now >= look {
                self.check_blocked_readers();
                look = now + LOOK;
            }
        }
    }

    fn reader(&mut self, token: usize) -> Option<&mut StreamReader> {
        self.readers.get_mut(token)?.as_deref_mut()
    }

    /// Handles messages. Returns whether the host stops.
    fn take(&mut self, messages: Vec<WriterMessage>, now: Instant) -> bool {
        let mut stirred = Vec::new();
        let mut stops = false;
        if !messages.is_empty() {
            self.backlog.trim(self.inbox.most());
        }
        for message in messages {
            match message {
                WriterMessage::Join(joining) => self.join(*joining, now),
                WriterMessage::Publish { channel, event } => {
                    stirred.extend(self.backlog.push(channel, event).then_some(channel))
                }
                WriterMessage::Skip { channel, count, last } => {
                    stirred.extend(self.backlog.skip(channel, count, last).then_some(channel));
                }
                WriterMessage::End { channel, last } => self.end(channel, last.as_ref()),
                WriterMessage::Moved { peer, token, serial } => {
                    self.turns.resume(TurnOwner { peer, is_carried: true });
                    self.moved(token, serial);
                }
                WriterMessage::Stop => stops = true,
            }
        }
        for channel in stirred {
            for (token, serial) in self.backlog.take_idle_readers(channel) {
                let Some(reader) = self.reader(token).filter(|reader| reader.serial == serial) else { continue };
                reader.is_listed = false;
                if reader.state == ReaderState::Idle {
                    self.ready(token);
                }
            }
            self.backlog.drop_if_unneeded(channel);
        }
        stops
    }

    fn join(&mut self, joining: JoiningReader, now: Instant) {
        let channel = joining.channel;
        let token = self.free.pop().unwrap_or(self.readers.len());
        self.next_serial += 1;
        let serial = self.next_serial;
        let mut reader = Box::new(StreamReader::new(joining, serial, token, &mut self.backlog, now));
        let client = reader.client();
        let awake = self.turns.join(client);
        let own = WriterHandle { inbox: self.inbox.clone(), awake, peer: client.peer, token, serial };
        match reader.outlet.register(self.poll.registry(), own) {
            Ok(()) => {
                self.turns.queue(client, token, serial);
                match self.readers.get_mut(token) {
                    Some(place) => *place = Some(reader),
                    None => self.readers.push(Some(reader)),
                }
                self.schedule_check(token, now);
            }
            Err(error) => {
                tracing::debug!(%error, "cannot start a stream");
                self.turns.leave(client);
                self.leave_channel(&reader);
                if token < self.readers.len() {
                    self.free.push(token);
                }
                self.hub.left(channel, self.number);
            }
        }
    }

    /// Ends the streams of a channel, once their readers have the events before.
    fn end(&mut self, channel: ChannelId, last: Option<&Arc<StreamEvent>>) {
        let (_, end, _) = self.backlog.bounds(channel);
        let readers = self.backlog.channel(channel).map(|channel| channel.readers.clone()).unwrap_or_default();
        for token in readers {
            let Some(reader) = self.reader(token) else { continue };
            reader.end(last, end);
            if reader.state == ReaderState::Idle {
                self.ready(token);
            }
        }
    }

    /// Handles a reader whose body has room again, or is gone.
    fn moved(&mut self, token: usize, serial: u64) {
        let Some(reader) = self.reader(token).filter(|reader| reader.serial == serial) else { return };
        if reader.outlet.is_gone() {
            self.remove(token);
        } else if reader.is_blocked() {
            self.ready(token);
        }
    }

    /// Changes the state of a reader.
    fn set_state(&mut self, token: usize, state: ReaderState) {
        let Some(reader) = self.readers.get_mut(token).and_then(Option::as_deref_mut) else { return };
        let (was_behind, was_blocked) = (reader.is_behind(), reader.is_blocked());
        reader.state = state;
        match (was_behind, reader.is_behind()) {
            (false, true) => self.backlog.falls_behind(reader.channel),
            (true, false) => self.backlog.caught_up(reader.channel),
            _ => {}
        }
        if was_blocked != reader.is_blocked() {
            self.turns.block(reader.client(), !was_blocked);
            self.blocked = if was_blocked { self.blocked.saturating_sub(1) } else { self.blocked + 1 };
        }
    }

    /// Has a reader wait for its turn.
    fn ready(&mut self, token: usize) {
        let Some(reader) = self.reader(token) else { return };
        if reader.state == ReaderState::Ready {
            return;
        }
        let (client, serial) = (reader.client(), reader.serial);
        self.set_state(token, ReaderState::Ready);
        self.turns.queue(client, token, serial);
    }

    /// Writes to readers in turn, for about a millisecond.
    fn take_turns(&mut self, now: Instant) {
        for nth in 1.. {
            let Some((token, serial)) = self.turns.next() else { return };
            if self.reader(token).is_some_and(|reader| reader.serial == serial) {
                self.turn(token, now);
            }
            if nth % TURNS == 0 && now.elapsed() >= ROUND {
                return;
            }
        }
    }

    fn turn(&mut self, token: usize, now: Instant) {
        let ReaderTimeouts { heartbeat, stalled } = self.patience;
        let Some(reader) = self.readers.get_mut(token).and_then(Option::as_deref_mut) else { return };
        let went = reader.write_some(&self.hub, &mut self.backlog, now);
        let (client, channel, serial) = (reader.client(), reader.channel, reader.serial);
        if reader.take_skipped() {
            self.turns.lost(client);
        }
        match went {
            WriteOutcome::On => self.turns.queue(client, token, serial),
            WriteOutcome::Over => self.remove(token),
            WriteOutcome::Blocked => {
                self.set_state(token, ReaderState::Blocked);
                // It may be due sooner than planned.
                if stalled < heartbeat {
                    self.schedule_check(token, now);
                }
            }
            WriteOutcome::Idle => {
                let is_listed = std::mem::replace(&mut reader.is_listed, true);
                if let Some(channel) = self.backlog.channel(channel).filter(|_| !is_listed) {
                    channel.idle.push((token, serial));
                }
                self.set_state(token, ReaderState::Idle);
            }
        }
    }

    /// Counts the events that blocked readers have lost, and tells the hub which clients do not read their streams.
    fn check_blocked_readers(&mut self) {
        if self.blocked > 0 {
            // Also if no more events come.
            self.backlog.trim(self.inbox.most());
            for token in 0..self.readers.len() {
                let Some(reader) = self.readers.get_mut(token).and_then(Option::as_deref_mut) else { continue };
                if reader.is_blocked() && reader.count_lost(&self.hub, &mut self.backlog) {
                    self.set_state(token, ReaderState::Lost);
                }
            }
        }
        for peer in self.turns.take_unread() {
            self.hub.note_unread(peer);
        }
    }

    /// Plans when a reader is due next.
    fn schedule_check(&mut self, token: usize, now: Instant) {
        let ReaderTimeouts { heartbeat, stalled } = self.patience;
        let Some(reader) = self.reader(token) else { return };
        reader.due = reader.due_at(heartbeat, stalled).max(now + Duration::from_millis(1));
        let due = (reader.due, token, reader.serial);
        self.due.push(Reverse(due));
    }

    /// Sends a comment to readers that have got nothing for long, and cuts off readers that take nothing.
    fn check_due_readers(&mut self, now: Instant) {
        let ReaderTimeouts { heartbeat, stalled } = self.patience;
        while let Some(&Reverse((due, token, serial))) = self.due.peek() {
            if due > now {
                return;
            }
            self.due.pop();
            let Some(reader) = self.readers.get_mut(token).and_then(Option::as_deref_mut) else { continue };
            if reader.serial != serial || reader.due != due {
                continue;
            }
            if reader.due_at(heartbeat, stalled) <= now {
                match reader.state {
                    ReaderState::Blocked | ReaderState::Lost => {
                        reader.count_rest(&self.hub, &mut self.backlog);
                        self.remove(token);
                        continue;
                    }
                    ReaderState::Idle => {
                        reader.ping();
                        self.ready(token);
                    }
                    ReaderState::Ready => {}
                }
            }
            self.schedule_check(token, now);
        }
    }

    fn remove(&mut self, token: usize) {
        let Some(mut reader) = self.readers.get_mut(token).and_then(Option::take) else { return };
        reader.outlet.deregister(self.poll.registry());
        self.free.push(token);
        if reader.is_blocked() {
            self.blocked = self.blocked.saturating_sub(1);
            self.turns.block(reader.client(), false);
        }
        self.turns.leave(reader.client());
        self.leave_channel(&reader);
        self.hub.left(reader.channel, self.number);
        if self.free.len() == self.readers.len() {
            // Frees what all those readers needed.
            (self.readers, self.free, self.due) = Default::default();
        }
    }

    fn leave_channel(&mut self, reader: &StreamReader) {
        let moved = self.backlog.leave(reader.channel, reader.place, reader.is_behind());
        if let Some(moved) = moved.and_then(|moved| self.readers.get_mut(moved)?.as_deref_mut()) {
            moved.place = reader.place;
        }
    }
}
