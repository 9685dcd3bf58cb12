//! HTTP requests to the origins that the operator granted. Natively, to all origins, but only over plain `http://`.
//!
//! Redirects are returned like any other response. To follow one, send another request; its origin must be granted too.

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
    imp::exchange_all(requests, timeout, take);
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

#[cfg(target_family = "wasm")]
mod imp {
    use super::{HttpError, Progress, Request, Response, Take, parts};
    use crate::clock::Instant;
    use std::ops::ControlFlow;
    use std::time::Duration;
    use wasip2::clocks::monotonic_clock;
    use wasip2::http::outgoing_handler;
    use wasip2::http::types::{
        ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method, OutgoingBody,
        OutgoingRequest, RequestOptions, Scheme,
    };
    use wasip2::io::poll::{Pollable, poll};
    use wasip2::io::streams::{InputStream, OutputStream, StreamError};

    /// Most requests at a time. The host has a limit of its own.
    const AT_A_TIME: usize = 48;

    const CHUNK: u64 = 64 << 10;

    /// How an exchange ended.
    type End = Result<(), HttpError>;

    /// A request under way.
    struct Exchange<'a> {
        /// Its place among all requests.
        nth: usize,
        url: &'a str,
        /// The time until which it must be over.
        until: Instant,
        step: Step,
    }

    /// Fields are dropped from top to bottom, because a resource must be dropped before the one it was made from.
    enum Step {
        Sending(Sending),
        Waiting(Pollable, FutureIncomingResponse),
        Reading(Reading),
    }

    struct Sending {
        ready: Pollable,
        stream: OutputStream,
        body: OutgoingBody,
        /// The bytes that are yet to be sent.
        left: Vec<u8>,
        response: FutureIncomingResponse,
    }

    struct Reading {
        ready: Pollable,
        stream: InputStream,
        _body: IncomingBody,
        _response: IncomingResponse,
    }

    pub(super) fn exchange_all(requests: &[Request], timeout: Duration, take: &mut Take<'_>) {
        let end = Instant::now() + timeout;
        let late = |url: &str| Progress::End(Err(HttpError::Timeout(url.to_owned())));
        let mut waiting = requests.iter().enumerate();
        let mut under_way: Vec<Exchange<'_>> = Vec::new();
        loop {
            while under_way.len() < AT_A_TIME {
                let Some((nth, request)) = waiting.next() else { break };
                let now = Instant::now();
                let until = request.timeout.map_or(end, |own| end.min(now + own));
                let _ = take(nth, Progress::Sent);
                match begin(request, until - now) {
                    Ok(step) => under_way.push(Exchange { nth, url: &request.url, until, step }),
                    Err(error) => _ = take(nth, Progress::End(Err(error))),
                }
            }
            let Some(next) = under_way.iter().map(|exchange| exchange.until).min() else { break };
            let mut ready = {
                let late = monotonic_clock::subscribe_instant(next.nanos());
                let pollables: Vec<&Pollable> =
                    under_way.iter().map(|exchange| exchange.step.pollable()).chain([&late]).collect();
                poll(&pollables)
            };
            // Goes from the end on, because finished requests are removed. The indices come in any order.
            ready.sort_unstable();
            // The last one is the time.
            let exchanges = under_way.len();
            for place in ready.into_iter().rev().map(|place| place as usize).filter(|place| *place < exchanges) {
                let Exchange { nth, url, until, step } = under_way.swap_remove(place);
                match step.go_on(url, &mut |progress| take(nth, progress)) {
                    Ok(step) => under_way.push(Exchange { nth, url, until, step }),
                    Err(result) => _ = take(nth, Progress::End(result)),
                }
            }
            let now = Instant::now();
            under_way.retain(|Exchange { nth, url, until, .. }| {
                let has_time = *until > now;
                if !has_time {
                    let _ = take(*nth, late(url));
                }
                has_time
            });
            if now >= end {
                break;
            }
        }
        waiting.for_each(|(nth, request)| _ = take(nth, late(&request.url)));
    }

    fn begin(request: &Request, timeout: Duration) -> Result<Step, HttpError> {
        let url = &request.url;
        let not_a_url = || HttpError::NotAUrl(url.clone());
        let other = |why: &str| HttpError::Other(url.clone(), why.to_owned());
        let (scheme, authority, path) = parts(url).ok_or_else(not_a_url)?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(not_a_url()),
        };
        let headers =
            Fields::from_list(&request.headers).map_err(|why| other(&format!("a header is refused: {why}")))?;
        let outgoing = OutgoingRequest::new(headers);
        outgoing.set_method(&method(&request.method)).map_err(|()| other("the method is not valid"))?;
        outgoing.set_scheme(Some(&scheme)).map_err(|()| not_a_url())?;
        outgoing.set_authority(Some(authority)).map_err(|()| not_a_url())?;
        // A query may follow the host at once.
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        outgoing.set_path_with_query(Some(&path)).map_err(|()| not_a_url())?;
        let body = (!request.body.is_empty()).then(|| outgoing.body()).transpose();
        let body = body.map_err(|()| other("the request has no body"))?;
        let options = RequestOptions::new();
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let _ = options.set_connect_timeout(Some(nanos));
        let _ = options.set_first_byte_timeout(Some(nanos));
        let response = outgoing_handler::handle(outgoing, Some(options)).map_err(|code| failed(url, &code))?;
        let Some(body) = body else { return Ok(Step::waiting(response)) };
        let stream = body.write().map_err(|()| other("the body of the request cannot be written"))?;
        let (ready, left) = (stream.subscribe(), request.body.clone());
        Ok(Step::Sending(Sending { ready, stream, body, left, response }))
    }

    fn method(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            "PATCH" => Method::Patch,
            other => Method::Other(other.to_owned()),
        }
    }

    impl Step {
        fn waiting(response: FutureIncomingResponse) -> Self {
            Self::Waiting(response.subscribe(), response)
        }

        fn pollable(&self) -> &Pollable {
            match self {
                Self::Waiting(ready, _)
                | Self::Sending(Sending { ready, .. })
                | Self::Reading(Reading { ready, .. }) => ready,
            }
        }

        /// Returns the next step, or how the exchange ended.
        fn go_on(self, url: &str, take: &mut dyn FnMut(Progress<'_>) -> ControlFlow<()>) -> Result<Self, End> {
            let other = |why: &str| Err(HttpError::Other(url.to_owned(), why.to_owned()));
            match self {
                Self::Sending(sending) => sending.go_on(),
                Self::Waiting(ready, response) => {
                    let Some(answer) = response.get() else { return Ok(Self::Waiting(ready, response)) };
                    // It must be dropped before the resource it was made from.
                    drop(ready);
                    let response = match answer {
                        Ok(Ok(response)) => response,
                        Ok(Err(code)) => return Err(Err(failed(url, &code))),
                        Err(()) => return Err(other("the response was taken twice")),
                    };
                    let body = response.consume().map_err(|()| other("the response has no body"))?;
                    let stream = body.stream().map_err(|()| other("the body of the response cannot be read"))?;
                    let ready = stream.subscribe();
                    let (status, headers) = (response.status(), response.headers().entries());
                    if take(Progress::Head(&Response { status, headers, body: Vec::new() })).is_break() {
                        return Err(Ok(()));
                    }
                    Ok(Self::Reading(Reading { ready, stream, _body: body, _response: response }))
                }
                Self::Reading(reading) => match reading.stream.read(CHUNK) {
                    Ok(bytes) => {
                        if take(Progress::Body(&bytes)).is_break() {
                            return Err(Ok(()));
                        }
                        Ok(Self::Reading(reading))
                    }
                    Err(StreamError::Closed) => Err(Ok(())),
                    Err(StreamError::LastOperationFailed(error)) => {
                        let code = wasip2::http::types::http_error_code(&error);
                        Err(Err(match code {
                            Some(code) => failed(url, &code),
                            // The host's own limits have no error code here.
                            None => match error.to_debug_string() {
                                why if why.contains("exceeds limit") => HttpError::TooLarge(url.to_owned()),
                                why => HttpError::Other(url.to_owned(), why),
                            },
                        }))
                    }
                },
            }
        }
    }

    impl Sending {
        /// Sends as much as the host takes. A body that cannot be sent is no error here: the response says why, or that
        /// the server answered before the end of the body.
        fn go_on(mut self) -> Result<Step, End> {
            let is_sent = match self.stream.check_write() {
                Ok(room) => {
                    let count = self.left.len().min(usize::try_from(room).unwrap_or(usize::MAX));
                    let piece: Vec<u8> = self.left.drain(..count).collect();
                    self.stream.write(&piece).is_err() || self.left.is_empty()
                }
                Err(_) => true,
            };
            if !is_sent {
                return Ok(Step::Sending(self));
            }
            let _ = self.stream.flush();
            let Self { ready, stream, body, response, .. } = self;
            drop((ready, stream));
            let _ = OutgoingBody::finish(body, None);
            Ok(Step::waiting(response))
        }
    }

    fn failed(url: &str, code: &ErrorCode) -> HttpError {
        let url = url.to_owned();
        match code {
            ErrorCode::HttpRequestDenied | ErrorCode::DestinationIpProhibited => HttpError::Denied(url),
            ErrorCode::ConnectionTimeout
            | ErrorCode::ConnectionReadTimeout
            | ErrorCode::HttpResponseTimeout
            | ErrorCode::DnsTimeout => HttpError::Timeout(url),
            ErrorCode::HttpResponseBodySize(_) => HttpError::TooLarge(url),
            ErrorCode::HttpRequestUriInvalid => HttpError::NotAUrl(url),
            other => HttpError::Other(url, in_words(other)),
        }
    }

    fn in_words(code: &ErrorCode) -> String {
        let words = match code {
            ErrorCode::DestinationNotFound => "its host name or server is not found",
            ErrorCode::DnsError(_) => "its host name is not found",
            ErrorCode::DestinationUnavailable | ErrorCode::DestinationIpUnroutable => "the server cannot be reached",
            ErrorCode::ConnectionRefused => "connection refused",
            ErrorCode::ConnectionTerminated => "the server closed the connection",
            ErrorCode::ConnectionLimitReached => "too many connections",
            ErrorCode::HttpResponseIncomplete => "the response broke off",
            ErrorCode::HttpProtocolError => "the response is not valid HTTP",
            ErrorCode::TlsProtocolError => "TLS failed",
            ErrorCode::TlsCertificateError => "the server's certificate is not valid",
            ErrorCode::InternalError(Some(words)) => words,
            other => return format!("{other:?}"),
        };
        words.to_owned()
    }
}

