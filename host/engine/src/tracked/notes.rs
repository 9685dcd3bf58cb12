//! Notes of tracked instances beside history, one for each, by which the instances are there again after a restart.

use super::entry::PollRequest;
use super::{API, ForgetInstance, PluginName, TrackedInstances};
use dropsonde_model::Labels;
use dropsonde_model::names::is_reserved;
use dropsonde_store::{InstanceId, Store};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;

/// The prefix of the notes' keys.
const NOTES: &str = "tracked/";

/// The state of an instance that the configuration does not have anyway.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct InstanceNote {
    discovered_by: BTreeMap<String, Labels>,
    /// None in notes of an earlier version.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// An operator removed the plugin that owns it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    released: bool,
    #[serde(skip_serializing_if = "Labels::is_empty")]
    last_labels: Labels,
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<NotedRequest>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    paused: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_ms: Option<i64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    untracked: bool,
    /// All its labels when this was noted, also those of the configuration, for readers of history without a host.
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Labels>,
}

#[derive(Debug, Serialize, Deserialize)]
struct NotedRequest {
    labels: Labels,
    #[serde(skip_serializing_if = "Option::is_none")]
    samplers: Option<Vec<String>>,
}

/// Returns the sampler that has recorded an instance; [`API`] if none has.
fn recorder(id: &InstanceId, store: &Store) -> PluginName {
    let frames = store.frames(id);
    frames.first().map_or_else(|| API.into(), |frame| frame.schema().sampler().clone())
}

/// Returns the labels instances had last, from the notes beside history.
pub fn noted_labels(notes: &BTreeMap<String, Vec<u8>>) -> BTreeMap<InstanceId, Labels> {
    let noted = notes.iter().filter_map(|(key, value)| {
        let id = InstanceId::new(key.strip_prefix(NOTES)?).ok()?;
        let note: InstanceNote = serde_json::from_slice(value).ok()?;
        Some((id, note.labels()))
    });
    noted.collect()
}

impl InstanceNote {
    /// Returns the owner. Notes of an earlier version have none: then the owner is a program, a plugin that discovered
    /// the instance, or the sampler that recorded it.
    fn owner(&self, id: &InstanceId, store: &Store) -> PluginName {
        let noted = self.owner.as_deref().or(self.asked.is_some().then_some(API));
        let noted = noted.or(self.discovered_by.keys().next().map(String::as_str));
        noted.map_or_else(|| recorder(id, store), PluginName::from)
    }

    /// Returns the labels. A note of an earlier version has only those that programs and plugins gave.
    fn labels(self) -> Labels {
        let Self { discovered_by, last_labels, asked, labels, .. } = self;
        labels.unwrap_or_else(|| {
            let discovered = discovered_by.into_values().rev();
            let asked = asked.into_iter().map(|asked| asked.labels);
            let all: Vec<Labels> = [last_labels].into_iter().chain(discovered).chain(asked).collect();
            all.iter().flat_map(Labels::iter).collect()
        })
    }
}

impl TrackedInstances {
    /// Restores the instances that were tracked when the host last ran. An instance with history that nobody tracks any
    /// more has ended, also one that was discovered by a plugin that is not among `plugins`.
    pub fn restore(&self, store: &Store, plugins: &[&str], now_ms: i64) {
        self.adopt(store, store.notes(NOTES), plugins, now_ms, &|_| {});
    }

