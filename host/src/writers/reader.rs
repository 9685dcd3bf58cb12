use crate::hub::{ChannelId, Claim, Encoded, Event, Form, Joining, PING};
use bytes::Bytes;
use mio::net::TcpStream;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write as _};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events of one write.
const AT_ONCE: usize = 64;

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
    /// Events that may wait.
    buffer: usize,
    waiting: VecDeque<Item>,
    /// Bytes of the first that are gone already.
    written: usize,
    /// Events among them.
    events: usize,
    lost: u64,
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

enum Item {
    Event(Arc<Event>),
    Bytes(Bytes),
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
        let Joining { socket, head, reset, first, ends, channel, form, buffer, claim } = joining;
        // Small: what a reader does not take is to wait here, where it is counted, not in the kernel.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
        socket.set_nonblocking(true)?;
        let mut waiting = VecDeque::with_capacity(2 + first.len());
        waiting.push_back(Item::Bytes(head.into()));
        waiting.extend(reset.map(|reset| Item::Bytes(reset.chunk().clone())));
        waiting.extend(first.into_iter().map(Item::Event));
        let mut reader = Self {
            socket: TcpStream::from_std(socket),
            channel,
            place,
            serial,
            form,
            buffer,
            waiting,
            written: 0,
            events: 0,
            lost: 0,
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
    pub(super) fn offer(&mut self, event: &Arc<Event>, now: Instant) -> bool {
        if self.ends {
            return true;
        }
        // What it would take at once is not too much.
        if self.events >= self.buffer && !self.is_blocked {
            self.flush(now);
        }
        if self.events >= self.buffer {
            self.lost += 1;
            return false;
        }
        self.tell_lost();
        self.events += 1;
        self.waiting.push_back(Item::Event(event.clone()));
        true
    }

    /// There was no room for so many before they came here.
    pub(super) fn skip(&mut self, count: u64) {
        self.lost += count;
    }

    /// The last, and then the end of the body.
    pub(super) fn end(&mut self, last: Option<&Arc<Event>>) {
        self.tell_lost();
        self.waiting.extend(last.map(|last| Item::Event(last.clone())));
        self.waiting.push_back(Item::Bytes(LAST_CHUNK));
        self.ends = true;
    }

    fn tell_lost(&mut self) {
        if self.lost > 0 {
            let lagged = Encoded::lagged(std::mem::take(&mut self.lost));
            self.waiting.push_back(Item::Bytes(lagged.chunk().clone()));
        }
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Events that wait, and will not go out if it is cut off now.
    pub(super) fn behind(&self) -> u64 {
        self.events as u64
    }

    /// Writes as much as it takes.
    pub(super) fn flush(&mut self, now: Instant) -> Went {
        self.is_blocked = false;
        while !self.waiting.is_empty() {
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
        if self.waiting.capacity() > 4 * AT_ONCE {
            self.waiting = VecDeque::new();
        }
        if self.ends {
            let _ = self.socket.shutdown(Shutdown::Write);
            return Went::Over;
        }
        Went::On
    }

    /// When something is to be done about it, whatever comes.
    pub(super) fn wants(&self, heartbeat: Duration, stalled: Duration) -> Instant {
        self.moved + if self.is_blocked { stalled } else { heartbeat }
    }

    /// Tells it that the stream still is.
    pub(super) fn ping(&mut self) {
        self.waiting.push_back(Item::Bytes(ping()));
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
        let mut pieces = [IoSlice::new(&[]); AT_ONCE];
        let mut count = 0;
        for (piece, item) in pieces.iter_mut().zip(&self.waiting) {
            let bytes = item.bytes(self.form);
            *piece = IoSlice::new(if count == 0 { bytes.get(self.written..).unwrap_or_default() } else { bytes });
            count += 1;
        }
        match pieces.get(..count) {
            // One alone is most often all there is.
            Some([piece]) => self.socket.write(piece),
            Some(pieces) => self.socket.write_vectored(pieces),
            None => Ok(0),
        }
    }

    fn advance(&mut self, count: usize) {
        self.written += count;
        while let Some(first) = self.waiting.front() {
            let length = first.bytes(self.form).len();
            if self.written < length {
                return;
            }
            self.written -= length;
            if let Some(Item::Event(_)) = self.waiting.pop_front() {
                // Those it began with were not counted.
                self.events = self.events.saturating_sub(1);
            }
        }
    }
}

fn ping() -> Bytes {
    static CHUNK: std::sync::OnceLock<Bytes> = std::sync::OnceLock::new();
    CHUNK.get_or_init(|| Encoded::of(PING).chunk().clone()).clone()
}

impl Item {
    fn bytes(&self, form: Form) -> &[u8] {
        match self {
            Self::Event(event) => event.encoded(form).chunk(),
            Self::Bytes(bytes) => bytes,
        }
    }
}
