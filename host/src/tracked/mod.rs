//! Which instances there are, and which plugin polls which.
//!
//! The configuration, discovery, programs and lifecycle events make one set. An instance that is untracked is gone with all
//! it had; another of its name is another *generation*, which nothing that was read of the first can reach.
//!
//! # Layout
//!
//! * `entry`: one instance; `instances`: the set.
//! * `lifecycle`: what became of an instance, as platforms tell it.
//! * `notes`: what is there after a restart.

mod entry;
mod instances;
mod lifecycle;
mod notes;

pub(crate) use lifecycle::instance_id;
pub use lifecycle::{BadLifecycle, Change, Lifecycle};

use crate::hub::{Member, Selection, WORKLOAD};
use crate::labels::Labels;
use dropsonde_store::InstanceId;
use entry::{Entry, Wish};
use instances::Instances;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// A plugin's name.
pub type PluginName = Arc<str>;

/// The set of tracked instances.
///
/// A discovered instance is polled by whoever discovered it; one from the configuration or the API by the samplers it names,
/// else by the default ones.
#[derive(Debug)]
pub struct Tracked {
    default_samplers: Vec<String>,
    most: usize,
    instances: RwLock<Instances>,
    /// Steps whenever instances or labels may be others.
    revision: AtomicU64,
    /// Those that changed since they were last noted.
    changed: Mutex<BTreeSet<InstanceId>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Tracked,
    /// Nobody polls it until it goes on; its history stays as it is.
    Paused,
    /// Nobody polls it any more; its history stays until retention takes it.
    Ended,
}

/// An instance as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracking {
    pub id: InstanceId,
    pub labels: Arc<Labels>,
    pub state: State,
    /// Those it names, and those that discovered it; `*` is none.
    pub samplers: Vec<String>,
}

/// An instance at the time a plugin is asked about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polled {
    pub id: InstanceId,
    pub generation: u64,
    pub labels: Arc<Labels>,
}

/// What is to be tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub id: InstanceId,
    pub labels: Labels,
    /// None: the default ones.
    pub samplers: Option<Vec<String>>,
}

/// As many are tracked as the configuration allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} instances are there, and more are not allowed (poll.max_instances)")]
pub struct TooMany(pub usize);

/// Why an instance is not tracked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTracked {
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error("{0}")]
    Invalid(String),
}

/// Drops all an instance had. Called while nobody can track another of its name.
pub(crate) type Forget<'a> = &'a dyn Fn(&InstanceId);

// === impl Tracked ===

impl Tracked {
    pub fn new(default_samplers: Vec<String>, common: Labels, most: usize) -> Self {
        Self {
            default_samplers,
            most,
            instances: RwLock::new(Instances::new(common, most)),
            revision: AtomicU64::new(0),
            changed: Mutex::default(),
        }
    }

    /// Tracks an instance the operator named.
    pub fn configure(&self, id: &InstanceId, labels: Labels, samplers: Option<Vec<String>>) -> Result<(), TooMany> {
        let done = self.write(|instances| {
            instances.name(id, Wish::new(labels, samplers));
            instances.change_or_add(id, |entry| entry.ended_ms = None)
        });
        self.revision.fetch_add(1, Relaxed);
        done.ok_or(TooMany(self.most))
    }

    /// Tracks an instance a program named, also one that was untracked, is paused or has ended. Those that said it was gone
    /// are asked again.
    pub(crate) fn track(&self, wanted: Wanted, forget: Forget<'_>) -> Result<(), TooMany> {
        let Wanted { id, labels, samplers } = wanted;
        let wish = |_: &Entry| Some(Wish::new(labels, samplers));
        self.change(|instances, changed| track(instances, &id, wish, changed, forget).ok_or(TooMany(self.most)))
    }

    /// Takes an instance out with all it had. Discovery does not bring it back.
    pub(crate) fn untrack(&self, id: &InstanceId, forget: Forget<'_>) {
        self.change(|instances, changed| untrack(instances, id, changed, forget));
    }

