//! What the host tells about its own work: log lines on standard error, and spans to an OpenTelemetry collector.
//!
//! * `log`: format and level of lines.
//! * `otlp`: spans in batches over HTTP; `client`: the requests.
//!
//! Spans are of the level `DEBUG`: without a collector nobody wants them, and they cost nothing.

mod client;
mod log;
mod otlp;

pub use log::{Format, LogOptions};

use crate::config::TracingConfig;
use anyhow::Context as _;
use dropsonde_engine::metrics::HostMetrics;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::time::Duration;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Ends what [`init`] began.
#[derive(Debug)]
#[must_use = "spans that were not sent yet are lost without a shutdown"]
pub struct Shutdown(Option<SdkTracerProvider>);

/// Begins to log, and, if there is a collector, to send spans there; once in a process, within a tokio runtime.
///
/// What becomes of spans is counted in `metrics`.
pub fn init(log: &LogOptions, config: &TracingConfig, metrics: &HostMetrics) -> anyhow::Result<Shutdown> {
    let exporting = if config.otlp_endpoint.is_empty() { None } else { Some(otlp::provider(config, metrics)?) };
    let spans = exporting.as_ref().map(otlp::layer);
    let began = tracing_subscriber::registry().with(spans).with(log.layer()).try_init();
    began.context("something logs in this process already")?;
    Ok(Shutdown(exporting))
}

/// Only logs: for commands.
pub(crate) fn log_only(log: &LogOptions) {
    // Who logs already goes on.
    let _ = tracing_subscriber::registry().with(log.layer()).try_init();
}

impl Shutdown {
    /// Sends what is left, unless that takes longer. Whether it came to an end in time; what a collector did not take is
    /// counted.
    pub async fn shutdown(self, patience: Duration) -> bool {
        let Some(provider) = self.0 else { return true };
        let sent = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(patience).is_ok());
        sent.await.unwrap_or(false)
    }
}
