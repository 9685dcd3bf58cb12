//! Silences: alerts that match one are still evaluated and shown, but nobody is notified of them.

use dropsonde_model::{Labels, text};
use dropsonde_promql::{MatchOperator, Matcher};
use dropsonde_sandbox::replace::{PRIVATE, replace_file};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

/// The file's name in the data directory.
const NAME: &str = "silences.json";

/// The most silences that are kept, with those that are over.
const MOST: usize = 1000;

/// The most matchers of a silence.
const MOST_MATCHERS: usize = 32;

/// The longest text of a silence, in bytes.
const LONGEST: usize = 1024;

/// The time for which a silence that is over is kept, in milliseconds.
const KEPT_MS: i64 = 5 * 86_400_000;

/// The silences of a host.
#[derive(Debug)]
pub struct Silences {
    /// None: nothing is kept.
    path: Option<PathBuf>,
    /// Whether the file could not be read. Then it is not written either, so that nothing in it is lost.
    is_unread: AtomicBool,
    silences: RwLock<BTreeMap<String, Silence>>,
}

/// Alerts that nobody is notified of for some time.
#[derive(Debug, Clone)]
pub struct Silence {
    pub id: String,
    /// An alert must match all of them.
    pub matchers: Vec<Matcher>,
    pub starts_ms: i64,
    pub ends_ms: i64,
    pub created_by: String,
    pub comment: String,
    pub updated_ms: i64,
}

/// A silence that somebody asks for.
#[derive(Debug, Clone)]
pub struct NewSilence {
    pub matchers: Vec<SilenceMatcher>,
    pub starts_ms: i64,
    pub ends_ms: i64,
    pub created_by: String,
    pub comment: String,
}

/// A condition on a label, as Alertmanager writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SilenceMatcher {
    pub name: String,
    pub value: String,
    #[serde(default)]
    pub is_regex: bool,
    #[serde(default = "yes")]
    pub is_equal: bool,
}

fn yes() -> bool {
    true
}

/// The reason why a silence is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSilence {
    #[error("matchers: give 1 to {MOST_MATCHERS} of them")]
    Matchers,
    #[error("matchers: {0}")]
    Matcher(String),
    #[error("matchers: at least one must not match an empty value, or the silence would match every alert")]
    Everything,
    #[error("endsAt must be after startsAt and in the future")]
    Times,
    #[error("comment, createdBy, and each matcher's name and value have at most {LONGEST} bytes")]
    Long,
    #[error("there are {MOST} silences already; delete some of them")]
    Full,
    #[error("the silence cannot be kept: {0}")]
    NotKept(String),
}

/// A silence in the file.
#[derive(Debug, Serialize, Deserialize)]
struct KeptSilence {
    id: String,
    matchers: Vec<SilenceMatcher>,
    starts_ms: i64,
    ends_ms: i64,
    created_by: String,
    comment: String,
    updated_ms: i64,
}

impl Silence {
    /// Returns `pending`, `active` or `expired`, as Alertmanager does.
    pub fn state(&self, now_ms: i64) -> &'static str {
        match now_ms {
            now_ms if now_ms >= self.ends_ms => "expired",
            now_ms if now_ms < self.starts_ms => "pending",
            _ => "active",
        }
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.matchers.iter().all(|matcher| matcher.matches(labels.get(&matcher.name).unwrap_or_default()))
    }
}

impl From<&Matcher> for SilenceMatcher {
    fn from(matcher: &Matcher) -> Self {
        let is_regex = matches!(matcher.operator, MatchOperator::Regex | MatchOperator::NotRegex);
        let is_equal = matches!(matcher.operator, MatchOperator::Equal | MatchOperator::Regex);
        Self { name: matcher.name.clone(), value: matcher.value.clone(), is_regex, is_equal }
    }
}

impl SilenceMatcher {
    fn read(self) -> Result<Matcher, String> {
        let operator = match (self.is_equal, self.is_regex) {
            (true, false) => MatchOperator::Equal,
            (false, false) => MatchOperator::NotEqual,
            (true, true) => MatchOperator::Regex,
            (false, true) => MatchOperator::NotRegex,
        };
        if self.name.is_empty() {
            return Err("a name is missing".to_owned());
        }
        Matcher::new(self.name, operator, self.value)
    }
}

impl Silences {
    pub(crate) fn open(data: Option<&Path>, now_ms: i64) -> Self {
        let silences = Self {
            path: data.map(|data| data.join(NAME)),
            is_unread: AtomicBool::new(true),
            silences: RwLock::default(),
        };
        if let Err(error) = silences.read(now_ms) {
            tracing::error!(%error, "cannot read the file of silences; there are none until it can be read");
        }
        silences
    }

    /// Reads a file that could not be read at the start.
    pub(crate) fn read_late(&self, now_ms: i64) {
        if self.is_unread.load(Relaxed) && self.read(now_ms).is_ok() {
            tracing::info!("the file of silences can be read");
        }
    }

