//! A running host, asked over HTTP.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, Uri, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::net::TcpStream;

/// What stays as it is in a path segment or a query value.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Longest time a host may take to begin an answer: an upload waits for a while.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the host is.
#[derive(Debug)]
pub(super) struct Client {
    /// `host:port`
    authority: String,
}

/// Our JSON error.
#[derive(Deserialize)]
struct ErrorBody {
    error: String,
}

pub(super) fn encode(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, SEGMENT)
}

impl Client {
    pub(super) fn new(url: &str) -> Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("--url {url}: it is no URL"))?;
        if uri.scheme_str() != Some("http") {
            bail!("--url {url}: only http:// is spoken so far");
        }
        let host = uri.host().with_context(|| format!("--url {url}: it names no host"))?;
        Ok(Self { authority: format!("{host}:{}", uri.port_u16().unwrap_or(80)) })
    }

    /// The whole body of a good answer; any other is an error with the host's own words.
    pub(super) async fn get(&self, path: &str) -> Result<Vec<u8>> {
        read(self.open(path).await?).await
    }

    /// The body of a good answer, as it comes.
    pub(super) async fn open(&self, path: &str) -> Result<Incoming> {
        self.answer(Request::get(path), path).await
    }

    /// Asks for a change, with a token.
    pub(super) async fn change(&self, method: Method, path: &str, token: &str) -> Result<Vec<u8>> {
        let request =
            Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
        read(self.answer(request, path).await?).await
    }

    async fn answer(&self, request: Builder, path: &str) -> Result<Incoming> {
        let response = self.send(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        match serde_json::from_slice::<ErrorBody>(&read(response.into_body()).await?) {
            Ok(ErrorBody { error }) => bail!("{error}"),
            Err(_) => bail!("{} answers {status} to {path}; is it a Dropsonde host?", self.authority),
        }
    }

    async fn send(&self, request: Builder) -> Result<Response<Incoming>> {
        let answer = tokio::time::timeout(PATIENCE, self.head(request)).await;
        answer.unwrap_or_else(|_| bail!("{} has not answered for {} s", self.authority, PATIENCE.as_secs()))
    }

    /// Its body may take as long as it likes: it may be a stream.
    async fn head(&self, request: Builder) -> Result<Response<Incoming>> {
        let stream = match TcpStream::connect(&self.authority).await {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                bail!("no host answers at {}; start one with `dropsonde serve`, or name it with --url", self.authority)
            }
            Err(error) => return Err(error).with_context(|| format!("cannot reach {}", self.authority)),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = request.header(header::HOST, &self.authority).body(Empty::<Bytes>::new())?;
        sender.send_request(request).await.with_context(|| format!("{} does not answer", self.authority))
    }
}

async fn read(body: Incoming) -> Result<Vec<u8>> {
    Ok(body.collect().await.context("the answer broke off")?.to_bytes().to_vec())
}
