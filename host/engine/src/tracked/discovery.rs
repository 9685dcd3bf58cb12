//! Discoveries of plugins: the owner of each instance found, the places for new instances, and the instances no longer
//! found.

use super::entry::InstanceEntry;
use super::instances::Instances;
use super::{AT_ONCE, ForgetInstance, PluginName, TrackedInstances};
use dropsonde_model::Labels;
use dropsonde_model::names::is_reserved;
use dropsonde_store::InstanceId;
use std::collections::BTreeMap;

/// A plugin that discovers instances, and its claim to them.
#[derive(Debug, Clone)]
pub(crate) struct Discoverer {
    pub(crate) plugin: PluginName,
    /// The plugin comes with the binary, or is part of the embedding program. It owns the instances it finds, whoever
    /// found them before.
    pub(crate) is_built_in: bool,
    /// The operator lets the plugin add to instances of other owners.
    pub(crate) shares: bool,
    /// The plugin was there when the host started, and this is its first discovery.
    pub(crate) is_initial: bool,
}

/// The result of a discovery.
#[derive(Debug, Default)]
pub(crate) struct Discovery {
    /// The number of instances for which there was no place.
    pub(crate) refused: u64,
    /// The instances that are new.
    pub(crate) begun: Vec<InstanceId>,
    /// The instances that belong to other owners, with these owners.
    pub(crate) of_others: Vec<(InstanceId, PluginName)>,
    /// The instances taken over from other plugins, with the plugins that recorded them until now.
    pub(crate) taken_over: Vec<(InstanceId, PluginName)>,
}

/// The result of a plugin's claim to an instance that is there, or has ended and is remembered.
enum ClaimOutcome {
    Allowed,
    /// The instance belongs to this other owner.
    Refused(PluginName),
    /// The instance belonged to this other owner until now.
    TakenOver(PluginName),
}

impl ClaimOutcome {
    fn of(by: &Discoverer, entry: &InstanceEntry, default: &[String]) -> Self {
        let owner = &entry.owner;
        let comes_first = || by.is_initial && entry.is_contested && by.plugin < *owner && !entry.is_of_built_in;
        if *owner == by.plugin || entry.is_released {
            Self::Allowed
        } else if (by.is_built_in && !entry.is_of_built_in) || comes_first() {
            Self::TakenOver(owner.clone())
        } else if by.shares || entry.is_open_to(&by.plugin, default) {
            Self::Allowed
        } else {
            Self::Refused(owner.clone())
        }
    }
}

/// A discovery that is being handled.
struct DiscoveryInProgress<'a> {
    by: &'a Discoverer,
    now_ms: i64,
    forget: ForgetInstance<'a>,
    discovery: Discovery,
}

impl TrackedInstances {
    /// Handles a discovery of a plugin: new instances begin, and instances that it no longer lists end. Instances that
    /// were untracked on purpose stay untracked.
    pub(crate) fn discovered(
        &self,
        by: &Discoverer,
        found: Vec<(InstanceId, Labels)>,
        now_ms: i64,
        forget: ForgetInstance<'_>,
    ) -> Discovery {
        let listed: BTreeMap<InstanceId, Labels> = found.into_iter().collect();
        let mut finding = DiscoveryInProgress { by, now_ms, forget, discovery: Discovery::default() };
        // Known instances come first, so that those that begin again are not removed to make room for new ones.
        let (left, known, new) = self.read(|instances| {
            let is_left = |(id, entry): &(&InstanceId, &InstanceEntry)| {
                entry.discovered_by.contains_key(&by.plugin) && !listed.contains_key(*id)
            };
            let left: Vec<_> = instances.all().iter().filter(is_left).map(|(id, _)| id.clone()).collect();
            let (known, new): (Vec<_>, Vec<_>) = listed.iter().partition(|(id, _)| instances.all().contains_key(*id));
            (left, known, new)
        });
        // Polls go on between two pieces.
        for piece in left.chunks(AT_ONCE) {
            self.change(|instances, changed| piece.iter().for_each(|id| finding.leave(instances, changed, id)));
        }
        for piece in known.chunks(AT_ONCE).chain(new.chunks(AT_ONCE)) {
            self.change(|instances, changed| {
                piece.iter().for_each(|(id, labels)| finding.take(instances, changed, id, labels));
            });
        }
        finding.discovery
    }
}

impl DiscoveryInProgress<'_> {
    /// Handles an instance that the plugin no longer lists.
    fn leave(&self, instances: &mut Instances, changed: &mut Vec<InstanceId>, id: &InstanceId) {
        let default = instances.default_samplers();
        let leave = |entry: &mut InstanceEntry| entry.leave(&self.by.plugin, false, &default, self.now_ms);
        if instances.change(id, leave) == Some(true) {
            changed.push(id.clone());
        }
    }

    /// Handles an instance that the plugin lists.
    fn take(&mut self, instances: &mut Instances, changed: &mut Vec<InstanceId>, id: &InstanceId, labels: &Labels) {
        let (plugin, is_built_in, default) = (&self.by.plugin, self.by.is_built_in, instances.default_samplers());
        if instances.is_untracked(id) {
            instances.keep_untracked(id);
            return;
        }
        match instances.all().get(id).map(|entry| ClaimOutcome::of(self.by, entry, &default)) {
            Some(ClaimOutcome::Refused(owner)) => {
                // The plugin may have been allowed to add to it before.
                self.leave(instances, changed, id);
                self.discovery.of_others.push((id.clone(), owner));
                return;
            }
            Some(ClaimOutcome::TakenOver(owner)) => {
                instances.hand_over(id, plugin, is_built_in, labels.clone());
                changed.push(id.clone());
                if !is_reserved(&owner) {
                    self.discovery.taken_over.push((id.clone(), owner));
                }
            }
            Some(ClaimOutcome::Allowed) | None => {}
        }
        let is_same = |entry: &InstanceEntry| {
            let is_known = entry.is_of_built_in == is_built_in || entry.owner != *plugin;
            is_known
                && !entry.is_released
                && entry.ended_ms.is_none()
                && entry.discovered_by.get(plugin) == Some(labels)
        };
        if instances.all().get(id).is_some_and(is_same) {
            return;
        }
        let is_new = !instances.all().contains_key(id);
        if is_new && let Some(over) = instances.make_room(plugin) {
            (self.forget)(&over);
            changed.push(over);
        }
        let found = instances.change_or_add(id, plugin, |entry| {
            entry.ended_ms = None;
            entry.is_contested |= is_new && self.by.is_initial;
            if std::mem::take(&mut entry.is_released) {
                entry.owner = plugin.clone();
            }
            if entry.owner == *plugin {
                entry.is_of_built_in = is_built_in;
            }
            entry.discovered_by.insert(plugin.clone(), labels.clone());
        });
        match found {
            Some(()) => {
                changed.push(id.clone());
                self.discovery.begun.extend(is_new.then(|| id.clone()));
            }
            None => self.discovery.refused += 1,
        }
    }
}
