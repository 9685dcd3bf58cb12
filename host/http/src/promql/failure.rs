use crate::error::{ApiError, RefusalReason, json};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use dropsonde_promql::QueryError;
use serde::Serialize;

/// An error answer as Prometheus writes it: `{"status":"error","errorType":"bad_data","error":"…"}`.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    error_type: &'static str,
    message: String,
    /// Seconds after which the client may retry.
    retry_after: Option<u32>,
}

#[derive(Serialize)]
struct FailureBody<'a> {
    status: &'static str,
    #[serde(rename = "errorType")]
    error_type: &'static str,
    error: &'a str,
}

impl Failure {
    fn new(status: StatusCode, error_type: &'static str, message: String) -> Self {
        Self { status, error_type, message, retry_after: None }
    }

    pub(super) fn bad_data(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_data", message.into())
    }

    /// Returns the error for a parameter.
    pub(super) fn invalid(parameter: &str, why: impl std::fmt::Display) -> Self {
        Self::bad_data(format!("invalid parameter \"{parameter}\": {why}"))
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message.into())
    }

    pub(super) fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", message.into())
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        let (status, error_type) = match &error {
            QueryError::Parse(error) => return Self::invalid("query", error),
            QueryError::Invalid(_) => (StatusCode::BAD_REQUEST, "bad_data"),
            QueryError::Execution(_) | QueryError::Limit(_) => (StatusCode::UNPROCESSABLE_ENTITY, "execution"),
            QueryError::Timeout(_) => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            QueryError::Cancelled => (StatusCode::SERVICE_UNAVAILABLE, "canceled"),
            QueryError::Source(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        Self::new(status, error_type, error.to_string())
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let error_type = match error.status() {
            status if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE => "internal",
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => "unavailable",
            StatusCode::NOT_FOUND => "not_found",
            _ => "bad_data",
        };
        let retry_after = error.retries_after();
        Self { retry_after, ..Self::new(error.status(), error_type, error.to_string()) }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = FailureBody { status: "error", error_type: self.error_type, error: &self.message };
        let mut response = (self.status, json(&body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response.extensions_mut().insert(RefusalReason(self.message));
        response
    }
}
