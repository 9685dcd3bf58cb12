use crate::ServerOptions;
use crate::blocking::QueryThreads;
use crate::reload::ReloadQueue;
use crate::tokens::Tokens;
use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use dropsonde_engine::Engine;
use dropsonde_engine::frontend::{ClientPool, Frontend};
use dropsonde_engine::quota::Quota;
use std::sync::Arc;

/// The state that all handlers share: the engine, the configuration, the tokens, and what clients take of the shared
/// pools.
#[derive(Debug)]
pub struct App {
    pub engine: Arc<Engine>,
    /// The configuration in force. A reload replaces it.
    pub options: ArcSwap<ServerOptions>,
    pub tokens: Tokens,
    pub reloads: ReloadQueue,
    /// Open connections, without streams.
    pub(crate) connections: Arc<Quota>,
    /// Connections over a limit that are being told so.
    pub(crate) turned_away: Arc<Quota>,
    /// Streams that are starting.
    pub(crate) beginnings: Arc<Quota>,
    /// Running range queries.
    pub(crate) queries: Arc<Quota>,
    /// Queries in PromQL that are computed.
    pub(crate) evaluations: Arc<Quota>,
    pub(crate) query_threads: QueryThreads,
    /// Bytes of memory that unfinished answers and large request bodies take.
    pub(crate) answers: Arc<Quota>,
}

impl App {
    /// Reads the tokens, creates missing ones, and registers with the engine.
    pub fn new(engine: Arc<Engine>, options: ServerOptions) -> Result<Arc<Self>> {
        let app = Arc::new(Self {
            tokens: Tokens::open(&options).context("cannot read or make a token")?,
            engine,
            options: ArcSwap::from_pointee(options),
            reloads: ReloadQueue::default(),
            connections: Arc::default(),
            turned_away: Arc::default(),
            beginnings: Arc::default(),
            queries: Arc::default(),
            evaluations: Arc::default(),
            query_threads: QueryThreads::new().context("cannot start the threads of range queries")?,
            answers: Arc::default(),
        });
        let front: Arc<dyn Frontend> = app.clone();
        app.engine.serve(Arc::downgrade(&front));
        Ok(app)
    }

    /// Reads the tokens again, apart from the rest of the configuration: a token that was replaced must not work until
    /// a plugin has started.
    pub async fn reload_tokens(self: &Arc<Self>) {
        let _change = self.tokens.change().await;
        let shared = self.clone();
        // This fails only while the host stops.
        let _ = tokio::task::spawn_blocking(move || shared.take_over_tokens()).await;
    }

    fn take_over_tokens(&self) {
        match self.tokens.read_again(&self.options.load()) {
            Ok(known) => {
                self.tokens.set_read_failure(None);
                if self.tokens.take_over(known) {
                    tracing::info!("reloaded the tokens");
                    self.engine.hub.end_client_streams();
                }
            }
            Err(error) => {
                let why = format!("cannot read or make a token; keeping the previous tokens: {error}");
                if self.tokens.set_read_failure(Some(why.clone())) {
                    tracing::error!("{why}");
                }
            }
        }
    }
}

impl Frontend for App {
    fn troubles(&self) -> Vec<String> {
        self.reloads.trouble().into_iter().chain(self.tokens.trouble()).collect()
    }

    fn connections(&self) -> usize {
        self.connections.taken()
    }

    fn pools(&self) -> Vec<ClientPool<'_>> {
        let pool = |name, key, places| ClientPool { name, key, places };
        vec![
            pool("connections", "http.max_connections_per_peer", &*self.connections),
            pool("range_queries", "http.max_range_queries", &*self.queries),
            pool("evaluations", "query.concurrency", &*self.evaluations),
            pool("answer_bytes", "http.max_answer_bytes", &*self.answers),
        ]
    }
}
