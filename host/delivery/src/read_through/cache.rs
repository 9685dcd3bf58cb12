//! Answers of a database that are known already. A window that moves asks for its new part alone.

use dropsonde_engine::long_history::{LongQuery, LongSeries};
use dropsonde_model::Labels;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most values of all answers: 16 bytes each.
const MOST_VALUES: usize = 1 << 20;

/// An answer is asked for anew after this time: what others send late comes to be seen.
const FRESH: Duration = Duration::from_secs(300);

/// Answers, the one that was used last at the end.
#[derive(Debug, Default)]
pub(super) struct Cache(Vec<Known>);

#[derive(Debug)]
struct Known {
    query: LongQuery,
    series: Arc<Vec<LongSeries>>,
    asked: Instant,
}

/// What is known of the answer to a query.
#[derive(Debug, PartialEq)]
pub(super) enum Lookup {
    /// All of it.
    Whole(Arc<Vec<LongSeries>>),
    /// Its beginning; this query asks for the rest.
    Beginning(LongQuery),
    Nothing,
}

impl Cache {
    pub(super) fn look_up(&mut self, query: &LongQuery) -> Lookup {
        self.0.retain(|known| known.asked.elapsed() < FRESH);
        let Some(nth) = self.0.iter().position(|known| known.covers_start(query)) else { return Lookup::Nothing };
        let known = self.0.remove(nth);
        let end_ms = known.query.end_ms;
        let found = if query.end_ms <= end_ms {
            Lookup::Whole(known.within(query.start_ms, query.end_ms))
        } else {
            Lookup::Beginning(LongQuery { start_ms: end_ms.saturating_add(query.step_ms), ..query.clone() })
        };
        self.0.push(known);
        found
    }

    /// Notes an answer. If it is that to the rest of a query, returns the whole.
    pub(super) fn add(&mut self, query: &LongQuery, rest: &LongQuery, answer: Vec<LongSeries>) -> Arc<Vec<LongSeries>> {
        let known = if rest == query { None } else { self.0.iter().position(|known| known.covers_start(query)) };
        let (series, asked) = match known.map(|nth| self.0.remove(nth)) {
            Some(known) => {
                (joined(&known.within(query.start_ms, rest.start_ms.saturating_sub(1)), answer), known.asked)
            }
            None => (answer, Instant::now()),
        };
        let series = Arc::new(series);
        let count = |known: &Known| known.series.iter().map(|(_, points)| points.len() + 16).sum::<usize>();
        self.0.push(Known { query: query.clone(), series: series.clone(), asked });
        while self.0.len() > 1 && self.0.iter().map(count).sum::<usize>() > MOST_VALUES {
            self.0.remove(0);
        }
        series
    }
}

impl Known {
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
        let mut cache = Cache::default();
        let first = query(100, 150);
        assert_eq!(cache.look_up(&first), Lookup::Nothing);
        cache.add(&first, &first, series((100..=150).step_by(10)));
        assert_eq!(cache.look_up(&query(110, 140)), Lookup::Whole(Arc::new(series((110..=140).step_by(10)))));
        let moved = query(120, 170);
        let Lookup::Beginning(rest) = cache.look_up(&moved) else { panic!("its beginning is known") };
        assert_eq!(rest, query(160, 170));
        let whole = cache.add(&moved, &rest, series([160, 170]));
        assert_eq!(*whole, series((120..=170).step_by(10)));
        assert_eq!(cache.look_up(&moved), Lookup::Whole(whole));
        for other in [query(125, 165), query(90, 150), LongQuery { step_ms: 20, ..query(120, 160) }] {
            assert_eq!(cache.look_up(&other), Lookup::Nothing, "{other:?}");
        }
    }
}
