use dropsonde_model::labels::RESERVED_KEYS;
use dropsonde_model::text::harmless;
use std::fmt;

/// The definition of a metric. [`Descriptor::checked`] makes sure that it can be exposed.
#[derive(Debug, Clone, PartialEq)]
pub struct Descriptor {
    /// The name as Prometheus sees it; a counter's name ends in `_total`.
    pub name: String,
    pub help: String,
    pub kind: MetricKind,
    pub labels: Vec<String>,
    /// Upper bounds of a histogram's buckets, ascending, without the infinite one. Empty for other kinds.
    pub buckets: Vec<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// Why a metric cannot be exposed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDescriptor {
    #[error("{0:?} is not a metric name: [a-zA-Z_:][a-zA-Z0-9_:]*, at most {LONGEST_NAME} bytes")]
    Name(String),
    #[error(
        "{0:?} is reserved: `dropsonde_` and metrics of the process belong to the host; `up`, `scrape_` and `exported_` belong to Prometheus"
    )]
    Reserved(String),
    #[error("{0:?} is a counter; its name must end in `_total`")]
    NoTotal(String),
    #[error("{name:?} ends in `{suffix}`, which is only for counters (`_total`) or for parts of other metrics")]
    Suffix { name: String, suffix: &'static str },
    #[error(
        "label {0:?}: a label is [a-zA-Z_][a-zA-Z0-9_]*, does not begin with `__`, and is not one of {RESERVED_KEYS:?}"
    )]
    Label(String),
    #[error("label {0:?} is given twice")]
    Twice(String),
    #[error("{0} labels are given; at most {MOST_LABELS} are allowed")]
    Labels(usize),
    #[error("buckets must ascend and be finite; at most {MOST_BUCKETS} are allowed")]
    Buckets,
    #[error("only a histogram can have buckets")]
    NoHistogram,
}

const LONGEST_NAME: usize = 128;
const LONGEST_HELP: usize = 512;
const MOST_LABELS: usize = 16;

/// Most buckets of a histogram; each is a series.
const MOST_BUCKETS: usize = 64;

/// The prefix of the host's own metrics.
const RESERVED: &str = "dropsonde_";

/// Prefixes that Prometheus uses. It adds `up` and `scrape_…` for each target, and `exported_…` to names that it
/// changes.
const OF_PROMETHEUS: [&str; 2] = ["scrape_", "exported_"];

/// Metrics of the host's own process.
const OF_PROCESS: [&str; 7] = [
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_threads",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
];

/// Suffixes that mark parts of a histogram, a summary or a counter.
const SUFFIXES: [&str; 5] = ["_total", "_created", "_bucket", "_count", "_sum"];

/// Upper bounds in seconds, from a fast request to a slow one; the defaults of all Prometheus libraries.
pub const DEFAULT_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

// === impl MetricKind ===

impl MetricKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl fmt::Display for MetricKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Descriptor ===

impl Descriptor {
    /// Returns a descriptor that can be exposed, or why there is none. A histogram without buckets gets the default
    /// ones. Help becomes one line and is cut if it is too long.
    pub fn checked(mut self) -> Result<Self, BadDescriptor> {
        self.check_name()?;
        self.check_labels()?;
        match self.kind {
            MetricKind::Histogram => self.check_buckets()?,
            _ if self.buckets.is_empty() => {}
            _ => return Err(BadDescriptor::NoHistogram),
        }
        self.help = harmless(&self.help);
        self.help.truncate(self.help.floor_char_boundary(LONGEST_HELP));
        if self.help.trim().is_empty() {
            self.help = "There is no help.".to_owned();
        }
        Ok(self)
    }

    /// Returns the name of the family in OpenMetrics, where a counter's `_total` is not part of it.
    pub fn family(&self) -> &str {
        family(&self.name)
    }

    /// Returns the number of series that Prometheus keeps for each set of label values.
    pub(crate) fn series(&self) -> usize {
        match self.kind {
            MetricKind::Histogram => self.buckets.len() + 3,
            _ => 1,
        }
    }

    fn check_name(&self) -> Result<(), BadDescriptor> {
        let name = &self.name;
        let is_first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
        let is_next = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
        if !name.starts_with(is_first) || !name.bytes().all(is_next) || name.len() > LONGEST_NAME {
            return Err(BadDescriptor::Name(shown(name)));
        }
        let is_of_process = OF_PROCESS.contains(&name.as_str());
        let is_of_prometheus = name == "up" || OF_PROMETHEUS.iter().any(|prefix| name.starts_with(prefix));
        if name.starts_with(RESERVED) || is_of_prometheus || is_of_process {
            return Err(BadDescriptor::Reserved(name.clone()));
        }
        if self.kind == MetricKind::Counter && !name.ends_with("_total") {
            return Err(BadDescriptor::NoTotal(name.clone()));
        }
        let stem = if self.kind == MetricKind::Counter { self.family() } else { name };
        match SUFFIXES.into_iter().find(|suffix| stem.ends_with(suffix)) {
            Some(suffix) => Err(BadDescriptor::Suffix { name: name.clone(), suffix }),
            None if stem.is_empty() => Err(BadDescriptor::Name(name.clone())),
            None => Ok(()),
        }
    }

