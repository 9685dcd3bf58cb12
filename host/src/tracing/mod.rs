//! The host's log lines on standard error, and its spans for an OpenTelemetry collector.
//!
//! * `log`: format and level of log lines.
//! * `otlp`: batches of spans. `client`: HTTP requests with them.
//!
//! Spans have the level `DEBUG`: without a collector they are disabled and cost nothing.

#[cfg(feature = "otlp")]
mod client;
mod log;
#[cfg(feature = "otlp")]
mod otlp;

pub use log::{LogFormat, LogOptions};

use crate::config::TracingConfig;
use anyhow::Context as _;
use dropsonde_engine::metrics::HostMetrics;
use std::time::Duration;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Ends the tracing that [`init`] started.
#[derive(Debug)]
#[must_use = "spans that were not sent yet are lost without a shutdown"]
pub struct TracingGuard(#[cfg(feature = "otlp")] Option<opentelemetry_sdk::trace::SdkTracerProvider>);

/// Starts logging, and sending spans if a collector is configured. Call it once per process, within a tokio runtime.
///
/// `metrics` counts spans that were dropped, and requests to the collector.
#[cfg(feature = "otlp")]
pub fn init(log: &LogOptions, config: &TracingConfig, metrics: &HostMetrics) -> anyhow::Result<TracingGuard> {
    let exporting = if config.otlp_endpoint.is_empty() { None } else { Some(otlp::provider(config, metrics)?) };
    let spans = exporting.as_ref().map(otlp::layer);
    let began = tracing_subscriber::registry().with(spans).with(log.layer()).try_init();
    began.context("this process has a logger already")?;
    Ok(TracingGuard(exporting))
}

/// Starts logging. Fails if a collector is configured: this binary cannot send spans.
#[cfg(not(feature = "otlp"))]
pub fn init(log: &LogOptions, config: &TracingConfig, _: &HostMetrics) -> anyhow::Result<TracingGuard> {
    if !config.otlp_endpoint.is_empty() {
        anyhow::bail!(
            "tracing.otlp_endpoint is set, and this binary was built without OTLP: remove the key, or build it with the feature `otlp`"
        );
    }
    tracing_subscriber::registry().with(log.layer()).try_init().context("this process has a logger already")?;
    Ok(TracingGuard())
}

/// Starts logging without spans, for commands.
pub(crate) fn log_only(log: &LogOptions) {
    // Fails if the process has a logger already; that logger stays.
    let _ = tracing_subscriber::registry().with(log.layer()).try_init();
}

impl TracingGuard {
    /// Without OTLP there is nothing to send.
    #[cfg(not(feature = "otlp"))]
    pub async fn shutdown(self, _: Duration) -> bool {
        true
    }

    /// Sends the remaining spans, for as long as `patience` allows. Returns whether that ended in time; spans that the
    /// collector did not take are counted.
    #[cfg(feature = "otlp")]
    pub async fn shutdown(self, patience: Duration) -> bool {
        let Some(provider) = self.0 else { return true };
        let sent = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(patience).is_ok());
        sent.await.unwrap_or(false)
    }
}
