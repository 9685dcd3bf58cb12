//! The pipe that takes a stream's bytes from its writer to the response body that carries them, few at a time.

use super::inbox::{Inbox, WriterMessage};
use crate::quota::ClientId;
use bytes::Bytes;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// The most bytes on their way at a time: some fifty usual events, and a frame of HTTP/2.
const ROOM: usize = 16 << 10;

/// The most bodies of one client that a writer wakes at a time: a millisecond of work for the server's threads.
const MOST_AWAKE: usize = 16;

/// The writer's end. If it is dropped before it is finished, the body breaks off.
#[derive(Debug)]
pub struct PipeWriter(Arc<PipeShared>);

/// The body's end. When it is dropped, the writer is told that its reader left.
#[derive(Debug)]
pub struct PipeReader(Arc<PipeShared>);

/// Bytes that the body took and its connection has not written yet.
struct TakenBytes {
    bytes: Vec<u8>,
    shared: Arc<PipeShared>,
}

#[derive(Debug, Default)]
struct PipeShared(Mutex<PipeState>);

#[derive(Debug, Default)]
struct PipeState {
    /// Bytes that the body has yet to take.
    waiting: Vec<u8>,
    /// The number of bytes that the body took and that its connection has not written.
    taken: usize,
    /// The stream is finished: the body ends behind the waiting bytes.
    is_finished: bool,
    /// The stream was cut off: the body breaks off behind the waiting bytes.
    is_cut: bool,
    /// The body's end was dropped.
    is_gone: bool,
    /// The writer found no room, and is told when there is some.
    is_full: bool,
    body: Option<Waker>,
    /// The body was woken, and has not taken anything since.
    is_awake: bool,
    writer: Option<WriterHandle>,
}

/// The client of a stream, and the writer that serves it.
#[derive(Debug, Clone)]
pub struct WriterHandle {
    pub inbox: Arc<Inbox>,
    pub awake: Arc<AwakeBodies>,
    pub peer: Option<ClientId>,
    pub token: usize,
    pub serial: u64,
}

/// Counts the bodies of one client that a writer woke and that have taken nothing since. While there are many, the
/// writer wakes no more of them, because they would keep the server's threads from all other work.
#[derive(Debug, Default)]
pub struct AwakeBodies {
    count: AtomicUsize,
    /// The writer found too many, and is told when there are fewer.
    is_awaited: AtomicBool,
}

/// Makes both ends of a pipe.
pub(super) fn pipe() -> (PipeWriter, PipeReader) {
    let shared = Arc::<PipeShared>::default();
    (PipeWriter(shared.clone()), PipeReader(shared))
}

// === impl PipeWriter ===

impl PipeWriter {
    /// Registers the writer, which is then told when there is room again, and when the body is gone.
    pub fn register(&self, writer: WriterHandle) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.is_gone {
            return Err(ErrorKind::BrokenPipe.into());
        }
        state.writer = Some(writer);
        Ok(())
    }

    /// Puts in as much of some pieces as there is room for, like a socket that does not block. Returns the number of
    /// bytes.
    pub fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.is_gone {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let room = ROOM.saturating_sub(state.on_the_way());
        if room == 0 {
            state.is_full = true;
            return Err(ErrorKind::WouldBlock.into());
        }
        let written = pieces.iter().map(|piece| piece.len()).sum::<usize>().min(room);
        // No more than is needed, because a body that is not read keeps the memory.
        state.waiting.reserve_exact(written);
        let mut left = written;
        for piece in pieces {
            let some = piece.get(..left).unwrap_or(piece);
            state.waiting.extend_from_slice(some);
            left -= some.len();
        }
        let body = state.body.take();
        if body.is_some() && !state.is_awake {
            state.is_awake = true;
            state.writer.iter().for_each(|writer| writer.awake.add());
        }
        drop(state);
        body.into_iter().for_each(Waker::wake);
        Ok(written)
    }

    /// Ends the body behind the bytes that were put in.
    pub fn finish(&self) {
        self.0.lock().is_finished = true;
    }

    pub fn is_gone(&self) -> bool {
        self.0.lock().is_gone
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_cut = !state.is_finished;
        let (writer, body) = (state.calm(), state.body.take());
        state.writer = None;
        drop(state);
        writer.into_iter().for_each(WriterHandle::tell);
        body.into_iter().for_each(Waker::wake);
    }
}

