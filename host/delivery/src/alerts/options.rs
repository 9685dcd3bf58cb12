//! The servers that alerts are sent to.

use crate::access::{AccessConfig, access_of, check_url, host_of};
use dropsonde_model::{InvalidValue, Span};
use dropsonde_promql::{Matcher, parse_selector};
use jiff::civil::Time;
use jiff::tz::TimeZone;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The parts of `[alerting]` about the servers that alerts are sent to.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertingOptions {
    /// The least time between two sends of an alert to an Alertmanager.
    pub resend_delay: Span,
    pub alertmanagers: Vec<AlertmanagerConfig>,
    /// Globs of files that list Alertmanagers, as Prometheus' `file_sd_configs` reads them.
    pub alertmanager_files: Vec<String>,
    pub webhooks: Vec<WebhookConfig>,
}

/// An Alertmanager: its URL, or a table with more.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertmanagerConfig {
    pub url: String,
    pub access: AccessConfig,
}

/// `[[alerting.webhooks]]`: a server that gets messages about alerts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Its name in metrics, logs and messages. None: the host of the URL.
    pub name: Option<String>,
    /// The URL, which may be a secret. None: it is in `url_file`.
    pub url: Option<String>,
    pub url_file: Option<PathBuf>,
    #[serde(default)]
    pub format: Format,
    /// The labels whose values put alerts into one message. `...`: all, so that each alert has its own.
    #[serde(default = "by_name")]
    pub group_by: Vec<String>,
    /// The wait of a group's first message for more alerts.
    #[serde(default = "group_wait")]
    pub group_wait: Span,
    /// The least time between two messages of a group about what has changed.
    #[serde(default = "group_interval")]
    pub group_interval: Span,
    /// The time after which a message is repeated while its alerts fire.
    #[serde(default = "repeat_interval")]
    pub repeat_interval: Span,
    /// Whether to tell that alerts are resolved.
    #[serde(default = "yes")]
    pub send_resolved: bool,
    /// The alerts to tell of: selectors such as `severity="critical"`, all of which must match.
    #[serde(default, rename = "match")]
    pub matches: Vec<String>,
    /// Times in which nothing is sent. What still holds afterwards is sent then.
    #[serde(default)]
    pub mute: Vec<MuteConfig>,
    pub bearer_token_file: Option<PathBuf>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// The HTTP proxy between, possibly with a user.
    pub proxy_url: Option<String>,
    pub proxy_password_file: Option<PathBuf>,
    pub timeout: Option<Span>,
}

/// The body of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// As Alertmanager's webhook receivers expect it, version 4.
    #[default]
    Alertmanager,
    /// An incoming webhook of Slack, Mattermost or Rocket.Chat.
    Slack,
    /// A topic of ntfy.
    Ntfy,
    /// A room of a Matrix server: its URL ends in `/rooms/ROOM/send/m.room.message`.
    Matrix,
}

/// A time of the week in which nothing is sent.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MuteConfig {
    /// Days on which it begins: `mon`, `tue`, … Empty: every day.
    #[serde(default)]
    pub days: Vec<Day>,
    /// Its beginning and its end. If it ends earlier than it begins, it ends on the next day. None: midnight.
    #[serde(default)]
    pub from: Option<ClockTime>,
    #[serde(default)]
    pub to: Option<ClockTime>,
    /// The time zone, such as `Europe/Berlin`. None: UTC.
    #[serde(default)]
    pub time_zone: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Day {
    #[serde(alias = "monday")]
    Mon,
    #[serde(alias = "tuesday")]
    Tue,
    #[serde(alias = "wednesday")]
    Wed,
    #[serde(alias = "thursday")]
    Thu,
    #[serde(alias = "friday")]
    Fri,
    #[serde(alias = "saturday")]
    Sat,
    #[serde(alias = "sunday")]
    Sun,
}

/// A time of the day, written `22:30`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClockTime(pub Time);

/// The longest interval of a webhook.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

fn by_name() -> Vec<String> {
    vec!["alertname".to_owned()]
}

fn group_wait() -> Span {
    Span::from_secs(5)
}

fn group_interval() -> Span {
    Span::from_secs(60)
}

fn repeat_interval() -> Span {
    Span::from_secs(4 * 3600)
}

fn yes() -> bool {
    true
}

impl<'de> Deserialize<'de> for ClockTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parse = || {
            let (hour, minute) = text.split_once(':')?;
            Time::new(hour.parse().ok()?, minute.parse().ok()?, 0, 0).ok()
        };
        // Midnight at the end of a day is that of the next.
        let time = if text == "24:00" { Some(Time::midnight()) } else { parse() };
        let wrong = || serde::de::Error::custom(format!("{text:?} is no time of the day; write it like 22:30"));
        time.map(Self).ok_or_else(wrong)
    }
}

