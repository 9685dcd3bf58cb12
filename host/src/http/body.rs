use super::error::ApiError;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

/// Bytes of one request, where nothing less is said.
pub(crate) const LARGEST: usize = 8 << 20;

/// What is sent is JSON. curl says something else unless it is told; no page can have a browser send that with a token.
pub(crate) fn check_json(headers: &HeaderMap) -> Result<(), ApiError> {
    const TAKEN: [&str; 2] = ["application/json", "application/x-www-form-urlencoded"];
    if content_type(headers).is_none_or(|given| TAKEN.contains(&given.as_str())) {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "it is sent as application/json"))
}

/// A body of so many bytes at most.
pub(crate) async fn read(body: Body, most: usize) -> Result<Bytes, ApiError> {
    match Limited::new(body, most).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("at most {most} bytes are taken here")))
        }
        Err(error) => Err(ApiError::invalid("body", error)),
    }
}

/// What a body is said to be, without parameters and in lower case; none when nothing is said.
pub(crate) fn content_type(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(header::CONTENT_TYPE)?.to_str().unwrap_or_default();
    Some(given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}
