use super::backlog::{Backlog, Next};
use super::turns::Client;
use bytes::Bytes;
use dropsonde_engine::hub::Selection;
use dropsonde_engine::hub::{
    Beginning, ChannelId, Claim, Encoded, Event, First, Form, Hub, Joining, Outlet, PING, SEND_BUFFER,
};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events of one write, and bytes: as many as the kernel takes.
const AT_ONCE: usize = 64;
const BYTES_AT_ONCE: usize = SEND_BUFFER;

/// Parts of a beginning that are made at a time: a reader that takes none of them keeps them.
const FIRST_AT_ONCE: usize = 16;

/// Pieces whose room is kept when all went out.
const KEPT: usize = 8;

/// Where a reader's bytes go, and where it is in what its channel gets.
pub(super) struct Reader {
    pub(super) outlet: Outlet,
    pub(super) channel: ChannelId,
    /// Where it is in its channel's list of readers.
    pub(super) place: usize,
    /// Tells it from others that were at its place before.
    pub(super) serial: u64,
    pub(super) state: State,
    /// Whether its channel's list of those who wait has it.
    pub(super) is_listed: bool,
    selection: Arc<Selection>,
    form: Form,
    /// What goes out next.
    pieces: VecDeque<Piece>,
    /// Bytes of the first that are gone already.
    written: usize,
    /// What comes then: what it begins with, and events of its channel, from which on.
    beginning: Option<Beginning>,
    next: u64,
    /// The sequence of the last event it has, or need not have.
    seen: u64,
    /// Of its beginning: how many are yet to come that it was not told it lost.
    promised: u64,
    /// How many of those it lost are counted by now.
    counted: u64,
    /// Nothing comes from some event of its channel on, but this.
    ends: Option<u64>,
    ending: VecDeque<Piece>,
    /// When bytes last went out.
    moved: Instant,
    /// When it is looked after next.
    pub(super) due: Instant,
    /// It sends nothing any more.
    is_half_closed: bool,
    /// It went on with the newest since this was last asked.
    has_skipped: bool,
    claim: Claim,
}

/// What a reader waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// For something to come: it has had all.
    Idle,
    /// For its turn.
    Ready,
    /// For its outlet to take more.
    Blocked,
    /// The same, and what came meanwhile is not kept for it any more: it gets the newest of each instance.
    Lost,
}

/// Bytes of one event.
struct Piece {
    bytes: Bytes,
    /// The event's sequence, if it was published since the reader began.
    published: Option<u64>,
}

/// What became of a reader that had its turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// It took what it was given; there may be more.
    On,
    /// It has all there is.
    Idle,
    /// It takes no more for now.
    Blocked,
    /// It is gone, or has had the last.
    Over,
}

