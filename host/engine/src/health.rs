//! The health of the host, of its history and of its plugins, for `/health` and for metrics.

use crate::Engine;
use crate::json;
use crate::metrics::ServiceStatus;
use crate::plugins::{PluginInfo, PluginState, PluginStatus};
use crate::shares;
use crate::timeline;
use dropsonde_model::text;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Late ticks in a row before `/health` reports them. A single one only means a busy machine.
const LATE_TICKS: u32 = 3;

/// Polls of a new plugin without a sample before `/health` reports them. The first ones may come while the measured
/// program still starts.
const POLLS_IN_VAIN: u32 = 3;

/// Failed discoveries in a row before `/health` reports them.
const FAILED_DISCOVERIES: u32 = 3;

/// Time for which `/health` reports that someone deleted files of history.
const VANISHED: Duration = Duration::from_secs(600);

/// Longest duration of a write before `/health` reports it.
const SLOW_WRITE: Duration = Duration::from_secs(10);

/// The health of the host's parts and of its plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub services: Vec<ServiceHealth>,
    /// The reason why the host cannot go on, if any: it is stopping, or one of its own tasks has ended.
    pub fatal: Option<FatalReason>,
}

/// The health of one part of the host, or of one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceHealth {
    /// `host`, `history`, or a plugin's name.
    pub name: String,
    pub status: ServiceStatus,
    /// What is wrong with it, a sentence each.
    pub reasons: Vec<String>,
}

/// The reason why the host cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FatalReason {
    /// The host is stopping.
    Draining,
    /// These tasks have ended, although they run as long as the host.
    Dead(Vec<&'static str>),
}

/// The state of the host's own tasks and of its history.
#[derive(Debug, Default)]
pub struct Vitals {
    is_serving: AtomicBool,
    is_draining: AtomicBool,
    dead: Mutex<BTreeSet<&'static str>>,
    /// The reason why history cannot be opened, if it cannot.
    history: OnceLock<String>,
}

/// Held by a task as long as it runs. A task that drops it before the host stops is reported as ended.
#[derive(Debug)]
pub struct TaskGuard {
    vitals: Arc<Vitals>,
    task: &'static str,
}

impl Health {
    pub fn of(engine: &Engine) -> Self {
        let fatal = engine.vitals.fatal();
        let host = match &fatal {
            Some(FatalReason::Dead(_)) => ServiceStatus::Failed,
            Some(FatalReason::Draining) => ServiceStatus::Stopping,
            None if engine.vitals.is_serving.load(Relaxed) => ServiceStatus::Running,
            None => ServiceStatus::Starting,
        };
        let reasons = fatal.iter().map(FatalReason::to_string).chain(clock(engine));
        let reasons = reasons.chain(engine.plugins.folder_trouble()).chain(engine.rules.troubles());
        let kept_ms = engine.options.load().store.retention.as_ms();
        let reasons = reasons.chain(engine.remotes.troubles(engine.clock.now_ms(), kept_ms));
        let of_front = engine.front().map(|front| front.troubles()).unwrap_or_default();
        let reasons = reasons.chain(of_front).chain(engine.audit.trouble());
        let reasons = reasons.chain(shares::greedy(engine).into_iter().map(|greedy| greedy.why)).collect();
        let history: Vec<_> = history(engine).into_iter().collect();
        let status = if history.is_empty() { ServiceStatus::Running } else { ServiceStatus::Failed };
        let mut services = vec![
            ServiceHealth { name: "host".to_owned(), status: host, reasons },
            ServiceHealth { name: "history".to_owned(), status, reasons: history },
        ];
        services.extend(engine.plugins.list().iter().map(|plugin| plugin.look(|known| service(plugin, known))));
        for reason in services.iter_mut().flat_map(|service| &mut service.reasons) {
            *reason = text::without_numbers(reason);
        }
        Self { services, fatal }
    }

    pub fn reasons(&self) -> Vec<String> {
        self.services.iter().flat_map(|service| service.reasons.iter().cloned()).collect()
    }
}

impl std::fmt::Display for FatalReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Draining => f.write_str("the host is stopping"),
            Self::Dead(tasks) => write!(f, "a task of the host has ended: {}; restart the host", tasks.join(", ")),
        }
    }
}

fn service(plugin: &PluginStatus, known: &PluginInfo) -> ServiceHealth {
    let status = match known.state {
        PluginState::Loading | PluginState::Compiling => ServiceStatus::Starting,
        PluginState::Running => ServiceStatus::Running,
        PluginState::Backoff | PluginState::Quarantined | PluginState::Failed => ServiceStatus::Failed,
    };
    let state = match known.state {
        PluginState::Failed => Some("has failed"),
        PluginState::Backoff => Some("waits after a failure"),
        PluginState::Quarantined => Some("is in quarantine"),
        _ if known.is_restored => Some("runs its last good version"),
        PluginState::Loading | PluginState::Compiling | PluginState::Running => None,
    };
    let last = known.last_failure.as_ref().map(|failure| failure.reason.clone());
    let why = || match (&known.quarantined, &last) {
        (Some(why), Some(last)) => Some(format!("{why}; the last: {last}")),
        (why, last) => why.clone().or(last.clone()),
    };
    let retry = known.retry_at_ms.map(|at_ms| format!("; the host retries at {}", json::time(at_ms)));
    let retry = retry.unwrap_or_default();
    let mut reasons: Vec<_> = state
        .map(|state| format!("plugin {} {state}: {}{retry}", plugin.name, why().unwrap_or_default()))
        .into_iter()
        .collect();
    let because = || last.as_ref().map(|last| format!(": {last}")).unwrap_or_default();
    let in_vain = known.polls_in_vain.filter(|polls| *polls >= POLLS_IN_VAIN && known.instances > 0);
    if let Some(polls) = in_vain.filter(|_| known.state == PluginState::Running) {
        let (name, count) = (&plugin.name, known.instances);
        let of = if count == 1 { "its instance".to_owned() } else { format!("its {count} instances") };
        reasons.push(format!("plugin {name} has given no sample in {polls} polls of {of}{}", because()));
    }
    if known.state == PluginState::Running && known.failed_discoveries >= FAILED_DISCOVERIES {
        let (name, times) = (&plugin.name, known.failed_discoveries);
        reasons.push(format!("plugin {name} failed to discover its instances {times} times in a row{}", because()));
    }
    if known.state == PluginState::Running && known.late_ticks >= LATE_TICKS {
        let (name, late, missed) = (&plugin.name, known.late_ticks, known.polls_missed);
        reasons
            .push(format!("plugin {name} is polled late, {late} times in a row; {missed} polls were skipped so far"));
    }
    reasons.extend(known.conflicts.of_others(&plugin.name));
    ServiceHealth { name: plugin.name.to_string(), status, reasons }
}