// === impl PipeReader ===

impl PipeReader {
    /// Takes all waiting bytes. None: the stream is over.
    pub fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let mut state = self.0.lock();
        let writer = state.calm();
        let bytes = std::mem::take(&mut state.waiting);
        state.taken += bytes.len();
        let took = match (bytes.is_empty(), state.is_finished, state.is_cut) {
            (false, ..) => Poll::Ready(Some(Ok(bytes))),
            (true, true, _) => Poll::Ready(None),
            (true, _, true) => Poll::Ready(Some(Err(ErrorKind::ConnectionAborted.into()))),
            (true, false, false) => {
                state.body = Some(context.waker().clone());
                Poll::Pending
            }
        };
        drop(state);
        writer.into_iter().for_each(WriterHandle::tell);
        took.map_ok(|bytes| Bytes::from_owner(TakenBytes { bytes, shared: self.0.clone() }))
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_gone = true;
        state.waiting = Vec::new();
        state.body = None;
        // The writer is told below in any case.
        let _ = state.calm();
        let writer = state.writer.take();
        drop(state);
        writer.into_iter().for_each(WriterHandle::tell);
    }
}

// === impl TakenBytes ===

impl AsRef<[u8]> for TakenBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for TakenBytes {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.taken = state.taken.saturating_sub(self.bytes.len());
        // The writer is not told of a few bytes of room, which would be full again at once.
        let has_room = state.is_full && state.on_the_way() <= ROOM / 2;
        if !has_room {
            return;
        }
        state.is_full = false;
        let writer = state.writer.clone();
        drop(state);
        writer.into_iter().for_each(WriterHandle::tell);
    }
}

// === impl PipeShared ===

impl PipeShared {
    fn lock(&self) -> MutexGuard<'_, PipeState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PipeState {
    fn on_the_way(&self) -> usize {
        self.waiting.len() + self.taken
    }

    /// Notes that the body is no longer awake. Returns the writer that is to be told, if any.
    fn calm(&mut self) -> Option<WriterHandle> {
        let was_awake = std::mem::take(&mut self.is_awake);
        self.writer.as_ref().filter(|writer| was_awake && writer.awake.remove()).cloned()
    }
}

// === impl WriterHandle ===

impl WriterHandle {
    fn tell(self) {
        let Self { inbox, peer, token, serial, .. } = self;
        inbox.tell(WriterMessage::Moved { peer, token, serial });
    }
}

// === impl AwakeBodies ===

impl AwakeBodies {
    /// Returns whether as many bodies are awake as may be. If so, the writer is told when half as many are.
    pub fn is_full(&self) -> bool {
        let is_full = || self.count.load(SeqCst) >= MOST_AWAKE;
        if !is_full() {
            return false;
        }
        self.is_awaited.store(true, SeqCst);
        // Bodies that came before this was set told nobody, so the count is checked again.
        is_full()
    }

    fn add(&self) {
        self.count.fetch_add(1, SeqCst);
    }