    /// Does what became of instances, in order. Where there is no room for one it ends: how many were done.
    pub(crate) fn apply(&self, events: &[Lifecycle], forget: Forget<'_>) -> Result<(), (usize, TooMany)> {
        self.change(|instances, changed| {
            for (nth, Lifecycle { what, instance: id, labels }) in events.iter().enumerate() {
                match what {
                    Change::Created | Change::Started | Change::Unsuspended => {
                        let wish = |entry: &Entry| entry.asked_again(labels.as_ref());
                        track(instances, id, wish, changed, forget).ok_or((nth, TooMany(self.most)))?;
                    }
                    Change::Stopped | Change::Suspended => {
                        let pause = |entry: &mut Entry| !std::mem::replace(&mut entry.is_paused, true);
                        if instances.change(id, pause) == Some(true) {
                            changed.push(id.clone());
                        }
                    }
                    Change::Deleted => untrack(instances, id, changed, forget),
                }
            }
            Ok(())
        })
    }

    /// Takes over what a plugin finds now: new instances begin, those it lists no more end. How many were refused because
    /// there are too many; those that were untracked on purpose are none of them.
    pub(crate) fn discovered(
        &self,
        plugin: &PluginName,
        found: Vec<(InstanceId, Labels)>,
        now_ms: i64,
        forget: Forget<'_>,
    ) -> u64 {
        let listed: BTreeMap<InstanceId, Labels> = found.into_iter().collect();
        self.change(|instances, changed| {
            let is_left = |(id, entry): (&InstanceId, &Entry)| {
                (entry.discovered_by.contains_key(plugin) && !listed.contains_key(id)).then(|| id.clone())
            };
            let left: Vec<InstanceId> = instances.all().iter().filter_map(is_left).collect();
            for id in left {
                instances.change(&id, |entry| entry.leave(plugin, false, &self.default_samplers, now_ms));
                changed.push(id);
            }
            let (known, new): (Vec<_>, Vec<_>) =
                listed.into_iter().partition(|(id, _)| instances.all().contains_key(id));
            let mut refused = 0;
            // What is there first: what begins again does not make room for what is new.
            for (id, labels) in known.into_iter().chain(new) {
                let is_same =
                    |entry: &Entry| entry.ended_ms.is_none() && entry.discovered_by.get(plugin) == Some(&labels);
                if instances.is_untracked(&id) || instances.all().get(&id).is_some_and(is_same) {
                    continue;
                }
                if !instances.all().contains_key(&id)
                    && let Some(over) = instances.make_room()
                {
                    forget(&over);
                    changed.push(over);
                }
                let found = instances.change_or_add(&id, |entry| {
                    entry.ended_ms = None;
                    entry.discovered_by.insert(plugin.clone(), labels);
                });
                match found {
                    Some(()) => changed.push(id),
                    None => refused += 1,
                }
            }
            refused
        })
    }

    /// A plugin says that what it was asked about exists no more.
    pub fn gone(&self, plugin: &PluginName, polled: &Polled, now_ms: i64) {
        self.change(|instances, changed| {
            let is_current = instances.all().get(&polled.id).is_some_and(|entry| entry.generation == polled.generation);
            let leave = |entry: &mut Entry| entry.leave(plugin, true, &self.default_samplers, now_ms);
            if is_current && instances.change(&polled.id, leave) == Some(true) {
                changed.push(polled.id.clone());
            }
        });
    }

    /// A newer version of a plugin may know what the one before said was gone.
    pub fn ask_again(&self, plugin: &PluginName) {
        self.change(|instances, changed| {
            let said_gone = instances.all().iter().filter(|(_, entry)| entry.has_heard_gone(plugin));
            let ids: Vec<InstanceId> = said_gone.map(|(id, _)| id.clone()).collect();
            for id in ids {
                instances.change(&id, |entry| entry.ask_again(plugin));
                changed.push(id);
            }
        });
    }

    /// What a sampler polls, by id.
    pub fn polled_by(&self, plugin: &PluginName) -> Vec<Polled> {
        self.read(|instances| {
            let polled = instances.all().iter().filter(|(_, entry)| entry.is_polled_by(plugin, &self.default_samplers));
            polled
                .map(|(id, Entry { generation, labels, .. })| Polled {
                    id: id.clone(),
                    generation: *generation,
                    labels: labels.clone(),
                })
                .collect()
        })
    }

    /// Calls with what tells whether an instance is still the one that was asked about, and polled. Until it returns
    /// nothing is untracked or paused: what is written of an instance meanwhile is its own.
    pub(crate) fn while_polled<T>(&self, write: impl FnOnce(&dyn Fn(&Polled) -> bool) -> T) -> T {
        self.read(|instances| {
            write(&|polled| {
                let entry = instances.all().get(&polled.id);
                entry.is_some_and(|now| now.generation == polled.generation && now.state() != State::Paused)
            })
        })
    }

