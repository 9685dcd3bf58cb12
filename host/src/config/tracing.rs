use dropsonde_model::InvalidValue;
use serde::Deserialize;
use std::collections::BTreeMap;

/// `[tracing]`: the export of spans.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracingConfig {
    /// URL of an OpenTelemetry collector that gets spans by OTLP over HTTP, like `http://host:4318`. Empty: no spans.
    pub otlp_endpoint: String,
    /// Share of the traces begun here that are sent, 0 to 1. Callers decide for the traces they begin.
    pub sample_ratio: f64,
    /// Resource attributes of every span, beside `service.name` and `service.version`.
    pub attributes: BTreeMap<String, String>,
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self { otlp_endpoint: String::new(), sample_ratio: 1.0, attributes: BTreeMap::new() }
    }
}

impl TracingConfig {
    pub(super) fn check(&self) -> Result<(), InvalidValue> {
        if !self.otlp_endpoint.is_empty() && !is_web_address(&self.otlp_endpoint) {
            return InvalidValue::of(
                "tracing.otlp_endpoint",
                "must be a URL like http://127.0.0.1:4318, without a user name: pass credentials in OTEL_EXPORTER_OTLP_HEADERS",
            );
        }
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return InvalidValue::of("tracing.sample_ratio", "must be from 0 to 1");
        }
        Ok(())
    }
}

fn is_web_address(text: &str) -> bool {
    let Ok(uri) = text.parse::<hyper::Uri>() else { return false };
    let Some(authority) = uri.authority().map(|authority| authority.as_str()) else { return false };
    let host = authority.rsplit(']').next().unwrap_or_default();
    // The parser ignores an invalid port.
    let is_port = !host.contains(':') || uri.port_u16().is_some();
    matches!(uri.scheme_str(), Some("http" | "https")) && is_port && !authority.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_endpoint_must_be_a_url_with_a_valid_port() {
        for good in ["http://host:4317", "https://host/v1/traces", "http://[::1]:4318", "http://host"] {
            assert!(is_web_address(good), "{good}");
        }
        for bad in ["host:4317", "ftp://host", "http://host:99999", "http://user:pw@host:4318", "http://", "/v1/traces"]
        {
            assert!(!is_web_address(bad), "{bad}");
        }
    }
}
