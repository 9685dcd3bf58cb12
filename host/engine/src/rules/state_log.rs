//! Keeps alerts over a restart: every change of an alert's state is appended to a file before anybody is told of it.

use super::GroupId;
use dropsonde_model::Labels;
use dropsonde_model::text;
use dropsonde_rules::{Alert, AlertState};
use dropsonde_sandbox::replace::{PRIVATE, replace_file};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// The file's name in the data directory.
const NAME: &str = "alerts.log";

/// Lines beyond twice the number of alerts before the file is written anew.
const SPARE_LINES: usize = 1000;

/// The identity of an alert in its group: the key of its rule, and its labels.
type AlertKey = (Arc<str>, Labels);

#[derive(Debug)]
pub(super) struct StateLog(Mutex<LogState>);

#[derive(Debug, Default)]
struct LogState {
    /// None: nothing is kept.
    path: Option<PathBuf>,
    file: Option<File>,
    lines: usize,
    alerts: BTreeMap<GroupId, BTreeMap<AlertKey, Arc<Alert>>>,
    /// Whether the file could not be read. Then it is not written either, so that nothing in it is lost.
    is_unread: bool,
    /// Why the file cannot be written now.
    failure: Option<String>,
}

/// One line of the file.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    file: String,
    group: String,
    rule: String,
    labels: BTreeMap<String, String>,
    /// None: the alert is forgotten.
    alert: Option<KeptAlert>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptAlert {
    annotations: BTreeMap<String, String>,
    state: KeptState,
    /// As text: JSON has no NaN.
    value: String,
    active_ms: i64,
    fired_ms: Option<i64>,
    keep_firing_since_ms: Option<i64>,
    resolved_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KeptState {
    Inactive,
    Pending,
    Firing,
}

impl StateLog {
    /// Reads the file in a data directory. A line that is damaged is left out: it was cut by a crash.
    pub(super) fn open(data: Option<&Path>) -> Self {
        let mut state = LogState { path: data.map(|data| data.join(NAME)), ..LogState::default() };
        state.open();
        Self(Mutex::new(state))
    }

    /// Reads a file that could not be read at the start. Returns whether it can be read now.
    pub(super) fn read_late(&self) -> bool {
        let mut state = self.lock();
        state.is_unread && state.open()
    }

    /// Returns the alerts of a group, with the keys of their rules.
    pub(super) fn of_group(&self, id: &GroupId) -> Vec<(String, Alert)> {
        let state = self.lock();
        let alerts = state.alerts.get(id).into_iter().flatten();
        alerts.map(|((rule, _), alert)| (rule.to_string(), (**alert).clone())).collect()
    }

    /// Writes the changes of a group. `now` are all its alerts, with the keys of their rules.
    pub(super) fn update(&self, id: &GroupId, now: Vec<(Arc<str>, Arc<Alert>)>) {
        let mut state = self.lock();
        let now: BTreeMap<AlertKey, Arc<Alert>> =
            now.into_iter().map(|(rule, alert)| ((rule, alert.labels.clone()), alert)).collect();
        let before = state.alerts.remove(id).unwrap_or_default();
        let mut text = Vec::new();
        let mut lines = 0;
        let mut add = |(rule, labels): &AlertKey, alert: Option<&Alert>| {
            text.extend(serde_json::to_vec(&Line::of(id, rule, labels, alert)).unwrap_or_default());
            text.push(b'\n');
            lines += 1;
        };
        for (key, alert) in &now {
            if before.get(key).is_none_or(|known| !is_same(known, alert)) {
                add(key, Some(alert));
            }
        }
        before.keys().filter(|key| !now.contains_key(*key)).for_each(|key| add(key, None));
        if !now.is_empty() {
            state.alerts.insert(id.clone(), now);
        }
        state.append(&text, lines);
    }

    /// Forgets the groups that are no longer there.
    pub(super) fn keep_only(&self, is_there: impl Fn(&GroupId) -> bool) {
        let gone: Vec<GroupId> = self.lock().alerts.keys().filter(|id| !is_there(id)).cloned().collect();
        gone.iter().for_each(|id| self.update(id, Vec::new()));
    }

    pub(super) fn trouble(&self) -> Option<String> {
        let state = self.lock();
        let why = state.failure.as_ref()?;
        Some(format!("which alerts are active is not kept over a restart: {why}"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LogState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogState {
    /// Reads the file. Returns whether that works; there need not be a file.
    fn open(&mut self) -> bool {
        let Some(path) = &self.path else { return true };
        match fs::read(path) {
            Ok(bytes) => self.read(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let why = text::os_error(&error);
                if self.failure.as_ref() != Some(&why) {
                    tracing::error!(file = %path.display(), error = %why, "cannot read which alerts were active");
                }
                (self.is_unread, self.failure) = (true, Some(why));
                return false;
            }
        }
        (self.is_unread, self.failure) = (false, None);
        if self.lines > 0 {
            self.rewrite();
        }
        true
    }

    fn read(&mut self, bytes: &[u8]) {
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            self.lines += 1;
            let Ok(line) = serde_json::from_slice::<Line>(line) else { continue };
            let id = GroupId { file: line.file.as_str().into(), name: line.group.as_str().into() };
            let labels: Labels = line.labels.into_iter().collect();
            let key = (line.rule.into(), labels.clone());
            let group = self.alerts.entry(id).or_default();
            match line.alert {
                Some(alert) => drop(group.insert(key, Arc::new(alert.into_alert(labels)))),
                None => drop(group.remove(&key)),
            }
        }
        self.alerts.retain(|_, alerts| !alerts.is_empty());
    }

    fn append(&mut self, text: &[u8], lines: usize) {
        if self.path.is_none() || self.is_unread || (text.is_empty() && self.failure.is_none()) {
            return;
        }
        let alerts: usize = self.alerts.values().map(BTreeMap::len).sum();
        self.lines += lines;
        if self.lines > 2 * alerts + SPARE_LINES || self.file.is_none() || self.failure.is_some() {
            return self.rewrite();
        }
        let written = self.file.as_mut().map(|file| file.write_all(text).and_then(|()| file.sync_data()));
        self.note(written.unwrap_or(Ok(())));
    }

    /// Writes the file anew, one line for each alert.
    fn rewrite(&mut self) {
        let Some(path) = self.path.clone() else { return };
        let mut text = Vec::new();
        self.lines = 0;
        for (id, alerts) in &self.alerts {
            for ((rule, _), alert) in alerts {
                text.extend(serde_json::to_vec(&Line::of(id, rule, &alert.labels, Some(alert))).unwrap_or_default());
                text.push(b'\n');
                self.lines += 1;
            }
        }
        let written = replace_file(&path, &text, PRIVATE);
        let opened = written.and_then(|()| OpenOptions::new().append(true).mode(0o600).open(&path));
        let (file, result) = match opened {
            Ok(file) => (Some(file), Ok(())),
            Err(error) => (None, Err(error)),
        };
        self.file = file;
        self.note(result);
    }

    fn note(&mut self, result: io::Result<()>) {
        let why = result.err().map(|error| text::os_error(&error));
        if let Some(why) = why.as_ref().filter(|why| self.failure.as_ref() != Some(why)) {
            tracing::error!(error = %why, "cannot keep which alerts are active");
        }
        self.failure = why;
    }
}

/// Returns whether two states of an alert are the same but for what the next evaluation finds again.
fn is_same(a: &Alert, b: &Alert) -> bool {
    let times =
        |alert: &Alert| (alert.state, alert.active_ms, alert.fired_ms, alert.keep_firing_since_ms, alert.resolved_ms);
    times(a) == times(b)
}

impl Line {
    fn of(id: &GroupId, rule: &str, labels: &Labels, alert: Option<&Alert>) -> Self {
        Self {
            file: id.file.to_string(),
            group: id.name.to_string(),
            rule: rule.to_owned(),
            labels: labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            alert: alert.map(KeptAlert::of),
        }
    }
}

impl KeptAlert {
    fn of(alert: &Alert) -> Self {
        Self {
            annotations: alert.annotations.clone(),
            state: match alert.state {
                AlertState::Inactive => KeptState::Inactive,
                AlertState::Pending => KeptState::Pending,
                AlertState::Firing => KeptState::Firing,
            },
            value: alert.value.to_string(),
            active_ms: alert.active_ms,
            fired_ms: alert.fired_ms,
            keep_firing_since_ms: alert.keep_firing_since_ms,
            resolved_ms: alert.resolved_ms,
        }
    }

    fn into_alert(self, labels: Labels) -> Alert {
        Alert {
            labels,
            annotations: self.annotations,
            state: match self.state {
                KeptState::Inactive => AlertState::Inactive,
                KeptState::Pending => AlertState::Pending,
                KeptState::Firing => AlertState::Firing,
            },
            value: self.value.parse().unwrap_or(f64::NAN),
            active_ms: self.active_ms,
            fired_ms: self.fired_ms,
            keep_firing_since_ms: self.keep_firing_since_ms,
            resolved_ms: self.resolved_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(state: AlertState, active_ms: i64) -> Arc<Alert> {
        Arc::new(Alert {
            labels: Labels::from([("alertname", "A"), ("id", "i")]),
            annotations: BTreeMap::from([("summary".to_owned(), "s".to_owned())]),
            state,
            value: f64::INFINITY,
            active_ms,
            fired_ms: None,
            keep_firing_since_ms: None,
            resolved_ms: None,
        })
    }

    fn id(name: &str) -> GroupId {
        GroupId { file: "f".into(), name: name.into() }
    }

    fn kept(folder: &Path, name: &str) -> Vec<(String, Alert)> {
        StateLog::open(Some(folder)).of_group(&id(name))
    }

    #[test]
    fn the_last_state_of_each_alert_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let log = StateLog::open(Some(folder.path()));
        log.update(&id("g"), vec![("A".into(), alert(AlertState::Pending, 5))]);
        log.update(&id("g"), vec![("A".into(), alert(AlertState::Firing, 5))]);
        log.update(&id("other"), vec![("A".into(), alert(AlertState::Pending, 7))]);
        assert_eq!(kept(folder.path(), "g"), [("A".to_owned(), (*alert(AlertState::Firing, 5)).clone())]);
        assert_eq!(kept(folder.path(), "other"), [("A".to_owned(), (*alert(AlertState::Pending, 7)).clone())]);
    }

    #[test]
    fn alerts_that_are_gone_stay_gone() {
        let folder = tempfile::tempdir().unwrap();
        let log = StateLog::open(Some(folder.path()));
        log.update(&id("g"), vec![("A".into(), alert(AlertState::Firing, 5))]);
        log.update(&id("h"), vec![("A".into(), alert(AlertState::Firing, 5))]);
        log.update(&id("g"), Vec::new());
        log.keep_only(|id| &*id.name != "h");
        assert_eq!((kept(folder.path(), "g"), kept(folder.path(), "h")), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_line_that_was_cut_by_a_crash_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let log = StateLog::open(Some(folder.path()));
        log.update(&id("g"), vec![("A".into(), alert(AlertState::Pending, 5))]);
        log.update(&id("g"), vec![("A".into(), alert(AlertState::Firing, 5))]);
        let path = folder.path().join(NAME);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        assert_eq!(kept(folder.path(), "g"), [("A".to_owned(), (*alert(AlertState::Pending, 5)).clone())]);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_written_and_is_read_later() {
        let folder = tempfile::tempdir().unwrap();
        let before = StateLog::open(Some(folder.path()));
        before.update(&id("g"), vec![("A".into(), alert(AlertState::Firing, 5))]);
        let path = folder.path().join(NAME);
        let aside = folder.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        // A folder cannot be read as a file.
        fs::create_dir(&path).unwrap();
        let log = StateLog::open(Some(folder.path()));
        assert!(log.trouble().is_some());
        log.update(&id("h"), vec![("A".into(), alert(AlertState::Pending, 7))]);
        assert!(!log.read_late());
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        assert!(log.read_late() && log.trouble().is_none() && !log.read_late());
        assert_eq!(log.of_group(&id("g")).len(), 1);
        assert_eq!((kept(folder.path(), "g").len(), kept(folder.path(), "h").len()), (1, 1));
    }

    #[test]
    fn the_file_stays_small_however_often_alerts_change() {
        let folder = tempfile::tempdir().unwrap();
        let log = StateLog::open(Some(folder.path()));
        for nth in 0..1200 {
            log.update(&id("g"), vec![("A".into(), alert(AlertState::Pending, nth))]);
        }
        let lines = fs::read_to_string(folder.path().join(NAME)).unwrap().lines().count();
        assert!(lines <= SPARE_LINES + 2, "{lines}");
        assert_eq!(kept(folder.path(), "g").len(), 1);
    }
}