    /// Counts one body less. Returns whether the writer is to be told.
    fn remove(&self) -> bool {
        let before = self.count.fetch_sub(1, SeqCst);
        before <= MOST_AWAKE / 2 + 1 && self.is_awaited.swap(false, SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::super::inbox::{WaitingMessages, WriterWaker};
    use super::*;

    fn take(reader: &mut PipeReader) -> Option<Option<Bytes>> {
        match reader.poll_take(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(taken) => Some(taken.map(Result::unwrap)),
            Poll::Pending => None,
        }
    }

    fn write(writer: &PipeWriter, bytes: &[u8]) -> Result<usize, ErrorKind> {
        writer.write(&[IoSlice::new(bytes)]).map_err(|error| error.kind())
    }

    fn registered() -> (PipeWriter, PipeReader, Arc<Inbox>) {
        let (writer, reader) = pipe();
        let inbox = Arc::new(Inbox::new(WriterWaker(Box::new(|| {}))));
        writer.register(of(&inbox, &Arc::default())).unwrap();
        (writer, reader, inbox)
    }

    fn of(inbox: &Arc<Inbox>, awake: &Arc<AwakeBodies>) -> WriterHandle {
        WriterHandle { inbox: inbox.clone(), awake: awake.clone(), peer: None, token: 3, serial: 7 }
    }

    fn told(inbox: &Inbox) -> usize {
        let WaitingMessages { messages, .. } = inbox.take();
        assert!(messages.iter().all(|message| matches!(message, WriterMessage::Moved { token: 3, serial: 7, .. })));
        messages.len()
    }

    #[test]
    fn a_writer_fills_the_pipe_and_is_told_when_half_of_it_is_free_again() {
        let (writer, mut reader, inbox) = registered();
        assert_eq!(write(&writer, &[1; 1000]), Ok(1000));
        let first = take(&mut reader).unwrap().unwrap();
        assert_eq!(write(&writer, &[2; 2 * ROOM]), Ok(ROOM - 1000), "what was taken is on its way, too");
        assert_eq!(write(&writer, &[3]), Err(ErrorKind::WouldBlock));
        let second = take(&mut reader).unwrap().unwrap();
        assert_eq!((first.len(), second.len()), (1000, ROOM - 1000));
        drop(first);
        assert_eq!(told(&inbox), 0, "it would be full again at once");
        drop(second);
        assert_eq!((told(&inbox), write(&writer, &[3])), (1, Ok(1)));
        drop(take(&mut reader));
        assert_eq!(told(&inbox), 0, "it does not wait for room");
    }

    #[test]
    fn a_finished_body_ends_after_its_bytes_and_a_dropped_writer_aborts_it() {
        let (writer, mut reader, _) = registered();
        assert!(take(&mut reader).is_none());
        assert_eq!(writer.write(&[IoSlice::new(b"one"), IoSlice::new(b" two")]).unwrap(), 7);
        writer.finish();
        drop(writer);
        assert_eq!(take(&mut reader).unwrap().unwrap(), "one two");
        assert_eq!(take(&mut reader), Some(None));
        let (writer, mut reader, _) = registered();
        drop(writer);
        let cut = reader.poll_take(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(cut, Poll::Ready(Some(Err(_)))), "{cut:?}");
    }

    #[test]
    fn awake_bodies_of_a_client_are_bounded_and_the_writer_is_told_when_half_have_taken_their_bytes() {
        let (inbox, awake) = (Arc::new(Inbox::new(WriterWaker(Box::new(|| {})))), Arc::<AwakeBodies>::default());
        let mut pipes: Vec<_> = (0..MOST_AWAKE).map(|_| pipe()).collect();
        for (writer, reader) in &mut pipes {
            writer.register(of(&inbox, &awake)).unwrap();
            assert!(take(reader).is_none() && !awake.is_full());
            (0..2).for_each(|_| assert_eq!(write(writer, &[1]), Ok(1)));
        }
        assert!(awake.is_full());
        let mut readers = Vec::new();
        for nth in 0..MOST_AWAKE / 2 {
            assert_eq!((told(&inbox), awake.is_full()), (0, nth == 0));
            let (writer, mut reader) = pipes.pop().unwrap();
            // Bodies that are cut off are no longer waited for, either.
            if nth % 2 == 0 {
                drop(take(&mut reader))
            } else {
                drop(writer)
            }
            readers.push(reader);
        }
        assert_eq!(told(&inbox), 1);
    }

    #[test]
    fn a_writer_is_told_of_a_dropped_body_before_and_after_it_registers() {
        let (writer, reader, inbox) = registered();
        drop(reader);
        assert_eq!((told(&inbox), writer.is_gone(), write(&writer, &[1])), (1, true, Err(ErrorKind::BrokenPipe)));
        let (writer, reader) = pipe();
        drop(reader);
        assert!(writer.register(of(&inbox, &Arc::default())).is_err());
    }
}
