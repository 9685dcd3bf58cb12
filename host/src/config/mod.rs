//! The operator's configuration: TOML, every key with a default, unknown keys are errors. A value that got in is valid.

mod plugin;
mod size;
mod time;

use dropsonde_sandbox::Limits;
use dropsonde_store::InstanceId;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use plugin::{GrantsConfig, LimitsConfig, PluginConfig};
pub use size::Bytes;
pub use time::Span;
pub(crate) use time::{FURTHEST_MS, time_ms};

/// Everything an operator can say.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to serve HTTP.
    pub listen: SocketAddr,
    /// Compiled plugins and plugins' saved state. None: see [`Config::data_dir`].
    pub data_dir: Option<PathBuf>,
    /// `NAME.wasm` files. None: `plugins` in the data directory.
    pub plugins_dir: Option<PathBuf>,
    /// What compiled plugins may take on disk together; those used longest ago go.
    pub compile_cache: Bytes,
    /// On every instance.
    pub labels: BTreeMap<String, String>,
    pub store: StoreConfig,
    pub poll: Poll,
    pub stream: Stream,
    pub metrics: Metrics,
    pub snapshot: Snapshot,
    pub tracing: TracingConfig,
    pub tls: TlsConfig,
    /// Tracked from the start, beside what plugins discover.
    pub instances: Vec<StaticInstance>,
    /// By plugin name.
    pub plugins: BTreeMap<String, PluginConfig>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Rows kept per sampler and instance.
    pub retention_samples: usize,
    /// Older rows go.
    pub retention: Span,
    /// What files of history may take together; beyond, the oldest rows go.
    pub max_disk: Bytes,
    /// Nothing is written to disk.
    pub memory_only: bool,
    /// How often what is new is written: what a crash can cost.
    pub flush_interval: Span,
    /// Memory for unpacked history, so that what is asked again is answered faster.
    pub block_cache: Bytes,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Poll {
    pub interval: Span,
    /// Longest wall time of one call; at most the interval.
    pub timeout: Span,
    /// How often plugins are asked what they find.
    pub discover_interval: Span,
    /// Which samplers poll an instance that names none: `*` is all.
    pub default_samplers: Vec<String>,
    pub max_instances: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stream {
    /// Samples of an instance that a slow reader may be behind before it loses some, or be away without missing any; the
    /// newest 16 MiB of all instances' are kept for those who are away.
    pub watch_buffer: usize,
    /// Silence after which a reader is told that the stream still is.
    pub heartbeat: Span,
    /// Time after which a reader that takes nothing is cut off.
    pub stalled: Span,
    pub max_streams: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    pub path: String,
    /// Series of one plugin's own metrics; each bucket of a histogram is one.
    pub max_series_per_plugin: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Snapshot {
    /// How often sources are polled, and the snapshot's numbers written to history.
    pub interval: Span,
    /// Another path of `/v1/snapshot`.
    pub path: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracingConfig {
    /// An OpenTelemetry collector, which gets spans by OTLP over HTTP: `http://host:4318`. Empty: off.
    pub otlp_endpoint: String,
    /// The share of traces that begin here and are sent; traces of others are as they say.
    pub sample_ratio: f64,
    /// What every span says of this host, beside `service.name` and `service.version`.
    pub attributes: BTreeMap<String, String>,
}

/// Both or none: without, HTTP is in plain.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM: the host's own certificate first, then those it is signed by.
    pub cert: Option<PathBuf>,
    /// PEM: its private key.
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticInstance {
    pub id: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// None: `poll.default_samplers`.
    pub samplers: Option<Vec<String>>,
}

/// What the host's own instances begin with.
pub(crate) const RESERVED: &str = "dropsonde:";

impl TlsConfig {
    /// The certificate's and the key's.
    pub(crate) fn files(&self) -> Option<(&Path, &Path)> {
        Some((self.cert.as_deref()?, self.key.as_deref()?))
    }
}

/// What is wrong with a configuration, and where.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("{key}: {why}")]
    Value { key: String, why: String },
}

// === impl Config ===

impl Config {
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text)
            .map_err(|error| ConfigError::Syntax { path: path.to_owned(), message: error.to_string() })?;
        config.validated()
    }

    /// Checks what types alone cannot.
    pub fn validated(self) -> Result<Self, ConfigError> {
        let wrong = |key: &str, why: &str| Err(ConfigError::Value { key: key.to_owned(), why: why.to_owned() });
        if !self.listen.ip().is_loopback() {
            return wrong("listen", "must be a loopback address so far, as there are no tokens for readers yet");
        }
        if self.poll.interval.get() < Duration::from_millis(100) {
            return wrong("poll.interval", "must be at least 100ms");
        }
        if self.poll.timeout.get().is_zero() || self.poll.timeout.get() > Duration::from_secs(3600) {
            return wrong("poll.timeout", "must be more than nothing and at most 1h");
        }
        if self.poll.discover_interval.get() < Duration::from_secs(1) {
            return wrong("poll.discover_interval", "must be at least 1s");
        }
        if self.poll.max_instances == 0 {
            return wrong("poll.max_instances", "must be at least 1");
        }
        if self.store.retention_samples == 0 {
            return wrong("store.retention_samples", "must be at least 1");
        }
        if self.store.retention.get() < Duration::from_secs(60) {
            return wrong("store.retention", "must be at least 1m");
        }
        if self.store.max_disk.get() < 1 << 20 {
            return wrong("store.max_disk", "must be at least 1MiB");
        }
        if !(Duration::from_millis(10)..=Duration::from_secs(3600)).contains(&self.store.flush_interval.get()) {
            return wrong("store.flush_interval", "must be at least 10ms and at most 1h");
        }
        if !(1..=65_536).contains(&self.stream.watch_buffer) {
            return wrong("stream.watch_buffer", "must be at least 1 and at most 65536");
        }
        let moment = Duration::from_millis(100)..=Duration::from_secs(86_400);
        if !moment.contains(&self.stream.heartbeat.get()) {
            return wrong("stream.heartbeat", "must be at least 100ms and at most 1d");
        }
        if !moment.contains(&self.stream.stalled.get()) {
            return wrong("stream.stalled", "must be at least 100ms and at most 1d");
        }
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return wrong("tls", "has a cert and a key, or neither");
        }
        if self.metrics.max_series_per_plugin > 1_000_000 {
            return wrong("metrics.max_series_per_plugin", "must be at most 1000000");
        }
        if self.snapshot.interval.get() < Duration::from_millis(100) {
            return wrong("snapshot.interval", "must be at least 100ms");
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
        for (key, path) in [("metrics.path", &self.metrics.path), ("snapshot.path", &self.snapshot.path)] {
            if !path.starts_with('/') || !path.bytes().all(plain) {
                return wrong(key, "must begin with `/` and go on with letters, digits and `/-_.`");
            }
            if crate::http::is_taken(path) {
                return wrong(key, "is a route of its own already");
            }
        }
        if self.metrics.path == self.snapshot.path {
            return wrong("snapshot.path", "is that of the metrics already");
        }
        let endpoint = &self.tracing.otlp_endpoint;
        if !endpoint.is_empty() && !is_web_address(endpoint) {
            return wrong(
                "tracing.otlp_endpoint",
                "must be a URL like http://127.0.0.1:4318, without a user: OTEL_EXPORTER_OTLP_HEADERS says who it is",
            );
        }
        if !(0.0..=1.0).contains(&self.tracing.sample_ratio) {
            return wrong("tracing.sample_ratio", "must be from 0 to 1");
        }
        check_labels("labels", &self.labels)?;
        for (index, instance) in self.instances.iter().enumerate() {
            let key = format!("instances[{index}]");
            if let Err(error) = InstanceId::new(&instance.id) {
                return wrong(&format!("{key}.id"), &error.to_string());
            }
            if instance.id.starts_with(RESERVED) {
                return wrong(&format!("{key}.id"), "is one of the host's own");
            }
            check_labels(&format!("{key}.labels"), &instance.labels)?;
        }
        for (name, plugin) in &self.plugins {
            if !crate::plugins::is_name(name) {
                return wrong(&format!("plugins.{name:?}"), &format!("is no plugin's name: {}", crate::plugins::NAMES));
            }
            let key = |key: &str| format!("plugins.{name}.{key}");
            plugin.check(&key)?;
        }
        Ok(self)
    }

    /// As configured; else /var/lib/dropsonde as root, else the user's state directory.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        if let Some(configured) = &self.data_dir {
            return Ok(configured.clone());
        }
        if rustix::process::geteuid().is_root() {
            return Ok(PathBuf::from("/var/lib/dropsonde"));
        }
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        state.map(|state| state.join("dropsonde")).ok_or_else(|| ConfigError::Value {
            key: "data_dir".to_owned(),
            why: "must be given (`--data DIR`, or `--memory-only`): neither XDG_STATE_HOME nor HOME is set".to_owned(),
        })
    }

    /// Where things are kept between starts; none when nothing is.
    pub fn kept_dir(&self) -> Option<PathBuf> {
        if self.store.memory_only { None } else { self.data_dir().ok() }
    }

    /// A plugin's own section, or the defaults.
    pub fn plugin(&self, name: &str) -> PluginConfig {
        self.plugins.get(name).cloned().unwrap_or_default()
    }

    pub fn interval(&self, plugin: &PluginConfig) -> Duration {
        plugin.interval.unwrap_or(self.poll.interval).get()
    }

    /// What is in force: a poll never outlasts `poll.timeout` or its interval.
    pub fn limits(&self, plugin: &PluginConfig) -> Limits {
        let limits = plugin.limits();
        let deadline = limits.deadline.min(self.poll.timeout.get()).min(self.interval(plugin));
        Limits { deadline, cpu: limits.cpu.min(deadline), ..limits }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9090)),
            data_dir: None,
            plugins_dir: None,
            compile_cache: Bytes::new(1 << 30),
            labels: BTreeMap::new(),
            store: StoreConfig::default(),
            poll: Poll::default(),
            stream: Stream::default(),
            metrics: Metrics::default(),
            snapshot: Snapshot::default(),
            tracing: TracingConfig::default(),
            tls: TlsConfig::default(),
            instances: Vec::new(),
            plugins: BTreeMap::new(),
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        // A week at 10 s.
        Self {
            retention_samples: 60_480,
            retention: Span::from_secs(7 * 86_400),
            max_disk: Bytes::new(10 << 30),
            memory_only: false,
            flush_interval: Span::from_secs(1),
            block_cache: Bytes::new(64 << 20),
        }
    }
}

