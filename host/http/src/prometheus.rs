use super::answer_memory::{MemoryReserved, holding, reserve};
use super::content_negotiation;
use super::error::ApiError;
use super::{AppState, CallerExtension};
use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use dropsonde_engine::exposition::{Exposition, ScrapeError};

/// Seconds after which a client may retry a scrape that was over a limit.
const RETRY_AFTER: u32 = 1;

/// Answers in the format that the scraper prefers, compressed if the scraper accepts that.
pub(crate) async fn metrics(
    State(app): AppState,
    Extension(caller): CallerExtension,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (format, gzip) = (content_negotiation::format(&headers), content_negotiation::takes_gzip(&headers));
    let (text, place) = Exposition::scrape(&app.engine, caller.peer.id(), format, gzip).await?;
    // Several scrapes may share the text; each counts as if it had its own.
    let memory = reserve(&app, &caller.peer, text.len()).await?;
    let text = holding(text, (place, memory));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(format.content_type())),
        (header::VARY, HeaderValue::from_static("accept, accept-encoding")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    let mut response = (headers, text).into_response();
    response.extensions_mut().insert(MemoryReserved);
    if gzip {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

impl From<ScrapeError> for ApiError {
    fn from(why: ScrapeError) -> Self {
        let status = match why {
            ScrapeError::TooMany => StatusCode::SERVICE_UNAVAILABLE,
            ScrapeError::TooManyOfPeer => StatusCode::TOO_MANY_REQUESTS,
            ScrapeError::Lost => {
                tracing::error!(error = %why, "cannot answer a scrape");
                return Self::new(StatusCode::INTERNAL_SERVER_ERROR, why.to_string());
            }
        };
        Self::new(status, why.to_string()).retry_after(RETRY_AFTER)
    }
}
