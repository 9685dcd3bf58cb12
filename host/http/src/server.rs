use super::connection::{ConnectionService, DrainSignals, EndSignals, http1, service_without_hand_over};
use super::host_names::HostNames;
use super::http2_requests::{ConnectionActivity, ExchangeTracker};
use super::listener::{AcceptedSocket, Listener};
use super::peer::{Peer, PeerAddress};
use super::refuse::turn_away;
use super::routes;
use super::tls::{Tls, subject};
use super::write_timeout::WriteTimeoutSocket;
use crate::App;
use crate::options::{HttpConfig, ServerOptions};
use arc_swap::ArcSwap;
use axum::Router;
use dropsonde_engine::descriptors;
use dropsonde_engine::quota::QuotaPermit;
use dropsonde_model::text;
use hyper::server::conn::{http1 as one, http2 as two};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// Concurrent requests on one HTTP/2 connection.
const MOST_AT_ONCE: u32 = 32;

/// The pause after `accept` failed. Most often the process is out of descriptors, until other connections close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The time between two warnings that `accept` keeps failing.
const WARN_AGAIN: Duration = Duration::from_secs(60);

/// The HTTP server.
pub struct Server {
    app: Arc<App>,
    serving: ArcSwap<ServerState>,
    /// Notified when a reload makes the open connections out of date.
    outdated: watch::Sender<()>,
    /// The largest number of open sockets, whatever the configuration says: the other descriptors are for files.
    most: usize,
}

/// The state that the server derives from the configuration. A reload replaces it.
struct ServerState {
    router: Router,
    tls: Option<Tls>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("connections", &self.app.connections.taken()).finish_non_exhaustive()
    }
}

impl ServerState {
    fn new(app: &Arc<App>, tls: Option<Tls>) -> Self {
        let names = HostNames::new(&app.options.load().http.hosts, tls.clone());
        Self { router: routes::router(app.clone(), names), tls }
    }
}

impl Server {
    pub fn new(app: Arc<App>, tls: Option<Tls>) -> Arc<Self> {
        Arc::new(Self {
            serving: ArcSwap::from_pointee(ServerState::new(&app, tls)),
            app,
            outdated: watch::Sender::new(()),
            most: descriptors::sockets(),
        })
    }

    /// Applies the configuration that is in force now. Open connections stay, and it applies from their next request
    /// on. If TLS now demands something else of clients, open connections end after their current request. Returns
    /// whether TLS does.
    pub fn reload(&self, tls: Option<Tls>) -> bool {
        let before = self.serving.swap(ServerState::new(&self.app, tls.clone()).into());
        let is_other = before.tls.as_ref().map(Tls::demands) != tls.as_ref().map(Tls::demands);
        if is_other {
            self.outdated.send_replace(());
        }
        is_other
    }

    /// Reads the certificates again for new connections, apart from the rest of the configuration.
    pub async fn reload_certificates(&self) {
        let _change = self.app.tokens.change().await;
        let options = self.app.options.load_full();
        let read = tokio::task::spawn_blocking(move || Tls::read(&options.tls));
        match read.await {
            Ok(Ok(tls)) => {
                if self.reload(tls) {
                    self.app.engine.hub.end_client_streams();
                }
                tracing::info!("reloaded the certificates");
            }
            Ok(Err(error)) => {
                let error = text::error(&*error);
                tracing::error!(error, "cannot use the certificates; keeping the previous ones");
            }
            // The host is stopping.
            Err(_) => {}
        }
    }

