//! The beginning of a reader's stream: the latest event of each instance, or exactly the events that the reader missed.
//! They come in the order they were published, so that a reader that breaks off in the middle can come back to the
//! rest.

use super::event::{EncodedEvent, EventContent, EventSubject, StreamEvent};
use super::{Hub, HubState, Member, PublishedInstance, Selection};
use dropsonde_store::{InstanceId, Sample};
use std::collections::HashMap;
use std::ops::{Bound, RangeBounds as _};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, MutexGuard};

/// The most events that a reader of many instances may be behind, whatever their number.
const MOST_BEHIND: usize = 1 << 16;

/// The least number of instances that a reader of labels has a buffer for, because more instances may get the labels.
const MAY_JOIN: usize = 1024;

/// Instances that are looked up before others may publish.
const AT_ONCE: usize = 256;

/// The parts of a beginning that are made at once when a reader comes.
const AT_START: usize = 16;

/// Events that are looked at before others may publish.
const LOOKED_AT: usize = 4096;

/// The request of a new reader, with the instances and samples that are there for it.
pub struct FollowRequest {
    pub selection: Arc<Selection>,
    /// The id of the last event that the reader saw.
    pub seen: Option<String>,
    /// The instances that the selection includes now.
    pub members: Vec<Member>,
    /// The newest samples of instances of which nothing was published yet, each with the generation of its instance.
    pub unheard: HashMap<InstanceId, (u64, Sample)>,
    /// The combined sample of the instances, if the selection is a workload.
    pub together: Option<Sample>,
}

/// The beginning of a reader, and its buffer.
pub(super) struct ReaderStart {
    /// The events that come first.
    pub(super) beginning: InitialEvents,
    /// The stream ends behind its beginning.
    pub(super) ends: bool,
    /// The most events that the reader may be behind.
    pub(super) buffer: usize,
}

/// The events that come before everything that is published from now on. Only the first of them are made at once, the
/// others as the reader takes them: there may be very many, and a reader that takes nothing must not keep them in
/// memory. If something is published of an instance meanwhile, the reader gets only that.
#[derive(Debug, Default)]
pub struct InitialEvents {
    made: Vec<InitialEvent>,
    rest: Option<Box<RemainingEvents>>,
}

/// A part of a beginning.
#[derive(Debug)]
pub enum InitialEvent {
    /// Some of the missed events are no longer kept.
    Reset(EncodedEvent),
    Event(Arc<StreamEvent>),
}

/// The part of a beginning that was not made yet.
#[derive(Debug)]
struct RemainingEvents {
    selection: Arc<Selection>,
    /// True: exactly the events that the reader missed. False: the latest event of each instance.
    is_missed: bool,
    /// The sequence of the last event that the reader was given or does not need.
    behind: u64,
    /// The sequence of the last event when the reader came.
    until: u64,
    /// The sequences, ascending, of further events to give: their instances are included now, but had other labels
    /// then.
    also: Vec<u64>,
}

/// The point at which a reader goes on.
enum ResumePoint {
    /// Behind the event of this sequence, which the reader saw. The events it missed, if any, are still kept.
    Behind(u64),
    /// The reader is new.
    New,
    /// Some of the events it missed are no longer kept. It is to query history from this time on, in milliseconds.
    Reset(i64),
}

