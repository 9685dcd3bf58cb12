//! `ExportMetricsServiceRequest`, as OpenTelemetry's metrics have it: resources with their metrics, and these with their
//! data points.

use super::super::protobuf::{begin_message, message_len, put_double, put_fixed, put_message, put_text, put_varint};
use super::super::request::{REQUEST_BYTES, ReadyRequest};
use anyhow::Result;
use bytes::Bytes;
use dropsonde_model::Labels;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write as _;

/// Totals that count since their start, `AGGREGATION_TEMPORALITY_CUMULATIVE`.
const CUMULATIVE: u64 = 2;

/// The flag of a data point without a value, `DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK`.
const NO_VALUE: u64 = 1;

/// The kind of the data points of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PointKind {
    Gauge,
    Sum,
    Histogram,
    Summary,
}

/// A data point: the value of a stream at one time.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Point {
    /// None: of a gauge.
    pub(super) start_ms: Option<i64>,
    pub(super) at_ms: i64,
    /// None: the series ends.
    pub(super) value: Option<PointValue>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum PointValue {
    Number(f64),
    /// `bounds`: the upper bounds, ascending, without the infinite one. There is one more count than bounds.
    Histogram {
        count: u64,
        sum: Option<f64>,
        bounds: Vec<f64>,
        counts: Vec<u64>,
    },
    Summary {
        count: u64,
        sum: f64,
        quantiles: Vec<(f64, f64)>,
    },
}

/// A metric, without its data points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MetricHead {
    pub(super) name: String,
    pub(super) help: String,
    pub(super) unit: String,
    pub(super) kind: PointKind,
}

/// Attributes of a resource or of a data point, as they are written into it.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes(Vec<u8>);

/// Writes requests, one after the other.
#[derive(Debug)]
pub(super) struct Writer {
    max_points: usize,
    ready: Vec<ReadyRequest>,
    /// The resources of the open request that are complete.
    resources: Vec<u8>,
    /// The metrics of the open resource that are complete.
    metrics: Vec<u8>,
    /// The data points of the open metric.
    points: Vec<u8>,
    count: usize,
    example: Option<Labels>,
}

impl Attributes {
    /// Adds an attribute. `number`: that of the field.
    pub(super) fn add(&mut self, number: u32, name: &str, value: &str) {
        let value_len = message_len(value.len());
        begin_message(number, message_len(name.len()) + message_len(value_len), &mut self.0);
        put_text(1, name, &mut self.0);
        begin_message(2, value_len, &mut self.0);
        put_text(1, value, &mut self.0);
    }
}

impl PointKind {
    /// Returns the number of the field of a data point that has its attributes.
    pub(super) fn attributes_number(self) -> u32 {
        if self == Self::Histogram { 9 } else { 7 }
    }
}

impl Writer {
    pub(super) fn new(max_points: usize) -> Self {
        Self {
            max_points,
            ready: Vec::new(),
            resources: Vec::new(),
            metrics: Vec::new(),
            points: Vec::new(),
            count: 0,
            example: None,
        }
    }

    /// Adds a data point to the open metric of the open resource. `example`: labels that tell people which it is.
    pub(super) fn add(
        &mut self,
        resource: &Attributes,
        metric: &MetricHead,
        attributes: &Attributes,
        point: &Point,
        example: &Labels,
    ) -> Result<()> {
        let len = self.resources.len() + self.metrics.len() + self.points.len();
        if self.count > 0 && (self.count >= self.max_points || len > REQUEST_BYTES) {
            self.end_metric(metric);
            self.end_resource(resource);
            self.end_request()?;
        }
        self.example.get_or_insert_with(|| example.clone());
        put_message(1, &encoded(attributes, metric.kind, point), &mut self.points);
        self.count += 1;
        Ok(())
    }

