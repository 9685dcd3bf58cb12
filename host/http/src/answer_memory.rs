//! Memory for unfinished answers and large request bodies. It is reserved before it is used, and free again when the
//! answer is sent or the client is gone. One client has half of it at most, so that slow readers leave some to others.

use super::blocking::LONGEST_WAIT;
use super::error::ApiError;
use super::peer::Peer;
use crate::App;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use dropsonde_engine::quota::{ClientShare, QuotaError, QuotaPermit};
use http_body::Body as _;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Seconds after which a client may retry if there was no memory for its answer: by then others are sent, or cut off.
const RETRY_AFTER: u32 = 5;

/// Returns the bytes of memory that all answers may take.
fn memory_limit(app: &App) -> usize {
    app.options.load().http.answer_bytes(app.engine.memory)
}

/// Reserves memory for an answer. An answer that is larger than a client's share counts as the whole share: a client
/// has one of those at a time.
pub(super) async fn reserve(app: &App, peer: &Peer, bytes: usize) -> Result<QuotaPermit, ApiError> {
    let most = memory_limit(app);
    let share = ClientShare { peer: peer.id(), most: most / 2 };
    let bytes = bytes.min(share.most);
    let reserved = match app.answers.take_many(bytes, most, Some(share)) {
        // Other answers may be done soon.
        Err(QuotaError::All(_)) => app.answers.wait(bytes, most, Some(share), LONGEST_WAIT).await,
        reserved => reserved,
    };
    reserved.map_err(refused)
}

/// Adjusts the memory of an answer to its size, now that it is known.
pub(super) fn resize(app: &App, memory: &mut QuotaPermit, bytes: usize) -> Result<(), ApiError> {
    let most = memory_limit(app);
    memory.resize(bytes.min(most / 2), most, most / 2).map_err(refused)
}

/// Adjusts the memory of something that must not take more than a client's share. Returns whether it may take so much.
pub(super) fn resize_within_share(app: &App, memory: &mut QuotaPermit, bytes: usize) -> bool {
    let most = memory_limit(app);
    bytes <= most / 2 && memory.resize(bytes, most, most / 2).is_ok()
}

/// Marks an answer that has reserved its memory itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct MemoryReserved;

/// Reserves memory for an answer that is made whole and has reserved none, until it was sent. Answers to requests on
/// one connection of HTTP/2 may be many.
pub(super) async fn with_reserved_memory(app: &App, peer: &Peer, mut response: Response) -> Response {
    /// Bytes of an answer that are not worth counting: a connection has them anyway.
    const SMALL: u64 = 1 << 10;
    let bytes = response.body().size_hint().exact().filter(|bytes| *bytes > SMALL);
    let Some(bytes) = bytes.filter(|_| response.extensions_mut().remove::<MemoryReserved>().is_none()) else {
        return response;
    };
    match reserve(app, peer, usize::try_from(bytes).unwrap_or(usize::MAX)).await {
        Ok(memory) => response.map(|body| Body::new(ReservedBody { body, _memory: memory })),
        Err(refused) => refused.into_response(),
    }
}

/// A body that holds its memory until it was sent, or its client has gone.
struct ReservedBody {
    body: Body,
    _memory: QuotaPermit,
}

impl http_body::Body for ReservedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

fn refused(full: QuotaError) -> ApiError {
    let (status, why) = match full {
        QuotaError::All(most) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "limit of {most} bytes for unfinished answers and request bodies reached; try again later, or raise \
                 http.max_answer_bytes"
            ),
        ),
        QuotaError::OfPeer(most) => (
            StatusCode::TOO_MANY_REQUESTS,
            format!(
                "limit of {most} bytes for unfinished answers and request bodies of this client reached; read or send \
                 those first, or raise http.max_answer_bytes"
            ),
        ),
    };
    ApiError::new(status, why).retry_after(RETRY_AFTER)
}

/// Returns bytes that hold something as long as anyone reads them.
pub(super) fn holding<T: Send + 'static>(bytes: impl Into<Bytes>, held: T) -> Bytes {
    struct Holding<T> {
        bytes: Bytes,
        _held: T,
    }
    impl<T> AsRef<[u8]> for Holding<T> {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }
    Bytes::from_owner(Holding { bytes: bytes.into(), _held: held })
}
