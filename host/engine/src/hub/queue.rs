//! The queue of one reader inside the process: it holds a bounded number of events.

use super::event::StreamEvent;
use std::collections::VecDeque;
use std::sync::Arc;

/// The capacity that is kept when all events have been taken.
const KEPT: usize = 8;

/// A queue of events, the oldest first.
#[derive(Debug)]
pub(super) struct ReaderQueue {
    /// Events, each with the number of events lost just before it.
    waiting: VecDeque<(u64, Arc<StreamEvent>)>,
    /// The most events that may wait.
    most: usize,
    /// Events lost since the last one in the queue.
    lost: u64,
}

impl ReaderQueue {
    pub(super) fn new(most: usize) -> Self {
        Self { waiting: VecDeque::new(), most, lost: 0 }
    }

    /// Adds an event, or counts it as lost if there is no room. Returns whether there was.
    pub(super) fn offer(&mut self, event: &Arc<StreamEvent>) -> bool {
        if self.waiting.len() >= self.most {
            self.lost += 1;
            return false;
        }
        self.waiting.push_back((std::mem::take(&mut self.lost), event.clone()));
        true
    }

    /// Returns the number of events lost just before the next one, and that one.
    pub(super) fn pop(&mut self) -> Option<(u64, Arc<StreamEvent>)> {
        let next = self.waiting.pop_front()?;
        if self.waiting.is_empty() {
            self.waiting.shrink_to(KEPT);
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{EventContent, EventSubject};
    use super::*;

    #[test]
    fn the_number_of_lost_events_comes_with_the_next_event() {
        let mut queue = ReaderQueue::new(2);
        let event = Arc::new(StreamEvent::new(
            &"b007".into(),
            1,
            EventSubject::Workload("w".to_owned()),
            EventContent::Untracked,
        ));
        assert!(queue.offer(&event) && queue.offer(&event));
        assert!(!queue.offer(&event) && !queue.offer(&event) && !queue.offer(&event));
        let lost = |queue: &mut ReaderQueue| queue.pop().unwrap().0;
        assert_eq!(lost(&mut queue), 0);
        assert!(queue.offer(&event));
        assert_eq!((lost(&mut queue), lost(&mut queue)), (0, 3));
        assert!(queue.pop().is_none());
    }
}