    /// Restores instances by notes that could be read only late, while instances are tracked already. Returns those of
    /// them that belong to another owner, each with the plugin that was taken for its owner meanwhile.
    pub(crate) fn adopt(
        &self,
        store: &Store,
        notes: Vec<(String, Vec<u8>)>,
        plugins: &[&str],
        now_ms: i64,
        forget: ForgetInstance<'_>,
    ) -> Vec<(InstanceId, PluginName)> {
        let mut strangers = Vec::new();
        let noted = notes.into_iter().filter_map(|(key, value)| {
            let id = InstanceId::new(key.strip_prefix(NOTES)?).ok()?;
            // A note that cannot be read was written by another version. A plugin will find the instance again.
            Some((id, serde_json::from_slice::<InstanceNote>(&value).ok()?))
        });
        let noted: Vec<_> = noted.collect();
        // The host's own instances are not tracked.
        let mut ids: BTreeSet<InstanceId> =
            store.instances().into_iter().filter(|id| !is_reserved(id.as_str())).collect();
        let stale = self.write(|instances| {
            let mut refused = 0_usize;
            let mut labels = BTreeMap::new();
            for (id, note) in noted {
                labels.insert(id.clone(), note.labels.clone());
                if note.untracked {
                    let removed = instances.remove(&id);
                    if removed.as_ref().is_some_and(|entry| !entry.discovered_by.is_empty()) {
                        forget(&id);
                    }
                    if removed.is_some_and(|entry| entry.configured.is_some()) {
                        tracing::warn!(
                            instance = %id,
                            "the configuration names an instance that was untracked; PUT it to track it again"
                        );
                    }
                    instances.set_untracked(&id, false);
                    ids.remove(&id);
                    continue;
                }
                let owner = note.owner(&id, store);
                let meanwhile = instances.all().get(&id).map(|entry| entry.owner.clone());
                let is_stranger = |meanwhile: &PluginName| *meanwhile != owner && !is_reserved(meanwhile);
                strangers.extend(meanwhile.filter(is_stranger).map(|stranger| (id.clone(), stranger)));
                let restored = instances.change_or_restore(&id, &owner, |entry| {
                    entry.owner = owner.clone();
                    entry.is_released = note.released;
                    entry.last_labels = note.last_labels;
                    for (name, labels) in note.discovered_by {
                        if plugins.contains(&name.as_str()) {
                            entry.discovered_by.entry(PluginName::from(name)).or_insert(labels);
                        } else {
                            entry.last_labels = labels;
                        }
                    }
                    let asked = note.asked.map(|NotedRequest { labels, samplers }| PollRequest::new(labels, samplers));
                    entry.asked = entry.asked.take().or(asked);
                    entry.is_paused |= note.paused;
                    let is_wanted = entry.configured.is_some() || entry.asked.is_some();
                    // A sampler that said that it is gone may be another version now.
                    entry.ended_ms = note.ended_ms.filter(|_| !is_wanted && entry.discovered_by.is_empty());
                });
                refused += usize::from(restored.is_none());
                ids.insert(id);
            }
            for id in ids {
                let owner = recorder(&id, store);
                let restored = instances.change_or_restore(&id, &owner, |entry| {
                    if entry.discovered_by.is_empty() && entry.configured.is_none() && entry.asked.is_none() {
                        entry.ended_ms.get_or_insert_with(|| store.latest_at_ms(&id).unwrap_or(now_ms));
                    }
                });
                refused += usize::from(restored.is_none());
            }
            if refused > 0 {
                tracing::error!(
                    refused,
                    "more instances were tracked than poll.max_instances allows now; raise it to track all of them"
                );
            }
            let all = instances.all().iter();
            let stale = all.filter(|(id, entry)| labels.get(*id).and_then(Option::as_ref) != Some(&entry.labels));
            stale.map(|(id, _)| id.clone()).collect::<Vec<_>>()
        });
        let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.extend(stale);
        changed.extend(strangers.iter().map(|(id, _)| id.clone()));
        drop(changed);
        self.revision.fetch_add(1, Relaxed);
        strangers
    }

    /// Writes the notes of instances that changed.
    pub fn note_changes(&self, store: &Store) {
        let changed = std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner));
        for id in changed {
            let note = self.read(|instances| {
                if instances.is_untracked(&id) {
                    return serde_json::to_vec(&InstanceNote { untracked: true, ..InstanceNote::default() }).ok();
                }
                let entry = instances.all().get(&id)?;
                let discovered_by = entry.discovered_by.iter();
                let discovered_by = discovered_by.map(|(name, labels)| (name.to_string(), labels.clone())).collect();
                let asked = entry.asked.as_ref();
                let asked =
                    asked.map(|wish| NotedRequest { labels: wish.labels.clone(), samplers: wish.samplers.clone() });
                let last_labels =
                    if entry.discovered_by.is_empty() { entry.last_labels.clone() } else { Labels::new() };
                let (paused, ended_ms, released) = (entry.is_paused, entry.ended_ms, entry.is_released);
                let labels = Some(Labels::clone(&entry.labels));
                let owner = Some(entry.owner.to_string());
                let untracked = false;
                let note = InstanceNote {
                    discovered_by,
                    owner,
                    released,
                    last_labels,
                    asked,
                    paused,
                    ended_ms,
                    labels,
                    untracked,
                };
                serde_json::to_vec(&note).ok()
            });
            if let Err(error) = store.note(&format!("{NOTES}{id}"), note) {
                tracing::error!(
                    instance = %id,
                    %error,
                    "cannot note the instance; after a restart it will be as it was before"
                );
            }
        }
    }
}