    /// Calls with the instances a selection includes. Until it returns nothing is untracked, and none has other labels.
    pub(crate) fn while_selected<T>(&self, selection: &Selection, act: impl FnOnce(Vec<Member>) -> T) -> T {
        let member = |(id, Entry { generation, labels, .. }): (&InstanceId, &Entry)| {
            let (id, generation, labels) = (id.clone(), *generation, labels.clone());
            Member { id, generation, labels }
        };
        self.read(|instances| {
            let all = instances.all();
            let members = match selection {
                Selection::One(id) => all.get_key_value(id).map(member).into_iter().collect(),
                Selection::Several(ids) => ids.iter().filter_map(|id| all.get_key_value(id)).map(member).collect(),
                Selection::Labels(_) | Selection::Workload(_) => {
                    all.iter().filter(|(id, entry)| selection.includes(id, &entry.labels)).map(member).collect()
                }
            };
            act(members)
        })
    }

    /// Calls with the instances of some workloads. Until it returns nothing is untracked.
    pub(crate) fn while_of_workloads<T>(
        &self,
        workloads: &BTreeSet<String>,
        act: impl FnOnce(BTreeMap<&str, Vec<&InstanceId>>) -> T,
    ) -> T {
        self.read(|instances| {
            let mut members: BTreeMap<&str, Vec<&InstanceId>> = BTreeMap::new();
            for (id, entry) in instances.all() {
                if let Some(workload) = entry.labels.get(WORKLOAD).filter(|workload| workloads.contains(*workload)) {
                    members.entry(workload).or_default().push(id);
                }
            }
            act(members)
        })
    }

    pub fn get(&self, id: &InstanceId) -> Option<Tracking> {
        self.read(|instances| instances.all().get(id).map(|entry| self.tracking(id, entry)))
    }

    /// All, by id.
    pub fn list(&self) -> Vec<Tracking> {
        self.list_after(None, usize::MAX, |_, _| true)
    }

