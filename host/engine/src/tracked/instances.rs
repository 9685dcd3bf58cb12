//! The set of instances: those in it, those that were untracked on purpose, and those that have ended, oldest first.

use super::PluginName;
use super::entry::{InstanceEntry, PollRequest};
use dropsonde_model::Labels;
use dropsonde_store::{InstanceId, Pool};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Instances by id. Every change goes through [`Instances::change`], which keeps the other fields in order.
#[derive(Debug)]
pub(super) struct Instances {
    all: BTreeMap<InstanceId, InstanceEntry>,
    /// The ended instances of each owner, by the time they ended.
    over: BTreeMap<PluginName, BTreeSet<(i64, InstanceId)>>,
    /// The places that owners take.
    places: Arc<Pool>,
    /// The instances that were untracked on purpose: discovery does not bring them back.
    untracked: BTreeMap<InstanceId, UntrackedWorth>,
    untracked_by_worth: BTreeMap<UntrackedWorth, InstanceId>,
    /// The requests in the operator's file, whatever becomes of their instances.
    named: BTreeMap<InstanceId, PollRequest>,
    /// Counts generations, and instances that were untracked.
    next: u64,
    most: usize,
    /// The samplers that poll instances that name none.
    default_samplers: Arc<[String]>,
    /// The labels of every instance. An instance's own label of the same key wins.
    common: Labels,
}

/// The worth of remembering an untracked instance, least first. An instance that discovery does not know is worth less,
/// because discovery cannot bring it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct UntrackedWorth {
    is_discovered: bool,
    /// The order in which instances were untracked.
    nth: u64,
}

impl Instances {
    /// Makes an empty set. One owner can have at most `most` places, and the places of all owners beyond their shares
    /// are at most as many.
    pub(super) fn new(default_samplers: Vec<String>, common: Labels, most: usize) -> Self {
        Self {
            all: BTreeMap::new(),
            over: BTreeMap::new(),
            places: Arc::new(Pool::new(most as u64, most as u64)),
            untracked: BTreeMap::new(),
            untracked_by_worth: BTreeMap::new(),
            named: BTreeMap::new(),
            next: 0,
            most,
            default_samplers: default_samplers.into(),
            common,
        }
    }

    pub(super) fn all(&self) -> &BTreeMap<InstanceId, InstanceEntry> {
        &self.all
    }

    pub(super) fn default_samplers(&self) -> Arc<[String]> {
        self.default_samplers.clone()
    }

    pub(super) fn set_default_samplers(&mut self, default: &[String]) {
        self.default_samplers = default.into();
    }

    /// Changes the labels of every instance. Returns the instances that have other labels because of it.
    pub(super) fn set_common(&mut self, common: &Labels) -> Vec<InstanceId> {
        if self.common == *common {
            return Vec::new();
        }
        self.common = common.clone();
        let mut changed = Vec::new();
        for (id, entry) in &mut self.all {
            let before = entry.labels.clone();
            entry.gather_labels(&self.common);
            if before != entry.labels {
                changed.push(id.clone());
            }
        }
        changed
    }

    /// Returns the instances that the operator names.
    pub(super) fn named(&self) -> impl Iterator<Item = &InstanceId> {
        self.named.keys()
    }

    /// Returns whether this is the operator's request for an instance already.
    pub(super) fn names(&self, id: &InstanceId, wish: &PollRequest) -> bool {
        self.named.get(id).is_some_and(|named| named.says_the_same(wish))
    }

    /// Removes the operator's request for an instance. The instance ends, unless others want it.
    pub(super) fn remove_named(&mut self, id: &InstanceId, now_ms: i64) {
        self.named.remove(id);
        let default = self.default_samplers();
        self.change(id, |entry| entry.forget_configured(&default, now_ms));
    }

    /// Sets the operator's request for an instance. It holds also when the instance comes back.
    pub(super) fn name(&mut self, id: &InstanceId, wish: PollRequest) {
        self.named.insert(id.clone(), wish.clone());
        self.change(id, |entry| entry.configured = Some(wish));
    }

    /// Changes an instance. None: there is no such instance.
    pub(super) fn change<T>(&mut self, id: &InstanceId, change: impl FnOnce(&mut InstanceEntry) -> T) -> Option<T> {
        let entry = self.all.get_mut(id)?;
        let (over_before, owner_before, places_before) = (entry.over_ms(), entry.owner.clone(), entry.places);
        let changed = change(entry);
        entry.pass_on();
        entry.gather_labels(&self.common);
        entry.places = entry.needed_places(id.as_str());
        let (over_now, owner_now, places_now) = (entry.over_ms(), entry.owner.clone(), entry.places);
        if (&owner_before, places_before) != (&owner_now, places_now) {
            self.places.give_back(&owner_before, places_before);
            self.places.take_anyway(&owner_now, places_now);
        }
        if (&owner_before, over_before) != (&owner_now, over_now) {
            if let Some((over, all)) = over_before.zip(self.over.get_mut(&owner_before)) {
                all.remove(&(over, id.clone()));
            }
            if let Some(over) = over_now {
                self.over.entry(owner_now).or_default().insert((over, id.clone()));
            }
        }
        Some(changed)
    }

