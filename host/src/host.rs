//! Starts and stops everything.

pub use crate::builder::HostBuilder;
use crate::cli;
use crate::config::{Config, Listen};
use crate::reload::{self, Reload};
use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use dropsonde_engine::plugins::{Component, TrialFailed, Tried, try_components};
use dropsonde_engine::service::{Service, Subscription};
use dropsonde_engine::tracked::Lifecycle;
use dropsonde_engine::unwritable::{is_denied, is_unwritable};
use dropsonde_engine::{Engine, Parts, Running};
use dropsonde_http::writers::{Patience, Writers};
use dropsonde_http::{App, Listener, Server, Tls};
use dropsonde_sandbox::{CacheFolder, Sandbox};
use futures_core::Stream;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// Stays the one that runs, also when its file was replaced.
pub(crate) const OWN_BINARY: &str = "/proc/self/exe";

/// Longest time open requests have to end.
const DRAIN: Duration = Duration::from_secs(3);

/// What came of a stop that is not as it should be.
pub(crate) const NOT_WRITTEN: &str = "the last samples could not be written; what was not on disk is lost";

/// Compiles a plugin, if this process was started for that: the host starts its own binary so. A program that embeds the host
/// asks this first of all, and ends with what it says.
pub fn compile_if_told() -> Option<ExitCode> {
    let is_told = std::env::args_os().nth(1).is_some_and(|argument| argument == cli::COMPILE);
    is_told.then(dropsonde_sandbox::compile_as_child)
}

/// A running host.
#[derive(Debug)]
pub struct Host {
    running: Running,
    /// What is in force.
    config: ArcSwap<Config>,
    address: Listen,
    server: Arc<Server>,
    /// The server, and what follows history; they end with this.
    serving: JoinSet<()>,
    writers: Writers,
    /// Held while another configuration takes over.
    reloading: Mutex<()>,
}

impl Host {
    /// One that is to be started.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    pub(crate) async fn start(config: Config, parts: impl FnOnce(Arc<Sandbox>) -> Parts) -> Result<Self> {
        if std::env::var_os(dropsonde_sandbox::COMPILING).is_some() {
            bail!(
                "this process was started to compile a plugin: its main is to begin with dropsonde::host::compile_if_told()"
            );
        }
        let tls = Tls::read(&config.tls)?;
        let listener = Listener::bind(&config.listen, config.http.socket_mode)?;
        let address = listener.address().context("the listening socket has no address")?;
        prepare_folders(&config)?;
        let most = config.compile_cache.get() as u64;
        let compiled = config.kept_dir().map(|kept| CacheFolder { path: kept.join("compiled"), most });
        let sandbox = Arc::new(Sandbox::new()?.with_compiler(OWN_BINARY, cli::COMPILE, compiled));
        let running = Running::start(config.engine(), parts(sandbox))?;
        let engine = running.engine();
        let patience = Patience { heartbeat: config.stream.heartbeat.get(), stalled: config.stream.stalled.get() };
        let writers =
            Writers::start(&engine.hub, patience, &engine.vitals).context("cannot start the writers of streams")?;
        let app = App::new(engine.clone(), config.http())?;
        let server = Server::new(app.clone(), tls);
        let mut serving = JoinSet::new();
        serving.spawn(server.clone().serve(listener, running.stopping(), DRAIN));
        let config = ArcSwap::from_pointee(config);
        Ok(Self { running, config, address, server, serving, writers, reloading: Mutex::default() })
    }

    /// Where it serves; tells the port when the configuration left it open.
    pub fn address(&self) -> &Listen {
        &self.address
    }

    /// The same as a URL, or as `unix:PATH`.
    pub fn url(&self) -> String {
        let is_secure = self.config.load().tls.files().is_some();
        match &self.address {
            Listen::Tcp(address) => format!("{}://{address}", if is_secure { "https" } else { "http" }),
            unix @ Listen::Unix(_) => unix.to_string(),
        }
    }

    /// The configuration that is in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Has another configuration in force, and certificates and tokens as their files are now. What takes a restart stays as
    /// it is; when something does not work, everything does.
    pub async fn reload(&self, config: Config) -> Reload {
        self.reload_from(None, Ok(config)).await
    }

    /// The same from a file, which may be one that cannot be read.
    pub(crate) async fn reload_from(&self, file: Option<&Path>, said: Result<Config>) -> Reload {
        let _one = self.reloading.lock().await;
        reload::reload(&self.config, &self.server, file, said).await
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// What a program does with its samples.
    pub fn service(&self) -> Arc<dyn Service> {
        self.engine().clone()
    }

    /// Has instances follow a platform's events, until the subscription is dropped or the stream is over.
    pub fn attach_to_events(&self, events: impl Stream<Item = Lifecycle> + Send + 'static) -> Subscription {
        Subscription::attach(self.engine().clone(), events)
    }

    pub fn engine(&self) -> &Arc<Engine> {
        self.running.engine()
    }

    /// Waits until the server ends without having been told to, which only a bug can make it do.
    pub async fn server_ended(&mut self) {
        self.serving.join_next().await;
    }

    /// Ends streams, lets open requests finish for a bounded time, stops polling. Returns whether the last samples were
    /// written, where they are to be.
    pub async fn stop(mut self) -> bool {
        self.running.drain();
        if let Some(Err(_)) = self.serving.join_next().await {
            tracing::error!("the server ended abruptly");
        }
        let writers = self.writers;
        // If that fails, one of them did.
        let _ = tokio::task::spawn_blocking(move || writers.stop()).await;
        let is_written = self.running.stop().await;
        if !is_written {
            tracing::error!("{NOT_WRITTEN}");
        }
        is_written
    }
}

/// Tries plugins by a configuration, as a start would, and keeps nothing of it. Returns what came of each, by name.
pub(crate) async fn try_plugins(
    config: &Config,
    found: Vec<Component>,
) -> Result<Vec<(String, Result<Tried, TrialFailed>)>> {
    let sandbox = Arc::new(Sandbox::new()?.with_compiler(OWN_BINARY, cli::COMPILE, None));
    try_components(config.engine(), sandbox, found).await
}

/// Makes the folders that are ours to make.
fn prepare_folders(config: &Config) -> Result<()> {
    let data = if config.store.memory_only { None } else { Some(config.data_dir()?) };
    let private = |folder: &Path| {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        // Whoever would write there says so.
        let is_inside = |error: &io::Error| is_denied(error) && data.as_ref().is_some_and(|data| data != folder);
        let goes_on = |error: &io::Error| is_unwritable(error) || is_inside(error);
        let made = made.or_else(|error| if goes_on(&error) { Ok(()) } else { Err(error) });
        made.with_context(|| {
            format!("cannot make {}; choose another with --data, or use --memory-only", folder.display())
        })
    };
    if let Some(data) = &data {
        private(data)?;
    }
    match (&config.plugins_dir, &data) {
        (Some(given), _) if given.is_dir() => Ok(()),
        (Some(given), _) => bail!("plugins_dir = {}: there is no such folder", given.display()),
        (None, Some(data)) => private(&data.join("plugins")),
        (None, None) => Ok(()),
    }
}
