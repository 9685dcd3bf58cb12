//! Metrics in OpenTelemetry's protocol (OTLP), as protobuf over HTTP.
//!
//! `part`: collects the series of a part of a window and makes data points of them. `message`: writes these into
//! requests. `starts`: when counters began.

mod message;
mod part;
mod starts;

pub(super) use part::OtlpPart;
pub(super) use starts::Starts;

use super::request::{Outcome, Verdict};
use crate::client::{Answer, quoted};
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use prost::Message;

/// Bytes of a data point, about.
const POINT_BYTES: usize = 200;

/// `ExportMetricsServiceResponse`.
#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

/// `ExportMetricsPartialSuccess`.
#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_data_points: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// `google.rpc.Status`, which answers have that are no success.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
}

pub(super) fn headers() -> [(HeaderName, HeaderValue); 2] {
    [
        (CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf")),
        (CONTENT_ENCODING, HeaderValue::from_static("gzip")),
    ]
}

/// Returns about how many bytes samples take in requests.
pub(super) fn bytes(samples: usize) -> usize {
    samples * POINT_BYTES
}

/// Says what an answer to a request with some data points means. The protocol names the only answers after which the
/// same request is sent again.
pub(super) fn verdict(samples: usize, answer: &Answer) -> Verdict {
    match answer.status {
        status if status.is_success() => {
            let partial = Response::decode(&*answer.body).ok().and_then(|response| response.partial_success);
            let Some(PartialSuccess { rejected_data_points, error_message }) = partial else {
                return Verdict::taken(samples);
            };
            let refused = usize::try_from(rejected_data_points).unwrap_or(0).min(samples);
            let why = format!("it took only some of them: {}", quoted(&error_message));
            Verdict::Done { taken: samples - refused, reason: "partial_success".to_owned(), why }
        }
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Verdict::Later,
        StatusCode::PAYLOAD_TOO_LARGE if samples > 1 => Verdict::Other(Outcome::TooLarge),
        status => {
            let said = Status::decode(&*answer.body).ok().filter(|status| !status.message.is_empty());
            let why = match said {
                Some(Status { message }) => format!("it answered {status}: {}", quoted(&message)),
                None => answer.to_string(),
            };
            Verdict::Done { taken: 0, reason: status.as_str().to_owned(), why }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::HeaderMap;

    fn of(status: u16, body: Vec<u8>) -> Verdict {
        let status = StatusCode::from_u16(status).unwrap();
        verdict(10, &Answer { status, headers: HeaderMap::new(), body: body.into() })
    }

    #[test]
    fn only_the_answers_that_the_protocol_names_are_followed_by_another_attempt() {
        for status in [429, 502, 503, 504] {
            assert_eq!(of(status, Vec::new()), Verdict::Later);
        }
        for status in [301, 400, 401, 404, 500, 501] {
            assert!(matches!(of(status, Vec::new()), Verdict::Done { taken: 0, .. }), "{status}");
        }
        assert_eq!(of(413, Vec::new()), Verdict::Other(Outcome::TooLarge));
    }

    #[test]
    fn a_partial_success_counts_what_was_rejected_and_says_why() {
        let of_success = |rejected_data_points| {
            let error_message = "too many\u{7} attributes".to_owned();
            let partial_success = Some(PartialSuccess { rejected_data_points, error_message });
            of(200, Response { partial_success }.encode_to_vec())
        };
        let Verdict::Done { taken, reason, why } = of_success(3) else { panic!("it is done") };
        assert_eq!((taken, &*reason), (7, "partial_success"));
        assert!(why.contains("too many") && !why.contains('\u{7}'), "{why}");
        for rejected in [-1, 0] {
            assert!(matches!(of_success(rejected), Verdict::Done { taken: 10, .. }));
        }
        assert!(matches!(of_success(99), Verdict::Done { taken: 0, .. }));
        assert_eq!(of(200, Vec::new()), Verdict::taken(10));
        assert_eq!(of(200, b"<html>".to_vec()), Verdict::taken(10));
        let Verdict::Done { why, .. } = of(400, Status { message: "no such tenant".to_owned() }.encode_to_vec()) else {
            panic!("it is done")
        };
        assert_eq!(why, "it answered 400 Bad Request: no such tenant");
    }
}
