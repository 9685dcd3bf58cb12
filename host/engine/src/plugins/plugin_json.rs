use super::{ComponentOrigin, PluginInfo, PluginState, PluginStatus, SetAsideInstance};
use crate::Engine;
use crate::conflict_reports::{self, ConflictPage};
use crate::json;
use crate::shares::{self, PoolShare};
use dropsonde_sandbox::{Grants, LogLine, Need, PluginMetrics, SeriesReading, Trap};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::SystemTime;

/// A plugin as `GET /v1/plugins` shows it, without its configuration, which may hold secrets.
#[derive(Debug, Serialize)]
pub struct PluginPage {
    name: String,
    state: PluginState,
    /// The reason why the plugin waits in its present state.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    about: Option<String>,
    bundled: bool,
    /// Whether the plugin is part of the program that embeds the host.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    native: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// sha256 of the component, in hex.
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_bytes: Option<usize>,
    /// The time when this version took over.
    #[serde(skip_serializing_if = "Option::is_none")]
    loaded_at: Option<String>,
    /// Whether this is the last good version, restored because a newer one does not work.
    restored: bool,
    /// Whether a newer version is being compiled and tried.
    preparing: bool,
    /// The newest version, if it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<RefusedPage>,
    /// The plugin's section of a configuration that is refused because of the section. The configuration before is in
    /// force.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_section: Option<RefusedSectionPage>,
    roles: Vec<&'static str>,
    interval_seconds: f64,
    grants: GrantsPage,
    /// Needs that are not granted.
    missing: Vec<String>,
    limits: LimitsPage,
    fields: Vec<String>,
    instances: usize,
    /// Instances that are not polled for now, because they end the plugin's calls.
    set_aside: Vec<WaitingPage>,
    /// The reason for quarantine.
    #[serde(skip_serializing_if = "Option::is_none")]
    quarantined: Option<String>,
    /// The time of the next retry, in backoff or in quarantine.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_at: Option<String>,
    /// The number of live workers, 0 or 1: a worker's instance is started when it is needed.
    workers: usize,
    workers_spawned: u64,
    memory_bytes: usize,
    cpu_seconds: f64,
    /// The share of its CPU budget that the last call used.
    budget_used: f64,
    calls: u64,
    failures: u64,
    polls_missed: u64,
    log_lines_dropped: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    call_seconds: Option<CallSeconds>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_failure: Option<FailurePage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_poll: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<MetricsPage>,
    /// The newest lines that the plugin logged since it started, the oldest first.
    log: Vec<LogLinePage>,
    /// The plugin's conflicts with owners of instances, and other plugins' conflicts with it as owner.
    conflicts: Vec<ConflictPage>,
    /// The plugin's use of shared pools.
    shares: Vec<PoolShare>,
}

#[derive(Debug, Serialize)]
struct LogLinePage {
    at: String,
    level: &'static str,
    line: String,
}

/// The plugin's own metrics, while it has a worker.
#[derive(Debug, Serialize)]
struct MetricsPage {
    series: usize,
    /// Registrations that were refused because the limit of series is reached.
    overflowed: u64,
    /// Recordings for a series that the plugin does not have, or of an invalid value.
    ignored: u64,
    /// The first series by name.
    values: Vec<SeriesPage>,
}

