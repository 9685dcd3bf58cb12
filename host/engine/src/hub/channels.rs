//! Channels: one for each selection that somebody follows, shared by all readers of that selection.

use super::event::StreamEvent;
use super::event_log::EventLog;
use super::inbox::{Inbox, WriterMessage};
use super::selection::{Selection, WORKLOAD};
use super::watch::{OfferOutcome, WatchSender};
use dropsonde_model::Labels;
use dropsonde_store::InstanceId;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// The id of a channel. No id is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(u64);

/// All channels, with indexes by their selections.
#[derive(Debug, Default)]
pub(super) struct StreamChannels {
    next: u64,
    all: HashMap<ChannelId, StreamChannel>,
    by_selection: HashMap<Arc<Selection>, ChannelId>,
    by_instance: HashMap<InstanceId, HashSet<ChannelId>>,
    by_workload: HashMap<String, ChannelId>,
    /// Channels of labels, by key and value of the label that the fewest others are listed by. Each must still be asked
    /// whether it includes an instance, so that many selections with one label in common must not be in one list.
    by_label: HashMap<String, HashMap<String, HashSet<ChannelId>>>,
    /// Channels of all instances.
    of_all: HashSet<ChannelId>,
}

/// The readers of one selection.
#[derive(Debug)]
pub(super) struct StreamChannel {
    selection: Arc<Selection>,
    /// Of labels: the label that it is listed by.
    listed_by: Option<(String, String)>,
    /// Readers inside the process.
    watchers: Vec<WatchSender>,
    /// The number of readers that each writer has.
    readers: Vec<usize>,
    /// Of a workload: one of its instances published something since the workload was last added up.
    is_stale: bool,
    /// Of a workload: something was published of it since somebody followed it. A reader that comes back wants what
    /// follows.
    is_published: bool,
    /// The sequence of the last event when the last reader left.
    left_at: u64,
}

impl ChannelId {
    /// Returns the id with a number.
    pub fn of(number: u64) -> Self {
        Self(number)
    }
}

// === impl StreamChannels ===

impl StreamChannels {
    /// Returns the channel of a selection, and makes it if there is none.
    pub(super) fn of(&mut self, selection: Arc<Selection>, writers: usize) -> (ChannelId, &mut StreamChannel) {
        if let Some(id) = self.by_selection.get(&selection) {
            let id = *id;
            return (id, self.all.entry(id).or_insert_with(|| StreamChannel::new(selection, writers, None)));
        }
        self.next += 1;
        let id = ChannelId(self.next);
        let mut listed_by = None;
        match &*selection {
            Selection::One(instance) => _ = self.by_instance.entry(instance.clone()).or_default().insert(id),
            Selection::Several(several) => {
                for instance in several {
                    self.by_instance.entry(instance.clone()).or_default().insert(id);
                }
            }
            Selection::Workload(workload) => drop(self.by_workload.insert(workload.clone(), id)),
            Selection::Labels(labels) => {
                listed_by = labels.iter().min_by_key(|label| self.listed(label)).cloned();
                self.labelled(listed_by.as_ref()).insert(id);
            }
        }
        self.by_selection.insert(selection.clone(), id);
        (id, self.all.entry(id).or_insert_with(|| StreamChannel::new(selection, writers, listed_by)))
    }

    /// Returns whether somebody follows an instance by its id.
    pub(super) fn has(&self, instance: &InstanceId) -> bool {
        self.by_instance.contains_key(instance)
    }

