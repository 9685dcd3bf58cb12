//! Divides history into windows, and windows into requests.

use super::catalogue::{Catalogue, PARTS_AT_ONCE, PartSamples};
use super::cursor::{CursorPlace, MOST_PARTS};
use super::destination::{Destination, DestinationConfig};
use super::history::History;
use super::otlp::Starts;
use super::relabel::Relabeling;
use super::request::{Format, OpenPart, REQUEST_BYTES, ReadyRequest};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The most samples of a window, about. They are not in memory at the same time.
const WINDOW_SAMPLES: usize = 20_000_000;

/// Windows up to this length have about as many samples as the one before, unless that was much shorter.
const SHORT_MS: i64 = 10_000;

/// An instance has about so many series in one part of a window.
const SERIES_OF_INSTANCE: i64 = 16;

/// The longest window that is tried, where there are no samples.
const LONGEST_WINDOW_MS: i64 = 30 * 86_400_000;

/// Windows after which larger requests are tried again.
const SMALL_WINDOWS: u32 = 100;

/// How much of the most samples of a window is left with each further one: samplers come seldom, and many at a time.
const FADES: f64 = 0.98;

/// Samples that history has lost for so long count as lost. It is longer than a turn takes.
const EXPIRED_MS: i64 = 60_000;

/// The clock was set back by so much at least if the time of what was sent last is so far ahead. Smaller steps are waited
/// for: a server takes no older sample of a series, and after a step ahead by more it took none.
const SET_BACK_MS: i64 = 600_000;

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Send a window in some parts.
    Send(Range<i64>, usize),
    /// Nothing is new.
    Wait,
    /// The clock was set back: go on at its time.
    SetBack(i64),
    /// The clock has caught up with the time of what was sent before it was set back: go on there.
    CaughtUp(i64),
    /// History has nothing before a time any more.
    Expired(i64),
}

/// The requests of one part of a window, to be sent one after the other.
pub(super) struct ReadyPart {
    pub(super) part: usize,
    pub(super) format: Format,
    pub(super) requests: Vec<ReadyRequest>,
}

/// Makes the requests for one server.
#[derive(Debug)]
pub(super) struct Outbox {
    history: Arc<dyn History>,
    config: DestinationConfig,
    relabeling: Relabeling,
    catalogue: Option<Catalogue>,
    /// The time from which on the server was sent samples.
    began_ms: i64,
    pub(super) format: Format,
    starts: Starts,
    pub(super) max_samples: usize,
    /// The longest window that is tried next; longer where there are no samples.
    reach_ms: i64,
    /// The most samples of the last windows, where older ones count less.
    most_samples: f64,
    /// The length of the last window that had samples; 0 at first.
    last_ms: i64,
    /// Windows since the server last asked for smaller requests.
    windows: u32,
}

impl Outbox {
    /// Makes requests of samples from `began_ms` on. `starts`: what is known of the beginnings of counters.
    pub(super) fn new(
        history: Arc<dyn History>,
        destination: Destination,
        began_ms: i64,
        starts: Starts,
    ) -> anyhow::Result<Self> {
        let format = Format::of(&destination);
        let config = destination.config;
        let (relabeling, max_samples) = (Relabeling::new(&config.relabel)?, config.max_samples);
        Ok(Self {
            history,
            config,
            relabeling,
            catalogue: None,
            began_ms,
            format,
            starts,
            max_samples,
            reach_ms: 0,
            most_samples: 0.0,
            last_ms: 0,
            windows: 0,
        })
    }

    /// Begins at another place.
    pub(super) fn begin_at(&mut self, began_ms: i64) {
        self.starts.rewind();
        self.catalogue = None;
        self.began_ms = began_ms;
    }

    /// Begins at an earlier place, because the clock was set back.
    pub(super) fn set_back(&mut self, began_ms: i64) {
        self.starts.forget();
        self.begin_at(began_ms);
    }

    /// Begins again at the start of a window.
    pub(super) fn rewind(&mut self, from_ms: i64) {
        self.starts.rewind();
        if let Some(before) = self.catalogue.take() {
            self.catalogue = Some(self.list(from_ms).begins_again(before));
        }
    }

    /// Plans the next step from the place of the cursor. May read files.
    pub(super) fn plan(&mut self, place: &CursorPlace) -> Plan {
        if !self.history.is_ready() {
            return Plan::Wait;
        }
        let CursorPlace { window, parts, ahead_ms } = place.clone();
        let (from_ms, complete_ms) = (window.start, self.history.complete_before_ms());
        if from_ms.saturating_sub(complete_ms) > SET_BACK_MS {
            return Plan::SetBack(complete_ms);
        }
        if let Some(ahead_ms) = ahead_ms.filter(|ahead_ms| (from_ms.saturating_add(1)..=complete_ms).contains(ahead_ms))
        {
            return Plan::CaughtUp(ahead_ms);
        }
        if !window.is_empty() {
            self.refresh(from_ms);
            return Plan::Send(window, parts);
        }
        let kept_ms = self.history.kept_since_ms();
        if from_ms < kept_ms.saturating_sub(EXPIRED_MS) {
            return Plan::Expired(kept_ms);
        }
        if complete_ms.saturating_sub(from_ms) < self.history.least_window_ms(&self.config) {
            return Plan::Wait;
        }
        let usual_ms = match self.refresh(from_ms).interval_ms() {
            i64::MAX => LONGEST_WINDOW_MS,
            interval_ms => interval_ms.saturating_mul(self.max_samples as i64) / SERIES_OF_INSTANCE,
        };
        self.reach_ms = self.reach_ms.max(usual_ms).clamp(1000, LONGEST_WINDOW_MS);
        let mut window = from_ms..complete_ms.min(from_ms.saturating_add(self.reach_ms));
        let is_usual = window.end - from_ms <= SHORT_MS.min(self.last_ms.saturating_mul(2));
        if window.end == complete_ms && is_usual {
            // To count them would cost as much as to read them.
            return Plan::Send(window, self.parts(self.most_samples as usize));
        }
        let Some(catalogue) = &self.catalogue else { return Plan::Wait };
        let mut samples = catalogue.samples_in(&window);
        while samples > WINDOW_SAMPLES && window.end - from_ms > 1000 {
            let share = WINDOW_SAMPLES as f64 / samples as f64;
            let shorter_ms = ((window.end - from_ms) as f64 * share.min(0.9)) as i64;
            window.end = from_ms + shorter_ms.max(1000);
            samples = catalogue.samples_in(&window);
        }
        let block_start = catalogue.block_start(window.end);
        if window.end < complete_ms && block_start > from_ms {
            window.end = block_start;
            samples = catalogue.samples_in(&window);
        }
        Plan::Send(window, self.parts(samples))
    }

