//! `[[remote_write]]`: servers that get samples.

use crate::access::{AccessConfig, check_url, without_user};
use dropsonde_model::{InvalidValue, Size, Span};
use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use jiff::Timestamp;
use regex::Regex;
use serde::{Deserialize, Deserializer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use xxhash_rust::xxh64::xxh64;

/// `[[remote_write]]`: a server that gets samples.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteWriteConfig {
    /// Its name in metrics and logs. Progress is kept by it. None: the host of the URL.
    pub name: Option<String>,
    /// The URL, which may be a secret. None: it is in `url_file`.
    pub url: Option<String>,
    pub url_file: Option<PathBuf>,
    /// The version of the protocol. A server that does not understand version 2 gets version 1.
    #[serde(default)]
    pub version: Version,
    /// The time from which on a new server gets samples.
    #[serde(default)]
    pub since: Since,
    /// Labels of all series that have no such label yet.
    #[serde(default)]
    pub external_labels: BTreeMap<String, String>,
    /// Changes to labels, and choices of series, in this order.
    #[serde(default)]
    pub relabel: Vec<RelabelConfig>,
    /// Further headers of requests, such as `X-Scope-OrgID`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The time between two sends of what is new.
    #[serde(default = "interval")]
    pub interval: Span,
    /// The most requests at a time.
    #[serde(default = "shards")]
    pub shards: usize,
    /// The most samples of a request.
    #[serde(default = "max_samples")]
    pub max_samples: usize,
    /// The most bytes per second while it catches up.
    #[serde(default = "catch_up_rate")]
    pub catch_up_rate: Size,
    pub bearer_token_file: Option<PathBuf>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// The longest time of a request.
    #[serde(default = "timeout")]
    pub timeout: Span,
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

/// A time: `now`, a span before now such as `7d`, or a date.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Since {
    #[default]
    Now,
    Ago(Span),
    At(Timestamp),
}

/// A change of the labels of series, as Prometheus' `write_relabel_configs`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelabelConfig {
    #[serde(default)]
    pub action: Action,
    /// Labels whose values are joined to a text.
    #[serde(default)]
    pub source_labels: Vec<String>,
    #[serde(default = "separator")]
    pub separator: String,
    /// The expression that must match all of the text.
    #[serde(default = "everything")]
    pub regex: String,
    /// The label that gets a value.
    #[serde(default)]
    pub target_label: String,
    /// The value, in which `$1` stands for a group of `regex`.
    #[serde(default = "first_group")]
    pub replacement: String,
}

/// The kind of change that a [`RelabelConfig`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Sets `target_label` to `replacement` if the text matches.
    #[default]
    Replace,
    /// Keeps series whose text matches, and no others.
    Keep,
    /// Keeps series whose text does not match.
    Drop,
    /// Keeps labels whose names match, and no others.
    Labelkeep,
    /// Removes labels whose names match.
    Labeldrop,
    /// Gives the values of labels whose names match to the labels `replacement`.
    Labelmap,
    Lowercase,
    Uppercase,
}

/// Headers that requests have of themselves.
const OWN_HEADERS: [&str; 8] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "user-agent",
    "x-prometheus-remote-write-version",
];

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

fn separator() -> String {
    ";".to_owned()
}

fn everything() -> String {
    "(.*)".to_owned()
}

fn first_group() -> String {
    "$1".to_owned()
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span = || text.parse().ok().map(Self::Ago);
        let at = || text.parse().ok().map(Self::At);
        let since = if text == "now" { Some(Self::Now) } else { at().or_else(span) };
        since.ok_or_else(|| {
            format!(
                "{text:?} is no time; write \"now\", a span such as \"7d\", or a date such as \"2026-11-01T00:00:00Z\""
            )
        })
    }
}

impl<'de> Deserialize<'de> for Since {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Since {
    /// Returns it in milliseconds since 1970.
    pub fn ms_before(self, now_ms: i64) -> i64 {
        match self {
            Self::Now => now_ms,
            Self::Ago(span) => now_ms.saturating_sub(span.as_ms()),
            Self::At(time) => time.as_millisecond(),
        }
    }
}

/// Checks all remotes.
pub fn check(remotes: &[RemoteWriteConfig]) -> Result<(), InvalidValue> {
    let mut names = BTreeSet::new();
    for (nth, remote) in remotes.iter().enumerate() {
        let key = format!("remote_write[{nth}]");
        remote.check(&key)?;
        if !names.insert(remote.name()) {
            let why = format!("{:?} is the name of two; give them names", remote.name());
            return InvalidValue::of(&format!("{key}.name"), &why);
        }
    }
    Ok(())
}

impl RemoteWriteConfig {
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
        for (name, value) in &self.headers {
            let is_header = HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok();
            let is_own = |own: &str| name.eq_ignore_ascii_case(own);
            if !is_header || OWN_HEADERS.into_iter().any(is_own) {
                // The value may be a secret.
                return InvalidValue::of(&of("headers"), &format!("cannot set {name:?}, or not to this value"));
            }
        }
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
        let host = || {
            let uri: Uri = self.url.as_ref()?.parse().ok()?;
            Some(without_user(uri.authority()?.as_str()).to_owned())
        };
        self.name.clone().or_else(host).unwrap_or_default()
    }

    /// Returns a number of the rules by which series get their labels.
    pub(crate) fn fingerprint(&self) -> u64 {
        xxh64(format!("{:?} {:?}", self.relabel, self.external_labels).as_bytes(), 0)
    }

    pub(crate) fn access(&self) -> AccessConfig {
        AccessConfig {
            bearer_token_file: self.bearer_token_file.clone(),
            username: self.username.clone(),
            password_file: self.password_file.clone(),
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            timeout: Some(self.timeout),
        }
    }
}

impl RelabelConfig {
    fn check(&self, key: &str) -> Result<(), InvalidValue> {
        if let Err(error) = self.pattern() {
            let last = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
            return InvalidValue::of(&format!("{key}.regex"), &format!("is no regular expression: {last}"));
        }
        match self.action {
            Action::Keep | Action::Drop if self.source_labels.is_empty() => {
                InvalidValue::of(&format!("{key}.source_labels"), "must be set: it would keep all series or none")
            }
            // A group of the expression may stand in it.
            Action::Replace if !is_label(&self.target_label) && !self.target_label.contains('$') => {
                InvalidValue::of(&format!("{key}.target_label"), "must be the name of a label")
            }
            Action::Lowercase | Action::Uppercase if !is_label(&self.target_label) => {
                InvalidValue::of(&format!("{key}.target_label"), "must be the name of a label")
            }
            _ => Ok(()),
        }
    }

    /// Returns the expression, which must match all of a text.
    pub(crate) fn pattern(&self) -> Result<Regex, regex::Error> {
        Regex::new(&format!("^(?s:{})$", self.regex))
    }
}

/// Returns whether a text is the name of a label.
pub(crate) fn is_label(name: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<(), String> {
        let remote: RemoteWriteConfig = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        check(&[remote]).map_err(|error| error.to_string())
    }

    #[test]
    fn a_remote_that_cannot_work_is_refused_with_its_key() {
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
        ] {
            let error = checked(text).unwrap_err();
            assert!(error.starts_with(key), "{text}: {error}");
        }
    }
}
