//! The text of metrics that Prometheus scrapes.
//!
//! * `single_flight`: work that several callers share.
//! * `own_series`: how much of plugins' own metrics is shown.
//! * `registered`: metrics that were registered; `computed`: metrics that are computed at a scrape; `samples`: the
//!   newest rows of all instances.

mod computed;
mod own_series;
mod process;
mod registered;
mod samples;
mod single_flight;

use crate::Engine;
use crate::quota::{ClientId, ClientShare, Quota, QuotaError, QuotaPermit};
use bytes::Bytes;
use dropsonde_openmetrics::{ExpositionFormat, ExpositionText};
use dropsonde_sandbox::PluginMetrics;
use flate2::Compression;
use flate2::write::GzEncoder;
use own_series::OwnSeries;
use prometheus::proto::MetricFamily;
use samples::Samples;
use single_flight::SingleFlight;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most scrapes that are answered at a time. A client that reads slowly keeps its place; the memory of its text
/// counts as that of other answers.
const MOST_ANSWERS: usize = 1024;

/// The most scrapes of one client that are answered at a time: several scrapers may share an address.
const MOST_OF_PEER: usize = 16;

/// The longest time a scrape waits for its place. It waits only while others are read slowly.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Makes the text for scrapes. A scrape that comes while a text is being made gets that text.
#[derive(Debug, Default)]
pub struct Exposition {
    /// Texts being made, by format and by whether they are compressed.
    flights: SingleFlight<(ExpositionFormat, bool), Bytes>,
    renderer: Mutex<Renderer>,
    answers: Arc<Quota>,
}

/// The state that is kept from one scrape to the next, so that the next one costs less.
#[derive(Debug, Default)]
struct Renderer {
    samples: Samples,
    own_series: OwnSeries,
    /// The last text. Its memory is used again once every client has read it.
    last: Bytes,
}

/// The reason why a scrape is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScrapeError {
    #[error("limit of {MOST_ANSWERS} scrapes at a time reached; try again later")]
    TooMany,
    #[error("limit of {MOST_OF_PEER} scrapes of one client at a time reached; read the answers of those first")]
    TooManyOfPeer,
    /// The work of making the text ended early, which is a bug.
    #[error("the host failed to make the text of its metrics, which is a bug; report it with the host's log")]
    Lost,
}

impl Exposition {
    /// Returns the places of scrapes that are being answered.
    pub(crate) fn answers(&self) -> &Quota {
        &self.answers
    }

    /// Returns the text of a scrape, and its place among the scrapes that are being answered. The caller holds the
    /// place until the text was sent. Waits some seconds for a place, because most answers are read at once. Never
    /// waits for a poll, and does no work on the server's threads.
    pub async fn scrape(
        engine: &Arc<Engine>,
        peer: ClientId,
        format: ExpositionFormat,
        gzip: bool,
    ) -> Result<(Bytes, QuotaPermit), ScrapeError> {
        let share = ClientShare { peer, most: MOST_OF_PEER };
        let place = engine.exposition.answers.wait(1, MOST_ANSWERS, Some(share), LONGEST_WAIT).await.map_err(
            |full| match full {
                QuotaError::All(_) => ScrapeError::TooMany,
                QuotaError::OfPeer(_) => ScrapeError::TooManyOfPeer,
            },
        )?;
        let text = if gzip { compressed(engine, format).await } else { plain(engine, format).await };
        Ok((text.ok_or(ScrapeError::Lost)?, place))
    }

    /// Returns the text of all metrics.
    pub(crate) fn text(&self, engine: &Engine, format: ExpositionFormat) -> Bytes {
        let began = Instant::now();
        let mut renderer = self.renderer.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match std::mem::take(&mut renderer.last).try_into_mut() {
            Ok(mut memory) => {
                memory.clear();
                Vec::from(memory)
            }
            // A client still reads the last text.
            Err(last) => Vec::with_capacity(last.len()),
        };
        let mut text = ExpositionText { format, bytes };
        let plugins = engine.plugins.list();
        let of_plugins = plugins.iter().filter_map(|plugin| Some((plugin.name.clone(), plugin.metrics()?))).collect();
        registered::write(native(engine), renderer.own_series.admit(&engine.exposed_own, of_plugins), &mut text);
        renderer.samples.read(engine);
        renderer.samples.write(&mut text);
        text.end();
        let made = Bytes::from(text.bytes);
        renderer.last = made.clone();
        engine.metrics.core.took("host", "scrape", began.elapsed());
        made
    }
}

async fn plain(engine: &Arc<Engine>, format: ExpositionFormat) -> Option<Bytes> {
    let make = || {
        let engine = engine.clone();
        off_thread(move || Some(engine.exposition.text(&engine, format)))
    };
    engine.exposition.flights.join((format, false), make).await
}

