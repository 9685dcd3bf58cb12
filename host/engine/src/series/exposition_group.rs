use dropsonde_model::labels::NAME;
use dropsonde_model::{Labels, MetricType};
use dropsonde_openmetrics::ExpositionFormat;
use dropsonde_openmetrics::read::{ExpositionLine, ReadError, ScrapedSample, read};
use dropsonde_store::{SeriesGroup, SeriesHandle, TickReport};
use std::collections::HashMap;

/// Adds the samples of one exposition after another to a group of series.
#[derive(Debug)]
pub(crate) struct ExpositionGroup {
    group: SeriesGroup,
    /// The series of the last exposition, by name and labels as they were written.
    known: HashMap<String, KnownSeries>,
    samples: Vec<(SeriesHandle, f64)>,
    /// The number of the exposition.
    nth: u64,
}

#[derive(Debug)]
struct KnownSeries {
    /// None: the series is left out.
    handle: Option<SeriesHandle>,
    /// The last exposition that had it.
    seen: u64,
}

/// The family whose lines are being read.
#[derive(Default)]
struct CurrentFamily {
    name: String,
    metric_type: MetricType,
    is_kept: bool,
}

impl ExpositionGroup {
    pub(crate) fn new(group: SeriesGroup) -> Self {
        Self { group, known: HashMap::new(), samples: Vec::new(), nth: 0 }
    }

    /// Adds the samples of an exposition at one time. Series that it lacks end. `is_kept` tells for the name of a
    /// family whether its series are recorded.
    pub(crate) fn record(
        &mut self,
        exposition: &[u8],
        format: ExpositionFormat,
        at_ms: i64,
        is_kept: impl Fn(&str) -> bool,
    ) -> Result<TickReport, ReadError> {
        self.nth += 1;
        self.samples.clear();
        let (mut family, mut key) = (CurrentFamily::default(), String::new());
        read(exposition, format, &mut |line| match line {
            ExpositionLine::Kind { name, kind } => {
                family.name.clear();
                family.name.push_str(name);
                family.metric_type = metric_type(kind);
                family.is_kept = is_kept(name);
            }
            ExpositionLine::Sample(sample) => {
                if !family.has(sample.name) {
                    family = CurrentFamily { is_kept: is_kept(sample.name), ..CurrentFamily::default() };
                }
                self.add(&family, sample, &mut key);
            }
            ExpositionLine::Help { .. } | ExpositionLine::Unit { .. } => {}
        })?;
        let nth = self.nth;
        self.known.retain(|_, known| known.seen == nth);
        let report = self.group.push(at_ms, &self.samples);
        if report.unknown > 0 {
            self.known.clear();
        }
        Ok(report)
    }

    fn add(&mut self, family: &CurrentFamily, sample: ScrapedSample<'_>, key: &mut String) {
        key.clear();
        key.push_str(sample.name);
        key.push('{');
        key.push_str(sample.labels.as_str());
        let handle = match self.known.get_mut(key.as_str()) {
            Some(known) => {
                known.seen = self.nth;
                known.handle
            }
            None => {
                let labels = || labels(sample);
                let handle = family.is_kept.then(|| self.group.series(&labels(), family.metric_type).ok()).flatten();
                self.known.insert(key.clone(), KnownSeries { handle, seen: self.nth });
                handle
            }
        };
        self.samples.extend(handle.map(|handle| (handle, sample.value)));
    }

    /// Ends all series.
    pub(crate) fn end(&mut self, at_ms: i64) {
        self.group.end(at_ms);
    }
}

impl CurrentFamily {
    fn has(&self, name: &str) -> bool {
        let suffix = name.strip_prefix(self.name.as_str());
        !self.name.is_empty()
            && suffix.is_some_and(|suffix| {
                matches!(
                    suffix,
                    "" | "_total" | "_bucket" | "_count" | "_sum" | "_created" | "_info" | "_gcount" | "_gsum"
                )
            })
    }
}

fn metric_type(kind: &str) -> MetricType {
    MetricType::ALL.into_iter().find(|known| known.as_str() == kind).unwrap_or_default()
}

/// Returns the labels of a series, with its name among them. A label without a value is no label.
fn labels(sample: ScrapedSample<'_>) -> Labels {
    let own = sample.labels.iter().filter(|(_, value)| !value.is_empty());
    own.chain([(NAME.into(), sample.name.into())]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_store::{GroupKey, InstanceId, LabelMatcher, Store, StoreLimits};

    fn group(store: &Store) -> ExpositionGroup {
        let instance = InstanceId::new("i").unwrap();
        let key = GroupKey { instance, group: "g".into(), owner: "o".into(), interval_ms: 1000 };
        ExpositionGroup::new(store.series_group(key))
    }

    fn newest(store: &Store, until_ms: i64) -> Vec<(String, MetricType, f64)> {
        let selection = store.select(&[], 0..until_ms);
        let all = selection.series().iter().zip(selection.newest(0..until_ms));
        all.filter_map(|(series, sample)| {
            let shown = series.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
            Some((shown.join(" "), series.metric_type, sample?.1))
        })
        .collect()
    }

    #[test]
    fn every_line_of_an_exposition_becomes_a_sample_of_its_series() {
        let store = Store::in_memory(&StoreLimits::default());
        let mut group = group(&store);
        let text = "# HELP a_total All.\n# TYPE a_total counter\na_total{x=\"1\\n\",y=\"\"} 5\n\
                    # TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 0.5\nh_count 2\nloose 7\n";
        let report = group.record(text.as_bytes(), ExpositionFormat::Text, 1000, |_| true).unwrap();
        assert_eq!((report.samples, report.refused, report.unknown), (5, 0, 0));
        let expected = [
            ("__name__=a_total x=1\n", MetricType::Counter, 5.0),
            ("__name__=h_bucket le=+Inf", MetricType::Histogram, 2.0),
            ("__name__=h_count", MetricType::Histogram, 2.0),
            ("__name__=h_sum", MetricType::Histogram, 0.5),
            ("__name__=loose", MetricType::Unknown, 7.0),
        ];
        let expected: Vec<_> = expected.into_iter().map(|(a, b, c)| (a.to_owned(), b, c)).collect();
        assert_eq!(newest(&store, 1001), expected);
        group.record(b"loose 8\n", ExpositionFormat::Text, 2000, |_| true).unwrap();
        assert_eq!(newest(&store, 2001), [("__name__=loose".to_owned(), MetricType::Unknown, 8.0)]);
    }

    #[test]
    fn families_that_are_not_kept_are_left_out() {
        let store = Store::in_memory(&StoreLimits::default());
        let mut group = group(&store);
        let text = "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\nh_sum 0.5\nh_count 2\n# TYPE g gauge\ng 1\n";
        for at_ms in [1000, 2000] {
            let report = group.record(text.as_bytes(), ExpositionFormat::Text, at_ms, |name| name != "h").unwrap();
            assert_eq!(report.samples, 1);
        }
        assert_eq!((store.series_count(), store.count_series(&[LabelMatcher::is("__name__", "g")])), (1, 1));
    }
}
