//! The series of a part of a window, as resources with metrics and data points.

use super::super::catalogue::family;
use super::super::request::{ReadyRequest, SentSeries};
use super::message::{Attributes, MetricHead, Point, PointKind, PointValue, Writer};
use super::starts::Starts;
use anyhow::Result;
use dropsonde_engine::series::Metadata;
use dropsonde_model::labels::NAME;
use dropsonde_model::{Labels, MetricType};
use dropsonde_store::STALE;
use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;
use std::vec::IntoIter;
use xxhash_rust::xxh64::xxh64;

/// The service of series without `job`.
const SERVICE: &str = "dropsonde";

/// The requests of a part of a window, while its samples are collected: a histogram needs all of its series.
#[derive(Debug)]
pub(in super::super) struct OtlpPart {
    resource: Arc<BTreeMap<String, String>>,
    max_points: usize,
    resources: BTreeMap<ResourceKey, BTreeMap<MetricKey, Metric>>,
}

/// The labels that tell what a series is about: `job`, `instance` and `id`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ResourceKey {
    job: String,
    host: String,
    id: String,
}

/// A metric of a resource. In the data of others a name can have two types.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct MetricKey {
    name: String,
    kind: PointKind,
}

#[derive(Debug)]
struct Metric {
    head: MetricHead,
    /// By the labels that they have beside those of the resource.
    streams: BTreeMap<Labels, Stream>,
}

/// Samples that make up one sequence of data points: of one series, or of all series of a histogram or a summary.
#[derive(Debug, Default)]
struct Stream {
    pieces: Vec<Piece>,
}

/// Samples of one series.
#[derive(Debug)]
struct Piece {
    role: Role,
    samples: Vec<(i64, f64)>,
}

/// The meaning of a series within its stream.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Role {
    Value,
    /// A bucket of a histogram, with its upper bound.
    Bucket(f64),
    /// A quantile of a summary.
    Quantile(f64),
    Sum,
    Count,
}

/// Samples of a series that were not looked at yet.
type RestOfSamples = Peekable<IntoIter<(i64, f64)>>;

/// The values that the series of a histogram or a summary have at one time.
#[derive(Debug, Default)]
struct Composite {
    is_stale: bool,
    sum: Option<f64>,
    count: Option<f64>,
    /// Bounds with the counts up to them, or quantiles with their values.
    steps: Vec<(f64, f64)>,
}

impl OtlpPart {
    /// `resource`: attributes of all resources. `max_points`: the most data points of a request.
    pub(in super::super) fn new(resource: Arc<BTreeMap<String, String>>, max_points: usize) -> Self {
        Self { resource, max_points, resources: BTreeMap::new() }
    }

    /// Adds samples of a series, ascending in time.
    pub(in super::super) fn add(&mut self, series: SentSeries<'_>, at_ms: &[i64], values: &[f64]) {
        let label = |name: &str| series.labels.get(name).unwrap_or_default().to_owned();
        let (kind, role) = role(series);
        let own = label(NAME);
        let name = match role {
            Role::Value | Role::Quantile(_) => own,
            _ => family(&own).unwrap_or(&own).to_owned(),
        };
        let resource = ResourceKey { job: label("job"), host: label("instance"), id: label("id") };
        let step = match role {
            Role::Bucket(_) => "le",
            Role::Quantile(_) => "quantile",
            _ => NAME,
        };
        let is_own = |label: &str| ![NAME, "job", "instance", "id", step].contains(&label);
        let labels = Labels::from_sorted(series.labels.iter().filter(|(label, _)| is_own(label)));
        let metrics = self.resources.entry(resource).or_default();
        let metric = metrics.entry(MetricKey { name: name.clone(), kind }).or_insert_with(|| {
            let (help, unit) = series.metadata.map_or_else(Default::default, about);
            Metric { head: MetricHead { name, help, unit, kind }, streams: BTreeMap::new() }
        });
        let samples = at_ms.iter().copied().zip(values.iter().copied()).collect();
        metric.streams.entry(labels).or_default().pieces.push(Piece { role, samples });
    }