async fn compressed(engine: &Arc<Engine>, format: ExpositionFormat) -> Option<Bytes> {
    let make = || {
        let engine = engine.clone();
        async move {
            let text = plain(&engine, format).await?;
            off_thread(move || gzip(&text)).await
        }
    };
    engine.exposition.flights.join((format, true), make).await
}

async fn off_thread(work: impl FnOnce() -> Option<Bytes> + Send + 'static) -> Option<Bytes> {
    tokio::task::spawn_blocking(work).await.ok()?
}

/// Returns the text of the host's own metrics and those of the program, without samples.
pub(crate) fn text_of_host(engine: &Engine) -> Vec<u8> {
    let mut text = ExpositionText::new(ExpositionFormat::Text);
    registered::write(native(engine), [], &mut text);
    text.bytes
}

/// Returns the text of the metrics that a plugin registered.
pub(crate) fn text_of_plugin(plugin: &str, metrics: &PluginMetrics) -> Vec<u8> {
    let mut text = ExpositionText::new(ExpositionFormat::Text);
    registered::write([], [(plugin.into(), metrics.clone(), u64::MAX)], &mut text);
    text.bytes
}

/// Returns the metrics of the host and of the program. Computed families come first, because the first of a name takes
/// precedence.
fn native(engine: &Engine) -> impl Iterator<Item = MetricFamily> {
    computed::families(engine).into_iter().chain(engine.metrics.registry.prometheus().gather())
}

