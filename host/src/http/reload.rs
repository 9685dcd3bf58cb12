//! `POST /v1/reload`: the configuration is read again.

use super::App;
use super::error::{ApiError, Refused, json};
use crate::reload::NotAsked;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use std::time::Duration;

/// Longest time a client waits: plugins whose sections changed are compiled, started and tried meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);

/// Answers with what came of each part: 200 when all of it works, 422 when it is refused or a part fails.
pub(crate) async fn post(State(core): App) -> Result<Response, ApiError> {
    let answered = core.reloads.ask().map_err(|why| {
        let status = match why {
            NotAsked::Embedded => StatusCode::CONFLICT,
            NotAsked::TooMany => StatusCode::TOO_MANY_REQUESTS,
        };
        ApiError::new(status, why.to_string()).retry_after(1)
    })?;
    let unavailable = |why: &str| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why);
    let reload = match tokio::time::timeout(PATIENCE, answered).await {
        Ok(Ok(reload)) => reload,
        Ok(Err(_)) => return Err(unavailable("the host is stopping")),
        Err(_) => {
            let why = "the configuration is still being tried; the log and /health tell what comes of it";
            return Err(unavailable(why).retry_after(10));
        }
    };
    if reload.is_good() {
        return Ok(json(&reload));
    }
    let mut response = (StatusCode::UNPROCESSABLE_ENTITY, json(&reload)).into_response();
    response.extensions_mut().insert(Refused(reload.summary()));
    Ok(response)
}
