//! Exchanges of HTTP in a recording: what a plugin asked, and what it was answered. Credentials are left out.

use crate::capability::inputs::Recorder;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use serde::{Deserialize, Serialize};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use wasmtime_wasi_http::{Error, WasiBody};

/// In place of a credential.
const REDACTED: &str = "redacted";

/// Parts of the names of headers and parameters that hold credentials.
const SECRET: [&str; 8] = ["auth", "cookie", "credential", "key", "password", "secret", "session", "token"];

/// An exchange, one line of JSON in a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecordedExchange {
    pub(crate) method: String,
    /// With the query, whose parameters may be redacted.
    pub(crate) url: String,
    #[serde(default)]
    request_headers: Vec<(String, String)>,
    status: u16,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// The body as text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    body: String,
    /// The body in hex, if it is no text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    body_hex: String,
}

/// A response's body that is recorded once it was read.
struct RecordedResponseBody {
    inner: WasiBody,
    exchange: RecordedExchange,
    bytes: Vec<u8>,
    recorder: Arc<Recorder>,
}

// === impl RecordedExchange ===

impl RecordedExchange {
    /// Notes a request. Its response is not known yet.
    pub(crate) fn of<T>(request: &Request<T>, url: &str) -> Self {
        Self {
            method: request.method().to_string(),
            url: without_credentials(url),
            request_headers: shown(request.headers()),
            status: 0,
            headers: Vec::new(),
            body: String::new(),
            body_hex: String::new(),
        }
    }

    /// Returns the recorded response.
    pub(crate) fn response(&self) -> Result<Response<WasiBody>, Error> {
        let bytes = if self.body_hex.is_empty() { Some(self.body.clone().into_bytes()) } else { bytes(&self.body_hex) };
        let body = Full::new(Bytes::from(bytes.unwrap_or_default())).map_err(|never| match never {});
        let builder = Response::builder().status(self.status);
        let builder = self.headers.iter().fold(builder, |builder, (name, value)| builder.header(name, value));
        builder.body(body.boxed_unsync()).map_err(|_| Error::HttpProtocolError)
    }

    /// Records a response as the plugin reads it.
    pub(crate) fn record(mut self, response: Response<WasiBody>, recorder: Arc<Recorder>) -> Response<WasiBody> {
        self.status = response.status().as_u16();
        self.headers = shown(response.headers());
        response.map(|inner| RecordedResponseBody { inner, exchange: self, bytes: Vec::new(), recorder }.boxed_unsync())
    }
}

/// Returns headers as text, without credentials.
fn shown(headers: &HeaderMap) -> Vec<(String, String)> {
    let shown = headers.iter().map(|(name, value)| {
        let value = if is_secret(name.as_str()) { REDACTED.into() } else { String::from_utf8_lossy(value.as_bytes()) };
        (name.to_string(), value.into_owned())
    });
    shown.collect()
}

/// Returns a URL in whose query credentials are redacted.
pub(crate) fn without_credentials(url: &str) -> String {
    let Some((path, query)) = url.split_once('?') else { return url.to_owned() };
    let parameters = query.split('&').map(|parameter| match parameter.split_once('=') {
        Some((name, _)) if is_secret(name) => format!("{name}={REDACTED}"),
        _ => parameter.to_owned(),
    });
    format!("{path}?{}", parameters.collect::<Vec<_>>().join("&"))
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|secret| name.contains(secret))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

// === impl RecordedResponseBody ===

impl Body for RecordedResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            this.bytes.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for RecordedResponseBody {
    fn drop(&mut self) {
        match String::from_utf8(std::mem::take(&mut self.bytes)) {
            Ok(text) => self.exchange.body = text,
            Err(error) => self.exchange.body_hex = hex(error.as_bytes()),
        }
        self.recorder.exchange(&self.exchange);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_recorded() {
        let url = "http://a/b?Token=x&q=1&api_key=y&flag";
        let request =
            Request::get(url).header("Authorization", "Bearer x").header("X-Api-Key", "y").header("accept", "z");
        let exchange = RecordedExchange::of(&request.body(()).unwrap(), url);
        assert_eq!(exchange.url, "http://a/b?Token=redacted&q=1&api_key=redacted&flag");
        let headers: Vec<_> =
            exchange.request_headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(headers, [("authorization", "redacted"), ("x-api-key", "redacted"), ("accept", "z")]);
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_in_hex() {
        assert_eq!(bytes(&hex(&[0, 255, 16])), Some(vec![0, 255, 16]));
        assert_eq!((bytes("0g"), bytes("")), (None, Some(Vec::new())));
    }
}
