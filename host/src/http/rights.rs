use super::error::ApiError;
use crate::core::Core;
use crate::tokens::{Refusal, Right};
use axum::http::{HeaderMap, StatusCode, header};

/// Whether a request may do what needs a right.
pub(crate) fn check(core: &Core, right: Right, headers: &HeaderMap) -> Result<(), ApiError> {
    let authorization = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    core.tokens.check(right, authorization).map_err(|refusal| match refusal {
        Refusal::Never => ApiError::new(StatusCode::FORBIDDEN, "with --memory-only there is no token to allow this"),
        Refusal::Missing => {
            ApiError::unauthorized(format!("this needs the {} token: Authorization: Bearer TOKEN", right.as_str()))
        }
        Refusal::Wrong => ApiError::unauthorized(format!("this is not the {} token", right.as_str())),
    })
}