    /// Returns into how many parts a window with some samples is divided.
    fn parts(&self, samples: usize) -> usize {
        let series = self.catalogue.as_ref().map_or(0, Catalogue::len);
        let bytes = self.format.bytes(samples, series);
        // Not quite full, because the parts are not all of the same size.
        let parts = (samples * 5 / 4).div_ceil(self.max_samples).max(bytes.div_ceil(REQUEST_BYTES * 3 / 4));
        let parts = parts.clamp(1, MOST_PARTS);
        // Whole groups, so that no part stays empty.
        if parts < PARTS_AT_ONCE { parts } else { parts / PARTS_AT_ONCE * PARTS_AT_ONCE }
    }

    fn list(&self, from_ms: i64) -> Catalogue {
        let Self { history, relabeling, config, began_ms, format, .. } = self;
        let keeps_whole = format.keeps_families_whole();
        Catalogue::new(&**history, relabeling, &config.external_labels, keeps_whole, *began_ms, from_ms)
    }

    /// Finds out again when counters began, as far as a crash has lost that.
    fn find_starts(&mut self, from_ms: i64) {
        let Some(since_ms) = self.starts.missing_since_ms(from_ms).filter(|_| self.format.needs_all_parts()) else {
            return;
        };
        self.catalogue = Some(self.list(since_ms));
        match self.make(&(since_ms..from_ms), 1, &(0..1), &|_| true) {
            Ok(_) => self.starts.sent(from_ms),
            Err(error) => tracing::warn!(%error, "cannot find out when counters began; they begin anew"),
        }
        self.catalogue = None;
    }

    /// Lists the series anew if there are others by now.
    fn refresh(&mut self, from_ms: i64) -> &mut Catalogue {
        if self.catalogue.is_none() {
            self.find_starts(from_ms);
        }
        let catalogue = match self.catalogue.take() {
            Some(known) if !known.is_old(&*self.history) => known,
            Some(old) => {
                tracing::debug!(series = old.len(), "lists series anew, because some came or went");
                self.list(from_ms).follows(old)
            }
            None => self.list(from_ms),
        };
        let catalogue = self.catalogue.insert(catalogue);
        if self.format.has_metadata() {
            catalogue.read_metadata(&*self.history);
        }
        catalogue
    }

    /// Makes the requests of some parts of a window, which has `parts` of them. Those that the server has are read all the
    /// same: what their samples say of the ends of series counts for the next window. May read files.
    pub(super) fn make(
        &mut self,
        window: &Range<i64>,
        parts: usize,
        wanted: &Range<usize>,
        has: &dyn Fn(usize) -> bool,
    ) -> anyhow::Result<Vec<ReadyPart>> {
        let Self { format, max_samples, starts, catalogue, .. } = self;
        let Some(catalogue) = catalogue else { return Ok(Vec::new()) };
        let is_made = |part: usize| format.needs_all_parts() || !has(part);
        let mut made: BTreeMap<usize, OpenPart> = BTreeMap::new();
        let mut failed = None;
        catalogue.read(window, parts, &|part| wanted.contains(&part), &mut |samples| {
            let PartSamples { part, series, at_ms, values } = samples;
            if is_made(part) {
                let open = made.entry(part).or_insert_with(|| format.open(*max_samples));
                failed = open.add(series, at_ms, values).err().or(failed.take());
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let mut ready = Vec::new();
        for (part, open) in made {
            if has(part) {
                open.follow(starts)?;
            } else {
                ready.push(ReadyPart { part, format: format.clone(), requests: open.finish(starts)? });
            }
        }
        Ok(ready)
    }

    /// Makes smaller requests, because the server wants that. Returns the most samples of one.
    pub(super) fn make_smaller(&mut self) -> usize {
        (self.max_samples, self.windows) = ((self.max_samples / 2).max(1), 0);
        self.max_samples
    }

    /// Notes that a window was sent, and how many samples it had.
    pub(super) fn sent(&mut self, window: &Range<i64>, samples: usize) {
        self.catalogue.iter_mut().for_each(Catalogue::sent);
        self.starts.sent(window.end);
        self.most_samples = (self.most_samples * FADES).max(samples as f64);
        if samples > 0 {
            self.last_ms = window.end.saturating_sub(window.start);
        }
        self.windows += 1;
        if self.windows >= SMALL_WINDOWS && self.max_samples < self.config.max_samples {
            (self.max_samples, self.windows) = ((self.max_samples * 2).min(self.config.max_samples), 0);
        }
        self.reach_ms = if samples == 0 { self.reach_ms.saturating_mul(2) } else { 0 };
    }
}
