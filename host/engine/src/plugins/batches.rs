//! Which instances go into which call. When a call ends badly, its instances go in halves into the next ones, until the
//! one that does it is alone: it alone is set aside, and tried again now and then. Where a call was merely too much at
//! once, the next ones are smaller.
//!
//! A call that uses up its budget says little about its instances: what it costs may be the same whomever it is for, as
//! when a file that it reads has grown. So an instance is set aside for that only if a call for others, in the same tick,
//! was cheap. If no call came back, the next tick begins with a single instance; as long as that one's call is too much as
//! well, nobody else is called.

use super::ladder::backoff;
use crate::tracked::Polled;
use dropsonde_store::InstanceId;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

/// Instances per call: bounds what one call returns, and what is lost when it fails.
const LARGEST: usize = 1000;

/// Ticks without a bad end after which calls may be larger again.
const PATIENCE: u32 = 1000;

/// And of those in which no call used more than `EASY` of its budget.
const EASY_PATIENCE: u32 = 10;

/// A call that used less of its budget leaves room for twice as many instances.
const EASY: f64 = 0.25;

/// A call that used less of its budget was cheap: what another one used beyond that was for its own instances.
const CHEAP: f64 = 0.5;

#[derive(Debug)]
pub(crate) struct Batches {
    /// Instances per call at most.
    largest: usize,
    /// Ticks since a call was too much.
    quiet: u32,
    /// And of those, in a row, in which all calls were easy.
    easy: u32,
    /// Instances among which there is one that ends calls.
    suspects: Vec<Vec<InstanceId>>,
    set_aside: BTreeMap<InstanceId, SetAside>,
    /// Calls cost too much, and nobody knows whether because of their instances: how many single ones were tried.
    probing: Option<usize>,
    tick: Tick,
}

/// How the calls of a tick went so far.
#[derive(Debug, Default)]
struct Tick {
    came_back: bool,
    /// The least share of its budget that a call used which came back.
    least: Option<f64>,
    most: f64,
    /// A call was too much.
    is_much: bool,
    /// Instances whose own call was too much.
    alone: Vec<(InstanceId, String, End)>,
}

/// How a call ended that brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It broke: for what it was asked, or for reasons of its own.
    Broke,
    /// It took too long.
    TooSlow,
    /// There was not enough room for it.
    TooMuch,
}

/// An instance that ended a call it was alone in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SetAside {
    pub reason: String,
    /// How often, without an answer in between.
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
            tick: Tick::default(),
        }
    }
}

impl Batches {
    /// Begins anew after a pause: with a single instance, and with calls no larger than they were.
    pub(crate) fn retried(&self) -> Self {
        Self { largest: self.largest, probing: Some(0), ..Self::default() }
    }

