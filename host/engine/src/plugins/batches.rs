//! Divides the instances of a tick into calls. When a call ends badly, each half of its instances gets a call of its
//! own in the next tick, until the instance that causes it is alone. Only that instance is *set aside*: it is not
//! polled, except for a retry now and then.
//!
//! A call is *too large* if it exceeds its time, or has not enough memory or other room. Later calls are then for fewer
//! instances.
//!
//! A call that exceeds its time says little about its instances: its cost may be the same for any instance, for example
//! because a file that it reads has grown. So an instance is set aside for that only if a call for other instances was
//! cheap in the same tick. If no call came back, the next tick begins with a single instance; as long as that call is
//! too large as well, no other call is made.

use super::backoff::backoff;
use crate::tracked::PolledInstance;
use dropsonde_store::InstanceId;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

/// The most instances per call. It bounds the answer of a call, and the loss when a call fails.
const LARGEST: usize = 1000;

/// The number of ticks since a call was too large after which calls become larger again.
const PATIENCE: u32 = 1000;

/// The number of ticks in a row, in which no call used more than [`EASY`] of its budget, after which calls become
/// larger again.
const EASY_PATIENCE: u32 = 10;

/// The share of its budget up to which a call is easy: it leaves room for twice as many instances.
const EASY: f64 = 0.25;

/// The share of its budget up to which a call is cheap: what another call used beyond that was for its own instances.
const CHEAP: f64 = 0.5;

#[derive(Debug)]
pub(crate) struct Batches {
    /// The most instances per call for now.
    largest: usize,
    /// Ticks since a call was too large.
    quiet: u32,
    /// Ticks in a row in which all calls were easy.
    easy: u32,
    /// Groups of instances, where one of a group may end calls.
    suspects: Vec<Vec<InstanceId>>,
    set_aside: BTreeMap<InstanceId, SetAside>,
    /// The number of single instances that were tried, while calls are too large for a reason that is not known.
    probing: Option<usize>,
    tick: TickOutcome,
}

/// The outcome of a tick's calls so far.
#[derive(Debug, Default)]
struct TickOutcome {
    came_back: bool,
    /// The least share of its budget that a call used, of the calls that came back.
    least: Option<f64>,
    most: f64,
    /// Whether a call was too large.
    is_much: bool,
    /// Instances that were alone in a call that was too large.
    alone: Vec<(InstanceId, String, CallEnd)>,
}

/// How a call without readings ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallEnd {
    /// The call broke, because of its instances or for another reason.
    Broke,
    /// The call exceeded its CPU time or its deadline.
    TooSlow,
    /// The call had not enough room: memory, output or handles.
    TooMuch,
}

/// An instance that is set aside because it ended a call in which it was alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SetAside {
    pub reason: String,
    /// The number of such calls since the instance last had an answer.
    pub times: usize,
    pub retry_at: Instant,
}

impl Default for Batches {
    fn default() -> Self {
        Self {
            largest: LARGEST,
            quiet: 0,
            easy: 0,
            suspects: Vec::new(),
            set_aside: BTreeMap::new(),
            probing: None,
            tick: TickOutcome::default(),
        }
    }
}

impl Batches {
    /// Returns the batches for a retry after a pause. They begin with a single instance, and calls are no larger than
    /// before.
    pub(crate) fn retried(&self) -> Self {
        Self { largest: self.largest, probing: Some(0), ..Self::default() }
    }

