use super::backlog::{Backlog, NextEvent};
use super::fair_queue::TurnOwner;
use bytes::Bytes;
use dropsonde_engine::hub::Selection;
use dropsonde_engine::hub::{
    ChannelId, EncodedEvent, Hub, InitialEvent, InitialEvents, JoiningReader, Outlet, PING, SEND_BUFFER, StreamEvent,
    StreamForm, StreamPermit,
};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events and bytes of one write: as many as the kernel takes.
const AT_ONCE: usize = 64;
const BYTES_AT_ONCE: usize = SEND_BUFFER;

/// Parts of a stream's beginning that are made at a time. A reader that takes nothing keeps them in memory.
const FIRST_AT_ONCE: usize = 16;

/// Pieces whose capacity is kept when all are written.
const KEPT: usize = 8;

/// One stream: its outlet, and its position in the events of its channel.
pub(super) struct StreamReader {
    pub(super) outlet: Outlet,
    pub(super) channel: ChannelId,
    /// The reader's index in its channel's list of readers.
    pub(super) place: usize,
    /// Tells the reader from earlier readers with the same token.
    pub(super) serial: u64,
    pub(super) state: ReaderState,
    /// Whether its channel's list of idle readers has it.
    pub(super) is_listed: bool,
    selection: Arc<Selection>,
    form: StreamForm,
    /// The bytes that are written next.
    pieces: VecDeque<OutgoingPiece>,
    /// Bytes of the first piece that are already written.
    written: usize,
    /// What comes after `pieces`: the rest of its beginning, then the events of its channel from the position `next`
    /// on.
    beginning: Option<InitialEvents>,
    next: u64,
    /// The sequence number of the last event that the reader has, or need not have.
    seen: u64,
    /// Samples of its beginning that are yet to come, and that do not count as lost.
    promised: u64,
    /// Lost events that are already counted in the metric.
    counted: u64,
    /// The position of its channel at which the stream ends, and the bytes that come there instead of events.
    ends: Option<u64>,
    ending: VecDeque<OutgoingPiece>,
    /// The time of the last successful write.
    moved: Instant,
    /// The time of its next heartbeat, or of the next check whether it is stalled.
    pub(super) due: Instant,
    /// Whether the client has closed its sending half.
    is_half_closed: bool,
    /// Whether the reader has skipped to the newest samples since `take_skipped` was last called.
    has_skipped: bool,
    claim: StreamPermit,
}

/// The state of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReaderState {
    /// It has all events, and waits for the next.
    Idle,
    /// It waits for its turn.
    Ready,
    /// It waits until its outlet takes more.
    Blocked,
    /// As `Blocked`, but the events since then are no longer kept for it: it gets the newest sample of each instance.
    Lost,
}

/// The bytes of one event.
struct OutgoingPiece {
    bytes: Bytes,
    /// The event's sequence number, if it was published since the reader began.
    published: Option<u64>,
}

/// The result of a reader's turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WriteOutcome {
    /// The reader took bytes; there may be more.
    On,
    /// The reader has all events.
    Idle,
    /// The reader takes no more for now.
    Blocked,
    /// The reader is gone, or has the end of the stream.
    Over,
}

impl StreamReader {
    /// Creates a reader. `serial` and `token` tell it from others.
    pub(super) fn new(joining: JoiningReader, serial: u64, token: usize, backlog: &mut Backlog, now: Instant) -> Self {
        let JoiningReader { outlet, head, beginning, ends, channel, selection, since, most, claim } = joining;
        let (place, next) = backlog.join(channel, token, since, most);
        let mut reader = Self {
            outlet,
            channel,
            place,
            serial,
            state: ReaderState::Ready,
            is_listed: false,
            form: selection.form(),
            selection,
            pieces: VecDeque::from([OutgoingPiece::of(head.into())]),
            written: 0,
            beginning: Some(beginning),
            next,
            seen: since,
            promised: 0,
            counted: 0,
            ends: None,
            ending: VecDeque::new(),
            moved: now,
            due: now,
            is_half_closed: false,
            has_skipped: false,
            claim,
        };
        if ends {
            reader.end(None, next);
        }
        reader
    }

