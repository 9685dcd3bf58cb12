//! The tracked instances, and the plugins that poll them.
//!
//! The configuration, discovery, programs and lifecycle events make one set. An instance that is untracked is removed
//! with everything it had. A later instance of the same id is another *generation*, which no reading of the first can
//! reach.
//!
//! # Layout
//!
//! * `entry`: one instance; `instances`: the set of instances; `discovery`: discoveries of plugins.
//! * `lifecycle`: lifecycle events of instances, as platforms send them.
//! * `notes`: the notes by which instances are there again after a restart.

mod discovery;
mod entry;
mod instances;
mod lifecycle;
mod notes;
#[cfg(test)]
mod tests;

pub(crate) use discovery::{Discoverer, Discovery};
pub use lifecycle::instance_id;
pub use lifecycle::{BadLifecycle, Lifecycle, LifecycleChange};
pub use notes::noted_labels;

use crate::hub::{Member, Selection, WORKLOAD};
use dropsonde_model::Labels;
use dropsonde_store::{InstanceId, Pool};
use entry::{InstanceEntry, PollRequest};
use instances::Instances;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// The most instances that are changed under one lock of the set.
const AT_ONCE: usize = 256;

/// A plugin's name.
pub type PluginName = Arc<str>;

/// The owners of instances that programs track, and of those that the operator's file names. No plugin can have these
/// names.
pub(crate) const API: &str = "dropsonde:api";
pub(crate) const CONFIGURATION: &str = "dropsonde:configuration";

/// The set of tracked instances. Each has an owner, which discovered or named it first. Others add to what the owner
/// reports, and replace nothing of it.
///
/// The plugins that discovered an instance poll it. An instance from the configuration or the API is polled by the
/// samplers it names, else by the default samplers.
#[derive(Debug)]
pub struct TrackedInstances {
    most: usize,
    places: Arc<Pool>,
    instances: RwLock<Instances>,
    /// Increases whenever instances or labels may have changed.
    revision: AtomicU64,
    /// The instances that changed since they were last noted.
    changed: Mutex<BTreeSet<InstanceId>>,
}

/// The state of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceState {
    Tracked,
    /// Nobody polls the instance until it goes on. Its history stays as it is.
    Paused,
    /// Nobody polls the instance any more. Its history stays until it is older than the retention.
    Ended,
}

/// An instance as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackedInstance {
    pub id: InstanceId,
    pub labels: Labels,
    pub state: InstanceState,
    /// The samplers it names, without `*`, and the plugins that discovered it.
    pub samplers: Vec<String>,
}

/// An instance at the time a plugin is asked about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolledInstance {
    pub id: InstanceId,
    pub generation: u64,
    /// The owner, which discovered or named it first.
    pub owner: PluginName,
    /// Whether the owner polls it too, or is not a plugin.
    pub has_its_owner: bool,
    pub labels: Labels,
}

/// A program's request to track an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackRequest {
    pub id: InstanceId,
    pub labels: Labels,
    /// The samplers that are to poll it. None: the default samplers.
    pub samplers: Option<Vec<String>>,
}

/// The error when as many instances are tracked as the configuration allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("instance limit of {0} reached; raise poll.max_instances")]
pub struct TooManyInstances(pub usize);

/// The reason why an instance is not tracked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTracked {
    #[error(transparent)]
    TooMany(#[from] TooManyInstances),
    #[error("{0}")]
    Invalid(String),
}

/// Drops everything that an instance had. Called while nobody can track another instance of the same id.
pub(crate) type ForgetInstance<'a> = &'a dyn Fn(&InstanceId);

// === impl TrackedInstances ===

impl TrackedInstances {
    pub fn new(default_samplers: Vec<String>, common: Labels, most: usize) -> Self {
        let instances = Instances::new(default_samplers, common, most);
        Self {
            most,
            places: instances.places(),
            instances: RwLock::new(instances),
            revision: AtomicU64::new(0),
            changed: Mutex::default(),
        }
    }

