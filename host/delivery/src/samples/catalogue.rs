//! The series that a server gets, with their labels, and their samples window by window.

use super::history::History;
use super::relabel::Relabeling;
use super::request::SentSeries;
use dropsonde_engine::series::{Metadata, SeriesState};
use dropsonde_model::labels::NAME;
use dropsonde_model::{Labels, MetricType};
use dropsonde_store::{STALE, SeriesColumn, SeriesTail};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::time::{Duration, Instant};
use xxhash_rust::xxh64::xxh64;

/// The parts of a window that are read together.
pub(super) const PARTS_AT_ONCE: usize = 16;

/// The time between two reads of what is known of metrics: it costs as much as a scrape.
const METADATA_READ: Duration = Duration::from_secs(60);

/// The series that a server gets, at some time.
#[derive(Debug)]
pub(super) struct Catalogue {
    /// None: it never changes.
    state: Option<SeriesState>,
    series: Vec<CatalogueSeries>,
    tail: SeriesTail,
    /// The labels of series that are gone, whose end the server does not know yet.
    gone: Vec<CatalogueSeries>,
    /// The shortest scheduled time between two samples, in milliseconds.
    interval_ms: i64,
    metadata: BTreeMap<String, Metadata>,
    metadata_read: Option<Instant>,
}

/// A series that a server gets.
#[derive(Debug, Clone)]
struct CatalogueSeries {
    labels: Labels,
    /// A number of its labels. There is no other series of this number but once in many thousand years.
    number: u64,
    metric_type: MetricType,
    place: SeriesPlace,
}

/// Samples of a series in a window, with the number of the part that they are in.
#[derive(Debug, Clone, Copy)]
pub(super) struct PartSamples<'a> {
    pub(super) part: usize,
    pub(super) series: SentSeries<'a>,
    pub(super) at_ms: &'a [i64],
    pub(super) values: &'a [f64],
}

/// Two numbers of a series that tell its part of a window. They depend on its labels alone, so that the part is the same
/// after a restart.
#[derive(Debug, Clone, Copy)]
struct SeriesPlace {
    /// A number of its instance, whose series are in neighbouring parts: they are read together.
    instance: u64,
    series: u64,
}

impl Catalogue {
    /// Lists the series that are sent, and goes on with their samples at a time. The server was sent samples since
    /// `began_ms`. `keeps_whole`: the series of a histogram are in the same part of a window. May read files.
    pub(super) fn new(
        history: &dyn History,
        relabeling: &Relabeling,
        external: &BTreeMap<String, String>,
        keeps_whole: bool,
        began_ms: i64,
        from_ms: i64,
    ) -> Self {
        // First, so that a change meanwhile is noticed.
        let state = history.state();
        // Rules and external labels can give several series the same labels: they are one for the server.
        let can_merge = relabeling.can_merge() || !external.is_empty();
        let mut known: HashMap<Labels, usize> = HashMap::new();
        let (mut series, mut columns): (Vec<CatalogueSeries>, Vec<Vec<SeriesColumn>>) = (Vec::new(), Vec::new());
        let mut interval_ms = i64::MAX;
        for found in history.series() {
            let Some(labels) = relabeling.apply(&found.labels, external) else { continue };
            let shortest_ms = found.columns.iter().map(|column| column.frame.interval_ms()).min();
            interval_ms = interval_ms.min(shortest_ms.unwrap_or(i64::MAX));
            if can_merge {
                if let Some(columns) = known.get(&labels).and_then(|number| columns.get_mut(*number)) {
                    columns.extend(found.columns);
                    continue;
                }
                known.insert(labels.clone(), columns.len());
            }
            let number = xxh64(labels.as_text().as_bytes(), 0);
            let place = SeriesPlace::of(&labels, number, found.metric_type, keeps_whole);
            series.push(CatalogueSeries { labels, number, metric_type: found.metric_type, place });
            columns.push(found.columns);
        }
        let tail = SeriesTail::new(columns, began_ms, from_ms);
        let (gone, metadata) = (Vec::new(), BTreeMap::new());
        Self { state, series, tail, gone, interval_ms, metadata, metadata_read: None }
    }

    /// Returns whether there are other series by now.
    pub(super) fn is_old(&self, history: &dyn History) -> bool {
        self.state != history.state()
    }

