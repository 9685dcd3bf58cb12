//! The requests of one call.

use crate::request::{RequestSettings, Secrets};
use dropsonde_guest::clock::Instant;
use dropsonde_guest::http::{Progress, Request, exchange_all};
use dropsonde_guest::{Readings, Tick};
use std::ops::ControlFlow;
use std::time::Duration;

/// By how many requests each call begins later than the one before.
const STRIDE: u64 = 37;

/// When a target was asked last.
#[derive(Debug, Default)]
pub struct LastRequest(Option<u64>);

/// The requests of one call. They are sent together.
#[derive(Debug)]
pub struct Round<T> {
    began: Instant,
    secrets: Secrets,
    requests: Vec<Request>,
    visits: Vec<Visit<T>>,
    /// Those that cannot be asked.
    failed: Vec<Visit<T>>,
}

/// A request, and what came of it.
#[derive(Debug)]
pub struct Visit<T> {
    /// The target's row in the readings.
    pub row: usize,
    /// What the plugin keeps of the response.
    pub found: T,
    /// Why there is no response, or why it is not as it should be.
    pub failure: Option<String>,
    /// The time until the response's head, if it came.
    pub first_byte_ms: Option<f64>,
    pub total_ms: f64,
    /// How long after the beginning of the call the request was sent.
    offset_ms: i32,
    began: Instant,
    is_over: bool,
}

// === impl LastRequest ===

impl LastRequest {
    /// Returns whether it is time for the next request, to half an interval between two ticks. If so, the next one is
    /// due after another interval. `interval`: none for every tick.
    pub fn is_due(&mut self, tick: &Tick, interval: Option<Duration>) -> bool {
        let waits = self.0.zip(interval).is_some_and(|(last_ms, interval)| {
            let passed_ms = u128::from(tick.at_ms.abs_diff(last_ms)) + u128::from(tick.interval_ms / 2);
            passed_ms < interval.as_millis()
        });
        if !waits {
            self.0 = Some(tick.at_ms);
        }
        !waits
    }
}

// === impl Round ===

impl<T> Default for Round<T> {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            secrets: Secrets::default(),
            requests: Vec::new(),
            visits: Vec::new(),
            failed: Vec::new(),
        }
    }
}

impl<T> Round<T> {
    /// Adds a request. `row`: the target's row. `found`: what is known before the response.
    pub fn ask(&mut self, row: usize, request: Request, settings: &RequestSettings, found: T) {
        let mut visit = Visit {
            row,
            found,
            failure: None,
            first_byte_ms: None,
            total_ms: 0.0,
            offset_ms: 0,
            began: self.began,
            is_over: false,
        };
        match settings.complete(request, &mut self.secrets) {
            Ok(request) => {
                self.requests.push(request);
                self.visits.push(visit);
            }
            Err(why) => {
                visit.failure = Some(why);
                self.failed.push(visit);
            }
        }
    }

    /// Sends all requests, and returns their visits in any order. `take` gets heads and pieces of bodies; after an
    /// error it gets no more of that response.
    pub fn go(
        mut self,
        tick: &Tick,
        mut take: impl FnMut(&mut T, &Progress<'_>) -> Result<(), String>,
    ) -> Vec<Visit<T>> {
        // Each call begins with others, so that many that do not answer leave time to all in turn.
        let turn = tick.at_ms.checked_div(u64::from(tick.interval_ms)).unwrap_or(0).wrapping_mul(STRIDE);
        let first = usize::try_from(turn).unwrap_or(0).checked_rem(self.requests.len()).unwrap_or(0);
        self.requests.rotate_left(first);
        self.visits.rotate_left(first);
        // Some of the interval is left for what comes last.
        let timeout = Duration::from_millis(u64::from(tick.interval_ms)).mul_f64(0.9);
        let (began, visits) = (self.began, &mut self.visits);
        exchange_all(&self.requests, timeout, &mut |nth, progress| {
            let Some(visit) = visits.get_mut(nth) else { return ControlFlow::Break(()) };
            visit.note(&progress, began);
            if visit.failure.is_none() {
                visit.failure = match &progress {
                    Progress::Sent => None,
                    Progress::Head(_) | Progress::Body(_) => take(&mut visit.found, &progress).err(),
                    Progress::End(end) => end.as_ref().err().map(ToString::to_string),
                };
            }
            match visit.failure {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            }
        });
        for visit in self.visits.iter_mut().filter(|visit| !visit.is_over && visit.failure.is_none()) {
            visit.failure = Some("no answer in time".to_owned());
        }
        self.visits.append(&mut self.failed);
        self.visits
    }
}

// === impl Visit ===

impl<T> Visit<T> {
    fn note(&mut self, progress: &Progress<'_>, call_began: Instant) {
        let now = Instant::now();
        match progress {
            Progress::Sent => {
                self.began = now;
                self.offset_ms = i32::try_from((now - call_began).as_millis()).unwrap_or(0);
            }
            Progress::Head(_) => self.first_byte_ms = Some((now - self.began).as_secs_f64() * 1000.0),
            Progress::Body(_) => {}
            Progress::End(_) => self.is_over = true,
        }
        self.total_ms = (now - self.began).as_secs_f64() * 1000.0;
    }

    /// Returns the target's row in the readings, after it has got its time.
    pub fn row<'a>(&self, readings: &'a mut Readings, fields: usize) -> Option<&'a mut [f64]> {
        *readings.offsets_ms.get_mut(self.row)? = self.offset_ms;
        let start = self.row * fields;
        readings.values.get_mut(start..start + fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_asked_once_in_each_of_its_intervals() {
        let mut last = LastRequest::default();
        let minute = Some(Duration::from_secs(60));
        let mut asked = |at_ms, interval| {
            last.is_due(&Tick { at_ms, monotonic_ns: 0, budget_ms: 1, interval_ms: 10_000 }, interval)
        };
        let ticks = [0, 10_000, 50_000, 60_000, 70_000, 119_000];
        assert_eq!(ticks.map(|at_ms| asked(at_ms, minute)), [true, false, false, true, false, true]);
        assert!(asked(120_000, None));
    }
}
