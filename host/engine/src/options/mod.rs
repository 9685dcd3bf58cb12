//! The settings of the engine, from an operator or from a program that embeds it.
//!
//! # Layout
//!
//! * A file for each section: `store`, `poll`, `stream`, `metrics`, `snapshot`, `query`, `rules`, `instance`,
//!   `plugin`.
//! * `names`: the names of plugins in the settings; `http_rule`: rules about HTTP requests.

mod http_rule;
mod instance;
mod metrics;
mod names;
mod plugin;
mod poll;
mod query;
mod rules;
mod snapshot;
mod store;
mod stream;
mod trusted_keys;

pub use instance::{StaticInstance, check_labels};
pub use metrics::MetricsConfig;
pub use names::UnknownName;
pub use plugin::{GrantsConfig, LimitsConfig, PluginConfig};
pub use poll::PollConfig;
pub use query::QueryConfig;
pub use rules::{AlertConfig, RuleOptions, Severity};
pub use snapshot::SnapshotConfig;
pub use store::StoreConfig;
pub use stream::StreamConfig;
pub use trusted_keys::{NotTrusted, TrustedKeys};

use crate::plugins::BundledPlugin;
use dropsonde_model::{InvalidValue, Labels};
use dropsonde_sandbox::{Limits, Root};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

/// All settings of the engine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// Labels of every instance.
    pub labels: Labels,
    pub store: StoreConfig,
    pub poll: PollConfig,
    pub stream: StreamConfig,
    pub metrics: MetricsConfig,
    pub snapshot: SnapshotConfig,
    pub query: QueryConfig,
    pub rules: RuleOptions,
    /// The name of this host for programs on other machines. None: the machine's name.
    pub external_name: Option<String>,
    /// Instances that are tracked from the start, beside those that plugins discover.
    pub instances: Vec<StaticInstance>,
    /// The settings of plugins, by name.
    pub plugins: BTreeMap<String, PluginConfig>,
    /// The data directory. None: nothing is kept between starts.
    pub data_dir: Option<PathBuf>,
    /// The folder with plugins' files. None: there is no such folder.
    pub plugins_dir: Option<PathBuf>,
    /// The keys of those whose plugins are run.
    pub trusted_keys: TrustedKeys,
    /// The folder that plugins take for `/`. None: `/` itself.
    pub root: Option<Root>,
    /// Plugins that come with the program.
    pub bundled: &'static [BundledPlugin],
    /// Bytes of memory that the server of the engine's data may come to need.
    pub serving: u64,
}

impl Options {
    /// Checks the rules that types alone cannot express.
    pub fn check(&self) -> Result<(), InvalidValue> {
        self.checks().into_iter().collect()
    }

    /// Returns the result of each section's check.
    pub fn checks(&self) -> Vec<Result<(), InvalidValue>> {
        let mut checks = vec![
            self.poll.check(),
            self.store.check(),
            self.stream.check(),
            self.metrics.check(),
            self.snapshot.check(),
            self.query.check(),
            self.rules.check(),
            self.trusted_keys.check(),
            check_external_name(self.external_name.as_deref()),
            check_labels("labels", &self.labels),
        ];
        let mut ids = BTreeMap::new();
        for (index, instance) in self.instances.iter().enumerate() {
            checks.push(instance.check(&format!("instances[{index}]")));
            if let Some(first) = ids.insert(&instance.id, index) {
                let why = format!("{:?} is already the id of instances[{first}]", instance.id);
                checks.push(InvalidValue::of(&format!("instances[{index}].id"), &why));
            }
        }
        for (name, plugin) in &self.plugins {
            if !dropsonde_model::names::is_plugin(name) {
                let why = format!("is not a valid plugin name: {}", dropsonde_model::names::PLUGIN_RULE);
                checks.push(InvalidValue::of(&format!("plugins.{name:?}"), &why));
                continue;
            }
            checks.push(plugin.check(&|key: &str| format!("plugins.{name}.{key}")));
        }
        checks
    }

    /// Returns the name of this host for programs on other machines.
    pub fn external_name(&self) -> String {
        self.external_name.clone().unwrap_or_else(machine_name)
    }

    /// Returns a plugin's own section, or the defaults.
    pub fn plugin(&self, name: &str) -> PluginConfig {
        self.plugins.get(name).cloned().unwrap_or_default()
    }

    /// Returns the plugins that come with the program and run: some only if they have a section.
    pub fn bundled_in_use(&self) -> impl Iterator<Item = BundledPlugin> {
        let is_in_use = move |bundled: &BundledPlugin| bundled.is_default || self.plugins.contains_key(bundled.name);
        self.bundled.iter().copied().filter(is_in_use)
    }

    /// Returns the plugin of a name that comes with the program and runs, if there is one.
    pub fn bundled(&self, name: &str) -> Option<BundledPlugin> {
        self.bundled_in_use().find(|bundled| bundled.name == name)
    }

    /// Returns the time between two polls of a plugin.
    pub fn interval(&self, plugin: &PluginConfig) -> Duration {
        plugin.interval.unwrap_or(self.poll.interval).get()
    }

    /// Returns the time between two samples of registered metrics in history; none if they are not in history.
    pub fn history_of_metrics(&self) -> Option<Duration> {
        self.metrics.history.then(|| self.metrics.history_interval.unwrap_or(self.poll.interval).get())
    }

    /// Returns all times between two polls, each once.
    pub fn intervals(&self) -> BTreeSet<Duration> {
        let own = self.plugins.values().map(|plugin| self.interval(plugin));
        own.chain([self.poll.interval.get()]).collect()
    }

    /// Returns the limits in force for a plugin: a poll never outlasts `poll.timeout` or its interval. `defaults`: the
    /// limits that the plugin's section does not set.
    pub fn limits(&self, plugin: &PluginConfig, defaults: Limits) -> Limits {
        let limits = plugin.limits(defaults);
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

/// Returns the name of this machine.
pub fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Checks a name that becomes the value of a label.
fn check_external_name(name: Option<&str>) -> Result<(), InvalidValue> {
    let is_plain = |name: &str| !name.is_empty() && name.len() <= 255 && !name.contains(char::is_control);
    if name.is_none_or(is_plain) {
        return Ok(());
    }
    InvalidValue::of("external_name", "must have 1 to 255 bytes and no control characters")
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_model::Span;

    #[test]
    fn a_poll_never_outlasts_its_timeout_or_interval() {
        let poll = PollConfig { timeout: "700ms".parse().unwrap(), ..PollConfig::default() };
        let options = Options { poll, ..Options::default() };
        let plugin = |interval: Option<Span>, deadline: Option<Span>| {
            let limits = LimitsConfig { deadline, ..LimitsConfig::default() };
            options.limits(&PluginConfig { interval, limits, ..PluginConfig::default() }, Limits::DEFAULT)
        };
        let span = |text: &str| text.parse::<Span>().ok();
        let (a, b, c) = (plugin(span("500ms"), None), plugin(None, span("1h")), plugin(None, span("20ms")));
        assert_eq!((a.deadline, a.deadline_setting), (Duration::from_millis(500), "its interval"));
        assert_eq!((b.deadline, b.deadline_setting), (Duration::from_millis(700), "poll.timeout"));
        assert_eq!((b.cpu, b.cpu_setting), (Duration::from_millis(100), "limits.cpu"));
        assert_eq!((c.cpu, c.cpu_setting), (Duration::from_millis(20), "limits.deadline"));
    }
}
