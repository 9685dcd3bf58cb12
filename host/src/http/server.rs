use super::routes;
use crate::core::Core;
use axum::Router;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::{TowerToHyperService, TowerToHyperServiceFuture};
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Longest time a client may take to send its request's head.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a request's head; ours are short.
const LARGEST_HEAD: usize = 32 << 10;

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
pub async fn serve(listener: TcpListener, core: Arc<Core>, mut stopping: watch::Receiver<bool>, drain: Duration) {
    let router = routes::router(core);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(LARGEST_HEAD);
    let graceful = GracefulShutdown::new();
    // Dropped when this ends, and what is still open ends with it.
    let (_until, ends) = watch::channel(());
    tokio::select! {
        () = accept(&listener, &router, &http, |connection| {
            drop(tokio::spawn(unless_cut(graceful.watch(connection), ends.clone())));
        }) => {}
        _ = stopping.wait_for(|&stopping| stopping) => {}
    }
    http.keep_alive(false);
    let ended = tokio::select! {
        ended = tokio::time::timeout(drain, graceful.shutdown()) => ended.is_ok(),
        () = accept(&listener, &router, &http, |connection| {
            drop(tokio::spawn(unless_cut(connection, ends.clone())));
        }) => false,
    };
    if !ended {
        tracing::warn!(?drain, "some connections did not end in time and were cut");
    }
}

type Connection = http1::Connection<TokioIo<TcpStream>, Routed>;

/// For ever.
async fn accept(listener: &TcpListener, router: &Router, http: &http1::Builder, mut serve: impl FnMut(Connection)) {
    loop {
        let accepted = listener.accept().await;
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // A live sample is one small write, and waiting for more would delay it.
        let _ = stream.set_nodelay(true);
        let router = TowerToHyperService::new(router.clone());
        serve(http.serve_connection(TokioIo::new(stream), Routed { router, peer: Peer(peer) }));
    }
}

async fn unless_cut(connection: impl Future<Output = hyper::Result<()>>, mut ends: watch::Receiver<()>) {
    let ended = tokio::select! {
        ended = connection => ended,
        _ = ends.changed() => return,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// The routes, for requests from one peer.
struct Routed {
    router: TowerToHyperService<Router>,
    peer: Peer,
}

impl Service<hyper::Request<Incoming>> for Routed {
    type Response = Response;
    type Error = Infallible;
    type Future = TowerToHyperServiceFuture<Router, hyper::Request<Incoming>>;

    fn call(&self, mut request: hyper::Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.router.call(request)
    }
}
