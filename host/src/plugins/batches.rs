//! Which instances go into which call. When a call ends badly, its instances go in halves into the next ones, until the
//! one that does it is alone: it alone is set aside, and tried again now and then. Where a call was merely too much at
//! once, the next ones are smaller.

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

#[derive(Debug)]
pub(crate) struct Batches {
    /// Instances per call at most.
    largest: usize,
    /// Ticks since a call was too much.
    quiet: u32,
    /// Instances among which there is one that ends calls.
    suspects: Vec<Vec<InstanceId>>,
    set_aside: BTreeMap<InstanceId, SetAside>,
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
        Self { largest: LARGEST, quiet: 0, suspects: Vec::new(), set_aside: BTreeMap::new() }
    }
}

impl Batches {
    /// The calls of a tick: first those nothing is known against. `instances` are sorted.
    pub(crate) fn of<'a>(&mut self, instances: &'a [Polled], now: Instant) -> Vec<Cow<'a, [Polled]>> {
        self.quiet += 1;
        if self.quiet > PATIENCE {
            self.quiet = 0;
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
        if self.suspects.is_empty() && self.set_aside.is_empty() {
            return instances.chunks(self.largest).map(Cow::Borrowed).collect();
        }
        let apart: HashSet<&InstanceId> = self.suspects.iter().flatten().chain(self.set_aside.keys()).collect();
        let others: Vec<_> = instances.iter().filter(|polled| !apart.contains(&polled.id)).cloned().collect();
        let due = self.set_aside.iter().filter(|(_, aside)| aside.retry_at <= now).map(|(id, _)| vec![id.clone()]);
        let alone = self.suspects.iter().cloned().chain(due).map(|ids| ids.iter().filter_map(polled).collect());
        let others = others.chunks(self.largest).map(<[_]>::to_vec);
        others.chain(alone).map(Cow::Owned).collect()
    }

    /// A call had an answer: there is nothing against these. Whether there was.
    pub(crate) fn came_back(&mut self, batch: &[Polled]) -> bool {
        let before = (self.suspects.len(), self.set_aside.len());
        self.suspects.retain(|group| !is_of(group, batch));
        if let [alone] = batch {
            self.set_aside.remove(&alone.id);
        }
        (self.suspects.len(), self.set_aside.len()) != before
    }

    /// A call had none. `is_much`: for want of time or room, which fewer might not need.
    pub(crate) fn ended_badly(&mut self, batch: &[Polled], reason: &str, is_much: bool, now: Instant) {
        let suspects = self.suspects.len();
        self.suspects.retain(|group| !is_of(group, batch));
        if is_much && self.suspects.len() == suspects && batch.len() > 1 {
            (self.largest, self.quiet) = (batch.len().div_ceil(2), 0);
        }
        match batch {
            [] => {}
            [alone] => {
                let times = self.set_aside.get(&alone.id).map_or(0, |aside| aside.times) + 1;
                let aside = SetAside { reason: reason.to_owned(), times, retry_at: now + backoff(times) };
                self.set_aside.insert(alone.id.clone(), aside);
            }
            several => {
                let (first, second) = several.split_at(several.len() / 2);
                let ids = |batch: &[Polled]| batch.iter().map(|polled| polled.id.clone()).collect();
                self.suspects.extend([ids(first), ids(second)]);
            }
        }
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
        (0..count).map(|nth| Polled { id: id(nth), generation: 1, labels: Default::default() }).collect()
    }

    /// A tick with a plugin that some instances end; which had an answer, and how many calls did not.
    fn tick(batches: &mut Batches, all: &[Polled], poison: &[usize], now: Instant) -> (Vec<Polled>, usize) {
        let (mut answered, mut ended) = (Vec::new(), 0);
        for batch in batches.of(all, now) {
            assert!(batch.len() <= LARGEST);
            if poison.iter().any(|&nth| batch.contains(&all[nth])) {
                batches.ended_badly(&batch, "trapped", false, now);
                ended += 1;
            } else {
                batches.came_back(&batch);
                answered.extend(batch.iter().cloned());
            }
        }
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
        let mut ended = Vec::new();
        for _ in 0..20 {
            let mut of_tick = 0;
            for batch in batches.of(&all, now) {
                if batch.len() > 300 {
                    batches.ended_badly(&batch, "used too much", true, now);
                    of_tick += 1;
                } else {
                    batches.came_back(&batch);
                }
            }
            ended.push(of_tick);
        }
        assert_eq!((ended[0], ended.iter().rev().take(15).sum::<usize>()), (4, 0), "{ended:?}");
        assert!(batches.set_aside().is_empty());
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
