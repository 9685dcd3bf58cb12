//! The operator's configuration: TOML, every key with a default, unknown keys are errors. A value that got in is valid.
//!
//! # Layout
//!
//! * A file for each section: `store`, `poll`, `stream`, `exposition`, `http`, `auth`, `tls`, `tracing`, `instance`, `plugin`.
//! * `listen`, `size`, `time`: values as people write them.
//! * `change`: what of it can be another while the host runs; `names`: the plugins it names.

mod auth;
mod change;
mod exposition;
mod http;
mod instance;
mod listen;
mod names;
mod plugin;
mod poll;
mod size;
mod store;
mod stream;
mod time;
mod tls;
mod tracing;

use dropsonde_sandbox::Limits;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

pub use auth::AuthConfig;
pub use change::Change;
pub use exposition::{Metrics, Snapshot};
pub use http::HttpConfig;
pub(crate) use http::OF_CONNECTION;
pub use instance::StaticInstance;
pub use listen::Listen;
pub(crate) use names::UnknownName;
pub use plugin::{GrantsConfig, LimitsConfig, PluginConfig};
pub use poll::Poll;
pub use size::Bytes;
pub use store::StoreConfig;
pub use stream::Stream;
pub use time::Span;
pub(crate) use time::{FURTHEST_MS, time_ms};
pub use tls::{TlsConfig, TlsVersion};
pub use tracing::TracingConfig;

use dropsonde_model::Labels;
use dropsonde_model::Right;
use instance::check_labels;

/// Everything an operator can say.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to serve HTTP.
    pub listen: Listen,
    /// Compiled plugins and plugins' saved state. None: see [`Config::data_dir`].
    pub data_dir: Option<PathBuf>,
    /// `NAME.wasm` files. None: `plugins` in the data directory.
    pub plugins_dir: Option<PathBuf>,
    /// What compiled plugins may take on disk together; those used longest ago go.
    pub compile_cache: Bytes,
    /// On every instance.
    pub labels: Labels,
    pub store: StoreConfig,
    pub poll: Poll,
    pub stream: Stream,
    pub metrics: Metrics,
    pub snapshot: Snapshot,
    pub http: HttpConfig,
    pub auth: AuthConfig,
    pub tls: TlsConfig,
    pub tracing: TracingConfig,
    /// Tracked from the start, beside what plugins discover.
    pub instances: Vec<StaticInstance>,
    /// By plugin name.
    pub plugins: BTreeMap<String, PluginConfig>,
    /// Other machines may connect in plain, and without a token. Said on the command line alone.
    #[serde(skip)]
    pub insecure: bool,
}

/// What is wrong with a configuration, and where.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}: {why}", path.display())]
    Unreadable { path: PathBuf, why: std::io::Error },
    #[error("{}: {message}", path.display())]
    Syntax { path: PathBuf, message: String },
    #[error("{key}: {why}")]
    Value { key: String, why: String },
}

impl ConfigError {
    fn value<T>(key: &str, why: &str) -> Result<T, Self> {
        Err(Self::Value { key: key.to_owned(), why: why.to_owned() })
    }
}

/// Reads a file, or what a shell hands over as `<(command)`. What else has a name and is no file might have nothing to say for
/// ever.
fn text_of(path: &Path) -> io::Result<String> {
    let is_no_file = |real| fs::metadata(real).is_ok_and(|about| !about.is_file());
    if fs::canonicalize(path).is_ok_and(is_no_file) {
        return Err(io::Error::other("it is no file"));
    }
    fs::read_to_string(path)
}

// === impl Config ===

