//! One object of very many answers: made piece by piece, as fast as the reader takes it.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use dropsonde_store::InstanceId;
use http_body::Frame;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::vec::IntoIter;
use tokio::task::JoinHandle;

/// Bytes of a piece, about.
const PIECE: usize = 64 << 10;

/// A response body, `{"id":…,…}`.
pub(crate) struct Many(State);

enum State {
    Next(Rest),
    /// Off the server's threads: history may have to be read from files.
    Making(JoinHandle<(Vec<u8>, Option<Rest>)>),
    Over,
}

struct Rest {
    ids: IntoIter<InstanceId>,
    is_first: bool,
    one: Arc<One>,
}

/// An instance's answer; none is left out.
type One = dyn Fn(&InstanceId) -> Option<Vec<u8>> + Send + Sync;

impl Many {
    /// `one` gives the JSON of each.
    pub(crate) fn answer(
        ids: Vec<InstanceId>,
        one: impl Fn(&InstanceId) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Response {
        let rest = Rest { ids: ids.into_iter(), is_first: true, one: Arc::new(one) };
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        (headers, Body::new(Self(State::Next(rest)))).into_response()
    }
}

impl Rest {
    /// The next piece, and what comes after it.
    fn make(mut self, mut json: Vec<u8>) -> (Vec<u8>, Option<Self>) {
        while json.len() < PIECE {
            let Some(id) = self.ids.next() else {
                json.push(b'}');
                return (json, None);
            };
            let Some(answer) = (self.one)(&id) else { continue };
            if !std::mem::replace(&mut self.is_first, false) {
                json.push(b',');
            }
            json.extend_from_slice(serde_json::Value::from(id.as_str()).to_string().as_bytes());
            json.push(b':');
            json.extend_from_slice(&answer);
        }
        (json, Some(self))
    }
}

impl http_body::Body for Many {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let state = &mut self.get_mut().0;
        if let State::Next(rest) = std::mem::replace(state, State::Over) {
            let json = if rest.is_first { b"{".to_vec() } else { Vec::new() };
            *state = State::Making(tokio::task::spawn_blocking(|| rest.make(json)));
        }
        // Taken out above, if it was not this.
        let State::Making(making) = state else { return Poll::Ready(None) };
        let made = ready!(Pin::new(making).poll(context));
        let (json, rest) = made.map_err(io::Error::other)?;
        *state = rest.map_or(State::Over, State::Next);
        Poll::Ready(Some(Ok(Frame::data(json.into()))))
    }
}
