//! `[[remote_write]]` and `[[otlp]]`: servers that get samples.

use super::relabel::{RelabelConfig, is_label};
use super::since::Since;
use crate::access::{AccessConfig, access_of, check_headers, check_url, host_of};
use dropsonde_model::{InvalidValue, Size, Span};
use hyper::Uri;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;
use xxhash_rust::xxh64::xxh64;

/// A server that gets samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    pub protocol: Protocol,
    pub config: DestinationConfig,
}

/// The protocol by which samples are sent to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    /// Prometheus' remote write. A server that does not understand version 2 gets version 1.
    RemoteWrite(Version),
    /// Metrics of OpenTelemetry over HTTP, with these attributes of all resources.
    Otlp(BTreeMap<String, String>),
}

/// Defines what all protocols need to know of a server, and the tables of the configuration that say so. A table has all
/// of these keys and one of its own. (Serde does not refuse unknown keys where it flattens one table into another.)
macro_rules! destinations {
    (@settings { $($(#[$about:meta])* $field:ident: $type:ty,)* }) => {
        /// A server, as all protocols need to know it.
        #[derive(Debug, Clone, PartialEq)]
        pub struct DestinationConfig {
            $(pub $field: $type,)*
        }
    };
    (
        @table { $($(#[$about:meta])* $field:ident: $type:ty,)* }
        $(#[$about_table:meta])* $table:ident { $(#[$about_own:meta])* $own:ident: $own_type:ty => $protocol:path }
    ) => {
        $(#[$about_table])*
        #[derive(Debug, Clone, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $table {
            $(#[$about_own])*
            #[serde(default)]
            pub $own: $own_type,
            $($(#[$about])* pub $field: $type,)*
        }

        impl From<$table> for Destination {
            fn from(table: $table) -> Self {
                let config = DestinationConfig { $($field: table.$field,)* };
                Self { protocol: $protocol(table.$own), config }
            }
        }
    };
    ($settings:tt $([$($table:tt)*])*) => {
        destinations! { @settings $settings }
        $(destinations! { @table $settings $($table)* })*
    };
}

destinations! {
    {
        /// Its name in metrics and logs. Progress is kept by it. None: the host of the URL.
        name: Option<String>,
        /// The URL, which may be a secret. None: it is in `url_file`.
        url: Option<String>,
        url_file: Option<PathBuf>,
        /// The time from which on a new server gets samples.
        #[serde(default)]
        since: Since,
        /// Labels of all series that have no such label yet.
        #[serde(default)]
        external_labels: BTreeMap<String, String>,
        /// Changes to labels, and choices of series, in this order.
        #[serde(default)]
        relabel: Vec<RelabelConfig>,
        /// Further headers of requests, such as `X-Scope-OrgID`.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// The time between two sends of what is new.
        #[serde(default = "interval")]
        interval: Span,
        /// The most requests at a time.
        #[serde(default = "shards")]
        shards: usize,
        /// The most samples of a request.
        #[serde(default = "max_samples")]
        max_samples: usize,
        /// The most bytes per second while it catches up.
        #[serde(default = "catch_up_rate")]
        catch_up_rate: Size,
        bearer_token_file: Option<PathBuf>,
        username: Option<String>,
        password_file: Option<PathBuf>,
        ca_file: Option<PathBuf>,
        cert_file: Option<PathBuf>,
        key_file: Option<PathBuf>,
        /// The HTTP proxy between, possibly with a user.
        proxy_url: Option<String>,
        proxy_password_file: Option<PathBuf>,
        /// The longest time of a request.
        #[serde(default = "timeout")]
        timeout: Span,
    }
    [
        /// `[[remote_write]]`: a server that gets samples by Prometheus' remote write.
        RemoteWriteConfig {
            /// The version of the protocol.
            version: Version => Protocol::RemoteWrite
        }
    ]
    [
        /// `[[otlp]]`: a collector that gets samples by OTLP.
        OtlpConfig {
            /// Attributes of all resources.
            resource: BTreeMap<String, String> => Protocol::Otlp
        }
    ]
}

/// A version of Prometheus' remote write protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Version {
    #[default]
    #[serde(rename = "1.0", alias = "1")]
    V1,
    #[serde(rename = "2.0", alias = "2")]
    V2,
}

/// The path of a collector for metrics, where a URL has none.
const OTLP_PATH: &str = "/v1/metrics";

fn interval() -> Span {
    Span::from_secs(1)
}

fn timeout() -> Span {
    Span::from_secs(30)
}

fn shards() -> usize {
    4
}

fn max_samples() -> usize {
    10_000
}

fn catch_up_rate() -> Size {
    Size::new(16 << 20)
}

/// Checks all destinations.
pub fn check(destinations: &[Destination]) -> Result<(), InvalidValue> {
    let mut names = BTreeSet::new();
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    for destination in destinations {
        let nth = known.entry(destination.protocol.key()).or_default();
        let key = format!("{}[{nth}]", destination.protocol.key());
        *nth += 1;
        destination.check(&key)?;
        if !names.insert(destination.name()) {
            let why = format!("{:?} is the name of two; give them names", destination.name());
            return InvalidValue::of(&format!("{key}.name"), &why);
        }
    }
    Ok(())
}

impl Protocol {
    /// Returns the key of its tables in the configuration.
    pub fn key(&self) -> &'static str {
        match self {
            Self::RemoteWrite(_) => "remote_write",
            Self::Otlp(_) => "otlp",
        }
    }
}

impl Destination {
    /// Checks it; `key`: its place in the configuration.
    fn check(&self, key: &str) -> Result<(), InvalidValue> {
        match &self.protocol {
            Protocol::Otlp(resource) if resource.keys().any(String::is_empty) => {
                InvalidValue::of(&format!("{key}.resource"), "has an attribute without a name")
            }
            _ => self.config.check(key),
        }
    }

    /// Returns its name in metrics and logs.
    pub fn name(&self) -> String {
        self.config.name()
    }

    /// Returns a number of what decides into which parts series are divided.
    pub(crate) fn fingerprint(&self) -> u64 {
        let Self { protocol, config } = self;
        xxh64(format!("{} {:?} {:?}", protocol.key(), config.relabel, config.external_labels).as_bytes(), 0)
    }

    /// Returns the URL that requests go to, as the configuration has it or as it stands in a file.
    pub(crate) fn complete_url(&self, url: &str) -> String {
        let is_bare = |uri: &Uri| uri.path() == "/" && uri.query().is_none();
        match (&self.protocol, url.parse::<Uri>()) {
            (Protocol::Otlp(_), Ok(uri)) if is_bare(&uri) => format!("{}{OTLP_PATH}", url.trim_end_matches('/')),
            _ => url.to_owned(),
        }
    }
}

impl DestinationConfig {
    fn check(&self, key: &str) -> Result<(), InvalidValue> {
        let of = |part: &str| format!("{key}.{part}");
        match (&self.url, &self.url_file) {
            (Some(url), None) => check_url(&of("url"), url)?,
            (None, Some(_)) => {}
            _ => return InvalidValue::of(&of("url"), "must be set, or url_file, and not both"),
        }
        if self.url_file.is_some() && self.name.is_none() {
            return InvalidValue::of(&of("name"), "must be set: the URL is a secret");
        }
        let name = self.name();
        if name.is_empty()
            || name.len() > 100
            || name.contains(|c: char| c.is_control() || c == '/')
            || name.starts_with('.')
        {
            return InvalidValue::of(&of("name"), "must have 1 to 100 bytes, no / and no control characters");
        }
        check_headers(&of("headers"), &self.headers)?;
        if !(Duration::from_millis(100)..=Duration::from_secs(300)).contains(&self.interval.get()) {
            return InvalidValue::of(&of("interval"), "must be at least 100ms and at most 5m");
        }
        if !(1..=64).contains(&self.shards) {
            return InvalidValue::of(&of("shards"), "must be 1 to 64");
        }
        if !(1..=100_000).contains(&self.max_samples) {
            return InvalidValue::of(&of("max_samples"), "must be 1 to 100000");
        }
        if self.catch_up_rate.get() < 10 << 10 {
            return InvalidValue::of(&of("catch_up_rate"), "must be at least 10KiB");
        }
        if let Some(name) = self.external_labels.keys().find(|name| !is_label(name)) {
            return InvalidValue::of(&of("external_labels"), &format!("has {name:?}, which is no name of a label"));
        }
        for (nth, relabel) in self.relabel.iter().enumerate() {
            relabel.check(&format!("{key}.relabel[{nth}]"))?;
        }
        self.access().check(key)
    }

    /// Returns its name in metrics and logs.
    pub fn name(&self) -> String {
        self.name.clone().or_else(|| host_of(self.url.as_ref()?)).unwrap_or_default()
    }

    pub(crate) fn access(&self) -> AccessConfig {
        access_of!(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<(), String> {
        let table: RemoteWriteConfig = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        check(&[table.into()]).map_err(|error| error.to_string())
    }

    #[test]
    fn a_server_that_cannot_work_is_refused_with_its_key() {
        let good = "url = 'http://127.0.0.1:9/write'\nversion = '2.0'\nsince = '7d'\n[headers]\nX-Scope-OrgID = 'a'";
        assert_eq!(checked(good), Ok(()));
        assert_eq!(checked("url = 'http://h/w'\nsince = '2026-11-01T00:00:00Z'"), Ok(()));
        for (text, key) in [
            ("version = '1.0'", "remote_write[0].url"),
            ("url = 'h:9'", "remote_write[0].url"),
            ("url_file = 'f'", "remote_write[0].name"),
            ("url = 'http://h'\nname = 'a/b'", "remote_write[0].name"),
            ("url = 'http://h'\nshards = 0", "remote_write[0].shards"),
            ("url = 'http://h'\nkey_file = 'k'", "remote_write[0].cert_file"),
            ("url = 'http://h'\n[headers]\nHost = 'a'", "remote_write[0].headers"),
            ("url = 'http://h'\nrelabel = [{ regex = '(' }]", "remote_write[0].relabel[0].regex"),
            ("url = 'http://h'\nrelabel = [{ action = 'keep' }]", "remote_write[0].relabel[0].source_labels"),
            ("url = 'http://h'\nrelabel = [{}]", "remote_write[0].relabel[0].target_label"),
            ("url = 'http://h'\nexternal_labels = { a-b = 'c' }", "remote_write[0].external_labels"),
            ("url = 'http://h'\nsince = 'soon'", "\"soon\" is no time"),
            ("url = 'http://h'\nproxy_url = 'http://u:p@h'", "remote_write[0].proxy_url"),
            ("url = 'http://h'\nproxy_password_file = 'f'", "remote_write[0].proxy_password_file"),
        ] {
            let error = checked(text).unwrap_err();
            assert!(error.starts_with(key), "{text}: {error}");
        }
    }

    #[test]
    fn a_collector_is_known_by_its_address_alone() {
        let of = |url: &str| {
            let table: OtlpConfig = toml::from_str(&format!("url = '{url}'")).unwrap();
            let destination = Destination::from(table);
            check(std::slice::from_ref(&destination)).unwrap();
            destination.complete_url(url)
        };
        assert_eq!(of("http://c:4318"), "http://c:4318/v1/metrics");
        assert_eq!(of("http://c:4318/"), "http://c:4318/v1/metrics");
        assert_eq!(of("http://c/opentelemetry/v1/metrics"), "http://c/opentelemetry/v1/metrics");
    }
}