impl Config {
    /// What a file says; it is to be [`validated`](Self::validated), once all that outranks it is said too.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = text_of(path).map_err(|why| ConfigError::Unreadable { path: path.to_owned(), why })?;
        toml::from_str(&text).map_err(|error| ConfigError::Syntax { path: path.to_owned(), message: error.to_string() })
    }

    /// Checks what types alone cannot.
    pub fn validated(self) -> Result<Self, ConfigError> {
        self.check_exposure()?;
        self.poll.check()?;
        self.store.check()?;
        self.stream.check()?;
        self.http.check()?;
        self.auth.check()?;
        self.tls.check()?;
        self.metrics.check()?;
        self.snapshot.check(&self.metrics)?;
        self.tracing.check()?;
        check_labels("labels", &self.labels)?;
        let mut ids = BTreeMap::new();
        for (index, instance) in self.instances.iter().enumerate() {
            instance.check(&format!("instances[{index}]"))?;
            if let Some(first) = ids.insert(&instance.id, index) {
                let why = format!("{:?} is named by instances[{first}] already", instance.id);
                return ConfigError::value(&format!("instances[{index}].id"), &why);
            }
        }
        for (name, plugin) in &self.plugins {
            if !dropsonde_model::names::is_plugin(name) {
                let why = format!("is no plugin's name: {}", dropsonde_model::names::PLUGIN_RULE);
                return ConfigError::value(&format!("plugins.{name:?}"), &why);
            }
            let key = |key: &str| format!("plugins.{name}.{key}");
            plugin.check(&key)?;
        }
        Ok(self)
    }

    /// What other machines can reach is encrypted, and asks who is there.
    fn check_exposure(&self) -> Result<(), ConfigError> {
        if matches!(self.listen, Listen::Unix(_)) && self.tls.files().is_some() {
            return ConfigError::value("tls", "is for addresses: a Unix socket is spoken to in plain");
        }
        if !self.listen.is_open() || self.insecure {
            return Ok(());
        }
        let at = format!("other machines can reach {}", self.listen);
        if self.tls.files().is_none() {
            let why = format!(
                "{at}, so it needs TLS and tokens: give [tls] a cert and a key; or listen on a loopback address, or on \
                 unix:PATH, behind a proxy; or say --insecure"
            );
            return ConfigError::value("listen", &why);
        }
        if self.tls.client_ca.is_none() && self.token_file(Right::Read).is_none() {
            let why = format!(
                "{at}, and there is no data directory to make a token in: name one in auth.read_token_file, have \
                 clients show certificates by tls.client_ca, or say --insecure"
            );
            return ConfigError::value("listen", &why);
        }
        Ok(())
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

    /// Where plugins' files are; none when there is no such folder.
    pub(crate) fn plugins_folder(&self) -> Option<PathBuf> {
        self.plugins_dir.clone().or_else(|| Some(self.kept_dir()?.join("plugins")))
    }

    /// Where the token that gives a right is; none where there is none: then everybody may read, and nobody else anything.
    pub fn token_file(&self, right: Right) -> Option<PathBuf> {
        let is_wanted =
            right != Right::Read || (self.listen.is_open() && !self.insecure && self.tls.client_ca.is_none());
        let made = || Some(self.kept_dir().filter(|_| is_wanted)?.join(right.file_name()));
        self.auth.file(right).map(Path::to_owned).or_else(made)
    }

    /// Files beside its own that it names, and that may be others at any time: certificates, keys, tokens.
    pub fn named_files(&self) -> Vec<PathBuf> {
        self.tls_files().chain(self.token_files()).collect()
    }

    /// The files of certificates, and the key's.
    pub(crate) fn tls_files(&self) -> impl Iterator<Item = PathBuf> {
        [&self.tls.cert, &self.tls.key, &self.tls.client_ca].into_iter().flatten().cloned()
    }

    /// The files of all tokens there are.
    pub(crate) fn token_files(&self) -> impl Iterator<Item = PathBuf> {
        Right::ALL.into_iter().filter_map(|right| self.token_file(right))
    }

    /// A plugin's own section, or the defaults.
    pub fn plugin(&self, name: &str) -> PluginConfig {
        self.plugins.get(name).cloned().unwrap_or_default()
    }

    pub fn interval(&self, plugin: &PluginConfig) -> Duration {
        plugin.interval.unwrap_or(self.poll.interval).get()
    }

    /// How often something is polled, each once.
    pub(crate) fn intervals(&self) -> BTreeSet<Duration> {
        let own = self.plugins.values().map(|plugin| self.interval(plugin));
        own.chain([self.poll.interval.get()]).collect()
    }

    /// What is in force: a poll never outlasts `poll.timeout` or its interval.
    pub fn limits(&self, plugin: &PluginConfig) -> Limits {
        let limits = plugin.limits();
        let (mut deadline, mut deadline_setting) = (limits.deadline, limits.deadline_setting);
        let interval = if plugin.interval.is_some() { "its interval" } else { "poll.interval" };
        for (cap, setting) in [(self.poll.timeout.get(), "poll.timeout"), (self.interval(plugin), interval)] {
            if cap < deadline {
                (deadline, deadline_setting) = (cap, setting);
            }
        }
        let (cpu, cpu_setting) =
            if limits.cpu <= deadline { (limits.cpu, limits.cpu_setting) } else { (deadline, deadline_setting) };
        Limits { cpu, cpu_setting, deadline, deadline_setting, ..limits }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9090)).into(),
            data_dir: None,
            plugins_dir: None,
            compile_cache: Bytes::new(1 << 30),
            labels: Labels::new(),
            store: StoreConfig::default(),
            poll: Poll::default(),
            stream: Stream::default(),
            metrics: Metrics::default(),
            snapshot: Snapshot::default(),
            http: HttpConfig::default(),
            auth: AuthConfig::default(),
            tls: TlsConfig::default(),
            tracing: TracingConfig::default(),
            instances: Vec::new(),
            plugins: BTreeMap::new(),
            insecure: false,
        }
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
    fn a_named_pipe_in_place_of_the_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        let error = Config::read(&pipe).unwrap_err();
        assert!(format!("{:#}", anyhow::Error::from(error)).ends_with("it is no file"));
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
    fn a_value_that_cannot_work_is_named_by_its_key() {
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
    fn what_other_machines_reach_has_tls_and_a_token_to_read_unless_an_operator_insists() {
        let open = "listen = '[::]:9090'\ndata_dir = '/d'\n";
        let secure = parse(&format!("{open}[tls]\ncert = 'c'\nkey = 'k'")).unwrap();
        assert_eq!(secure.token_file(Right::Read), Some("/d/read.token".into()));
        let with_certificates = parse(&format!("{open}[tls]\ncert = 'c'\nkey = 'k'\nclient_ca = 'a'")).unwrap();
        assert_eq!(with_certificates.token_file(Right::Read), None, "a certificate is enough to read");
        let plain: Config = toml::from_str(open).unwrap();
        let insecure = Config { insecure: true, ..plain }.validated().unwrap();
        assert_eq!(insecure.token_file(Right::Read), None);
        let local = parse("data_dir = '/d'\nauth.admin_token_file = '/a'").unwrap();
        assert_eq!(local.token_file(Right::Read), None);
        assert_eq!(local.token_file(Right::Write), Some("/d/write.token".into()));
        assert_eq!(local.token_file(Right::Admin), Some("/a".into()));
    }

    #[test]
    fn a_poll_never_outlasts_its_timeout_or_interval() {
        let config = parse(
            "poll.timeout = '700ms'\n[plugins.a]\ninterval = '500ms'\n[plugins.b.limits]\ndeadline = '1h'\n\
                   [plugins.c.limits]\ndeadline = '20ms'",
        )
        .unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| config.limits(&config.plugin(name)));
        assert_eq!((a.deadline, a.deadline_setting), (Duration::from_millis(500), "its interval"));
        assert_eq!((b.deadline, b.deadline_setting), (Duration::from_millis(700), "poll.timeout"));
        assert_eq!((b.cpu, b.cpu_setting), (Duration::from_millis(100), "limits.cpu"));
        assert_eq!((c.cpu, c.cpu_setting), (Duration::from_millis(20), "limits.deadline"));
    }

    #[test]
    fn a_plugins_configuration_becomes_json() {
        let config = parse("[plugins.p.config]\nwatch = ['a']\ntop = 3").unwrap();
        let json: serde_json::Value = serde_json::from_str(&config.plugin("p").json()).unwrap();
        assert_eq!(json, serde_json::json!({ "watch": ["a"], "top": 3 }));
    }
}
