use crate::Options;
use crate::reload::Reloads;
use crate::tokens::Tokens;
use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use dropsonde_engine::Engine;
use dropsonde_engine::front::{ClientPool, Front};
use dropsonde_engine::places::Places;
use std::sync::Arc;

/// What handlers share: the engine they ask, who may ask it, and how much at a time.
#[derive(Debug)]
pub struct App {
    pub engine: Arc<Engine>,
    /// What is in force: it may be another at any time.
    pub options: ArcSwap<Options>,
    pub tokens: Tokens,
    pub reloads: Reloads,
    /// Open connections that are no streams.
    pub(crate) connections: Arc<Places>,
    /// Those that hear that there is no room for them.
    pub(crate) turned_away: Arc<Places>,
    /// Turns of streams that begin.
    pub(crate) beginnings: Arc<Places>,
    /// Turns of range queries.
    pub(crate) queries: Arc<Places>,
    /// Bytes of memory that answers on their way take.
    pub(crate) answers: Arc<Places>,
}

impl App {
    /// Opens the tokens; those that are not there are made.
    pub fn new(engine: Arc<Engine>, options: Options) -> Result<Arc<Self>> {
        let app = Arc::new(Self {
            tokens: Tokens::open(&options).context("cannot read or make a token")?,
            engine,
            options: ArcSwap::from_pointee(options),
            reloads: Reloads::default(),
            connections: Arc::default(),
            turned_away: Arc::default(),
            beginnings: Arc::default(),
            queries: Arc::default(),
            answers: Arc::default(),
        });
        let front: Arc<dyn Front> = app.clone();
        app.engine.serve(Arc::downgrade(&front));
        Ok(app)
    }

    /// Has the tokens be those that are in their files now, whatever becomes of the rest of the configuration: a token that was
    /// replaced must not work until a plugin has started.
    pub async fn reload_tokens(self: &Arc<Self>) {
        let _change = self.tokens.change().await;
        let shared = self.clone();
        // If that fails, the host is going.
        let _ = tokio::task::spawn_blocking(move || shared.take_over_tokens()).await;
    }

    fn take_over_tokens(&self) {
        match self.tokens.read_again(&self.options.load()) {
            Ok(known) => {
                self.tokens.complain(None);
                if self.tokens.take_over(known) {
                    tracing::info!("the tokens were read again");
                    self.engine.hub.part();
                }
            }
            Err(error) => {
                let why = format!("cannot read or make a token; the ones before stay in force: {error}");
                if self.tokens.complain(Some(why.clone())) {
                    tracing::error!("{why}");
                }
            }
        }
    }
}

impl Front for App {
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
            pool("answer_bytes", "http.max_answer_bytes", &*self.answers),
        ]
    }
}
