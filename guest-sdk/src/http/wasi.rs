//! Requests by WASI, many at the same time.

use super::{HttpError, Progress, Request, Response, Take, parts};
use crate::clock::Instant;
use std::ops::ControlFlow;
use std::time::Duration;
use wasip2::clocks::monotonic_clock;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    RequestOptions, Scheme,
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
    let headers = Fields::from_list(&request.headers).map_err(|why| other(&format!("a header is refused: {why}")))?;
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
            Self::Waiting(ready, _) | Self::Sending(Sending { ready, .. }) | Self::Reading(Reading { ready, .. }) => {
                ready
            }
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