    /// Notes in `starts` when counters began, and makes no requests.
    pub(in super::super) fn follow(self, starts: &mut Starts) -> Result<()> {
        for (key, metrics) in self.resources {
            for Metric { head, streams } in metrics.into_values() {
                for (labels, stream) in streams {
                    stream.points(head.kind, key.number(&head, &labels), starts, &mut |_| Ok(()))?;
                }
            }
        }
        Ok(())
    }

    /// Returns the requests, to be sent one after the other. Notes in `starts` when counters began.
    pub(in super::super) fn finish(self, starts: &mut Starts) -> Result<Vec<ReadyRequest>> {
        let mut writer = Writer::new(self.max_points);
        for (key, metrics) in self.resources {
            let resource = key.attributes(&self.resource);
            for Metric { head, streams } in metrics.into_values() {
                for (labels, stream) in streams {
                    let mut attributes = Attributes::default();
                    for (name, value) in labels.iter() {
                        attributes.add(head.kind.attributes_number(), name, value);
                    }
                    let number = key.number(&head, &labels);
                    let example = key.example(&head, &labels);
                    stream.points(head.kind, number, starts, &mut |point| {
                        writer.add(&resource, &head, &attributes, &point, &example)
                    })?;
                }
                writer.end_metric(&head);
            }
            writer.end_resource(&resource);
        }
        writer.finish()
    }
}

impl ResourceKey {
    fn attributes(&self, configured: &BTreeMap<String, String>) -> Attributes {
        let Self { job, host, id } = self;
        let service = if job.is_empty() { SERVICE } else { job };
        let instance = if id.is_empty() { host } else { id };
        let mut all =
            BTreeMap::from([("host.name", &**host), ("service.instance.id", instance), ("service.name", service)]);
        all.extend(configured.iter().map(|(name, value)| (&**name, &**value)));
        let mut attributes = Attributes::default();
        for (name, value) in all.into_iter().filter(|(_, value)| !value.is_empty()) {
            attributes.add(1, name, value);
        }
        attributes
    }

    /// Returns a number of a stream, by which the beginnings of counters are known.
    fn number(&self, head: &MetricHead, labels: &Labels) -> u64 {
        let Self { job, host, id } = self;
        let text = [job, "\0", host, "\0", id, "\0", &head.name, "\0", labels.as_text()].concat();
        xxh64(text.as_bytes(), head.kind as u64)
    }

    fn example(&self, head: &MetricHead, labels: &Labels) -> Labels {
        labels.iter().chain([(NAME, &*head.name), ("id", &*self.id)]).filter(|(_, value)| !value.is_empty()).collect()
    }
}

impl Stream {
    /// Passes the data points to `visit`, ascending in time.
    fn points(
        mut self,
        kind: PointKind,
        number: u64,
        starts: &mut Starts,
        visit: &mut dyn FnMut(Point) -> Result<()>,
    ) -> Result<()> {
        let mut counter = starts.counter(number);
        match kind {
            PointKind::Gauge | PointKind::Sum => {
                for (at_ms, value) in self.pieces.into_iter().flat_map(|piece| piece.samples) {
                    let is_stale = value.to_bits() == STALE.to_bits();
                    let start_ms = match kind {
                        PointKind::Sum if is_stale => Some(counter.without(at_ms)),
                        PointKind::Sum => Some(counter.of(at_ms, value)),
                        _ => None,
                    };
                    visit(Point { start_ms, at_ms, value: (!is_stale).then_some(PointValue::Number(value)) })?;
                }
            }
            PointKind::Histogram | PointKind::Summary => {
                self.pieces.sort_by(|one, other| one.role.order().total_cmp(&other.role.order()));
                let mut pieces: Vec<_> =
                    self.pieces.into_iter().map(|piece| (piece.role, piece.samples.into_iter().peekable())).collect();
                while let Some((at_ms, all)) = next_composite(&mut pieces) {
                    let (count, value) = all.value(kind);
                    let start_ms = match count {
                        Some(count) => counter.of(at_ms, count),
                        None => counter.without(at_ms),
                    };
                    visit(Point { start_ms: Some(start_ms), at_ms, value })?;
                }
            }
        }
        if kind != PointKind::Gauge {
            starts.note(number, counter);
        }
        Ok(())
    }
}

