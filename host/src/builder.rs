use crate::config::Config;
use crate::host::Host;
use anyhow::Result;
use dropsonde_engine::EngineParts;
use dropsonde_engine::clock::Clock;
use dropsonde_engine::metrics::HostMetrics;
use dropsonde_engine::native::{Native, Sampler};
use dropsonde_engine::snapshot::Source;
use std::sync::Arc;

/// Configures and starts a [`Host`].
#[derive(Default)]
pub struct HostBuilder {
    config: Config,
    clock: Option<Clock>,
    metrics: Option<HostMetrics>,
    natives: Vec<Native>,
    without_plugins: bool,
}

impl HostBuilder {
    /// Sets the configuration; without it, [`Config::default`]. [`start`](Self::start) checks it.
    pub fn config(self, config: Config) -> Self {
        Self { config, ..self }
    }

    /// Sets the clock; without it, the system's clock.
    pub fn clock(self, clock: Clock) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// Sets the host's metrics, so that the program can register its own beside them.
    pub fn metrics(self, metrics: HostMetrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// Adds a sampler that the host polls beside the plugins.
    pub fn sampler(mut self, sampler: impl Sampler) -> Self {
        self.natives.push(Native::Sampler(Box::new(sampler)));
        self
    }

    /// Adds a source that is part of the snapshot beside the plugins.
    pub fn source(mut self, source: impl Source + 'static) -> Self {
        self.natives.push(Native::Source(Arc::new(source)));
        self
    }

    /// Loads and compiles no plugins: the host runs only the samplers and sources that the program adds.
    pub fn without_plugins(self) -> Self {
        Self { without_plugins: true, ..self }
    }

    /// Binds the listening socket, finds the plugins and starts them. The host serves at once; plugins join when they
    /// are ready.
    pub async fn start(self) -> Result<Host> {
        let metrics = self.metrics.map_or_else(HostMetrics::new, Ok)?;
        let clock = self.clock.unwrap_or_else(Clock::system);
        let (natives, has_plugins) = (self.natives, !self.without_plugins);
        let parts = |sandbox| EngineParts { clock, metrics, natives, sandbox, has_plugins };
        Host::start(self.config.validated()?, parts).await
    }
}