    /// Returns the calls of a tick, those without suspects first. `instances` must be sorted by id.
    pub(crate) fn of<'a>(&mut self, instances: &'a [PolledInstance], now: Instant) -> Vec<Cow<'a, [PolledInstance]>> {
        self.tick = TickOutcome::default();
        self.quiet += 1;
        if self.quiet > PATIENCE || self.easy >= EASY_PATIENCE {
            (self.quiet, self.easy) = (0, 0);
            self.largest = (self.largest * 2).min(LARGEST);
        }
        let polled = |id: &InstanceId| {
            let nth = instances.binary_search_by(|polled| polled.id.cmp(id)).ok()?;
            instances.get(nth).cloned()
        };
        let is_polled = |id: &InstanceId| polled(id).is_some();
        self.suspects.iter_mut().for_each(|group| group.retain(is_polled));
        self.suspects.retain(|group| !group.is_empty());
        self.set_aside.retain(|id, _| is_polled(id));
        if self.suspects.is_empty() && self.set_aside.is_empty() && self.probing.is_none() {
            return instances.chunks(self.largest).map(Cow::Borrowed).collect();
        }
        let probe = self.probe(instances);
        let apart: HashSet<&InstanceId> =
            self.suspects.iter().flatten().chain(self.set_aside.keys()).chain(&probe).collect();
        let others: Vec<_> = instances.iter().filter(|polled| !apart.contains(&polled.id)).cloned().collect();
        let due = self.set_aside.iter().filter(|(_, aside)| aside.retry_at <= now).map(|(id, _)| vec![id.clone()]);
        let alone = self.suspects.iter().cloned().chain(due).map(|ids| ids.iter().filter_map(polled).collect());
        let others = others.chunks(self.largest).map(<[_]>::to_vec);
        let probe = probe.iter().map(|id| polled(id).into_iter().collect());
        probe.chain(others).chain(alone).map(Cow::Owned).collect()
    }

    /// Returns a single instance to try, another one each time, and takes it out of its group of suspects. Instances
    /// that are not suspects come first.
    fn probe(&mut self, instances: &[PolledInstance]) -> Option<InstanceId> {
        let tried = self.probing?;
        let suspected: HashSet<&InstanceId> = self.suspects.iter().flatten().collect();
        let ids = instances.iter().map(|polled| &polled.id).filter(|id| !self.set_aside.contains_key(*id));
        let (suspects, others): (Vec<_>, Vec<_>) = ids.partition(|id| suspected.contains(id));
        let all: Vec<_> = others.into_iter().chain(suspects).collect();
        let probe = all.get(tried.checked_rem(all.len())?).map(|id| (*id).clone())?;
        self.suspects.iter_mut().for_each(|group| group.retain(|id| *id != probe));
        self.suspects.retain(|group| !group.is_empty());
        Some(probe)
    }

    /// Notes that a call came back, for this share of its budget: its instances are no suspects. Returns whether one of
    /// them was a suspect or set aside.
    pub(crate) fn came_back(&mut self, batch: &[PolledInstance], share: f64) -> bool {
        self.tick.came_back = true;
        self.tick.least = Some(self.tick.least.map_or(share, |least| least.min(share)));
        self.tick.most = self.tick.most.max(share);
        self.probing = None;
        let before = (self.suspects.len(), self.set_aside.len());
        self.suspects.retain(|group| !is_of(group, batch));
        if let [alone] = batch {
            self.set_aside.remove(&alone.id);
        }
        (self.suspects.len(), self.set_aside.len()) != before
    }

    /// Notes that a call ended badly.
    pub(crate) fn ended_badly(&mut self, batch: &[PolledInstance], reason: &str, end: CallEnd, now: Instant) {
        let suspects = self.suspects.len();
        self.suspects.retain(|group| !is_of(group, batch));
        let is_much = end != CallEnd::Broke;
        self.tick.is_much |= is_much;
        if is_much && self.suspects.len() == suspects && batch.len() > 1 {
            (self.largest, self.quiet) = (batch.len().div_ceil(2), 0);
        }
        match batch {
            [] => {}
            [alone] if is_much => self.tick.alone.push((alone.id.clone(), reason.to_owned(), end)),
            [alone] => self.put_aside(alone.id.clone(), reason.to_owned(), now),
            several => {
                let (first, second) = several.split_at(several.len() / 2);
                let ids = |batch: &[PolledInstance]| batch.iter().map(|polled| polled.id.clone()).collect();
                self.suspects.extend([ids(first), ids(second)]);
            }
        }
    }

    /// Ends a tick: decides which instances are set aside because their own call was too large.
    pub(crate) fn settle(&mut self, now: Instant) {
        let TickOutcome { came_back, least, most, is_much, alone } = std::mem::take(&mut self.tick);
        self.easy = if came_back && !is_much && most <= EASY { self.easy + 1 } else { 0 };
        if is_much && !came_back {
            self.probing = Some(self.probing.map_or(0, |tried| tried.wrapping_add(1)));
        }
        for (id, reason, end) in alone {
            let is_own = match end {
                CallEnd::TooSlow => least.is_some_and(|least| least <= CHEAP),
                CallEnd::TooMuch | CallEnd::Broke => came_back,
            };
            if is_own || self.set_aside.contains_key(&id) {
                self.put_aside(id, reason, now);
            } else {
                self.suspects.push(vec![id]);
            }
        }
    }

    fn put_aside(&mut self, id: InstanceId, reason: String, now: Instant) {
        let times = self.set_aside.get(&id).map_or(0, |aside| aside.times) + 1;
        self.set_aside.insert(id, SetAside { reason, times, retry_at: now + backoff(times) });
    }

    /// Returns whether the other calls of a tick are to be skipped, because the first one, for a single instance, was
    /// too large.
    pub(crate) fn is_call_too_much(&self) -> bool {
        self.probing.is_some() && self.tick.is_much
    }

    /// Returns whether a batch is a single instance that is set aside.
    pub(crate) fn is_set_aside(&self, batch: &[PolledInstance]) -> bool {
        matches!(batch, [alone] if self.set_aside.contains_key(&alone.id))
    }

    pub(crate) fn set_aside(&self) -> &BTreeMap<InstanceId, SetAside> {
        &self.set_aside
    }
}

