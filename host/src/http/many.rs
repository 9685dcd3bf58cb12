//! One object of very many answers: made piece by piece, as fast as the reader takes it.

use super::error::{ApiError, json_bytes};
use super::off_thread::query;
use crate::core::Core;
use axum::body::Body;
use axum::http::header;
use axum::response::Response;
use bytes::Bytes;
use dropsonde_store::InstanceId;
use http_body::Frame;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::vec::IntoIter;

/// Bytes of a piece, about.
const PIECE: usize = 64 << 10;

/// A response body, `{"id":…,…}`.
pub(crate) struct Many {
    /// It is made before anything is answered.
    first: Option<Bytes>,
    /// What is still to be made, unless it is being made.
    rest: Option<Rest>,
    making: Option<Making>,
    core: Arc<Core>,
}

/// Off the server's threads, when it is its turn: history may have to be read from files.
type Making = Pin<Box<dyn Future<Output = Result<(Vec<u8>, Option<Rest>), ApiError>> + Send>>;

struct Rest {
    ids: IntoIter<InstanceId>,
    is_first: bool,
    one: Arc<One>,
}

/// An instance's answer; none is left out.
type One = dyn Fn(&InstanceId) -> Option<Vec<u8>> + Send + Sync;

impl Many {
    /// `one` gives the JSON of each. What is no more than a piece is an ordinary answer.
    pub(crate) async fn answer(
        core: Arc<Core>,
        ids: Vec<InstanceId>,
        one: impl Fn(&InstanceId) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Result<Response, ApiError> {
        let rest = Rest { ids: ids.into_iter(), is_first: true, one: Arc::new(one) };
        let (first, rest) = query(&core, move || rest.make(vec![b'{'])).await?;
        let Some(rest) = rest else { return Ok(json_bytes(first)) };
        let mut response = json_bytes(Vec::new());
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.body_mut() = Body::new(Self { first: Some(first.into()), rest: Some(rest), making: None, core });
        Ok(response)
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
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(rest) = this.rest.take() {
            let core = this.core.clone();
            this.making = Some(Box::pin(async move { query(&core, || rest.make(Vec::new())).await }));
        }
        let Some(making) = &mut this.making else { return Poll::Ready(None) };
        let made = ready!(making.as_mut().poll(context));
        this.making = None;
        let (json, rest) = made.map_err(|why| io::Error::other(why.to_string()))?;
        this.rest = rest;
        Poll::Ready(Some(Ok(Frame::data(json.into()))))
    }
}