/// A series and its recorded value.
#[derive(Debug, Serialize)]
struct SeriesPage {
    name: String,
    labels: BTreeMap<String, String>,
    #[serde(flatten)]
    value: ValuePage,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum ValuePage {
    Number { value: f64 },
    Histogram { count: u64, sum: f64 },
}

/// The reason to wait while other plugins are compiled.
const TURN: &str = "its turn to be compiled";

/// The most series on a page; `/metrics` has all.
const MOST_SERIES: usize = 100;

impl MetricsPage {
    fn of(metrics: &PluginMetrics) -> Self {
        let families = metrics.families();
        let series = families.iter().flat_map(|family| {
            let name = family.descriptor().name.clone();
            family.series().into_iter().map(move |series| (name.clone(), series))
        });
        let shown = series.filter_map(|(name, series)| {
            let value = match series.read() {
                // A gauge that was never set.
                SeriesReading::Number(value) if !value.is_finite() => return None,
                SeriesReading::Number(value) => ValuePage::Number { value },
                SeriesReading::Histogram { buckets, sum } => ValuePage::Histogram { count: buckets.iter().sum(), sum },
            };
            Some(SeriesPage { name, labels: pairs(series.labels()), value })
        });
        Self {
            series: metrics.series(),
            overflowed: metrics.overflowed(),
            ignored: metrics.wrong_handles() + metrics.wrong_values(),
            values: shown.take(MOST_SERIES).collect(),
        }
    }
}

/// Parses the pairs of `key="value",…`, as both text formats write them.
fn pairs(labels: &str) -> BTreeMap<String, String> {
    let mut pairs = BTreeMap::new();
    let mut rest = labels;
    while let Some((key, value)) = rest.split_once("=\"") {
        let (mut text, mut chars) = (String::new(), value.chars());
        loop {
            match chars.next() {
                Some('\\') => text.extend(chars.next().map(|c| if c == 'n' { '\n' } else { c })),
                Some('"') | None => break,
                Some(c) => text.push(c),
            }
        }
        pairs.insert(key.trim_start_matches(',').to_owned(), text);
        rest = chars.as_str();
    }
    pairs
}

#[derive(Debug, Serialize)]
struct GrantsPage {
    read: Vec<String>,
    http: Vec<String>,
    env: Vec<String>,
    dirs: Vec<String>,
}

#[derive(Debug, Serialize)]
struct LimitsPage {
    memory_bytes: usize,
    cpu_seconds: f64,
    deadline_seconds: f64,
    init_deadline_seconds: f64,
    output_bytes: usize,
    handles: usize,
    file_bytes: usize,
    http_body_bytes: usize,
    instances: usize,
    log_lines_per_second: u32,
    log_line_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_timeout_seconds: Option<f64>,
    failures: u32,
    failure_window_seconds: f64,
    retry_after_seconds: f64,
}

#[derive(Debug, Serialize)]
struct RefusedPage {
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    reason: String,
    #[serde(flatten)]
    trap: Option<TrapPage>,
}

#[derive(Debug, Serialize)]
struct RefusedSectionPage {
    at: String,
    reason: String,
}

/// The trap that ended a plugin's instance.
#[derive(Debug, Serialize)]
struct TrapPage {
    /// Function names, innermost first.
    #[serde(skip_serializing_if = "Option::is_none")]
    backtrace: Option<Vec<String>>,
    /// The warnings and errors that the plugin wrote before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    said: Vec<String>,
}

impl TrapPage {
    fn of(trap: &Trap) -> Self {
        let lines = |text: &String| text.lines().map(str::to_owned).collect();
        Self { backtrace: trap.backtrace.as_ref().map(lines), said: trap.said.clone() }
    }
}

#[derive(Debug, Serialize)]
struct WaitingPage {
    instance: String,
    reason: String,
    times: usize,
    retry_at: String,
}

/// The durations of recent calls, in seconds.
#[derive(Debug, Serialize)]
struct CallSeconds {
    p50: f64,
    p99: f64,
}

#[derive(Debug, Serialize)]
struct FailurePage {
    at: String,
    reason: String,
    /// Whether a whole poll has gone well since.
    over: bool,
    #[serde(flatten)]
    trap: Option<TrapPage>,
}

impl PluginPage {
    pub fn of(engine: &Engine, status: &PluginStatus) -> Self {
        let metrics = status.metrics().as_ref().map(MetricsPage::of);
        let workers = usize::from(status.worker().is_some_and(|worker| worker.is_live()));
        let log = status.worker().map(|worker| worker.log()).unwrap_or_default();
        let conflicts = conflict_reports::of_plugin(engine, status);
        let shares = shares::of_owner(engine, &status.name);
        let interval_seconds = status.interval().as_secs_f64();
        status.look(|known| Self {
            interval_seconds,
            metrics,
            workers,
            log: log.into_iter().map(LogLinePage::from).collect(),
            conflicts,
            shares,
            ..Self::of_known(status, known)
        })
    }

