//! HTTP requests to the origins that the operator granted. Natively, to all origins, but only over plain `http://`.
//!
//! Redirects are returned like any other response. To follow one, send another request; its origin must be granted too.

use crate::Failure;
use std::time::Duration;

/// A response, with any status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Why there is no response. `?` turns it into a [`Failure`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpError {
    /// No grant covers the origin, or the address that its name resolves to.
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
    let none = || Err(HttpError::Other(url.to_owned(), "no response".to_owned()));
    get_all(&[url], timeout).pop().unwrap_or_else(none)
}

/// Sends GET requests at the same time, and returns the responses in the order of the URLs. The timeout covers all of
/// them together.
pub fn get_all(urls: &[impl AsRef<str>], timeout: Duration) -> Vec<Result<Response, HttpError>> {
    imp::get_all(&urls.iter().map(AsRef::as_ref).collect::<Vec<_>>(), timeout)
}

impl Response {
    /// Returns the body as text. Bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
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
    use super::{HttpError, Response, parts};
    use std::time::Duration;
    use wasip2::clocks::monotonic_clock;
    use wasip2::http::outgoing_handler;
    use wasip2::http::types::{
        ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, OutgoingRequest, RequestOptions,
        Scheme,
    };
    use wasip2::io::poll::{Pollable, poll};
    use wasip2::io::streams::{InputStream, StreamError};

    /// Most requests at a time. The host has a limit of its own.
    const AT_A_TIME: usize = 32;

    const CHUNK: u64 = 64 << 10;

    type Answer = Result<Response, HttpError>;

    /// A request under way. Fields are dropped from top to bottom, because a resource must be dropped before the one it
    /// was made from.
    enum Step {
        Asked(Pollable, FutureIncomingResponse),
        Reading(Reading),
    }

    struct Reading {
        ready: Pollable,
        stream: InputStream,
        _body: IncomingBody,
        _response: IncomingResponse,
        status: u16,
        bytes: Vec<u8>,
    }

    pub(super) fn get_all(urls: &[&str], timeout: Duration) -> Vec<Answer> {
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let over = monotonic_clock::subscribe_duration(nanos);
        let mut answers: Vec<Option<Answer>> = urls.iter().map(|_| None).collect();
        let mut waiting = urls.iter().enumerate();
        let mut under_way: Vec<(usize, Step)> = Vec::new();
        loop {
            while under_way.len() < AT_A_TIME {
                let Some((nth, url)) = waiting.next() else { break };
                match ask(url, nanos) {
                    Ok(step) => under_way.push((nth, step)),
                    Err(error) => answers[nth] = Some(Err(error)),
                }
            }
            if under_way.is_empty() {
                break;
            }
            let mut ready = {
                let pollables: Vec<&Pollable> =
                    under_way.iter().map(|(_, step)| step.pollable()).chain([&over]).collect();
                poll(&pollables)
            };
            if ready.contains(&(under_way.len() as u32)) {
                break;
            }
            // Goes from the end on, because finished requests are removed. The indices come in any order.
            ready.sort_unstable();
            for place in ready.into_iter().rev() {
                let (nth, step) = under_way.swap_remove(place as usize);
                match step.go_on(urls[nth]) {
                    Ok(step) => under_way.push((nth, step)),
                    Err(answer) => answers[nth] = Some(answer),
                }
            }
        }
        let late = |url: &&str| Err(HttpError::Timeout((*url).to_owned()));
        answers.into_iter().zip(urls).map(|(answer, url)| answer.unwrap_or_else(|| late(url))).collect()
    }

