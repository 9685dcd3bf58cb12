//! Prometheus' remote write protocol, in both versions.

#[cfg(test)]
mod messages;
mod request;

use super::destination::Version;
use super::request::{Outcome, REQUEST_BYTES, ReadyRequest, SentSeries, Verdict};
use crate::client::Answer;
use bytes::Bytes;
use dropsonde_model::Labels;
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use request::RequestBuilder;

/// Bytes of a sample, and about those of the labels of a series.
const SAMPLE_BYTES: usize = 18;
const LABELS_BYTES: usize = 250;

/// Samples of a series in a full request, at least, of history that is caught up with.
const SAMPLES_OF_SERIES: usize = 32;

const VERSION: HeaderName = HeaderName::from_static("x-prometheus-remote-write-version");

/// The header in which a server of version 2 tells how many samples it wrote.
const SAMPLES_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-samples-written");

/// The requests of a part of a window so far, the last of them open.
#[derive(Debug)]
pub(super) struct RemoteWritePart {
    version: Version,
    max_samples: usize,
    ready: Vec<ReadyRequest>,
    open: RequestBuilder,
    example: Option<Labels>,
}

/// Returns the headers of requests of a version.
pub(super) fn headers(version: Version) -> [(HeaderName, HeaderValue); 3] {
    let (media_type, number) = match version {
        Version::V1 => ("application/x-protobuf", "0.1.0"),
        Version::V2 => ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"),
    };
    [
        (CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (CONTENT_ENCODING, HeaderValue::from_static("snappy")),
        (VERSION, HeaderValue::from_static(number)),
    ]
}

/// Returns about how many bytes samples of some series take in requests.
pub(super) fn bytes(samples: usize, series: usize) -> usize {
    samples * SAMPLE_BYTES + samples.min(series) * LABELS_BYTES
}

/// Says what an answer to a request with some samples means.
pub(super) fn verdict(version: Version, samples: usize, answer: &Answer) -> Verdict {
    let written = answer.headers.get(SAMPLES_WRITTEN).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let written = written.map(|written| written.min(samples));
    match (answer.status, version, written) {
        (status, Version::V1, _) if status.is_success() => Verdict::taken(samples),
        (status, Version::V2, Some(taken)) if status.is_success() => {
            Verdict::Done { taken, reason: "not_written".to_owned(), why: "it wrote only some of them".to_owned() }
        }
        // A server of version 1 answers like this to what it does not understand.
        (status, Version::V2, None) if status.is_success() => Verdict::Other(Outcome::TooNew),
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, Version::V2, _) => Verdict::Other(Outcome::TooNew),
        (StatusCode::PAYLOAD_TOO_LARGE, ..) if samples > 1 => Verdict::Other(Outcome::TooLarge),
        // Of version 2 it may have written the others.
        (status, _, written) if is_refusal(status) => Verdict::refused(written.unwrap_or(0), answer),
        _ => Verdict::Later,
    }
}

/// Returns whether an answer says that the request itself is wrong, so that it is wrong for ever. An answer that is about
/// the address or about credentials is not: an operator can mend that, and history keeps the samples until then.
fn is_refusal(status: StatusCode) -> bool {
    let is_about_access = matches!(
        status,
        StatusCode::UNAUTHORIZED
            | StatusCode::PAYMENT_REQUIRED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::PROXY_AUTHENTICATION_REQUIRED
    );
    let is_passing =
        matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
    status.is_client_error() && !is_about_access && !is_passing
}

impl RemoteWritePart {
    pub(super) fn new(version: Version, max_samples: usize) -> Self {
        let room = bytes(max_samples, max_samples / SAMPLES_OF_SERIES).min(REQUEST_BYTES);
        let open = RequestBuilder::new(version, room);
        Self { version, max_samples, ready: Vec::new(), open, example: None }
    }

    /// Adds samples of a series, ascending in time.
    pub(super) fn add(&mut self, series: SentSeries<'_>, at_ms: &[i64], values: &[f64]) -> Result<(), snap::Error> {
        for (at_ms, values) in at_ms.chunks(self.max_samples).zip(values.chunks(self.max_samples)) {
            let is_full = self.open.samples + at_ms.len() > self.max_samples || self.open.len() > REQUEST_BYTES;
            if is_full && self.open.samples > 0 {
                self.close()?;
            }
            self.example.get_or_insert_with(|| series.labels.clone());
            self.open.add(series, at_ms, values);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), snap::Error> {
        let next = RequestBuilder::new(self.version, 0);
        let full = std::mem::replace(&mut self.open, next);
        let (samples, example) = (full.samples, self.example.take());
        self.ready.push(ReadyRequest { samples, body: Bytes::from(full.finish()?), example });
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<Vec<ReadyRequest>, snap::Error> {
        if self.open.samples > 0 {
            self.close()?;
        }
        Ok(self.ready)
    }
}