fn is_of(group: &[InstanceId], batch: &[PolledInstance]) -> bool {
    group.iter().eq(batch.iter().map(|polled| &polled.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn polled(count: usize) -> Vec<PolledInstance> {
        let id = |nth| InstanceId::new(format!("{nth:05}")).unwrap();
        (0..count)
            .map(|nth| {
                let (owner, labels) = ("p".into(), Default::default());
                PolledInstance { id: id(nth), generation: 1, owner, has_its_owner: true, labels }
            })
            .collect()
    }

    /// Runs a tick of a plugin whose calls the `poison` instances end. Returns the instances with an answer, and the
    /// number of calls without one.
    fn tick(
        batches: &mut Batches,
        all: &[PolledInstance],
        poison: &[usize],
        now: Instant,
    ) -> (Vec<PolledInstance>, usize) {
        let (mut answered, mut ended) = (Vec::new(), 0);
        for batch in batches.of(all, now) {
            assert!(batch.len() <= LARGEST);
            if poison.iter().any(|&nth| batch.contains(&all[nth])) {
                batches.ended_badly(&batch, "trapped", CallEnd::Broke, now);
                ended += 1;
            } else {
                batches.came_back(&batch, 0.1);
                answered.extend(batch.iter().cloned());
            }
        }
        batches.settle(now);
        (answered, ended)
    }

    /// Runs a tick of a plugin whose calls use the share `cost` of their budget. Returns the number of instances with
    /// an answer, and of calls without one.
    fn costly_tick(
        batches: &mut Batches,
        all: &[PolledInstance],
        now: Instant,
        cost: impl Fn(&[PolledInstance]) -> f64,
    ) -> (usize, usize) {
        let (mut answered, mut ended) = (0, 0);
        for batch in batches.of(all, now) {
            let cost = cost(&batch);
            if cost < 1.0 {
                batches.came_back(&batch, cost);
                answered += batch.len();
                continue;
            }
            batches.ended_badly(&batch, "used too much", CallEnd::TooSlow, now);
            ended += 1;
            if batches.is_call_too_much() || ended == 4 {
                break;
            }
        }
        batches.settle(now);
        (answered, ended)
    }

    #[test]
    fn one_bad_instance_among_a_thousand_is_set_aside_alone_after_eleven_ticks() {
        let (all, mut batches, now) = (polled(1000), Batches::default(), Instant::now());
        let ended: usize = (0..11).map(|_| tick(&mut batches, &all, &[617], now).1).sum();
        assert_eq!(ended, 11, "a call a tick");
        assert_eq!(batches.set_aside().keys().collect::<Vec<_>>(), [&all[617].id]);
        let (answered, ended) = tick(&mut batches, &all, &[617], now);
        assert_eq!((answered.len(), ended), (999, 0));
    }

    #[test]
    fn other_instances_are_polled_during_the_search_for_bad_ones() {
        let (all, mut batches, now) = (polled(3000), Batches::default(), Instant::now());
        let answered: Vec<_> = (0..12).map(|_| tick(&mut batches, &all, &[0, 1, 2999], now).0.len()).collect();
        assert_eq!(answered[0], 1000, "a batch without any of them");
        assert!(answered.windows(2).all(|pair| pair[0] <= pair[1]), "{answered:?}");
        assert_eq!(answered.last(), Some(&2997));
    }

    #[test]
    fn an_instance_that_is_set_aside_is_retried_with_backoff_and_returns_when_it_answers() {
        let (all, mut batches, now) = (polled(2), Batches::default(), Instant::now());
        tick(&mut batches, &all, &[1], now);
        tick(&mut batches, &all, &[1], now);
        assert_eq!(tick(&mut batches, &all, &[1], now).1, 0, "not at once");
        let mut tried = Vec::new();
        for second in 0..1000 {
            if tick(&mut batches, &all, &[1], now + Duration::from_secs(second)).1 > 0 {
                tried.push(second);
            }
        }
        assert!((8..12).contains(&tried.len()), "{tried:?}");
        let (answered, _) = tick(&mut batches, &all, &[], now + Duration::from_secs(2000));
        assert_eq!(answered.len(), 2);
        assert!(batches.set_aside().is_empty());
    }

    #[test]
    fn calls_that_exceed_their_budget_get_fewer_instances_until_they_succeed() {
        let (all, mut batches, now) = (polled(4000), Batches::default(), Instant::now());
        let cost = |batch: &[PolledInstance]| batch.len() as f64 / 300.0;
        let ended: Vec<_> = (0..20).map(|_| costly_tick(&mut batches, &all, now, cost).1).collect();
        assert_eq!((ended[0], ended.iter().rev().take(10).sum::<usize>()), (4, 0), "{ended:?}");
        assert!(batches.set_aside().is_empty());
        assert_eq!(costly_tick(&mut batches, &all, now, cost), (4000, 0));
    }

    #[test]
    fn no_instance_is_set_aside_while_every_call_exceeds_its_budget() {
        for count in [1, 2, 5, 700, 2500] {
            let (all, mut batches, now) = (polled(count), Batches::default(), Instant::now());
            let dear: Vec<_> = (0..50).map(|_| costly_tick(&mut batches, &all, now, |_| 1.1)).collect();
            assert!(dear.iter().all(|(answered, _)| *answered == 0));
            assert!(dear[1..].iter().all(|(_, ended)| *ended == 1), "one call a tick finds out: {dear:?}");
            assert!(batches.set_aside().is_empty());
            let cheap: Vec<_> = (0..2).map(|_| costly_tick(&mut batches, &all, now, |_| 0.1).0).collect();
            assert_eq!(cheap, [count, count]);
            assert!(batches.suspects.is_empty() && batches.set_aside().is_empty());
        }
    }

    #[test]
    fn only_the_instance_that_exceeds_the_budget_alone_is_set_aside() {
        for (count, dear) in [(2, 0), (2, 1), (9, 0), (9, 8), (1000, 617)] {
            let (all, mut batches, now) = (polled(count), Batches::default(), Instant::now());
            let cost = |batch: &[PolledInstance]| if batch.contains(&all[dear]) { 1.2 } else { 0.1 };
            for _ in 0..20 {
                let _ = costly_tick(&mut batches, &all, now, cost);
            }
            assert_eq!(batches.set_aside().keys().collect::<Vec<_>>(), [&all[dear].id], "{dear} of {count}");
            assert_eq!(costly_tick(&mut batches, &all, now, cost), (count - 1, 0));
        }
    }

    #[test]
    fn an_instance_slightly_over_budget_is_not_set_aside_while_others_are_nearly_as_costly() {
        let (all, mut batches, now) = (polled(2), Batches::default(), Instant::now());
        let cost = |batch: &[PolledInstance]| if batch.contains(&all[1]) { 1.05 } else { 0.95 };
        let answered: usize = (0..20).map(|_| costly_tick(&mut batches, &all, now, cost).0).sum();
        assert!(answered > 10, "{answered}");
        assert!(batches.set_aside().is_empty());
        assert_eq!(costly_tick(&mut batches, &all, now, |_| 0.5), (2, 0));
    }

    #[test]
    fn a_retry_begins_with_one_instance_and_keeps_the_call_size() {
        let (all, mut batches, now) = (polled(1000), Batches::default(), Instant::now());
        let cost = |batch: &[PolledInstance]| batch.len() as f64 / 300.0;
        for _ in 0..20 {
            let _ = costly_tick(&mut batches, &all, now, cost);
        }
        let mut retried = batches.retried();
        assert_eq!(retried.of(&all, now).first().map(|batch| batch.len()), Some(1));
        assert_eq!(costly_tick(&mut batches.retried(), &all, now, cost), (1000, 0));
        assert_eq!(costly_tick(&mut batches.retried(), &all, now, |_| 1.1), (0, 1));
    }

    #[test]
    fn calls_get_more_instances_again_after_they_became_cheap() {
        let (all, mut batches, now) = (polled(1000), Batches::default(), Instant::now());
        for _ in 0..40 {
            let _ = costly_tick(&mut batches, &all, now, |batch| batch.len() as f64 / 100.0);
        }
        assert!(batches.largest <= 100, "{}", batches.largest);
        for _ in 0..50 {
            let _ = costly_tick(&mut batches, &all, now, |_| 0.1);
        }
        assert_eq!(batches.largest, LARGEST);
    }

    #[test]
    fn an_instance_that_is_no_longer_polled_is_no_longer_set_aside() {
        let (all, mut batches, now) = (polled(4), Batches::default(), Instant::now());
        (0..3).for_each(|_| drop(tick(&mut batches, &all, &[3], now)));
        assert_eq!(batches.set_aside().len(), 1);
        batches.of(&all[..2], now);
        assert!(batches.set_aside().is_empty());
        assert_eq!(tick(&mut batches, &all, &[], now).0.len(), 4);
    }
}
