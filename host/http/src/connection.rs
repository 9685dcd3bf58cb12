//! One connection, until it ends or a stream takes its socket over.

use super::error::ApiError;
use super::http2_requests::ExchangeTracker;
use super::peer::Peer;
use super::refuse::tell;
use super::server::Server;
use super::stream::PendingStream;
use super::write_timeout::SocketProgress;
use crate::App;
use axum::http::{HeaderValue, Method, StatusCode, Version, header};
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};

/// The time that a client has to read that it was too slow.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The two signals that end a connection.
#[derive(Clone)]
pub(super) struct EndSignals {
    /// The current request is still answered, and no further one is taken.
    pub(super) drain: DrainSignals,
    /// The connection is cut at once. Signalled when the sender is dropped.
    pub(super) cuts: watch::Receiver<()>,
}

/// The signals to take no further requests.
#[derive(Clone)]
pub(super) struct DrainSignals {
    /// True once the host is stopping.
    pub(super) drains: watch::Receiver<bool>,
    /// Signalled when TLS demands something else of clients: what was agreed on before is out of date.
    pub(super) outdated: watch::Receiver<()>,
}

impl DrainSignals {
    /// Waits for one of the signals.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.drains.wait_for(|drains| *drains) => {}
            Ok(()) = self.outdated.changed() => {}
        }
    }
}

/// The response head of a stream, and the stream that follows it.
pub(super) struct StreamHandOver {
    head: Vec<u8>,
    streaming: PendingStream,
}

impl StreamHandOver {
    pub(super) async fn hand_over(self, app: Arc<App>, socket: TcpStream) -> io::Result<()> {
        self.streaming.hand_over(app, socket, self.head).await
    }
}

/// Passes the requests of one connection to the routes.
#[derive(Clone)]
pub(super) struct ConnectionService {
    pub(super) server: Arc<Server>,
    pub(super) peer: Peer,
    pub(super) progress: Arc<SocketProgress>,
    /// Whether streams may take the socket over.
    pub(super) may_leave: bool,
    /// The unfinished requests of an HTTP/2 connection; none for HTTP/1.1.
    pub(super) exchanges: Option<Arc<ExchangeTracker>>,
}

impl ConnectionService {
    /// Answers a request. `away` receives a stream, if its socket can be taken over.
    async fn call(
        self,
        mut request: hyper::Request<Incoming>,
        away: Option<mpsc::Sender<StreamHandOver>>,
    ) -> Result<Response, Infallible> {
        let Self { server, peer, progress, exchanges, .. } = self;
        progress.begin();
        let exchange = exchanges.as_ref().map(ExchangeTracker::begin);
        request.extensions_mut().insert(peer);
        let (method, version) = (request.method().clone(), request.version());
        // If the request has a length, too, the bytes behind the body may be meant as a part of it (request smuggling):
        // the connection ends with the answer, and they are never read.
        let is_last = request.headers().contains_key(header::TRANSFER_ENCODING);
        let mut response = TowerToHyperService::new(server.router()).call(request).await?;
        if is_last && version < Version::HTTP_2 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let followed = |mut response: Response| {
            if let Some(exchange) = exchange {
                let body = std::mem::take(response.body_mut());
                *response.body_mut() = exchange.answer(body);
            }
            response
        };
        let Some(streaming) = response.extensions_mut().remove::<PendingStream>() else {
            return Ok(followed(response));
        };
        // The length is that of the empty body that the response has until now.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        if method == Method::HEAD {
            return Ok(followed(response));
        }
        match away.filter(|_| version == Version::HTTP_11) {
            Some(away) => {
                // The channel has room: a connection hands over once.
                let _ = away.try_send(StreamHandOver { head: head(&response), streaming });
                // `http1` drops this future with the connection.
                std::future::pending().await
            }
            None => {
                *response.body_mut() = streaming.body(server.app().clone()).await;
                Ok(followed(response))
            }
        }
    }
}

/// Serves HTTP/1.1 until the connection ends, or until a stream takes its socket over. Returns the socket and the
/// stream.
pub(super) async fn http1<S>(
    socket: S,
    http: &http1::Builder,
    routed: ConnectionService,
    mut ends: EndSignals,
) -> hyper::Result<Option<(S, StreamHandOver)>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (away, mut handed_over) = mpsc::channel(1);
    let progress = routed.progress.clone();
    let service = hyper::service::service_fn(move |request| {
        let away = routed.may_leave.then(|| away.clone());
        routed.clone().call(request, away)
    });
    let mut connection = http.serve_connection(TokioIo::new(socket), service);
    let mut is_draining = false;
    let over = loop {
        tokio::select! {
            biased;
            ended = &mut connection => break Err(ended),
            // Earlier answers may not be written yet; the connection can wait for nothing else.
            Some(over) = handed_over.recv() => break Ok(over),
            () = ends.drain.received(), if !is_draining => {
                is_draining = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            _ = ends.cuts.changed() => return Ok(None),
        }
    };
    let over = match over {
        Ok(over) => over,
        Err(ended) => {
            let too_slow = |error: &hyper::Error| error.is_timeout() && progress.has_come();
            if ended.as_ref().is_err_and(too_slow) {
                // The client has sent a part of a request head.
                let why = ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request head did not arrive in time");
                let socket = connection.into_parts().io.into_inner();
                let _ = tokio::time::timeout(LAST_WORD, tell(socket, &why.raw())).await;
            }
            return ended.map(|()| None);
        }
    };
    let flushed = std::future::poll_fn(|context| match Pin::new(&mut connection).poll(context) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending if progress.is_flushed() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    tokio::select! {
        ended = flushed => if let Some(ended) = ended {
            return ended.map(|()| None);
        },
        _ = ends.cuts.changed() => return Ok(None),
    }
    Ok(Some((connection.into_parts().io.into_inner(), over)))
}

/// Returns the service of a connection whose socket cannot be taken over.
pub(super) fn service_without_hand_over(
    routed: ConnectionService,
) -> impl hyper::service::Service<hyper::Request<Incoming>, Response = Response, Error = Infallible, Future: Send + 'static>
+ Clone {
    hyper::service::service_fn(move |request| routed.clone().call(request, None))
}

/// Encodes a response head. The body is chunked, and the connection ends with it.
fn head(response: &Response) -> Vec<u8> {
    let status = response.status();
    let mut head = Vec::with_capacity(512);
    let _ = write!(head, "HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or_default());
    let own = [
        (header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
        (header::CONNECTION, HeaderValue::from_static("close")),
    ];
    let own = own.iter().map(|(name, value)| (name, value));
    for (name, value) in response.headers().iter().filter(|(name, _)| *name != header::CONNECTION).chain(own) {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    let _ = write!(head, "date: {}\r\n\r\n", httpdate::fmt_http_date(SystemTime::now()));
    head
}
