//! Starts and stops a host.

pub use crate::builder::HostBuilder;
use crate::cli;
use crate::config::{Config, Listen};
use crate::reload::{self, ReloadReport};
use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use dropsonde_delivery::Deliveries;
use dropsonde_engine::disk_errors::{is_denied, is_unwritable};
use dropsonde_engine::plugins::{Component, TrialFailed, TrialOutcome, try_components};
use dropsonde_engine::service::{Service, Subscription};
use dropsonde_engine::tracked::Lifecycle;
use dropsonde_engine::{Engine, EngineParts, RunningEngine};
use dropsonde_http::writers::{ReaderTimeouts, Writers};
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

/// The binary that is running, even if its file was replaced.
pub(crate) const OWN_BINARY: &str = "/proc/self/exe";

/// Time that open requests have to end when the host stops.
const DRAIN: Duration = Duration::from_secs(3);

/// The error of a stop that could not write the last samples.
pub(crate) const NOT_WRITTEN: &str = "the last samples could not be written to disk and are lost";

/// Compiles a plugin and returns the exit code, if the host started this process to compile a plugin: for that it
/// starts its own binary again. A program that embeds the host calls this first in `main`, and ends with the exit code.
pub fn compile_if_told() -> Option<ExitCode> {
    let is_told = std::env::args_os().nth(1).is_some_and(|argument| argument == cli::COMPILE);
    is_told.then(dropsonde_sandbox::compile_as_child)
}

/// A running host.
#[derive(Debug)]
pub struct Host {
    running: RunningEngine,
    /// The configuration in force.
    config: ArcSwap<Config>,
    address: Listen,
    server: Arc<Server>,
    /// The server's task, which ends when this is dropped.
    serving: JoinSet<()>,
    writers: Writers,
    deliveries: Deliveries,
    /// Held during a reload, so that only one runs at a time.
    reloading: Mutex<()>,
}

impl Host {
    /// Returns a builder for a host.
    pub fn builder() -> HostBuilder {
        HostBuilder::default()
    }

    pub(crate) async fn start(config: Config, parts: impl FnOnce(Arc<Sandbox>) -> EngineParts) -> Result<Self> {
        if std::env::var_os(dropsonde_sandbox::COMPILING).is_some() {
            bail!(
                "this process was started to compile a plugin: call dropsonde::host::compile_if_told() first in main"
            );
        }
        let tls = Tls::read(&config.tls)?;
        let listener = Listener::bind(&config.listen, config.http.socket_mode)?;
        let address = listener.address().context("cannot get the address of the listening socket")?;
        prepare_folders(&config)?;
        let most = config.compile_cache.get() as u64;
        let compiled = config.kept_dir().map(|kept| CacheFolder { path: kept.join("compiled"), most });
        let sandbox = Arc::new(Sandbox::new()?.with_compiler(OWN_BINARY, cli::COMPILE, compiled));
        let running = RunningEngine::start(config.engine(), parts(sandbox.clone()))?;
        // The data directory is this host's alone now.
        sandbox.remove_other_versions();
        let engine = running.engine();
        let patience =
            ReaderTimeouts { heartbeat: config.stream.heartbeat.get(), stalled: config.stream.stalled.get() };
        let writers = Writers::start(&engine.hub, patience, &engine.vitals)
            .context("cannot start the threads that write streams")?;
        let app = App::new(engine.clone(), config.http())?;
        let server = Server::new(app.clone(), tls);
        let mut serving = JoinSet::new();
        serving.spawn(server.clone().serve(listener, running.stopping(), DRAIN));
        let deliveries = Deliveries::start(engine.clone(), config.delivery()).await;
        let config = ArcSwap::from_pointee(config);
        Ok(Self { running, config, address, server, serving, writers, deliveries, reloading: Mutex::default() })
    }

    /// Returns the address that the host listens on. Its port is the real one, even if the configuration says 0.
    pub fn address(&self) -> &Listen {
        &self.address
    }