    /// Returns the current routes.
    pub(super) fn router(&self) -> Router {
        self.serving.load().router.clone()
    }

    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Serves until `stopping` is true, then gives open requests at most `drain` to end. Meanwhile it still accepts
    /// connections, so that `/health` can answer that the host is stopping.
    pub async fn serve(self: Arc<Self>, listener: Listener, mut stopping: watch::Receiver<bool>, drain: Duration) {
        // Dropped when this function returns, which cuts the connections that are still open.
        let (_until, cuts) = watch::channel(());
        // Has a receiver as long as a connection from before the shutdown is open.
        let (draining, drains) = watch::channel(false);
        let ends =
            EndSignals { drain: DrainSignals { drains, outdated: self.outdated.subscribe() }, cuts: cuts.clone() };
        tokio::select! {
            () = self.accept(&listener, &ends, true) => {}
            () = self.follow_history() => {}
            _ = stopping.wait_for(|&stopping| stopping) => {}
        }
        drop(ends);
        draining.send_replace(true);
        let (_never, drains) = watch::channel(false);
        let ends = EndSignals { drain: DrainSignals { drains, outdated: self.outdated.subscribe() }, cuts };
        let ended = tokio::select! {
            ended = tokio::time::timeout(drain, draining.closed()) => ended.is_ok(),
            () = self.accept(&listener, &ends, false) => false,
        };
        if !ended {
            tracing::warn!(?drain, "closed connections that did not end in time");
        }
    }

    /// Reads the tokens again when history could be opened after all: both are in the data directory. Never returns.
    async fn follow_history(&self) {
        loop {
            self.app.engine.opened.notified().await;
            self.app.reload_tokens().await;
        }
    }

