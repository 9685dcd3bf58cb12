//! Remarks on an answer: warnings and infos, each with its place in the expression.

use crate::number::general;
use crate::quoted::quoted;
use std::ops::Range;

/// A remark on an answer, with the place of the expression it is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Annotation {
    pub kind: AnnotationKind,
    pub message: String,
    /// The place in the text of the query, in bytes.
    pub at: Range<usize>,
    /// What histograms needed, so that remarks of several times become one.
    repair: Option<Repair>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnotationKind {
    /// The answer may not be what was meant.
    Warning,
    Info,
}

/// Buckets of a histogram that did not ascend.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Repair {
    pub(crate) lowest_bucket: f64,
    pub(crate) highest_bucket: f64,
    pub(crate) largest_difference: f64,
    pub(crate) count: usize,
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
}

/// The remarks on one answer, each once.
#[derive(Debug, Default)]
pub(crate) struct Annotations(Vec<Annotation>);

impl Annotation {
    /// Returns the text, with the line and column of the expression.
    pub fn text(&self, query: &str) -> String {
        let kind = match self.kind {
            AnnotationKind::Warning => "warning",
            AnnotationKind::Info => "info",
        };
        let before = query.get(..self.at.start).unwrap_or(query);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().len() + 1;
        let detail = self.repair.as_ref().map(Repair::text).unwrap_or_default();
        format!("PromQL {kind}: {}{detail} ({line}:{column})", self.message)
    }
}

impl Repair {
    fn text(&self) -> String {
        let time = |at_ms: i64| {
            let time = jiff::Timestamp::from_second(at_ms.div_euclid(1000));
            time.map_or_else(|_| at_ms.to_string(), |time| time.to_string())
        };
        format!(
            ", from buckets {} to {}, with a max diff of {}, over {} samples from {} to {}",
            general(self.lowest_bucket, None),
            general(self.highest_bucket, None),
            general(self.largest_difference, Some(2)),
            self.count,
            time(self.first_ms),
            time(self.last_ms),
        )
    }

    fn merge(&mut self, other: &Self) {
        self.lowest_bucket = self.lowest_bucket.min(other.lowest_bucket);
        self.highest_bucket = self.highest_bucket.max(other.highest_bucket);
        self.largest_difference = self.largest_difference.max(other.largest_difference);
        self.count += other.count;
        self.first_ms = self.first_ms.min(other.first_ms);
        self.last_ms = self.last_ms.max(other.last_ms);
    }
}

impl Annotations {
    pub(crate) fn into_vec(self) -> Vec<Annotation> {
        self.0
    }

    /// Adds the remarks of another computation.
    pub(crate) fn append(&mut self, others: Self) {
        for other in others.0 {
            match other.repair {
                Some(repair) => self.add_repair(other.message, &other.at, repair),
                None => self.add(other.kind, other.message, &other.at),
            }
        }
    }

    fn add(&mut self, kind: AnnotationKind, message: String, at: &Range<usize>) {
        if !self.0.iter().any(|known| known.message == message) {
            self.0.push(Annotation { kind, message, at: at.clone(), repair: None });
        }
    }

    pub(crate) fn quantile_out_of_bounds(&mut self, quantile: f64, at: &Range<usize>) {
        let message = format!("quantile value should be between 0 and 1, got {}", general(quantile, None));
        self.add(AnnotationKind::Warning, message, at);
    }

    pub(crate) fn ratio_out_of_bounds(&mut self, ratio: f64, at: &Range<usize>) {
        let (got, bound) = (general(ratio, None), if ratio > 0.0 { 1 } else { -1 });
        let message = format!("ratio value should be between -1 and 1, got {got}, capping to {bound}");
        self.add(AnnotationKind::Warning, message, at);
    }

    pub(crate) fn bad_bucket(&mut self, metric: &str, bound: &str, at: &Range<usize>) {
        let bound = quoted(bound);
        let message =
            format!("bucket label \"le\" is missing or has a malformed value of {bound}{}", of_metric(metric));
        self.add(AnnotationKind::Warning, message, at);
    }

    pub(crate) fn sort_has_no_effect(&mut self, at: &Range<usize>) {
        let message = "sort is ineffective for range queries since results are always ordered by labels";
        self.add(AnnotationKind::Warning, message.to_owned(), at);
    }

    pub(crate) fn may_be_no_counter(&mut self, metric: &str, at: &Range<usize>) {
        let why = "metric might not be a counter, name does not end in _total/_sum/_count/_bucket:";
        self.add(AnnotationKind::Info, format!("{why} {}", quoted(metric)), at);
    }

    pub(crate) fn histogram_repaired(&mut self, metric: &str, at: &Range<usize>, repair: Repair) {
        let why = "input to histogram_quantile needed to be fixed for monotonicity (see \
                   https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)";
        self.add_repair(format!("{why}{}", of_metric(metric)), at, repair);
    }

    fn add_repair(&mut self, message: String, at: &Range<usize>, repair: Repair) {
        match self.0.iter_mut().find(|known| known.message == message) {
            Some(Annotation { repair: Some(known), .. }) => known.merge(&repair),
            _ => {
                let at = at.clone();
                self.0.push(Annotation { kind: AnnotationKind::Info, message, at, repair: Some(repair) });
            }
        }
    }
}

fn of_metric(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" for metric name {}", quoted(name)) }
}
