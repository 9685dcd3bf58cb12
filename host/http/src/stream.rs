//! Server-sent events.

use super::error::{ApiError, PathSegment};
use super::instance_selection::{self, select};
use super::instances::named;
use super::range_query::QueryParameters;
use super::rights::RequestCaller;
use super::series::MATCH;
use super::series_stream;
use super::{AppState, CallerExtension};
use crate::App;
use axum::Extension;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use dropsonde_engine::hub::{EncodedEvent, Outlet, PipeReader, RETRY, Selection, StreamPermit, TooManyStreams};
use dropsonde_engine::quota::{ClientId, ClientShare, QuotaPermit};
use dropsonde_model::names::is_reserved;
use dropsonde_store::InstanceId;
use http_body::Frame;
use std::io;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Seconds after which a client may retry a stream that was over a limit.
const RETRY_AFTER: u32 = 5;

/// Streams that may start at the same time, in all and for one client: each looks at all instances for a moment.
const MOST_BEGINNING: usize = 8;
const MOST_OF_PEER: usize = MOST_BEGINNING / 2;

/// The longest time that a stream waits for its turn to start.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The header with the id of the last event that a reader saw. Browsers send it when they connect again.
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Streams the samples of an instance: the latest one at once, then each as it comes. Waits for an instance that is not
/// tracked yet.
pub(crate) async fn usage(
    State(app): AppState,
    Extension(caller): CallerExtension,
    PathSegment(id): PathSegment,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    begin(&app, Selection::One(named(&id)?), &caller, &headers)
}

/// Streams the samples of many instances on one connection, each event with its instance; or those of series.
pub(crate) async fn many(
    State(app): AppState,
    Extension(caller): CallerExtension,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let parameters = QueryParameters::parse(query.as_deref());
    if parameters.one(MATCH).is_some() {
        return series_stream::follow(&app, &caller, &parameters, &headers).await;
    }
    begin(&app, select(&parameters)?, &caller, &headers)
}

/// Streams the samples of a workload: the sum of its instances.
pub(crate) async fn workload(
    State(app): AppState,
    Extension(caller): CallerExtension,
    PathSegment(name): PathSegment,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    begin(&app, instance_selection::workload(name)?, &caller, &headers)
}

/// Returns the head of a stream. The code that serves the connection adds the body: see [`PendingStream`].
pub(crate) fn begin(
    app: &App,
    selection: Selection,
    caller: &RequestCaller,
    request: &HeaderMap,
) -> Result<Response, ApiError> {
    let claim = claim(app, caller)?;
    let seen = request.get(LAST_EVENT_ID).map(|seen| String::from_utf8_lossy(seen.as_bytes()).into_owned());
    let mut response = head(Body::empty());
    let (peer, claim) = (caller.peer.id(), Arc::new(Mutex::new(Some(claim))));
    response.extensions_mut().insert(PendingStream { selection, seen, peer, claim });
    Ok(response)
}

/// Takes a place for one more stream of a client.
pub(super) fn claim(app: &App, caller: &RequestCaller) -> Result<StreamPermit, ApiError> {
    let stream = &app.engine.options.load().stream;
    let share = caller.peer.share(stream.max_streams_per_peer, stream.streams(), stream.max_streams);
    Ok(app.engine.hub.claim(Some(caller.peer.id()), share)?)
}

/// Returns the response with a stream as its body.
pub(super) fn head(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, EVENT_STREAM),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // nginx would hold events back to fill its buffer.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

/// Returns a comment for a reader that waits for something: with a misspelt id it would wait in silence.
fn waits_for(app: &App, selection: &Selection) -> Option<Bytes> {
    let missing: Vec<&InstanceId> = match selection {
        Selection::One(id) => vec![id],
        Selection::Several(ids) => ids.iter().collect(),
        Selection::Labels(labels) => {
            let is_empty = !labels.is_empty() && app.engine.members(selection).is_empty();
            return is_empty.then(|| Bytes::from_static(b": no instance has these labels yet; waiting for one\n\n"));
        }
        Selection::Workload(name) => {
            let name = name.escape_debug();
            let is_empty = app.engine.members(selection).is_empty();
            return is_empty
                .then(|| format!(": no instance of the workload \"{name}\" yet; waiting for one\n\n").into());
        }
    };
    let is_known = |id: &InstanceId| is_reserved(id.as_str()) || app.engine.tracked.get(id).is_some();
    let comments = missing.into_iter().filter(|id| !is_known(id)).map(|id| {
        let id = id.as_str().escape_debug();
        format!(": no instance \"{id}\" yet; waiting for it\n")
    });
    let text: String = comments.collect();
    (!text.is_empty()).then(|| format!("{text}\n").into())
}

pub(crate) fn is_stream(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE) == Some(&EVENT_STREAM)
}

impl From<TooManyStreams> for ApiError {
    fn from(full: TooManyStreams) -> Self {
        let status = match full {
            TooManyStreams::InAll(_) => StatusCode::SERVICE_UNAVAILABLE,
            TooManyStreams::OfPeer(_) => StatusCode::TOO_MANY_REQUESTS,
        };
        Self::new(status, full.to_string()).retry_after(RETRY_AFTER)
    }
}

/// Tells the connection that a response is a stream. An HTTP/1.1 connection without TLS hands its socket to a writer;
/// on any other connection, a writer fills the response body.
#[derive(Debug, Clone)]
pub(super) struct PendingStream {
    selection: Selection,
    seen: Option<String>,
    peer: ClientId,
    /// The stream's place. Of all clones of this, only one takes it.
    claim: Arc<Mutex<Option<StreamPermit>>>,
}

impl PendingStream {
    /// Hands the socket to a writer. `head` is the head of the response.
    pub(super) async fn hand_over(self, app: Arc<App>, socket: TcpStream, head: Vec<u8>) -> io::Result<()> {
        self.write_to(app, Outlet::socket(socket)?, head).await;
        Ok(())
    }

    /// Returns a response body that a writer fills.
    pub(super) async fn body(self, app: Arc<App>) -> Body {
        let (outlet, events) = Outlet::body();
        self.write_to(app, outlet, Vec::new()).await;
        Body::new(EventStreamBody(events))
    }

    /// Has a writer write the stream to `outlet` from now on, after `first`.
    async fn write_to(self, app: Arc<App>, outlet: Outlet, mut first: Vec<u8>) {
        let Some((claim, turn)) = self.begins(&app).await else { return };
        first.extend_from_slice(&outlet.framed(&EncodedEvent::of(RETRY)));
        // There may be very many first samples, and some of them in files.
        let begun = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            if let Some(waits) = waits_for(&app, &self.selection) {
                first.extend_from_slice(&outlet.framed(&EncodedEvent::of(&waits)));
            }
            app.engine.follow(self.selection, self.seen, |hub, follow| hub.follow(claim, follow, outlet, first));
        });
        let _ = begun.await;
    }

    /// Returns the stream's place and its turn to start; none if another clone has started it, or if its turn did not
    /// come.
    async fn begins(&self, app: &App) -> Option<(StreamPermit, QuotaPermit)> {
        let claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let share = ClientShare { peer: self.peer, most: MOST_OF_PEER };
        let turn = app.beginnings.wait(1, MOST_BEGINNING, Some(share), LONGEST_WAIT).await;
        Some((claim, turn.ok()?))
    }
}

/// A response body that a writer fills.
struct EventStreamBody(PipeReader);

impl http_body::Body for EventStreamBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.get_mut().0.poll_take(context).map_ok(Frame::data)
    }
}
