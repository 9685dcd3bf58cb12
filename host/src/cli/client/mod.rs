//! A client of a running host, over HTTP.
//!
//! # Layout
//!
//! * `host_address`: the host's address. `connect`: connections to it.
//! * `certificate_verifier`: checks the host's certificate. `token`: the token to send.

mod certificate_verifier;
mod connect;
mod host_address;
mod token;

use super::HostArgs;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use connect::Connector;
use dropsonde_model::Right;
use host_address::HostAddress;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::time::Duration;

/// Characters that are escaped in a path segment or a query value.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Longest wait for the beginning of an answer: an upload takes a while.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client of one host.
#[derive(Debug)]
pub(super) struct HostClient {
    target: HostAddress,
    connector: Connector,
    token: Option<String>,
}

/// An error answer, with the host's own text.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(super) struct HostErrorAnswer {
    pub(super) status: StatusCode,
    why: String,
}

/// The JSON body of a host's error answer.
#[derive(Deserialize)]
struct HostErrorBody {
    error: String,
}

pub(super) fn encode(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, SEGMENT)
}

impl HostClient {
    /// Makes a client for requests that need a right. Most hosts need no token for reading.
    pub(super) fn new(args: &HostArgs, right: Right) -> Result<Self> {
        let config = args.data.config()?;
        let target = HostAddress::of(args.url.as_deref(), &config)?;
        let token = token::find(args, &config, &target, right)?;
        Ok(Self { connector: Connector::new(args, &config)?, target, token })
    }

    /// Gets a path, and returns the whole body. An error answer becomes an error with the host's own text.
    pub(super) async fn get(&self, path: &str) -> Result<Vec<u8>> {
        read(self.open(path).await?).await
    }

    /// Gets a path, and returns the body of any answer, also of an error.
    pub(super) async fn get_whatever_it_says(&self, path: &str) -> Result<Vec<u8>> {
        let response = self.send(Request::get(path)).await?;
        read(response.into_body()).await
    }

    /// Gets a path, and returns the body as a stream.
    pub(super) async fn open(&self, path: &str) -> Result<Incoming> {
        self.answer(Request::get(path), path).await
    }

    /// Opens a stream behind the event with this id.
    pub(super) async fn open_after(&self, path: &str, last_event_id: Option<&str>) -> Result<Incoming> {
        let request = Request::get(path);
        let request = match last_event_id {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        self.answer(request, path).await
    }

    /// Sends a request that changes something, and returns the whole body of the answer.
    pub(super) async fn change(&self, method: Method, path: &str) -> Result<Vec<u8>> {
        read(self.answer(Request::builder().method(method).uri(path), path).await?).await
    }

    async fn answer(&self, request: Builder, path: &str) -> Result<Incoming> {
        let response = self.send(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let Ok(HostErrorBody { error }) = serde_json::from_slice(&read(response.into_body()).await?) else {
            bail!("{} answers {status} to {path}; is it a Dropsonde host?", self.target);
        };
        let why = match status {
            StatusCode::UNAUTHORIZED => format!(
                "{error}; name the token's file with --token-file, or the host's data directory or configuration with \
                 --data or --config"
            ),
            _ => error,
        };
        Err(HostErrorAnswer { status, why }.into())
    }

    async fn send(&self, request: Builder) -> Result<Response<Incoming>> {
        let answer = tokio::time::timeout(PATIENCE, self.head(request)).await;
        answer.unwrap_or_else(|_| bail!("{} did not answer within {} s", self.target, PATIENCE.as_secs()))
    }

    /// Sends a request, and returns when the head of the answer is there. The body can take any time: it may be a
    /// stream.
    async fn head(&self, request: Builder) -> Result<Response<Incoming>> {
        let stream = self.connector.connect(&self.target).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = request.header(header::HOST, self.target.authority());
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await;
        answer.with_context(|| format!("{} does not answer{}", self.target, self.target.hint()))
    }
}

async fn read(body: Incoming) -> Result<Vec<u8>> {
    Ok(body.collect().await.context("the answer was cut off")?.to_bytes().to_vec())
}
