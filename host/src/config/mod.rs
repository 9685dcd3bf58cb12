//! The operator's configuration: a TOML file. Every key has a default, unknown keys are errors, and all values are
//! checked before use.
//!
//! Sections are defined beside the code that uses them: in [`dropsonde_engine::options`], [`dropsonde_http::options`],
//! and `tracing` here. `change` says which keys can change while the host runs, `reference` what the handbook says about
//! each, `file` where they are read from, and `in_force` shows them all.

mod alerting;
mod change;
mod file;
pub(crate) mod in_force;
pub(crate) mod reference;
mod tracing;

pub use alerting::AlertingConfig;
pub use change::ConfigChange;
pub use dropsonde_delivery::options::{Destination, OtlpConfig, ReadThroughConfig, RemoteWriteConfig};
pub use dropsonde_engine::options::{
    AlertConfig, GrantsConfig, LimitsConfig, MetricsConfig, PluginConfig, PollConfig, QueryConfig, SnapshotConfig,
    StaticInstance, StoreConfig, StreamConfig, TrustedKeys,
};
pub use dropsonde_http::options::{AuthConfig, HttpConfig, Listen, TlsConfig, TlsVersion};
pub use dropsonde_model::{Size, Span};
pub use file::ConfigFile;
pub use reference::{ConfigKey, keys};
pub use tracing::TracingConfig;

use crate::bundled::{BUNDLED, DEMO};
use dropsonde_delivery as delivery;
use dropsonde_engine::{self as engine, memory};
use dropsonde_http as http;
use dropsonde_model::{InvalidValue, Labels};
use dropsonde_registry::Reference;
use dropsonde_sandbox::Root;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The configuration of a host.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address to serve HTTP on.
    pub listen: Listen,
    /// The folder of history, tokens, compiled plugins and plugins' saved state. None: see [`Config::data_dir`].
    pub data_dir: Option<PathBuf>,
    /// The folder of `NAME.wasm` files. None: `plugins` in the data directory.
    pub plugins_dir: Option<PathBuf>,
    /// Disk for all compiled plugins; beyond it, the least recently used ones are deleted.
    pub compile_cache: Size,
    /// Labels of every instance.
    pub labels: Labels,
    /// The name of this host for programs on other machines, such as `instance` in answers to PromQL. None: the
    /// machine's name.
    pub external_name: Option<String>,
    pub store: StoreConfig,
    pub poll: PollConfig,
    pub stream: StreamConfig,
    pub metrics: MetricsConfig,
    pub snapshot: SnapshotConfig,
    pub query: QueryConfig,
    /// Public keys of minisign: only plugins that one of them signed are run. Empty: plugins need no signature.
    pub trusted_keys: Vec<String>,
    /// Globs of rule files; a relative one is relative to the folder of the configuration file.
    pub rules: Vec<String>,
    /// Alerts that need no rule file.
    pub alerts: Vec<AlertConfig>,
    pub alerting: AlertingConfig,
    /// Servers that get samples by Prometheus' remote write.
    pub remote_write: Vec<RemoteWriteConfig>,
    /// Collectors that get samples by OTLP.
    pub otlp: Vec<OtlpConfig>,
    /// A database that has longer history.
    pub read_through: Option<ReadThroughConfig>,
    pub http: HttpConfig,
    pub auth: AuthConfig,
    pub tls: TlsConfig,
    pub tracing: TracingConfig,
    /// Instances that are tracked from the start, beside those that plugins discover.
    pub instances: Vec<StaticInstance>,
    /// Sections of plugins, by name.
    pub plugins: BTreeMap<String, PluginConfig>,
    /// Lets other machines connect without TLS and read without a token. Only the command line sets it.
    #[serde(skip)]
    pub insecure: bool,
    /// Whether plugins may be pulled by a tag alone. Only the command line sets it.
    #[serde(skip)]
    pub trust_tag: bool,
    /// The folder that plugins take for `/`. Only the command line sets it.
    #[serde(skip)]
    pub root: Option<Root>,
    /// Whether the host shows made-up series. Only the command line sets it.
    #[serde(skip)]
    pub is_demo: bool,
}

/// An error in a configuration, with its file or key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {why}", path.display())]
    Unreadable { path: PathBuf, why: std::io::Error },
    #[error("{}: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error(transparent)]
    Value(#[from] InvalidValue),
}

