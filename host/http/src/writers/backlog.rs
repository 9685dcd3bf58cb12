//! Events that were published for the readers of one writer, and are still to be written to some of them. Each event is
//! kept once, however many readers are behind.

use dropsonde_engine::hub::{ChannelId, StreamEvent};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Bytes of events for each entry that the channels' lists may have: the lists take an eighth of the memory of the
/// events.
const BYTES_OF_PLACE: usize = 8 * PLACE;

/// Bytes of an entry in a list.
const PLACE: usize = size_of::<u64>();

/// Entries in lists that are kept, however few bytes are allowed.
const LEAST_PLACES: usize = 4096;

/// Events, the oldest first, and the list of each channel's events.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    events: VecDeque<BacklogEvent>,
    /// The number of the first event in `events`.
    first: u64,
    bytes: usize,
    channels: HashMap<ChannelId, BacklogChannel>,
    /// Entries in the lists of all channels.
    places: usize,
}

#[derive(Debug)]
struct BacklogEvent {
    event: Arc<StreamEvent>,
    /// The number of channels that list the event.
    listed: usize,
}

/// The events of all readers that follow the same things.
#[derive(Debug, Default)]
pub(super) struct BacklogChannel {
    /// The tokens of all readers.
    pub(super) readers: Vec<usize>,
    /// Readers that have all events: tokens and serial numbers. Some may have left, or have something else to write.
    pub(super) idle: Vec<(usize, u64)>,
    /// The number of readers that need the kept events: they do not have all events, and can still get them.
    behind: usize,
    /// The numbers of the channel's events.
    list: VecDeque<u64>,
    /// The number of events that came before those in the list.
    first: u64,
    /// The sequence number of the last event.
    last: u64,
    /// The largest number of events that are kept.
    most: usize,
    /// Whether an event came since the readers were notified.
    is_stirred: bool,
}

/// The next event of a reader.
#[derive(Debug)]
pub(super) enum NextEvent<'a> {
    Event(&'a Arc<StreamEvent>),
    /// The next event is no longer kept.
    Gone,
    /// The reader has all events.
    Nothing,
}

// === impl Backlog ===

impl Backlog {
    /// Adds a reader to a channel, and raises the channel's limit of kept events to `most` if that is more. Returns the
    /// reader's index in the channel, and the position of its next event.
    pub(super) fn join(&mut self, id: ChannelId, token: usize, since: u64, most: usize) -> (usize, u64) {
        let channel = self.channels.entry(id).or_default();
        channel.most = channel.most.max(most);
        channel.last = channel.last.max(since);
        channel.behind += 1;
        channel.readers.push(token);
        (channel.readers.len() - 1, channel.end())
    }

    /// Removes a reader from its channel. Returns the reader that has its index now.
    pub(super) fn leave(&mut self, id: ChannelId, place: usize, was_behind: bool) -> Option<usize> {
        if was_behind {
            self.caught_up(id);
        }
        let channel = self.channels.get_mut(&id)?;
        if place < channel.readers.len() {
            channel.readers.swap_remove(place);
        }
        let moved = channel.readers.get(place).copied();
        if channel.readers.is_empty() {
            self.forget(id);
            self.channels.remove(&id);
        }
        moved
    }