    /// Tracks an instance that the operator names.
    pub fn configure(
        &self,
        id: &InstanceId,
        labels: Labels,
        samplers: Option<Vec<String>>,
    ) -> Result<(), TooManyInstances> {
        let done = self.write(|instances| {
            instances.name(id, PollRequest::new(labels, samplers));
            instances.change_or_add(id, &CONFIGURATION.into(), |entry| entry.ended_ms = None)
        });
        self.revision.fetch_add(1, Relaxed);
        done.ok_or(TooManyInstances(self.most))
    }

    /// Applies another configuration. Instances that it no longer names end, unless others want them. Returns the
    /// instances for which there is no place.
    pub(crate) fn reconfigure(
        &self,
        default_samplers: &[String],
        common: &Labels,
        named: BTreeMap<InstanceId, (Labels, Option<Vec<String>>)>,
        now_ms: i64,
        forget: ForgetInstance<'_>,
    ) -> Vec<InstanceId> {
        self.change(|instances, changed| {
            instances.set_default_samplers(default_samplers);
            changed.extend(instances.set_common(common));
            let mut named: BTreeMap<_, _> =
                named.into_iter().map(|(id, (labels, samplers))| (id, PollRequest::new(labels, samplers))).collect();
            for id in instances.named().filter(|id| !named.contains_key(*id)).cloned().collect::<Vec<_>>() {
                instances.remove_named(&id, now_ms);
                changed.push(id);
            }
            // An unchanged request is left out, because its instance may have been untracked since.
            named.retain(|id, wish| !instances.names(id, wish));
            let mut refused = Vec::new();
            for (id, wish) in named {
                instances.name(&id, wish);
                // A paused instance stays paused, because the file does not decide that.
                let known = instances.change(&id, |entry| entry.ended_ms = None);
                let wish = |entry: &InstanceEntry| entry.asked.clone();
                match known.or_else(|| track(instances, &id, &CONFIGURATION.into(), wish, changed, forget)) {
                    Some(()) => changed.push(id),
                    // The request is forgotten, so that the next configuration with it tries again.
                    None => {
                        instances.remove_named(&id, now_ms);
                        refused.push(id);
                    }
                }
            }
            refused
        })
    }

    /// Tracks an instance that a program names, also one that was untracked, is paused or has ended. Samplers that said
    /// that it is gone are asked again.
    pub(crate) fn track(&self, wanted: TrackRequest, forget: ForgetInstance<'_>) -> Result<(), TooManyInstances> {
        let TrackRequest { id, labels, samplers } = wanted;
        let wish = |_: &InstanceEntry| Some(PollRequest::new(labels, samplers));
        self.change(|instances, changed| {
            track(instances, &id, &API.into(), wish, changed, forget).ok_or(TooManyInstances(self.most))
        })
    }

    /// Removes an instance with everything it had. Discovery does not bring it back.
    pub(crate) fn untrack(&self, id: &InstanceId, forget: ForgetInstance<'_>) {
        self.change(|instances, changed| untrack(instances, id, changed, forget));
    }

    /// Applies lifecycle events in order. Stops at an event for whose instance there is no place, and returns the
    /// number of events applied before it.
    pub(crate) fn apply(
        &self,
        events: &[Lifecycle],
        forget: ForgetInstance<'_>,
    ) -> Result<(), (usize, TooManyInstances)> {
        let api = API.into();
        self.change(|instances, changed| {
            for (nth, Lifecycle { what, instance: id, labels }) in events.iter().enumerate() {
                match what {
                    LifecycleChange::Created | LifecycleChange::Started | LifecycleChange::Unsuspended => {
                        let wish = |entry: &InstanceEntry| entry.asked_again(labels.as_ref());
                        let tracked = track(instances, id, &api, wish, changed, forget);
                        tracked.ok_or((nth, TooManyInstances(self.most)))?;
                    }
                    LifecycleChange::Stopped | LifecycleChange::Suspended => {
                        let pause = |entry: &mut InstanceEntry| !std::mem::replace(&mut entry.is_paused, true);
                        if instances.change(id, pause) == Some(true) {
                            changed.push(id.clone());
                        }
                    }
                    LifecycleChange::Deleted => untrack(instances, id, changed, forget),
                }
            }
            Ok(())
        })
    }

    /// Returns the places that owners take.
    pub(crate) fn places(&self) -> &Pool {
        &self.places
    }

