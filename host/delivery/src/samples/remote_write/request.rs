//! Requests of both versions of Prometheus' remote write protocol: `WriteRequest` of version 1.0, and
//! `io.prometheus.write.v2.Request`. They are written field by field, because a request has thousands of labels that
//! need not be copied first.

use super::super::destination::Version;
use super::super::protobuf::{KEY, begin_message, message_len, put_message, put_text, put_varint};
use super::super::request::SentSeries;
use dropsonde_model::Labels;
use prost::encoding::{WireType, encode_varint, encoded_len_varint};
use std::collections::HashMap;
use std::ops::Range;

/// A double with its key.
const DOUBLE: usize = KEY + 8;

/// Times whose varint has six bytes, in milliseconds: those from 1971 to 2109.
const USUAL_TIMES: Range<u64> = 1 << 35..1 << 42;

/// Collects the series of a request.
#[derive(Debug)]
pub(super) struct RequestBuilder {
    series: Vec<u8>,
    pub(super) samples: usize,
    /// Of version 2: texts, each once.
    symbols: Option<Symbols>,
}

#[derive(Debug, Default)]
struct Symbols {
    numbers: HashMap<String, u32>,
    bytes: Vec<u8>,
}

impl RequestBuilder {
    /// Returns an empty one with room for some bytes.
    pub(super) fn new(version: Version, bytes: usize) -> Self {
        Self { series: Vec::with_capacity(bytes), samples: 0, symbols: (version == Version::V2).then(Symbols::new) }
    }

    /// Returns about how many bytes the request has, before it is compressed.
    pub(super) fn len(&self) -> usize {
        self.series.len() + self.symbols.as_ref().map_or(0, |symbols| symbols.bytes.len())
    }

    /// Adds samples of a series, ascending in time.
    pub(super) fn add(&mut self, series: SentSeries<'_>, at_ms: &[i64], values: &[f64]) {
        self.samples += at_ms.len();
        let samples = at_ms.iter().map(|at_ms| message_len(sample_len(*at_ms))).sum::<usize>();
        match &mut self.symbols {
            None => add_v1(&mut self.series, series.labels, samples),
            Some(symbols) => symbols.add(&mut self.series, series, samples),
        }
        self.series.reserve(samples);
        for (at_ms, value) in at_ms.iter().zip(values) {
            put_sample(*at_ms, *value, &mut self.series);
        }
    }

    /// Returns the request, compressed.
    pub(super) fn finish(self) -> Result<Vec<u8>, snap::Error> {
        let mut encoder = snap::raw::Encoder::new();
        match self.symbols {
            None => encoder.compress_vec(&self.series),
            Some(Symbols { mut bytes, .. }) => {
                bytes.extend(self.series);
                encoder.compress_vec(&bytes)
            }
        }
    }
}

/// Returns the length of a sample, which fits into one byte.
fn sample_len(at_ms: i64) -> usize {
    DOUBLE + KEY + encoded_len_varint(at_ms as u64)
}

/// Writes a sample with its key. Nearly all bytes of a request are samples, so usual times are written in one piece of a
/// length that the compiler knows.
fn put_sample(at_ms: i64, value: f64, into: &mut Vec<u8>) {
    const fn key(number: u8, wire: WireType) -> u8 {
        (number << 3) | wire as u8
    }
    let at = at_ms as u64;
    into.extend_from_slice(&[
        key(2, WireType::LengthDelimited),
        sample_len(at_ms) as u8,
        key(1, WireType::SixtyFourBit),
    ]);
    into.extend_from_slice(&value.to_le_bytes());
    into.push(key(2, WireType::Varint));
    if USUAL_TIMES.contains(&at) {
        let seven = |nth: u32| (at >> (7 * nth)) as u8 | 0x80;
        into.extend_from_slice(&[seven(0), seven(1), seven(2), seven(3), seven(4), (at >> 35) as u8]);
    } else {
        encode_varint(at, into);
    }
}

/// Writes a `TimeSeries` of version 1 up to its samples, which have `samples` bytes.
fn add_v1(into: &mut Vec<u8>, labels: &Labels, samples: usize) {
    let label_len = |(name, value): (&str, &str)| message_len(name.len()) + message_len(value.len());
    let all = labels.iter().map(|label| message_len(label_len(label))).sum::<usize>() + samples;
    begin_message(1, all, into);
    for (name, value) in labels.iter() {
        begin_message(1, label_len((name, value)), into);
        put_text(1, name, into);
        put_text(2, value, into);
    }
}