    /// Returns the part of a page that needs only the lock of the plugin's state.
    fn of_known(status: &PluginStatus, known: &PluginInfo) -> Self {
        let shape = known.shape.as_ref();
        let limits = &status.limits;
        let call_time = |quantile| known.call_time(quantile).map(|time| time.as_secs_f64());
        Self {
            name: status.name.to_string(),
            state: known.state,
            waiting_for: known.waits_for_its_turn().then_some(TURN),
            version: known.description.as_ref().map(|description| description.version.clone()),
            about: known.description.as_ref().map(|description| description.about.clone()),
            bundled: matches!(known.origin, ComponentOrigin::Bundled(_)),
            native: known.origin == ComponentOrigin::Native,
            file: match &known.origin {
                ComponentOrigin::Native | ComponentOrigin::Bundled(_) => None,
                ComponentOrigin::File(path) => Some(path.display().to_string()),
            },
            digest: known.digest.clone(),
            size_bytes: shape.map(|shape| shape.size),
            loaded_at: known.loaded_ms.map(json::time),
            restored: known.is_restored,
            preparing: known.is_preparing,
            refused: known.refused.as_ref().map(|refused| RefusedPage {
                at: json::time(refused.at_ms),
                digest: refused.digest.clone(),
                reason: refused.reason.clone(),
                trap: refused.trap.as_ref().map(TrapPage::of),
            }),
            refused_section: known
                .refused_section
                .as_ref()
                .map(|refused| RefusedSectionPage { at: json::time(refused.at_ms), reason: refused.reason.clone() }),
            roles: shape.map(|shape| shape.roles.iter().map(|role| role.as_str()).collect()).unwrap_or_default(),
            interval_seconds: 0.0,
            grants: GrantsPage::of(&known.grants),
            missing: known.missing.iter().map(describe_need).collect(),
            limits: LimitsPage {
                memory_bytes: limits.memory,
                cpu_seconds: limits.cpu.as_secs_f64(),
                deadline_seconds: limits.deadline.as_secs_f64(),
                init_deadline_seconds: limits.init_deadline.as_secs_f64(),
                output_bytes: limits.output,
                handles: limits.handles,
                file_bytes: limits.file_bytes,
                http_body_bytes: limits.http_body,
                instances: limits.instances,
                log_lines_per_second: limits.log_lines_per_second,
                log_line_bytes: limits.log_line_bytes,
                idle_timeout_seconds: limits.idle_timeout.map(|timeout| timeout.as_secs_f64()),
                failures: status.config.failures(),
                failure_window_seconds: status.config.failure_window().as_secs_f64(),
                retry_after_seconds: status.config.retry_after().as_secs_f64(),
            },
            fields: known.fields.iter().flat_map(|fields| fields.schema.fields()).map(|f| f.name.to_string()).collect(),
            instances: known.instances,
            set_aside: known.set_aside.iter().map(WaitingPage::of).collect(),
            quarantined: known.quarantined.clone(),
            retry_at: known.retry_at_ms.map(json::time),
            workers: 0,
            workers_spawned: known.workers_spawned,
            memory_bytes: known.memory_bytes,
            cpu_seconds: known.cpu.as_secs_f64(),
            budget_used: known.last_call_cpu.as_secs_f64() / limits.cpu.as_secs_f64(),
            calls: known.calls,
            failures: known.failures,
            polls_missed: known.polls_missed,
            log_lines_dropped: known.log_lines_dropped,
            call_seconds: call_time(0.5).zip(call_time(0.99)).map(|(p50, p99)| CallSeconds { p50, p99 }),
            last_failure: known.last_failure.as_ref().map(|failure| FailurePage {
                at: json::time(failure.at_ms),
                reason: failure.reason.clone(),
                over: failure.is_over,
                trap: failure.trap.as_ref().map(TrapPage::of),
            }),
            next_poll: known.next_poll_ms.map(json::time),
            metrics: None,
            log: Vec::new(),
            conflicts: Vec::new(),
            shares: Vec::new(),
        }
    }
}

impl From<LogLine> for LogLinePage {
    fn from(LogLine { at, level, text }: LogLine) -> Self {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { at: json::time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)), level, line: text }
    }
}

impl GrantsPage {
    fn of(grants: &Grants) -> Self {
        let of_kind = |kind| {
            let granted = grants.iter().filter(|need| need.kind() == kind);
            granted.map(|need| need.what().to_owned()).collect()
        };
        Self { read: of_kind("read"), http: of_kind("http"), env: of_kind("env"), dirs: of_kind("dir") }
    }
}

impl WaitingPage {
    fn of(waiting: &SetAsideInstance) -> Self {
        Self {
            instance: waiting.instance.to_string(),
            reason: waiting.reason.clone(),
            times: waiting.times,
            retry_at: json::time(waiting.retry_at_ms),
        }
    }
}

/// Describes a need, for example as `read /proc/stat`.
pub fn describe_need(need: &Need) -> String {
    format!("{} {}", need.kind(), super::plain(need.what()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_pairs_are_parsed_back_with_their_escapes() {
        assert_eq!(pairs(""), BTreeMap::new());
        let read = pairs(r#"a="x,y=\"z\"",b="1\n2\\""#);
        let expected = [("a", "x,y=\"z\""), ("b", "1\n2\\")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(read, BTreeMap::from(expected));
    }
}