    /// Returns the client whose turns the reader uses.
    pub(super) fn client(&self) -> TurnOwner {
        TurnOwner { peer: self.claim.peer(), is_carried: self.outlet.is_carried() }
    }

    /// Returns whether the reader needs the kept events of its channel.
    pub(super) fn is_behind(&self) -> bool {
        matches!(self.state, ReaderState::Ready | ReaderState::Blocked)
    }

    /// Ends the stream at the position `at` of its channel, with the event `last` and the end of the body.
    pub(super) fn end(&mut self, last: Option<&Arc<StreamEvent>>, at: u64) {
        if self.ends.is_some() {
            return;
        }
        let last = last.map(|last| self.outlet.framed(last.encoded(self.form)));
        self.ending.extend(last.into_iter().chain(self.outlet.last()).map(OutgoingPiece::of));
        self.ends = Some(at);
    }

    /// Counts the events that a blocked reader has lost until now. Returns whether its next event is no longer kept.
    pub(super) fn count_lost(&mut self, hub: &Hub, backlog: &mut Backlog) -> bool {
        let (first, _, _) = backlog.bounds(self.channel);
        let lost = first.saturating_sub(self.next);
        hub.lost(lost.saturating_sub(self.counted));
        self.counted = self.counted.max(lost);
        lost > 0
    }

    /// Counts the events that the reader will not get because it is cut off now.
    pub(super) fn count_rest(&mut self, hub: &Hub, backlog: &mut Backlog) {
        let (_, end, _) = backlog.bounds(self.channel);
        hub.lost(end.saturating_sub(self.next).saturating_sub(self.counted));
    }

