use super::error::ApiError;
use super::peer::Peer;
use crate::App;
use axum::http::StatusCode;
use dropsonde_engine::quota::{ClientShare, Full};
use std::time::Duration;

/// The longest time that a query waits for its turn, and an answer for memory. Most clients have given up by then.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Runs work off the server's threads: there may be very much to do, and a disk may answer late, or never.
pub(crate) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed; the host's log says why"))
}

/// Runs a query of history off the server's threads. At most `http.max_range_queries` run at the same time, half of
/// them for one client. The turn ends with the work, however slowly the client reads the answer.
pub(crate) async fn query<T: Send + 'static>(
    app: &App,
    peer: &Peer,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let most = app.options.load().http.max_range_queries;
    let share = ClientShare { peer: peer.id(), most: most.div_ceil(2) };
    let turn = app.queries.wait(1, most, Some(share), LONGEST_WAIT).await.map_err(|full| {
        let (status, whose) = match full {
            Full::All(_) => (StatusCode::SERVICE_UNAVAILABLE, ""),
            Full::OfPeer(_) => (StatusCode::TOO_MANY_REQUESTS, " from this client"),
        };
        let why =
            format!("too many range queries{whose} at the same time; try again later, or raise http.max_range_queries");
        ApiError::new(status, why).retry_after(1)
    })?;
    off_thread(move || {
        let _turn = turn;
        work()
    })
    .await
}
