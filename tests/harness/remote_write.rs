//! A server for remote write, of both versions, that keeps what it gets and notes every broken rule.

#[path = "../../host/delivery/src/samples/remote_write/messages.rs"]
mod messages;

use super::host::wait_until;
use super::kept_requests::{Reply, Request, answer_requests};
use messages::{Label, Request2, Sample, TimeSeries2, WriteRequest};
use prost::Message;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

/// The value that marks the end of a series, as bits.
const STALE: u64 = 0x7ff0_0000_0000_0002;

/// The samples of a series: times, and the bits of values.
pub(crate) type SentSamples = Vec<(i64, u64)>;

/// The labels of a series, as they were sent.
type LabelPairs = Vec<(String, String)>;

/// A strict server. It ends with the test run.
pub(crate) struct StrictReceiver {
    address: SocketAddr,
    state: Arc<Mutex<ReceiverState>>,
}

/// What a [`StrictReceiver`] got.
#[derive(Default)]
pub(crate) struct ReceiverState {
    /// Accepted samples by the labels of their series, written `{name="value",…}`.
    pub(crate) series: BTreeMap<String, SentSamples>,
    /// The rules that were broken, a sentence each.
    pub(crate) broken: Vec<String>,
    /// Samples that came again.
    pub(crate) again: usize,
    /// Requests, also those that were not accepted.
    pub(crate) requests: usize,
    /// The headers of the last request, with names in lower case.
    pub(crate) headers: Vec<String>,
    /// The types of metrics, as version 2 tells them, by name.
    pub(crate) types: BTreeMap<String, i32>,
    /// Whether it refuses samples from the future, as real ones do.
    pub(crate) refuses_future: bool,
    /// Whether it speaks version 2.
    speaks_v2: bool,
    /// The answer to requests in place of accepting them: a status and further header lines. 0: none at all.
    instead: Option<(u16, String)>,
}

impl StrictReceiver {
    pub(crate) fn start() -> Self {
        let state = Arc::<Mutex<ReceiverState>>::default();
        let shared = state.clone();
        let address = answer_requests(move |request| shared.lock().unwrap().answer(&request));
        Self { address, state }
    }

    /// Starts one that speaks version 2, too.
    pub(crate) fn of_version_2() -> Self {
        let receiver = Self::start();
        receiver.state().speaks_v2 = true;
        receiver
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/api/v1/write", self.address)
    }

    /// Answers all further requests like this instead of accepting them. Status 0: not at all; 1: with garbage.
    pub(crate) fn answer(&self, status: u16, headers: &str) {
        self.state().instead = Some((status, headers.to_owned()));
    }

    /// Accepts requests again.
    pub(crate) fn accept(&self) {
        self.state().instead = None;
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, ReceiverState> {
        self.state.lock().unwrap()
    }

    /// Waits until what it got is as wanted.
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&ReceiverState) -> bool) {
        drop(self.until(what, wanted));
    }

    /// Does the same, and returns it.
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&ReceiverState) -> bool) -> MutexGuard<'_, ReceiverState> {
        wait_until(what, || wanted(&self.state()));
        let state = self.state();
        assert!(state.broken.is_empty(), "{:#?}", state.broken);
        state
    }
}

impl ReceiverState {
    /// Returns the samples of the series whose labels contain some texts.
    pub(crate) fn of(&self, texts: &[&str]) -> Vec<&SentSamples> {
        let is_it = |labels: &String| texts.iter().all(|text| labels.contains(text));
        self.series.iter().filter(|(labels, _)| is_it(labels)).map(|(_, samples)| samples).collect()
    }

    /// Returns the values of the one series whose labels contain some texts, without the marks of its ends.
    pub(crate) fn values(&self, texts: &[&str]) -> Vec<(i64, f64)> {
        let of = self.of(texts);
        assert!(of.len() <= 1, "{texts:?} are in several: {:?}", self.series.keys());
        let values = of.first().into_iter().copied().flatten().filter(|(_, bits)| *bits != STALE);
        values.map(|(at_ms, bits)| (*at_ms, f64::from_bits(*bits))).collect()
    }

    /// Returns whether the one series whose labels contain some texts has ended.
    pub(crate) fn has_ended(&self, texts: &[&str]) -> bool {
        self.of(texts).first().is_some_and(|samples| samples.last().is_some_and(|(_, bits)| *bits == STALE))
    }

    fn breaks(&mut self, rule: String) {
        // A few tell enough.
        if self.broken.len() < 20 {
            self.broken.push(rule);
        }
    }

    fn answer(&mut self, request: &Request) -> Reply {
        self.requests += 1;
        self.headers.clone_from(&request.headers);
        let (status, more) = match self.instead.clone() {
            Some(instead) => instead,
            None => match self.take(request) {
                Ok(samples) => (204, format!("X-Prometheus-Remote-Write-Samples-Written: {samples}\r\n")),
                Err(status) => (status, String::new()),
            },
        };
        (status, more, Vec::new())
    }

