//! What a new reader gets before what is published next: the latest there is, or exactly what it missed. In the order it was
//! published, so that who breaks off in the middle comes back to the rest.

use super::event::{Encoded, Event, Of, What};
use super::{Hub, Member, Selection, State, Topic};
use dropsonde_store::{InstanceId, Sample};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, MutexGuard};

/// Events a reader of many instances may be behind, whatever their number.
const MOST_BEHIND: usize = 1 << 16;

/// Instances that may get the labels someone follows, when there are fewer now.
const MAY_JOIN: usize = 1024;

/// Instances that are looked up before anybody else may publish.
const AT_ONCE: usize = 256;

/// What a new reader wants, and what there is for it.
pub(crate) struct Follow {
    pub(crate) selection: Selection,
    /// The id of the last event it saw.
    pub(crate) seen: Option<String>,
    /// Those that are included now.
    pub(crate) members: Vec<Member>,
    /// The newest samples of those nothing was published of yet, with the generation they are of.
    pub(crate) unheard: HashMap<InstanceId, (u64, Sample)>,
    /// What they add up to, should it be a workload that is followed.
    pub(crate) together: Option<Sample>,
}

/// What a reader begins with.
pub(super) struct Beginning {
    pub(super) reset: Option<Encoded>,
    pub(super) first: Vec<Arc<Event>>,
    /// That is all there will be.
    pub(super) ends: bool,
    /// Events it may be behind.
    pub(super) buffer: usize,
}

/// The latest there was while it was looked up.
struct Gathered {
    latest: Vec<Arc<Event>>,
    /// What was published later may be missing.
    sequence: u64,
}

/// Where a reader goes on.
enum Resume {
    /// Behind an event that it saw: what it missed, if anything, is still there.
    Behind(u64),
    /// It is new.
    New,
    /// Some of what it missed is not there any more: from when on.
    Reset(i64),
}

