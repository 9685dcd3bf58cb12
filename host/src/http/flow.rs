//! What is under way on a connection of HTTP/2, and whether its other end takes part in it.
//!
//! There, pings are answered by who reads nothing, and a request need not follow another: neither is told by the socket.

use axum::body::{Body, Bytes};
use http_body::{Frame, SizeHint};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// Requests that are under way.
#[derive(Debug)]
pub(super) struct Flow(Mutex<State>);

#[derive(Debug)]
struct State {
    next: u64,
    /// Since when each answer waits for the other end to take more of it; none: the other end waits for it.
    open: HashMap<u64, Option<Instant>>,
    idle_since: Instant,
}

/// How it goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Goes {
    On,
    /// Nothing has been asked for long.
    Idle,
    /// Of an answer nothing was taken for long.
    Stalled,
}

/// A request and its answer, until both are over.
#[derive(Debug)]
pub(super) struct Exchange {
    flow: Arc<Flow>,
    id: u64,
}

/// An answer's body.
struct Followed {
    body: Body,
    exchange: Exchange,
}

// === impl Flow ===

impl Flow {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { next: 0, open: HashMap::new(), idle_since: Instant::now() })))
    }

    pub(super) fn begin(self: &Arc<Self>) -> Exchange {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.open.insert(id, None);
        Exchange { flow: self.clone(), id }
    }

    pub(super) fn goes(&self, idle: Duration, stalled: Duration) -> Goes {
        let (state, now) = (self.lock(), Instant::now());
        if state.open.is_empty() && now.duration_since(state.idle_since) > idle {
            return Goes::Idle;
        }
        let is_stalled = |since: &Option<Instant>| since.is_some_and(|since| now.duration_since(since) > stalled);
        if state.open.values().any(is_stalled) { Goes::Stalled } else { Goes::On }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Exchange ===

impl Exchange {
    /// Follows the answer's body to its end.
    pub(super) fn answer(self, body: Body) -> Body {
        self.waits(true);
        Body::new(Followed { body, exchange: self })
    }

    fn waits(&self, waits: bool) {
        self.flow.lock().open.insert(self.id, waits.then(Instant::now));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.flow.lock();
        state.open.remove(&self.id);
        state.idle_since = Instant::now();
    }
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    /// Asked for a frame only when there is room for it at the other end.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.exchange.waits(false);
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.exchange.waits(frame.is_some());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_without_and_stalled_with_an_answer_nobody_takes() {
        let flow = Flow::new();
        let goes = || flow.goes(SECOND * 10, SECOND * 30);
        tokio::time::advance(SECOND * 9).await;
        let exchange = flow.begin();
        tokio::time::advance(SECOND * 60).await;
        assert_eq!(goes(), Goes::On, "the answer is being made");
        let mut body = exchange.answer(Body::from("answer"));
        tokio::time::advance(SECOND * 31).await;
        assert_eq!(goes(), Goes::Stalled);
        body.frame().await.unwrap().unwrap();
        assert_eq!(goes(), Goes::On);
        drop(body);
        tokio::time::advance(SECOND * 9).await;
        assert_eq!(goes(), Goes::On);
        tokio::time::advance(SECOND * 2).await;
        assert_eq!(goes(), Goes::Idle);
    }
}