    fn check_labels(&self) -> Result<(), BadDescriptor> {
        if self.labels.len() > MOST_LABELS {
            return Err(BadDescriptor::Labels(self.labels.len()));
        }
        for (index, label) in self.labels.iter().enumerate() {
            let begins = label.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            let goes_on = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let is_free = !label.starts_with("__") && !RESERVED_KEYS.contains(&label.as_str());
            if !begins || !goes_on || !is_free || label.len() > LONGEST_NAME {
                return Err(BadDescriptor::Label(shown(label)));
            }
            if self.labels.iter().skip(index + 1).any(|other| other == label) {
                return Err(BadDescriptor::Twice(label.clone()));
            }
        }
        Ok(())
    }

    fn check_buckets(&mut self) -> Result<(), BadDescriptor> {
        if self.buckets.is_empty() {
            self.buckets = DEFAULT_BUCKETS.to_vec();
        }
        // The infinite bucket always exists.
        self.buckets.pop_if(|last| *last == f64::INFINITY);
        let ascend = self.buckets.is_sorted_by(|a, b| a < b) && self.buckets.iter().all(|bound| bound.is_finite());
        if self.buckets.is_empty() || !ascend || self.buckets.len() > MOST_BUCKETS {
            return Err(BadDescriptor::Buckets);
        }
        Ok(())
    }
}

/// Returns a metric's name without a counter's `_total`.
pub fn family(name: &str) -> &str {
    name.strip_suffix("_total").unwrap_or(name)
}

/// Returns a text short enough for an error: a plugin's text may have any length.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, kind: MetricKind) -> Descriptor {
        let (name, help) = (name.to_owned(), "Help.".to_owned());
        Descriptor { name, help, kind, labels: Vec::new(), buckets: Vec::new() }
    }

    fn labelled(labels: &[&str]) -> Descriptor {
        Descriptor { labels: labels.iter().map(|&label| label.to_owned()).collect(), ..of("a", MetricKind::Gauge) }
    }

    #[test]
    fn names_follow_prometheus_grammar_and_leave_the_hosts_own_alone() {
        for good in ["a", "_a9", "ns:rule", "queue_depth"] {
            assert_eq!(of(good, MetricKind::Gauge).checked().map(|it| it.name), Ok(good.to_owned()));
        }
        for bad in ["", "9a", "a-b", "a b", "a\n", "größe", &"x".repeat(129)] {
            assert!(matches!(of(bad, MetricKind::Gauge).checked(), Err(BadDescriptor::Name(_))), "{bad}");
        }
        for reserved in ["dropsonde_x", "process_max_fds", "up", "scrape_duration_seconds", "exported_x"] {
            assert!(matches!(of(reserved, MetricKind::Gauge).checked(), Err(BadDescriptor::Reserved(_))), "{reserved}");
        }
    }

    #[test]
    fn a_counter_ends_in_total_and_nothing_else_looks_like_a_part_of_another() {
        assert!(of("a_total", MetricKind::Counter).checked().is_ok());
        assert_eq!(of("a", MetricKind::Counter).checked(), Err(BadDescriptor::NoTotal("a".to_owned())));
        assert_eq!(of("_total", MetricKind::Counter).checked(), Err(BadDescriptor::Name("_total".to_owned())));
        for (name, kind) in [
            ("a_total", MetricKind::Gauge),
            ("a_count", MetricKind::Gauge),
            ("a_bucket", MetricKind::Histogram),
            ("a_sum_total", MetricKind::Counter),
            ("a_total_total", MetricKind::Counter),
            ("a_created", MetricKind::Gauge),
        ] {
            assert!(matches!(of(name, kind).checked(), Err(BadDescriptor::Suffix { .. })), "{name}");
        }
    }

    #[test]
    fn labels_are_told_apart_and_are_none_the_host_sets() {
        assert!(labelled(&["path", "status"]).checked().is_ok());
        for bad in ["", "9", "a-b", "a:b", "__name__", "plugin", "le", "job"] {
            assert_eq!(labelled(&[bad]).checked(), Err(BadDescriptor::Label(bad.to_owned())));
        }
        assert_eq!(labelled(&["a", "a"]).checked(), Err(BadDescriptor::Twice("a".to_owned())));
    }

    #[test]
    fn buckets_ascend_and_have_a_default() {
        let of = |buckets: &[f64]| Descriptor { buckets: buckets.to_vec(), ..of("a", MetricKind::Histogram) }.checked();
        assert_eq!(of(&[]).unwrap().buckets, DEFAULT_BUCKETS);
        assert_eq!(of(&[1.0, 2.0, f64::INFINITY]).unwrap().buckets, [1.0, 2.0]);
        for bad in [&[2.0, 1.0][..], &[1.0, 1.0], &[f64::NAN], &[f64::INFINITY], &[0.0; 65]] {
            assert_eq!(of(bad), Err(BadDescriptor::Buckets), "{bad:?}");
        }
    }

    #[test]
    fn help_is_there_and_bounded() {
        let with =
            |help: &str| Descriptor { help: help.to_owned(), ..of("a", MetricKind::Gauge) }.checked().unwrap().help;
        assert_eq!(with(" "), "There is no help.");
        assert_eq!(with(&"ä".repeat(1000)).len(), 512);
        assert_eq!(with("a\0b\u{1b}[31mc\r\n# d\u{2028}\u{85}\u{202e}e"), "a b [31mc  # d   e");
        assert_eq!(with("\n\u{2028}"), "There is no help.");
    }
}
