//! `series`: values of instances that are told apart by labels which the plugin chooses.

use crate::vocabulary::ReportedSeries;
use dropsonde_model::labels::NAME;
use dropsonde_model::text::is_harmful;
use dropsonde_model::{Labels, MetricType};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

const LONGEST_NAME: usize = 256;
const LONGEST_LABEL: usize = 128;
const LONGEST_VALUE: usize = 1024;
const MOST_LABELS: usize = 64;

/// Bytes of names and labels that a series may take on average.
const BYTES_PER_SERIES: usize = 512;

/// Most points of one call.
const MOST_POINTS: usize = 1 << 20;

/// The series that one instance of a plugin defined, by handle.
#[derive(Debug, Clone, Default)]
pub struct SeriesDefinitions(Arc<RwLock<Vec<Arc<SeriesDefinition>>>>);

/// A series without the instance that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesDefinition {
    /// The labels, with the name of the metric as `__name__`.
    pub labels: Labels,
    pub metric_type: MetricType,
    pub help: String,
    /// Whether its labels win over those of the instance.
    pub keeps_labels: bool,
}

/// Why a series was not defined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotDefined {
    #[error("{0}")]
    Invalid(String),
    #[error("at most {0} are allowed")]
    TooMany(usize),
}

/// The series of one instance of a plugin.
#[derive(Debug)]
pub(crate) struct SeriesTable {
    definitions: SeriesDefinitions,
    handles: HashMap<(Labels, bool), u32>,
    /// Most definitions.
    most: usize,
    bytes: usize,
    points: Vec<(String, Vec<(u32, f64)>)>,
    points_left: usize,
}

impl SeriesDefinitions {
    pub fn get(&self, handle: u32) -> Option<Arc<SeriesDefinition>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(handle as usize).cloned()
    }

    /// Returns whether both are those of the same instance of a plugin.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl SeriesTable {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            definitions: SeriesDefinitions::default(),
            handles: HashMap::new(),
            most,
            bytes: 0,
            points: Vec::new(),
            points_left: MOST_POINTS,
        }
    }

    /// Returns the handle of a series. The same name and labels again return the same handle.
    pub(crate) fn define(
        &mut self,
        name: &str,
        metric_type: MetricType,
        help: String,
        labels: Vec<(String, String)>,
        keeps_labels: bool,
    ) -> Result<u32, NotDefined> {
        let labels = checked(name, labels)?;
        let key = (labels.clone(), keeps_labels);
        if let Some(known) = self.handles.get(&key) {
            return Ok(*known);
        }
        let bytes = self.bytes.saturating_add(labels.as_text().len() + help.len());
        if self.handles.len() >= self.most || bytes > self.most.saturating_mul(BYTES_PER_SERIES) {
            return Err(NotDefined::TooMany(self.most));
        }
        let mut all = self.definitions.0.write().unwrap_or_else(PoisonError::into_inner);
        let handle = u32::try_from(all.len()).map_err(|_| NotDefined::TooMany(self.most))?;
        all.push(Arc::new(SeriesDefinition { labels, metric_type, help, keeps_labels }));
        self.handles.insert(key, handle);
        self.bytes = bytes;
        Ok(handle)
    }

    /// Takes values of an instance. Returns how many were ignored: their handle is wrong, or there are too many.
    pub(crate) fn report(&mut self, instance: String, mut points: Vec<(u32, f64)>) -> u64 {
        let (given, defined) = (points.len(), self.definitions.len());
        points.retain(|(handle, _)| (*handle as usize) < defined);
        if self.points.last().is_none_or(|(last, _)| *last != instance) {
            // An instance takes memory too, as a point does.
            let Some(left) = self.points_left.checked_sub(1) else { return given as u64 };
            self.points_left = left;
            self.points.push((instance, Vec::new()));
        }
        points.truncate(self.points_left);
        self.points_left -= points.len();
        let ignored = (given - points.len()) as u64;
        self.points.last_mut().into_iter().for_each(|(_, known)| known.append(&mut points));
        ignored
    }

    /// Forgets what a call reported.
    pub(crate) fn begin_call(&mut self) {
        self.points.clear();
        self.points_left = MOST_POINTS;
    }

    /// Takes what this call has reported.
    pub(crate) fn take(&mut self) -> ReportedSeries {
        ReportedSeries { definitions: self.definitions.clone(), points: std::mem::take(&mut self.points) }
    }
}