#[cfg(not(target_family = "wasm"))]
mod imp {
    use super::{HttpError, Progress, Request, Response, Take, parts};
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpStream, ToSocketAddrs};
    use std::time::Duration;

    /// Sends the requests one after the other, each with the whole timeout. That is enough to try a plugin.
    pub(super) fn exchange_all(requests: &[Request], timeout: Duration, take: &mut Take<'_>) {
        for (nth, request) in requests.iter().enumerate() {
            let _ = take(nth, Progress::Sent);
            let sent = send(request, request.timeout.unwrap_or(timeout).min(timeout));
            let end = sent.map(|mut response| {
                let body = std::mem::take(&mut response.body);
                if take(nth, Progress::Head(&response)).is_continue() {
                    let _ = take(nth, Progress::Body(&body));
                }
            });
            let _ = take(nth, Progress::End(end.map_err(|error| failed(&request.url, &error))));
        }
    }

    fn failed(url: &str, error: &std::io::Error) -> HttpError {
        let url = url.to_owned();
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => HttpError::Timeout(url),
            ErrorKind::InvalidInput => HttpError::NotAUrl(url),
            _ => HttpError::Other(url, error.to_string()),
        }
    }

    fn send(request: &Request, timeout: Duration) -> std::io::Result<Response> {
        let (_, authority, path) =
            parts(&request.url).filter(|(scheme, ..)| *scheme == "http").ok_or(ErrorKind::InvalidInput)?;
        let with_port = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
        let address = with_port.to_socket_addrs()?.next().ok_or(ErrorKind::NotFound)?;
        let mut stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        // With HTTP/1.0 the body ends with the connection.
        let mut bytes = format!("{} {path} HTTP/1.0\r\nhost: {authority}\r\n", request.method).into_bytes();
        for (name, value) in &request.headers {
            bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        if !request.body.is_empty() {
            bytes.extend_from_slice(format!("content-length: {}\r\n", request.body.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&request.body);
        stream.write_all(&bytes)?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or(ErrorKind::InvalidData)?;
        let body = bytes.split_off(head + 4);
        let head = String::from_utf8_lossy(&bytes);
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().as_bytes().to_vec()))
        };
        Ok(Response {
            status: status.ok_or(ErrorKind::InvalidData)?,
            headers: lines.filter_map(header).collect(),
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn an_url_has_three_parts() {
        assert_eq!(parts("http://a:1/b?c#d"), Some(("http", "a:1", "/b?c")));
        assert_eq!(parts("https://a?c"), Some(("https", "a", "?c")));
        assert_eq!(parts("http://a"), Some(("http", "a", "")));
        assert_eq!((parts("a/b"), parts("http:///b")), (None, None));
    }

    #[test]
    fn json_is_read_into_a_type_and_the_error_says_where_it_is_something_else() {
        let response = |body: &str| Response { body: body.into(), ..Response::default() };
        assert_eq!(response("[1, 2]").json::<Vec<u8>>(), Ok(vec![1, 2]));
        let failure = response("[1, \"two\"]").json::<Vec<u8>>().unwrap_err();
        assert!(failure.reason().contains("column 9"), "{failure:?}");
        let request = Request::new("POST", "http://a/b").json(&[1, 2]).unwrap();
        assert_eq!((&*request.body, &*request.headers[0].0), (&b"[1,2]"[..], "content-type"));
    }

    #[test]
    fn a_native_request_gets_an_answer() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", server.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let (mut request, mut byte) = (Vec::new(), [0]);
            while !request.ends_with(b"\r\n\r\nall") {
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream.write_all(b"HTTP/1.0 404 Not Found\r\nX-Why: gone\r\n\r\nnothing").unwrap();
            String::from_utf8(request).unwrap()
        });
        let request = Request::new("POST", &url).header("accept", "text/plain").body("all");
        let answer = request.send(Duration::from_secs(5)).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (404, "nothing"));
        assert_eq!((answer.header("x-why"), answer.header("x-because")), (Some("gone"), None));
        let request = served.join().unwrap();
        assert!(request.starts_with("POST /x HTTP/1.0\r\n"), "{request}");
        assert!(request.contains("\r\naccept: text/plain\r\ncontent-length: 3\r\n\r\nall"), "{request}");
        assert_eq!(get("ftp://x", Duration::from_secs(1)), Err(HttpError::NotAUrl("ftp://x".to_owned())));
    }
}
