//! One connection, until it ends or a stream takes its socket over.

use super::server::Peer;
use super::stream::Streaming;
use crate::core::Core;
use axum::Router;
use axum::http::{HeaderValue, Method, Version, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

/// What ends connections, in two steps.
#[derive(Clone)]
pub(super) struct Ends {
    /// A request that is under way is answered, and no more.
    pub(super) drains: watch::Receiver<bool>,
    /// At once: the other end is gone.
    pub(super) cuts: watch::Receiver<()>,
}

/// A response's head, and what comes behind it.
struct HandOver {
    head: Vec<u8>,
    streaming: Streaming,
}

/// The routes, for the requests of one peer.
#[derive(Clone)]
pub(super) struct Routed {
    pub(super) core: Arc<Core>,
    pub(super) router: Router,
    pub(super) peer: Peer,
}

impl Routed {
    /// `away`: where a stream goes, if its socket can be taken over.
    async fn call(
        self,
        mut request: hyper::Request<Incoming>,
        away: Option<mpsc::Sender<HandOver>>,
    ) -> Result<Response, Infallible> {
        let Self { core, router, peer } = self;
        request.extensions_mut().insert(peer);
        let (method, version) = (request.method().clone(), request.version());
        let mut response = TowerToHyperService::new(router).call(request).await?;
        let Some(streaming) = response.extensions_mut().remove::<Streaming>() else { return Ok(response) };
        // Of the empty body it has until now.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        if method == Method::HEAD {
            return Ok(response);
        }
        match away.filter(|_| version == Version::HTTP_11) {
            Some(away) => {
                // There is room: a connection hands over once.
                let _ = away.try_send(HandOver { head: head(&response), streaming });
                // Whoever has the connection lets go of this.
                std::future::pending().await
            }
            None => {
                *response.body_mut() = streaming.body(core).await;
                Ok(response)
            }
        }
    }
}

/// Serves HTTP/1.1 in plain, until the connection ends, or is a writer's.
pub(super) async fn plain(
    socket: TcpStream,
    http: &http1::Builder,
    routed: Routed,
    mut ends: Ends,
) -> hyper::Result<()> {
    let (away, mut handed_over) = mpsc::channel(1);
    let is_flushed = Arc::new(AtomicBool::new(true));
    let io = TokioIo::new(Socket { socket, is_flushed: is_flushed.clone() });
    let core = routed.core.clone();
    let service = hyper::service::service_fn(move |request| routed.clone().call(request, Some(away.clone())));
    let mut connection = http.serve_connection(io, service);
    let mut is_draining = false;
    let HandOver { head, streaming } = loop {
        tokio::select! {
            biased;
            ended = &mut connection => return ended,
            // What was answered before may not have gone out yet: nothing else can hold the connection up.
            Some(over) = handed_over.recv() => break over,
            _ = ends.drains.wait_for(|drains| *drains), if !is_draining => {
                is_draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            _ = ends.cuts.changed() => return Ok(()),
        }
    };
    let flushed = std::future::poll_fn(|context| match Pin::new(&mut connection).poll(context) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending if is_flushed.load(Relaxed) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    tokio::select! {
        ended = flushed => if let Some(ended) = ended {
            return ended;
        },
        _ = ends.cuts.changed() => return Ok(()),
    }
    let Socket { socket, .. } = connection.into_parts().io.into_inner();
    match socket.into_std() {
        Ok(socket) => streaming.hand_over(core, socket, head).await,
        Err(error) => tracing::debug!(%error, "a stream could not begin"),
    }
    Ok(())
}

/// Serves what cannot be taken over.
pub(super) fn ordinary(
    routed: Routed,
) -> impl hyper::service::Service<hyper::Request<Incoming>, Response = Response, Error = Infallible, Future: Send + 'static>
+ Clone {
    hyper::service::service_fn(move |request| routed.clone().call(request, None))
}

/// As it goes over the wire; the body comes in chunks, and the connection ends with it.
fn head(response: &Response) -> Vec<u8> {
    let status = response.status();
    let mut head = Vec::with_capacity(512);
    let _ = write!(head, "HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let own = [
        (header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
        (header::CONNECTION, HeaderValue::from_static("close")),
    ];
    let own = own.iter().map(|(name, value)| (name, value));
    for (name, value) in response.headers().iter().chain(own) {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    let _ = write!(head, "date: {}\r\n\r\n", httpdate::fmt_http_date(SystemTime::now()));
    head
}

/// A socket that knows whether all that was written to it has gone out of the hands of whoever wrote it.
struct Socket {
    socket: TcpStream,
    is_flushed: Arc<AtomicBool>,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_flushed.store(false, Relaxed);
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.is_flushed.store(false, Relaxed);
        Pin::new(&mut self.socket).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.socket).poll_flush(context))?;
        self.is_flushed.store(true, Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