impl<'de> Deserialize<'de> for AlertmanagerConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UrlOrTable)
    }
}

struct UrlOrTable;

impl<'de> Visitor<'de> for UrlOrTable {
    type Value = AlertmanagerConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a URL such as \"http://127.0.0.1:9093\", or a table with `url`")
    }

    fn visit_str<E: de::Error>(self, url: &str) -> Result<AlertmanagerConfig, E> {
        Ok(AlertmanagerConfig { url: url.to_owned(), access: AccessConfig::default() })
    }

    fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<AlertmanagerConfig, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            url: String,
            bearer_token_file: Option<PathBuf>,
            username: Option<String>,
            password_file: Option<PathBuf>,
            ca_file: Option<PathBuf>,
            cert_file: Option<PathBuf>,
            key_file: Option<PathBuf>,
            proxy_url: Option<String>,
            proxy_password_file: Option<PathBuf>,
            timeout: Option<Span>,
        }
        let table = Table::deserialize(MapAccessDeserializer::new(table))?;
        Ok(AlertmanagerConfig { access: access_of!(table), url: table.url })
    }
}

impl Default for AlertingOptions {
    fn default() -> Self {
        let resend_delay = Span::from_secs(60);
        let (alertmanagers, alertmanager_files, webhooks) = (Vec::new(), Vec::new(), Vec::new());
        Self { resend_delay, alertmanagers, alertmanager_files, webhooks }
    }
}

impl AlertingOptions {
    pub fn check(&self) -> Result<(), InvalidValue> {
        if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&self.resend_delay.get()) {
            return InvalidValue::of("alerting.resend_delay", "must be at least 1s and at most 1h");
        }
        for (nth, alertmanager) in self.alertmanagers.iter().enumerate() {
            let key = format!("alerting.alertmanagers[{nth}]");
            check_url(&key, &alertmanager.url)?;
            alertmanager.access.check(&key)?;
        }
        for (nth, pattern) in self.alertmanager_files.iter().enumerate() {
            if let Err(error) = glob::Pattern::new(pattern) {
                let key = format!("alerting.alertmanager_files[{nth}]");
                return InvalidValue::of(&key, &format!("is an invalid glob: {error}"));
            }
        }
        let mut names = BTreeSet::new();
        for (nth, webhook) in self.webhooks.iter().enumerate() {
            let key = format!("alerting.webhooks[{nth}]");
            webhook.check(&key)?;
            if !names.insert(webhook.name()) {
                let why = format!("{:?} is the name of two webhooks; give them names", webhook.name());
                return InvalidValue::of(&format!("{key}.name"), &why);
            }
        }
        Ok(())
    }
}

impl WebhookConfig {
    fn check(&self, key: &str) -> Result<(), InvalidValue> {
        let of = |part: &str| format!("{key}.{part}");
        match (&self.url, &self.url_file) {
            (Some(url), None) => check_url(&of("url"), url)?,
            (None, Some(_)) => {}
            _ => return InvalidValue::of(&of("url"), "must be set, or url_file, and not both"),
        }
        let is_room =
            |url: &String| url.contains("/rooms/") && url.trim_end_matches('/').ends_with("/send/m.room.message");
        if self.format == Format::Matrix && !self.url.as_ref().is_none_or(is_room) {
            return InvalidValue::of(&of("url"), "must end in /rooms/ROOM/send/m.room.message, for matrix");
        }
        if self.url_file.is_some() && self.name.is_none() {
            return InvalidValue::of(&of("name"), "must be set: the URL is a secret");
        }
        let is_plain = |name: &String| !name.is_empty() && name.len() <= 255 && !name.contains(char::is_control);
        if !self.name.as_ref().is_none_or(is_plain) {
            return InvalidValue::of(&of("name"), "must have 1 to 255 bytes and no control characters");
        }
        for (part, span) in [
            ("group_wait", self.group_wait),
            ("group_interval", self.group_interval),
            ("repeat_interval", self.repeat_interval),
        ] {
            if span.get() > LONGEST {
                return InvalidValue::of(&of(part), "must be at most 366d");
            }
        }
        if self.repeat_interval.get() < Duration::from_secs(1) {
            return InvalidValue::of(&of("repeat_interval"), "must be at least 1s");
        }
        for selector in &self.matches {
            if let Err(why) = parsed(selector) {
                return InvalidValue::of(&of("match"), &format!("has {selector:?}, which is no selector: {why}"));
            }
        }
        for mute in &self.mute {
            if mute.from.is_some() && mute.from == mute.to {
                return InvalidValue::of(
                    &of("mute"),
                    "needs from and to that differ; without both, whole days are muted",
                );
            }
            if mute.days.is_empty() && mute.from.is_none() && mute.to.is_none() {
                return InvalidValue::of(&of("mute"), "needs days, or from and to; an empty one would mute everything");
            }
            if let Some(zone) = mute.time_zone.as_ref().filter(|zone| TimeZone::get(zone).is_err()) {
                return InvalidValue::of(&of("mute"), &format!("has {zone:?}, which is no time zone"));
            }
        }
        self.access().check(key)
    }

