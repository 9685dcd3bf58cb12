use super::connection::{Ends, Routed, ordinary, plain};
use super::routes;
use super::tls::Tls;
use crate::core::Core;
use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Longest time a client may take to send its request's head, and before it to agree on TLS.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a request's head; ours are short.
const LARGEST_HEAD: usize = 32 << 10;

/// Requests on one connection of HTTP/2 at a time.
const MOST_AT_ONCE: u32 = 100;

/// The wait after `accept` failed: out of descriptors, most often, which passes when others close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(SocketAddr);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Serves until `stopping` says so, then lets open requests end for at most `drain`. Until they have, who asks how the host
/// is hears that it is stopping.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    core: Arc<Core>,
    mut stopping: watch::Receiver<bool>,
    drain: Duration,
) {
    let mut server = Server::new(core, tls);
    // Dropped when this ends, and what is still open ends with it.
    let (_until, cuts) = watch::channel(());
    // Has a receiver as long as there is a connection that was there before the end began.
    let (draining, drains) = watch::channel(false);
    let ends = Ends { drains, cuts: cuts.clone() };
    tokio::select! {
        () = server.accept(&listener, &ends) => {}
        _ = stopping.wait_for(|&stopping| stopping) => {}
    }
    drop(ends);
    draining.send_replace(true);
    server.http1.keep_alive(false);
    let (_never, drains) = watch::channel(false);
    let ends = Ends { drains, cuts };
    let ended = tokio::select! {
        ended = tokio::time::timeout(drain, draining.closed()) => ended.is_ok(),
        () = server.accept(&listener, &ends) => false,
    };
    if !ended {
        tracing::warn!(?drain, "some connections did not end in time and were cut");
    }
}

struct Server {
    core: Arc<Core>,
    router: Router,
    tls: Option<Tls>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Server {
    fn new(core: Arc<Core>, tls: Option<Tls>) -> Self {
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(LARGEST_HEAD);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2.timer(TokioTimer::new()).max_header_list_size(LARGEST_HEAD as u32).max_concurrent_streams(MOST_AT_ONCE);
        // A reader that is gone without a word is found out.
        http2.keep_alive_interval(HEADER_TIMEOUT);
        Self { router: routes::router(core.clone()), core, tls, http1, http2 }
    }

    /// For ever.
    async fn accept(&self, listener: &TcpListener, ends: &Ends) {
        loop {
            let (socket, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // A live sample is one small write, and waiting for more would delay it.
            let _ = socket.set_nodelay(true);
            let routed = Routed { core: self.core.clone(), router: self.router.clone(), peer: Peer(peer) };
            let (http1, ends) = (self.http1.clone(), ends.clone());
            match &self.tls {
                None => drop(tokio::spawn(async move {
                    if let Err(error) = plain(socket, &http1, routed, ends).await {
                        tracing::debug!(%error, "a connection ended early");
                    }
                })),
                Some(tls) => drop(tokio::spawn(secure(socket, tls.clone(), http1, self.http2.clone(), routed, ends))),
            }
        }
    }
}

/// Serves what both sides agree on: HTTP/2, or HTTP/1.1.
async fn secure(
    socket: TcpStream,
    tls: Tls,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    routed: Routed,
    mut ends: Ends,
) {
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(HEADER_TIMEOUT, tls.accept(socket)) => accepted,
        _ = ends.drains.wait_for(|drains| *drains) => return,
    };
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "no TLS was agreed on"),
        Err(_) => return tracing::debug!("no TLS was agreed on in time"),
    };
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    let ended = if is_http2 {
        until_over(http2.serve_connection(io, ordinary(routed)), ends).await
    } else {
        until_over(http1.serve_connection(io, ordinary(routed)), ends).await
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Drives a connection to its end.
async fn until_over<C: GracefulConnection>(connection: C, mut ends: Ends) -> Result<(), C::Error> {
    let mut connection = pin!(connection);
    let mut is_draining = false;
    loop {
        tokio::select! {
            ended = &mut connection => return ended,
            _ = ends.drains.wait_for(|drains| *drains), if !is_draining => {
                is_draining = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = ends.cuts.changed() => return Ok(()),
        }
    }
}
