//! What was published for the readers of one writer, and is still to be written to some of them: each event once, however
//! many readers are behind.

use dropsonde_engine::hub::{ChannelId, Event};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Bytes of events for each place that channels may have in their lists: those take an eighth of what the events do.
const BYTES_OF_PLACE: usize = 8 * PLACE;

/// Bytes of a place.
const PLACE: usize = size_of::<u64>();

/// Places in lists that are kept, however few bytes may be.
const LEAST_PLACES: usize = 4096;

/// Events, the oldest first, and where each channel's are among them.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    events: VecDeque<Kept>,
    /// The number of the first event.
    first: u64,
    bytes: usize,
    channels: HashMap<ChannelId, Channel>,
    /// Places in all channels' lists.
    places: usize,
}

#[derive(Debug)]
struct Kept {
    event: Arc<Event>,
    /// Channels that list it.
    listed: usize,
}

/// What readers of the same things get.
#[derive(Debug, Default)]
pub(super) struct Channel {
    /// All of its readers.
    pub(super) readers: Vec<usize>,
    /// Those who have had all there is, with their serial numbers. Some may have left, or have something else to write.
    pub(super) idle: Vec<(usize, u64)>,
    /// Readers that need what is kept: those who have not had all, and still can.
    behind: usize,
    /// Numbers of its events.
    list: VecDeque<u64>,
    /// How many came before those in the list.
    first: u64,
    /// The sequence of the last event.
    last: u64,
    /// Events that are kept at most.
    most: usize,
    /// Whether something came since its readers were told.
    is_stirred: bool,
}

/// What a reader finds where it goes on.
#[derive(Debug)]
pub(super) enum Next<'a> {
    Event(&'a Arc<Event>),
    /// What comes next is not kept any more.
    Gone,
    /// It has had all.
    Nothing,
}

// === impl Backlog ===

impl Backlog {
    /// Adds a reader to a channel, which keeps `most` events at least. Returns its place among the readers, and where it goes on.
    pub(super) fn join(&mut self, id: ChannelId, token: usize, since: u64, most: usize) -> (usize, u64) {
        let channel = self.channels.entry(id).or_default();
        channel.most = channel.most.max(most);
        channel.last = channel.last.max(since);
        channel.behind += 1;
        channel.readers.push(token);
        (channel.readers.len() - 1, channel.end())
    }

    /// Removes a reader from its channel. Returns who has its place among the readers now.
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