/// Reads a regular file, or a pipe that a shell passes as `<(command)`. Any other special file is refused: reading a
/// named pipe, for example, could block forever.
fn text_of(path: &Path) -> io::Result<String> {
    let is_no_file = |real| fs::metadata(real).is_ok_and(|about| !about.is_file());
    if fs::canonicalize(path).is_ok_and(is_no_file) {
        return Err(io::Error::other("not a regular file"));
    }
    fs::read_to_string(path)
}

// === impl Config ===

impl Config {
    /// Reads a file. Call [`validated`](Self::validated) after setting the values that override it, such as flags.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = text_of(path).map_err(|why| ConfigError::Unreadable { path: path.to_owned(), why })?;
        let read: Result<Self, _> = toml::from_str(&text);
        let mut config =
            read.map_err(|error| ConfigError::Syntax { path: path.to_owned(), message: error.to_string() })?;
        if let Some(folder) = path.parent() {
            let globs = config.rules.iter_mut().chain(&mut config.alerting.alertmanager_files);
            globs.for_each(|glob| *glob = folder.join(&glob).to_string_lossy().into_owned());
        }
        Ok(config)
    }

    /// Returns the configuration of `serve --demo`.
    pub(crate) fn demo() -> Result<Self, ConfigError> {
        let parsed: Result<Self, toml::de::Error> = toml::from_str(include_str!("../demo.toml"));
        let refused =
            |error: toml::de::Error| ConfigError::Syntax { path: "demo.toml".into(), message: error.to_string() };
        Ok(Self { is_demo: true, ..parsed.map_err(refused)? })
    }

    /// Checks everything that types alone cannot check.
    pub fn validated(self) -> Result<Self, ConfigError> {
        match self.invalid_values().into_iter().next() {
            Some(wrong) => Err(wrong.into()),
            None => Ok(self),
        }
    }

    /// Returns what types alone cannot find: the first invalid value of each section.
    pub fn invalid_values(&self) -> Vec<InvalidValue> {
        let is_twice = self.snapshot.path == self.metrics.path;
        let paths = [
            if is_twice { InvalidValue::of("snapshot.path", "must differ from metrics.path") } else { Ok(()) },
            check_path("metrics.path", &self.metrics.path),
            check_path("snapshot.path", &self.snapshot.path),
        ];
        let sections = [self.http().check()].into_iter().chain(self.engine().checks());
        let sections = sections.chain([self.delivery().check(), self.tracing.check()]);
        sections.chain(paths).chain(self.check_pulls()).filter_map(Result::err).collect()
    }

    /// Checks where plugins are pulled from. A tag can be moved to other bytes, so there must be a digest beside it.
    fn check_pulls(&self) -> Vec<Result<(), InvalidValue>> {
        let check = |(name, section): (&String, &PluginConfig)| {
            let from = section.from.as_ref()?;
            let key = format!("plugins.{name}.from");
            Some(match from.parse::<Reference>() {
                Err(error) => InvalidValue::of(&key, &format!("cannot be used: {error}")),
                Ok(reference) if reference.digest.is_none() && section.sha256.is_none() && !self.trust_tag => {
                    let why = "names a tag, which can be moved: add the digest that `dropsonde plugin pull` prints, set \
                               sha256, or start with --trust-tag";
                    InvalidValue::of(&key, why)
                }
                Ok(_) if self.kept_dir().is_none() => {
                    let why = "needs a data directory, which says what was pulled: remove memory_only, or put the \
                               plugin's file into plugins_dir";
                    InvalidValue::of(&key, why)
                }
                Ok(_) => Ok(()),
            })
        };
        self.plugins.iter().filter_map(check).collect()
    }

    /// Returns the engine's part of the configuration.
    pub fn engine(&self) -> engine::Options {
        let memory = memory::available();
        engine::Options {
            labels: self.labels.clone(),
            store: self.store.clone(),
            poll: self.poll.clone(),
            stream: self.stream.clone(),
            metrics: self.metrics.clone().or_for_answers(self.http.answer_bytes(memory)),
            snapshot: self.snapshot.clone(),
            query: self.query.clone(),
            rules: self.alerting.rules(&self.rules, &self.alerts, self.usual_url()),
            external_name: self.external_name.clone(),
            instances: self.instances.clone(),
            plugins: self.plugins.clone(),
            data_dir: self.kept_dir(),
            plugins_dir: self.plugins_folder(),
            trusted_keys: TrustedKeys::new(self.trusted_keys.clone()),
            root: self.root.clone(),
            bundled: if self.is_demo { DEMO } else { BUNDLED },
            serving: self.http.bytes(memory),
        }
    }

    /// Returns the address of this host as people may reach it.
    fn usual_url(&self) -> String {
        let scheme = if self.tls.files().is_some() { "https" } else { "http" };
        let name = self.external_name.clone().unwrap_or_else(engine::machine_name);
        match &self.listen {
            Listen::Tcp(address) if address.port() != 0 => format!("{scheme}://{name}:{}", address.port()),
            _ => format!("{scheme}://{name}"),
        }
    }

    /// Returns the servers that alerts and samples are sent to.
    pub fn delivery(&self) -> delivery::options::DeliveryOptions {
        delivery::options::DeliveryOptions {
            alerting: self.alerting.delivery(),
            destinations: self.destinations(),
            read_through: self.read_through.clone(),
            data_dir: self.kept_dir(),
        }
    }

    /// Returns the servers that samples are sent to.
    pub fn destinations(&self) -> Vec<Destination> {
        let remote_write = self.remote_write.iter().cloned().map(Destination::from);
        remote_write.chain(self.otlp.iter().cloned().map(Destination::from)).collect()
    }

    /// Returns the HTTP server's part of the configuration.
    pub fn http(&self) -> http::ServerOptions {
        http::ServerOptions {
            listen: self.listen.clone(),
            http: self.http.clone(),
            auth: self.auth.clone(),
            tls: self.tls.clone(),
            data_dir: self.kept_dir(),
            insecure: self.insecure,
            metrics_path: self.metrics.path.clone(),
            snapshot_path: self.snapshot.path.clone(),
        }
    }

    /// Returns the configured data directory; else `/var/lib/dropsonde` as root, else `dropsonde` in the user's state
    /// directory.
    pub fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        if let Some(configured) = &self.data_dir {
            return Ok(configured.clone());
        }
        if rustix::process::geteuid().is_root() {
            return Ok(PathBuf::from("/var/lib/dropsonde"));
        }
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        match state {
            Some(state) => Ok(state.join("dropsonde")),
            None => Ok(InvalidValue::of(
                "data_dir",
                "must be set (use `--data DIR` or `--memory-only`): neither XDG_STATE_HOME nor HOME is set",
            )?),
        }
    }

    /// Returns the data directory, or none if nothing is kept between starts.
    pub fn kept_dir(&self) -> Option<PathBuf> {
        if self.store.memory_only { None } else { self.data_dir().ok() }
    }

    /// Returns the folder of plugins' files, or none without a data directory.
    pub(crate) fn plugins_folder(&self) -> Option<PathBuf> {
        self.plugins_dir.clone().or_else(|| Some(self.kept_dir()?.join("plugins")))
    }

    /// Returns the files that the configuration names and that can change at any time: certificates, keys, tokens. Rule
    /// files are followed by the engine.
    pub fn named_files(&self) -> Vec<PathBuf> {
        let http = self.http();
        http.tls_files().chain(http.token_files()).collect()
    }
}

