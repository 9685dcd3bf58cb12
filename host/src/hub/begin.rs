//! What a new reader gets before what is published next: the latest there is, or exactly what it missed.

use super::event::{Encoded, Event, Of, What};
use super::{Hub, Member, Selection, State, Topic};
use dropsonde_store::{InstanceId, Sample};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Events a reader of many instances may be behind, whatever their number.
const MOST_BEHIND: usize = 1 << 16;

/// Instances that are looked up before anybody else may publish.
const AT_ONCE: usize = 256;

/// What a new reader wants, and what there is for it.
pub(crate) struct Follow<'a> {
    pub(crate) selection: Selection,
    /// The id of the last event it saw.
    pub(crate) seen: Option<String>,
    /// Those that are included now.
    pub(crate) members: Vec<Member>,
    /// An instance's newest sample, should nothing of it have been published yet.
    pub(crate) latest: &'a dyn Fn(&InstanceId) -> Option<Sample>,
    /// What those add up to, should it be a workload that is followed.
    pub(crate) together: &'a dyn Fn(&[Member]) -> Option<Sample>,
}

/// What a reader begins with.
pub(super) struct Beginning {
    pub(super) reset: Option<Encoded>,
    pub(super) first: Vec<Arc<Event>>,
    /// Events it may be behind.
    pub(super) buffer: usize,
}

/// The latest there was while it was looked up.
pub(super) struct Gathered {
    latest: Vec<Arc<Event>>,
    /// What was published later may be missing.
    sequence: u64,
}

/// Where a reader goes on.
enum Resume {
    /// Behind an event that it saw, if what it missed is still there.
    Behind(u64),
    /// It is new.
    New,
    /// Some of what it missed is not there any more: from when on.
    Reset(i64),
}

impl Hub {
    /// The latest of what a new reader wants, some at a time: publishing goes on meanwhile.
    pub(super) fn gather(&self, follow: &Follow<'_>) -> Gathered {
        let sequence = {
            let state = self.lock();
            if let Resume::Behind(_) = self.resume(&state, follow) {
                return Gathered { latest: Vec::new(), sequence: 0 };
            }
            state.sequence
        };
        if let Selection::Workload(workload) = &follow.selection {
            let sample = (follow.together)(&follow.members);
            let of = || Of::Workload(workload.clone());
            let latest = sample.map(|sample| self.unheard(&mut self.lock(), of(), sample)).into_iter().collect();
            return Gathered { latest, sequence };
        }
        let mut latest = Vec::with_capacity(follow.members.len());
        for members in follow.members.chunks(AT_ONCE) {
            let mut state = self.lock();
            latest.extend(members.iter().filter_map(|member| self.latest(&mut state, member, follow)));
        }
        Gathered { latest, sequence }
    }

    /// What comes first, and nothing that is published from now on.
    pub(super) fn begin(&self, state: &mut State, follow: &Follow<'_>, gathered: Gathered) -> Beginning {
        let count = match &follow.selection {
            Selection::One(_) | Selection::Workload(_) => 1,
            Selection::Several(several) => several.len(),
            Selection::Labels(_) => follow.members.len(),
        };
        let buffer = self.kept(count).min(MOST_BEHIND.max(self.0.buffer));
        let is_told = |event: &&Arc<Event>| follow.selection.is_told(&event.of);
        let reset = match self.resume(state, follow) {
            Resume::Behind(sequence) => {
                let first = state.log.after(sequence).into_iter().flatten().filter(is_told).cloned().collect();
                return Beginning { reset: None, first, buffer };
            }
            Resume::New => None,
            Resume::Reset(from_ms) => Some(Encoded::reset(from_ms)),
        };
        let Gathered { latest: mut first, sequence } = gathered;
        let since = state.log.after(sequence).map(|since| since.filter(is_told).cloned().collect::<Vec<_>>());
        match since {
            Some(since) => {
                let known: HashSet<u64> = since.iter().map(|event| event.sequence).collect();
                first.retain(|event| !known.contains(&event.sequence));
                first.extend(since);
            }
            // More was published meanwhile than is kept.
            None => first = follow.members.iter().filter_map(|member| self.latest(state, member, follow)).collect(),
        }
        Beginning { reset, first, buffer }
    }

    fn resume(&self, state: &State, follow: &Follow<'_>) -> Resume {
        let Some(seen) = &follow.seen else { return Resume::New };
        let start_ms = state.log.seen_by_ms(0);
        let parts = seen.split_once('-').and_then(|(boot, sequence)| Some((boot, sequence.parse::<u64>().ok()?)));
        match parts {
            Some((boot, sequence)) if *boot == *self.0.boot && sequence <= state.sequence => {
                if state.log.after(sequence).is_some() {
                    Resume::Behind(sequence)
                } else {
                    Resume::Reset(state.log.seen_by_ms(sequence))
                }
            }
            // Of a start before this one: all that came since then may have been missed.
            Some((boot, _)) if *boot != *self.0.boot => {
                let boot_ms = i64::from_str_radix(boot, 16).ok().filter(|boot_ms| (0..start_ms).contains(boot_ms));
                Resume::Reset(boot_ms.unwrap_or(start_ms))
            }
            _ => Resume::Reset(start_ms),
        }
    }

    fn latest(&self, state: &mut State, Member { id, labels }: &Member, follow: &Follow<'_>) -> Option<Arc<Event>> {
        if let Some(topic) = state.topics.get(id) {
            return Some(topic.latest.clone());
        }
        // It is from before this start.
        let sample = (follow.latest)(id).filter(|sample| !sample.values.is_empty())?;
        let is_discarded = Arc::<AtomicBool>::default();
        let of = Of::Instance { id: id.clone(), labels: labels.clone(), is_discarded: is_discarded.clone() };
        let latest = self.unheard(state, of, sample);
        let topic = Topic { latest: latest.clone(), is_discarded, membership: Default::default() };
        state.topics.insert(id.clone(), topic);
        Some(latest)
    }

    /// For one reader: nobody else missed it.
    fn unheard(&self, state: &mut State, of: Of, sample: Sample) -> Arc<Event> {
        state.sequence += 1;
        Arc::new(Event::new(&self.0.boot, state.sequence, of, What::Usage(sample)))
    }
}