    /// Accepts connections. Never returns.
    async fn accept(self: &Arc<Self>, listener: &Listener, ends: &EndSignals, keep_alive: bool) {
        let mut warned: Option<Instant> = None;
        loop {
            let (socket, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    if warned.is_none_or(|warned| warned.elapsed() > WARN_AGAIN) {
                        tracing::warn!(%error, "cannot accept connections; the host keeps trying");
                        warned = Some(Instant::now());
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let options = self.app.options.load_full();
            // Streams take descriptors, too.
            let most = options
                .http
                .connections(self.app.engine.memory)
                .min(self.most.saturating_sub(self.app.engine.hub.open()));
            let share = address.share(options.http.max_connections_per_peer, most, options.http.max_connections);
            let place = match self.app.connections.take(most, share) {
                Ok(place) => place,
                Err(full) => {
                    turn_away(&self.app, socket, self.serving.load().tls.is_some(), full);
                    continue;
                }
            };
            let (server, mut ends) = (self.clone(), ends.clone());
            ends.drain.outdated.mark_unchanged();
            let tls = self.serving.load().tls.clone();
            let connection = AcceptedConnection { server, address, place, ends, keep_alive, options };
            drop(tokio::spawn(async move {
                let served = match (socket, tls) {
                    (AcceptedSocket::Tcp(socket), Some(tls)) => connection.secure(socket, &tls).await,
                    (AcceptedSocket::Tcp(socket), None) => connection.plain(socket).await,
                    // A Unix socket needs no TLS: nobody can listen in between two processes.
                    (AcceptedSocket::Unix(socket), _) => connection.local(socket).await,
                };
                if let Err(error) = served {
                    tracing::debug!(error = text::error(&*error), %address, "a connection ended with an error");
                }
            }));
        }
    }
}

/// An accepted connection.
struct AcceptedConnection {
    server: Arc<Server>,
    address: PeerAddress,
    place: QuotaPermit,
    ends: EndSignals,
    keep_alive: bool,
    /// The configuration when the connection was accepted.
    options: Arc<ServerOptions>,
}

impl AcceptedConnection {
    /// Serves HTTP/1.1 without TLS, until a stream takes the socket over.
    async fn plain(self, socket: TcpStream) -> anyhow::Result<()> {
        let timed = WriteTimeoutSocket::new(socket, self.http().write_timeout.get());
        let routed = self.routed(&timed, true);
        let Some((timed, over)) = http1(timed, &self.plain_http1_builder(), routed, self.ends.clone()).await? else {
            return Ok(());
        };
        // From here on the connection counts as a stream.
        let Self { server, place, .. } = self;
        drop(place);
        Ok(over.hand_over(server.app().clone(), timed.into_inner().into_std()?).await?)
    }

    /// Serves HTTP/1.1 on a Unix socket, which stream writers do not take over.
    async fn local<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self, socket: S) -> anyhow::Result<()> {
        let timed = WriteTimeoutSocket::new(socket, self.http().write_timeout.get());
        let routed = self.routed(&timed, false);
        http1(timed, &self.plain_http1_builder(), routed, self.ends.clone()).await?;
        Ok(())
    }

    /// Serves HTTP/2 or HTTP/1.1 over TLS, as both sides agree.
    async fn secure(self, socket: TcpStream, tls: &Tls) -> anyhow::Result<()> {
        let timed = WriteTimeoutSocket::new(socket, self.http().write_timeout.get());
        let mut routed = self.routed(&timed, false);
        let mut ends = self.ends.clone();
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(self.http().header_timeout.get(), tls.accept(timed)) => accepted,
            () = ends.drain.received() => return Ok(()),
        };
        let agreed = accepted.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let stream = agreed.inspect_err(|error| {
            tracing::debug!(%error, address = %self.address, "TLS handshake failed");
            self.server.app.engine.metrics.core.errors("host", "tls", 1);
        })?;
        routed.peer.certificate = subject(&stream);
        routed.progress.begin();
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            let exchanges = ExchangeTracker::new();
            routed.exchanges = Some(exchanges.clone());
            let connection =
                self.http2_builder().serve_connection(TokioIo::new(stream), service_without_hand_over(routed));
            drive_http2(connection, ends, &exchanges, self.http()).await?;
        } else {
            http1(stream, &self.http1_builder(), routed, ends).await?;
        }
        Ok(())
    }

    fn routed<S>(&self, timed: &WriteTimeoutSocket<S>, may_leave: bool) -> ConnectionService {
        let peer = Peer { address: self.address, certificate: None };
        ConnectionService {
            server: self.server.clone(),
            peer,
            progress: timed.progress().clone(),
            may_leave,
            exchanges: None,
        }
    }

    fn http(&self) -> &HttpConfig {
        &self.options.http
    }

    fn http1_builder(&self) -> one::Builder {
        let mut http = one::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.http().header_timeout.get())
            .max_buf_size(self.http().max_header.get())
            .keep_alive(self.keep_alive);
        http
    }

    /// Returns the settings of HTTP/1.1 without TLS: a client that closes its sending half after a request still gets
    /// the answer. With TLS the same close ends the connection, and the server notices it at once.
    fn plain_http1_builder(&self) -> one::Builder {
        let mut http = self.http1_builder();
        http.half_close(true);
        http
    }

    fn http2_builder(&self) -> two::Builder<TokioExecutor> {
        let mut http = two::Builder::new(TokioExecutor::new());
        let largest = u32::try_from(self.http().max_header.get()).unwrap_or(u32::MAX);
        http.timer(TokioTimer::new()).max_header_list_size(largest).max_concurrent_streams(MOST_AT_ONCE);
        // Pings find a client that has gone without closing the connection.
        http.keep_alive_interval(self.http().header_timeout.get());
        http
    }
}

/// Drives an HTTP/2 connection to its end.
async fn drive_http2<C: GracefulConnection>(
    connection: C,
    mut ends: EndSignals,
    exchanges: &ExchangeTracker,
    http: &HttpConfig,
) -> Result<(), C::Error> {
    let (idle, stalled) = (http.header_timeout.get(), http.write_timeout.get());
    let mut looks = tokio::time::interval(idle.min(stalled) / 4);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = pin!(connection);
    let mut is_draining = false;
    loop {
        tokio::select! {
            ended = &mut connection => return ended,
            () = ends.drain.received(), if !is_draining => {
                is_draining = true;
                connection.as_mut().graceful_shutdown();
            }
            _ = ends.cuts.changed() => return Ok(()),
            _ = looks.tick() => match exchanges.activity(idle, stalled) {
                ConnectionActivity::Active => {}
                // The graceful shutdown has begun before, and no request is left.
                ConnectionActivity::Idle if is_draining => return Ok(()),
                ConnectionActivity::Idle => {
                    is_draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                ConnectionActivity::Stalled => return Ok(()),
            }
        }
    }
}
