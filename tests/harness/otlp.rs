//! A collector for OTLP metrics that keeps what it gets and notes every broken rule.

use super::host::wait_until;
use super::kept_requests::{Reply, Request, answer_requests};
use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, Metric, metric::Data, number_data_point};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

/// A strict collector. It ends with the test run.
pub(crate) struct StrictCollector {
    address: SocketAddr,
    state: Arc<Mutex<CollectorState>>,
}

/// What a [`StrictCollector`] got.
#[derive(Default)]
pub(crate) struct CollectorState {
    /// Data points by the attributes of the resource, the name of the metric and the attributes of the points.
    pub(crate) streams: BTreeMap<String, Vec<CollectedPoint>>,
    /// The rules that were broken, a sentence each.
    pub(crate) broken: Vec<String>,
    /// Points that came again.
    pub(crate) again: usize,
    /// Requests, also those that were not accepted.
    pub(crate) requests: usize,
    /// The answer to requests in place of accepting them.
    instead: Option<Reply>,
}

/// A data point.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CollectedPoint {
    pub(crate) kind: &'static str,
    pub(crate) unit: String,
    pub(crate) start_ms: u64,
    pub(crate) at_ms: i64,
    /// Of a histogram its count. None: the stream ends.
    pub(crate) value: Option<f64>,
    /// Of a histogram.
    pub(crate) buckets: Vec<(f64, u64)>,
}

impl StrictCollector {
    pub(crate) fn start() -> Self {
        let state = Arc::<Mutex<CollectorState>>::default();
        let shared = state.clone();
        let address = answer_requests(move |request| shared.lock().unwrap().answer(&request));
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers all further requests like this instead of accepting them.
    pub(crate) fn answer(&self, status: u16, headers: &str) {
        self.state().instead = Some((status, headers.to_owned(), Vec::new()));
    }

    /// Answers that it rejected some data points of each request.
    pub(crate) fn reject(&self, rejected_data_points: i64, error_message: &str) {
        let partial = ExportMetricsPartialSuccess { rejected_data_points, error_message: error_message.to_owned() };
        let body = ExportMetricsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        self.state().instead = Some((200, "Content-Type: application/x-protobuf\r\n".to_owned(), body));
    }

    /// Accepts requests again.
    pub(crate) fn accept(&self) {
        self.state().instead = None;
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, CollectorState> {
        self.state.lock().unwrap()
    }

    /// Waits until what it got is as wanted.
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&CollectorState) -> bool) {
        drop(self.until(what, wanted));
    }

    /// Does the same, and returns it.
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&CollectorState) -> bool) -> MutexGuard<'_, CollectorState> {
        wait_until(what, || wanted(&self.state()));
        let state = self.state();
        assert!(state.broken.is_empty(), "{:#?}", state.broken);
        state
    }
}

impl CollectorState {
    /// Returns the points of the one stream whose names contain some texts.
    pub(crate) fn points(&self, texts: &[&str]) -> Vec<CollectedPoint> {
        let is_it = |name: &String| texts.iter().all(|text| name.contains(text));
        let found: Vec<_> = self.streams.iter().filter(|(name, _)| is_it(name)).collect();
        assert!(found.len() <= 1, "{texts:?} are in several: {found:?}");
        found.first().map(|(_, points)| (*points).clone()).unwrap_or_default()
    }

    fn breaks(&mut self, rule: String) {
        // A few tell enough.
        if self.broken.len() < 20 {
            self.broken.push(rule);
        }
    }

    fn answer(&mut self, request: &Request) -> Reply {
        self.requests += 1;
        let head =
            (&*request.method, &*request.path, request.header("content-type"), request.header("content-encoding"));
        if head != ("POST", "/v1/metrics", Some("application/x-protobuf"), Some("gzip")) {
            self.breaks(format!("a request with {head:?}"));
        }
        if let Some(instead) = &self.instead {
            return instead.clone();
        }
        let mut bytes = Vec::new();
        if GzDecoder::new(&*request.body).read_to_end(&mut bytes).is_err() {
            self.breaks("a body that is not compressed with gzip".to_owned());
        }
        match ExportMetricsServiceRequest::decode(&*bytes) {
            Ok(request) => self.take(&request),
            Err(error) => self.breaks(format!("no ExportMetricsServiceRequest: {error}")),
        }
        (200, "Content-Type: application/x-protobuf\r\n".to_owned(), Vec::new())
    }

