//! What was published last, for readers that were away for a moment.

use super::event::Event;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of events that are kept at most.
const MOST_BYTES: usize = 16 << 20;

/// Moments that are remembered at most.
const MOST_MOMENTS: usize = 256;

/// The newest events, in order.
#[derive(Debug)]
pub(super) struct Log {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// The last one that is not there any more.
    dropped_to: u64,
    moments: Moments,
}

/// What times events are of, since the start: fewer and fewer of them the longer it runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Moments {
    start_ms: i64,
    /// Some sequences, and the earliest time any event from there on is of. Both ascend.
    known: Vec<(u64, i64)>,
    /// Between two of them at least.
    stride_ms: i64,
}

impl Log {
    pub(super) fn new(start_ms: i64) -> Self {
        let moments = Moments { start_ms, known: Vec::new(), stride_ms: 1000 };
        Self { events: VecDeque::new(), bytes: 0, dropped_to: 0, moments }
    }

    /// Keeps so many at most. `at_ms`: the time it is of, unless that was long ago.
    pub(super) fn push(&mut self, event: Arc<Event>, at_ms: Option<i64>, most: usize) {
        if let Some(at_ms) = at_ms {
            self.moments.note(event.sequence, at_ms);
        }
        self.bytes += event.size();
        self.events.push_back(event);
        while self.events.len() > most || self.bytes > MOST_BYTES {
            let Some(oldest) = self.events.pop_front() else { return };
            self.bytes -= oldest.size();
            self.dropped_to = oldest.sequence;
        }
    }

    /// What came after one; none if some of it is not there any more.
    pub(super) fn after(&self, sequence: u64) -> Option<impl Iterator<Item = &Arc<Event>>> {
        let is_there = sequence >= self.dropped_to;
        let begin = self.events.partition_point(|event| event.sequence <= sequence);
        is_there.then(|| self.events.range(begin..).filter(|event| !event.is_discarded()))
    }

    pub(super) fn has_dropped(&self, sequence: u64) -> bool {
        self.dropped_to > sequence
    }

    pub(super) fn moments(&self) -> &Moments {
        &self.moments
    }

    /// A time before which a reader that has seen an event has seen everything.
    pub(super) fn seen_by_ms(&self, sequence: u64) -> i64 {
        self.moments.before(sequence)
    }
}

impl Moments {
    fn note(&mut self, sequence: u64, at_ms: i64) {
        // Samplers publish late what was read before others published, and clocks are set back.
        for (_, earliest_ms) in self.known.iter_mut().rev().take_while(|(_, earliest_ms)| *earliest_ms > at_ms) {
            *earliest_ms = at_ms;
        }
        if self.known.last().is_some_and(|(_, last_ms)| at_ms.saturating_sub(*last_ms) < self.stride_ms) {
            return;
        }
        self.known.push((sequence, at_ms));
        if self.known.len() > MOST_MOMENTS {
            let mut nth = 0;
            self.known.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
            self.stride_ms *= 2;
        }
    }

    pub(super) fn before(&self, sequence: u64) -> i64 {
        let behind = self.known.partition_point(|(known, _)| *known <= sequence);
        let earliest_ms = |nth: usize| self.known.get(nth).map(|(_, at_ms)| *at_ms);
        match behind.checked_sub(1) {
            Some(nth) => earliest_ms(nth).unwrap_or(self.start_ms),
            // The clock may have been set back since the start.
            None => earliest_ms(0).map_or(self.start_ms, |at_ms| at_ms.min(self.start_ms)),
        }
    }
}
