//! Requests and the meaning of their answers, in all protocols.

use super::destination::{Destination, Protocol, Version};
use super::otlp::{self, OtlpPart, Starts};
use super::remote_write::{self, RemoteWritePart};
use crate::client::Answer;
use anyhow::Result;
use bytes::Bytes;
use dropsonde_engine::series::Metadata;
use dropsonde_model::{Labels, MetricType};
use hyper::header::{HeaderName, HeaderValue};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most bytes of a request, before it is compressed.
pub(super) const REQUEST_BYTES: usize = 2 << 20;

/// The form of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Format {
    RemoteWrite(Version),
    /// With these attributes of all resources.
    Otlp(Arc<BTreeMap<String, String>>),
}

/// Samples of a series, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SentSeries<'a> {
    pub(super) labels: &'a Labels,
    pub(super) metric_type: MetricType,
    /// The type, the help and the unit of its metric, if they are known.
    pub(super) metadata: Option<&'a Metadata>,
}

/// A request that is ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct ReadyRequest {
    pub(super) samples: usize,
    pub(super) body: Bytes,
    /// The labels of one of its series, for people.
    pub(super) example: Option<Labels>,
}

/// The meaning of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The server took some samples, and refuses the others for good. `reason`: a word; `why`: a sentence.
    Done { taken: usize, reason: String, why: String },
    /// The server does not take the request in this form.
    Other(Outcome),
    /// The server may take the same request later.
    Later,
}

/// The end of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The server has it, or will never take it.
    Done,
    /// The server does not understand this version of the protocol.
    TooNew,
    /// The server takes only smaller requests.
    TooLarge,
}

/// The requests of a part of a window, while they are made.
#[derive(Debug)]
pub(super) enum OpenPart {
    RemoteWrite(RemoteWritePart),
    Otlp(OtlpPart),
}

impl Format {
    pub(super) fn of(destination: &Destination) -> Self {
        match &destination.protocol {
            Protocol::RemoteWrite(version) => Self::RemoteWrite(*version),
            Protocol::Otlp(resource) => Self::Otlp(Arc::new(resource.clone())),
        }
    }

    pub(super) fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        match self {
            Self::RemoteWrite(version) => remote_write::headers(*version).into(),
            Self::Otlp(_) => otlp::headers().into(),
        }
    }

    /// Returns whether requests say what metrics are.
    pub(super) fn has_metadata(&self) -> bool {
        *self != Self::RemoteWrite(Version::V1)
    }

    /// Returns whether the series of a histogram or of a summary must be in the same part of a window.
    pub(super) fn keeps_families_whole(&self) -> bool {
        matches!(self, Self::Otlp(_))
    }

    /// Returns whether a part has to be made even if the server has it: it says when counters began.
    pub(super) fn needs_all_parts(&self) -> bool {
        matches!(self, Self::Otlp(_))
    }

    /// Returns about how many bytes samples of some series take in requests.
    pub(super) fn bytes(&self, samples: usize, series: usize) -> usize {
        match self {
            Self::RemoteWrite(_) => remote_write::bytes(samples, series),
            Self::Otlp(_) => otlp::bytes(samples),
        }
    }

    pub(super) fn open(&self, max_samples: usize) -> OpenPart {
        match self {
            Self::RemoteWrite(version) => OpenPart::RemoteWrite(RemoteWritePart::new(*version, max_samples)),
            Self::Otlp(resource) => OpenPart::Otlp(OtlpPart::new(resource.clone(), max_samples)),
        }
    }

    /// Says what an answer to a request with some samples means.
    pub(super) fn verdict(&self, samples: usize, answer: &Answer) -> Verdict {
        match self {
            Self::RemoteWrite(version) => remote_write::verdict(*version, samples, answer),
            Self::Otlp(_) => otlp::verdict(samples, answer),
        }
    }
}

impl OpenPart {
    /// Adds samples of a series, ascending in time.
    pub(super) fn add(&mut self, series: SentSeries<'_>, at_ms: &[i64], values: &[f64]) -> Result<()> {
        match self {
            Self::RemoteWrite(part) => part.add(series, at_ms, values)?,
            Self::Otlp(part) => part.add(series, at_ms, values),
        }
        Ok(())
    }

    /// Notes in `starts` when counters began, and makes no requests.
    pub(super) fn follow(self, starts: &mut Starts) -> Result<()> {
        match self {
            Self::RemoteWrite(_) => Ok(()),
            Self::Otlp(part) => part.follow(starts),
        }
    }

    /// Returns the requests, to be sent one after the other. Notes in `starts` when counters began.
    pub(super) fn finish(self, starts: &mut Starts) -> Result<Vec<ReadyRequest>> {
        match self {
            Self::RemoteWrite(part) => Ok(part.finish()?),
            Self::Otlp(part) => part.finish(starts),
        }
    }
}

impl Verdict {
    /// The server has all samples.
    pub(super) fn taken(samples: usize) -> Self {
        Self::Done { taken: samples, reason: String::new(), why: String::new() }
    }

    /// The server took some samples and says why it will never take the others.
    pub(super) fn refused(taken: usize, answer: &Answer) -> Self {
        Self::Done { taken, reason: answer.status.as_str().to_owned(), why: answer.to_string() }
    }
}
