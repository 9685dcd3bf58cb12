use super::App;
use super::error::ApiError;
use crate::exposition::{Exposition, Format, NotMade, takes_gzip};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// In the format a scraper likes best, compressed for who asks.
pub(crate) async fn metrics(State(core): App, headers: HeaderMap) -> Response {
    let (format, gzip) = (Format::wanted(&headers), takes_gzip(&headers));
    let text = match Exposition::scrape(&core, format, gzip).await {
        Ok(text) => text,
        Err(NotMade::TooMany) => {
            return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, NotMade::TooMany.to_string()).into_response();
        }
        Err(error) => {
            tracing::error!(%error, "cannot answer a scrape");
            return ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response();
        }
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(format.content_type())),
        (header::VARY, HeaderValue::from_static("accept, accept-encoding")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    let mut response = (headers, text).into_response();
    if gzip {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}
