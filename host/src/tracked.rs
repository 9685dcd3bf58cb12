//! Which instances there are, and which plugin polls which.

use crate::config::RESERVED;
use crate::labels::Labels;
use dropsonde_store::{InstanceId, Store};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// A plugin's name.
pub type PluginName = Arc<str>;

/// The set of tracked instances.
///
/// A discovered instance is polled by whoever discovered it; one from the configuration by the samplers it names, else by
/// the default ones.
#[derive(Debug)]
pub struct Tracked {
    default_samplers: Vec<String>,
    /// On every instance; an instance's own label of the same key wins.
    common: Labels,
    most: usize,
    instances: RwLock<BTreeMap<InstanceId, Entry>>,
    /// Steps whenever instances or labels may be others.
    revision: AtomicU64,
    /// Those that changed since they were last noted.
    changed: Mutex<BTreeSet<InstanceId>>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Who discovered it, and the labels it gave.
    discovered_by: BTreeMap<PluginName, Labels>,
    configured: Option<Configured>,
    /// When it was found to have ended.
    ended_ms: Option<i64>,
}

/// What of an instance is remembered; the rest the configuration says anyway.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    discovered_by: BTreeMap<String, Labels>,
    ended_ms: Option<i64>,
}

/// Notes about tracked instances, beside history.
const NOTES: &str = "tracked/";

#[derive(Debug)]
struct Configured {
    labels: Labels,
    samplers: Vec<String>,
    /// Who answered that there is no such thing, and is not asked again.
    gone: BTreeSet<PluginName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Tracked,
    /// Nobody polls it any more; its history stays.
    Ended,
}

/// An instance as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracking {
    pub id: InstanceId,
    pub labels: Labels,
    pub state: State,
}

/// What became of a discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered {
    /// How many were refused because there are too many.
    pub refused: u64,
    /// Ended ones that made room: their history is to go too.
    pub forgotten: Vec<InstanceId>,
}

impl Tracked {
    pub fn new(default_samplers: Vec<String>, common: Labels, most: usize) -> Self {
        Self {
            default_samplers,
            common,
            most,
            instances: RwLock::default(),
            revision: AtomicU64::new(0),
            changed: Mutex::default(),
        }
    }

    /// Tracks an instance the operator named.
    pub fn configure(&self, id: InstanceId, labels: Labels, samplers: Option<Vec<String>>) {
        let samplers = samplers.unwrap_or_else(|| self.default_samplers.clone());
        self.write(|instances| {
            let entry = instances.entry(id).or_default();
            entry.configured = Some(Configured { labels, samplers, gone: BTreeSet::new() });
            entry.ended_ms = None;
        });
        self.revision.fetch_add(1, Relaxed);
    }

    /// Brings back what was tracked when the host last ran. What has history but is tracked by no one any more has ended:
    /// also what a plugin had discovered that is not among these.
    pub fn restore(&self, store: &Store, plugins: &[&str], now_ms: i64) {
        let noted = store.notes(NOTES).into_iter().filter_map(|(key, value)| {
            let id = InstanceId::new(key.strip_prefix(NOTES)?).ok()?;
            // What cannot be read was written by another version: its plugin will find it again.
            Some((id, serde_json::from_slice::<Note>(&value).ok()?))
        });
        self.write(|instances| {
            for (id, noted) in noted {
                let entry = instances.entry(id).or_default();
                let known = noted.discovered_by.into_iter().filter(|(plugin, _)| plugins.contains(&plugin.as_str()));
                entry.discovered_by = known.map(|(plugin, labels)| (plugin.into(), labels)).collect();
                entry.ended_ms = noted.ended_ms.filter(|_| entry.configured.is_none());
            }
            // The host's own are no instances of anybody's.
            for id in store.instances().into_iter().filter(|id| !id.as_str().starts_with(RESERVED)) {
                instances.entry(id).or_default();
            }
            for (id, entry) in instances {
                if entry.discovered_by.is_empty() && entry.configured.is_none() {
                    entry.ended_ms.get_or_insert_with(|| store.latest_at_ms(id).unwrap_or(now_ms));
                }
            }
        });
        self.revision.fetch_add(1, Relaxed);
    }