    /// Reads a request. Returns how many samples it had, or why it is refused.
    fn take(&mut self, request: &Request) -> Result<usize, u16> {
        let header = |name: &str| request.header(name);
        let is_v2 = match header("content-type") {
            Some("application/x-protobuf;proto=io.prometheus.write.v2.Request") => true,
            Some("application/x-protobuf" | "application/x-protobuf;proto=prometheus.WriteRequest") => false,
            other => {
                self.breaks(format!("a content type of {other:?}"));
                return Err(415);
            }
        };
        if is_v2 && !self.speaks_v2 {
            return Err(415);
        }
        let version = if is_v2 { "2.0.0" } else { "0.1.0" };
        for (name, wanted) in [("content-encoding", "snappy"), ("x-prometheus-remote-write-version", version)] {
            if header(name) != Some(wanted) {
                self.breaks(format!("{name} is {:?}", header(name)));
            }
        }
        if header("user-agent").is_none_or(str::is_empty) {
            self.breaks("no user agent".to_owned());
        }
        let Ok(bytes) = snap::raw::Decoder::new().decompress_vec(&request.body) else {
            self.breaks("a body that is not compressed with snappy".to_owned());
            return Err(400);
        };
        let series: Vec<(LabelPairs, Vec<Sample>)> = if is_v2 {
            let Ok(request) = Request2::decode(&bytes[..]) else {
                self.breaks("no Request of version 2".to_owned());
                return Err(400);
            };
            if request.symbols.first().map(String::as_str) != Some("") {
                self.breaks("the first symbol is not empty".to_owned());
            }
            let text = |number: u32| request.symbols.get(number as usize).cloned().unwrap_or_default();
            let mut all = Vec::new();
            for TimeSeries2 { labels_refs, samples, metadata } in &request.timeseries {
                let labels: Vec<_> = labels_refs.chunks(2).map(|pair| (text(pair[0]), text(pair[1]))).collect();
                let name = labels.iter().find(|(name, _)| name == "__name__");
                if let (Some((_, name)), Some(about)) = (name, metadata) {
                    self.types.insert(name.clone(), about.metric_type);
                }
                all.push((labels, samples.clone()));
            }
            all
        } else {
            let Ok(request) = WriteRequest::decode(&bytes[..]) else {
                self.breaks("no WriteRequest".to_owned());
                return Err(400);
            };
            let pairs = |labels: Vec<Label>| labels.into_iter().map(|label| (label.name, label.value)).collect();
            request.timeseries.into_iter().map(|series| (pairs(series.labels), series.samples)).collect()
        };
        let latest_ms = series.iter().flat_map(|(_, samples)| samples).map(|sample| sample.timestamp).max();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        if self.refuses_future && latest_ms.is_some_and(|latest_ms| latest_ms > now_ms + 600_000) {
            return Err(400);
        }
        let mut count = 0;
        for (labels, samples) in series {
            count += samples.len();
            self.take_series(&labels, &samples);
        }
        if count == 0 {
            self.breaks("a request without samples".to_owned());
        }
        Ok(count)
    }

    fn take_series(&mut self, labels: &[(String, String)], samples: &[Sample]) {
        let written: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        let written = format!("{{{}}}", written.join(","));
        if !labels.is_sorted_by(|(a, _), (b, _)| a < b) {
            self.breaks(format!("{written}: labels that are not sorted, or twice"));
        }
        if labels.iter().any(|(name, value)| name.is_empty() || value.is_empty()) {
            self.breaks(format!("{written}: an empty label"));
        }
        if !labels.iter().any(|(name, _)| name == "__name__") {
            self.breaks(format!("{written}: no name"));
        }
        if !samples.is_sorted_by(|a, b| a.timestamp < b.timestamp) {
            self.breaks(format!("{written}: samples that are not in the order of time"));
        }
        let known = self.series.entry(written.clone()).or_default();
        let (mut again, mut wrong) = (0, Vec::new());
        for Sample { value, timestamp } in samples {
            let sample = (*timestamp, value.to_bits());
            match known.last() {
                Some((last_ms, _)) if *last_ms >= *timestamp => match known.binary_search(&sample) {
                    Ok(_) => again += 1,
                    Err(_) => wrong.push(format!("{written}: a sample of {timestamp} after one of {last_ms}")),
                },
                Some((_, STALE)) if sample.1 == STALE => wrong.push(format!("{written}: two ends")),
                None if sample.1 == STALE => wrong.push(format!("{written}: an end without a beginning")),
                _ => known.push(sample),
            }
        }
        self.again += again;
        wrong.into_iter().for_each(|rule| self.breaks(rule));
    }
}