    /// Notes that a plugin said that an instance it was asked about no longer exists.
    pub fn gone(&self, plugin: &PluginName, polled: &PolledInstance, now_ms: i64) {
        self.change(|instances, changed| {
            let is_current = instances.all().get(&polled.id).is_some_and(|entry| entry.generation == polled.generation);
            let default = instances.default_samplers();
            let leave = |entry: &mut InstanceEntry| entry.leave(plugin, true, &default, now_ms);
            if is_current && instances.change(&polled.id, leave) == Some(true) {
                changed.push(polled.id.clone());
            }
        });
    }

    /// Lets others own the instances of a plugin that an operator removed. Returns whether there were any.
    pub(crate) fn release(&self, plugin: &str) -> bool {
        self.change(|instances, changed| {
            let owned = instances.all().iter().filter(|(_, entry)| *entry.owner == *plugin);
            let ids: Vec<InstanceId> = owned.map(|(id, _)| id.clone()).collect();
            for id in &ids {
                instances.change(id, |entry| entry.is_released = true);
            }
            let owned_some = !ids.is_empty();
            changed.extend(ids);
            owned_some
        })
    }

    /// Stops plugins from adding to instances of other owners, if neither the operator nor a program allows it any
    /// more. `shares`: returns whether the operator allows a plugin to add to all instances of other owners.
    pub(crate) fn revoke_shares(&self, shares: &dyn Fn(&str) -> bool, now_ms: i64) {
        self.change(|instances, changed| {
            let default = instances.default_samplers();
            let mut revoked = Vec::new();
            for (id, entry) in instances.all() {
                let strangers = entry
                    .discovered_by
                    .keys()
                    .filter(|plugin| **plugin != entry.owner && !entry.is_open_to(plugin, &default) && !shares(plugin));
                revoked.extend(strangers.map(|plugin| (id.clone(), plugin.clone())));
            }
            for (id, plugin) in revoked {
                instances.change(&id, |entry| entry.leave(&plugin, false, &default, now_ms));
                changed.push(id);
            }
        });
    }

    /// Lets a plugin be asked again about instances that it said are gone, because its newer version may know them.
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

    /// Returns the instances that a sampler polls, by id.
    pub fn polled_by(&self, plugin: &PluginName) -> Vec<PolledInstance> {
        self.read(|instances| {
            let default = instances.default_samplers();
            let polled = instances.all().iter().filter(|(_, entry)| entry.is_polled_by(plugin, &default));
            polled
                .map(|(id, entry)| PolledInstance {
                    id: id.clone(),
                    generation: entry.generation,
                    owner: entry.owner.clone(),
                    has_its_owner: entry.has_its_owner(&default),
                    labels: entry.labels.clone(),
                })
                .collect()
        })
    }

    /// Calls `write` with a function that returns whether an instance is still the one that was asked about, and not
    /// paused. Until `write` returns, no instance is untracked or paused, so that everything written meanwhile belongs
    /// to its instance.
    pub(crate) fn while_polled<T>(&self, write: impl FnOnce(&dyn Fn(&PolledInstance) -> bool) -> T) -> T {
        self.read(|instances| {
            write(&|polled| {
                let entry = instances.all().get(&polled.id);
                entry.is_some_and(|now| now.generation == polled.generation && now.state() != InstanceState::Paused)
            })
        })
    }

