use super::count;
use super::find::{find, samples};
use crate::Engine;
use crate::rules::INSTANCE_OF_RULES;
use dropsonde_model::Labels;
use dropsonde_promql::{Matcher, QueryError, Request, Samples, Series, Source, Visit};
use dropsonde_store::{FoundSeries, SeriesSelection, VisitedSeries, Windows};
use std::ops::Range;
use std::sync::Arc;

/// The labels that a Prometheus adds to the series of a target.
const JOB: &str = "job";
pub const INSTANCE: &str = "instance";

/// The prefix that a Prometheus gives to a label of a series if it adds a label of the same name.
const EXPORTED: &str = "exported_";

/// The value of `job`.
const OWN_JOB: &str = "dropsonde";

/// Most samples that are unpacked at a time, unless one series has more.
const SAMPLES_AT_ONCE: usize = 1 << 18;

/// The series in history, as a Prometheus has them that scrapes this host: with `job="dropsonde"` and the host's name as
/// `instance`.
#[derive(Debug)]
pub struct PromqlSource<'a> {
    engine: &'a Engine,
    instance: Arc<str>,
    /// The most series that one selector may select.
    most: usize,
}

impl<'a> PromqlSource<'a> {
    pub fn new(engine: &'a Engine, most: usize) -> Self {
        Self { engine, instance: engine.options.load().external_name().into(), most }
    }

    /// Returns the value that a label has in all series.
    pub fn own(&self, name: &str) -> Option<&str> {
        match name {
            JOB => Some(OWN_JOB),
            INSTANCE => Some(&self.instance),
            _ => None,
        }
    }

    /// Finds the series that some matchers select in a window, with the labels that a Prometheus gives them. May read
    /// files.
    pub fn find(&self, matchers: &[Matcher], window: &Range<i64>) -> Result<SeriesSelection, QueryError> {
        // These labels are not in history, or have another name there.
        let is_added = |matcher: &&Matcher| self.own(&matcher.name).is_some() || matcher.name.starts_with(EXPORTED);
        let (added, kept): (Vec<_>, Vec<_>) = matchers.iter().partition(is_added);
        let is_of_host = added.iter().all(|matcher| self.own(&matcher.name).is_none_or(|own| matcher.matches(own)));
        // Nothing but series of rules has labels like those of another host.
        let selector = if is_of_host { kept.into_iter().cloned().collect() } else { matchers.to_vec() };
        let selectors = [selector];
        let found = count(self.engine, &selectors);
        if found > self.most {
            let most = self.most;
            let why =
                format!("a selector selects {found} series, of which a query may read {most}: select fewer of them");
            return Err(QueryError::Limit(why));
        }
        let [selector] = &selectors;
        let mut series = find(self.engine, selector, is_of_host);
        series.retain_mut(|series| {
            if !is_made_by_rule(series) {
                series.labels = self.labels(&series.labels);
            }
            added.iter().all(|matcher| matcher.matches(series.labels.get(&matcher.name).unwrap_or_default()))
        });
        Ok(SeriesSelection::as_found(series, window))
    }

    /// Finds all series, with the labels that a Prometheus gives them and that `more` changes.
    pub(super) fn find_all(&self, more: &dyn Fn(Labels) -> Labels) -> Vec<FoundSeries> {
        let mut all = find(self.engine, &[], false);
        for series in &mut all {
            let labels = if is_made_by_rule(series) { series.labels.clone() } else { self.labels(&series.labels) };
            series.labels = more(labels);
        }
        all.extend(samples(self.engine, &[], &|field, metric| {
            field.exported_labels(metric, |labels| more(self.labels(&labels)))
        }));
        all
    }

    /// Returns the labels that a Prometheus gives to a series of this host.
    fn labels(&self, labels: &Labels) -> Labels {
        as_scraped(labels, &self.instance)
    }
}

impl Source for PromqlSource<'_> {
    fn select(&self, request: &Request<'_>, visit: &mut Visit<'_>) -> Result<(), QueryError> {
        let until_ms = self.engine.reach_ms(request.until_ms.saturating_add(1));
        let window = request.after_ms.saturating_add(1)..until_ms;
        let selection = self.find(request.matchers, &window)?;
        let labels = |nth: usize| selection.series().get(nth).map(|series| &series.labels);
        if request.newest_only {
            for (nth, newest) in selection.newest(window).into_iter().enumerate() {
                if let Some((at_ms, value)) = newest
                    && let Some(labels) = labels(nth)
                {
                    let samples = Samples { at_ms: &[at_ms], values: &[value] };
                    visit(Series { labels, samples, times: None, can_be_stale: false })?;
                }
            }
            return Ok(());
        }
        let windows = Windows::every(request.step_ms, request.range_ms, window);
        selection.visit(&windows, SAMPLES_AT_ONCE, &mut |series| {
            let VisitedSeries { index, at_ms, values, times, can_be_stale } = series;
            match labels(index) {
                Some(labels) if !at_ms.is_empty() => {
                    visit(Series { labels, samples: Samples { at_ms, values }, times, can_be_stale })
                }
                _ => Ok(()),
            }
        })
    }
}

/// Returns the labels that a Prometheus gives to a series of the host with a name.
pub(super) fn as_scraped(labels: &Labels, instance: &str) -> Labels {
    let own = [(INSTANCE, instance), (JOB, OWN_JOB)];
    if labels.get(JOB).is_some() || labels.get(INSTANCE).is_some() {
        let rename = |(name, value): (&str, &str)| match name {
            JOB | INSTANCE => (format!("{EXPORTED}{name}"), value.to_owned()),
            _ => (name.to_owned(), value.to_owned()),
        };
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        return labels.iter().map(rename).chain(own).collect();
    }
    let mut own = own.into_iter().peekable();
    let mut others = labels.iter().peekable();
    Labels::from_sorted(std::iter::from_fn(|| match (own.peek(), others.peek()) {
        (Some(first), Some(other)) if first.0 < other.0 => own.next(),
        (Some(_), None) => own.next(),
        _ => others.next(),
    }))
}

/// Returns whether a rule made a series: then its labels are complete.
fn is_made_by_rule(series: &FoundSeries) -> bool {
    series.columns.first().is_some_and(|column| column.frame.instance().as_str() == INSTANCE_OF_RULES)
}