    fn take(&mut self, request: &ExportMetricsServiceRequest) {
        let mut count = 0;
        for of_resource in &request.resource_metrics {
            let resource = self.written(&of_resource.resource.clone().unwrap_or_default().attributes);
            if !resource.contains("service.name=") || !resource.contains("service.instance.id=") {
                self.breaks(format!("a resource {resource} without a service"));
            }
            for scope in &of_resource.scope_metrics {
                if scope.scope.as_ref().is_none_or(|scope| scope.name.is_empty()) {
                    self.breaks("a scope without a name".to_owned());
                }
                let mut names = BTreeSet::new();
                for metric in &scope.metrics {
                    if metric.name.is_empty() || !names.insert((&metric.name, kind(metric))) {
                        self.breaks(format!("{resource}: {:?} comes twice, or has no name", metric.name));
                    }
                    for (attributes, point) in self.collected(metric) {
                        count += 1;
                        let attributes = self.written(&attributes);
                        self.take_point(&format!("{resource} {} {attributes}", metric.name), point);
                    }
                }
            }
        }
        if count == 0 {
            self.breaks("a request without data points".to_owned());
        }
    }

    /// Writes attributes as `{name="value",…}`.
    fn written(&mut self, attributes: &[KeyValue]) -> String {
        let names: BTreeSet<&String> = attributes.iter().map(|pair| &pair.key).collect();
        if names.len() != attributes.len() || names.iter().any(|name| name.is_empty()) {
            self.breaks(format!("attributes without a name, or twice: {attributes:?}"));
        }
        let value = |pair: &KeyValue| match pair.value.clone().and_then(|value| value.value) {
            Some(Value::StringValue(text)) => format!("{}={text:?}", pair.key),
            other => format!("{}={other:?}", pair.key),
        };
        format!("{{{}}}", attributes.iter().map(value).collect::<Vec<_>>().join(","))
    }

    /// Returns the points of a metric with their attributes.
    fn collected(&mut self, metric: &Metric) -> Vec<(Vec<KeyValue>, CollectedPoint)> {
        let at_ms = |nanos: u64| (nanos / 1_000_000) as i64;
        let (kind, unit) = (kind(metric), metric.unit.clone());
        match &metric.data {
            Some(Data::Gauge(gauge)) => gauge
                .data_points
                .iter()
                .map(|point| {
                    let (start_ms, at_ms) = (point.start_time_unix_nano / 1_000_000, at_ms(point.time_unix_nano));
                    let value = self.number(&metric.name, point.value.as_ref(), point.flags);
                    let buckets = Vec::new();
                    let point_of = CollectedPoint { kind, unit: unit.clone(), start_ms, at_ms, value, buckets };
                    (point.attributes.clone(), point_of)
                })
                .collect(),
            Some(Data::Sum(sum)) => {
                if sum.aggregation_temporality != 2 || !sum.is_monotonic {
                    self.breaks(format!("{}: a sum that is not cumulative", metric.name));
                }
                let point_of = |state: &mut Self, point: &opentelemetry_proto::tonic::metrics::v1::NumberDataPoint| {
                    let (start_ms, at_ms) = (point.start_time_unix_nano / 1_000_000, at_ms(point.time_unix_nano));
                    let value = state.number(&metric.name, point.value.as_ref(), point.flags);
                    let unit = unit.clone();
                    (
                        point.attributes.clone(),
                        CollectedPoint { kind, unit, start_ms, at_ms, value, buckets: Vec::new() },
                    )
                };
                sum.data_points.iter().map(|point| point_of(self, point)).collect()
            }
            Some(Data::Histogram(histogram)) => {
                if histogram.aggregation_temporality != 2 {
                    self.breaks(format!("{}: a histogram that is not cumulative", metric.name));
                }
                let point_of = |state: &mut Self, point: &HistogramDataPoint| {
                    let (start_ms, at_ms) = (point.start_time_unix_nano / 1_000_000, at_ms(point.time_unix_nano));
                    let buckets = state.buckets(&metric.name, point);
                    let value = (point.flags & 1 == 0).then_some(point.count as f64);
                    let unit = unit.clone();
                    (point.attributes.clone(), CollectedPoint { kind, unit, start_ms, at_ms, value, buckets })
                };
                histogram.data_points.iter().map(|point| point_of(self, point)).collect()
            }
            Some(Data::Summary(summary)) => summary
                .data_points
                .iter()
                .map(|point| {
                    let (start_ms, at_ms) = (point.start_time_unix_nano / 1_000_000, at_ms(point.time_unix_nano));
                    let value = (point.flags & 1 == 0).then_some(point.count as f64);
                    let buckets = Vec::new();
                    let point_of = CollectedPoint { kind, unit: unit.clone(), start_ms, at_ms, value, buckets };
                    (point.attributes.clone(), point_of)
                })
                .collect(),
            other => {
                self.breaks(format!("{}: {other:?}", metric.name));
                Vec::new()
            }
        }
    }