    /// Calls `act` with the instances that a selection includes. Until `act` returns, no instance is untracked or gets
    /// other labels.
    pub(crate) fn while_selected<T>(&self, selection: &Selection, act: impl FnOnce(Vec<Member>) -> T) -> T {
        let member = |(id, InstanceEntry { generation, labels, .. }): (&InstanceId, &InstanceEntry)| {
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

    /// Returns the instances of some workloads, by workload.
    pub(crate) fn of_workloads(&self, workloads: &BTreeSet<String>) -> BTreeMap<String, Vec<InstanceId>> {
        self.read(|instances| {
            let mut members: BTreeMap<String, Vec<InstanceId>> = BTreeMap::new();
            for (id, entry) in instances.all() {
                if let Some(workload) = entry.labels.get(WORKLOAD).filter(|workload| workloads.contains(*workload)) {
                    members.entry(workload.to_owned()).or_default().push(id.clone());
                }
            }
            members
        })
    }

    pub fn get(&self, id: &InstanceId) -> Option<TrackedInstance> {
        self.read(|instances| instances.all().get(id).map(|entry| tracking(instances, id, entry)))
    }

    /// Returns all instances, by id.
    pub fn list(&self) -> Vec<TrackedInstance> {
        self.list_after(None, usize::MAX, |_, _| true)
    }

    /// Returns the wanted instances behind an id, at most `most` of them.
    pub fn list_after(
        &self,
        after: Option<&str>,
        most: usize,
        wanted: impl Fn(&InstanceId, &Labels) -> bool,
    ) -> Vec<TrackedInstance> {
        let begin = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.read(|instances| {
            let behind = instances.all().range::<str, _>((begin, Bound::Unbounded));
            let wanted = behind.filter(|(id, entry)| wanted(id, &entry.labels));
            wanted.take(most).map(|(id, entry)| tracking(instances, id, entry)).collect()
        })
    }

    /// Returns how many instances each value of a label has, without those that ended.
    pub fn count_by_label(&self, label: &str) -> BTreeMap<String, usize> {
        self.read(|instances| {
            let mut counts = BTreeMap::new();
            for entry in instances.all().values().filter(|entry| entry.state() != InstanceState::Ended) {
                if let Some(value) = entry.labels.get(label) {
                    *counts.entry(value.to_owned()).or_default() += 1;
                }
            }
            counts
        })
    }

    /// Removes the instances that ended before a time, if their history is gone.
    pub(crate) fn forget_ended_before(
        &self,
        before_ms: i64,
        has_gone: &dyn Fn(&InstanceId) -> bool,
        forget: ForgetInstance<'_>,
    ) {
        let over = self.read(|instances| instances.over_before(before_ms));
        // Polls go on between two pieces.
        for piece in over.chunks(AT_ONCE) {
            self.change(|instances, changed| {
                let is_over = |id: &&InstanceId| {
                    let over_ms = instances.all().get(*id).and_then(InstanceEntry::over_ms);
                    over_ms.is_some_and(|over_ms| over_ms < before_ms) && has_gone(id)
                };
                for id in piece.iter().filter(is_over).cloned().collect::<Vec<_>>() {
                    instances.remove(&id);
                    forget(&id);
                    changed.push(id);
                }
            });
        }
    }

    /// Returns a number that stays the same as long as instances and labels do.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Relaxed)
    }

    /// Changes the set, and remembers the changed instances for their notes. If there are any, the revision increases.
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

fn tracking(instances: &Instances, id: &InstanceId, entry: &InstanceEntry) -> TrackedInstance {
    let default = instances.default_samplers();
    let samplers: BTreeSet<&str> = entry.named_samplers(&default).collect();
    TrackedInstance {
        id: id.clone(),
        labels: entry.labels.clone(),
        state: entry.state(),
        samplers: samplers.into_iter().map(str::to_owned).collect(),
    }
}

/// Tracks an instance for an owner. `wish`: returns the program's request from now on. None: there is no place.
fn track(
    instances: &mut Instances,
    id: &InstanceId,
    owner: &PluginName,
    wish: impl FnOnce(&InstanceEntry) -> Option<PollRequest>,
    changed: &mut Vec<InstanceId>,
    forget: ForgetInstance<'_>,
) -> Option<()> {
    if !instances.all().contains_key(id)
        && let Some(over) = instances.make_room(owner)
    {
        forget(&over);
        changed.push(over);
    }
    let was_untracked = instances.is_untracked(id);
    let is_other = instances.change_or_add(id, owner, |entry| {
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

fn untrack(instances: &mut Instances, id: &InstanceId, changed: &mut Vec<InstanceId>, forget: ForgetInstance<'_>) {
    let entry = instances.remove(id);
    let is_discovered = entry.is_some_and(|entry| !entry.discovered_by.is_empty());
    if let Some((least, may_come_back)) = instances.set_untracked(id, is_discovered) {
        if may_come_back {
            tracing::warn!(
                instance = %least,
                "too many instances were untracked to remember this one; discovery may bring it back"
            );
        }
        changed.push(least);
    }
    // Also for an instance that never was there, because streams may wait for it.
    forget(id);
    changed.push(id.clone());
}