    fn read(&self, now_ms: i64) -> io::Result<()> {
        let Some(path) = &self.path else {
            self.is_unread.store(false, Relaxed);
            return Ok(());
        };
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => b"[]".to_vec(),
            read => read?,
        };
        let kept: Vec<KeptSilence> = serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::error!(%error, "the file of silences is damaged; starting without silences");
            Vec::new()
        });
        let mut silences = self.silences.write().unwrap_or_else(PoisonError::into_inner);
        let known = kept.into_iter().filter_map(KeptSilence::into_silence);
        silences.extend(known.map(|silence| (silence.id.clone(), silence)));
        silences.retain(|_, silence| now_ms.saturating_sub(silence.ends_ms) < KEPT_MS);
        self.is_unread.store(false, Relaxed);
        Ok(())
    }

    /// Returns all silences, the newest first.
    pub fn list(&self) -> Vec<Silence> {
        let silences = self.silences.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Silence> = silences.values().cloned().collect();
        all.sort_by(|a, b| b.updated_ms.cmp(&a.updated_ms).then_with(|| a.id.cmp(&b.id)));
        all
    }

    pub fn get(&self, id: &str) -> Option<Silence> {
        self.silences.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Returns the ids of the silences that hold for an alert now.
    pub fn of(&self, labels: &Labels, now_ms: i64) -> Vec<String> {
        let silences = self.silences.read().unwrap_or_else(PoisonError::into_inner);
        let active = silences.values().filter(|silence| silence.state(now_ms) == "active");
        active.filter(|silence| silence.matches(labels)).map(|silence| silence.id.clone()).collect()
    }

    /// Adds a silence, and keeps it over a restart.
    pub fn add(&self, new: NewSilence, now_ms: i64) -> Result<Silence, InvalidSilence> {
        let NewSilence { matchers, starts_ms, ends_ms, created_by, comment } = new;
        if !(1..=MOST_MATCHERS).contains(&matchers.len()) {
            return Err(InvalidSilence::Matchers);
        }
        let texts = matchers.iter().flat_map(|matcher| [&matcher.name, &matcher.value]).chain([&created_by, &comment]);
        if texts.into_iter().any(|text| text.len() > LONGEST) {
            return Err(InvalidSilence::Long);
        }
        let matchers: Result<Vec<Matcher>, String> = matchers.into_iter().map(SilenceMatcher::read).collect();
        let matchers = matchers.map_err(InvalidSilence::Matcher)?;
        if matchers.iter().all(|matcher| matcher.matches("")) {
            return Err(InvalidSilence::Everything);
        }
        if ends_ms <= starts_ms || ends_ms <= now_ms {
            return Err(InvalidSilence::Times);
        }
        let mut silences = self.silences.write().unwrap_or_else(PoisonError::into_inner);
        silences.retain(|_, silence| now_ms.saturating_sub(silence.ends_ms) < KEPT_MS);
        if silences.len() >= MOST {
            return Err(InvalidSilence::Full);
        }
        let (created_by, comment) = (text::harmless(&created_by), text::harmless(&comment));
        let silence = Silence { id: new_id(), matchers, starts_ms, ends_ms, created_by, comment, updated_ms: now_ms };
        silences.insert(silence.id.clone(), silence.clone());
        if let Err(error) = self.keep(&silences) {
            silences.remove(&silence.id);
            return Err(InvalidSilence::NotKept(text::os_error(&error)));
        }
        Ok(silence)
    }

    /// Ends a silence now. Returns false if there is none of this id.
    pub fn end(&self, id: &str, now_ms: i64) -> Result<bool, InvalidSilence> {
        let mut silences = self.silences.write().unwrap_or_else(PoisonError::into_inner);
        let Some(silence) = silences.get_mut(id) else { return Ok(false) };
        if silence.ends_ms > now_ms {
            let before = silence.clone();
            (silence.ends_ms, silence.updated_ms) = (now_ms, now_ms);
            silence.starts_ms = silence.starts_ms.min(now_ms);
            if let Err(error) = self.keep(&silences) {
                silences.insert(id.to_owned(), before);
                return Err(InvalidSilence::NotKept(text::os_error(&error)));
            }
        }
        Ok(true)
    }

    fn keep(&self, silences: &BTreeMap<String, Silence>) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        if self.is_unread.load(Relaxed) {
            return Err(io::Error::other("earlier silences cannot be read"));
        }
        let kept: Vec<KeptSilence> = silences.values().map(KeptSilence::of).collect();
        replace_file(path, &serde_json::to_vec(&kept).unwrap_or_default(), PRIVATE)
    }
}

impl KeptSilence {
    fn of(silence: &Silence) -> Self {
        let Silence { id, matchers, starts_ms, ends_ms, created_by, comment, updated_ms } = silence.clone();
        let matchers = matchers.iter().map(SilenceMatcher::from).collect();
        Self { id, matchers, starts_ms, ends_ms, created_by, comment, updated_ms }
    }

