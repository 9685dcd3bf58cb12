use super::sections::{COUNTS, NUMBERS};
use dropsonde_sandbox::{CacheStats, ChannelStats, EnvelopeStats, HistoryStats, PresenceStats, Stats, TokenStats};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most names of a map in the document. The counts of further names, in their order, are added up as `other`.
const MOST_NAMES: usize = 256;

const OTHER: &str = "other";

/// The statistics of several sources taken together. Counts and maps are sums; `rate_per_second`,
/// `average_per_channel`, `buffer_utilization_pct` and `hit_rate_pct` are means over the sources that report the
/// section, also those that report 0. A section that no source reports is all zeros.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Aggregate {
    pub channels: ChannelStats,
    pub envelopes: EnvelopeStats,
    pub presence: PresenceStats,
    pub history: HistoryStats,
    pub tokens: TokenStats,
    pub cache: CacheStats,
}

impl Aggregate {
    /// Takes the statistics of several sources together.
    pub fn of<'a>(sources: impl IntoIterator<Item = &'a Stats>) -> Self {
        let sources: Vec<&Stats> = sources.into_iter().collect();
        let mut all = Self::default();
        NUMBERS.iter().for_each(|number| number.aggregate(&mut all, &sources));
        for counts in COUNTS {
            let mut sums = BTreeMap::new();
            sources.iter().filter_map(|stats| (counts.of_source)(stats)).for_each(|said| merge(&mut sums, said));
            *(counts.of_all_mut)(&mut all) = listed(sums);
        }
        all
    }
}

/// Adds a count to a sum. A negative count counts as 0.
fn add(sum: &mut i64, count: i64) {
    *sum = sum.saturating_add(count.max(0));
}

fn merge(sums: &mut BTreeMap<String, i64>, counts: &[(String, i64)]) {
    for (name, count) in counts {
        // A source may report any name.
        let name = crate::plugins::plain(name);
        let name = if name.is_empty() { "unknown".to_owned() } else { name };
        add(sums.entry(name).or_default(), *count);
    }
}

/// Returns sums as a list, in which names beyond [`MOST_NAMES`] are added up as `other`.
fn listed(mut sums: BTreeMap<String, i64>) -> Vec<(String, i64)> {
    let mut rest = sums.remove(OTHER).unwrap_or(0);
    while sums.len() > MOST_NAMES {
        if let Some((_, count)) = sums.pop_last() {
            add(&mut rest, count);
        }
    }
    if rest > 0 {
        sums.insert(OTHER.to_owned(), rest);
    }
    sums.into_iter().collect()
}

/// Returns statistics with names that are fit to be shown, and with no more of them than the document shows.
pub(super) fn bounded(mut stats: Stats) -> Stats {
    for said in COUNTS.iter() {
        if let Some(counts) = (said.of_source_mut)(&mut stats) {
            let mut sums = BTreeMap::new();
            merge(&mut sums, counts);
            *counts = listed(sums);
        }
    }
    stats
}

/// A source in this process, which reports statistics of an application.
pub trait Source: Send + Sync {
    /// Returns the name in the snapshot of a host that polls the source. [`named`] gives a closure a name.
    fn name(&self) -> &str {
        "native"
    }

    /// Returns the statistics of now, or why they are not known.
    fn collect(&self, now_ms: i64) -> Result<Stats, String>;
}

impl<F: Fn(i64) -> Result<Stats, String> + Send + Sync> Source for F {
    fn collect(&self, now_ms: i64) -> Result<Stats, String> {
        self(now_ms)
    }
}

/// Gives a source a name.
pub fn named(name: impl Into<String>, source: impl Source) -> impl Source {
    NamedSource { name: name.into(), source }
}

struct NamedSource<S> {
    name: String,
    source: S,
}

impl<S: Source> Source for NamedSource<S> {
    fn name(&self) -> &str {
        &self.name
    }

    fn collect(&self, now_ms: i64) -> Result<Stats, String> {
        self.source.collect(now_ms)
    }
}

/// Native sources that are asked together.
///
/// ```
/// use dropsonde_engine::snapshot::{Aggregator, Source};
/// use dropsonde_sandbox::{ChannelStats, Stats};
/// use std::sync::Arc;
///
/// let rooms = |_now_ms| {
///     let channels = ChannelStats { total_active: 3, ..ChannelStats::default() };
///     Ok(Stats { channels: Some(channels), ..Stats::default() })
/// };
/// let sources: Vec<Arc<dyn Source>> = vec![Arc::new(rooms), Arc::new(|_| Err("not now".to_owned()))];
/// let aggregate = Aggregator::new(sources).aggregate(0);
/// assert_eq!(aggregate.channels.total_active, 3);
/// ```
pub struct Aggregator(Vec<Arc<dyn Source>>);