/// Checks that a path is plain text and not the path of another route.
fn check_path(key: &str, path: &str) -> Result<(), InvalidValue> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    if !path.starts_with('/') || !path.bytes().all(plain) {
        return InvalidValue::of(key, "must begin with `/` and have only letters, digits and `/-_.`");
    }
    if http::is_reserved_path(path) {
        return InvalidValue::of(key, "is the path of another route");
    }
    Ok(())
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            data_dir: None,
            plugins_dir: None,
            compile_cache: Size::new(1 << 30),
            labels: Labels::new(),
            external_name: None,
            store: StoreConfig::default(),
            poll: PollConfig::default(),
            stream: StreamConfig::default(),
            metrics: MetricsConfig::default(),
            snapshot: SnapshotConfig::default(),
            query: QueryConfig::default(),
            rules: Vec::new(),
            alerts: Vec::new(),
            alerting: AlertingConfig::default(),
            remote_write: Vec::new(),
            otlp: Vec::new(),
            read_through: None,
            http: HttpConfig::default(),
            auth: AuthConfig::default(),
            tls: TlsConfig::default(),
            tracing: TracingConfig::default(),
            instances: Vec::new(),
            plugins: BTreeMap::new(),
            insecure: false,
            root: None,
            trust_tag: false,
            trusted_keys: Vec::new(),
            is_demo: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_model::Right;
    use std::time::Duration;

    fn parse(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        config.validated().map_err(|error| error.to_string())
    }

    #[test]
    fn a_named_pipe_as_configuration_file_is_refused_without_blocking() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        let error = Config::read(&pipe).unwrap_err();
        assert!(format!("{:#}", anyhow::Error::from(error)).ends_with("not a regular file"));
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
    fn an_invalid_value_is_refused_with_its_key() {
        for (text, key) in [
            ("poll.interval = '1ms'", "poll.interval"),
            ("poll.interval = '300000000d'", "TOML parse error"),
            ("poll.interval = '400d'", "poll.interval"),
            ("poll.discover_interval = '400d'", "poll.discover_interval"),
            ("poll.max_instances = 9223372036854775807", "poll.max_instances"),
            ("snapshot.interval = '367d'", "snapshot.interval"),
            ("plugins.p.interval = '400d'", "plugins.p.interval"),
            ("plugins.p.limits.memory = '99999999999GiB'", "TOML parse error"),
            ("[[instances]]\nid = 'a/b'", "instances[0].id"),
            ("[[instances]]\nid = 'a'\n[[instances]]\nid = 'b'\n[[instances]]\nid = 'a'", "instances[2].id"),
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
            ("stream.max_streams = 0", "stream.max_streams"),
            ("stream.max_streams_per_peer = 0", "stream.max_streams_per_peer"),
            ("stream.max_buffer_bytes = '1KiB'", "stream.max_buffer_bytes"),
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
            ("listen = '0.0.0.0:9090'\n[tls]\ncert = 'c'\nkey = 'k'\n[store]\nmemory_only = true", "listen"),
            ("tls.client_ca = 'ca.pem'", "tls.client_ca"),
            ("listen = 'unix:/x'\ntls = { cert = 'c', key = 'k' }", "tls"),
            ("http.hosts = ['http://x']", "http.hosts"),
            ("http.cors_origins = ['*']", "http.cors_origins"),
            ("http.cors_origins = ['https://x/y']", "http.cors_origins"),
            ("http.max_connections = 0", "http.max_connections"),
            ("http.max_connections_per_peer = 0", "http.max_connections_per_peer"),
            ("http.header_timeout = 0", "http.header_timeout"),
            ("http.max_header = '1KiB'", "http.max_header"),
            ("http.max_body = 0", "http.max_body"),
            ("http.max_answer_bytes = '1MiB'", "http.max_answer_bytes"),
            ("http.socket_mode = 0o1777", "http.socket_mode"),
            ("auth.login_lifetime = '1s'", "auth.login_lifetime"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(key), "{text}: {error}");
        }
    }

    #[test]
    fn a_host_open_to_other_machines_needs_a_read_token_unless_insecure_or_with_client_certificates() {
        let open = "listen = '[::]:9090'\ndata_dir = '/d'\n";
        let secure = parse(&format!("{open}[tls]\ncert = 'c'\nkey = 'k'")).unwrap();
        assert_eq!(secure.http().token_file(Right::Read), Some("/d/read.token".into()));
        let with_certificates = parse(&format!("{open}[tls]\ncert = 'c'\nkey = 'k'\nclient_ca = 'a'")).unwrap();
        assert_eq!(with_certificates.http().token_file(Right::Read), None, "a certificate is enough to read");
        let plain: Config = toml::from_str(open).unwrap();
        let insecure = Config { insecure: true, ..plain }.validated().unwrap();
        assert_eq!(insecure.http().token_file(Right::Read), None);
        let local = parse("data_dir = '/d'\nauth.admin_token_file = '/a'").unwrap();
        assert_eq!(local.http().token_file(Right::Read), None);
        assert_eq!(local.http().token_file(Right::Write), Some("/d/write.token".into()));
        assert_eq!(local.http().token_file(Right::Admin), Some("/a".into()));
    }

    #[test]
    fn a_plugins_configuration_becomes_json() {
        let config = parse("[plugins.p.config]\nwatch = ['a']\ntop = 3").unwrap();
        let json: serde_json::Value = serde_json::from_str(&config.engine().plugin("p").json()).unwrap();
        assert_eq!(json, serde_json::json!({ "watch": ["a"], "top": 3 }));
    }
}