    fn ask(url: &str, nanos: u64) -> Result<Step, HttpError> {
        let not_a_url = || HttpError::NotAUrl(url.to_owned());
        let (scheme, authority, path) = parts(url).ok_or_else(not_a_url)?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(not_a_url()),
        };
        let request = OutgoingRequest::new(Fields::new());
        request.set_scheme(Some(&scheme)).map_err(|()| not_a_url())?;
        request.set_authority(Some(authority)).map_err(|()| not_a_url())?;
        request.set_path_with_query(Some(if path.is_empty() { "/" } else { path })).map_err(|()| not_a_url())?;
        let options = RequestOptions::new();
        let _ = options.set_connect_timeout(Some(nanos));
        let _ = options.set_first_byte_timeout(Some(nanos));
        let asked = outgoing_handler::handle(request, Some(options)).map_err(|code| failed(url, &code))?;
        Ok(Step::Asked(asked.subscribe(), asked))
    }

    impl Step {
        fn pollable(&self) -> &Pollable {
            match self {
                Self::Asked(ready, _) | Self::Reading(Reading { ready, .. }) => ready,
            }
        }

        /// Returns the next step, or the final result.
        fn go_on(self, url: &str) -> Result<Self, Answer> {
            let other = |why: &str| Err(HttpError::Other(url.to_owned(), why.to_owned()));
            match self {
                Self::Asked(ready, asked) => {
                    let Some(answer) = asked.get() else { return Ok(Self::Asked(ready, asked)) };
                    // It must be dropped before the resource it was made from.
                    drop(ready);
                    let response = match answer {
                        Ok(Ok(response)) => response,
                        Ok(Err(code)) => return Err(Err(failed(url, &code))),
                        Err(()) => return Err(other("the response was taken twice")),
                    };
                    let body = response.consume().map_err(|()| other("the response has no body"))?;
                    let stream = body.stream().map_err(|()| other("the body of the response cannot be read"))?;
                    let (status, ready) = (response.status(), stream.subscribe());
                    Ok(Self::Reading(Reading {
                        ready,
                        stream,
                        _body: body,
                        _response: response,
                        status,
                        bytes: Vec::new(),
                    }))
                }
                Self::Reading(mut reading) => match reading.stream.read(CHUNK) {
                    Ok(bytes) => {
                        reading.bytes.extend_from_slice(&bytes);
                        Ok(Self::Reading(reading))
                    }
                    Err(StreamError::Closed) => {
                        Err(Ok(Response { status: reading.status, body: std::mem::take(&mut reading.bytes) }))
                    }
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
            other => HttpError::Other(url, format!("{other:?}")),
        }
    }
}

#[cfg(not(target_family = "wasm"))]
mod imp {
    use super::{HttpError, Response, parts};
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpStream, ToSocketAddrs};
    use std::time::Duration;

    /// Sends the requests one after the other, each with the whole timeout. That is enough to try a plugin.
    pub(super) fn get_all(urls: &[&str], timeout: Duration) -> Vec<Result<Response, HttpError>> {
        let failed = |url: &&str, error: &std::io::Error| match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => HttpError::Timeout((*url).to_owned()),
            ErrorKind::InvalidInput => HttpError::NotAUrl((*url).to_owned()),
            _ => HttpError::Other((*url).to_owned(), error.to_string()),
        };
        urls.iter().map(|url| get(url, timeout).map_err(|error| failed(url, &error))).collect()
    }

    fn get(url: &str, timeout: Duration) -> std::io::Result<Response> {
        let (_, authority, path) =
            parts(url).filter(|(scheme, ..)| *scheme == "http").ok_or(ErrorKind::InvalidInput)?;
        let with_port = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
        let address = with_port.to_socket_addrs()?.next().ok_or(ErrorKind::NotFound)?;
        let mut stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        // With HTTP/1.0 the body ends with the connection.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\n\r\n").as_bytes())?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or(ErrorKind::InvalidData)?;
        let body = bytes.split_off(head + 4);
        let status = String::from_utf8_lossy(&bytes).split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok(Response { status: status.ok_or(ErrorKind::InvalidData)?, body })
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
    fn natively_an_answer_comes_too() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", server.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let (mut request, mut byte) = (Vec::new(), [0]);
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream.write_all(b"HTTP/1.0 404 Not Found\r\n\r\nnothing").unwrap();
            String::from_utf8(request).unwrap()
        });
        let answer = get(&url, Duration::from_secs(5)).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (404, "nothing"));
        assert!(served.join().unwrap().starts_with("GET /x "));
        assert_eq!(get("ftp://x", Duration::from_secs(1)), Err(HttpError::NotAUrl("ftp://x".to_owned())));
    }
}