    /// Ends the open metric.
    pub(super) fn end_metric(&mut self, metric: &MetricHead) {
        let mut points = std::mem::take(&mut self.points);
        if points.is_empty() {
            return;
        }
        let number = match metric.kind {
            PointKind::Gauge => 5,
            PointKind::Sum => 7,
            PointKind::Histogram => 9,
            PointKind::Summary => 11,
        };
        if matches!(metric.kind, PointKind::Sum | PointKind::Histogram) {
            put_varint(2, CUMULATIVE, &mut points);
        }
        if metric.kind == PointKind::Sum {
            put_varint(3, 1, &mut points);
        }
        let mut written = Vec::new();
        for (number, text) in [(1, &metric.name), (2, &metric.help), (3, &metric.unit)] {
            if !text.is_empty() {
                put_text(number, text, &mut written);
            }
        }
        put_message(number, &points, &mut written);
        put_message(2, &written, &mut self.metrics);
    }

    /// Ends the open resource, whose metrics have ended.
    pub(super) fn end_resource(&mut self, resource: &Attributes) {
        let metrics = std::mem::take(&mut self.metrics);
        if metrics.is_empty() {
            return;
        }
        let mut scope = Vec::new();
        put_text(1, "dropsonde", &mut scope);
        put_text(2, env!("CARGO_PKG_VERSION"), &mut scope);
        let mut of_scope = Vec::new();
        put_message(1, &scope, &mut of_scope);
        of_scope.extend(metrics);
        let mut written = Vec::new();
        put_message(1, &resource.0, &mut written);
        put_message(2, &of_scope, &mut written);
        put_message(1, &written, &mut self.resources);
    }

    fn end_request(&mut self) -> Result<()> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&self.resources)?;
        self.resources.clear();
        let (samples, example) = (std::mem::take(&mut self.count), self.example.take());
        self.ready.push(ReadyRequest { samples, body: Bytes::from(encoder.finish()?), example });
        Ok(())
    }

    /// Returns the requests. The last metric and its resource have ended.
    pub(super) fn finish(mut self) -> Result<Vec<ReadyRequest>> {
        if self.count > 0 {
            self.end_request()?;
        }
        Ok(self.ready)
    }
}

/// Returns nanoseconds since 1970.
fn nanos(at_ms: i64) -> u64 {
    u64::try_from(at_ms).unwrap_or(0).saturating_mul(1_000_000)
}

fn encoded(attributes: &Attributes, kind: PointKind, point: &Point) -> Vec<u8> {
    let mut written = Vec::with_capacity(attributes.0.len() + 64);
    if let Some(start_ms) = point.start_ms {
        put_fixed(2, nanos(start_ms), &mut written);
    }
    put_fixed(3, nanos(point.at_ms), &mut written);
    match &point.value {
        Some(PointValue::Number(value)) => put_double(4, *value, &mut written),
        Some(PointValue::Histogram { count, sum, bounds, counts }) => {
            put_fixed(4, *count, &mut written);
            if let Some(sum) = sum {
                put_double(5, *sum, &mut written);
            }
            let packed = |words: &mut dyn Iterator<Item = u64>| words.flat_map(u64::to_le_bytes).collect::<Vec<u8>>();
            put_message(6, &packed(&mut counts.iter().copied()), &mut written);
            put_message(7, &packed(&mut bounds.iter().map(|bound| bound.to_bits())), &mut written);
        }
        Some(PointValue::Summary { count, sum, quantiles }) => {
            put_fixed(4, *count, &mut written);
            put_double(5, *sum, &mut written);
            for (quantile, value) in quantiles {
                let mut of_quantile = Vec::new();
                put_double(1, *quantile, &mut of_quantile);
                put_double(2, *value, &mut of_quantile);
                put_message(6, &of_quantile, &mut written);
            }
        }
        None => put_varint(if kind == PointKind::Histogram { 10 } else { 8 }, NO_VALUE, &mut written),
    }
    written.extend_from_slice(&attributes.0);
    written
}