impl Hub {
    /// Returns the members of which nothing was published yet.
    pub(crate) fn unheard<'a>(&self, members: &'a [Member]) -> Vec<&'a Member> {
        let mut unheard = Vec::new();
        for members in members.chunks(AT_ONCE) {
            let state = self.lock();
            unheard.extend(members.iter().filter(|member| !state.topics.contains_key(&member.id)));
        }
        unheard
    }

    /// Returns the beginning of a reader. Nothing is published until the guard is dropped.
    pub(super) fn begin(&self, follow: &FollowRequest) -> (MutexGuard<'_, HubState>, ReaderStart) {
        loop {
            let state = self.lock();
            let (came, is_behind) = (state.sequence, matches!(self.resume(&state, follow), ResumePoint::Behind(_)));
            drop(state);
            let also = if is_behind { Vec::new() } else { self.hear(follow) };
            let mut state = self.lock();
            let reset = match self.resume(&state, follow) {
                ResumePoint::Behind(sequence) => {
                    let begun = self.missed(&state, follow, sequence);
                    return (state, begun);
                }
                // The missed events were kept at first, and no longer are: start again.
                _ if is_behind => continue,
                ResumePoint::New => None,
                ResumePoint::Reset(from_ms) => Some(InitialEvent::Reset(EncodedEvent::reset(from_ms))),
            };
            let mut beginning = InitialEvents { made: reset.into_iter().collect(), rest: None };
            if let Selection::Workload(workload) = &*follow.selection {
                beginning.made.extend(self.latest_of_workload(&mut state, follow, workload, came));
            } else {
                beginning.rest = Some(RemainingEvents::of(follow, false, 0, state.sequence, also));
            }
            beginning.make(&state);
            let buffer = self.buffer(follow);
            return (state, ReaderStart { beginning, ends: false, buffer });
        }
    }

    /// Makes sure that each instance with a sample has a latest event, some instances at a time, so that publishing
    /// goes on meanwhile. Returns the sequences of those events that were published under labels that the selection
    /// does not include.
    fn hear(&self, follow: &FollowRequest) -> Vec<u64> {
        let mut also = Vec::new();
        if matches!(*follow.selection, Selection::Workload(_)) {
            return also;
        }
        for members in follow.members.chunks(AT_ONCE) {
            let mut state = self.lock();
            for member in members {
                let latest = self.latest(&mut state, member, follow);
                let other = latest.filter(|event| !follow.selection.is_told(&event.of));
                also.extend(other.map(|event| event.sequence));
            }
        }
        also.sort_unstable();
        also
    }

    /// Returns the beginning of a reader that goes on behind an event it saw.
    fn missed(&self, state: &HubState, follow: &FollowRequest, behind: u64) -> ReaderStart {
        let buffer = self.buffer(follow);
        // If the log does not reach back so far, the instances were silent since, and nothing was missed.
        let Some(missed) = state.log.after(behind) else {
            return ReaderStart { beginning: InitialEvents::default(), ends: false, buffer };
        };
        let is_end = |event: &&Arc<StreamEvent>| {
            matches!(event.what, EventContent::Untracked) && follow.selection.is_told(&event.of)
        };
        let is_alone = matches!(*follow.selection, Selection::One(_));
        let end = is_alone.then(|| missed.into_iter().find(is_end).map(|event| event.sequence)).flatten();
        let rest = RemainingEvents::of(follow, true, behind, end.unwrap_or(state.sequence), Vec::new());
        let mut beginning = InitialEvents { made: Vec::new(), rest: Some(rest) };
        beginning.make(state);
        ReaderStart { beginning, ends: end.is_some(), buffer }
    }

    /// Returns what was published of a workload since the reader came, or else the combined sample of its instances.
    fn latest_of_workload(
        &self,
        state: &mut HubState,
        follow: &FollowRequest,
        workload: &str,
        came: u64,
    ) -> Vec<InitialEvent> {
        let is_told = |event: &&Arc<StreamEvent>| follow.selection.is_told(&event.of);
        let since = state.log.after(came).into_iter().flatten().filter(is_told);
        let since: Vec<_> = since.cloned().map(InitialEvent::Event).collect();
        let Some(sample) = follow.together.as_ref().filter(|_| since.is_empty()) else { return since };
        state.sequence += 1;
        let (of, what) = (EventSubject::Workload(workload.to_owned()), EventContent::Usage(sample.clone()));
        vec![InitialEvent::Event(Arc::new(StreamEvent::new(&self.0.boot, state.sequence, of, what)))]
    }

    /// Returns the beginning of a reader that lost events: the latest event of each instance it follows, if that was
    /// published behind one sequence and up to another. Returns also the number of these events. Fewer come if newer
    /// ones are published meanwhile.
    pub fn newest(&self, selection: &Arc<Selection>, behind: u64, until: u64) -> (InitialEvents, u64) {
        let rest = |behind| {
            Box::new(RemainingEvents {
                selection: selection.clone(),
                is_missed: false,
                behind,
                until,
                also: Vec::new(),
            })
        };
        let (mut counted, mut some, mut made, mut count) = (rest(behind), Vec::new(), Vec::new(), 0);
        loop {
            let is_more = self.lock().more(&mut counted, &mut some, LOOKED_AT);
            count += some.len() as u64;
            // The first events are kept, so that what the reader is told of next is never out of date by then.
            let first = AT_START.saturating_sub(made.len()).min(some.len());
            made.extend(some.drain(..first));
            some.clear();
            if !is_more {
                break;
            }
        }
        let last = made.last().and_then(|first| match first {
            InitialEvent::Event(event) => Some(event.sequence),
            InitialEvent::Reset(_) => None,
        });
        (InitialEvents { made, rest: Some(rest(last.unwrap_or(behind))) }, count)
    }

    /// Returns the most events that a reader may be behind.
    fn buffer(&self, follow: &FollowRequest) -> usize {
        let count = match &*follow.selection {
            Selection::One(_) | Selection::Workload(_) => 1,
            Selection::Several(several) => several.len(),
            Selection::Labels(_) => follow.members.len().max(MAY_JOIN),
        };
        self.kept(count).min(MOST_BEHIND.max(self.0.buffer))
    }

    /// Makes more of a beginning, about `most` parts. None: the beginning is over.
    pub fn more(&self, beginning: &mut InitialEvents, most: usize) -> Option<Vec<InitialEvent>> {
        let mut more = std::mem::take(&mut beginning.made);
        while more.len() < most
            && let Some(rest) = &mut beginning.rest
        {
            if !self.lock().more(rest, &mut more, most) {
                beginning.rest = None;
            }
        }
        (!more.is_empty()).then_some(more)
    }

    /// Returns the point at which a reader goes on.
    fn resume(&self, state: &HubState, follow: &FollowRequest) -> ResumePoint {
        let Some(seen) = &follow.seen else { return ResumePoint::New };
        let start_ms = state.log.seen_by_ms(0);
        let parts = seen.split_once('-').and_then(|(boot, sequence)| Some((boot, sequence.parse::<u64>().ok()?)));
        match parts {
            Some((boot, sequence)) if *boot == *self.0.boot && sequence <= state.sequence => {
                if state.log.after(sequence).is_some() || nothing_since(state, follow, sequence) {
                    ResumePoint::Behind(sequence)
                } else {
                    ResumePoint::Reset(state.log.seen_by_ms(sequence))
                }
            }
            Some((boot, sequence)) if *boot != *self.0.boot => {
                let before = state.before.as_ref().filter(|before| before.boot == boot);
                // The event is from an earlier start: the reader may have missed everything since that start.
                let began_ms = || i64::from_str_radix(boot, 16).ok().filter(|boot_ms| (0..start_ms).contains(boot_ms));
                let from_ms = before.map(|before| before.moments.before(sequence)).or_else(began_ms);
                // The wall clock may have been set back between the two starts.
                ResumePoint::Reset(from_ms.map_or(start_ms, |from_ms| from_ms.min(start_ms)))
            }
            _ => ResumePoint::Reset(start_ms),
        }
    }

    /// Returns the latest event of an instance, and makes it of a sample from before this start if there is none.
    fn latest(&self, state: &mut HubState, member: &Member, follow: &FollowRequest) -> Option<Arc<StreamEvent>> {
        let Member { id, labels, generation } = member;
        if let Some(topic) = state.topics.get(id) {
            return Some(topic.latest.clone());
        }
        // The sample is from before this start. Its event has a sequence, by which later readers can come back.
        let (_, sample) = follow.unheard.get(id).filter(|(of, _)| of == generation)?;
        let is_discarded = Arc::<AtomicBool>::default();
        let of = EventSubject::Instance { id: id.clone(), labels: labels.clone(), is_discarded: is_discarded.clone() };
        state.sequence += 1;
        let latest = Arc::new(StreamEvent::new(&self.0.boot, state.sequence, of, EventContent::Usage(sample.clone())));
        state.in_order.insert(latest.sequence, latest.clone());
        state.topics.insert(id.clone(), PublishedInstance { latest: latest.clone(), is_discarded });
        let most = self.kept(state.topics.len() + state.channels.workloads());
        state.log.push(latest.clone(), None, most);
        Some(latest)
    }
}

