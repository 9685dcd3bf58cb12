use super::error::ApiError;
use axum::http::StatusCode;

/// Works off the server's threads: there may be very much to do, and a disk that answers late, or never.
pub(crate) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "it could not be done; the log says why"))
}
