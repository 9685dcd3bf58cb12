use super::error::ApiError;
use crate::core::Core;
use axum::http::StatusCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Time a query waits for its turn. Who asked has most often given up by then.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Works off the server's threads: there may be very much to do, and a disk that answers late, or never.
pub(crate) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "it could not be done; the log says why"))
}

/// The same for a query of history: so many are worked on at a time.
pub(crate) async fn query<T: Send + 'static>(
    core: &Core,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    in_turn(core.queries.clone(), work).await
}

async fn in_turn<T: Send + 'static>(
    turns: Arc<Semaphore>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let turn = tokio::time::timeout(LONGEST_WAIT, turns.acquire_owned()).await;
    let Ok(Ok(turn)) = turn else {
        let why = "too many range queries are being worked on (http.max_range_queries)";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(1));
    };
    off_thread(move || {
        let _turn = turn;
        work()
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_query_waits_for_its_turn_and_not_for_ever() {
        let turns = Arc::new(Semaphore::new(1));
        let other = turns.clone().acquire_owned().await.unwrap();
        let refused = in_turn(turns.clone(), || ()).await.unwrap_err();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let waiting = tokio::spawn(in_turn(turns.clone(), || 7));
        tokio::task::yield_now().await;
        drop(other);
        assert_eq!(waiting.await.unwrap(), Ok(7));
        assert_eq!(turns.available_permits(), 1);
    }
}
