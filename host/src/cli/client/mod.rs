//! A running host, asked over HTTP.
//!
//! # Layout
//!
//! * `target`: where it is; `connect`: the way there; `trust`: whose certificate is its; `token`: what is shown.

mod connect;
mod target;
mod token;
mod trust;

use super::HostArgs;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use connect::Connector;
use dropsonde_model::Right;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::time::Duration;
use target::Target;

/// What stays as it is in a path segment or a query value.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Longest time a host may take to begin an answer: an upload waits for a while.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks a host.
#[derive(Debug)]
pub(super) struct Client {
    target: Target,
    connector: Connector,
    token: Option<String>,
}

/// A host's refusal, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    why: String,
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
    /// For what needs a right. Most hosts want no token from readers.
    pub(super) fn new(args: &HostArgs, right: Right) -> Result<Self> {
        let config = args.data.config()?;
        let target = Target::of(args.url.as_deref(), &config)?;
        let token = token::find(args, &config, &target, right)?;
        Ok(Self { connector: Connector::new(args, &config)?, target, token })
    }

    /// The whole body of a good answer; any other is an error with the host's own words.
    pub(super) async fn get(&self, path: &str) -> Result<Vec<u8>> {
        read(self.open(path).await?).await
    }

    /// The body of a good answer, as it comes.
    pub(super) async fn open(&self, path: &str) -> Result<Incoming> {
        self.answer(Request::get(path), path).await
    }

    /// Asks for a change.
    pub(super) async fn change(&self, method: Method, path: &str) -> Result<Vec<u8>> {
        read(self.answer(Request::builder().method(method).uri(path), path).await?).await
    }

    async fn answer(&self, request: Builder, path: &str) -> Result<Incoming> {
        let response = self.send(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let Ok(ErrorBody { error }) = serde_json::from_slice(&read(response.into_body()).await?) else {
            bail!("{} answers {status} to {path}; is it a Dropsonde host?", self.target);
        };
        match status {
            StatusCode::UNAUTHORIZED => bail!(
                "{error}; name a file with --token-file, or the host's own folder or configuration with --data or --config"
            ),
            _ => Err(Refused { status, why: error }.into()),
        }
    }

    async fn send(&self, request: Builder) -> Result<Response<Incoming>> {
        let answer = tokio::time::timeout(PATIENCE, self.head(request)).await;
        answer.unwrap_or_else(|_| bail!("{} has not answered for {} s", self.target, PATIENCE.as_secs()))
    }

    /// Its body may take as long as it likes: it may be a stream.
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
    Ok(body.collect().await.context("the answer broke off")?.to_bytes().to_vec())
}