    /// Writes as much as one write takes.
    pub(super) fn write_some(&mut self, hub: &Hub, backlog: &mut Backlog, now: Instant) -> WriteOutcome {
        if self.pieces.is_empty() {
            self.refill(hub, backlog);
        }
        if self.pieces.is_empty() {
            self.pieces.shrink_to(KEPT);
            return if self.ends.is_some() { self.over() } else { WriteOutcome::Idle };
        }
        match self.write() {
            Ok(0) => return WriteOutcome::Over,
            Ok(count) => {
                self.moved = now;
                self.advance(count);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.put_back();
                return WriteOutcome::Blocked;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return WriteOutcome::Over,
        }
        match self.pieces.is_empty() && self.beginning.is_none() && self.ending.is_empty() {
            true if self.ends.is_some_and(|end| self.next >= end) => self.over(),
            true if self.ends.is_none() && matches!(backlog.next(self.channel, self.next), NextEvent::Nothing) => {
                // Frees what the reader needed while it was behind.
                self.pieces.shrink_to(KEPT);
                WriteOutcome::Idle
            }
            _ => WriteOutcome::On,
        }
    }

    fn over(&self) -> WriteOutcome {
        self.outlet.finish();
        WriteOutcome::Over
    }

    /// Fills `pieces` with what comes next, at most as much as one write may take.
    fn refill(&mut self, hub: &Hub, backlog: &mut Backlog) {
        self.begin(hub);
        let end = self.ends.unwrap_or(u64::MAX);
        let mut bytes = 0;
        while bytes < BYTES_AT_ONCE && self.pieces.len() < AT_ONCE && self.beginning.is_none() && self.next < end {
            match backlog.next(self.channel, self.next) {
                NextEvent::Nothing => break,
                NextEvent::Gone if self.pieces.is_empty() => {
                    self.skip_lost(hub, backlog);
                    self.begin(hub);
                }
                // The pieces that it has are written first.
                NextEvent::Gone => break,
                NextEvent::Event(event) => {
                    let framed = self.outlet.framed(event.encoded(self.form));
                    bytes += framed.len();
                    self.pieces.push_back(OutgoingPiece { bytes: framed, published: Some(event.sequence) });
                    (self.seen, self.next) = (event.sequence, self.next + 1);
                }
            }
        }
        if self.pieces.is_empty() && self.beginning.is_none() {
            self.pieces = std::mem::take(&mut self.ending);
        }
    }

    /// Takes more of its beginning, or of the newest samples after it lost some.
    fn begin(&mut self, hub: &Hub) {
        let Some(beginning) = &mut self.beginning else { return };
        if let Some(more) = hub.more(beginning, FIRST_AT_ONCE) {
            self.promised = self.promised.saturating_sub(more.len() as u64);
            self.pieces.extend(more.into_iter().map(|first| match first {
                InitialEvent::Reset(reset) => OutgoingPiece::of(self.outlet.framed(&reset)),
                InitialEvent::Event(event) => OutgoingPiece::of(self.outlet.framed(event.encoded(self.form))),
            }));
            return;
        }
        self.beginning = None;
        // For some of the promised samples, a newer one of the instance came before they were written.
        let lost = std::mem::take(&mut self.promised);
        if lost > 0 {
            self.add(&EncodedEvent::lagged(lost));
            hub.lost(lost);
        }
    }

    /// Skips events that are no longer kept: the reader goes on with the newest sample of each instance, and is told
    /// how many samples it does not get.
    fn skip_lost(&mut self, hub: &Hub, backlog: &mut Backlog) {
        let (first, end, last) = backlog.bounds(self.channel);
        let end = self.ends.unwrap_or(end);
        let is_over = self.ends.is_some();
        let (beginning, newest) =
            if is_over { Default::default() } else { hub.newest(&self.selection, self.seen, last) };
        // The sum of a workload belongs to no instance: its newest sample is the last event of the channel.
        let to = if newest == 0 && !is_over { first.max(end.saturating_sub(1)) } else { end };
        let lost = to.saturating_sub(self.next).saturating_sub(newest);
        hub.lost(lost.saturating_sub(self.counted));
        self.counted = 0;
        if lost > 0 {
            self.add(&EncodedEvent::lagged(lost));
        }
        if newest > 0 {
            (self.beginning, self.promised, self.seen) = (Some(beginning), newest, last);
        }
        (self.next, self.has_skipped) = (to, true);
    }

    /// Returns whether the reader has skipped to the newest samples since this was last called.
    pub(super) fn take_skipped(&mut self) -> bool {
        std::mem::take(&mut self.has_skipped)
    }

    /// Puts back events of which nothing was written: a blocked reader need not keep them.
    fn put_back(&mut self) {
        let begun = usize::from(self.written > 0);
        while self.pieces.len() > begun
            && let Some(sequence) = self.pieces.back().and_then(|piece| piece.published)
        {
            self.pieces.pop_back();
            self.next -= 1;
            self.seen = sequence.saturating_sub(1);
        }
        self.pieces.shrink_to(KEPT);
    }

    /// Returns when the reader needs a heartbeat, or is cut off if it is still blocked.
    pub(super) fn due_at(&self, heartbeat: Duration, stalled: Duration) -> Instant {
        self.moved + if self.is_blocked() { stalled } else { heartbeat }
    }

    pub(super) fn is_blocked(&self) -> bool {
        matches!(self.state, ReaderState::Blocked | ReaderState::Lost)
    }

    /// Sends a comment, which shows that the stream is alive.
    pub(super) fn ping(&mut self) {
        self.add(&EncodedEvent::of(PING));
    }

    /// Notes that the client has closed its sending half. The first time, sends a comment to find out whether the
    /// client is there, and returns true.
    pub(super) fn ask_whether_it_is_there(&mut self) -> bool {
        let is_new = !std::mem::replace(&mut self.is_half_closed, true);
        if is_new && self.ends.is_none() {
            self.ping();
        }
        is_new
    }

    fn write(&mut self) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); AT_ONCE];
        let mut count = 0;
        for (slice, OutgoingPiece { bytes, .. }) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(if count == 0 { bytes.get(self.written..).unwrap_or_default() } else { bytes });
            count += 1;
        }
        self.outlet.write(slices.get(..count).unwrap_or_default())
    }

    fn add(&mut self, event: &EncodedEvent) {
        self.pieces.push_back(OutgoingPiece::of(self.outlet.framed(event)));
    }

    fn advance(&mut self, count: usize) {
        self.written += count;
        while let Some(OutgoingPiece { bytes, .. }) = self.pieces.front() {
            if self.written < bytes.len() {
                return;
            }
            self.written -= bytes.len();
            self.pieces.pop_front();
        }
    }
}

impl OutgoingPiece {
    fn of(bytes: Bytes) -> Self {
        Self { bytes, published: None }
    }
}