    /// Changes an instance, and adds it for an owner if there is no such instance. None: the owner has no place for it.
    pub(super) fn change_or_add<T>(
        &mut self,
        id: &InstanceId,
        owner: &PluginName,
        change: impl FnOnce(&mut InstanceEntry) -> T,
    ) -> Option<T> {
        self.change_or_place(id, owner, |places| places.take(owner, 1).is_ok(), change)
    }

    /// Changes an instance of the last start, and adds it for an owner if there is no such instance. None: all places
    /// of all owners are taken.
    pub(super) fn change_or_restore<T>(
        &mut self,
        id: &InstanceId,
        owner: &PluginName,
        change: impl FnOnce(&mut InstanceEntry) -> T,
    ) -> Option<T> {
        let place = |places: &Pool| {
            let has_room = places.used() < places.total();
            if has_room {
                places.take_anyway(owner, 1);
            }
            has_room
        };
        self.change_or_place(id, owner, place, change)
    }

    /// Changes an instance, and adds it if there is no such instance. `place` takes a place for it; false: there is
    /// none.
    fn change_or_place<T>(
        &mut self,
        id: &InstanceId,
        owner: &PluginName,
        place: impl FnOnce(&Pool) -> bool,
        change: impl FnOnce(&mut InstanceEntry) -> T,
    ) -> Option<T> {
        if !self.all.contains_key(id) {
            if !place(&self.places) {
                return None;
            }
            self.next += 1;
            let configured = self.named.get(id).cloned();
            self.all.insert(id.clone(), InstanceEntry { configured, ..InstanceEntry::of(owner.clone(), self.next) });
        }
        self.change(id, change)
    }

    /// Hands an instance over to another plugin. It gets another generation, so that no reading of the earlier one
    /// reaches it.
    pub(super) fn hand_over(&mut self, id: &InstanceId, owner: &PluginName, is_built_in: bool, labels: Labels) {
        self.next += 1;
        let generation = self.next;
        self.change(id, |entry| {
            entry.discovered_by.remove(&entry.owner);
            entry.discovered_by.insert(owner.clone(), labels);
            (entry.owner, entry.is_of_built_in, entry.generation) = (owner.clone(), is_built_in, generation);
            (entry.is_released, entry.ended_ms) = (false, None);
        });
    }

    /// Removes the instance of an owner that ended first, if the owner has no place left for another one. Returns its
    /// id.
    pub(super) fn make_room(&mut self, owner: &PluginName) -> Option<InstanceId> {
        if self.places.has_room(owner, 1) {
            return None;
        }
        let (_, id) = self.over.get(owner)?.first().cloned()?;
        self.remove(&id);
        self.places.refuse(owner, 1);
        Some(id)
    }

    pub(super) fn remove(&mut self, id: &InstanceId) -> Option<InstanceEntry> {
        let entry = self.all.remove(id)?;
        self.places.give_back(&entry.owner, entry.places);
        if let Some((over, all)) = entry.over_ms().zip(self.over.get_mut(&entry.owner)) {
            all.remove(&(over, id.clone()));
        }
        Some(entry)
    }

    /// Returns the instances that ended before a time.
    pub(super) fn over_before(&self, before_ms: i64) -> Vec<InstanceId> {
        let over = self.over.values().flat_map(|all| all.iter().take_while(|(over, _)| *over < before_ms));
        over.map(|(_, id)| id.clone()).collect()
    }

    pub(super) fn places(&self) -> Arc<Pool> {
        self.places.clone()
    }

    pub(super) fn is_untracked(&self, id: &InstanceId) -> bool {
        self.untracked.contains_key(id)
    }

    /// Remembers that an instance is not to be brought back. As many instances are remembered as may be tracked. Beyond
    /// that, the one worth least is forgotten and returned, with whether discovery may bring it back now.
    pub(super) fn set_untracked(&mut self, id: &InstanceId, is_discovered: bool) -> Option<(InstanceId, bool)> {
        let is_discovered = self.take_untracked(id).is_some_and(|worth| worth.is_discovered) || is_discovered;
        self.next += 1;
        let worth = UntrackedWorth { is_discovered, nth: self.next };
        self.untracked.insert(id.clone(), worth);
        self.untracked_by_worth.insert(worth, id.clone());
        if self.untracked.len() <= self.most {
            return None;
        }
        let (worth, least) = self.untracked_by_worth.pop_first()?;
        self.untracked.remove(&least);
        Some((least, worth.is_discovered))
    }

    /// Notes that discovery would bring an untracked instance back.
    pub(super) fn keep_untracked(&mut self, id: &InstanceId) {
        if let Some(worth) = self.untracked.get_mut(id).filter(|worth| !worth.is_discovered) {
            self.untracked_by_worth.remove(worth);
            worth.is_discovered = true;
            self.untracked_by_worth.insert(*worth, id.clone());
        }
    }

    /// Lets an untracked instance be brought back.
    pub(super) fn clear_untracked(&mut self, id: &InstanceId) {
        self.take_untracked(id);
    }

    fn take_untracked(&mut self, id: &InstanceId) -> Option<UntrackedWorth> {
        let worth = self.untracked.remove(id)?;
        self.untracked_by_worth.remove(&worth);
        Some(worth)
    }
}
