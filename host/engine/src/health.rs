//! How the host is: what `/health` says, and the metrics that say the same.

use crate::Engine;
use crate::json;
use crate::metrics::ServiceStatus;
use crate::plugins::{Known, PluginState, Status};
use crate::shares;
use crate::timeline;
use dropsonde_model::text;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// Ticks in a row that came too late before that is worth a word: one is a busy machine.
const LATE_TICKS: u32 = 3;

/// Polls without a sample before that is worth a word: the first ones may come while what is measured starts.
const POLLS_IN_VAIN: u32 = 3;

/// The same for discoveries.
const FAILED_DISCOVERIES: u32 = 3;

/// How long it is worth a word that someone deleted files of history.
const VANISHED: Duration = Duration::from_secs(600);

/// A write that takes longer is no slow one any more.
const SLOW_WRITE: Duration = Duration::from_secs(10);

/// The host's parts and its plugins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub services: Vec<Service>,
    /// Why it cannot go on as it is, if it cannot: it is stopping, or one of its own tasks is no more.
    pub fatal: Option<Fatal>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// `host`, `history`, or a plugin's.
    pub name: String,
    pub status: ServiceStatus,
    /// What is wrong with it.
    pub reasons: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fatal {
    Draining,
    /// Which tasks have ended that never do.
    Dead(Vec<&'static str>),
}

/// Whether the host's own tasks live.
#[derive(Debug, Default)]
pub struct Vitals {
    is_serving: AtomicBool,
    is_draining: AtomicBool,
    dead: Mutex<BTreeSet<&'static str>>,
    /// Why history cannot be opened, if so.
    history: OnceLock<String>,
}

/// Held by a task as long as it lives.
#[derive(Debug)]
pub struct Pulse {
    vitals: Arc<Vitals>,
    task: &'static str,
}

impl Health {
    pub fn of(engine: &Engine) -> Self {
        let fatal = engine.vitals.fatal();
        let host = match &fatal {
            Some(Fatal::Dead(_)) => ServiceStatus::Failed,
            Some(Fatal::Draining) => ServiceStatus::Stopping,
            None if engine.vitals.is_serving.load(Relaxed) => ServiceStatus::Running,
            None => ServiceStatus::Starting,
        };
        let reasons = fatal.iter().map(Fatal::to_string).chain(clock(engine));
        let reasons = reasons.chain(engine.plugins.folder_trouble());
        let of_front = engine.front().map(|front| front.troubles()).unwrap_or_default();
        let reasons = reasons.chain(of_front).chain(engine.audit.trouble());
        let reasons = reasons.chain(shares::greedy(engine).into_iter().map(|greedy| greedy.why)).collect();
        let history: Vec<_> = history(engine).into_iter().collect();
        let status = if history.is_empty() { ServiceStatus::Running } else { ServiceStatus::Failed };
        let mut services = vec![
            Service { name: "host".to_owned(), status: host, reasons },
            Service { name: "history".to_owned(), status, reasons: history },
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

impl std::fmt::Display for Fatal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Draining => f.write_str("the host is stopping"),
            Self::Dead(tasks) => write!(f, "no longer there: {}; a restart brings it back", tasks.join(", ")),
        }
    }
}

fn service(plugin: &Status, known: &Known) -> Service {
    let status = match known.state {
        PluginState::Loading | PluginState::Compiling => ServiceStatus::Starting,
        PluginState::Running => ServiceStatus::Running,
        PluginState::Backoff | PluginState::Quarantined | PluginState::Failed => ServiceStatus::Failed,
    };
    let state = match known.state {
        PluginState::Failed => Some("has failed"),
        PluginState::Backoff => Some("waits after a failure"),
        PluginState::Quarantined => Some("is in quarantine"),
        _ if known.is_restored => Some("runs as it last ran well"),
        PluginState::Loading | PluginState::Compiling | PluginState::Running => None,
    };
    let last = known.last_failure.as_ref().map(|failure| failure.reason.clone());
    let why = || match (&known.quarantined, &last) {
        (Some(why), Some(last)) => Some(format!("{why}; the last: {last}")),
        (why, last) => why.clone().or(last.clone()),
    };
    let retry = known.retry_at_ms.map(|at_ms| format!("; it is tried again at {}", json::time(at_ms)));
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
            .push(format!("plugin {name} is polled late, {late} times in a row; {missed} polls were left out so far"));
    }
    reasons.extend(known.conflicts.of_others(&plugin.name));
    Service { name: plugin.name.to_string(), status, reasons }
}

