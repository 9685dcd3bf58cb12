//! The settings of one plugin.

use super::http_rule;
use super::poll::check_interval;
use dropsonde_model::{InvalidValue, Size, Span};
use dropsonde_sandbox::{Grants, Limits, Need};
use serde::Deserialize;
use std::time::Duration;

/// `[plugins.NAME]`: the settings of one plugin.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PluginConfig {
    /// The time between two polls. None: `poll.interval`.
    pub interval: Option<Span>,
    /// The artifact in a registry from which the component is pulled. None: it is a file that somebody puts there.
    pub from: Option<String>,
    /// The sha256 of the component, in hex: another component is not run. None: any component is.
    pub sha256: Option<String>,
    /// The grants. None: no grants, or the default grants of a bundled plugin.
    pub grants: Option<GrantsConfig>,
    pub limits: LimitsConfig,
    /// Whether the plugin may add fields and labels to instances of other owners. It never replaces those that they
    /// have.
    pub share_instances: bool,
    /// The plugin's own configuration, which the plugin gets as JSON.
    pub config: toml::Table,
}

/// The grants of a plugin.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrantsConfig {
    /// Globs of absolute paths.
    pub read: Vec<String>,
    /// Origins, rules about them, and networks that host names may resolve into. In the file, a rule is a text or a
    /// table.
    #[serde(deserialize_with = "http_rule::list")]
    pub http: Vec<String>,
    /// Names of environment variables.
    pub env: Vec<String>,
    /// Directories, read-only.
    pub dirs: Vec<String>,
}

/// The limits of a plugin. None: the default of [`Limits`].
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// The longest wall time of compiling the component, once it is its turn. None: 60 s.
    pub compile_time: Option<Span>,
    pub memory: Option<Size>,
    pub cpu: Option<Span>,
    pub deadline: Option<Span>,
    pub init_deadline: Option<Span>,
    pub output: Option<Size>,
    pub handles: Option<usize>,
    pub file_bytes: Option<Size>,
    pub http_body: Option<Size>,
    pub instances: Option<usize>,
    pub log_lines_per_second: Option<u32>,
    pub log_line_bytes: Option<Size>,
    pub idle_timeout: Option<Span>,
    /// Calls in a row that may end badly within the window before the plugin is quarantined. None: 5.
    pub failures: Option<u32>,
    /// The window of `failures`. None: 10 minutes.
    pub failure_window: Option<Span>,
    /// The first pause before a plugin in quarantine is retried. Each later pause is twice as long, up to an hour.
    /// None: a minute.
    pub retry_after: Option<Span>,
}

// === impl GrantsConfig ===

impl GrantsConfig {
    /// Returns the grants as needs, which is how plugins name them.
    pub fn needs(&self) -> impl Iterator<Item = Need> {
        let read = self.read.iter().cloned().map(Need::Read);
        let http = self.http.iter().cloned().map(Need::Http);
        let env = self.env.iter().cloned().map(Need::Env);
        let dirs = self.dirs.iter().cloned().map(Need::Dir);
        read.chain(http).chain(env).chain(dirs)
    }
}

// === impl PluginConfig ===

impl PluginConfig {
    /// Returns the plugin's own configuration as a JSON object.
    pub fn json(&self) -> String {
        serde_json::to_string(&self.config).unwrap_or_else(|_| "{}".to_owned())
    }

    pub(super) fn limits(&self, defaults: Limits) -> Limits {
        let limits = &self.limits;
        Limits {
            compile_time: limits.compile_time.map_or(defaults.compile_time, Span::get),
            memory: limits.memory.map_or(defaults.memory, Size::get),
            cpu: limits.cpu.map_or(defaults.cpu, Span::get),
            cpu_setting: defaults.cpu_setting,
            deadline: limits.deadline.map_or(defaults.deadline, Span::get),
            deadline_setting: defaults.deadline_setting,
            init_deadline: limits.init_deadline.map_or(defaults.init_deadline, Span::get),
            output: limits.output.map_or(defaults.output, Size::get),
            handles: limits.handles.unwrap_or(defaults.handles),
            file_bytes: limits.file_bytes.map_or(defaults.file_bytes, Size::get),
            http_body: limits.http_body.map_or(defaults.http_body, Size::get),
            instances: limits.instances.unwrap_or(defaults.instances),
            log_lines_per_second: limits.log_lines_per_second.unwrap_or(defaults.log_lines_per_second),
            log_line_bytes: limits.log_line_bytes.map_or(defaults.log_line_bytes, Size::get),
            idle_timeout: limits.idle_timeout.map(Span::get).or(defaults.idle_timeout),
        }
    }

    /// Returns how many calls in a row may end badly before the plugin is quarantined.
    pub fn failures(&self) -> u32 {
        self.limits.failures.unwrap_or(5)
    }

    /// Returns the window in which these calls must end.
    pub fn failure_window(&self) -> Duration {
        self.limits.failure_window.map_or(Duration::from_secs(600), Span::get)
    }

    /// Returns the first pause of a quarantine.
    pub fn retry_after(&self) -> Duration {
        self.limits.retry_after.map_or(Duration::from_secs(60), Span::get)
    }

    /// Checks the rules that types alone cannot express. `key` completes the key of a setting.
    pub fn check(&self, key: &dyn Fn(&str) -> String) -> Result<(), InvalidValue> {
        let wrong = |list: &str, why: &str| InvalidValue::of(&key(list), why);
        if let Some(interval) = self.interval {
            check_interval(&key("interval"), interval, Duration::from_millis(100))?;
        }
        let is_digest = |digest: &String| digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        if self.sha256.as_ref().is_some_and(|digest| !is_digest(digest)) {
            return wrong("sha256", "must be 64 hexadecimal digits, as sha256sum prints them");
        }
        for kind in ["read", "http", "env", "dir"] {
            let list = if kind == "dir" { "dirs" } else { kind };
            let granted = self.grants.iter().flat_map(GrantsConfig::needs).filter(|need| need.kind() == kind);
            if let Err(error) = Grants::new(granted) {
                return wrong(&format!("grants.{list}"), &error.to_string());
            }
        }
        self.check_limits(key)
    }

    fn check_limits(&self, key: &dyn Fn(&str) -> String) -> Result<(), InvalidValue> {
        let limits = self.limits(Limits::DEFAULT);
        let zero = [
            ("limits.compile_time", limits.compile_time.is_zero()),
            ("limits.memory", limits.memory == 0),
            ("limits.cpu", limits.cpu.is_zero()),
            ("limits.deadline", limits.deadline.is_zero()),
            ("limits.init_deadline", limits.init_deadline.is_zero()),
            ("limits.output", limits.output == 0),
            ("limits.handles", limits.handles == 0),
            ("limits.log_line_bytes", limits.log_line_bytes == 0),
            ("limits.idle_timeout", limits.idle_timeout.is_some_and(|timeout| timeout.is_zero())),
            ("limits.failures", self.failures() == 0),
            ("limits.failure_window", self.failure_window().is_zero()),
            ("limits.retry_after", self.retry_after().is_zero()),
        ];
        match zero.into_iter().find(|(_, zero)| *zero) {
            Some((name, _)) => InvalidValue::of(&key(name), "must be greater than 0"),
            None => Ok(()),
        }
    }
}
