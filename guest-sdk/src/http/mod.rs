//! HTTP requests to the origins that the operator granted. Natively, to all origins, but only over plain `http://`.
//!
//! Redirects are returned like any other response. To follow one, send another request; its origin must be granted too.

#[cfg(not(target_family = "wasm"))]
#[path = "native.rs"]
mod client;
#[cfg(target_family = "wasm")]
#[path = "wasi.rs"]
mod client;
#[cfg(test)]
mod tests;

use crate::Failure;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::ControlFlow;
use std::time::Duration;

/// A response, with any status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names and values, in the order of the response.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

/// A request.
///
/// ```no_run
/// # use dropsonde_guest::{Failure, http::Request};
/// # use std::time::Duration;
/// # fn stats(token: &str) -> Result<String, Failure> {
/// let request = Request::new("POST", "http://127.0.0.1:9200/_search")
///     .header("authorization", format!("Bearer {token}"))
///     .header("content-type", "application/json")
///     .body(r#"{"size": 0}"#);
/// Ok(request.send(Duration::from_secs(1))?.text())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    timeout: Option<Duration>,
}

/// A step of a request and its response. Each request ends with exactly one [`Progress::End`].
#[derive(Debug)]
pub enum Progress<'a> {
    /// The request is sent now: its timeout begins.
    Sent,
    /// Status and headers came.
    Head(&'a Response),
    /// The next piece of the body came.
    Body(&'a [u8]),
    /// The body is complete, or there is no response or only a part of it.
    End(Result<(), HttpError>),
}

/// Why there is no response. `?` turns it into a [`Failure`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpError {
    /// No grant covers the request, or the address that its host name resolves to.
    Denied(String),
    /// The text is not a URL of the form `http://host/path`.
    NotAUrl(String),
    Timeout(String),
    /// The response is larger than the host accepts.
    TooLarge(String),
    Other(String, String),
}

/// Sends one GET request. The timeout covers the whole request and response.
pub fn get(url: &str, timeout: Duration) -> Result<Response, HttpError> {
    Request::get(url).send(timeout)
}

/// Sends GET requests at the same time, and returns the responses in the order of the URLs. The timeout covers all of
/// them together.
pub fn get_all(urls: &[impl AsRef<str>], timeout: Duration) -> Vec<Result<Response, HttpError>> {
    let requests: Vec<Request> = urls.iter().map(|url| Request::get(url.as_ref())).collect();
    send_all(&requests, timeout)
}

/// Sends requests at the same time, and returns the responses in the order of the requests. The timeout covers all of
/// them together; a request can have a shorter one of its own.
pub fn send_all(requests: &[Request], timeout: Duration) -> Vec<Result<Response, HttpError>> {
    let mut so_far = vec![Response::default(); requests.len()];
    let mut ends: Vec<Option<Result<(), HttpError>>> = vec![None; requests.len()];
    exchange_all(requests, timeout, &mut |nth, progress| {
        let (Some(so_far), Some(end)) = (so_far.get_mut(nth), ends.get_mut(nth)) else { return ControlFlow::Break(()) };
        match progress {
            Progress::Sent => {}
            Progress::Head(head) => so_far.clone_from(head),
            Progress::Body(piece) => so_far.body.extend_from_slice(piece),
            Progress::End(result) => *end = Some(result),
        }
        ControlFlow::Continue(())
    });
    let late = |request: &Request| Err(HttpError::Timeout(request.url.clone()));
    let all = so_far.into_iter().zip(ends).zip(requests);
    all.map(|((response, end), request)| end.unwrap_or_else(|| late(request)).map(|()| response)).collect()
}

/// A function that takes the position of a request and a step of its response.
pub type Take<'a> = dyn FnMut(usize, Progress<'_>) -> ControlFlow<()> + 'a;

/// Sends requests at the same time, as [`send_all`] does, and calls `take` with each step of each response. Nothing of
/// the bodies is kept, so that large ones need no memory. If `take` breaks off, the rest of that response is not read.
pub fn exchange_all(requests: &[Request], timeout: Duration, take: &mut Take<'_>) {
    client::exchange_all(requests, timeout, take);
}

// === impl Request ===

impl Request {
    pub fn get(url: impl Into<String>) -> Self {
        Self::new("GET", url)
    }

    pub fn new(method: impl Into<String>, url: impl Into<String>) -> Self {
        Self { method: method.into(), url: url.into(), headers: Vec::new(), body: Vec::new(), timeout: None }
    }

    /// Adds a header. The host sets `host`, `connection` and those that say how the body is transferred.
    pub fn header(mut self, name: impl Into<String>, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.into(), value.as_ref().to_vec()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets a body of JSON, with the header that says so.
    pub fn json(self, body: &impl Serialize) -> Result<Self, Failure> {
        let body =
            serde_json::to_vec(body).map_err(|error| Failure::invalid(format!("the body of a request: {error}")))?;
        Ok(self.header("content-type", "application/json").body(body))
    }

    /// Sets the longest time of this request and its response, from its first byte to its last.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends the request. The timeout covers the whole request and response.
    pub fn send(&self, timeout: Duration) -> Result<Response, HttpError> {
        let none = || Err(HttpError::Other(self.url.clone(), "no response".to_owned()));
        send_all(std::slice::from_ref(self), timeout).pop().unwrap_or_else(none)
    }
}

// === impl Response ===

impl Response {
    /// Returns the body as text. Bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Reads the body as JSON.
    ///
    /// ```no_run
    /// # use dropsonde_guest::{Failure, http};
    /// # use std::time::Duration;
    /// #[derive(serde::Deserialize)]
    /// struct Queue {
    ///     name: String,
    ///     messages: u64,
    /// }
    /// # fn queues() -> Result<Vec<Queue>, Failure> {
    /// http::get("http://127.0.0.1:15672/api/queues", Duration::from_secs(1))?.json()
    /// # }
    /// ```
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::unavailable(format!("the response is not the JSON that is expected: {error}")))
    }

    /// Returns the first header of a name, which is case-insensitive. None if there is none, or if it is not text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }
}

impl std::fmt::Display for HttpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(url) => write!(f, "{url}: not granted"),
            Self::NotAUrl(url) => write!(f, "{url}: not a URL of the form http://host/path"),
            Self::Timeout(url) => write!(f, "{url}: no answer in time"),
            Self::TooLarge(url) => write!(f, "{url}: the response is larger than the host accepts"),
            Self::Other(url, why) => write!(f, "{url}: {why}"),
        }
    }
}

// This type does not implement `std::error::Error`: then `?` would turn a denial into `Failure::Unavailable`.
impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Denied(_) => Self::Denied(error.to_string()),
            HttpError::NotAUrl(_) => Self::Invalid(error.to_string()),
            _ => Self::Unavailable(error.to_string()),
        }
    }
}

/// Splits a URL into scheme, authority, and path with query.
fn parts(url: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    (!authority.is_empty()).then_some((scheme, authority, path))
}
