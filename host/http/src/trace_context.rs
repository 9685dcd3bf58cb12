use axum::http::HeaderMap;
use tracing::Span;

/// Makes a span part of the trace that the request belongs to (W3C trace context). A disabled span stays as it is.
#[cfg(feature = "otlp")]
pub(crate) fn set_parent_trace(span: &Span, headers: &HeaderMap) {
    use opentelemetry::propagation::TextMapPropagator as _;
    use opentelemetry_http::HeaderExtractor;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    if !span.is_disabled() && headers.contains_key("traceparent") {
        let context = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
        // Without a collector it is in no trace.
        let _ = span.set_parent(context);
    }
}

/// Without a collector there is no trace.
#[cfg(not(feature = "otlp"))]
pub(crate) fn set_parent_trace(_: &Span, _: &HeaderMap) {}