/// Returns the series of one plugin, a line each.
pub fn lines_of(plugin: &str, metrics: &PluginMetrics) -> Vec<String> {
    let text = text_of_plugin(plugin, metrics);
    let text = String::from_utf8_lossy(&text);
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

/// Compresses a text. A scrape is read once and soon, so speed matters more than size.
fn gzip(text: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    encoder.write_all(text).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{MetricRegistry, Registrar};
    use crate::tracked::PluginName;
    use dropsonde_openmetrics::strict;
    use dropsonde_sandbox::{Descriptor, MetricHandles, MetricKind, SeriesReading};
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Valid names, nearly valid names, names that are parts of others, and arbitrary text.
    fn name() -> impl Strategy<Value = String> {
        let suffix =
            prop_oneof![Just(""), Just("_total"), Just("_bucket"), Just("_count"), Just("_sum"), Just("_seconds")];
        prop_oneof![
            5 => ("[ab]{1}", suffix).prop_map(|(stem, suffix)| format!("{stem}{suffix}")),
            1 => "\\PC{0,8}",
            1 => "[a-zA-Z_:\\n\"\\\\{} ]{0,8}",
        ]
    }

    fn descriptor() -> impl Strategy<Value = Descriptor> {
        let kind = prop_oneof![Just(MetricKind::Counter), Just(MetricKind::Gauge), Just(MetricKind::Histogram)];
        let help = prop_oneof![Just("Help.".to_owned()), any::<String>()];
        let labels = vec(prop_oneof![Just("l".to_owned()), Just("m".to_owned()), any::<String>()], 0..3);
        let buckets = prop_oneof![Just(Vec::new()), Just(vec![0.1, 1.0, 1e6]), vec(any::<f64>(), 0..4)];
        (name(), help, kind, labels, buckets).prop_map(|(name, help, kind, labels, buckets)| Descriptor {
            name,
            help,
            kind,
            labels,
            buckets,
        })
    }

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![any::<f64>(), -1.0..100.0, Just(f64::NAN), Just(f64::INFINITY), Just(1e300)]
    }

    /// The registrant's number, the metric it registers, and the values it records with their labels.
    type MetricUse = (usize, Descriptor, Vec<(Vec<String>, f64)>);

    fn uses() -> impl Strategy<Value = Vec<MetricUse>> {
        let recorded = vec((vec(any::<String>(), 0..3), value()), 0..4);
        vec((0..3_usize, descriptor(), recorded), 0..12)
    }

    proptest! {
        /// Whatever plugins and services register and record, both formats follow their specifications.
        #[test]
        fn exposed_text_follows_its_format_and_has_every_recorded_value(uses in uses(), instance in any::<String>(), reading in value()) {
            let registry = MetricRegistry::new().unwrap();
            let plugins = ["p", "q"].map(|name| PluginMetrics::new(name, registry.names().clone(), 100));
            let mut handles = plugins.each_ref().map(MetricHandles::new);
            for (whose, descriptor, recorded) in uses {
                let labels = descriptor.labels.len();
                let values = |given: &[String]| {
                    let empty = std::iter::repeat(String::new());
                    given.iter().cloned().chain(empty).take(labels).collect::<Vec<_>>()
                };
                if let Some(handles) = handles.get_mut(whose) {
                    let Ok(family) = handles.register(descriptor) else { continue };
                    for (given, value) in recorded {
                        if let Ok(series) = handles.with_labels(family, &values(&given)) {
                            handles.record(series, value);
                        }
                    }
                    continue;
                }
                let keys: Vec<&str> = descriptor.labels.iter().map(String::as_str).collect();
                let Descriptor { name, help, kind, buckets, .. } = &descriptor;
                for (given, value) in recorded {
                    let values = values(&given);
                    let values: Vec<&str> = values.iter().map(String::as_str).collect();
                    match kind {
                        MetricKind::Counter => drop(registry.counter_vec("s", name, help, &keys).map(|counters| {
                            counters.with_label_values(&values).inc_by(value.abs().min(1e9));
                        })),
                        MetricKind::Gauge => drop(registry.gauge_vec("s", name, help, &keys).map(|gauges| {
                            gauges.with_label_values(&values).set(value);
                        })),
                        MetricKind::Histogram => {
                            let histograms = registry.histogram_vec("s", name, help, &keys, buckets);
                            drop(histograms.map(|histograms| histograms.with_label_values(&values).observe(value)));
                        }
                    }
                }
            }
            let samples = Samples::of(&instance, reading);
            for format in [ExpositionFormat::Text, ExpositionFormat::OpenMetrics] {
                let mut text = ExpositionText::new(format);
                let names = ["p", "q"].into_iter().map(PluginName::from);
                let of_plugins = names.zip(plugins.clone()).map(|(name, metrics)| (name, metrics, u64::MAX));
                registered::write(registry.prometheus().gather(), of_plugins, &mut text);
                samples.write(&mut text);
                text.end();
                let text = String::from_utf8(text.bytes).unwrap();
                let families = match format {
                    ExpositionFormat::Text if text.is_empty() => Ok(Vec::new()),
                    ExpositionFormat::Text => strict::text(&text),
                    ExpositionFormat::OpenMetrics if text == "# EOF\n" => Ok(Vec::new()),
                    ExpositionFormat::OpenMetrics => strict::openmetrics(&text),
                };
                let families = families.unwrap_or_else(|why| panic!("{why}\n{text}"));
                // Everything that was recorded is exposed.
                let id = instance.replace('\r', " ");
                let of_instance = [("id", id.as_str()), ("sampler", "s")];
                let shown = |name| strict::value(&families, name, &of_instance).map(f64::to_bits);
                prop_assert_eq!(shown("dropsonde_sample_x"), Some(reading).filter(|it| !it.is_nan()).map(f64::to_bits));
                let total = Some(reading).filter(|it| *it >= 0.0 && it.is_finite());
                prop_assert_eq!(shown("dropsonde_sample_y_total"), total.map(f64::to_bits));
                let lines: usize = families.iter().map(|family| family.samples.len()).sum();
                let of_samples = usize::from(!reading.is_nan()) + usize::from(total.is_some());
                prop_assert_eq!(lines, of_samples + recorded_lines(&registry, &plugins), "{}", text);
            }
        }
    }

    /// Returns the number of lines for everything that was recorded.
    fn recorded_lines(registry: &MetricRegistry, plugins: &[PluginMetrics]) -> usize {
        let native = registry.prometheus().gather();
        let native = native.iter().flat_map(|family| family.get_metric()).map(|series| match series.get_histogram() {
            histogram if histogram.get_bucket().is_empty() => 1,
            histogram => histogram.get_bucket().len() + 3,
        });
        let families: Vec<_> = plugins.iter().flat_map(PluginMetrics::families).collect();
        let of_plugins = families.iter().flat_map(|family| family.series()).map(|series| match series.read() {
            SeriesReading::Number(value) => usize::from(!value.is_nan()),
            SeriesReading::Histogram { buckets, .. } => buckets.len() + 2,
        });
        native.sum::<usize>() + of_plugins.sum::<usize>()
    }

    #[test]
    fn the_strict_reader_refuses_malformed_text() {
        for bad in [
            "a 1\n",
            "# HELP a A.\n# TYPE a gauge\na 1\na 2\n",
            "# HELP a A.\n# TYPE a gauge\na{l=\"\"\"} 1\n",
            "# HELP a A.\n# TYPE a gauge\na  1\n",
            "# HELP a A.\n# TYPE a counter\na -1\n",
            "# HELP a A.\n# TYPE a gauge\n",
            "# HELP a A.\n# TYPE a gauge\na 1\n# HELP b B.\n# TYPE b gauge\nb 1\na{l=\"x\"} 1\n",
            "# HELP a A.\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_count 2\na_sum 1\n",
        ] {
            assert!(strict::text(bad).is_err(), "{bad}");
        }
        assert!(strict::openmetrics("# HELP a A.\n# TYPE a counter\na 1\n# EOF\n").is_err(), "no _total");
        assert!(strict::openmetrics("# HELP a A.\n# TYPE a gauge\na 1\n").is_err(), "no end");
    }
}