impl InitialEvents {
    /// Makes the first parts at once, so that a reader of few instances begins with the events of the time when it
    /// came.
    fn make(&mut self, state: &HubState) {
        if let Some(rest) = &mut self.rest
            && !state.more(rest, &mut self.made, AT_START)
        {
            self.rest = None;
        }
    }
}

impl RemainingEvents {
    fn of(follow: &FollowRequest, is_missed: bool, behind: u64, until: u64, also: Vec<u64>) -> Box<Self> {
        Box::new(Self { selection: follow.selection.clone(), is_missed, behind, until, also })
    }

    fn is_told(&self, event: &StreamEvent) -> bool {
        self.selection.is_told(&event.of) || self.also.binary_search(&event.sequence).is_ok()
    }
}

impl HubState {
    /// Looks at some of the next events, and adds those that the reader is told of. Returns whether there may be more.
    fn more(&self, rest: &mut RemainingEvents, more: &mut Vec<InitialEvent>, most: usize) -> bool {
        if rest.is_missed {
            let Some(missed) = self.log.after(rest.behind) else {
                // Some of the missed events are no longer kept.
                more.push(InitialEvent::Reset(EncodedEvent::reset(self.log.seen_by_ms(rest.behind))));
                (rest.is_missed, rest.behind) = (false, 0);
                return true;
            };
            let until = rest.until;
            return take(missed.take_while(|event| event.sequence <= until), rest, more, most);
        }
        let range = (Bound::Excluded(rest.behind), Bound::Included(rest.until));
        let latest = |id: &InstanceId| Some(&self.topics.get(id)?.latest);
        let mut named: Vec<_> = match &*rest.selection {
            Selection::One(id) => latest(id).into_iter().collect(),
            Selection::Several(ids) => ids.iter().filter_map(latest).collect(),
            Selection::Labels(_) | Selection::Workload(_) => {
                return take(self.in_order.range(range).map(|(_, event)| event), rest, more, most);
            }
        };
        named.retain(|event| range.contains(&event.sequence));
        named.sort_unstable_by_key(|event| event.sequence);
        take(named.into_iter(), rest, more, most)
    }
}

/// Adds those of some events that the reader is told of, until there are `most`. Returns whether there may be more.
fn take<'a>(
    events: impl Iterator<Item = &'a Arc<StreamEvent>>,
    rest: &mut RemainingEvents,
    more: &mut Vec<InitialEvent>,
    most: usize,
) -> bool {
    let mut looked_at = 0;
    for event in events {
        rest.behind = event.sequence;
        if rest.is_told(event) {
            more.push(InitialEvent::Event(event.clone()));
        }
        looked_at += 1;
        if more.len() >= most || looked_at >= LOOKED_AT {
            return true;
        }
    }
    false
}

/// Returns whether the instances that are followed by name have been silent since an event, however much others
/// published.
fn nothing_since(state: &HubState, follow: &FollowRequest, sequence: u64) -> bool {
    let named = match &*follow.selection {
        Selection::One(_) => 1,
        Selection::Several(several) => several.len(),
        Selection::Labels(_) | Selection::Workload(_) => return false,
    };
    let is_silent =
        |member: &Member| state.topics.get(&member.id).is_some_and(|topic| topic.latest.sequence <= sequence);
    follow.members.len() == named && follow.members.iter().all(is_silent)
}
