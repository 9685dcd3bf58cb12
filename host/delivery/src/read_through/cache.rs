//! Answers of a database that are known already. A window that moves asks for its new part alone.

use dropsonde_engine::long_history::{LongQuery, LongSeries};
use dropsonde_model::Labels;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most values of all answers: 16 bytes each.
const MOST_VALUES: usize = 1 << 20;

/// The most answers.
const MOST_ANSWERS: usize = 256;

/// An answer is asked for anew after this time: what others send late comes to be seen.
const FRESH: Duration = Duration::from_secs(300);

/// Values of the last minutes can change: they are not kept.
const SETTLED_MS: i64 = 120_000;

/// Answers, the one that was used last at the end.
#[derive(Debug, Default)]
pub(super) struct Cache(Vec<Known>);

/// A part of an answer that is known.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Known {
    query: LongQuery,
    series: Arc<Vec<LongSeries>>,
    asked: Instant,
}

/// The part of an answer that the cache has.
#[derive(Debug, PartialEq)]
pub(super) enum Lookup {
    /// All of it.
    Whole(Arc<Vec<LongSeries>>),
    /// Its beginning; the query asks for the rest.
    Beginning(Known, LongQuery),
    Nothing,
}

impl Cache {
    pub(super) fn look_up(&mut self, query: &LongQuery) -> Lookup {
        self.0.retain(|known| known.asked.elapsed() < FRESH);
        let covering = self.0.iter().enumerate().filter(|(_, known)| known.covers_start(query));
        let Some((nth, _)) = covering.max_by_key(|(_, known)| known.query.end_ms) else { return Lookup::Nothing };
        let known = self.0.remove(nth);
        let end_ms = known.query.end_ms;
        let found = if query.end_ms <= end_ms {
            Lookup::Whole(known.within(query.start_ms, query.end_ms))
        } else {
            let rest = LongQuery { start_ms: end_ms.saturating_add(query.step_ms), ..query.clone() };
            Lookup::Beginning(known.clone(), rest)
        };
        self.0.push(known);
        found
    }

    /// Keeps an answer, which began to be known at a time.
    pub(super) fn keep(&mut self, query: &LongQuery, series: &Arc<Vec<LongSeries>>, asked: Instant, now_ms: i64) {
        // A single value is not asked for again.
        let LongQuery { start_ms, step_ms, .. } = *query;
        let last_ms = query.end_ms.min(now_ms.saturating_sub(SETTLED_MS));
        let end_ms =
            start_ms.saturating_add(last_ms.saturating_sub(start_ms).div_euclid(step_ms).saturating_mul(step_ms));
        if end_ms <= start_ms {
            return;
        }
        let whole = Known { query: query.clone(), series: series.clone(), asked };
        let kept =
            Known { query: LongQuery { end_ms, ..query.clone() }, series: whole.within(start_ms, end_ms), asked };
        self.0.retain(|known| !kept.covers_start(&known.query) || known.query.end_ms > end_ms);
        self.0.push(kept);
        let values = |known: &Known| known.series.iter().map(|(_, points)| points.len() + 16).sum::<usize>();
        while self.0.len() > MOST_ANSWERS
            || (self.0.len() > 1 && self.0.iter().map(values).sum::<usize>() > MOST_VALUES)
        {
            self.0.remove(0);
        }
    }
}

impl Known {
    /// Returns when its oldest part was asked for.
    pub(super) fn asked(&self) -> Instant {
        self.asked
    }

    /// Appends the answer to the rest of a query.
    pub(super) fn with(&self, query: &LongQuery, rest: Vec<LongSeries>) -> Vec<LongSeries> {
        joined(&self.within(query.start_ms, self.query.end_ms), rest)
    }

    /// Returns whether the first value of a query is part of it.
    fn covers_start(&self, query: &LongQuery) -> bool {
        let LongQuery { query: text, start_ms, end_ms, step_ms } = &self.query;
        let is_same = *text == query.query && *step_ms == query.step_ms;
        let into = query.start_ms.saturating_sub(*start_ms);
        is_same && into >= 0 && into % step_ms == 0 && query.start_ms <= *end_ms
    }

    fn within(&self, start_ms: i64, end_ms: i64) -> Arc<Vec<LongSeries>> {
        if (start_ms, end_ms) == (self.query.start_ms, self.query.end_ms) {
            return self.series.clone();
        }
        let cut = |(labels, points): &LongSeries| {
            let points: Vec<_> =
                points.iter().filter(|(at_ms, _)| (start_ms..=end_ms).contains(at_ms)).copied().collect();
            (!points.is_empty()).then(|| (labels.clone(), points))
        };
        Arc::new(self.series.iter().filter_map(cut).collect())
    }
}

/// Joins the values of the same series, of which the second ones are later.
fn joined(first: &[LongSeries], then: Vec<LongSeries>) -> Vec<LongSeries> {
    let mut all: BTreeMap<Labels, Vec<(i64, f64)>> = first.iter().cloned().collect();
    for (labels, points) in then {
        all.entry(labels).or_default().extend(points);
    }
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(start_ms: i64, end_ms: i64) -> LongQuery {
        LongQuery { query: "up".to_owned(), start_ms, end_ms, step_ms: 10 }
    }

    fn series(times: impl IntoIterator<Item = i64>) -> Vec<LongSeries> {
        vec![(Labels::from([("a", "b")]), times.into_iter().map(|at_ms| (at_ms, at_ms as f64)).collect())]
    }

    #[test]
    fn a_window_that_moves_asks_for_its_new_part_alone() {
        let (mut cache, now_ms) = (Cache::default(), 1_000_000);
        let keep = |cache: &mut Cache, query: &LongQuery, series: Vec<LongSeries>| {
            cache.keep(query, &Arc::new(series), Instant::now(), now_ms);
        };
        let first = query(100, 150);
        assert_eq!(cache.look_up(&first), Lookup::Nothing);
        keep(&mut cache, &first, series((100..=150).step_by(10)));
        // Another one that begins before it does not come into its way.
        keep(&mut cache, &query(90, 110), series((90..=110).step_by(10)));
        assert_eq!(cache.look_up(&query(110, 140)), Lookup::Whole(Arc::new(series((110..=140).step_by(10)))));
        let moved = query(120, 170);
        let Lookup::Beginning(known, rest) = cache.look_up(&moved) else { panic!("its beginning is known") };
        assert_eq!(rest, query(160, 170));
        let whole = known.with(&moved, series([160, 170]));
        assert_eq!(whole, series((120..=170).step_by(10)));
        keep(&mut cache, &moved, whole.clone());
        assert_eq!(cache.look_up(&query(160, 170)), Lookup::Whole(Arc::new(series([160, 170]))));
        for other in [query(125, 165), query(80, 150), LongQuery { step_ms: 20, ..query(120, 160) }] {
            assert_eq!(cache.look_up(&other), Lookup::Nothing, "{other:?}");
        }
    }

    #[test]
    fn values_that_can_still_change_are_not_kept() {
        let mut cache = Cache::default();
        let asked = query(100_000, 300_000);
        cache.keep(&asked, &Arc::new(series((100_000..=300_000).step_by(10))), Instant::now(), 300_000);
        let Lookup::Beginning(_, rest) = cache.look_up(&asked) else { panic!("its beginning is known") };
        assert_eq!(rest, query(180_010, 300_000));
        cache.keep(&query(290_000, 300_000), &Arc::new(Vec::new()), Instant::now(), 300_000);
        assert_eq!(cache.look_up(&query(290_000, 300_000)), Lookup::Nothing);
    }
}
