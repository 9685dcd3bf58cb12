use crate::hub::{Beginning, ChannelId, Claim, Encoded, Event, First, Form, Hub, Joining, PING, Queue};
use bytes::Bytes;
use mio::net::TcpStream;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write as _};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events of one write, and bytes: as many as the kernel takes.
const AT_ONCE: usize = 64;
const BYTES_AT_ONCE: usize = SEND_BUFFER;

/// Pieces whose room is kept when all went out.
const KEPT: usize = 8;

/// Of the kernel's own, in bytes: a hundred usual events.
const SEND_BUFFER: usize = 32 << 10;

/// The end of an HTTP/1.1 body.
const LAST_CHUNK: Bytes = Bytes::from_static(b"0\r\n\r\n");

/// A socket, and what waits for it.
pub(super) struct Reader {
    pub(super) socket: TcpStream,
    pub(super) channel: ChannelId,
    /// Where it is in its channel's list.
    pub(super) place: usize,
    /// Tells it from others that were at its place before.
    pub(super) serial: u64,
    form: Form,
    /// What goes out next.
    pieces: VecDeque<Piece>,
    /// Bytes of the first that are gone already.
    written: usize,
    /// What comes then: what it begins with, what was published since, what it ends with.
    beginning: Option<Beginning>,
    queue: Queue,
    ending: VecDeque<Piece>,
    /// When bytes last went out.
    moved: Instant,
    /// When it is looked after next.
    pub(super) due: Instant,
    is_blocked: bool,
    /// Nothing comes any more.
    ends: bool,
    /// It sends nothing any more.
    is_half_closed: bool,
    _claim: Claim,
}

/// Bytes of one event.
struct Piece {
    bytes: Bytes,
    /// It was published since the reader began.
    is_published: bool,
}

/// What became of a reader.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Went {
    /// It has all there is, or takes no more for now.
    On,
    /// It is gone, or has had the last.
    Over,
}

impl Reader {
    /// `serial` and `place` tell it from others.
    pub(super) fn new(joining: Joining, serial: u64, place: usize, now: Instant) -> io::Result<Self> {
        let Joining { socket, head, beginning, ends, channel, form, queue, claim } = joining;
        // Small: what a reader does not take is to wait here, where it is counted, not in the kernel.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
        socket.set_nonblocking(true)?;
        let mut reader = Self {
            socket: TcpStream::from_std(socket),
            channel,
            place,
            serial,
            form,
            pieces: VecDeque::from([Piece::of(head.into())]),
            written: 0,
            beginning: Some(beginning),
            queue,
            ending: VecDeque::new(),
            moved: now,
            due: now,
            is_blocked: false,
            ends: false,
            is_half_closed: false,
            _claim: claim,
        };
        if ends {
            reader.end(None);
        }
        Ok(reader)
    }

    /// One more event, if there is room. Whether there was.
    pub(super) fn offer(&mut self, event: &Arc<Event>, hub: &Hub, now: Instant) -> bool {
        if self.ends {
            return true;
        }
        // What it would take at once is not too much.
        if self.queue.is_long() && !self.is_blocked {
            self.flush(hub, now);
        }
        self.queue.offer(event)
    }

    /// There was no room for so many before they came here.
    pub(super) fn skip(&mut self, count: u64) {
        self.queue.skip(count);
    }

    /// The last, and then the end of the body.
    pub(super) fn end(&mut self, last: Option<&Arc<Event>>) {
        let lost = self.queue.take_lost();
        self.ending.extend((lost > 0).then(|| Piece::lagged(lost)));
        self.ending.extend(last.map(|last| Piece::of(last.encoded(self.form).chunk().clone())));
        self.ending.push_back(Piece::of(LAST_CHUNK));
        self.ends = true;
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.pieces.is_empty() || self.beginning.is_some() || !self.queue.is_empty() || !self.ending.is_empty()
    }

    /// Events that wait, and will not go out if it is cut off now.
    pub(super) fn behind(&self) -> u64 {
        let published = self.pieces.iter().filter(|piece| piece.is_published).count();
        (self.queue.len() + published) as u64
    }

    /// Writes as much as it takes.
    pub(super) fn flush(&mut self, hub: &Hub, now: Instant) -> Went {
        self.is_blocked = false;
        loop {
            if self.pieces.is_empty() {
                self.refill(hub);
            }
            if self.pieces.is_empty() {
                break;
            }
            match self.write() {
                Ok(0) => return Went::Over,
                Ok(count) => {
                    self.moved = now;
                    self.advance(count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    return Went::On;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Went::Over,
            }
        }
        // What was needed while it was behind.
        self.pieces.shrink_to(KEPT);
        if self.ends {
            let _ = self.socket.shutdown(Shutdown::Write);
            return Went::Over;
        }
        Went::On
    }

    /// Takes what goes out next from what waits: no more of it than one write may take.
    fn refill(&mut self, hub: &Hub) {
        if let Some(beginning) = &mut self.beginning {
            match hub.more(beginning, AT_ONCE) {
                Some(more) => self.pieces.extend(more.into_iter().map(|first| match first {
                    First::Reset(reset) => Piece::of(reset.chunk().clone()),
                    First::Event(event) => Piece::of(event.encoded(self.form).chunk().clone()),
                })),
                None => self.beginning = None,
            }
            if !self.pieces.is_empty() {
                return;
            }
        }
        let mut bytes = 0;
        while bytes < BYTES_AT_ONCE
            && self.pieces.len() < AT_ONCE
            && let Some((lost, event)) = self.queue.pop()
        {
            if lost > 0 {
                self.pieces.push_back(Piece::lagged(lost));
            }
            let chunk = event.encoded(self.form).chunk().clone();
            bytes += chunk.len();
            self.pieces.push_back(Piece { bytes: chunk, is_published: true });
        }
        if self.pieces.is_empty() {
            self.pieces = std::mem::take(&mut self.ending);
        }
    }

    /// When something is to be done about it, whatever comes.
    pub(super) fn wants(&self, heartbeat: Duration, stalled: Duration) -> Instant {
        self.moved + if self.is_blocked { stalled } else { heartbeat }
    }

    /// Tells it that the stream still is.
    pub(super) fn ping(&mut self) {
        self.pieces.push_back(Piece::of(ping()));
    }

    /// Sends it something, once, when it sends nothing any more. Whether it did.
    pub(super) fn ask_whether_it_is_there(&mut self) -> bool {
        let is_new = !std::mem::replace(&mut self.is_half_closed, true);
        if is_new && !self.ends {
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
        match slices.get(..count) {
            // One alone is most often all there is.
            Some([slice]) => self.socket.write(slice),
            Some(slices) => self.socket.write_vectored(slices),
            None => Ok(0),
        }
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

fn ping() -> Bytes {
    static CHUNK: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    CHUNK.get_or_init(|| Encoded::of(PING).chunk().clone()).clone()
}

impl Piece {
    fn of(bytes: Bytes) -> Self {
        Self { bytes, is_published: false }
    }

    fn lagged(lost: u64) -> Self {
        Self::of(Encoded::lagged(lost).chunk().clone())
    }
}