    /// Has what changed remembered beside history.
    pub fn note_changes(&self, store: &Store) {
        let changed = std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner));
        for id in changed {
            let note = self.read(|instances| {
                let entry = instances.get(&id)?;
                let discovered_by = entry.discovered_by.iter();
                let discovered_by =
                    discovered_by.map(|(plugin, labels)| (plugin.to_string(), labels.clone())).collect();
                serde_json::to_vec(&Note { discovered_by, ended_ms: entry.ended_ms }).ok()
            });
            store.note(&format!("{NOTES}{id}"), note);
        }
    }

    /// Takes over what a plugin finds now: new instances begin, those it lists no more end.
    pub fn discovered(&self, plugin: &PluginName, found: Vec<(InstanceId, Labels)>, now_ms: i64) -> Discovered {
        let mut changed = Vec::new();
        let discovered = self.write(|instances| {
            let listed: BTreeMap<InstanceId, Labels> = found.into_iter().collect();
            for (id, entry) in instances.iter_mut() {
                if !listed.contains_key(id) && entry.leave(plugin, now_ms) {
                    changed.push(id.clone());
                }
            }
            let new = listed.keys().filter(|id| !instances.contains_key(*id)).count();
            let forgotten = forget_longest_ended(instances, (instances.len() + new).saturating_sub(self.most), &listed);
            let mut refused = 0;
            for (id, labels) in listed {
                if instances.len() >= self.most && !instances.contains_key(&id) {
                    refused += 1;
                    continue;
                }
                let entry = instances.entry(id.clone()).or_default();
                if entry.ended_ms.take().is_some() || entry.discovered_by.get(plugin) != Some(&labels) {
                    entry.discovered_by.insert(plugin.clone(), labels);
                    changed.push(id);
                }
            }
            Discovered { refused, forgotten }
        });
        changed.extend(discovered.forgotten.iter().cloned());
        self.changed(changed);
        discovered
    }

    /// A plugin says the instance exists no more.
    pub fn gone(&self, plugin: &PluginName, id: &InstanceId, now_ms: i64) {
        self.write(|instances| {
            let Some(entry) = instances.get_mut(id) else { return };
            if let Some(configured) = &mut entry.configured {
                configured.gone.insert(plugin.clone());
            }
            entry.leave(plugin, now_ms);
        });
        self.changed([id.clone()]);
    }

    /// A newer version of a plugin may know what the one before said was gone.
    pub fn ask_again(&self, plugin: &PluginName) {
        self.write(|instances| {
            for entry in instances.values_mut() {
                let Some(configured) = &mut entry.configured else { continue };
                if configured.gone.remove(plugin) {
                    entry.ended_ms = None;
                }
            }
        });
        self.revision.fetch_add(1, Relaxed);
    }

    /// What a sampler polls.
    pub fn polled_by(&self, plugin: &PluginName) -> Vec<InstanceId> {
        self.read(|instances| {
            let polled = instances.iter().filter(|(_, entry)| entry.is_polled_by(plugin));
            polled.map(|(id, _)| id.clone()).collect()
        })
    }

    pub fn get(&self, id: &InstanceId) -> Option<Tracking> {
        self.read(|instances| instances.get(id).map(|entry| self.tracking(id, entry)))
    }

    /// All, by id.
    pub fn list(&self) -> Vec<Tracking> {
        self.read(|instances| instances.iter().map(|(id, entry)| self.tracking(id, entry)).collect())
    }

    /// Takes out the instances that ended before a time, and returns them.
    pub fn forget_ended_before(&self, before_ms: i64) -> Vec<InstanceId> {
        let forgotten: Vec<InstanceId> = self.write(|instances| {
            let over = |entry: &Entry| entry.ended_ms.is_some_and(|ended| ended < before_ms);
            let ids = instances.iter().filter(|(_, entry)| over(entry)).map(|(id, _)| id.clone()).collect();
            instances.retain(|_, entry| !over(entry));
            ids
        });
        self.changed(forgotten.iter().cloned());
        forgotten
    }

    /// As long as it is the same, so are instances and labels.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Relaxed)
    }

    fn changed(&self, ids: impl IntoIterator<Item = InstanceId>) {
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            changed.insert(id);
            self.revision.fetch_add(1, Relaxed);
        }
    }

    fn tracking(&self, id: &InstanceId, entry: &Entry) -> Tracking {
        let mut labels = self.common.clone();
        // The operator's word is last; among plugins that of the first by name.
        labels.extend(entry.discovered_by.values().rev().flatten().map(|(key, value)| (key.clone(), value.clone())));
        labels.extend(entry.configured.iter().flat_map(|configured| configured.labels.clone()));
        let state = if entry.ended_ms.is_some() { State::Ended } else { State::Tracked };
        Tracking { id: id.clone(), labels, state }
    }

    fn read<T>(&self, look: impl FnOnce(&BTreeMap<InstanceId, Entry>) -> T) -> T {
        look(&self.instances.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut BTreeMap<InstanceId, Entry>) -> T) -> T {
        change(&mut self.instances.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Makes room for some. What has ended longest goes first; nothing alive ever does, and nothing that begins again.
fn forget_longest_ended(
    instances: &mut BTreeMap<InstanceId, Entry>,
    room: usize,
    listed: &BTreeMap<InstanceId, Labels>,
) -> Vec<InstanceId> {
    if room == 0 {
        return Vec::new();
    }
    let over = instances.iter().filter(|(id, _)| !listed.contains_key(*id));
    let mut ended: Vec<_> = over.filter_map(|(id, entry)| Some((entry.ended_ms?, id.clone()))).collect();
    ended.sort_unstable();
    let forgotten: Vec<_> = ended.into_iter().map(|(_, id)| id).take(room).collect();
    for id in &forgotten {
        instances.remove(id);
    }
    forgotten
}

impl Entry {
    fn is_polled_by(&self, plugin: &PluginName) -> bool {
        self.discovered_by.contains_key(plugin)
            || self.configured.as_ref().is_some_and(|configured| configured.is_polled_by(plugin))
    }

    /// Whether that changed something.
    fn leave(&mut self, plugin: &PluginName, now_ms: i64) -> bool {
        let left = self.discovered_by.remove(plugin).is_some();
        let configured_end = self.configured.as_ref().is_some_and(|configured| configured.gone.contains(plugin));
        let alive = !self.discovered_by.is_empty() || self.configured.as_ref().is_some_and(Configured::may_answer);
        let ends = (left || configured_end) && !alive && self.ended_ms.is_none();
        if ends {
            self.ended_ms = Some(now_ms);
        }
        left || ends
    }
}

impl Configured {
    fn is_polled_by(&self, plugin: &PluginName) -> bool {
        !self.gone.contains(plugin) && self.samplers.iter().any(|name| name == "*" || **name == **plugin)
    }

    /// Whether a sampler is left that has not said it is gone. `*` may always mean one that is yet to come.
    fn may_answer(&self) -> bool {
        self.samplers.iter().any(|name| name == "*" || !self.gone.contains(name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> InstanceId {
        InstanceId::new(text).unwrap()
    }

    fn tracked() -> Tracked {
        let common = Labels::from([("site".to_owned(), "fra1".to_owned())]);
        Tracked::new(vec!["*".to_owned()], common, 3)
    }

    fn found(ids: &[&str]) -> Vec<(InstanceId, Labels)> {
        ids.iter().map(|text| (id(text), Labels::new())).collect()
    }

    fn names(ids: Vec<InstanceId>) -> Vec<String> {
        ids.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_discovered_instance_is_polled_by_its_discoverer_alone() {
        let (tracked, a, b) = (tracked(), "a".into(), "b".into());
        tracked.discovered(&a, found(&["host"]), 0);
        assert_eq!(names(tracked.polled_by(&a)), ["host"]);
        assert!(tracked.polled_by(&b).is_empty());
        assert_eq!(tracked.list()[0].labels["site"], "fra1");
    }

    #[test]
    fn labels_follow_what_a_plugin_says_now_and_the_operators_win() {
        let (tracked, a) = (tracked(), "a".into());
        let labelled = |key: &str, value: &str| vec![(id("web"), Labels::from([(key.to_owned(), value.to_owned())]))];
        tracked.configure(id("web"), Labels::from([("tier".to_owned(), "front".to_owned())]), None);
        tracked.discovered(&a, labelled("old", "1"), 0);
        tracked.discovered(&a, labelled("tier", "back"), 1);
        let labels = tracked.get(&id("web")).unwrap().labels;
        let expected = [("site", "fra1"), ("tier", "front")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(labels, Labels::from(expected));
    }

    #[test]
    fn a_configured_instance_is_polled_by_the_samplers_it_names_else_by_the_default() {
        let (tracked, a, b) = (tracked(), "a".into(), "b".into());
        tracked.configure(id("web"), Labels::new(), Some(vec!["b".to_owned()]));
        tracked.configure(id("any"), Labels::new(), None);
        assert_eq!(names(tracked.polled_by(&a)), ["any"]);
        assert_eq!(names(tracked.polled_by(&b)), ["any", "web"]);
        tracked.gone(&b, &id("any"), 5);
        assert_eq!(names(tracked.polled_by(&b)), ["web"], "who says gone is not asked again");
        assert_eq!(tracked.get(&id("any")).unwrap().state, State::Tracked, "others may know it");
        tracked.gone(&b, &id("web"), 5);
        assert_eq!(tracked.get(&id("web")).unwrap().state, State::Ended);
    }

    #[test]
    fn a_newer_version_of_who_said_gone_is_asked_again() {
        let (tracked, a) = (tracked(), "a".into());
        tracked.configure(id("web"), Labels::new(), Some(vec!["a".to_owned()]));
        tracked.gone(&a, &id("web"), 5);
        tracked.ask_again(&a);
        assert_eq!(names(tracked.polled_by(&a)), ["web"]);
        assert_eq!(tracked.get(&id("web")).unwrap().state, State::Tracked);
    }

    #[test]
    fn what_is_no_longer_listed_ends_and_begins_again_when_it_is() {
        let (tracked, a) = (tracked(), "a".into());
        tracked.discovered(&a, found(&["x", "y"]), 0);
        tracked.discovered(&a, found(&["y"]), 7);
        assert_eq!(tracked.get(&id("x")).unwrap().state, State::Ended);
        assert_eq!(names(tracked.polled_by(&a)), ["y"]);
        tracked.discovered(&a, found(&["x", "y"]), 9);
        assert_eq!(tracked.get(&id("x")).unwrap().state, State::Tracked);
    }

    #[test]
    fn an_instance_two_plugins_know_ends_with_the_last_of_them() {
        let (tracked, a, b) = (tracked(), "a".into(), "b".into());
        tracked.discovered(&a, found(&["x"]), 0);
        tracked.discovered(&b, found(&["x"]), 0);
        tracked.gone(&a, &id("x"), 1);
        assert_eq!(tracked.get(&id("x")).unwrap().state, State::Tracked);
        tracked.gone(&b, &id("x"), 2);
        assert_eq!(tracked.get(&id("x")).unwrap().state, State::Ended);
    }

    #[test]
    fn the_number_of_instances_is_bounded_and_the_ended_make_room() {
        let (tracked, a) = (tracked(), "a".into());
        assert_eq!(tracked.discovered(&a, found(&["1", "2", "3", "4"]), 0).refused, 1);
        let more = tracked.discovered(&a, found(&["5", "2", "3"]), 1);
        assert_eq!((more.refused, names(more.forgotten)), (0, vec!["1".to_owned()]), "it ended and made room");
        assert_eq!(names(tracked.list().into_iter().map(|one| one.id).collect()), ["2", "3", "5"]);
    }

    #[test]
    fn the_ended_are_forgotten_after_their_time() {
        let (tracked, a) = (tracked(), "a".into());
        tracked.discovered(&a, found(&["x", "y"]), 0);
        tracked.discovered(&a, found(&["y"]), 100);
        assert!(tracked.forget_ended_before(100).is_empty());
        assert_eq!(names(tracked.forget_ended_before(101)), ["x"]);
        assert_eq!(tracked.get(&id("x")), None);
    }
}