impl Reader {
    /// `serial` and `token` tell it from others.
    pub(super) fn new(joining: Joining, serial: u64, token: usize, backlog: &mut Backlog, now: Instant) -> Self {
        let Joining { outlet, head, beginning, ends, channel, selection, since, most, claim } = joining;
        let (place, next) = backlog.join(channel, token, since, most);
        let mut reader = Self {
            outlet,
            channel,
            place,
            serial,
            state: State::Ready,
            is_listed: false,
            form: selection.form(),
            selection,
            pieces: VecDeque::from([Piece::of(head.into())]),
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

    /// Returns whose turn is its own.
    pub(super) fn client(&self) -> Client {
        Client { peer: self.claim.peer(), is_carried: self.outlet.is_carried() }
    }

    /// Whether it needs what is kept for its channel.
    pub(super) fn is_behind(&self) -> bool {
        matches!(self.state, State::Ready | State::Blocked)
    }

    /// The last, and then the end of the body, come behind what its channel has now.
    pub(super) fn end(&mut self, last: Option<&Arc<Event>>, at: u64) {
        if self.ends.is_some() {
            return;
        }
        let last = last.map(|last| self.outlet.framed(last.encoded(self.form)));
        self.ending.extend(last.into_iter().chain(self.outlet.last()).map(Piece::of));
        self.ends = Some(at);
    }

    /// Counts what it lost until now, while it takes nothing. Returns whether all that is kept is beyond what it could have.
    pub(super) fn count_lost(&mut self, hub: &Hub, backlog: &mut Backlog) -> bool {
        let (first, _, _) = backlog.bounds(self.channel);
        let lost = first.saturating_sub(self.next);
        hub.lost(lost.saturating_sub(self.counted));
        self.counted = self.counted.max(lost);
        lost > 0
    }

    /// Counts what will not go out when it is cut off now.
    pub(super) fn count_rest(&mut self, hub: &Hub, backlog: &mut Backlog) {
        let (_, end, _) = backlog.bounds(self.channel);
        hub.lost(end.saturating_sub(self.next).saturating_sub(self.counted));
    }

    /// Writes what one write takes.
    pub(super) fn write_some(&mut self, hub: &Hub, backlog: &mut Backlog, now: Instant) -> Went {
        if self.pieces.is_empty() {
            self.refill(hub, backlog);
        }
        if self.pieces.is_empty() {
            self.pieces.shrink_to(KEPT);
            return if self.ends.is_some() { self.over() } else { Went::Idle };
        }
        match self.write() {
            Ok(0) => return Went::Over,
            Ok(count) => {
                self.moved = now;
                self.advance(count);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.put_back();
                return Went::Blocked;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Went::Over,
        }
        match self.pieces.is_empty() && self.beginning.is_none() && self.ending.is_empty() {
            true if self.ends.is_some_and(|end| self.next >= end) => self.over(),
            true if self.ends.is_none() && matches!(backlog.next(self.channel, self.next), Next::Nothing) => {
                // What was needed while it was behind.
                self.pieces.shrink_to(KEPT);
                Went::Idle
            }
            _ => Went::On,
        }
    }

    fn over(&self) -> Went {
        self.outlet.finish();
        Went::Over
    }

    /// Takes what goes out next: no more of it than one write may take.
    fn refill(&mut self, hub: &Hub, backlog: &mut Backlog) {
        self.begin(hub);
        let end = self.ends.unwrap_or(u64::MAX);
        let mut bytes = 0;
        while bytes < BYTES_AT_ONCE && self.pieces.len() < AT_ONCE && self.beginning.is_none() && self.next < end {
            match backlog.next(self.channel, self.next) {
                Next::Nothing => break,
                Next::Gone if self.pieces.is_empty() => {
                    self.skip_lost(hub, backlog);
                    self.begin(hub);
                }
                // What it has goes out before.
                Next::Gone => break,
                Next::Event(event) => {
                    let framed = self.outlet.framed(event.encoded(self.form));
                    bytes += framed.len();
                    self.pieces.push_back(Piece { bytes: framed, published: Some(event.sequence) });
                    (self.seen, self.next) = (event.sequence, self.next + 1);
                }
            }
        }
        if self.pieces.is_empty() && self.beginning.is_none() {
            self.pieces = std::mem::take(&mut self.ending);
        }
    }

    /// Takes more of what it begins with, or goes on with after it lost some.
    fn begin(&mut self, hub: &Hub) {
        let Some(beginning) = &mut self.beginning else { return };
        if let Some(more) = hub.more(beginning, FIRST_AT_ONCE) {
            self.promised = self.promised.saturating_sub(more.len() as u64);
            self.pieces.extend(more.into_iter().map(|first| match first {
                First::Reset(reset) => Piece::of(self.outlet.framed(&reset)),
                First::Event(event) => Piece::of(self.outlet.framed(event.encoded(self.form))),
            }));
            return;
        }
        self.beginning = None;
        // Of those it was to have, some came newer before it was their turn.
        let lost = std::mem::take(&mut self.promised);
        if lost > 0 {
            self.add(&Encoded::lagged(lost));
            hub.lost(lost);
        }
    }

    /// What came next is not kept any more: it goes on with the newest of each instance, and hears how many it does not get.
    fn skip_lost(&mut self, hub: &Hub, backlog: &mut Backlog) {
        let (first, end, last) = backlog.bounds(self.channel);
        let end = self.ends.unwrap_or(end);
        let is_over = self.ends.is_some();
        let (beginning, newest) =
            if is_over { Default::default() } else { hub.newest(&self.selection, self.seen, last) };
        // What instances add up to is no instance's: its newest is the last of the channel.
        let to = if newest == 0 && !is_over { first.max(end.saturating_sub(1)) } else { end };
        let lost = to.saturating_sub(self.next).saturating_sub(newest);
        hub.lost(lost.saturating_sub(self.counted));
        self.counted = 0;
        if lost > 0 {
            self.add(&Encoded::lagged(lost));
        }
        if newest > 0 {
            (self.beginning, self.promised, self.seen) = (Some(beginning), newest, last);
        }
        (self.next, self.has_skipped) = (to, true);
    }

    /// Whether it went on with the newest since this was last asked.
    pub(super) fn take_skipped(&mut self) -> bool {
        std::mem::take(&mut self.has_skipped)
    }

    /// Puts back what was not begun: a reader that takes nothing keeps no more than a piece.
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

    /// When something is to be done about it, whatever comes.
    pub(super) fn wants(&self, heartbeat: Duration, stalled: Duration) -> Instant {
        self.moved + if self.is_blocked() { stalled } else { heartbeat }
    }

    pub(super) fn is_blocked(&self) -> bool {
        matches!(self.state, State::Blocked | State::Lost)
    }

    /// Tells it that the stream still is.
    pub(super) fn ping(&mut self) {
        self.add(&Encoded::of(PING));
    }

    /// Sends it something, once, when it sends nothing any more. Whether it did.
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
        for (slice, Piece { bytes, .. }) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(if count == 0 { bytes.get(self.written..).unwrap_or_default() } else { bytes });
            count += 1;
        }
        self.outlet.write(slices.get(..count).unwrap_or_default())
    }

    fn add(&mut self, event: &Encoded) {
        self.pieces.push_back(Piece::of(self.outlet.framed(event)));
    }

    fn advance(&mut self, count: usize) {
        self.written += count;
        while let Some(Piece { bytes, .. }) = self.pieces.front() {
            if self.written < bytes.len() {
                return;
            }
            self.written -= bytes.len();
            self.pieces.pop_front();
        }
    }
}

impl Piece {
    fn of(bytes: Bytes) -> Self {
        Self { bytes, published: None }
    }
}
