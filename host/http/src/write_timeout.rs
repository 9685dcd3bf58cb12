//! A socket with a write timeout: a write fails if the client takes nothing for too long.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A socket with a write timeout.
pub(super) struct WriteTimeoutSocket<S> {
    socket: S,
    patience: Duration,
    /// The deadline of a blocked write; none while the client takes bytes.
    until: Option<Pin<Box<Sleep>>>,
    progress: Arc<SocketProgress>,
}

/// The state of a socket, for the code that serves its connection.
#[derive(Debug)]
pub(super) struct SocketProgress {
    /// Everything that was written has been flushed.
    is_flushed: AtomicBool,
    /// Bytes have arrived since a request last began.
    has_come: AtomicBool,
}

impl<S> WriteTimeoutSocket<S> {
    /// Wraps a socket. `patience` is the longest time for which the client may take nothing.
    pub(super) fn new(socket: S, patience: Duration) -> Self {
        let progress = Arc::new(SocketProgress { is_flushed: AtomicBool::new(true), has_come: AtomicBool::new(false) });
        Self { socket, patience, until: None, progress }
    }

    pub(super) fn progress(&self) -> &Arc<SocketProgress> {
        &self.progress
    }

    pub(super) fn into_inner(self) -> S {
        self.socket
    }

    /// Returns the result of a write. Fails if writes have been blocked for too long.
    fn written<T>(&mut self, context: &mut Context<'_>, went: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if went.is_ready() {
            self.until = None;
            return went;
        }
        let patience = self.patience;
        let until = self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + patience)));
        ready!(until.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, "the client takes nothing of its answer")))
    }
}

impl SocketProgress {
    pub(super) fn is_flushed(&self) -> bool {
        self.is_flushed.load(Relaxed)
    }

    /// Notes that a request has begun: bytes that arrive from now on belong to the next one.
    pub(super) fn begin(&self) {
        self.has_come.store(false, Relaxed);
    }

    pub(super) fn has_come(&self) -> bool {
        self.has_come.load(Relaxed)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeoutSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.progress.has_come.store(true, Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeoutSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.progress.is_flushed.store(false, Relaxed);
        let went = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.written(context, went)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.progress.is_flushed.store(false, Relaxed);
        let went = Pin::new(&mut self.socket).poll_write_vectored(context, pieces);
        self.written(context, went)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let went = Pin::new(&mut self.socket).poll_flush(context);
        ready!(self.written(context, went))?;
        // An answer was flushed: bytes that arrived before belong to its request.
        if !self.progress.is_flushed.swap(true, Relaxed) {
            self.progress.begin();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let went = Pin::new(&mut self.socket).poll_shutdown(context);
        self.written(context, went)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test(start_paused = true)]
    async fn a_write_fails_once_the_client_has_taken_nothing_for_the_timeout() {
        let (mut far, near) = tokio::io::duplex(8);
        let mut timed = WriteTimeoutSocket::new(near, Duration::from_secs(30));
        let writing = tokio::spawn(async move { timed.write_all(&[0; 64]).await });
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            far.read_exact(&mut [0; 8]).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert_eq!(writing.await.unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
