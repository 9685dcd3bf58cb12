//! Who follows what: a channel for each selection that someone follows, shared by all who follow the same.

use super::event::Event;
use super::inbox::{Inbox, Message};
use super::log::Log;
use super::selection::{Selection, WORKLOAD};
use super::watch::Watcher;
use crate::labels::Labels;
use dropsonde_store::InstanceId;
use std::collections::HashMap;
use std::sync::Arc;

/// Tells channels apart; none is given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ChannelId(u64);

#[derive(Debug, Default)]
pub(super) struct Channels {
    next: u64,
    all: HashMap<ChannelId, Channel>,
    by_selection: HashMap<Arc<Selection>, ChannelId>,
    by_instance: HashMap<InstanceId, Vec<ChannelId>>,
    by_workload: HashMap<String, ChannelId>,
    /// Those that have to be asked whether they include an instance.
    by_labels: Vec<ChannelId>,
    /// Steps whenever those are others.
    labels_revision: u64,
}

#[derive(Debug)]
pub(super) struct Channel {
    selection: Arc<Selection>,
    watchers: Vec<Watcher>,
    /// How many sockets each writer has.
    sockets: Vec<usize>,
    /// Of a workload: something of one of its instances came since it was last added up.
    is_stale: bool,
    /// Of a workload that nobody follows any more: the event by which the last one left.
    left_at: u64,
}

/// Which of the channels that have to be asked include an instance, as of a revision of them.
#[derive(Debug, Default)]
pub(super) struct Membership {
    labels: Option<Arc<Labels>>,
    revision: u64,
    channels: Vec<ChannelId>,
}

// === impl Channels ===

impl Channels {
    /// The one of a selection; made when there is none.
    pub(super) fn of(&mut self, selection: Selection, writers: usize) -> (ChannelId, &mut Channel) {
        if let Some(id) = self.by_selection.get(&selection) {
            let id = *id;
            return (id, self.all.entry(id).or_insert_with(|| Channel::new(Arc::new(selection), writers)));
        }
        self.next += 1;
        let id = ChannelId(self.next);
        match &selection {
            Selection::One(instance) => self.by_instance.entry(instance.clone()).or_default().push(id),
            Selection::Several(several) => {
                for instance in several {
                    self.by_instance.entry(instance.clone()).or_default().push(id);
                }
            }
            Selection::Workload(workload) => drop(self.by_workload.insert(workload.clone(), id)),
            Selection::Labels(_) => {
                self.by_labels.push(id);
                self.labels_revision += 1;
            }
        }
        let selection = Arc::new(selection);
        self.by_selection.insert(selection.clone(), id);
        (id, self.all.entry(id).or_insert_with(|| Channel::new(selection, writers)))
    }

    /// Whether someone follows an instance by its name.
    pub(super) fn has(&self, instance: &InstanceId) -> bool {
        self.by_instance.contains_key(instance)
    }

    /// Hands an instance's event to all who follow it, and marks its workload. How many events readers lost.
    pub(super) fn offer(
        &mut self,
        id: &InstanceId,
        labels: &Arc<Labels>,
        membership: &mut Membership,
        event: &Arc<Event>,
        inboxes: &[Arc<Inbox>],
    ) -> u64 {
        let is_known = membership.labels.as_ref().is_some_and(|known| Arc::ptr_eq(known, labels));
        if !is_known || membership.revision != self.labels_revision {
            let asked = self
                .by_labels
                .iter()
                .filter(|asked| self.all.get(asked).is_some_and(|channel| channel.selection.includes(id, labels)));
            let channels = asked.copied().collect();
            *membership = Membership { labels: Some(labels.clone()), revision: self.labels_revision, channels };
        }
        let named = self.by_instance.get(id).into_iter().flatten();
        let mut lost = 0;
        for channel_id in named.chain(&membership.channels) {
            if let Some(channel) = self.all.get_mut(channel_id) {
                lost += channel.offer(*channel_id, event, inboxes);
            }
        }
        if let Some(workload) = labels.get(WORKLOAD).and_then(|workload| self.by_workload.get(workload))
            && let Some(channel) = self.all.get_mut(workload)
        {
            channel.is_stale = true;
        }
        lost
    }

    /// The workloads someone follows of which something came since they were last added up.
    pub(super) fn take_stale(&mut self) -> Vec<String> {
        let all = &mut self.all;
        let stale = self
            .by_workload
            .iter()
            .filter(|(_, id)| all.get_mut(id).is_some_and(|channel| std::mem::take(&mut channel.is_stale)));
        stale.map(|(workload, _)| workload.clone()).collect()
    }

    pub(super) fn of_workload(&mut self, workload: &str) -> Option<(ChannelId, &mut Channel)> {
        let id = *self.by_workload.get(workload)?;
        Some((id, self.all.get_mut(&id)?))
    }