/// That the clock was set, for a while: what is recorded lies where it should not, or did before.
fn clock(engine: &Engine) -> Option<String> {
    let jump = engine.timeline.recent_jump()?;
    let direction = if jump.by_ms < 0 { "back" } else { "ahead" };
    let (by, at) = (timeline::span(jump.by_ms), json::time(jump.at_ms));
    Some(format!("the clock was set {direction} by {by} to {at}; no history was removed"))
}

/// Why history is not written to disk, or takes more of it than it may.
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
            "denied" => "this user may not use it",
            "gone" => "its folder is gone",
            "in_use" => "another host is using its folder",
            "file_limit" => "files may not become so large (RLIMIT_FSIZE)",
            _ => "the disk does not work",
        };
        let rows = archive.unstored_rows;
        return Some(format!(
            "history is in memory alone since {since}, {rows} rows so far: {what} ({}); it is tried again",
            failing.error
        ));
    }
    if let Some(slow) = archive.writing_since.map(|since| since.elapsed()).filter(|took| *took > SLOW_WRITE) {
        return Some(format!("history is in memory alone: a write has been going on for {} s", slow.as_secs()));
    }
    if archive.vanished > 0 || archive.vanished_at.is_some_and(|at| at.elapsed() < VANISHED) {
        let what =
            "files of history were deleted or cut short while the host runs; what was in memory is written again";
        return Some(match archive.vanished {
            0 => what.to_owned(),
            files => {
                format!("{what}, and what {files} of them held can be read until the host stops, and is gone then")
            }
        });
    }
    archive.beyond_limit.then(|| {
        let size = archive.size.div_ceil(1 << 20);
        format!("history takes {size} MiB, more than store.max_disk: the newest part of it cannot be spared")
    })
}

// === impl Vitals ===

impl Vitals {
    /// For a task that lives as long as the host.
    pub fn pulse(self: &Arc<Self>, task: &'static str) -> Pulse {
        Pulse { vitals: self.clone(), task }
    }

    pub(crate) fn serve(&self) {
        self.is_serving.store(true, Relaxed);
    }

    /// History is in memory alone, and why.
    pub(crate) fn lose_history(&self, why: String) {
        let _ = self.history.set(why);
    }

    /// Why history is in memory alone, if that is not what the operator wants.
    pub(crate) fn without_history(&self) -> Option<&str> {
        self.history.get().map(String::as_str)
    }

    /// From now on tasks end because they are told to.
    pub(crate) fn drain(&self) {
        self.is_draining.store(true, Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Relaxed)
    }

    fn fatal(&self) -> Option<Fatal> {
        if self.is_draining.load(Relaxed) {
            return Some(Fatal::Draining);
        }
        let dead: Vec<_> = self.dead.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        (!dead.is_empty()).then_some(Fatal::Dead(dead))
    }
}

impl Drop for Pulse {
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
    async fn a_task_that_ends_by_itself_is_fatal() {
        let vitals = Arc::new(Vitals::default());
        let (pulse, other) = (vitals.pulse("schedule"), vitals.pulse("snapshot"));
        assert_eq!(vitals.fatal(), None);
        let task = tokio::spawn(async move {
            let _pulse = pulse;
            panic!("told to");
        });
        assert!(task.await.is_err());
        assert_eq!(vitals.fatal(), Some(Fatal::Dead(vec!["schedule"])));
        drop(other);
        assert_eq!(vitals.fatal(), Some(Fatal::Dead(vec!["schedule", "snapshot"])));
    }

    #[test]
    fn tasks_end_while_the_host_stops() {
        let vitals = Arc::new(Vitals::default());
        let pulse = vitals.pulse("schedule");
        vitals.drain();
        drop(pulse);
        assert_eq!(vitals.fatal(), Some(Fatal::Draining));
    }
}
