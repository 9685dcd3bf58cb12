//! The queue of one reader inside the process: it holds a bounded number of events.

use super::event::Event;
use std::collections::VecDeque;
use std::sync::Arc;

/// Events whose room is kept when all have been taken.
const KEPT: usize = 8;

/// Events, the oldest first.
#[derive(Debug)]
pub(super) struct Queue {
    /// With how many were lost just before each.
    waiting: VecDeque<(u64, Arc<Event>)>,
    /// Events that may wait.
    most: usize,
    lost: u64,
}

impl Queue {
    pub(super) fn new(most: usize) -> Self {
        Self { waiting: VecDeque::new(), most, lost: 0 }
    }

    /// Adds an event, or counts it as lost where there is no room. Whether there was.
    pub(super) fn offer(&mut self, event: &Arc<Event>) -> bool {
        if self.waiting.len() >= self.most {
            self.lost += 1;
            return false;
        }
        self.waiting.push_back((std::mem::take(&mut self.lost), event.clone()));
        true
    }

    /// The next event, and how many were lost just before it.
    pub(super) fn pop(&mut self) -> Option<(u64, Arc<Event>)> {
        let next = self.waiting.pop_front()?;
        if self.waiting.is_empty() {
            self.waiting.shrink_to(KEPT);
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Of, What};
    use super::*;

    #[test]
    fn what_is_lost_is_counted_before_the_next_event() {
        let mut queue = Queue::new(2);
        let event = Arc::new(Event::new(&"b007".into(), 1, Of::Workload("w".to_owned()), What::Untracked));
        assert!(queue.offer(&event) && queue.offer(&event));
        assert!(!queue.offer(&event) && !queue.offer(&event) && !queue.offer(&event));
        let lost = |queue: &mut Queue| queue.pop().unwrap().0;
        assert_eq!(lost(&mut queue), 0);
        assert!(queue.offer(&event));
        assert_eq!((lost(&mut queue), lost(&mut queue)), (0, 3));
        assert!(queue.pop().is_none());
    }
}