/// Checks the name and the labels of a series. Returns all as labels.
fn checked(name: &str, labels: Vec<(String, String)>) -> Result<Labels, NotDefined> {
    let invalid = |why: String| Err(NotDefined::Invalid(why));
    let is_name = |text: &str, may: &str| {
        let is_in = |c: char| c.is_ascii_alphanumeric() || c == '_' || may.contains(c);
        text.chars().all(is_in) && !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit())
    };
    let short = |text: &str| text.chars().take(LONGEST_LABEL).collect::<String>().escape_debug().to_string();
    if !is_name(name, ":") || name.len() > LONGEST_NAME {
        return invalid(format!("{} is not a metric's name", short(name)));
    }
    if labels.len() > MOST_LABELS {
        return invalid(format!("{name} has {} labels; at most {MOST_LABELS} are allowed", labels.len()));
    }
    let mut checked: Vec<(String, String)> = Vec::with_capacity(labels.len() + 1);
    for (key, value) in labels.into_iter().filter(|(_, value)| !value.is_empty()) {
        if !is_name(&key, "") || key.len() > LONGEST_LABEL || key.starts_with("__") {
            return invalid(format!("{} is not a label's name", short(&key)));
        }
        if value.len() > LONGEST_VALUE {
            return invalid(format!(
                "the value of {key} has {} bytes; at most {LONGEST_VALUE} are allowed",
                value.len()
            ));
        }
        if checked.iter().any(|(known, _)| *known == key) {
            return invalid(format!("{name} has the label {key} twice"));
        }
        let value = value.chars().map(|c| if is_harmful(c) { char::REPLACEMENT_CHARACTER } else { c }).collect();
        checked.push((key, value));
    }
    checked.push((NAME.to_owned(), name.to_owned()));
    Ok(checked.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(most: usize) -> SeriesTable {
        SeriesTable::new(most)
    }

    fn define(table: &mut SeriesTable, name: &str, labels: &[(&str, &str)]) -> Result<u32, NotDefined> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        table.define(name, MetricType::Gauge, String::new(), labels, false)
    }

    #[test]
    fn the_same_name_and_labels_have_the_same_handle() {
        let mut table = table(10);
        let a = define(&mut table, "up", &[("b", "2"), ("a", "1")]).unwrap();
        assert_eq!(define(&mut table, "up", &[("a", "1"), ("b", "2"), ("c", "")]), Ok(a));
        assert_ne!(define(&mut table, "up", &[("a", "2")]), Ok(a));
        let labels = Labels::from([("__name__", "up"), ("a", "1"), ("b", "2")]);
        assert_eq!(table.definitions.get(a).unwrap().labels, labels);
    }

    #[test]
    fn names_and_labels_that_break_a_rule_are_refused() {
        let mut table = table(10);
        for (name, labels) in [
            ("", &[][..]),
            ("1x", &[]),
            ("a-b", &[]),
            ("ä", &[]),
            ("x", &[("__name__", "y")]),
            ("x", &[("a b", "y")]),
            ("x", &[("a", "1"), ("a", "2")]),
            ("x", &[("a", &"v".repeat(1025))]),
        ] {
            assert!(matches!(define(&mut table, name, labels), Err(NotDefined::Invalid(_))), "{name} {labels:?}");
        }
        let handle = define(&mut table, "x", &[("a", "b\n\u{202e}c"), ("le", "+Inf")]).unwrap();
        assert_eq!(table.definitions.get(handle).unwrap().labels.get("a"), Some("b\u{fffd}\u{fffd}c"));
    }

    #[test]
    fn definitions_have_limits_in_number_and_in_bytes() {
        let mut few = table(2);
        assert_eq!((define(&mut few, "a", &[]), define(&mut few, "b", &[])), (Ok(0), Ok(1)));
        assert_eq!(define(&mut few, "c", &[]), Err(NotDefined::TooMany(2)));
        let mut table = table(100);
        let long = |nth: usize| format!("{nth:01000}");
        let taken = (0..100).take_while(|nth| define(&mut table, "a", &[("l", &long(*nth))]).is_ok()).count();
        assert!((45..52).contains(&taken), "{taken} of about 1000 bytes in 51200");
    }

    #[test]
    fn wrong_handles_and_points_beyond_the_limit_are_ignored() {
        let mut table = table(10);
        let handle = define(&mut table, "a", &[]).unwrap();
        assert_eq!(table.report("i".to_owned(), vec![(handle, 1.0), (7, 2.0)]), 1);
        assert_eq!(table.report("i".to_owned(), vec![(handle, 3.0)]), 0);
        let reported = table.take();
        assert_eq!(reported.points, [("i".to_owned(), vec![(handle, 1.0), (handle, 3.0)])]);
        table.begin_call();
        let many = || vec![(handle, 1.0); MOST_POINTS / 2];
        assert_eq!((table.report("i".to_owned(), many()), table.report("j".to_owned(), many())), (0, 2));
        for _ in 0..1000 {
            table.report("k".to_owned(), Vec::new());
        }
        let taken = table.take().points;
        let points: usize = taken.iter().map(|(_, points)| points.len()).sum();
        assert!(taken.len() == 2 && taken.len() + points == MOST_POINTS, "no room is left for more");
    }
}