    fn into_silence(self) -> Option<Silence> {
        let Self { id, matchers, starts_ms, ends_ms, created_by, comment, updated_ms } = self;
        let matchers: Result<Vec<Matcher>, String> = matchers.into_iter().map(SilenceMatcher::read).collect();
        Some(Silence { id, matchers: matchers.ok()?, starts_ms, ends_ms, created_by, comment, updated_ms })
    }
}

/// Returns an id that nobody can guess and that no other silence has.
fn new_id() -> String {
    let mut bytes = [0_u8; 16];
    // It fails on no kernel that the host runs on.
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(name: &str, value: &str, is_regex: bool) -> SilenceMatcher {
        SilenceMatcher { name: name.to_owned(), value: value.to_owned(), is_regex, is_equal: true }
    }

    fn silence(matchers: Vec<SilenceMatcher>, starts_ms: i64, ends_ms: i64) -> NewSilence {
        NewSilence { matchers, starts_ms, ends_ms, created_by: "me".to_owned(), comment: "c".to_owned() }
    }

    #[test]
    fn a_silence_holds_from_its_start_to_its_end_for_alerts_that_match_it_whole() {
        let silences = Silences::open(None, 0);
        let both = vec![matcher("alertname", "Disk.*", true), matcher("id", "a", false)];
        let id = silences.add(silence(both, 10, 20), 0).unwrap().id;
        let labels = Labels::from([("alertname", "DiskFull"), ("id", "a")]);
        let ids = |at_ms| silences.of(&labels, at_ms);
        assert_eq!((ids(9), ids(10), ids(19), ids(20)), (vec![], vec![id.clone()], vec![id], vec![]));
        assert!(silences.of(&Labels::from([("alertname", "DiskFull"), ("id", "b")]), 10).is_empty());
        assert!(silences.of(&Labels::from([("alertname", "MyDisk"), ("id", "a")]), 10).is_empty());
    }

    #[test]
    fn silences_are_there_after_a_restart_and_stay_ended() {
        let folder = tempfile::tempdir().unwrap();
        let silences = Silences::open(Some(folder.path()), 0);
        let one = silences.add(silence(vec![matcher("a", "b", false)], 0, 100), 0).unwrap();
        let two = silences.add(silence(vec![matcher("a", "c", false)], 0, 100), 0).unwrap();
        assert_eq!(silences.end(&two.id, 50), Ok(true));
        assert_eq!(silences.end("none", 50), Ok(false));
        let again = Silences::open(Some(folder.path()), 60);
        assert_eq!(again.of(&Labels::from([("a", "b")]), 60), [one.id]);
        assert!(again.of(&Labels::from([("a", "c")]), 60).is_empty());
        assert!(Silences::open(Some(folder.path()), KEPT_MS + 200).list().is_empty());
    }

    #[test]
    fn silences_that_cannot_be_read_are_not_overwritten_and_are_read_later() {
        let folder = tempfile::tempdir().unwrap();
        let before = Silences::open(Some(folder.path()), 0);
        let id = before.add(silence(vec![matcher("a", "b", false)], 0, 100), 0).unwrap().id;
        let (path, aside) = (folder.path().join(NAME), folder.path().join("aside"));
        fs::rename(&path, &aside).unwrap();
        fs::create_dir(&path).unwrap();
        let silences = Silences::open(Some(folder.path()), 0);
        let refused = silences.add(silence(vec![matcher("a", "c", false)], 0, 100), 0).unwrap_err();
        assert!(matches!(refused, InvalidSilence::NotKept(_)));
        fs::remove_dir(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        silences.read_late(0);
        assert_eq!(silences.of(&Labels::from([("a", "b")]), 50), [id]);
        assert!(silences.add(silence(vec![matcher("a", "c", false)], 0, 100), 0).is_ok());
    }

    #[test]
    fn a_silence_of_everything_or_of_no_time_is_refused() {
        let silences = Silences::open(None, 0);
        let add = |matchers, starts_ms, ends_ms| silences.add(silence(matchers, starts_ms, ends_ms), 50).unwrap_err();
        assert_eq!(add(vec![], 0, 100), InvalidSilence::Matchers);
        assert_eq!(add(vec![matcher("a", ".*", true)], 0, 100), InvalidSilence::Everything);
        assert!(matches!(add(vec![matcher("a", "(", true)], 0, 100), InvalidSilence::Matcher(_)));
        assert_eq!(add(vec![matcher("a", "b", false)], 100, 100), InvalidSilence::Times);
        assert_eq!(add(vec![matcher("a", "b", false)], 0, 50), InvalidSilence::Times);
        assert_eq!(add(vec![matcher("a", &"b".repeat(2000), false)], 0, 100), InvalidSilence::Long);
    }
}