impl Aggregator {
    pub fn new(sources: Vec<Arc<dyn Source>>) -> Self {
        Self(sources)
    }

    /// Asks all sources. Those that fail are left out.
    pub fn aggregate(&self, now_ms: i64) -> Aggregate {
        let stats: Vec<_> = self.0.iter().filter_map(|source| source.collect(now_ms).ok()).collect();
        Aggregate::of(&stats)
    }

    /// Returns a source that reports the aggregate. It leaves out sections that no source reports.
    pub fn as_source(self) -> impl Source {
        move |now_ms| {
            let stats: Vec<_> = self.0.iter().filter_map(|source| source.collect(now_ms).ok()).collect();
            let all = Aggregate::of(&stats);
            let reports = |has: fn(&Stats) -> bool| stats.iter().any(has);
            Ok(Stats {
                channels: reports(|stats| stats.channels.is_some()).then_some(all.channels),
                envelopes: reports(|stats| stats.envelopes.is_some()).then_some(all.envelopes),
                presence: reports(|stats| stats.presence.is_some()).then_some(all.presence),
                history: reports(|stats| stats.history.is_some()).then_some(all.history),
                tokens: reports(|stats| stats.tokens.is_some()).then_some(all.tokens),
                cache: reports(|stats| stats.cache.is_some()).then_some(all.cache),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(hit_rate_pct: f64, size_entries: i64) -> Stats {
        Stats { cache: Some(CacheStats { hit_rate_pct, size_entries, ..CacheStats::default() }), ..Stats::default() }
    }

    fn envelopes(rate_per_second: f64, aspects: &[(&str, i64)]) -> Stats {
        let by_aspect = aspects.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Stats { envelopes: Some(EnvelopeStats { rate_per_second, by_aspect }), ..Stats::default() }
    }

    #[test]
    fn counts_and_maps_are_summed_and_rates_are_averaged() {
        let all = Aggregate::of(&[envelopes(2.0, &[("chat", 3)]), envelopes(4.0, &[("chat", 1), ("dm", 5)])]);
        assert_eq!(all.envelopes.rate_per_second, 3.0);
        assert_eq!(all.envelopes.by_aspect, [("chat".to_owned(), 4), ("dm".to_owned(), 5)]);
    }

    #[test]
    fn means_include_reported_zeros_and_leave_out_sources_without_the_section() {
        let all = Aggregate::of(&[cache(90.0, 1), cache(0.0, 2), envelopes(1.0, &[])]);
        assert_eq!((all.cache.hit_rate_pct, all.cache.size_entries), (45.0, 3));
    }

    #[test]
    fn an_aggregate_of_no_sources_is_all_zeros() {
        assert_eq!(Aggregate::of([]), Aggregate::default());
    }

    #[test]
    fn aggregates_of_huge_numbers_stay_finite_and_negative_counts_are_zero() {
        let large = || cache(f64::MAX / 2.0, i64::MAX);
        let all = Aggregate::of(&[large(), large(), large(), cache(0.0, -5)]);
        assert!(all.cache.hit_rate_pct.is_finite());
        assert_eq!(all.cache.size_entries, i64::MAX);
        assert_eq!(Aggregate::of(&[cache(0.0, -5)]).cache.size_entries, 0, "nor is there less than nothing");
    }

    #[test]
    fn maps_have_a_bounded_number_of_names_and_names_are_printable() {
        let mut many: Vec<_> = (0..400).map(|nth| (format!("n{nth:03}"), 1)).collect();
        many.push((OTHER.to_owned(), 1));
        let mut stats = envelopes(0.0, &[("", 7), ("a\nb", 1)]);
        stats.channels = Some(ChannelStats { total_active: 400, by_pattern: many });
        let all = Aggregate::of(&[stats]);
        let patterns: BTreeMap<_, _> = all.channels.by_pattern.into_iter().collect();
        assert_eq!((patterns.len(), patterns["other"], patterns["n255"]), (257, 145, 1));
        assert_eq!(all.envelopes.by_aspect, [("a b".to_owned(), 1), ("unknown".to_owned(), 7)]);
    }

    #[test]
    fn an_aggregator_can_be_a_source_itself() {
        let rooms: Arc<dyn Source> = Arc::new(|_| Ok(cache(50.0, 4)));
        let inner = Aggregator::new(vec![rooms.clone(), rooms]).as_source();
        let stats = inner.collect(0).unwrap();
        assert_eq!((stats.cache.unwrap().size_entries, stats.channels), (8, None));
    }
}
