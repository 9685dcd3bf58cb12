//! Answers that are made piece by piece, as fast as the client reads them. However large an answer is, it takes no more
//! memory than a piece.

use super::answer_memory::{MemoryReserved, holding, reserve, resize};
use super::blocking::query;
use super::error::{ApiError, json_bytes};
use super::peer::Peer;
use crate::App;
use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use dropsonde_engine::quota::QuotaPermit;
use http_body::Frame;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// Approximate bytes of a piece: it ends with the first part that makes it so large.
pub(super) const PIECE: usize = 64 << 10;

/// Approximate bytes of the largest answer that is made whole: it has a length, and may have a tag.
pub(super) const ORDINARY: usize = 512 << 10;

/// Approximate bytes of memory that an answer in pieces takes at most: a piece that is being sent, and the points and
/// the JSON of the next one.
pub(super) const LARGEST: usize = 1 << 20;

/// Appends a part of an answer. Returns whether there is more.
pub(super) type JsonProducer = Box<dyn FnMut(&mut Vec<u8>) -> bool + Send>;

/// Ends an array, whose first value comes after `open` if that is still `[`. Returns `false`: there is no more.
pub(super) fn end_array(json: &mut Vec<u8>, open: u8) -> bool {
    // The array is empty.
    if open == b'[' {
        json.push(open);
    }
    json.push(b']');
    false
}

/// An answer, before it is sent.
pub(super) enum PreparedAnswer {
    /// The whole answer. It holds its memory until it is sent.
    Whole(Bytes),
    Pieces(ChunkedBody),
}

/// The body of a response that is made piece by piece.
pub(super) struct ChunkedBody {
    /// The first piece, which is made before the answer begins.
    first: Option<Bytes>,
    /// Makes the further pieces; none while it is at work.
    rest: Option<JsonProducer>,
    making: Option<PieceFuture>,
    app: Arc<App>,
    peer: Peer,
    /// The memory that is reserved for the answer.
    _memory: QuotaPermit,
}

/// The next piece, which is made off the server's threads when it is its turn: history may have to be read from files.
type PieceFuture = Pin<Box<dyn Future<Output = Result<(Vec<u8>, Option<JsonProducer>), ApiError>> + Send>>;

/// Makes an answer. `bytes` is the memory that it may take. An answer of no more than `ordinary` bytes is made whole.
pub(super) async fn make(
    app: Arc<App>,
    peer: &Peer,
    bytes: usize,
    ordinary: usize,
    more: JsonProducer,
) -> Result<PreparedAnswer, ApiError> {
    let mut memory = reserve(&app, peer, bytes.min(LARGEST)).await?;
    let (first, rest) = query(&app, peer, move || piece(ordinary, more)).await?;
    resize(&app, &mut memory, if rest.is_some() { LARGEST } else { first.len() })?;
    Ok(match rest {
        None => PreparedAnswer::Whole(holding(first, memory)),
        Some(rest) => {
            let (first, peer) = (Some(first.into()), peer.clone());
            PreparedAnswer::Pieces(ChunkedBody { first, rest: Some(rest), making: None, app, peer, _memory: memory })
        }
    })
}

/// Makes the next piece. Returns it with the producer of the pieces after it. A piece that takes long ends early:
/// between two pieces others have their turn, and the answer ends if its client has gone.
fn piece(bytes: usize, mut more: JsonProducer) -> (Vec<u8>, Option<JsonProducer>) {
    const LONGEST: Duration = Duration::from_millis(500);
    let began = Instant::now();
    let mut json = Vec::new();
    while json.len() < bytes && began.elapsed() < LONGEST {
        if !more(&mut json) {
            return (json, None);
        }
    }
    (json, Some(more))
}

impl IntoResponse for PreparedAnswer {
    fn into_response(self) -> Response {
        match self {
            Self::Whole(json) => {
                let mut response = json_bytes(json);
                response.extensions_mut().insert(MemoryReserved);
                response
            }
            Self::Pieces(pieces) => {
                let mut response = json_bytes(Body::new(pieces));
                response.headers_mut().remove(header::CONTENT_LENGTH);
                response
            }
        }
    }
}

impl http_body::Body for ChunkedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(rest) = this.rest.take() {
            let (app, peer) = (this.app.clone(), this.peer.clone());
            this.making = Some(Box::pin(async move { query(&app, &peer, || piece(PIECE, rest)).await }));
        }
        let Some(making) = &mut this.making else { return Poll::Ready(None) };
        let made = ready!(making.as_mut().poll(context));
        this.making = None;
        let (json, rest) = made.map_err(|why| io::Error::other(why.to_string()))?;
        this.rest = rest;
        Poll::Ready(Some(Ok(Frame::data(json.into()))))
    }
}
