//! What waits for one reader: so many events at most, and so many bytes. Each has some bytes of its own; beyond them those of
//! all readers come from one pool, half of which one peer may have.

use super::event::Event;
use crate::places::{PeerId, Place, Places, Share};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bytes that may wait for each reader, whatever others do: some ten events.
const OWN: usize = 16 << 10;

/// Bytes that are taken from the pool at a time.
const STEP: usize = 64 << 10;

/// Events whose room is kept when all have been taken.
const KEPT: usize = 8;

/// Bytes that all readers' queues may take beyond their own.
#[derive(Debug)]
pub(super) struct Pool {
    taken: Arc<Places>,
    most: AtomicUsize,
}

/// Events, the oldest first.
#[derive(Debug)]
pub(super) struct Queue {
    /// With how many were lost just before each.
    waiting: VecDeque<(u64, Arc<Event>)>,
    bytes: usize,
    /// Events that may wait.
    most: usize,
    lost: u64,
    /// Whose share of the pool it takes from. None: it is a program's own, and only events are counted.
    pool: Option<(Arc<Pool>, PeerId)>,
    held: Option<Place>,
}

impl Pool {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { taken: Arc::default(), most: AtomicUsize::new(usize::MAX) })
    }

    pub(super) fn allow(&self, bytes: usize) {
        self.most.store(bytes, Relaxed);
    }

    pub(super) fn most(&self) -> usize {
        self.most.load(Relaxed)
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.taken.taken()
    }
}

impl Queue {
    pub(super) fn new(most: usize, pool: Option<(Arc<Pool>, PeerId)>) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, most, lost: 0, pool, held: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Adds an event, or counts it as lost where there is no room. Whether there was.
    pub(super) fn offer(&mut self, event: &Arc<Event>) -> bool {
        let bytes = self.bytes.saturating_add(event.size());
        if self.waiting.len() >= self.most || !self.has_room(bytes) {
            self.lost += 1;
            return false;
        }
        self.bytes = bytes;
        self.waiting.push_back((std::mem::take(&mut self.lost), event.clone()));
        true
    }

    /// What was lost is told elsewhere.
    pub(super) fn forget_lost(&mut self) {
        self.lost = 0;
    }

    /// The next event, and how many were lost just before it.
    pub(super) fn pop(&mut self) -> Option<(u64, Arc<Event>)> {
        let (lost, event) = self.waiting.pop_front()?;
        self.bytes = self.bytes.saturating_sub(event.size());
        if self.waiting.is_empty() {
            (self.bytes, self.held) = (0, None);
            self.waiting.shrink_to(KEPT);
        }
        Some((lost, event))
    }

    /// Takes as much from the pool as is needed for so many bytes.
    fn has_room(&mut self, bytes: usize) -> bool {
        let Some((pool, peer)) = self.pool.as_ref().filter(|_| bytes > OWN && !self.waiting.is_empty()) else {
            return true;
        };
        let needed = bytes - OWN;
        if self.held.as_ref().is_some_and(|held| held.count() >= needed) {
            return true;
        }
        let (needed, most) = (needed.next_multiple_of(STEP), pool.most.load(Relaxed));
        match &mut self.held {
            Some(held) => held.resize(needed, most, most / 2).is_ok(),
            none => {
                *none = pool.taken.take_many(needed, most, Some(Share { peer: *peer, most: most / 2 })).ok();
                none.is_some()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Of, What};
    use super::*;
    use dropsonde_store::Sample;
    use std::net::Ipv4Addr;

    fn event() -> Arc<Event> {
        let values = (0..20).map(|nth| (format!("field_{nth}").into(), 1.5)).collect();
        let what = What::Usage(Sample { at_ms: 0, values });
        Arc::new(Event::new(&"b007".into(), 1, Of::Workload("w".to_owned()), what))
    }

    fn queue(pool: &Arc<Pool>, peer: u32) -> Queue {
        Queue::new(1 << 16, Some((pool.clone(), PeerId::Ip(Ipv4Addr::from_bits(peer).into()))))
    }

    fn fill(queue: &mut Queue) -> usize {
        let event = event();
        (0..10_000).take_while(|_| queue.offer(&event)).count()
    }

    #[test]
    fn one_peer_has_half_of_all_bytes_and_each_reader_some_of_its_own() {
        let pool = Pool::new();
        pool.allow(4 * STEP);
        let own = OWN / event().size();
        let (mut first, mut second, mut other) = (queue(&pool, 1), queue(&pool, 1), queue(&pool, 2));
        assert_eq!(fill(&mut first), (OWN + 2 * STEP) / event().size());
        assert_eq!(fill(&mut second), own, "its peer has its share");
        assert_eq!(fill(&mut other), (OWN + 2 * STEP) / event().size());
        assert_eq!(pool.taken(), 4 * STEP);
        assert_eq!(fill(&mut queue(&pool, 3)), own, "there is no more");
        while first.pop().is_some() {}
        assert_eq!(pool.taken(), 2 * STEP);
        assert!(first.waiting.capacity() <= KEPT, "memory is given back");
        drop(other);
        assert_eq!(pool.taken(), 0);
    }

    #[test]
    fn what_is_lost_is_counted_before_the_next_event() {
        let mut queue = Queue::new(2, None);
        let event = event();
        assert!(queue.offer(&event) && queue.offer(&event));
        assert!(!queue.offer(&event) && !queue.offer(&event) && !queue.offer(&event));
        let lost = |queue: &mut Queue| queue.pop().unwrap().0;
        assert_eq!(lost(&mut queue), 0);
        assert!(queue.offer(&event));
        assert_eq!((lost(&mut queue), lost(&mut queue)), (0, 3));
        assert!(queue.pop().is_none());
    }
}