    /// Notes that one more reader of a channel needs the next events.
    pub(super) fn falls_behind(&mut self, id: ChannelId) {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.behind += 1;
        }
    }

    /// Notes that one reader fewer needs the kept events. If it was the last, drops them.
    pub(super) fn caught_up(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.behind = channel.behind.saturating_sub(1);
        if channel.behind == 0 && !channel.is_stirred {
            self.forget(id);
        }
    }

    /// Adds an event to a channel. Returns whether its readers have to be notified: they do if it is the first event
    /// since they were.
    pub(super) fn push(&mut self, id: ChannelId, event: Arc<StreamEvent>) -> bool {
        let Some(channel) = self.channels.get(&id) else { return false };
        if !channel.is_stirred {
            // The readers had a turn since the last event.
            self.shorten(id, channel.most);
        }
        let Some(channel) = self.channels.get_mut(&id) else { return false };
        channel.last = event.sequence;
        if self.events.back().is_none_or(|kept| kept.event.sequence != event.sequence) {
            self.bytes += event.size();
            self.events.push_back(BacklogEvent { event, listed: 0 });
        }
        if let Some(kept) = self.events.back_mut() {
            kept.listed += 1;
        }
        channel.list.push_back(self.first + self.events.len() as u64 - 1);
        self.places += 1;
        !std::mem::replace(&mut channel.is_stirred, true)
    }

    /// Notes that `count` events of a channel are missing, up to the sequence number `last`. Returns whether its
    /// readers have to be notified.
    pub(super) fn skip(&mut self, id: ChannelId, count: u64, last: u64) -> bool {
        self.forget(id);
        let Some(channel) = self.channels.get_mut(&id) else { return false };
        channel.first += count;
        channel.last = last;
        !std::mem::replace(&mut channel.is_stirred, true)
    }

    /// Returns the readers that wait for an event of a channel. They count as notified.
    pub(super) fn take_idle_readers(&mut self, id: ChannelId) -> Vec<(usize, u64)> {
        let Some(channel) = self.channels.get_mut(&id) else { return Vec::new() };
        channel.is_stirred = false;
        std::mem::take(&mut channel.idle)
    }

    /// Drops the events of a channel if none of its readers is behind.
    pub(super) fn drop_if_unneeded(&mut self, id: ChannelId) {
        if self.channels.get(&id).is_some_and(|channel| channel.behind == 0) {
            self.forget(id);
        }
    }

    /// Drops the oldest events, until they take at most `bytes` and the lists have no more entries than they may.
    pub(super) fn trim(&mut self, bytes: usize) {
        while self.bytes > bytes && !self.events.is_empty() {
            self.drop_first();
        }
        let most = (bytes / BYTES_OF_PLACE).max(LEAST_PLACES);
        if self.places > most {
            // The lists may have entries of dropped events.
            self.prune_all();
        }
        while self.places > most {
            // The longest list loses its older half.
            let longest = self.channels.iter().max_by_key(|(_, channel)| channel.list.len());
            let Some((id, length)) = longest.map(|(id, channel)| (*id, channel.list.len())) else { return };
            self.shorten(id, length / 2);
        }
    }

    /// Returns the next event of a reader at a position of a channel.
    pub(super) fn next(&mut self, id: ChannelId, at: u64) -> NextEvent<'_> {
        self.prune(id);
        let Some(channel) = self.channels.get(&id) else { return NextEvent::Nothing };
        if at >= channel.end() {
            return NextEvent::Nothing;
        }
        let number = at.checked_sub(channel.first).and_then(|nth| channel.list.get(usize::try_from(nth).ok()?));
        let event = number.and_then(|number| self.events.get(usize::try_from(number.checked_sub(self.first)?).ok()?));
        event.map_or(NextEvent::Gone, |kept| NextEvent::Event(&kept.event))
    }

    /// Returns the position of a channel's first kept event, the position of the next event to come, and the sequence
    /// number of the last event.
    pub(super) fn bounds(&mut self, id: ChannelId) -> (u64, u64, u64) {
        self.prune(id);
        self.channels.get(&id).map_or((0, 0, 0), |channel| (channel.first, channel.end(), channel.last))
    }

    pub(super) fn channel(&mut self, id: ChannelId) -> Option<&mut BacklogChannel> {
        self.channels.get_mut(&id)
    }

    fn forget(&mut self, id: ChannelId) {
        self.shorten(id, 0);
    }

    /// Drops a channel's oldest events, until `left` are left.
    fn shorten(&mut self, id: ChannelId, left: usize) {
        let Self { events, first, channels, places, .. } = self;
        let Some(channel) = channels.get_mut(&id) else { return };
        let over = channel.list.len().saturating_sub(left);
        for number in channel.list.drain(..over) {
            let nth = number.checked_sub(*first).and_then(|nth| usize::try_from(nth).ok());
            if let Some(kept) = nth.and_then(|nth| events.get_mut(nth)) {
                kept.listed = kept.listed.saturating_sub(1);
            }
        }
        if channel.list.is_empty() {
            channel.list.shrink_to(LEAST_LIST);
        }
        channel.first += over as u64;
        *places -= over;
        while self.events.front().is_some_and(|kept| kept.listed == 0) {
            self.drop_first();
        }
    }

    /// Removes the entries of dropped events from a channel's list.
    fn prune(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        while channel.list.front().is_some_and(|number| *number < self.first) {
            channel.list.pop_front();
            channel.first += 1;
            self.places -= 1;
        }
    }

    fn prune_all(&mut self) {
        let ids: Vec<_> = self.channels.keys().copied().collect();
        ids.into_iter().for_each(|id| self.prune(id));
    }

    fn drop_first(&mut self) {
        if let Some(kept) = self.events.pop_front() {
            self.bytes = self.bytes.saturating_sub(kept.event.size());
            self.first += 1;
        }
        if self.events.is_empty() {
            self.bytes = 0;
            self.events.shrink_to(LEAST_LIST);
        }
    }
}