impl Default for Poll {
    fn default() -> Self {
        Self {
            interval: Span::from_secs(10),
            timeout: Span::from_secs(5),
            discover_interval: Span::from_secs(30),
            default_samplers: vec!["*".to_owned()],
            max_instances: 100_000,
        }
    }
}

impl Default for Stream {
    fn default() -> Self {
        Self { watch_buffer: 64, heartbeat: Span::from_secs(15), stalled: Span::from_secs(30), max_streams: 20_000 }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self { max_series_per_plugin: 10_000, path: "/metrics".to_owned() }
    }
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self { otlp_endpoint: String::new(), sample_ratio: 1.0, attributes: BTreeMap::new() }
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Self { interval: Span::from_secs(10), path: "/parsec/metrics".to_owned() }
    }
}

fn is_web_address(text: &str) -> bool {
    let Ok(uri) = text.parse::<hyper::Uri>() else { return false };
    let Some(authority) = uri.authority().map(|authority| authority.as_str()) else { return false };
    let host = authority.rsplit(']').next().unwrap_or_default();
    // A port that is none is passed over by the parser.
    let is_port = !host.contains(':') || uri.port_u16().is_some();
    matches!(uri.scheme_str(), Some("http" | "https")) && is_port && !authority.contains('@')
}

/// Keys by Prometheus' grammar that mean nothing else already.
fn check_labels(key: &str, labels: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    match labels.keys().find(|label| !crate::labels::is_valid_key(label)) {
        Some(label) => Err(ConfigError::Value { key: format!("{key}.{label}"), why: crate::labels::RULE.to_owned() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        config.validated().map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_gives_the_documented_defaults() {
        let config = parse("").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:9090");
        assert_eq!(config.poll.interval.get(), Duration::from_secs(10));
        assert_eq!(config.store.retention_samples, 60_480);
        assert_eq!(config.stream.watch_buffer, 64);
        assert_eq!(config.metrics.path, "/metrics");
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line() {
        let error = parse("listen = '127.0.0.1:1'\n[poll]\nintervall = '1s'\n").unwrap_err();
        assert!(error.contains("line 3") && error.contains("intervall"), "{error}");
    }

    #[test]
    fn a_collector_is_a_url_with_a_port_that_is_one() {
        for good in ["http://host:4317", "https://host/v1/traces", "http://[::1]:4318", "http://host"] {
            assert!(is_web_address(good), "{good}");
        }
        for bad in ["host:4317", "ftp://host", "http://host:99999", "http://user:pw@host:4318", "http://", "/v1/traces"]
        {
            assert!(!is_web_address(bad), "{bad}");
        }
    }

    #[test]
    fn a_value_that_cannot_work_is_named_by_its_key() {
        for (text, key) in [
            ("poll.interval = '1ms'", "poll.interval"),
            ("[[instances]]\nid = 'a/b'", "instances[0].id"),
            ("labels = { le = 'x' }", "labels.le"),
            ("[plugins.p.grants]\nread = ['../x']", "plugins.p.grants.read"),
            ("[plugins.p.grants]\nhttp = ['example.com']", "plugins.p.grants.http"),
            ("[plugins.p.grants]\ndirs = ['data']", "plugins.p.grants.dirs"),
            ("[plugins.p.limits]\nmemory = 0", "plugins.p.limits.memory"),
            ("[plugins.p.limits]\nfailures = 0", "plugins.p.limits.failures"),
            ("stream.watch_buffer = 0", "stream.watch_buffer"),
            ("stream.watch_buffer = 100000", "stream.watch_buffer"),
            ("stream.heartbeat = '2d'", "stream.heartbeat"),
            ("stream.stalled = '1ms'", "stream.stalled"),
            ("tls.cert = 'cert.pem'", "tls"),
            ("metrics.path = 'metrics'", "metrics.path"),
            ("metrics.path = '/v1/plugins'", "metrics.path"),
            ("metrics.path = '/:x'", "metrics.path"),
            ("snapshot.path = '/metrics'", "snapshot.path"),
            ("snapshot.interval = '1ms'", "snapshot.interval"),
            ("[[instances]]\nid = 'dropsonde:snapshot'", "instances[0].id"),
            ("[plugins.'a.b']", "plugins.\"a.b\""),
            ("plugins.p.sha256 = 'abc'", "plugins.p.sha256"),
            ("listen = '0.0.0.0:9090'", "listen"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(key), "{text}: {error}");
        }
    }

    #[test]
    fn a_poll_never_outlasts_its_timeout_or_interval() {
        let config =
            parse("poll.timeout = '700ms'\n[plugins.a]\ninterval = '500ms'\n[plugins.b.limits]\ndeadline = '1h'")
                .unwrap();
        assert_eq!(config.limits(&config.plugin("a")).deadline, Duration::from_millis(500));
        assert_eq!(config.limits(&config.plugin("b")).deadline, Duration::from_millis(700));
    }

    #[test]
    fn a_plugins_configuration_becomes_json() {
        let config = parse("[plugins.p.config]\nwatch = ['a']\ntop = 3").unwrap();
        let json: serde_json::Value = serde_json::from_str(&config.plugin("p").json()).unwrap();
        assert_eq!(json, serde_json::json!({ "watch": ["a"], "top": 3 }));
    }
}
