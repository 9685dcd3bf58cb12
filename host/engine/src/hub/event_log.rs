//! The events published last, for readers that were away for a moment.

use super::event::StreamEvent;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// The most bytes of events that are kept.
const MOST_BYTES: usize = 16 << 20;

/// The most moments that are remembered.
const MOST_MOMENTS: usize = 256;

/// The newest events, in order.
#[derive(Debug)]
pub(super) struct EventLog {
    events: VecDeque<Arc<StreamEvent>>,
    bytes: usize,
    /// The sequence of the last event that was dropped.
    dropped_to: u64,
    moments: EventTimes,
}

/// The times of events since the start. The longer the host runs, the further apart they are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct EventTimes {
    start_ms: i64,
    /// Some sequences, each with the earliest time of any event from there on. Both ascend.
    known: Vec<(u64, i64)>,
    /// The shortest time between two of them, in milliseconds.
    stride_ms: i64,
}

impl EventLog {
    pub(super) fn new(start_ms: i64) -> Self {
        let moments = EventTimes { start_ms, known: Vec::new(), stride_ms: 1000 };
        Self { events: VecDeque::new(), bytes: 0, dropped_to: 0, moments }
    }

    /// Adds an event, and keeps the `most` newest events. `at_ms`: the time of the event, unless that was long ago.
    pub(super) fn push(&mut self, event: Arc<StreamEvent>, at_ms: Option<i64>, most: usize) {
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

    /// Returns the events after a sequence; none if some of them were dropped.
    pub(super) fn after(&self, sequence: u64) -> Option<impl Iterator<Item = &Arc<StreamEvent>>> {
        let is_there = sequence >= self.dropped_to;
        let begin = self.events.partition_point(|event| event.sequence <= sequence);
        is_there.then(|| self.events.range(begin..).filter(|event| !event.is_discarded()))
    }

    /// Returns whether an event after a sequence was dropped.
    pub(super) fn has_dropped(&self, sequence: u64) -> bool {
        self.dropped_to > sequence
    }

    pub(super) fn moments(&self) -> &EventTimes {
        &self.moments
    }

    /// Returns a time before which a reader has seen everything, if it has seen the event of this sequence.
    pub(super) fn seen_by_ms(&self, sequence: u64) -> i64 {
        self.moments.before(sequence)
    }
}

impl EventTimes {
    fn note(&mut self, sequence: u64, at_ms: i64) {
        // Times of events do not always ascend: samplers publish late, and clocks are set back.
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