    fn number(&mut self, name: &str, value: Option<&number_data_point::Value>, flags: u32) -> Option<f64> {
        match (value, flags) {
            (Some(number_data_point::Value::AsDouble(value)), 0) => Some(*value),
            (None, 1) => None,
            other => {
                self.breaks(format!("{name}: a point with {other:?}"));
                None
            }
        }
    }

    fn buckets(&mut self, name: &str, point: &HistogramDataPoint) -> Vec<(f64, u64)> {
        if point.flags & 1 == 1 {
            return Vec::new();
        }
        let (bounds, counts) = (&point.explicit_bounds, &point.bucket_counts);
        let is_whole = counts.len() == bounds.len() + 1 && counts.iter().sum::<u64>() == point.count;
        if !is_whole || !bounds.is_sorted_by(|one, other| one < other) {
            self.breaks(format!("{name}: a histogram with wrong buckets: {point:?}"));
        }
        bounds.iter().copied().chain([f64::INFINITY]).zip(counts.iter().copied()).collect()
    }

    fn take_point(&mut self, stream: &str, point: CollectedPoint) {
        let known = self.streams.entry(stream.to_owned()).or_default();
        let is_total = matches!(point.kind, "sum" | "histogram");
        let mut wrong = None;
        match known.last() {
            Some(last) if last.at_ms >= point.at_ms => {
                if known.iter().any(|known| (known.at_ms, known.value) == (point.at_ms, point.value)) {
                    self.again += 1;
                    return;
                }
                wrong = Some(format!("a point of {} after one of {}", point.at_ms, last.at_ms));
            }
            Some(last) if last.value.is_none() && point.value.is_none() => wrong = Some("two ends".to_owned()),
            Some(last)
                if is_total && point.start_ms == last.start_ms && point.value < last.value && point.value.is_some() =>
            {
                wrong = Some(format!(
                    "a total of {:?} after {:?} that counts since the same time",
                    point.value, last.value
                ));
            }
            None if point.value.is_none() => wrong = Some("an end without a beginning".to_owned()),
            _ => {}
        }
        if is_total && (point.start_ms == 0 || point.start_ms as i64 > point.at_ms) {
            wrong = Some(format!("a total of {} that counts since {}", point.at_ms, point.start_ms));
        }
        known.push(point);
        if let Some(wrong) = wrong {
            self.breaks(format!("{stream}: {wrong}"));
        }
    }
}

fn kind(metric: &Metric) -> &'static str {
    match &metric.data {
        Some(Data::Gauge(_)) => "gauge",
        Some(Data::Sum(_)) => "sum",
        Some(Data::Histogram(_)) => "histogram",
        Some(Data::Summary(_)) => "summary",
        _ => "none",
    }
}
