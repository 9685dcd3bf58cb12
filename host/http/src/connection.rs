//! One connection, until it ends or a stream takes its socket over.

use super::error::ApiError;
use super::flow::Flow;
use super::peer::Peer;
use super::server::Server;
use super::stream::Streaming;
use super::timed::Progress;
use super::turn_away::tell;
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

/// Time a client has to hear that it was too slow.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What ends connections, in two steps.
#[derive(Clone)]
pub(super) struct Ends {
    /// A request that is under way is answered, and no more.
    pub(super) last: Last,
    /// At once: the other end is gone.
    pub(super) cuts: watch::Receiver<()>,
}

/// Why no more requests are taken.
#[derive(Clone)]
pub(super) struct Last {
    /// The host stops.
    pub(super) drains: watch::Receiver<bool>,
    /// Clients have to show another certificate, or any: what was agreed on before is out of date.
    pub(super) outdated: watch::Receiver<()>,
}

impl Last {
    /// Waits until that is so.
    pub(super) async fn come(&mut self) {
        tokio::select! {
            _ = self.drains.wait_for(|drains| *drains) => {}
            Ok(()) = self.outdated.changed() => {}
        }
    }
}

/// A response's head, and what comes behind it.
pub(super) struct HandOver {
    head: Vec<u8>,
    streaming: Streaming,
}

impl HandOver {
    pub(super) async fn hand_over(self, app: Arc<App>, socket: TcpStream) -> io::Result<()> {
        self.streaming.hand_over(app, socket, self.head).await
    }
}

/// The routes, for the requests of one connection.
#[derive(Clone)]
pub(super) struct Routed {
    pub(super) server: Arc<Server>,
    pub(super) peer: Peer,
    pub(super) progress: Arc<Progress>,
    /// Whether streams may take the socket over.
    pub(super) may_leave: bool,
    /// What is under way, of HTTP/2.
    pub(super) flow: Option<Arc<Flow>>,
}

impl Routed {
    /// `away`: where a stream goes, if its socket can be taken over.
    async fn call(
        self,
        mut request: hyper::Request<Incoming>,
        away: Option<mpsc::Sender<HandOver>>,
    ) -> Result<Response, Infallible> {
        let Self { server, peer, progress, flow, .. } = self;
        progress.begin();
        let exchange = flow.as_ref().map(Flow::begin);
        request.extensions_mut().insert(peer);
        let (method, version) = (request.method().clone(), request.version());
        // With a length beside it, what comes behind the body may be meant as a part of it: nothing is read there.
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
        let Some(streaming) = response.extensions_mut().remove::<Streaming>() else { return Ok(followed(response)) };
        // Of the empty body it has until now.
        response.headers_mut().remove(header::CONTENT_LENGTH);
        if method == Method::HEAD {
            return Ok(followed(response));
        }
        match away.filter(|_| version == Version::HTTP_11) {
            Some(away) => {
                // There is room: a connection hands over once.
                let _ = away.try_send(HandOver { head: head(&response), streaming });
                // Whoever has the connection lets go of this.
                std::future::pending().await
            }
            None => {
                *response.body_mut() = streaming.body(server.app().clone()).await;
                Ok(followed(response))
            }
        }
    }
}

/// Serves HTTP/1.1, until the connection ends, or a stream wants what is left of it.
pub(super) async fn http1<S>(
    socket: S,
    http: &http1::Builder,
    routed: Routed,
    mut ends: Ends,
) -> hyper::Result<Option<(S, HandOver)>>
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
            // What was answered before may not have gone out yet: nothing else can hold the connection up.
            Some(over) = handed_over.recv() => break Ok(over),
            () = ends.last.come(), if !is_draining => {
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
                // It began with a request, and did not end with it.
                let why = ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request's head did not come in time");
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
    for (name, value) in response.headers().iter().filter(|(name, _)| *name != header::CONNECTION).chain(own) {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    let _ = write!(head, "date: {}\r\n\r\n", httpdate::fmt_http_date(SystemTime::now()));
    head
}