    /// Hands an instance's event to all its readers, and marks its workload as stale. Returns how many readers inside
    /// the process lost it.
    pub(super) fn offer(
        &mut self,
        id: &InstanceId,
        labels: &Labels,
        event: &Arc<StreamEvent>,
        inboxes: &[Arc<Inbox>],
    ) -> u64 {
        let Self { all, by_instance, by_label, of_all, by_workload, .. } = self;
        let mut lost = 0;
        let mut offer = |channel_id: &ChannelId| {
            if let Some(channel) = all.get_mut(channel_id).filter(|channel| channel.selection.includes(id, labels)) {
                lost += channel.offer(*channel_id, event, inboxes);
            }
        };
        by_instance.get(id).into_iter().flatten().for_each(&mut offer);
        of_all.iter().for_each(&mut offer);
        if !by_label.is_empty() {
            let asked = labels.iter().filter_map(|(key, value)| by_label.get(key)?.get(value));
            asked.flatten().for_each(&mut offer);
        }
        if let Some(workload) = labels.get(WORKLOAD).and_then(|workload| by_workload.get(workload))
            && let Some(channel) = all.get_mut(workload)
        {
            channel.is_stale = true;
        }
        lost
    }

    /// Returns the followed workloads whose instances published something since they were last added up.
    pub(super) fn take_stale(&mut self) -> BTreeSet<String> {
        let all = &mut self.all;
        let stale = self
            .by_workload
            .iter()
            .filter(|(_, id)| all.get_mut(id).is_some_and(|channel| std::mem::take(&mut channel.is_stale)));
        stale.map(|(workload, _)| workload.clone()).collect()
    }

    /// Hands a workload's event to all its readers. Returns how many readers inside the process lost it. None: nobody
    /// follows the workload or can come back to it.
    pub(super) fn offer_workload(
        &mut self,
        workload: &str,
        event: &Arc<StreamEvent>,
        inboxes: &[Arc<Inbox>],
    ) -> Option<u64> {
        let id = *self.by_workload.get(workload)?;
        let channel = self.all.get_mut(&id)?;
        channel.is_published = true;
        Some(channel.offer(id, event, inboxes))
    }

    pub(super) fn workloads(&self) -> usize {
        self.by_workload.len()
    }

    /// Ends the streams that follow one instance alone.
    pub(super) fn end_of(&mut self, instance: &InstanceId, last: &Arc<StreamEvent>, inboxes: &[Arc<Inbox>]) {
        if let Some(id) = self.by_selection.get(&Selection::One(instance.clone())).copied() {
            self.end(id, Some(last), inboxes);
        }
    }

    /// Ends all streams.
    pub(super) fn end_all(&mut self, inboxes: &[Arc<Inbox>]) {
        let ids: Vec<_> = self.all.keys().copied().collect();
        ids.into_iter().for_each(|id| self.end(id, None, inboxes));
    }

    /// Ends the streams of writers. Readers inside the process stay.
    pub(super) fn end_written(&self, inboxes: &[Arc<Inbox>]) {
        for (id, channel) in &self.all {
            channel.writers(inboxes).for_each(|inbox| inbox.put(WriterMessage::End { channel: *id, last: None }));
        }
    }

    fn end(&mut self, id: ChannelId, last: Option<&Arc<StreamEvent>>, inboxes: &[Arc<Inbox>]) {
        let Some(channel) = self.remove(id) else { return };
        channel.writers(inboxes).for_each(|inbox| inbox.put(WriterMessage::End { channel: id, last: last.cloned() }));
        channel.watchers.into_iter().for_each(|watcher| watcher.end(last.cloned()));
    }

    /// Notes that a reader of a writer is gone.
    pub(super) fn reader_left(&mut self, id: ChannelId, writer: usize, sequence: u64) {
        if let Some(readers) = self.all.get_mut(&id).and_then(|channel| channel.readers.get_mut(writer)) {
            *readers = readers.saturating_sub(1);
        }
        self.sweep(id, sequence);
    }

    /// Drops watchers that are gone, and a channel that nobody follows. A workload's channel stays for a while, because
    /// a reader that comes back wants what was published meanwhile.
    pub(super) fn sweep(&mut self, id: ChannelId, sequence: u64) {
        let Some(channel) = self.all.get_mut(&id) else { return };
        channel.watchers.retain(|watcher| !watcher.is_gone());
        if channel.is_followed() {
            return;
        }
        channel.left_at = sequence;
        if !channel.is_published {
            self.remove(id);
        }
    }

