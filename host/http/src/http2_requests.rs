//! The unfinished requests of an HTTP/2 connection, and whether the client takes part in them.
//!
//! The socket does not tell: a client that reads nothing still answers pings, and requests need not follow one another.

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of an answer that are handed on at a time: an HTTP/2 frame. The host only sees that the client has taken bytes
/// once a whole piece is written.
const PIECE: usize = 16 << 10;

/// The unfinished requests of a connection.
#[derive(Debug)]
pub(super) struct ExchangeTracker(Mutex<ExchangeTrackerState>);

#[derive(Debug)]
struct ExchangeTrackerState {
    next: u64,
    /// The time when the client last took something of each answer; none if the client waits for more of it.
    open: HashMap<u64, Option<Instant>>,
    idle_since: Instant,
}

/// The state of a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ConnectionActivity {
    /// Requests are under way, or came a short time ago.
    Active,
    /// There has been no request for long.
    Idle,
    /// The client has taken nothing of an answer for long.
    Stalled,
}

/// A request and its answer, until both have ended.
#[derive(Debug)]
pub(super) struct Exchange {
    tracker: Arc<ExchangeTracker>,
    id: u64,
}

/// The body of an answer, which notes how the client takes it.
struct ObservedBody {
    body: Body,
    /// The rest of a frame of the body.
    rest: Bytes,
    exchange: Arc<Exchange>,
}

/// A piece of an answer, until it is written to the socket. The exchange lasts as long: the last piece may wait for the
/// client when the body has ended.
struct ObservedBytes {
    bytes: Bytes,
    exchange: Arc<Exchange>,
}

// === impl ExchangeTracker ===

impl ExchangeTracker {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(ExchangeTrackerState { next: 0, open: HashMap::new(), idle_since: Instant::now() })))
    }

    pub(super) fn begin(self: &Arc<Self>) -> Exchange {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.open.insert(id, None);
        Exchange { tracker: self.clone(), id }
    }

    /// Returns the state of the connection. `idle` and `stalled` are the longest times without a request, and with an
    /// answer of which nothing is taken.
    pub(super) fn activity(&self, idle: Duration, stalled: Duration) -> ConnectionActivity {
        let (state, now) = (self.lock(), Instant::now());
        if state.open.is_empty() && now.duration_since(state.idle_since) > idle {
            return ConnectionActivity::Idle;
        }
        let is_stalled = |since: &Option<Instant>| since.is_some_and(|since| now.duration_since(since) > stalled);
        if state.open.values().any(is_stalled) { ConnectionActivity::Stalled } else { ConnectionActivity::Active }
    }

    fn lock(&self) -> MutexGuard<'_, ExchangeTrackerState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Exchange ===

impl Exchange {
    /// Wraps the answer's body, and follows it to its end.
    pub(super) fn answer(self, body: Body) -> Body {
        self.waits(true);
        Body::new(ObservedBody { body, rest: Bytes::new(), exchange: Arc::new(self) })
    }

    /// Notes whether the answer waits for the client.
    fn waits(&self, waits: bool) {
        self.tracker.lock().open.insert(self.id, waits.then(Instant::now));
    }

    /// Notes that the client has taken something of the answer.
    fn moved(&self) {
        if let Some(Some(since)) = self.tracker.lock().open.get_mut(&self.id) {
            *since = Instant::now();
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.tracker.lock();
        state.open.remove(&self.id);
        state.idle_since = Instant::now();
    }
}

impl http_body::Body for ObservedBody {
    type Data = Bytes;
    type Error = axum::Error;

    /// Called only if the client has room for a part of the next frame.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.exchange.waits(false);
        if self.rest.is_empty() {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
            self.exchange.waits(frame.is_some());
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(bytes))) => self.rest = bytes,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let most = self.rest.len().min(PIECE);
        let piece = ObservedBytes { bytes: self.rest.split_to(most), exchange: self.exchange.clone() };
        self.exchange.waits(true);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, of_body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(of_body.lower().saturating_add(rest));
        hint
    }
}

impl AsRef<[u8]> for ObservedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for ObservedBytes {
    fn drop(&mut self) {
        self.exchange.moved();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_without_requests_and_stalled_with_an_unread_answer() {
        let tracker = ExchangeTracker::new();
        let activity = || tracker.activity(SECOND * 10, SECOND * 30);
        tokio::time::advance(SECOND * 9).await;
        let exchange = tracker.begin();
        tokio::time::advance(SECOND * 60).await;
        assert_eq!(activity(), ConnectionActivity::Active, "the answer is being made");
        let mut body = exchange.answer(Body::from("answer"));
        tokio::time::advance(SECOND * 31).await;
        assert_eq!(activity(), ConnectionActivity::Stalled);
        let answer = body.frame().await.unwrap().unwrap();
        assert_eq!(activity(), ConnectionActivity::Active);
        tokio::time::advance(SECOND * 31).await;
        assert_eq!(activity(), ConnectionActivity::Stalled, "it was handed on, and is not taken");
        drop((body, answer));
        tokio::time::advance(SECOND * 9).await;
        assert_eq!(activity(), ConnectionActivity::Active);
        tokio::time::advance(SECOND * 2).await;
        assert_eq!(activity(), ConnectionActivity::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_answer_is_sent_in_pieces_and_is_unfinished_until_the_last_piece_is_taken() {
        let tracker = ExchangeTracker::new();
        let activity = || tracker.activity(SECOND * 10, SECOND * 30);
        let text = Bytes::from(vec![7; 3 * PIECE + 1]);
        let mut body = tracker.begin().answer(Body::from(text.clone()));
        assert_eq!(body.size_hint().exact(), Some(text.len() as u64));
        let (mut pieces, mut lengths) = (Vec::new(), Vec::new());
        while !body.is_end_stream() {
            let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
            lengths.push(piece.len());
            pieces.push(piece);
            assert_eq!(body.size_hint().exact(), Some((text.len() - pieces.concat().len()) as u64));
        }
        assert_eq!((lengths, pieces.concat()), (vec![PIECE, PIECE, PIECE, 1], text.to_vec()));
        drop(body);
        for _ in 0..3 {
            tokio::time::advance(SECOND * 20).await;
            pieces.remove(0);
            assert_eq!(activity(), ConnectionActivity::Active, "something of it is taken");
        }
        tokio::time::advance(SECOND * 31).await;
        assert_eq!(activity(), ConnectionActivity::Stalled, "the last is not");
        pieces.clear();
        tokio::time::advance(SECOND * 11).await;
        assert_eq!(activity(), ConnectionActivity::Idle);
    }
}