impl Hub {
    /// Those of which nothing was published yet.
    pub(crate) fn unheard<'a>(&self, members: &'a [Member]) -> Vec<&'a Member> {
        let mut unheard = Vec::new();
        for members in members.chunks(AT_ONCE) {
            let state = self.lock();
            unheard.extend(members.iter().filter(|member| !state.topics.contains_key(&member.id)));
        }
        unheard
    }

    /// What comes first. Nothing is published until the guard is dropped.
    pub(super) fn begin(&self, follow: &Follow) -> (MutexGuard<'_, State>, Beginning) {
        loop {
            let gathered = self.gather(follow);
            let mut state = self.lock();
            if let Some(beginning) = self.settle(&mut state, follow, gathered) {
                return (state, beginning);
            }
            // What it missed was there, and is not any more.
        }
    }

    /// The latest of what a new reader wants, some at a time: publishing goes on meanwhile. None for one that goes on.
    fn gather(&self, follow: &Follow) -> Option<Gathered> {
        let state = self.lock();
        if let Resume::Behind(_) = self.resume(&state, follow) {
            return None;
        }
        let sequence = state.sequence;
        drop(state);
        let mut latest = Vec::with_capacity(follow.members.len());
        if !matches!(follow.selection, Selection::Workload(_)) {
            for members in follow.members.chunks(AT_ONCE) {
                let mut state = self.lock();
                latest.extend(members.iter().filter_map(|member| self.latest(&mut state, member, follow)));
            }
        }
        Some(Gathered { latest, sequence })
    }

    /// None: it is not what was gathered for any more.
    fn settle(&self, state: &mut State, follow: &Follow, gathered: Option<Gathered>) -> Option<Beginning> {
        let count = match &follow.selection {
            Selection::One(_) | Selection::Workload(_) => 1,
            Selection::Several(several) => several.len(),
            Selection::Labels(_) => follow.members.len().max(MAY_JOIN),
        };
        let buffer = self.kept(count).min(MOST_BEHIND.max(self.0.buffer));
        let is_told = |event: &&Arc<Event>| follow.selection.is_told(&event.of);
        let reset = match self.resume(state, follow) {
            Resume::Behind(sequence) => {
                let missed = state.log.after(sequence).into_iter().flatten().filter(is_told);
                let mut first: Vec<Arc<Event>> = missed.cloned().collect();
                let end = first.iter().position(|event| matches!(event.what, What::Untracked));
                let end = end.filter(|_| matches!(follow.selection, Selection::One(_)));
                first.truncate(end.map_or(first.len(), |end| end + 1));
                return Some(Beginning { reset: None, first, ends: end.is_some(), buffer });
            }
            Resume::New => None,
            Resume::Reset(from_ms) => Some(Encoded::reset(from_ms)),
        };
        let Gathered { latest: mut first, sequence } = gathered?;
        let since = state.log.after(sequence).map(|since| since.filter(is_told).cloned().collect::<Vec<_>>());
        match (since, &follow.selection) {
            (Some(since), _) if !since.is_empty() => {
                let known: HashSet<u64> = since.iter().map(|event| event.sequence).collect();
                first.retain(|event| !known.contains(&event.sequence));
                first.extend(since);
            }
            (_, Selection::Workload(workload)) => {
                let event = |sample: &Sample| {
                    state.sequence += 1;
                    let (of, what) = (Of::Workload(workload.clone()), What::Usage(sample.clone()));
                    Arc::new(Event::new(&self.0.boot, state.sequence, of, what))
                };
                first = follow.together.as_ref().map(event).into_iter().collect();
            }
            (Some(_), _) => {}
            // More was published meanwhile than is kept.
            (None, _) => first = follow.members.iter().filter_map(|one| self.latest(state, one, follow)).collect(),
        }
        first.sort_unstable_by_key(|event| event.sequence);
        Some(Beginning { reset, first, ends: false, buffer })
    }

    fn resume(&self, state: &State, follow: &Follow) -> Resume {
        let Some(seen) = &follow.seen else { return Resume::New };
        let start_ms = state.log.seen_by_ms(0);
        let parts = seen.split_once('-').and_then(|(boot, sequence)| Some((boot, sequence.parse::<u64>().ok()?)));
        match parts {
            Some((boot, sequence)) if *boot == *self.0.boot && sequence <= state.sequence => {
                if state.log.after(sequence).is_some() || nothing_since(state, follow, sequence) {
                    Resume::Behind(sequence)
                } else {
                    Resume::Reset(state.log.seen_by_ms(sequence))
                }
            }
            Some((boot, sequence)) if *boot != *self.0.boot => {
                let before = state.before.as_ref().filter(|before| before.boot == boot);
                // Of an earlier one: all that came since then may have been missed.
                let began_ms = || i64::from_str_radix(boot, 16).ok().filter(|boot_ms| (0..start_ms).contains(boot_ms));
                let from_ms = before.map(|before| before.moments.before(sequence)).or_else(began_ms);
                // The clock may have been set back between the two.
                Resume::Reset(from_ms.map_or(start_ms, |from_ms| from_ms.min(start_ms)))
            }
            _ => Resume::Reset(start_ms),
        }
    }

    fn latest(&self, state: &mut State, member: &Member, follow: &Follow) -> Option<Arc<Event>> {
        let Member { id, labels, generation } = member;
        if let Some(topic) = state.topics.get(id) {
            return Some(topic.latest.clone());
        }
        // It is from before this start. Whoever follows it from now on has seen it.
        let (_, sample) = follow.unheard.get(id).filter(|(of, _)| of == generation)?;
        let is_discarded = Arc::<AtomicBool>::default();
        let of = Of::Instance { id: id.clone(), labels: labels.clone(), is_discarded: is_discarded.clone() };
        state.sequence += 1;
        let latest = Arc::new(Event::new(&self.0.boot, state.sequence, of, What::Usage(sample.clone())));
        state.topics.insert(id.clone(), Topic { latest: latest.clone(), is_discarded });
        let most = self.kept(state.topics.len() + state.channels.workloads());
        state.log.push(latest.clone(), None, most);
        Some(latest)
    }
}

/// Whether what is followed by name has been silent since an event, however much others said.
fn nothing_since(state: &State, follow: &Follow, sequence: u64) -> bool {
    let named = match &follow.selection {
        Selection::One(_) => 1,
        Selection::Several(several) => several.len(),
        Selection::Labels(_) | Selection::Workload(_) => return false,
    };
    let is_silent =
        |member: &Member| state.topics.get(&member.id).is_some_and(|topic| topic.latest.sequence <= sequence);
    follow.members.len() == named && follow.members.iter().all(is_silent)
}