    /// Takes the place of an earlier one: series that were alive there and are gone end.
    pub(super) fn follows(mut self, before: Self) -> Self {
        let known: HashSet<u64> = self.series.iter().map(|series| series.number).collect();
        let live = before.tail.live().filter_map(|index| before.series.get(index));
        let ended = live.chain(&before.gone).filter(|series| !known.contains(&series.number));
        self.gone = ended.cloned().collect();
        (self.metadata, self.metadata_read) = (before.metadata, before.metadata_read);
        self
    }

    /// Takes the place of an earlier one whose window is sent again.
    pub(super) fn begins_again(mut self, before: Self) -> Self {
        (self.gone, self.metadata, self.metadata_read) = (before.gone, before.metadata, before.metadata_read);
        self
    }

    /// Notes that a window was sent.
    pub(super) fn sent(&mut self) {
        self.gone = Vec::new();
    }

    /// Reads what is known of metrics, unless it was read lately.
    pub(super) fn read_metadata(&mut self, history: &dyn History) {
        if self.metadata_read.is_none_or(|read| read.elapsed() >= METADATA_READ) {
            (self.metadata, self.metadata_read) = (history.metadata(), Some(Instant::now()));
        }
    }

    pub(super) fn interval_ms(&self) -> i64 {
        self.interval_ms
    }

    pub(super) fn len(&self) -> usize {
        self.series.len() + self.gone.len()
    }

    /// Returns about how many samples are in a window.
    pub(super) fn samples_in(&self, window: &Range<i64>) -> usize {
        self.tail.samples_in(window).saturating_add(self.gone.len())
    }

    /// Returns where a window had best end that is to end at `until_ms` or before.
    pub(super) fn block_start(&self, until_ms: i64) -> i64 {
        self.tail.block_start(until_ms)
    }

    /// Passes the samples of some parts of a window to `visit`. May read files.
    pub(super) fn read(
        &mut self,
        window: &Range<i64>,
        parts: usize,
        wanted: &dyn Fn(usize) -> bool,
        visit: &mut dyn FnMut(PartSamples<'_>),
    ) {
        let Self { series, tail, gone, metadata, .. } = self;
        let mut visit = |series: &CatalogueSeries, at_ms: &[i64], values: &[f64]| {
            let known = || {
                let name = series.labels.get(NAME)?;
                metadata.get(name).or_else(|| metadata.get(family(name)?))
            };
            let metadata = if metadata.is_empty() { None } else { known() };
            let sent = SentSeries { labels: &series.labels, metric_type: series.metric_type, metadata };
            visit(PartSamples { part: series.part(parts), series: sent, at_ms, values });
        };
        for series in gone.iter().filter(|series| wanted(series.part(parts))) {
            visit(series, &[window.start], &[STALE]);
        }
        let is_wanted = |index: usize| series.get(index).is_some_and(|series| wanted(series.part(parts)));
        tail.read(window, &is_wanted, &mut |samples| {
            if let Some(series) = series.get(samples.index) {
                visit(series, samples.at_ms, samples.values);
            }
        });
    }
}

impl CatalogueSeries {
    fn part(&self, parts: usize) -> usize {
        let SeriesPlace { instance, series } = self.place;
        let (parts, at_once) = (parts.max(1) as u64, PARTS_AT_ONCE as u64);
        let groups = parts / at_once;
        // The parts beyond the last whole group stay empty.
        let part = if groups == 0 { series % parts } else { (instance % groups) * at_once + series % at_once };
        part as usize
    }
}

impl SeriesPlace {
    fn of(labels: &Labels, number: u64, metric_type: MetricType, keeps_whole: bool) -> Self {
        let instance = xxh64(labels.get("id").unwrap_or_default().as_bytes(), 0);
        let series = match metric_type {
            MetricType::Histogram | MetricType::Summary if keeps_whole => {
                let of_family = labels.iter().filter(|(name, _)| !matches!(*name, "le" | "quantile"));
                let of_family = of_family.map(|(name, value)| match name {
                    NAME => (name, family(value).unwrap_or(value)),
                    _ => (name, value),
                });
                xxh64(Labels::from_sorted(of_family).as_text().as_bytes(), 0)
            }
            _ => number,
        };
        Self { instance, series }
    }
}

/// Returns the name of the histogram or the summary that a series with a name may belong to.
pub(super) fn family(name: &str) -> Option<&str> {
    ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end))
}