/// Returns what series say of the earliest time that they have not been asked for.
fn next_composite(pieces: &mut [(Role, RestOfSamples)]) -> Option<(i64, Composite)> {
    let at_ms = pieces.iter_mut().filter_map(|(_, samples)| Some(samples.peek()?.0)).min()?;
    let mut all = Composite::default();
    for (role, samples) in pieces {
        // Several series can have become one by relabelling: the last one counts.
        while let Some((_, value)) = samples.next_if(|(at, _)| *at == at_ms) {
            if value.to_bits() == STALE.to_bits() {
                all.is_stale = true;
                continue;
            }
            match *role {
                Role::Bucket(step) | Role::Quantile(step) => match all.steps.last_mut() {
                    Some((last, known)) if *last == step => *known = value,
                    _ => all.steps.push((step, value)),
                },
                Role::Sum => all.sum = Some(value),
                Role::Count | Role::Value => all.count = Some(value),
            }
        }
    }
    Some((at_ms, all))
}

impl Composite {
    /// Returns how many values were counted, and what a data point says of them; none if the series ends.
    fn value(self, kind: PointKind) -> (Option<f64>, Option<PointValue>) {
        let Self { is_stale, sum, count, mut steps } = self;
        // A bucket that ends alone ends with the histogram that had it.
        if is_stale && count.is_none() && steps.is_empty() {
            return (None, None);
        }
        if kind == PointKind::Summary {
            let count = count.unwrap_or(0.0);
            let value = PointValue::Summary { count: whole(count), sum: sum.unwrap_or(0.0), quantiles: steps };
            return (Some(count), Some(value));
        }
        let infinite = steps.pop_if(|(bound, _)| *bound == f64::INFINITY).map(|(_, count)| count);
        let largest = steps.last().map(|(_, count)| *count);
        let total = infinite.or(count).or(largest).unwrap_or(0.0);
        let mut below = 0;
        let mut counts: Vec<u64> = Vec::with_capacity(steps.len() + 1);
        for up_to in steps.iter().map(|(_, count)| *count).chain([total]).map(whole) {
            counts.push(up_to.saturating_sub(below));
            below = below.max(up_to);
        }
        let bounds = steps.into_iter().map(|(bound, _)| bound).collect();
        // The protocol wants the sum of the buckets.
        (Some(total), Some(PointValue::Histogram { count: below, sum, bounds, counts }))
    }
}

impl Role {
    fn order(self) -> f64 {
        match self {
            Self::Bucket(step) | Self::Quantile(step) => step,
            Self::Value | Self::Sum | Self::Count => f64::NEG_INFINITY,
        }
    }
}

/// Returns a count that an exposition has as a float.
fn whole(count: f64) -> u64 {
    count.round() as u64
}

/// Returns the kind of the data points of a series, and what it says within them.
fn role(series: SentSeries<'_>) -> (PointKind, Role) {
    let is_counter = series.metadata.is_some_and(|known| known.metric_type == MetricType::Counter.as_str());
    let name = series.labels.get(NAME).unwrap_or_default();
    let step =
        |label: &str| series.labels.get(label).and_then(|text| text.parse::<f64>().ok()).filter(|step| !step.is_nan());
    match series.metric_type {
        MetricType::Counter => (PointKind::Sum, Role::Value),
        // All series of a histogram are in one part only if each of them is known to be of one.
        MetricType::Unknown if is_counter => (PointKind::Sum, Role::Value),
        MetricType::Gauge | MetricType::Unknown => (PointKind::Gauge, Role::Value),
        MetricType::Histogram | MetricType::Summary => {
            let is_histogram = series.metric_type == MetricType::Histogram;
            let kind = if is_histogram { PointKind::Histogram } else { PointKind::Summary };
            let role = match name {
                name if name.ends_with("_sum") => Some(Role::Sum),
                name if name.ends_with("_count") => Some(Role::Count),
                name if name.ends_with("_bucket") && kind == PointKind::Histogram => step("le").map(Role::Bucket),
                _ if kind == PointKind::Summary => step("quantile").map(Role::Quantile),
                _ => None,
            };
            role.map_or((PointKind::Gauge, Role::Value), |role| (kind, role))
        }
    }
}

