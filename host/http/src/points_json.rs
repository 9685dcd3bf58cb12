//! The points of a window as JSON, some of its buckets at a time.

use super::chunked::{JsonProducer, LARGEST, end_array};
use dropsonde_engine::json::{self, PointsFormat};
use dropsonde_store::{Align, InstanceId, Points, Query, Store, ladder};
use std::collections::BTreeSet;

/// Values of one part: 192 KiB in memory.
const VALUES: usize = 8192;

/// Buckets of one part at least, because a part has a cost of its own.
const LEAST_BUCKETS: i64 = 16;

/// Approximate bytes of a value: in memory, and as JSON.
const IN_MEMORY: usize = 3 * size_of::<f64>();
const AS_JSON: usize = 40;

/// The query of a window, and the form of its answer.
pub(super) struct PointsJson {
    pub(super) query: Query,
    pub(super) form: PointsFormat,
    /// The largest number of columns of the answer.
    pub(super) columns: usize,
}

impl PointsJson {
    /// Returns the number of buckets of one part.
    fn buckets(&self) -> i64 {
        let values = self.columns.max(1).saturating_mul(self.form.values());
        i64::try_from(VALUES / values).unwrap_or(i64::MAX).max(LEAST_BUCKETS)
    }

    /// Returns the approximate bytes of memory that the answer takes at most.
    pub(super) fn bytes(&self) -> usize {
        let Query { since_ms, until_ms, step_ms, .. } = self.query;
        let buckets = until_ms.saturating_sub(since_ms).max(0) / step_ms.max(1) + 1;
        if buckets > self.buckets() {
            return LARGEST;
        }
        // A bucket's time takes as much as a value.
        let cells = usize::try_from(buckets).unwrap_or(usize::MAX).saturating_mul(self.columns + 1);
        cells.saturating_mul(IN_MEMORY + AS_JSON * self.form.values()).min(LARGEST)
    }

    /// Makes an array of the points. `range` answers a part of the window, with the same buckets as the whole window.
    pub(super) fn more(self, mut range: impl FnMut(&Query) -> Points + Send + 'static) -> JsonProducer {
        let (step_ms, buckets) = (self.query.step_ms.max(1), self.buckets());
        let Self { query, form, .. } = self;
        let mut since_ms = query.since_ms;
        let mut open = b'[';
        Box::new(move |json| {
            let begin_ms = match query.align {
                Align::Epoch => ladder::floor(since_ms, step_ms),
                Align::Since => since_ms,
            };
            let end_ms = begin_ms.saturating_add(buckets.saturating_mul(step_ms));
            let until_ms = end_ms.min(query.until_ms).max(since_ms);
            let points = range(&Query { since_ms, until_ms, ..query.clone() });
            json::points(json, &points, form, &mut open);
            since_ms = until_ms;
            if since_ms < query.until_ms {
                return true;
            }
            end_array(json, open)
        })
    }
}

/// Returns the largest number of columns that an answer of several instances can have.
pub(super) fn columns(store: &Store, ids: &[InstanceId], query: &Query) -> usize {
    if let Some(fields) = &query.fields {
        return fields.len();
    }
    let names: BTreeSet<_> = ids
        .iter()
        .flat_map(|id| store.frames(id))
        .flat_map(|frame| frame.schema().fields().iter().map(|field| field.name.clone()).collect::<Vec<_>>())
        .collect();
    names.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_store::{Schema, StoreLimits, StoredField};

    /// Returns a store with a gauge that has gaps and with a counter, a second apart.
    fn store() -> (Store, InstanceId) {
        let (store, id) = (Store::in_memory(&StoreLimits::default()), InstanceId::new("a").unwrap());
        let fields = vec![StoredField::gauge("used"), StoredField::counter("sent_per_sec", 1.0)];
        let frame = store.frame(&id, &Schema::new("s", fields), 1000);
        for nth in (0..20_000_i64).filter(|nth| nth % 7 != 0) {
            let used = if nth % 1000 < 3 { f64::NAN } else { (nth * nth % 977) as f64 / 3.0 };
            frame.push(5_000_000 + nth * 1000, &[used, (nth * 3) as f64]);
        }
        (store, id)
    }

    fn json(mut more: JsonProducer) -> (String, usize) {
        let (mut json, mut parts) = (Vec::new(), 1);
        while more(&mut json) {
            parts += 1;
        }
        (String::from_utf8(json).unwrap(), parts)
    }

    #[test]
    fn an_answer_made_in_parts_equals_an_answer_made_whole() {
        let (store, id) = store();
        for (align, step_ms, since_ms) in [
            (Align::Epoch, 1000, 5_000_500),
            (Align::Epoch, 7000, 5_003_000),
            (Align::Since, 7000, 5_003_100),
            (Align::Since, 60_000, 4_000_000),
            (Align::Epoch, 60_000, 5_000_000),
        ] {
            let query = Query { since_ms, until_ms: 24_000_123, step_ms, align, fields: None };
            for bands in [false, true] {
                let form = PointsFormat { bands, ..PointsFormat::default() };
                // Many columns make the parts small.
                let rows = |columns| {
                    let (store, id) = (store.clone(), id.clone());
                    PointsJson { query: query.clone(), form, columns }.more(move |part| store.range(&id, part))
                };
                let ((whole, one), (pieces, several)) = (json(rows(0)), json(rows(VALUES / 30)));
                assert!(several > 10 && several > one, "{several}");
                assert!(whole == pieces, "{align:?} {step_ms} {bands}");
                assert!(serde_json::from_str::<serde_json::Value>(&whole).is_ok());
            }
        }
    }

    #[test]
    fn a_window_without_samples_is_an_empty_array() {
        let (store, id) = store();
        for (since_ms, until_ms) in [(0, 0), (7, 3), (0, 4_000_000), (i64::MAX - 5, i64::MAX)] {
            let query = Query { since_ms, until_ms, step_ms: 1000, ..Query::default() };
            let rows = PointsJson { query, form: PointsFormat::default(), columns: VALUES };
            let (store, id) = (store.clone(), id.clone());
            assert_eq!(json(rows.more(move |part| store.range(&id, part))).0, "[]");
        }
    }

    #[test]
    fn the_memory_estimate_of_an_answer_grows_with_its_points_up_to_a_limit() {
        let bytes = |until_ms, columns, bands| {
            let query = Query { since_ms: 0, until_ms, step_ms: 1000, ..Query::default() };
            PointsJson { query, form: PointsFormat { bands, ..PointsFormat::default() }, columns }.bytes()
        };
        assert!((100 * 7 * 64..200 * 7 * 64).contains(&bytes(100_000, 7, false)));
        assert_eq!(bytes(11_000_000, 256, true), LARGEST);
        assert!(bytes(1000, 100_000, true) <= LARGEST);
    }
}
