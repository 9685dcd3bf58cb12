//! The outlet of a stream takes its bytes. It is a socket or the body of a response.

use super::event::EncodedEvent;
use super::pipe::{PipeReader, PipeWriter, WriterHandle, pipe};
use bytes::Bytes;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::io::{self, IoSlice, Write as _};
use std::net::Shutdown;

/// The size of a socket's send buffer in the kernel, in bytes: a hundred usual events fit.
pub const SEND_BUFFER: usize = 32 << 10;

/// The end of an HTTP/1.1 body.
const LAST_CHUNK: Bytes = Bytes::from_static(b"0\r\n\r\n");

/// Takes the bytes that a writer has for a reader, and never blocks.
#[derive(Debug)]
pub enum Outlet {
    /// A socket of its own, which takes chunks of HTTP/1.1.
    Socket(TcpStream),
    /// A response body that the HTTP server carries: over TLS, HTTP/2, HTTP/1.0 or a Unix socket.
    Body(PipeWriter),
}

impl Outlet {
    pub fn socket(socket: std::net::TcpStream) -> io::Result<Self> {
        // Small, so that bytes that a reader does not take wait with its writer, where they are counted, not in the
        // kernel.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER);
        socket.set_nonblocking(true)?;
        Ok(Self::Socket(TcpStream::from_std(socket)))
    }

    /// Makes the outlet to a response body, and the end from which the body takes its bytes.
    pub fn body() -> (Self, PipeReader) {
        let (writer, reader) = pipe();
        (Self::Body(writer), reader)
    }

    /// Registers a reader's writer, which is then told when the outlet takes more, and when the other end is gone.
    pub fn register(&mut self, registry: &Registry, writer: WriterHandle) -> io::Result<()> {
        // The writer is told once when the socket takes more again or is gone. The client has nothing to send.
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Socket(socket) => registry.register(socket, Token(writer.token), interest),
            Self::Body(pipe) => pipe.register(writer),
        }
    }

    pub fn deregister(&mut self, registry: &Registry) {
        if let Self::Socket(socket) = self {
            let _ = registry.deregister(socket);
        }
    }

    /// Returns an event in this outlet's framing.
    pub fn framed(&self, event: &EncodedEvent) -> Bytes {
        match self {
            Self::Socket(_) => event.chunk().clone(),
            Self::Body(_) => event.text(),
        }
    }

    /// Returns the bytes that follow the last event, if any.
    pub fn last(&self) -> Option<Bytes> {
        matches!(self, Self::Socket(_)).then_some(LAST_CHUNK)
    }

    /// Writes as much of some pieces as the outlet takes. Returns the number of bytes.
    pub fn write(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match (self, pieces) {
            // Most often there is only one piece.
            (Self::Socket(socket), [piece]) => socket.write(piece),
            (Self::Socket(socket), pieces) => socket.write_vectored(pieces),
            (Self::Body(pipe), pieces) => pipe.write(pieces),
        }
    }

    /// Ends the stream, once everything is written.
    pub fn finish(&self) {
        match self {
            Self::Socket(socket) => drop(socket.shutdown(Shutdown::Write)),
            Self::Body(pipe) => pipe.finish(),
        }
    }

    /// Returns whether the HTTP server carries the stream.
    pub fn is_carried(&self) -> bool {
        matches!(self, Self::Body(_))
    }

    /// Returns whether the body was dropped. The kernel tells when a socket is gone.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Body(pipe) if pipe.is_gone())
    }
}