    /// Those behind an id that are wanted, so many at most.
    pub fn list_after(
        &self,
        after: Option<&str>,
        most: usize,
        wanted: impl Fn(&InstanceId, &Labels) -> bool,
    ) -> Vec<Tracking> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.read(|instances| {
            let behind = instances.all().range::<str, _>((begin, Bound::Unbounded));
            let wanted = behind.filter(|(id, entry)| wanted(id, &entry.labels));
            wanted.take(most).map(|(id, entry)| self.tracking(id, entry)).collect()
        })
    }

    /// Takes out the instances that ended before a time.
    pub(crate) fn forget_ended_before(&self, before_ms: i64, forget: Forget<'_>) {
        self.change(|instances, changed| {
            for id in instances.over_before(before_ms) {
                instances.remove(&id);
                forget(&id);
                changed.push(id);
            }
        });
    }

    /// As long as it is the same, so are instances and labels.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Relaxed)
    }

    fn tracking(&self, id: &InstanceId, entry: &Entry) -> Tracking {
        let samplers: BTreeSet<&str> = entry.named_samplers(&self.default_samplers).collect();
        Tracking {
            id: id.clone(),
            labels: entry.labels.clone(),
            state: entry.state(),
            samplers: samplers.into_iter().map(str::to_owned).collect(),
        }
    }

    /// What changes is noted, and others hear that there may be something else.
    fn change<T>(&self, change: impl FnOnce(&mut Instances, &mut Vec<InstanceId>) -> T) -> T {
        let mut changed = Vec::new();
        let done = self.write(|instances| change(instances, &mut changed));
        if !changed.is_empty() {
            self.changed.lock().unwrap_or_else(PoisonError::into_inner).extend(changed);
            self.revision.fetch_add(1, Relaxed);
        }
        done
    }

    fn read<T>(&self, look: impl FnOnce(&Instances) -> T) -> T {
        look(&self.instances.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Instances) -> T) -> T {
        change(&mut self.instances.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// `wish`: what is asked from now on. None: there is no room.
fn track(
    instances: &mut Instances,
    id: &InstanceId,
    wish: impl FnOnce(&Entry) -> Option<Wish>,
    changed: &mut Vec<InstanceId>,
    forget: Forget<'_>,
) -> Option<()> {
    if !instances.all().contains_key(id)
        && let Some(over) = instances.make_room()
    {
        forget(&over);
        changed.push(over);
    }
    let was_untracked = instances.is_untracked(id);
    let is_other = instances.change_or_add(id, |entry| {
        let asked = wish(entry);
        let is_same = entry.asked == asked && !entry.is_paused && entry.ended_ms.is_none();
        (entry.asked, entry.is_paused, entry.ended_ms) = (asked, false, None);
        !is_same
    })?;
    instances.clear_untracked(id);
    if is_other || was_untracked {
        changed.push(id.clone());
    }
    Some(())
}

fn untrack(instances: &mut Instances, id: &InstanceId, changed: &mut Vec<InstanceId>, forget: Forget<'_>) {
    instances.remove(id);
    if let Some(oldest) = instances.set_untracked(id) {
        tracing::warn!(instance = %oldest, "too many were untracked to remember this one: discovery may bring it back");
        changed.push(oldest);
    }
    // Also streams that wait for an instance that never was.
    forget(id);
    changed.push(id.clone());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn id(text: &str) -> InstanceId {
        InstanceId::new(text).unwrap()
    }

    fn tracked() -> Tracked {
        let common = Labels::from([("site".to_owned(), "fra1".to_owned())]);
        Tracked::new(vec!["*".to_owned()], common, 3)
    }

    fn wanted(text: &str) -> Wanted {
        Wanted { id: id(text), labels: Labels::new(), samplers: None }
    }

    fn found(ids: &[&str]) -> Vec<(InstanceId, Labels)> {
        ids.iter().map(|text| (id(text), Labels::new())).collect()
    }

    fn polled(tracked: &Tracked, plugin: &PluginName) -> Vec<String> {
        tracked.polled_by(plugin).iter().map(|polled| polled.id.to_string()).collect()
    }

    /// What was forgotten.
    #[derive(Default)]
    struct Forgotten(RefCell<Vec<String>>);

    impl Forgotten {
        fn note(&self, id: &InstanceId) {
            self.0.borrow_mut().push(id.to_string());
        }
    }

    fn find(tracked: &Tracked, plugin: &PluginName, ids: &[&str], now_ms: i64) -> u64 {
        tracked.discovered(plugin, found(ids), now_ms, &|_| {})
    }

    fn state(tracked: &Tracked, text: &str) -> Option<State> {
        tracked.get(&id(text)).map(|tracking| tracking.state)
    }

    fn event(what: Change, text: &str) -> Vec<Lifecycle> {
        vec![Lifecycle { what, instance: id(text), labels: None }]
    }

    fn gone(tracked: &Tracked, plugin: &PluginName, text: &str, now_ms: i64) {
        let polled = tracked.polled_by(plugin).into_iter().find(|polled| polled.id == id(text)).unwrap();
        tracked.gone(plugin, &polled, now_ms);
    }

    #[test]
    fn a_discovered_instance_is_polled_by_its_discoverer_alone() {
        let (tracked, a, b) = (tracked(), "a".into(), "b".into());
        find(&tracked, &a, &["host"], 0);
        assert_eq!(polled(&tracked, &a), ["host"]);
        assert!(tracked.polled_by(&b).is_empty());
        assert_eq!(tracked.list()[0].labels["site"], "fra1");
    }

    #[test]
    fn labels_follow_what_a_plugin_says_now_and_the_operators_win() {
        let (tracked, a) = (tracked(), "a".into());
        let labelled = |key: &str, value: &str| vec![(id("web"), Labels::from([(key.to_owned(), value.to_owned())]))];
        tracked.configure(&id("web"), Labels::from([("tier".to_owned(), "front".to_owned())]), None).unwrap();
        tracked.discovered(&a, labelled("old", "1"), 0, &|_| {});
        tracked.discovered(&a, labelled("tier", "back"), 1, &|_| {});
        let labels = tracked.get(&id("web")).unwrap().labels;
        let expected = [("site", "fra1"), ("tier", "front")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(*labels, Labels::from(expected));
    }

    #[test]
    fn a_configured_instance_is_polled_by_the_samplers_it_names_else_by_the_default() {
        let (tracked, a, b) = (tracked(), "a".into(), "b".into());
        tracked.configure(&id("web"), Labels::new(), Some(vec!["b".to_owned()])).unwrap();
        tracked.configure(&id("any"), Labels::new(), None).unwrap();
        assert_eq!(polled(&tracked, &a), ["any"]);
        assert_eq!(polled(&tracked, &b), ["any", "web"]);
        gone(&tracked, &b, "any", 5);
        assert_eq!(polled(&tracked, &b), ["web"], "who says gone is not asked again");
        assert_eq!(state(&tracked, "any").unwrap(), State::Tracked, "others may know it");
        gone(&tracked, &b, "web", 5);
        assert_eq!(state(&tracked, "web").unwrap(), State::Ended);
    }

    #[test]
    fn a_newer_version_of_who_said_gone_is_asked_again() {
        let (tracked, a) = (tracked(), "a".into());
        tracked.configure(&id("web"), Labels::new(), Some(vec!["a".to_owned()])).unwrap();
        gone(&tracked, &a, "web", 5);
        tracked.ask_again(&a);
        assert_eq!(polled(&tracked, &a), ["web"]);
        assert_eq!(state(&tracked, "web").unwrap(), State::Tracked);
    }

    #[test]
    fn what_is_no_longer_listed_ends_and_begins_again_when_it_is() {
        let (tracked, a) = (tracked(), "a".into());
        find(&tracked, &a, &["x", "y"], 0);
        find(&tracked, &a, &["y"], 7);
        assert_eq!(state(&tracked, "x").unwrap(), State::Ended);
        assert_eq!(polled(&tracked, &a), ["y"]);
        find(&tracked, &a, &["x", "y"], 9);
        assert_eq!(state(&tracked, "x").unwrap(), State::Tracked);
    }

    #[test]
    fn an_instance_two_plugins_know_ends_with_the_last_of_them() {
        let (tracked, a, b) = (tracked(), "a".into(), "b".into());
        find(&tracked, &a, &["x"], 0);
        find(&tracked, &b, &["x"], 0);
        gone(&tracked, &a, "x", 1);
        assert_eq!(state(&tracked, "x").unwrap(), State::Tracked);
        gone(&tracked, &b, "x", 2);
        assert_eq!(state(&tracked, "x").unwrap(), State::Ended);
    }

    #[test]
    fn the_number_of_instances_is_bounded_and_the_ended_make_room() {
        let (tracked, a) = (tracked(), "a".into());
        assert_eq!(find(&tracked, &a, &["1", "2", "3", "4"], 0), 1);
        let forgotten = Forgotten::default();
        let refused = tracked.discovered(&a, found(&["5", "2", "3"]), 1, &|id| forgotten.note(id));
        assert_eq!((refused, forgotten.0.take()), (0, vec!["1".to_owned()]), "it ended and made room");
        let ids: Vec<_> = tracked.list().into_iter().map(|one| one.id.to_string()).collect();
        assert_eq!(ids, ["2", "3", "5"]);
        assert_eq!(tracked.track(wanted("6"), &|_| {}), Err(TooMany(3)));
        let events = [event(Change::Created, "2"), event(Change::Created, "6")].concat();
        assert_eq!(tracked.apply(&events, &|_| {}), Err((1, TooMany(3))));
    }

    #[test]
    fn the_ended_are_forgotten_after_their_time_and_the_paused_are_not() {
        let (tracked, a) = (tracked(), "a".into());
        find(&tracked, &a, &["x", "y", "z"], 0);
        tracked.apply(&event(Change::Suspended, "z"), &|_| {}).unwrap();
        find(&tracked, &a, &["y"], 100);
        let forgotten = Forgotten::default();
        tracked.forget_ended_before(100, &|id| forgotten.note(id));
        assert!(forgotten.0.borrow().is_empty());
        tracked.forget_ended_before(101, &|id| forgotten.note(id));
        assert_eq!(forgotten.0.take(), ["x"]);
        assert_eq!((state(&tracked, "x"), state(&tracked, "z")), (None, Some(State::Paused)));
    }

    #[test]
    fn every_event_does_the_same_again_and_again_from_any_state() {
        use Change::*;
        let a: PluginName = "a".into();
        let begin = |tracked: &Tracked, from: Option<State>| match from {
            None => {}
            Some(State::Tracked) => drop(find(tracked, &a, &["x"], 0)),
            Some(State::Paused) => {
                find(tracked, &a, &["x"], 0);
                tracked.apply(&event(Stopped, "x"), &|_| {}).unwrap();
            }
            Some(State::Ended) => {
                find(tracked, &a, &["x"], 0);
                find(tracked, &a, &[], 1);
            }
        };
        for (from, what, then) in [
            (None, Created, Some(State::Tracked)),
            (None, Started, Some(State::Tracked)),
            (None, Unsuspended, Some(State::Tracked)),
            (None, Stopped, None),
            (None, Suspended, None),
            (None, Deleted, None),
            (Some(State::Tracked), Created, Some(State::Tracked)),
            (Some(State::Tracked), Started, Some(State::Tracked)),
            (Some(State::Tracked), Stopped, Some(State::Paused)),
            (Some(State::Tracked), Suspended, Some(State::Paused)),
            (Some(State::Tracked), Deleted, None),
            (Some(State::Paused), Created, Some(State::Tracked)),
            (Some(State::Paused), Started, Some(State::Tracked)),
            (Some(State::Paused), Unsuspended, Some(State::Tracked)),
            (Some(State::Paused), Stopped, Some(State::Paused)),
            (Some(State::Paused), Deleted, None),
            (Some(State::Ended), Created, Some(State::Tracked)),
            (Some(State::Ended), Stopped, Some(State::Paused)),
            (Some(State::Ended), Deleted, None),
        ] {
            let tracked = tracked();
            begin(&tracked, from);
            for _ in 0..2 {
                tracked.apply(&event(what, "x"), &|_| {}).unwrap();
                assert_eq!(state(&tracked, "x"), then, "{from:?} {what:?}");
                let is_polled = !polled(&tracked, &a).is_empty();
                assert_eq!(is_polled, then == Some(State::Tracked), "{from:?} {what:?}");
            }
        }
    }

    #[test]
    fn discovery_brings_back_what_ended_but_not_what_was_untracked_or_is_paused() {
        let (tracked, a) = (tracked(), "a".into());
        find(&tracked, &a, &["x", "y"], 0);
        tracked.untrack(&id("x"), &|_| {});
        tracked.apply(&event(Change::Stopped, "y"), &|_| {}).unwrap();
        assert_eq!(find(&tracked, &a, &["x", "y"], 1), 0, "they are not too many");
        assert!(polled(&tracked, &a).is_empty());
        tracked.track(wanted("x"), &|_| {}).unwrap();
        tracked.apply(&event(Change::Started, "y"), &|_| {}).unwrap();
        assert_eq!(polled(&tracked, &a), ["x", "y"]);
        tracked.apply(&[event(Change::Deleted, "x"), event(Change::Created, "x")].concat(), &|_| {}).unwrap();
        assert_eq!(state(&tracked, "x"), Some(State::Tracked));
    }

    #[test]
    fn what_was_read_of_one_is_not_written_to_its_successor_nor_to_one_that_is_paused() {
        let (tracked, a) = (tracked(), "a".into());
        find(&tracked, &a, &["x", "y", "z"], 0);
        let before = tracked.polled_by(&a);
        tracked.untrack(&id("x"), &|_| {});
        tracked.track(wanted("x"), &|_| {}).unwrap();
        tracked.apply(&event(Change::Stopped, "y"), &|_| {}).unwrap();
        let current = tracked.while_polled(|is_polled| before.iter().map(is_polled).collect::<Vec<_>>());
        assert_eq!(current, [false, false, true]);
        tracked.gone(&a, &before[0], 5);
        assert_eq!(state(&tracked, "x"), Some(State::Tracked), "it was another that is gone");
    }

    #[test]
    fn labels_of_an_event_replace_those_of_the_last_one_and_without_any_they_stay() {
        let tracked = tracked();
        let labels = Labels::from([("workload".to_owned(), "web".to_owned())]);
        let created = Lifecycle { what: Change::Created, instance: id("x"), labels: Some(labels) };
        tracked.apply(&[created], &|_| {}).unwrap();
        tracked.apply(&[event(Change::Stopped, "x"), event(Change::Started, "x")].concat(), &|_| {}).unwrap();
        assert_eq!(tracked.get(&id("x")).unwrap().labels["workload"], "web");
        tracked.track(wanted("x"), &|_| {}).unwrap();
        assert!(!tracked.get(&id("x")).unwrap().labels.contains_key("workload"), "PUT says it all");
    }

    #[test]
    fn what_is_polled_anyway_is_polled_by_nobody_else_when_a_platform_says_it_goes_on() {
        let (tracked, a, b) = (tracked(), "a".into(), "b".into());
        find(&tracked, &a, &["found"], 0);
        tracked.configure(&id("named"), Labels::new(), Some(vec!["a".to_owned()])).unwrap();
        for text in ["found", "named"] {
            tracked.apply(&[event(Change::Stopped, text), event(Change::Started, text)].concat(), &|_| {}).unwrap();
        }
        assert_eq!(
            (polled(&tracked, &a), polled(&tracked, &b)),
            (vec!["found".to_owned(), "named".to_owned()], vec![])
        );
        let labels = Labels::from([("k".to_owned(), "v".to_owned())]);
        let labelled = Lifecycle { what: Change::Started, instance: id("found"), labels: Some(labels) };
        tracked.apply(&[labelled], &|_| {}).unwrap();
        assert_eq!((tracked.get(&id("found")).unwrap().labels["k"].as_str(), polled(&tracked, &b).len()), ("v", 0));
        find(&tracked, &a, &[], 1);
        assert_eq!(state(&tracked, "found"), Some(State::Ended), "nobody else was to poll it");
    }

    #[test]
    fn what_the_operator_says_holds_for_one_that_comes_back() {
        let (tracked, a, b) = (tracked(), "a".into(), "b".into());
        let labels = Labels::from([("tier".to_owned(), "front".to_owned())]);
        tracked.configure(&id("web"), labels, Some(vec!["a".to_owned()])).unwrap();
        tracked.untrack(&id("web"), &|_| {});
        tracked.apply(&event(Change::Created, "web"), &|_| {}).unwrap();
        assert_eq!(tracked.get(&id("web")).unwrap().labels["tier"], "front");
        assert_eq!((polled(&tracked, &a).len(), polled(&tracked, &b).len()), (1, 0));
    }

    #[test]
    fn saying_it_again_is_no_change() {
        let (tracked, a) = (tracked(), "a".into());
        find(&tracked, &a, &["x"], 0);
        tracked.track(wanted("y"), &|_| {}).unwrap();
        let before = tracked.revision();
        find(&tracked, &a, &["x"], 1);
        tracked.track(wanted("y"), &|_| {}).unwrap();
        tracked.apply(&event(Change::Created, "y"), &|_| {}).unwrap();
        assert_eq!(tracked.revision(), before);
    }

    #[test]
    fn what_was_untracked_is_remembered_within_bounds() {
        let (tracked, a) = (tracked(), "a".into());
        for text in ["1", "2", "3", "4"] {
            tracked.untrack(&id(text), &|_| {});
        }
        find(&tracked, &a, &["1", "2", "3", "4"], 0);
        assert_eq!(polled(&tracked, &a), ["1"]);
    }

    #[test]
    fn all_of_it_is_there_after_a_restart() {
        let (store, a) = (dropsonde_store::Store::in_memory(&Default::default()), PluginName::from("a"));
        let before = Tracked::new(vec!["*".to_owned()], Labels::new(), 10);
        find(&before, &a, &["found", "lost", "untracked"], 0);
        let labels = Labels::from([("workload".to_owned(), "web".to_owned())]);
        let asked = Wanted { id: id("asked"), labels: labels.clone(), samplers: Some(vec!["s".to_owned()]) };
        before.track(asked, &|_| {}).unwrap();
        before.apply(&event(Change::Created, "paused"), &|_| {}).unwrap();
        before.apply(&event(Change::Stopped, "paused"), &|_| {}).unwrap();
        before.untrack(&id("untracked"), &|_| {});
        before.untrack(&id("named"), &|_| {});
        find(&before, &a, &["found"], 7);
        before.note_changes(&store);

        let after = Tracked::new(vec!["*".to_owned()], Labels::new(), 10);
        after.configure(&id("named"), Labels::new(), None).unwrap();
        after.restore(&store, &["a"], 9);
        let states: Vec<_> = after.list().into_iter().map(|one| (one.id.to_string(), one.state)).collect();
        let expected =
            [("asked", State::Tracked), ("found", State::Tracked), ("lost", State::Ended), ("paused", State::Paused)];
        assert_eq!(states, expected.map(|(id, state)| (id.to_owned(), state)));
        let asked = after.get(&id("asked")).unwrap();
        assert_eq!((&*asked.labels, &asked.samplers[..]), (&labels, &["s".to_owned()][..]));
        find(&after, &a, &["untracked", "named", "found"], 10);
        assert_eq!(polled(&after, &a), ["found"], "what was untracked stays so");
    }
}