    pub(super) fn workloads(&self) -> usize {
        self.by_workload.len()
    }

    /// Ends the stream of one instance.
    pub(super) fn end_of(&mut self, instance: &InstanceId, last: &Arc<Event>, inboxes: &[Arc<Inbox>]) {
        if let Some(id) = self.by_selection.get(&Selection::One(instance.clone())).copied() {
            self.end(id, Some(last), inboxes);
        }
    }

    pub(super) fn end_all(&mut self, inboxes: &[Arc<Inbox>]) {
        let ids: Vec<_> = self.all.keys().copied().collect();
        ids.into_iter().for_each(|id| self.end(id, None, inboxes));
    }

    fn end(&mut self, id: ChannelId, last: Option<&Arc<Event>>, inboxes: &[Arc<Inbox>]) {
        let Some(channel) = self.remove(id) else { return };
        channel.watchers.into_iter().for_each(|watcher| watcher.end(last.cloned()));
        for (inbox, _) in inboxes.iter().zip(&channel.sockets).filter(|(_, sockets)| **sockets > 0) {
            inbox.put(Message::End { channel: id, last: last.cloned() });
        }
    }

    /// A socket of a writer is gone.
    pub(super) fn socket_left(&mut self, id: ChannelId, writer: usize, sequence: u64) {
        if let Some(sockets) = self.all.get_mut(&id).and_then(|channel| channel.sockets.get_mut(writer)) {
            *sockets = sockets.saturating_sub(1);
        }
        self.sweep(id, sequence);
    }

    /// Lets go of watchers that are gone, and of a channel that nobody follows: a workload's not yet, as who comes back
    /// wants what was published meanwhile.
    pub(super) fn sweep(&mut self, id: ChannelId, sequence: u64) {
        let Some(channel) = self.all.get_mut(&id) else { return };
        channel.watchers.retain(|watcher| !watcher.is_gone());
        if channel.is_followed() {
            return;
        }
        channel.left_at = sequence;
        if !matches!(*channel.selection, Selection::Workload(_)) {
            self.remove(id);
        }
    }

    /// Lets go of workloads that nobody follows, and nobody can come back to.
    pub(super) fn sweep_workloads(&mut self, log: &Log) {
        let over = self.by_workload.values().filter(|id| {
            let channel = self.all.get(id);
            channel.is_some_and(|channel| !channel.is_followed() && log.has_dropped(channel.left_at))
        });
        let over: Vec<_> = over.copied().collect();
        over.into_iter().for_each(|id| drop(self.remove(id)));
    }

    fn remove(&mut self, id: ChannelId) -> Option<Channel> {
        let channel = self.all.remove(&id)?;
        self.by_selection.remove(&channel.selection);
        let mut not_of = |instance: &InstanceId| {
            if let Some(channels) = self.by_instance.get_mut(instance) {
                channels.retain(|other| *other != id);
                if channels.is_empty() {
                    self.by_instance.remove(instance);
                }
            }
        };
        match &*channel.selection {
            Selection::One(instance) => not_of(instance),
            Selection::Several(several) => several.iter().for_each(not_of),
            Selection::Workload(workload) => drop(self.by_workload.remove(workload)),
            Selection::Labels(_) => {
                self.by_labels.retain(|other| *other != id);
                self.labels_revision += 1;
            }
        }
        Some(channel)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.by_instance.is_empty() && self.by_selection.is_empty()
    }
}

// === impl Channel ===

impl Channel {
    fn new(selection: Arc<Selection>, writers: usize) -> Self {
        Self { selection, watchers: Vec::new(), sockets: vec![0; writers], is_stale: false, left_at: 0 }
    }

    pub(super) fn add(&mut self, watcher: Watcher) {
        self.watchers.push(watcher);
    }

    /// A writer has one more socket.
    pub(super) fn add_socket(&mut self, writer: usize) {
        if let Some(sockets) = self.sockets.get_mut(writer) {
            *sockets += 1;
        }
    }

    /// Hands an event to all who follow this. How many of them lost it.
    pub(super) fn offer(&mut self, id: ChannelId, event: &Arc<Event>, inboxes: &[Arc<Inbox>]) -> u64 {
        let mut lost = 0;
        self.watchers.retain_mut(|watcher| match watcher.offer(event) {
            Ok(more) => {
                lost += more;
                true
            }
            Err(_) => false,
        });
        for (inbox, _) in inboxes.iter().zip(&self.sockets).filter(|(_, sockets)| **sockets > 0) {
            inbox.publish(id, event);
        }
        lost
    }

    fn is_followed(&self) -> bool {
        !self.watchers.is_empty() || self.sockets.iter().any(|sockets| *sockets > 0)
    }
}