    /// One more reader of a channel needs what comes.
    pub(super) fn falls_behind(&mut self, id: ChannelId) {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.behind += 1;
        }
    }

    /// One reader fewer needs what is kept. The last of them lets go of it.
    pub(super) fn caught_up(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.behind = channel.behind.saturating_sub(1);
        if channel.behind == 0 && !channel.is_stirred {
            self.forget(id);
        }
    }

    /// Adds an event of a channel. Whether its readers have to be told: it is the first since they were.
    pub(super) fn push(&mut self, id: ChannelId, event: Arc<Event>) -> bool {
        let Some(channel) = self.channels.get(&id) else { return false };
        if !channel.is_stirred {
            // Readers had their turn since.
            self.shorten(id, channel.most);
        }
        let Some(channel) = self.channels.get_mut(&id) else { return false };
        channel.last = event.sequence;
        if self.events.back().is_none_or(|kept| kept.event.sequence != event.sequence) {
            self.bytes += event.size();
            self.events.push_back(Kept { event, listed: 0 });
        }
        if let Some(kept) = self.events.back_mut() {
            kept.listed += 1;
        }
        channel.list.push_back(self.first + self.events.len() as u64 - 1);
        self.places += 1;
        !std::mem::replace(&mut channel.is_stirred, true)
    }

    /// Of a channel's events so many are not there, up to one with a sequence. Whether its readers have to be told.
    pub(super) fn skip(&mut self, id: ChannelId, count: u64, last: u64) -> bool {
        self.forget(id);
        let Some(channel) = self.channels.get_mut(&id) else { return false };
        channel.first += count;
        channel.last = last;
        !std::mem::replace(&mut channel.is_stirred, true)
    }

    /// Returns those who wait for something to come of a channel.
    pub(super) fn told(&mut self, id: ChannelId) -> Vec<(usize, u64)> {
        let Some(channel) = self.channels.get_mut(&id) else { return Vec::new() };
        channel.is_stirred = false;
        std::mem::take(&mut channel.idle)
    }

    /// Lets go of what nobody needs who had all that came since: all of it, if nobody does.
    pub(super) fn settle(&mut self, id: ChannelId) {
        if self.channels.get(&id).is_some_and(|channel| channel.behind == 0) {
            self.forget(id);
        }
    }

    /// Lets go of the oldest events, until there are no more than channels may have, and so many bytes.
    pub(super) fn trim(&mut self, bytes: usize) {
        while self.bytes > bytes && !self.events.is_empty() {
            self.drop_first();
        }
        let most = (bytes / BYTES_OF_PLACE).max(LEAST_PLACES);
        if self.places > most {
            // Their lists have places of events that are gone.
            self.live_all();
        }
        while self.places > most {
            // The one that follows most has least for it, for as long as it is so.
            let longest = self.channels.iter().max_by_key(|(_, channel)| channel.list.len());
            let Some((id, length)) = longest.map(|(id, channel)| (*id, channel.list.len())) else { return };
            self.shorten(id, length / 2);
        }
    }

    /// What a reader of a channel finds.
    pub(super) fn next(&mut self, id: ChannelId, at: u64) -> Next<'_> {
        self.live(id);
        let Some(channel) = self.channels.get(&id) else { return Next::Nothing };
        if at >= channel.end() {
            return Next::Nothing;
        }
        let number = at.checked_sub(channel.first).and_then(|nth| channel.list.get(usize::try_from(nth).ok()?));
        let event = number.and_then(|number| self.events.get(usize::try_from(number.checked_sub(self.first)?).ok()?));
        event.map_or(Next::Gone, |kept| Next::Event(&kept.event))
    }

    /// The number of a channel's first event that is still there, that of the next to come, and the sequence of the last.
    pub(super) fn bounds(&mut self, id: ChannelId) -> (u64, u64, u64) {
        self.live(id);
        self.channels.get(&id).map_or((0, 0, 0), |channel| (channel.first, channel.end(), channel.last))
    }

    pub(super) fn channel(&mut self, id: ChannelId) -> Option<&mut Channel> {
        self.channels.get_mut(&id)
    }

    fn forget(&mut self, id: ChannelId) {
        self.shorten(id, 0);
    }

    /// Lets go of a channel's oldest, until so many are left.
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

    /// Takes places of events that are gone out of a channel's list.
    fn live(&mut self, id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        while channel.list.front().is_some_and(|number| *number < self.first) {
            channel.list.pop_front();
            channel.first += 1;
            self.places -= 1;
        }
    }

    fn live_all(&mut self) {
        let ids: Vec<_> = self.channels.keys().copied().collect();
        ids.into_iter().for_each(|id| self.live(id));
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

/// Places whose room is kept when none is taken.
const LEAST_LIST: usize = 64;

// === impl Channel ===

impl Channel {
    fn end(&self) -> u64 {
        self.first + self.list.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_engine::hub::{Of, What};

    fn event(sequence: u64) -> Arc<Event> {
        Arc::new(Event::new(&"b007".into(), sequence, Of::Workload("w".to_owned()), What::Untracked))
    }

    /// With a reader in each of two channels.
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
            Next::Event(event) => Some(event.sequence),
            Next::Gone => None,
            Next::Nothing => Some(0),
        }
    }

    #[test]
    fn an_event_of_several_channels_is_kept_once_and_goes_when_nobody_is_behind() {
        let (mut backlog, [one, other]) = backlog();
        for sequence in [1, 2] {
            let event = event(sequence);
            backlog.push(one, event.clone());
            backlog.push(other, event);
        }
        assert_eq!((backlog.events.len(), backlog.places), (2, 4));
        assert_eq!([0, 1, 2].map(|nth| at(&mut backlog, one, nth)), [Some(1), Some(2), Some(0)]);
        for channel in [one, other] {
            backlog.told(channel);
            backlog.caught_up(channel);
        }
        assert_eq!((backlog.events.len(), backlog.places, backlog.bytes), (0, 0, 0));
        assert_eq!(backlog.bounds(one), (2, 2, 2));
        assert_eq!(backlog.leave(one, 0, false), None);
        assert!(!backlog.push(one, event(3)), "nobody follows it");
    }

    #[test]
    fn a_channel_keeps_its_newest_events_within_its_number_and_all_within_their_bytes() {
        let (mut backlog, [one, other]) = backlog();
        for sequence in 1..=9 {
            backlog.push(one, event(sequence));
            backlog.told(one);
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