/// The capacity that an empty list keeps.
const LEAST_LIST: usize = 64;

// === impl BacklogChannel ===

impl BacklogChannel {
    fn end(&self) -> u64 {
        self.first + self.list.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_engine::hub::{EventContent, EventSubject};

    fn event(sequence: u64) -> Arc<StreamEvent> {
        Arc::new(StreamEvent::new(
            &"b007".into(),
            sequence,
            EventSubject::Workload("w".to_owned()),
            EventContent::Untracked,
        ))
    }

    /// Returns a backlog with a reader in each of two channels.
    fn backlog() -> (Backlog, [ChannelId; 2]) {
        let mut backlog = Backlog::default();
        let channels = [ChannelId::of(1), ChannelId::of(2)];
        for (token, channel) in channels.into_iter().enumerate() {
            assert_eq!(backlog.join(channel, token, 0, 3), (0, 0));
        }
        (backlog, channels)
    }

    fn at(backlog: &mut Backlog, channel: ChannelId, at: u64) -> Option<u64> {
        match backlog.next(channel, at) {
            NextEvent::Event(event) => Some(event.sequence),
            NextEvent::Gone => None,
            NextEvent::Nothing => Some(0),
        }
    }

    #[test]
    fn an_event_of_two_channels_is_kept_once_and_dropped_when_no_reader_is_behind() {
        let (mut backlog, [one, other]) = backlog();
        for sequence in [1, 2] {
            let event = event(sequence);
            backlog.push(one, event.clone());
            backlog.push(other, event);
        }
        assert_eq!((backlog.events.len(), backlog.places), (2, 4));
        assert_eq!([0, 1, 2].map(|nth| at(&mut backlog, one, nth)), [Some(1), Some(2), Some(0)]);
        for channel in [one, other] {
            backlog.take_idle_readers(channel);
            backlog.caught_up(channel);
        }
        assert_eq!((backlog.events.len(), backlog.places, backlog.bytes), (0, 0, 0));
        assert_eq!(backlog.bounds(one), (2, 2, 2));
        assert_eq!(backlog.leave(one, 0, false), None);
        assert!(!backlog.push(one, event(3)), "nobody follows it");
    }

    #[test]
    fn a_channel_keeps_its_newest_events_up_to_its_limits_of_count_and_bytes() {
        let (mut backlog, [one, other]) = backlog();
        for sequence in 1..=9 {
            backlog.push(one, event(sequence));
            backlog.take_idle_readers(one);
        }
        backlog.push(one, event(10));
        assert_eq!(backlog.bounds(one), (6, 10, 10), "three, and what came since its readers were told");
        assert_eq!((at(&mut backlog, one, 5), at(&mut backlog, one, 6)), (None, Some(7)));
        backlog.push(other, event(11));
        backlog.trim(event(11).size());
        assert_eq!((backlog.events.len(), backlog.bounds(one), backlog.bounds(other)), (1, (10, 10, 10), (0, 1, 11)));
        assert!(backlog.skip(other, 5, 20) || backlog.events.is_empty());
        assert_eq!((backlog.bounds(other), at(&mut backlog, other, 0)), ((6, 6, 20), None));
    }
}