    /// The calls of a tick: first those nothing is known against. `instances` are sorted.
    pub(crate) fn of<'a>(&mut self, instances: &'a [Polled], now: Instant) -> Vec<Cow<'a, [Polled]>> {
        self.tick = Tick::default();
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

    /// Takes a single instance, another one each time, out of wherever it is: those first that nothing is known against.
    fn probe(&mut self, instances: &[Polled]) -> Option<InstanceId> {
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

    /// A call had an answer, for this share of its budget: there is nothing against these. Whether there was.
    pub(crate) fn came_back(&mut self, batch: &[Polled], share: f64) -> bool {
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

    /// A call had none.
    pub(crate) fn ended_badly(&mut self, batch: &[Polled], reason: &str, end: End, now: Instant) {
        let suspects = self.suspects.len();
        self.suspects.retain(|group| !is_of(group, batch));
        let is_much = end != End::Broke;
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
                let ids = |batch: &[Polled]| batch.iter().map(|polled| polled.id.clone()).collect();
                self.suspects.extend([ids(first), ids(second)]);
            }
        }
    }

    /// All calls of a tick were made: whose cost was it where one was too much?
    pub(crate) fn settle(&mut self, now: Instant) {
        let Tick { came_back, least, most, is_much, alone } = std::mem::take(&mut self.tick);
        self.easy = if came_back && !is_much && most <= EASY { self.easy + 1 } else { 0 };
        if is_much && !came_back {
            self.probing = Some(self.probing.map_or(0, |tried| tried.wrapping_add(1)));
        }
        for (id, reason, end) in alone {
            let is_own = match end {
                End::TooSlow => least.is_some_and(|least| least <= CHEAP),
                End::TooMuch | End::Broke => came_back,
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

    /// Whether the rest of a tick's calls are to be left out: the first one, for a single instance, was too much.
    pub(crate) fn is_call_too_much(&self) -> bool {
        self.probing.is_some() && self.tick.is_much
    }

    /// Whether it is one that is set aside.
    pub(crate) fn is_set_aside(&self, batch: &[Polled]) -> bool {
        matches!(batch, [alone] if self.set_aside.contains_key(&alone.id))
    }

    pub(crate) fn set_aside(&self) -> &BTreeMap<InstanceId, SetAside> {
        &self.set_aside
    }
}

fn is_of(group: &[InstanceId], batch: &[Polled]) -> bool {
    group.iter().eq(batch.iter().map(|polled| &polled.id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn polled(count: usize) -> Vec<Polled> {
        let id = |nth| InstanceId::new(format!("{nth:05}")).unwrap();
        (0..count)
            .map(|nth| {
                let (owner, labels) = ("p".into(), Default::default());
                Polled { id: id(nth), generation: 1, owner, has_its_owner: true, labels }
            })
            .collect()
    }

    /// A tick with a plugin that some instances end; which had an answer, and how many calls did not.
    fn tick(batches: &mut Batches, all: &[Polled], poison: &[usize], now: Instant) -> (Vec<Polled>, usize) {
        let (mut answered, mut ended) = (Vec::new(), 0);
        for batch in batches.of(all, now) {
            assert!(batch.len() <= LARGEST);
            if poison.iter().any(|&nth| batch.contains(&all[nth])) {
                batches.ended_badly(&batch, "trapped", End::Broke, now);
                ended += 1;
            } else {
                batches.came_back(&batch, 0.1);
                answered.extend(batch.iter().cloned());
            }
        }
        batches.settle(now);
        (answered, ended)
    }

    /// A tick with a plugin whose calls cost so much of their budget; how many instances had an answer, how many calls none.
    fn costly_tick(
        batches: &mut Batches,
        all: &[Polled],
        now: Instant,
        cost: impl Fn(&[Polled]) -> f64,
    ) -> (usize, usize) {
        let (mut answered, mut ended) = (0, 0);
        for batch in batches.of(all, now) {
            let cost = cost(&batch);
            if cost < 1.0 {
                batches.came_back(&batch, cost);
                answered += batch.len();
                continue;
            }
            batches.ended_badly(&batch, "used too much", End::TooSlow, now);
            ended += 1;
            if batches.is_call_too_much() || ended == 4 {
                break;
            }
        }
        batches.settle(now);
        (answered, ended)
    }

    #[test]
    fn of_a_thousand_the_one_is_found_in_ten_ticks_and_it_alone_is_set_aside() {
        let (all, mut batches, now) = (polled(1000), Batches::default(), Instant::now());
        let ended: usize = (0..11).map(|_| tick(&mut batches, &all, &[617], now).1).sum();
        assert_eq!(ended, 11, "a call a tick");
        assert_eq!(batches.set_aside().keys().collect::<Vec<_>>(), [&all[617].id]);
        let (answered, ended) = tick(&mut batches, &all, &[617], now);
        assert_eq!((answered.len(), ended), (999, 0));
    }

    #[test]
    fn others_are_asked_all_the_while() {
        let (all, mut batches, now) = (polled(3000), Batches::default(), Instant::now());
        let answered: Vec<_> = (0..12).map(|_| tick(&mut batches, &all, &[0, 1, 2999], now).0.len()).collect();
        assert_eq!(answered[0], 1000, "a batch without any of them");
        assert!(answered.windows(2).all(|pair| pair[0] <= pair[1]), "{answered:?}");
        assert_eq!(answered.last(), Some(&2997));
    }

    #[test]
    fn one_set_aside_is_tried_again_less_and_less_often_and_comes_back_when_it_answers() {
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
    fn calls_that_are_too_much_become_smaller_until_they_are_not() {
        let (all, mut batches, now) = (polled(4000), Batches::default(), Instant::now());
        let cost = |batch: &[Polled]| batch.len() as f64 / 300.0;
        let ended: Vec<_> = (0..20).map(|_| costly_tick(&mut batches, &all, now, cost).1).collect();
        assert_eq!((ended[0], ended.iter().rev().take(10).sum::<usize>()), (4, 0), "{ended:?}");
        assert!(batches.set_aside().is_empty());
        assert_eq!(costly_tick(&mut batches, &all, now, cost), (4000, 0));
    }

    #[test]
    fn no_instance_is_set_aside_while_every_call_costs_too_much_and_all_are_asked_once_calls_are_cheap() {
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
    fn an_instance_whose_own_cost_is_too_much_is_set_aside_and_no_other() {
        for (count, dear) in [(2, 0), (2, 1), (9, 0), (9, 8), (1000, 617)] {
            let (all, mut batches, now) = (polled(count), Batches::default(), Instant::now());
            let cost = |batch: &[Polled]| if batch.contains(&all[dear]) { 1.2 } else { 0.1 };
            for _ in 0..20 {
                let _ = costly_tick(&mut batches, &all, now, cost);
            }
            assert_eq!(batches.set_aside().keys().collect::<Vec<_>>(), [&all[dear].id], "{dear} of {count}");
            assert_eq!(costly_tick(&mut batches, &all, now, cost), (count - 1, 0));
        }
    }

    #[test]
    fn an_instance_that_exceeds_by_little_what_others_nearly_use_is_not_set_aside() {
        let (all, mut batches, now) = (polled(2), Batches::default(), Instant::now());
        let cost = |batch: &[Polled]| if batch.contains(&all[1]) { 1.05 } else { 0.95 };
        let answered: usize = (0..20).map(|_| costly_tick(&mut batches, &all, now, cost).0).sum();
        assert!(answered > 10, "{answered}");
        assert!(batches.set_aside().is_empty());
        assert_eq!(costly_tick(&mut batches, &all, now, |_| 0.5), (2, 0));
    }

    #[test]
    fn a_retry_begins_with_one_instance_and_goes_on_with_calls_as_small_as_they_were() {
        let (all, mut batches, now) = (polled(1000), Batches::default(), Instant::now());
        let cost = |batch: &[Polled]| batch.len() as f64 / 300.0;
        for _ in 0..20 {
            let _ = costly_tick(&mut batches, &all, now, cost);
        }
        let mut retried = batches.retried();
        assert_eq!(retried.of(&all, now).first().map(|batch| batch.len()), Some(1));
        assert_eq!(costly_tick(&mut batches.retried(), &all, now, cost), (1000, 0));
        assert_eq!(costly_tick(&mut batches.retried(), &all, now, |_| 1.1), (0, 1));
    }

    #[test]
    fn calls_become_larger_again_soon_after_they_became_easy() {
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
    fn what_is_no_longer_polled_is_forgotten() {
        let (all, mut batches, now) = (polled(4), Batches::default(), Instant::now());
        (0..3).for_each(|_| drop(tick(&mut batches, &all, &[3], now)));
        assert_eq!(batches.set_aside().len(), 1);
        batches.of(&all[..2], now);
        assert!(batches.set_aside().is_empty());
        assert_eq!(tick(&mut batches, &all, &[], now).0.len(), 4);
    }
}