    /// Drops the channels of workloads that nobody follows and nobody can come back to.
    pub(super) fn sweep_workloads(&mut self, log: &EventLog) {
        let over = self.by_workload.values().filter(|id| {
            let channel = self.all.get(id);
            channel.is_some_and(|channel| !channel.is_followed() && log.has_dropped(channel.left_at))
        });
        let over: Vec<_> = over.copied().collect();
        over.into_iter().for_each(|id| drop(self.remove(id)));
    }

    fn remove(&mut self, id: ChannelId) -> Option<StreamChannel> {
        let channel = self.all.remove(&id)?;
        self.by_selection.remove(&channel.selection);
        let mut not_of = |instance: &InstanceId| {
            if let Some(channels) = self.by_instance.get_mut(instance) {
                channels.remove(&id);
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
                let label = channel.listed_by.as_ref();
                let others = self.labelled(label);
                others.remove(&id);
                let is_last = others.is_empty();
                if let Some((key, value)) = label.filter(|_| is_last)
                    && let Some(values) = self.by_label.get_mut(key)
                {
                    values.remove(value);
                    if values.is_empty() {
                        self.by_label.remove(key);
                    }
                }
            }
        }
        Some(channel)
    }

    /// Returns how many channels are listed by a label.
    fn listed(&self, (key, value): &(String, String)) -> usize {
        self.by_label.get(key).and_then(|values| values.get(value)).map_or(0, HashSet::len)
    }

    /// Returns the channels that are listed by a label, or by none.
    fn labelled(&mut self, label: Option<&(String, String)>) -> &mut HashSet<ChannelId> {
        match label {
            Some((key, value)) => self.by_label.entry(key.clone()).or_default().entry(value.clone()).or_default(),
            None => &mut self.of_all,
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let named = self.by_instance.is_empty() && self.by_workload.is_empty();
        let labelled = self.by_label.is_empty() && self.of_all.is_empty();
        self.all.is_empty() && self.by_selection.is_empty() && named && labelled
    }
}

// === impl StreamChannel ===

impl StreamChannel {
    fn new(selection: Arc<Selection>, writers: usize, listed_by: Option<(String, String)>) -> Self {
        Self {
            selection,
            listed_by,
            watchers: Vec::new(),
            readers: vec![0; writers],
            is_stale: false,
            is_published: false,
            left_at: 0,
        }
    }

    pub(super) fn add(&mut self, watcher: WatchSender) {
        self.watchers.push(watcher);
    }

    /// Counts one more reader of a writer.
    pub(super) fn add_reader(&mut self, writer: usize) {
        if let Some(readers) = self.readers.get_mut(writer) {
            *readers += 1;
        }
    }

    /// Hands an event to all readers of the channel. Returns how many readers inside the process lost it.
    pub(super) fn offer(&mut self, id: ChannelId, event: &Arc<StreamEvent>, inboxes: &[Arc<Inbox>]) -> u64 {
        let mut lost = 0;
        self.watchers.retain(|watcher| match watcher.offer(event) {
            OfferOutcome::Taken => true,
            OfferOutcome::Lost => {
                lost += 1;
                true
            }
            OfferOutcome::Gone => false,
        });
        self.writers(inboxes).for_each(|inbox| inbox.publish(id, event));
        lost
    }

    /// Returns the inboxes of writers that have readers of this channel.
    fn writers<'a>(&'a self, inboxes: &'a [Arc<Inbox>]) -> impl Iterator<Item = &'a Arc<Inbox>> {
        inboxes.iter().zip(&self.readers).filter(|(_, readers)| **readers > 0).map(|(inbox, _)| inbox)
    }

    fn is_followed(&self) -> bool {
        !self.watchers.is_empty() || self.readers.iter().any(|readers| *readers > 0)
    }
}
