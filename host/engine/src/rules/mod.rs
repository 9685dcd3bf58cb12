//! Rules: groups of them are evaluated over history on a schedule; what they find is in history too, and alerts can be
//! read and followed.
//!
//! # Layout
//!
//! * `files`: reads rule files. `fields`: alerts of the configuration, as rules.
//! * `supervisor`: starts and ends groups as files come and go. `group_task`: evaluates one group at its ticks.
//!   `history_storage`: history as groups read and write it.
//! * `state_log`: keeps alerts over a restart. [`Silences`]: the alerts that nobody is notified of.
//! * [`GroupReport`]: a group after its last evaluation. [`ListedAlert`]: an alert of it.

mod fields;
mod files;
mod group_task;
mod history_storage;
mod report;
mod silences;
mod state_log;
mod supervisor;

pub use report::{GroupReport, ListedAlert, RuleReport};
pub use silences::{InvalidSilence, NewSilence, Silence, SilenceMatcher, Silences};
pub(crate) use supervisor::supervise;

use crate::Options;
use crate::options::RuleOptions;
use dropsonde_model::text;
use files::LoadedRules;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use state_log::StateLog;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// The name under which the series of rules are in history. No instance can have it.
pub const INSTANCE_OF_RULES: &str = "dropsonde:rules";

/// The most changes of alerts that a reader can be behind.
const CHANGES: usize = 4096;

/// The characters that are escaped in a query string, as Go does it.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The identity of a group: its file and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    pub file: Arc<str>,
    pub name: Arc<str>,
}

/// The reason why a file's rules are not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleFileFailure {
    pub file: String,
    pub why: String,
}

/// Asks to read the rule files again; the answer names the files that have mistakes.
type Reload = oneshot::Sender<Vec<RuleFileFailure>>;

/// The rules of a host.
#[derive(Debug)]
pub struct Rules {
    groups: RwLock<BTreeMap<GroupId, Arc<GroupReport>>>,
    /// The rule files with mistakes.
    failures: RwLock<Vec<RuleFileFailure>>,
    /// Alerts of the configuration whose fields nothing has, a sentence each.
    unknown_fields: RwLock<Vec<String>>,
    /// Whether the rule files were read since the start.
    is_loaded: AtomicBool,
    /// Changes with each evaluation and each silence.
    revision: watch::Sender<u64>,
    changes: broadcast::Sender<ListedAlert>,
    pub silences: Silences,
    state: StateLog,
    reloads: mpsc::Sender<Reload>,
    asked: std::sync::Mutex<Option<mpsc::Receiver<Reload>>>,
}

impl Rules {
    /// Reads the alerts and silences of the last run.
    pub(crate) fn open(data: Option<&Path>, now_ms: i64) -> Self {
        let (reloads, asked) = mpsc::channel(1);
        Self {
            groups: RwLock::default(),
            failures: RwLock::default(),
            unknown_fields: RwLock::default(),
            is_loaded: AtomicBool::new(false),
            revision: watch::Sender::new(0),
            changes: broadcast::Sender::new(CHANGES),
            silences: Silences::open(data, now_ms),
            state: StateLog::open(data),
            reloads,
            asked: std::sync::Mutex::new(Some(asked)),
        }
    }

    /// Returns all groups, sorted by file and name.
    pub fn groups(&self) -> Vec<Arc<GroupReport>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Returns all alerts, of every state.
    pub fn alerts(&self) -> Vec<ListedAlert> {
        self.groups().iter().flat_map(GroupReport::alerts).collect()
    }

    /// Returns how many alerts there are, of every state.
    pub fn count(&self) -> usize {
        self.groups().iter().map(|group| group.count()).sum()
    }

    /// Returns whether all rules are there: an alert that is not listed then is over.
    pub fn is_complete(&self) -> bool {
        self.is_loaded.load(Acquire) && self.failures.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Returns a receiver that changes after each evaluation and each change of a silence.
    pub fn revision(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Returns a receiver of the alerts that change their state from now on.
    pub fn changes(&self) -> broadcast::Receiver<ListedAlert> {
        self.changes.subscribe()
    }

    /// Reads the rule files of the options in force again. Returns the files that have mistakes; the rules that they
    /// had before stay in force.
    pub async fn reload(&self) -> Vec<RuleFileFailure> {
        let (answer, answered) = oneshot::channel();
        // It fails only while the host stops.
        if self.reloads.send(answer).await.is_err() {
            return Vec::new();
        }
        answered.await.unwrap_or_default()
    }

    /// Returns the problems of the rules, a sentence each.
    pub fn troubles(&self) -> Vec<String> {
        let failures = self.failures.read().unwrap_or_else(PoisonError::into_inner);
        let unknown = self.unknown_fields.read().unwrap_or_else(PoisonError::into_inner);
        let of_files = failures.iter().map(RuleFileFailure::to_string);
        of_files.chain(unknown.iter().cloned()).chain(self.failing()).chain(self.state.trouble()).collect()
    }

    /// Says how many rules cannot be evaluated, and why the first of them cannot.
    fn failing(&self) -> Option<String> {
        let groups = self.groups();
        let failing = |group: &Arc<GroupReport>| {
            let rules = group.group.rules.iter().zip(&group.rules);
            let why = |report: &RuleReport| report.evaluated.as_ref()?.failure.clone();
            let failing = rules.filter_map(|(rule, report)| {
                Some(format!("{} in the group {} of {}: {}", rule.name(), group.id.name, group.id.file, why(report)?))
            });
            failing.collect::<Vec<_>>()
        };
        let mut all = groups.iter().flat_map(failing);
        // It can quote labels that a plugin has made.
        let first = text::harmless(&all.next()?);
        Some(match all.count() {
            0 => format!("a rule cannot be evaluated: {first}"),
            more => format!("{} rules cannot be evaluated; the first is {first}", more + 1),
        })
    }

    /// Tells readers that something has changed.
    pub fn touch(&self) {
        self.revision.send_modify(|revision| *revision = revision.wrapping_add(1));
    }

    fn publish(&self, report: Arc<GroupReport>) {
        self.groups.write().unwrap_or_else(PoisonError::into_inner).insert(report.id.clone(), report);
        self.touch();
    }

    fn withdraw(&self, id: &GroupId) {
        self.groups.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.touch();
    }
}

/// As Prometheus writes it in the label of a metric.
impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{}", self.file, self.name)
    }
}

impl fmt::Display for RuleFileFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the rules in {} are not in force: {}", self.file, self.why)
    }
}

/// Reads all rule files, and returns those that have mistakes.
pub fn check(options: &RuleOptions) -> Vec<RuleFileFailure> {
    LoadedRules::read(options).failures
}

/// Returns the address of a page on which an expression is shown.
pub fn generator_url(options: &Options, expr: &str) -> String {
    let base = options.rules.external_url.trim_end_matches('/');
    let expr = utf8_percent_encode(expr, ESCAPED);
    format!("{base}/graph?g0.expr={expr}&g0.tab=1")
}