    /// Returns its name in metrics, logs and messages.
    pub fn name(&self) -> String {
        self.name.clone().or_else(|| host_of(self.url.as_ref()?)).unwrap_or_default()
    }

    pub(crate) fn access(&self) -> AccessConfig {
        access_of!(self)
    }

    pub(crate) fn matchers(&self) -> Vec<Matcher> {
        self.matches.iter().filter_map(|selector| parsed(selector).ok()).flatten().collect()
    }
}

/// Reads a selector of alerts. Unlike a selector of series it may match everything, so it gets a matcher that all
/// alerts
/// match.
fn parsed(selector: &str) -> Result<Vec<Matcher>, String> {
    parse_selector(&format!("{{alertname!=\"\",{selector}}}")).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(text: &str) -> Result<(), String> {
        let webhook: WebhookConfig = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let options = AlertingOptions { webhooks: vec![webhook], ..AlertingOptions::default() };
        options.check().map_err(|error| error.to_string())
    }

    #[test]
    fn a_webhook_that_cannot_work_is_refused_with_its_key() {
        assert_eq!(webhook("url = 'http://127.0.0.1:9/x'"), Ok(()));
        assert_eq!(webhook("url = 'https://h/x'\nmatch = ['severity!=\"info\"', 'team=~\"a|b\"']"), Ok(()));
        let mute = "mute = [{ days = ['sat', 'sunday'], from = '22:00', to = '07:30', time_zone = 'Europe/Berlin' }]";
        assert_eq!(webhook(&format!("url = 'https://h/x'\n{mute}")), Ok(()));
        for (text, key) in [
            ("format = 'slack'", "alerting.webhooks[0].url"),
            ("url = 'h:9'", "alerting.webhooks[0].url"),
            ("url = 'http://user:password@h'", "alerting.webhooks[0].url"),
            ("url_file = 'f'", "alerting.webhooks[0].name"),
            ("url = 'http://h'\nrepeat_interval = 0", "alerting.webhooks[0].repeat_interval"),
            ("url = 'http://h'\nmatch = ['a b']", "alerting.webhooks[0].match"),
            ("url = 'http://h'\nmute = [{}]", "alerting.webhooks[0].mute"),
            ("url = 'http://h'\nmute = [{ from = '08:00', to = '08:00' }]", "alerting.webhooks[0].mute"),
            ("url = 'http://h'\nformat = 'matrix'", "alerting.webhooks[0].url"),
            ("url = 'http://h'\nmute = [{ days = ['sat'], time_zone = 'Moon' }]", "alerting.webhooks[0].mute"),
            ("url = 'http://h'\nusername = 'u'", "alerting.webhooks[0].username"),
            ("url = 'http://h'\nmute = [{ from = '25:00' }]", "\"25:00\" is no time of the day"),
        ] {
            let error = webhook(text).unwrap_err();
            assert!(error.starts_with(key), "{text}: {error}");
        }
    }

    #[test]
    fn a_misspelt_key_of_an_alertmanager_is_named() {
        #[derive(Debug, Deserialize)]
        #[allow(dead_code, reason = "only its error is read")]
        struct Written {
            all: Vec<AlertmanagerConfig>,
        }
        let error = toml::from_str::<Written>("all = [{ urll = 'http://a:1' }]").unwrap_err();
        assert!(error.message().contains("unknown field `urll`"), "{error}");
    }

    #[test]
    fn an_alertmanager_is_a_url_or_a_table() {
        #[derive(Deserialize)]
        struct Written {
            all: Vec<AlertmanagerConfig>,
        }
        let written: Written =
            toml::from_str("all = ['http://a:1', { url = 'https://b', bearer_token_file = '/t' }]").unwrap();
        assert_eq!(written.all[0], AlertmanagerConfig { url: "http://a:1".into(), access: AccessConfig::default() });
        assert_eq!(written.all[1].access.bearer_token_file, Some("/t".into()));
    }
}