/// Returns a reason for some time after the wall clock was set: samples from before or after that have wrong times.
fn clock(engine: &Engine) -> Option<String> {
    let jump = engine.timeline.recent_jump()?;
    let direction = if jump.by_ms < 0 { "back" } else { "ahead" };
    let (by, at) = (timeline::span(jump.by_ms), json::time(jump.at_ms));
    Some(format!("the clock was set {direction} by {by} to {at}; no history was removed"))
}

/// Returns why history is not written to disk, or why it takes more of the disk than it may.
fn history(engine: &Engine) -> Option<String> {
    if let Some(why) = engine.vitals.without_history() {
        return Some(format!("history is in memory alone until a restart: {why}"));
    }
    let archive = engine.store.archive();
    if let Some(failing) = archive.failing {
        let (reason, since) = (failing.reason, json::time(failing.since_ms));
        let what = match reason {
            "full" => "the disk is full",
            "read_only" => "the disk is read-only",
            "denied" => "the host's user has no permission",
            "gone" => "its folder is gone",
            "in_use" => "another host is using its folder",
            "file_limit" => "a file reached the size limit (RLIMIT_FSIZE)",
            _ => "the disk fails",
        };
        let rows = archive.unstored_rows;
        return Some(format!(
            "history is in memory alone since {since}, {rows} rows so far: {what} ({}); the host retries",
            failing.error
        ));
    }
    if let Some(slow) = archive.writing_since.map(|since| since.elapsed()).filter(|took| *took > SLOW_WRITE) {
        return Some(format!("history is in memory alone: a write to disk has taken {} s so far", slow.as_secs()));
    }
    if archive.vanished > 0 || archive.vanished_at.is_some_and(|at| at.elapsed() < VANISHED) {
        let what =
            "files of history were deleted or truncated while the host was running; it writes what memory has again";
        return Some(match archive.vanished {
            0 => what.to_owned(),
            files => {
                format!("{what}; {files} deleted files can be read until the host stops, and are lost then")
            }
        });
    }
    archive.beyond_limit.then(|| {
        let size = archive.size.div_ceil(1 << 20);
        format!(
            "history takes {size} MiB, more than store.max_disk, and no more of it can be dropped; raise store.max_disk"
        )
    })
}

// === impl Vitals ===

impl Vitals {
    /// Returns the pulse of a task that runs as long as the host.
    pub fn pulse(self: &Arc<Self>, task: &'static str) -> TaskGuard {
        TaskGuard { vitals: self.clone(), task }
    }

    pub(crate) fn serve(&self) {
        self.is_serving.store(true, Relaxed);
    }

    /// Notes that history is in memory alone, and why.
    pub(crate) fn lose_history(&self, why: String) {
        let _ = self.history.set(why);
    }

    /// Returns why history is in memory alone, if that is not what the operator wants.
    pub(crate) fn without_history(&self) -> Option<&str> {
        self.history.get().map(String::as_str)
    }

    /// Notes that the host is stopping: from now on tasks end because they are told to.
    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Relaxed)
    }

    fn fatal(&self) -> Option<FatalReason> {
        if self.is_draining.load(Relaxed) {
            return Some(FatalReason::Draining);
        }
        let dead: Vec<_> = self.dead.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        (!dead.is_empty()).then_some(FatalReason::Dead(dead))
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        if !self.vitals.is_draining.load(Relaxed) {
            self.vitals.dead.lock().unwrap_or_else(PoisonError::into_inner).insert(self.task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_before_the_host_stops_is_fatal() {
        let vitals = Arc::new(Vitals::default());
        let (pulse, other) = (vitals.pulse("schedule"), vitals.pulse("snapshot"));
        assert_eq!(vitals.fatal(), None);
        let task = tokio::spawn(async move {
            let _pulse = pulse;
            panic!("told to");
        });
        assert!(task.await.is_err());
        assert_eq!(vitals.fatal(), Some(FatalReason::Dead(vec!["schedule"])));
        drop(other);
        assert_eq!(vitals.fatal(), Some(FatalReason::Dead(vec!["schedule", "snapshot"])));
    }

    #[test]
    fn tasks_that_end_while_the_host_stops_are_not_fatal() {
        let vitals = Arc::new(Vitals::default());
        let pulse = vitals.pulse("schedule");
        vitals.drain();
        drop(pulse);
        assert_eq!(vitals.fatal(), Some(FatalReason::Draining));
    }
}
