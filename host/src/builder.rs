use crate::config::Config;
use crate::host::Host;
use anyhow::Result;
use dropsonde_engine::Parts;
use dropsonde_engine::clock::Clock;
use dropsonde_engine::metrics::HostMetrics;
use dropsonde_engine::native::{Native, Sampler};
use dropsonde_engine::snapshot::Source;
use std::sync::Arc;

/// A host in the making.
#[derive(Default)]
pub struct HostBuilder {
    config: Config,
    clock: Option<Clock>,
    metrics: Option<HostMetrics>,
    natives: Vec<Native>,
    without_plugins: bool,
}

impl HostBuilder {
    /// What an operator would say; [`Config::default`] otherwise. It is checked at the start.
    pub fn config(self, config: Config) -> Self {
        Self { config, ..self }
    }

    /// Another than the system's.
    pub fn clock(self, clock: Clock) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// Where the host counts, beside what the program registers there.
    pub fn metrics(self, metrics: HostMetrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// Polled beside the plugins.
    pub fn sampler(mut self, sampler: impl Sampler) -> Self {
        self.natives.push(Native::Sampler(Box::new(sampler)));
        self
    }

    /// Part of the snapshot beside the plugins.
    pub fn source(mut self, source: impl Source + 'static) -> Self {
        self.natives.push(Native::Source(Arc::new(source)));
        self
    }

    /// Natives alone: no plugin is loaded, and nothing is compiled.
    pub fn without_plugins(self) -> Self {
        Self { without_plugins: true, ..self }
    }

    /// Binds, finds the plugins and starts them. Serving begins at once; plugins join as they are ready.
    pub async fn start(self) -> Result<Host> {
        let metrics = self.metrics.map_or_else(HostMetrics::new, Ok)?;
        let clock = self.clock.unwrap_or_else(Clock::system);
        let (natives, has_plugins) = (self.natives, !self.without_plugins);
        let parts = |sandbox| Parts { clock, metrics, natives, sandbox, has_plugins };
        Host::start(self.config.validated()?, parts).await
    }
}