    /// Returns the address as a URL, or as `unix:PATH`.
    pub fn url(&self) -> String {
        let is_secure = self.config.load().tls.files().is_some();
        match &self.address {
            Listen::Tcp(address) => format!("{}://{address}", if is_secure { "https" } else { "http" }),
            unix @ Listen::Unix(_) => unix.to_string(),
        }
    }

    /// Returns the configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Puts another configuration in force, and reads the files of certificates and tokens again. Keys that need a
    /// restart keep their values. If any part fails, nothing changes.
    pub async fn reload(&self, config: Config) -> ReloadReport {
        self.reload_from(None, Ok(config)).await
    }

    /// Reloads like [`reload`](Self::reload). `said` is the configuration that was read from `file`, or the error.
    pub(crate) async fn reload_from(&self, file: Option<&Path>, said: Result<Config>) -> ReloadReport {
        let _one = self.reloading.lock().await;
        reload::reload(&self.config, &self.server, &self.deliveries, file, said).await
    }

    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Returns the service with which a program reads samples and tracks instances.
    pub fn service(&self) -> Arc<dyn Service> {
        self.engine().clone()
    }

    /// Tracks, pauses and untracks instances by a platform's events, until the subscription is dropped or the stream
    /// ends.
    pub fn attach_to_events(&self, events: impl Stream<Item = Lifecycle> + Send + 'static) -> Subscription {
        Subscription::attach(self.engine().clone(), events)
    }

    pub fn engine(&self) -> &Arc<Engine> {
        self.running.engine()
    }

    /// Waits until the server ends by itself, which only a bug can cause.
    pub async fn server_ended(&mut self) {
        self.serving.join_next().await;
    }

    /// Ends streams, lets open requests finish for a bounded time, and stops polling. Returns false if the last samples
    /// should be on disk and could not be written.
    pub async fn stop(mut self) -> bool {
        self.running.drain();
        if let Some(Err(_)) = self.serving.join_next().await {
            tracing::error!("the server's task panicked");
        }
        // Alerts that are not sent by now are sent after the next start.
        drop(self.deliveries);
        let writers = self.writers;
        // This fails only if a writer panicked.
        let _ = tokio::task::spawn_blocking(move || writers.stop()).await;
        let is_written = self.running.stop().await;
        if !is_written {
            tracing::error!("{NOT_WRITTEN}");
        }
        is_written
    }
}

/// Starts plugins with a configuration, as a start of the host would, and keeps none of them running. Returns the
/// result for each, with the plugin's name.
pub(crate) async fn try_plugins(
    config: &Config,
    found: Vec<Component>,
) -> Result<Vec<(String, Result<TrialOutcome, TrialFailed>)>> {
    let sandbox = Arc::new(Sandbox::new()?.with_compiler(OWN_BINARY, cli::COMPILE, None));
    try_components(config.engine(), sandbox, found).await
}

/// Creates the data directory, and the plugins folder in it. A configured plugins folder must exist.
fn prepare_folders(config: &Config) -> Result<()> {
    let data = if config.store.memory_only { None } else { Some(config.data_dir()?) };
    let private = |folder: &Path| {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        // A folder that cannot be written does not stop the host: the code that writes there later reports it.
        let is_inside = |error: &io::Error| is_denied(error) && data.as_ref().is_some_and(|data| data != folder);
        let goes_on = |error: &io::Error| is_unwritable(error) || is_inside(error);
        let made = made.or_else(|error| if goes_on(&error) { Ok(()) } else { Err(error) });
        made.with_context(|| {
            format!("cannot create {}; choose another folder with --data, or use --memory-only", folder.display())
        })
    };
    if let Some(data) = &data {
        private(data)?;
    }
    match (&config.plugins_dir, &data) {
        (Some(given), _) if given.is_dir() => Ok(()),
        (Some(given), _) => bail!("plugins_dir = {}: no such folder; create it, or name another", given.display()),
        (None, Some(data)) => private(&data.join("plugins")),
        (None, None) => Ok(()),
    }
}