impl Symbols {
    fn new() -> Self {
        let mut symbols = Self::default();
        // The first must be empty.
        symbols.number("");
        symbols
    }

    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.numbers.len() as u32;
        self.numbers.insert(text.to_owned(), number);
        put_text(4, text, &mut self.bytes);
        number
    }

    /// Writes a `TimeSeries` of version 2 up to its samples, which have `samples` bytes.
    fn add(&mut self, into: &mut Vec<u8>, series: SentSeries<'_>, samples: usize) {
        let mut labels = Vec::new();
        for (name, value) in series.labels.iter() {
            encode_varint(self.number(name).into(), &mut labels);
            encode_varint(self.number(value).into(), &mut labels);
        }
        let mut about = Vec::new();
        put_varint(1, type_number(series), &mut about);
        for (number, text) in series.metadata.iter().flat_map(|known| [(3, &known.help), (4, &known.unit)]) {
            if !text.is_empty() {
                put_varint(number, self.number(text).into(), &mut about);
            }
        }
        let all = message_len(labels.len()) + message_len(about.len()) + samples;
        begin_message(5, all, into);
        put_message(1, &labels, into);
        put_message(5, &about, into);
    }
}

/// Returns the number of a type in `Metadata.MetricType`.
fn type_number(series: SentSeries<'_>) -> u64 {
    let known = series.metadata.map(|known| &*known.metric_type).filter(|known| *known != "unknown");
    match known.unwrap_or(series.metric_type.as_str()) {
        "counter" => 1,
        "gauge" => 2,
        "histogram" => 3,
        "gaugehistogram" => 4,
        "summary" => 5,
        "info" => 6,
        "stateset" => 7,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::messages::{Request2, Sample, WriteRequest};
    use super::*;
    use dropsonde_engine::series::Metadata;
    use dropsonde_model::MetricType;
    use dropsonde_store::STALE;
    use prost::Message;

    fn labels(number: usize) -> Labels {
        Labels::from([("__name__", "a_total"), ("id", &"x".repeat(number))])
    }

    fn request<M: Message + Default>(version: Version, metadata: Option<&Metadata>) -> M {
        let mut builder = RequestBuilder::new(version, 0);
        for number in [1, 200] {
            let labels = labels(number);
            let series = SentSeries { labels: &labels, metric_type: MetricType::Counter, metadata };
            builder.add(series, &TIMES, &VALUES);
        }
        assert_eq!(builder.samples, 12);
        let bytes = snap::raw::Decoder::new().decompress_vec(&builder.finish().unwrap()).unwrap();
        M::decode(&bytes[..]).unwrap()
    }

    fn samples(all: &[Sample]) -> Vec<(i64, u64)> {
        all.iter().map(|sample| (sample.timestamp, sample.value.to_bits())).collect()
    }

    /// Among them the first and the last of those that are written in one piece, and their neighbours.
    const TIMES: [i64; 6] = [-5, 0, (1 << 35) - 1, 1 << 35, (1 << 42) - 1, 1 << 42];
    const VALUES: [f64; 6] = [1.5, 0.0, -2.5, 1e300, 7.25, STALE];

    fn sent() -> Vec<(i64, u64)> {
        TIMES.into_iter().zip(VALUES.map(f64::to_bits)).collect()
    }

    #[test]
    fn a_request_of_version_1_has_sorted_labels_and_exact_samples() {
        let request: WriteRequest = request(Version::V1, None);
        assert_eq!(request.timeseries.len(), 2);
        for (series, number) in request.timeseries.iter().zip([1, 200]) {
            let pairs: Vec<_> = series.labels.iter().map(|label| (&*label.name, &*label.value)).collect();
            assert_eq!(pairs, labels(number).iter().collect::<Vec<_>>());
            assert_eq!(samples(&series.samples), sent());
        }
    }

    #[test]
    fn a_request_of_version_2_has_each_text_once_and_says_what_a_metric_is() {
        let (metric_type, help) = ("unknown".to_owned(), "Requests.".to_owned());
        let known = Metadata { metric_type, help, unit: String::new() };
        let request: Request2 = request(Version::V2, Some(&known));
        let text = |number: &u32| &*request.symbols[*number as usize];
        assert_eq!(text(&0), "");
        for (series, number) in request.timeseries.iter().zip([1, 200]) {
            let pairs: Vec<_> = series.labels_refs.chunks(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect();
            assert_eq!(pairs, labels(number).iter().collect::<Vec<_>>());
            assert_eq!(samples(&series.samples), sent());
            let about = series.metadata.as_ref().unwrap();
            assert_eq!((about.metric_type, text(&about.help_ref), about.unit_ref), (1, "Requests.", 0));
        }
        let mut symbols = request.symbols.clone();
        symbols.sort();
        symbols.dedup();
        assert_eq!(symbols.len(), request.symbols.len());
    }
}
