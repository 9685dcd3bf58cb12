use super::client::{LastRequestError, client};
use crate::circuit_breaker::{CircuitBreaker, ReachabilityChange};
use crate::config::TracingConfig;
use anyhow::Context as _;
use dropsonde_engine::metrics::HostMetrics;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use prometheus::IntCounter;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

/// Spans that can wait to be sent; further ones are dropped and counted.
const MOST_WAITING: usize = 4096;

/// Spans in one request.
const BATCH: usize = 512;

/// Longest time a span waits for others in its batch.
const DELAY: Duration = Duration::from_secs(1);

/// Longest time the collector can take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The destination's name in metrics.
const DESTINATION: &str = "otlp";

/// The collector's path for spans, added to a configured URL without a path.
const PATH: &str = "/v1/traces";

/// Builds everything between the end of a span and the collector.
pub(super) fn provider(config: &TracingConfig, metrics: &HostMetrics) -> anyhow::Result<SdkTracerProvider> {
    let endpoint = endpoint(&config.otlp_endpoint);
    let why = LastRequestError::default();
    let client = client(endpoint.starts_with("https:"), TIMEOUT, why.clone())
        .context("cannot set up TLS for tracing.otlp_endpoint")?;
    let exporter = OtlpExporter::builder()
        .with_http()
        .with_shared_http_client(client)
        .with_endpoint(&endpoint)
        .with_timeout(TIMEOUT)
        .build()
        .with_context(|| format!("cannot send spans to {} (tracing.otlp_endpoint)", shown(&endpoint)))?;
    let waiting = Arc::new(AtomicUsize::new(0));
    let unreachable = metrics.spans_dropped.with_label_values(&["unreachable"]);
    let breaker = CircuitBreaker::new(DESTINATION, metrics.core.clone());
    let exporter = CircuitBreakerExporter {
        exporter,
        breaker,
        waiting: waiting.clone(),
        unreachable,
        shown: shown(&endpoint),
        why,
        told: Mutex::default(),
    };
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(MOST_WAITING)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(DELAY);
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build();
    let full = metrics.spans_dropped.with_label_values(&["full"]);
    let attributes = config.attributes.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let resource = Resource::builder()
        .with_service_name("dropsonde")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attributes(attributes);
    // A caller decides for its own traces.
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio)));
    Ok(SdkTracerProvider::builder()
        .with_span_processor(BoundedSpanProcessor { processor, waiting, full })
        .with_sampler(sampler)
        .with_resource(resource.build())
        .build())
}

/// Returns the layer that exports the host's own spans, with plugins' log lines as events in them.
pub(super) fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let ours = filter_fn(|about| about.target().starts_with("dropsonde") || about.target() == "plugin");
    // Leave out where in the code a span was made.
    let spans = tracing_opentelemetry::layer().with_location(false).with_threads(false).with_target(false);
    spans.with_tracked_inactivity(false).with_tracer(provider.tracer("dropsonde")).with_filter(ours)
}

/// Returns the URL for spans: `http://host:4317` gets the path for spans, a URL with a path stays as it is.
fn endpoint(configured: &str) -> String {
    let configured = configured.trim_end_matches('/');
    let after_scheme = configured.split_once("://").map_or(configured, |(_, rest)| rest);
    if after_scheme.contains('/') { configured.to_owned() } else { format!("{configured}{PATH}") }
}

/// Returns the URL without user and password.
fn shown(endpoint: &str) -> String {
    let uri = endpoint.parse::<hyper::Uri>().unwrap_or_default();
    let port = uri.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", uri.scheme_str().unwrap_or_default(), uri.host().unwrap_or_default(), uri.path())
}

/// Drops spans beyond the number that can wait, and counts them.
#[derive(Debug)]
struct BoundedSpanProcessor {
    processor: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    full: IntCounter,
}

impl SpanProcessor for BoundedSpanProcessor {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.processor.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        let room = |waiting| (waiting < MOST_WAITING).then_some(waiting + 1);
        match self.waiting.fetch_update(Relaxed, Relaxed, room) {
            Ok(_) => self.processor.on_end(span),
            Err(_) => self.full.inc(),
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}

/// Sends batches unless the circuit breaker is open, and counts the spans that the collector did not get.
#[derive(Debug)]
struct CircuitBreakerExporter {
    exporter: OtlpExporter,
    breaker: CircuitBreaker,
    waiting: Arc<AtomicUsize>,
    unreachable: IntCounter,
    /// The endpoint without secrets, for the log.
    shown: String,
    why: LastRequestError,
    /// The reason for failed requests that was logged last.
    told: Mutex<Option<String>>,
}

impl SpanExporter for CircuitBreakerExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let (count, started) = (batch.len(), Instant::now());
        self.waiting.fetch_sub(count, Relaxed);
        if !self.breaker.may_send(started) {
            self.unreachable.inc_by(count as u64);
            return Ok(());
        }
        let sent = self.exporter.export(batch).await;
        let change = match &sent {
            Ok(()) => self.breaker.answered(started.elapsed()),
            Err(_) => {
                self.unreachable.inc_by(count as u64);
                self.breaker.failed(Instant::now())
            }
        };
        let endpoint = &*self.shown;
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match &sent {
            Err(error) if why != *told || change == ReachabilityChange::Lost => {
                let error = why.clone().unwrap_or_else(|| error.to_string());
                ::tracing::warn!(endpoint, error, "cannot send spans; they are dropped until the collector answers");
                *told = why;
            }
            Ok(()) if change == ReachabilityChange::Back => {
                ::tracing::info!(endpoint, "the collector answers again; spans are sent");
                *told = None;
            }
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_without_a_path_gets_the_path_for_spans() {
        for (configured, wanted) in [
            ("http://host:4317", "http://host:4317/v1/traces"),
            ("http://host:4318/", "http://host:4318/v1/traces"),
            ("https://host/otlp/v1/traces", "https://host/otlp/v1/traces"),
        ] {
            assert_eq!(endpoint(configured), wanted);
        }
        assert_eq!(shown("https://user:secret@host:4318/v1/traces"), "https://host:4318/v1/traces");
    }
}