/// Returns the help of a metric, and its unit in the words of UCUM, which the protocol wants.
fn about(known: &Metadata) -> (String, String) {
    let unit = match &*known.unit {
        "seconds" => "s",
        "bytes" => "By",
        "ratio" => "1",
        "percent" => "%",
        "celsius" => "Cel",
        "meters" => "m",
        "volts" => "V",
        "amperes" => "A",
        "joules" => "J",
        "grams" => "g",
        other => other,
    };
    (known.help.clone(), unit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::GzDecoder;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
    use opentelemetry_proto::tonic::metrics::v1::{Metric as Written, metric::Data, number_data_point};
    use prost::Message;
    use std::io::Read as _;

    fn decoded(requests: &[ReadyRequest]) -> Vec<ExportMetricsServiceRequest> {
        let decode = |request: &ReadyRequest| {
            let mut bytes = Vec::new();
            GzDecoder::new(&*request.body).read_to_end(&mut bytes).unwrap();
            ExportMetricsServiceRequest::decode(&*bytes).unwrap()
        };
        requests.iter().map(decode).collect()
    }

    fn pairs(attributes: &[KeyValue]) -> Vec<(String, String)> {
        let text = |pair: &KeyValue| match pair.value.clone().unwrap().value.unwrap() {
            Value::StringValue(text) => (pair.key.clone(), text),
            other => panic!("{other:?}"),
        };
        attributes.iter().map(text).collect()
    }

    fn part(max_points: usize) -> OtlpPart {
        OtlpPart::new(
            Arc::new(BTreeMap::from([("deployment.environment.name".to_owned(), "prod".to_owned())])),
            max_points,
        )
    }

    fn add(part: &mut OtlpPart, metric_type: MetricType, name: &str, more: &[(&str, &str)], samples: &[(i64, f64)]) {
        let labels = [(NAME, name), ("id", "web-1"), ("instance", "a:9090"), ("job", "dropsonde")];
        let labels: Labels = labels.iter().chain(more).copied().collect();
        let known = Metadata { metric_type: String::new(), help: "Helps.".to_owned(), unit: "seconds".to_owned() };
        let (at_ms, values): (Vec<i64>, Vec<f64>) = samples.iter().copied().unzip();
        part.add(SentSeries { labels: &labels, metric_type, metadata: Some(&known) }, &at_ms, &values);
    }

    fn metrics(request: &ExportMetricsServiceRequest) -> Vec<Written> {
        let scopes = request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
        scopes.flat_map(|scope| scope.metrics.clone()).collect()
    }

    #[test]
    fn gauges_and_counters_are_data_points_of_the_resource_of_their_instance() {
        let mut part = part(100);
        let series = [("queue", "a")];
        add(&mut part, MetricType::Gauge, "depth", &series, &[(1000, 1.5), (2000, STALE)]);
        add(&mut part, MetricType::Counter, "done_total", &series, &[(1000, 5.0), (2000, 7.0), (3000, 1.0)]);
        let requests = part.finish(&mut Starts::default()).unwrap();
        assert_eq!(requests.iter().map(|request| request.samples).collect::<Vec<_>>(), [5]);
        let request = &decoded(&requests)[0];
        let resource = pairs(&request.resource_metrics[0].resource.as_ref().unwrap().attributes);
        let expected = [
            ("deployment.environment.name", "prod"),
            ("host.name", "a:9090"),
            ("service.instance.id", "web-1"),
            ("service.name", "dropsonde"),
        ];
        assert_eq!(resource, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let [depth, done] = &metrics(request)[..] else { panic!("{request:?}") };
        assert_eq!((&*depth.name, &*depth.description, &*depth.unit), ("depth", "Helps.", "s"));
        let Some(Data::Gauge(gauge)) = &depth.data else { panic!("{depth:?}") };
        let [first, end] = &gauge.data_points[..] else { panic!("{gauge:?}") };
        assert_eq!(pairs(&first.attributes), [("queue".to_owned(), "a".to_owned())]);
        assert_eq!(first.value, Some(number_data_point::Value::AsDouble(1.5)));
        assert_eq!((first.time_unix_nano, first.start_time_unix_nano, first.flags), (1_000_000_000, 0, 0));
        assert_eq!((end.value, end.flags), (None, 1), "it says that the series ends");
        let Some(Data::Sum(sum)) = &done.data else { panic!("{done:?}") };
        assert_eq!((sum.aggregation_temporality, sum.is_monotonic), (2, true));
        let starts: Vec<u64> = sum.data_points.iter().map(|point| point.start_time_unix_nano / 1_000_000).collect();
        assert_eq!(starts, [1000, 1000, 2000], "after a reset it counts since the sample before");
    }

    #[test]
    fn the_series_of_a_histogram_are_one_data_point() {
        let mut part = part(100);
        let kind = MetricType::Histogram;
        add(&mut part, kind, "took_bucket", &[("le", "+Inf")], &[(1000, 9.0), (2000, 12.0)]);
        add(&mut part, kind, "took_sum", &[], &[(1000, 4.5), (2000, 6.0)]);
        add(&mut part, kind, "took_bucket", &[("le", "0.5")], &[(1000, 6.0), (2000, 6.0)]);
        add(&mut part, kind, "took_count", &[], &[(1000, 9.0), (2000, 12.0), (3000, STALE)]);
        add(&mut part, kind, "took_bucket", &[("le", "0.1")], &[(1000, 2.0), (2000, 3.0)]);
        let requests = part.finish(&mut Starts::default()).unwrap();
        let [took] = &metrics(&decoded(&requests)[0])[..] else { panic!("one metric") };
        assert_eq!(took.name, "took");
        let Some(Data::Histogram(histogram)) = &took.data else { panic!("{took:?}") };
        assert_eq!(histogram.aggregation_temporality, 2);
        let [first, second, end] = &histogram.data_points[..] else { panic!("{histogram:?}") };
        assert_eq!((first.count, first.sum, &*first.explicit_bounds), (9, Some(4.5), &[0.1, 0.5][..]));
        assert_eq!((&*first.bucket_counts, &*second.bucket_counts), (&[2, 4, 3][..], &[3, 3, 6][..]));
        assert_eq!((second.start_time_unix_nano, second.time_unix_nano), (1_000_000_000, 2_000_000_000));
        assert_eq!((end.flags, end.bucket_counts.len()), (1, 0));
        assert!(first.attributes.is_empty(), "le is no attribute");
    }

    #[test]
    fn the_series_of_a_summary_are_one_data_point() {
        let mut part = part(100);
        let kind = MetricType::Summary;
        add(&mut part, kind, "took", &[("quantile", "0.99")], &[(1000, 3.0)]);
        add(&mut part, kind, "took", &[("quantile", "0.5")], &[(1000, 1.0)]);
        add(&mut part, kind, "took_sum", &[], &[(1000, 4.5)]);
        add(&mut part, kind, "took_count", &[], &[(1000, 9.0)]);
        let requests = part.finish(&mut Starts::default()).unwrap();
        let [took] = &metrics(&decoded(&requests)[0])[..] else { panic!("one metric") };
        let Some(Data::Summary(summary)) = &took.data else { panic!("{took:?}") };
        let [point] = &summary.data_points[..] else { panic!("{summary:?}") };
        let quantiles: Vec<_> = point.quantile_values.iter().map(|one| (one.quantile, one.value)).collect();
        assert_eq!((point.count, point.sum, &*quantiles), (9, 4.5, &[(0.5, 1.0), (0.99, 3.0)][..]));
    }

    #[test]
    fn a_part_with_many_points_becomes_several_requests_and_loses_none() {
        let mut part = part(7);
        let samples: Vec<(i64, f64)> = (0..50).map(|nth| (nth * 1000, nth as f64)).collect();
        add(&mut part, MetricType::Gauge, "a", &[], &samples);
        add(&mut part, MetricType::Gauge, "b", &[], &samples);
        let requests = part.finish(&mut Starts::default()).unwrap();
        assert!(requests.iter().all(|request| request.samples <= 7));
        let points = |written: &Written| match &written.data {
            Some(Data::Gauge(gauge)) => gauge.data_points.len(),
            _ => 0,
        };
        let all: usize = decoded(&requests).iter().flat_map(metrics).map(|one| points(&one)).sum();
        assert_eq!((all, requests.iter().map(|request| request.samples).sum::<usize>()), (100, 100));
    }
}
