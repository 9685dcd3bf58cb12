use super::error::ApiError;
use super::peer::Peer;
use crate::App;
use axum::http::StatusCode;
use dropsonde_engine::address_space::{QUERY_THREADS, THREAD_STACK};
use dropsonde_engine::quota::{ClientShare, QuotaError};
use std::io;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinError;

/// The longest time that a query waits for its turn, and an answer for memory. Most clients have given up by then.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The niceness of the threads that run queries: that of plugins. Many large queries delay no poll, scrape or stream.
const NICE: i32 = 10;

/// The threads that run queries of history.
#[derive(Debug)]
pub(crate) struct QueryThreads {
    threads: Handle,
    /// None only while this is dropped.
    runtime: Option<Runtime>,
}

impl QueryThreads {
    pub(crate) fn new() -> io::Result<Self> {
        let lower = || {
            // If this fails, the thread only keeps its normal priority.
            let _ = rustix::process::nice(NICE);
        };
        let mut runtime = Builder::new_current_thread();
        runtime.max_blocking_threads(QUERY_THREADS).thread_stack_size(THREAD_STACK);
        let runtime = runtime.thread_name("query").on_thread_start(lower).build()?;
        Ok(Self { threads: runtime.handle().clone(), runtime: Some(runtime) })
    }

    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        self.threads.spawn_blocking(work).await.map_err(failed)
    }
}

impl Drop for QueryThreads {
    fn drop(&mut self) {
        // A query may wait for a disk, and nobody waits for the query.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// Runs work off the server's threads: there may be very much to do, and a disk may answer late, or never.
pub(crate) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(failed)
}

/// Returns the answer to a request whose work panicked.
fn failed(_: JoinError) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the request failed; the host's log says why")
}

/// Runs a query of history on its own thread. At most `http.max_range_queries` run at the same time, half of
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
            QuotaError::All(_) => (StatusCode::SERVICE_UNAVAILABLE, ""),
            QuotaError::OfPeer(_) => (StatusCode::TOO_MANY_REQUESTS, " from this client"),
        };
        let why =
            format!("too many range queries{whose} at the same time; try again later, or raise http.max_range_queries");
        ApiError::new(status, why).retry_after(1)
    })?;
    let work = move || {
        let _turn = turn;
        work()
    };
    app.query_threads.run(work).await
}
