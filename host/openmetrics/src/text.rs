//! Writes the text formats: a family's metadata, then one line per series.

use crate::ExpositionFormat;
use std::fmt::Write as _;

/// The metric type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FamilyKind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Unknown,
}

/// Units that OpenMetrics knows as the end of a name.
const UNITS: [&str; 8] = ["seconds", "bytes", "ratio", "celsius", "meters", "volts", "amperes", "joules"];

/// The text of an exposition. Callers must write all lines of a family before the next family.
#[derive(Debug)]
pub struct ExpositionText {
    pub format: ExpositionFormat,
    pub bytes: Vec<u8>,
}

impl ExpositionText {
    pub fn new(format: ExpositionFormat) -> Self {
        Self { format, bytes: Vec::new() }
    }

    /// Writes the metadata of a family. `name` is the name of its series; a counter's name ends in `_total`. If `help`
    /// is empty, there is no HELP line.
    pub fn family(&mut self, name: &str, help: &str, kind: FamilyKind) {
        let is_open = self.format == ExpositionFormat::OpenMetrics;
        let stem = name.strip_suffix("_total");
        let (name, kind) = match (is_open, kind, stem) {
            (true, FamilyKind::Counter, Some(stem)) => (stem, "counter"),
            // Without `_total` in its name it cannot be a counter in OpenMetrics.
            (true, FamilyKind::Counter, None) | (true, FamilyKind::Unknown, _) => (name, "unknown"),
            (false, FamilyKind::Unknown, _) => (name, "untyped"),
            (_, FamilyKind::Counter, _) => (name, "counter"),
            (_, FamilyKind::Gauge, _) => (name, "gauge"),
            (_, FamilyKind::Histogram, _) => (name, "histogram"),
            (_, FamilyKind::Summary, _) => (name, "summary"),
        };
        if !help.is_empty() {
            self.put(&["# HELP ", name, " "]);
            self.escaped(help, is_open);
            self.put(&["\n"]);
        }
        self.put(&["# TYPE ", name, " ", kind, "\n"]);
        if let Some(unit) = unit_of(name).filter(|unit| is_open && name.ends_with(unit)) {
            self.put(&["# UNIT ", name, " ", unit, "\n"]);
        }
    }

    /// Writes one line. `labels` are `key="value"`, escaped, with commas between. Empty parts are left out.
    pub fn sample(&mut self, name: &[&str], labels: &[&str], value: f64) {
        self.value(name, labels, value);
        self.bytes.push(b'\n');
    }

    /// Writes one line of OpenMetrics with a timestamp; `at_ms` is in milliseconds.
    pub fn sample_at(&mut self, name: &[&str], labels: &[&str], value: f64, at_ms: i64) {
        self.value(name, labels, value);
        let (whole, ms) = (at_ms.unsigned_abs() / 1000, at_ms.unsigned_abs() % 1000);
        self.put(&[if at_ms < 0 { " -" } else { " " }, itoa::Buffer::new().format(whole)]);
        if ms > 0 {
            self.put(&[".", &format!("{ms:03}")]);
        }
        self.bytes.push(b'\n');
    }

    fn value(&mut self, name: &[&str], labels: &[&str], value: f64) {
        self.put(name);
        let mut opened = false;
        for labels in labels.iter().filter(|labels| !labels.is_empty()) {
            self.put(&[if opened { "," } else { "{" }, labels]);
            opened = true;
        }
        self.put(&[if opened { "} " } else { " " }]);
        number(&mut self.bytes, value);
    }

    /// Writes the lines of a histogram. `buckets` are not cumulative; the last one has no bound.
    pub fn histogram(&mut self, name: &str, labels: &[&str], bounds: &[f64], buckets: &[u64], sum: f64) {
        let [first, second] = [labels.first(), labels.get(1)].map(|labels| labels.copied().unwrap_or_default());
        let mut count = 0;
        for (index, bucket) in buckets.iter().enumerate() {
            count += bucket;
            let bound = bounds.get(index).copied().unwrap_or(f64::INFINITY);
            let mut le = String::from("le=\"");
            bound_text(&mut le, bound);
            le.push('"');
            self.sample(&[name, "_bucket"], &[first, second, &le], count as f64);
        }
        self.sample(&[name, "_sum"], labels, sum);
        self.sample(&[name, "_count"], labels, count as f64);
    }

    /// Ends the text, after all families.
    pub fn end(&mut self) {
        if self.format == ExpositionFormat::OpenMetrics {
            self.put(&["# EOF\n"]);
        }
    }

    pub fn put(&mut self, parts: &[&str]) {
        for part in parts {
            self.bytes.extend_from_slice(part.as_bytes());
        }
    }

    fn escaped(&mut self, text: &str, quotes: bool) {
        escape(&mut self.bytes, text, quotes);
    }
}

/// Returns the unit that the name of a metric ends in, if OpenMetrics knows it. A counter's name ends in `_total` behind
/// its unit, the parts of a histogram in `_bucket`, `_sum` or `_count`; a count has no unit.
pub fn unit_of(name: &str) -> Option<&'static str> {
    let parts = ["_total", "_bucket", "_sum"];
    let stem = parts.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
    UNITS.into_iter().find(|unit| stem.strip_suffix(unit).is_some_and(|stem| stem.ends_with('_')))
}

/// Writes a label, as in both formats.
pub fn label(bytes: &mut Vec<u8>, key: &str, value: &str) {
    bytes.extend_from_slice(key.as_bytes());
    bytes.extend_from_slice(b"=\"");
    escape(bytes, value, true);
    bytes.push(b'"');
}

/// Returns a series as both formats and PromQL write it: `up{job="api"}`. Names with other characters than letters,
/// digits and `_` are in quotes.
pub fn series_text<'a>(name: &str, labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let is_plain = |name: &str, more: &str| {
        let is_in = |c: char| c.is_ascii_alphanumeric() || c == '_' || more.contains(c);
        name.chars().all(is_in) && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    let quoted = |bytes: &mut Vec<u8>, text: &str| {
        bytes.push(b'"');
        escape(bytes, text, true);
        bytes.push(b'"');
    };
    let (mut bytes, mut open) = (Vec::new(), b'{');
    if is_plain(name, ":") {
        bytes.extend_from_slice(name.as_bytes());
    } else {
        bytes.push(std::mem::replace(&mut open, b','));
        quoted(&mut bytes, name);
    }
    for (key, value) in labels {
        bytes.push(std::mem::replace(&mut open, b','));
        if is_plain(key, "") {
            bytes.extend_from_slice(key.as_bytes());
        } else {
            quoted(&mut bytes, key);
        }
        bytes.push(b'=');
        quoted(&mut bytes, value);
    }
    if open == b',' {
        bytes.push(b'}');
    }
    String::from_utf8(bytes).unwrap_or_default()
}

/// Returns a label, as in both formats.
pub fn label_text(key: &str, value: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len() + value.len() + 3);
    label(&mut bytes, key, value);
    // Both parts are UTF-8, so the bytes are.
    String::from_utf8(bytes).unwrap_or_default()
}

fn escape(bytes: &mut Vec<u8>, text: &str, quotes: bool) {
    for byte in text.bytes() {
        match byte {
            b'\\' => bytes.extend_from_slice(b"\\\\"),
            b'\n' => bytes.extend_from_slice(b"\\n"),
            b'"' if quotes => bytes.extend_from_slice(b"\\\""),
            // Some parsers take it for the end of a line.
            b'\r' => bytes.push(b' '),
            byte => bytes.push(byte),
        }
    }
}

/// Writes the shortest text that reads back as this number.
pub fn number(bytes: &mut Vec<u8>, value: f64) {
    /// Below this bound, an `f64` represents every whole number exactly.
    const EXACT: f64 = 9e15;
    if value.fract() == 0.0 && value.abs() < EXACT && (value != 0.0 || value.is_sign_positive()) {
        bytes.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
    } else if value.is_finite() {
        bytes.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    } else if value.is_nan() {
        bytes.extend_from_slice(b"NaN");
    } else {
        bytes.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    }
}

/// Writes `units` × 10^-`decimals` as a decimal number, so that a rounded value is shown as rounded.
pub fn fixed(bytes: &mut Vec<u8>, units: i64, decimals: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(units.unsigned_abs()).as_bytes();
    if units < 0 {
        bytes.push(b'-');
    }
    let (whole, fraction) = digits.split_at(digits.len().saturating_sub(decimals));
    bytes.extend_from_slice(if whole.is_empty() { b"0" } else { whole });
    let zeros = decimals.saturating_sub(fraction.len());
    let used = fraction.iter().rposition(|&digit| digit != b'0').map_or(0, |last| last + 1);
    if used > 0 {
        bytes.push(b'.');
        bytes.extend(std::iter::repeat_n(b'0', zeros));
        bytes.extend_from_slice(fraction.get(..used).unwrap_or_default());
    }
}

/// Writes a bucket's bound as OpenMetrics requires it: `1.0`, `1e+06`. The other format gets the same text, so that a
/// series has the same labels in both.
fn bound_text(text: &mut String, bound: f64) {
    if !bound.is_finite() {
        text.push_str(if bound > 0.0 { "+Inf" } else { "-Inf" });
    } else if bound == 0.0 || (1e-4..1e6).contains(&bound.abs()) {
        let _ = write!(text, "{bound:?}");
    } else {
        let scientific = format!("{bound:e}");
        let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        let _ = write!(text, "{mantissa}e{sign}{digits:0>2}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(format: ExpositionFormat, write: impl FnOnce(&mut ExpositionText)) -> String {
        let mut text = ExpositionText::new(format);
        write(&mut text);
        text.end();
        String::from_utf8(text.bytes).unwrap()
    }

    fn number_text(value: f64) -> String {
        let mut bytes = Vec::new();
        number(&mut bytes, value);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn openmetrics_counter_families_are_named_without_total() {
        let write = |text: &mut ExpositionText| {
            text.family("cpu_seconds_total", "CPU \"time\"\nand \\.", FamilyKind::Counter);
            text.sample(&["cpu_seconds_total"], &["", "a=\"b\""], 1.5);
        };
        assert_eq!(
            text(ExpositionFormat::Text, write),
            "# HELP cpu_seconds_total CPU \"time\"\\nand \\\\.\n# TYPE cpu_seconds_total counter\ncpu_seconds_total{a=\"b\"} 1.5\n"
        );
        assert_eq!(
            text(ExpositionFormat::OpenMetrics, write),
            "# HELP cpu_seconds CPU \\\"time\\\"\\nand \\\\.\n# TYPE cpu_seconds counter\n# UNIT cpu_seconds seconds\ncpu_seconds_total{a=\"b\"} 1.5\n# EOF\n"
        );
    }

    #[test]
    fn histogram_buckets_are_written_cumulative() {
        let write = |text: &mut ExpositionText| text.histogram("h", &["a=\"b\""], &[0.1, 1.0], &[1, 2, 3], 9.5);
        assert_eq!(
            text(ExpositionFormat::Text, write),
            "h_bucket{a=\"b\",le=\"0.1\"} 1\nh_bucket{a=\"b\",le=\"1.0\"} 3\nh_bucket{a=\"b\",le=\"+Inf\"} 6\nh_sum{a=\"b\"} 9.5\nh_count{a=\"b\"} 6\n"
        );
    }

    #[test]
    fn numbers_are_written_in_their_shortest_form() {
        for (value, wanted) in [
            (0.0, "0"),
            (-3.0, "-3"),
            (0.1, "0.1"),
            (1e15, "1000000000000000"),
            (1e22, "1e22"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(number_text(value), wanted);
        }
        assert_eq!(number_text(-0.0).parse::<f64>().unwrap().to_bits(), (-0.0_f64).to_bits());
    }

    #[test]
    fn timestamps_are_seconds_with_a_fraction_if_it_is_not_zero() {
        let lines = text(ExpositionFormat::OpenMetrics, |text| {
            [0, 1500, -1500, -1000, 7].iter().for_each(|at_ms| text.sample_at(&["x"], &[], 1.0, *at_ms));
        });
        assert_eq!(lines, "x 1 0\nx 1 1.500\nx 1 -1.500\nx 1 -1\nx 1 0.007\n# EOF\n");
    }

    #[test]
    fn fixed_writes_no_trailing_zeros() {
        let fixed = |units, decimals| {
            let mut bytes = Vec::new();
            super::fixed(&mut bytes, units, decimals);
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(fixed(1234, 4), "0.1234");
        assert_eq!(fixed(-120, 2), "-1.2");
        assert_eq!(fixed(5, 3), "0.005");
        assert_eq!(fixed(500, 2), "5");
        assert_eq!(fixed(0, 2), "0");
        assert_eq!(fixed(7, 0), "7");
    }

    #[test]
    fn bucket_bounds_are_written_as_openmetrics_requires() {
        for (bound, wanted) in [
            (1e-5, "1e-05"),
            (4e-5, "4e-05"),
            (1e-4, "0.0001"),
            (0.005, "0.005"),
            (1.0, "1.0"),
            (2.5, "2.5"),
            (1e5, "100000.0"),
            (1e6, "1e+06"),
            (1.5e10, "1.5e+10"),
            (f64::INFINITY, "+Inf"),
        ] {
            let mut text = String::new();
            bound_text(&mut text, bound);
            assert_eq!(text, wanted);
        }
    }

    proptest::proptest! {
        #[test]
        fn a_number_reads_back_as_itself(bits in proptest::prelude::any::<u64>()) {
            let value = f64::from_bits(bits);
            let read: f64 = number_text(value).parse().unwrap();
            assert!(read == value || (read.is_nan() && value.is_nan()));
        }

        #[test]
        fn fixed_numbers_read_back_as_the_rounded_number(units in -1_000_000_000_000_000_i64..1_000_000_000_000_000, decimals in 0_usize..10) {
            let mut bytes = Vec::new();
            fixed(&mut bytes, units, decimals);
            let read: f64 = String::from_utf8(bytes).unwrap().parse().unwrap();
            assert_eq!((read * 10_f64.powi(decimals as i32)).round() as i64, units);
        }
    }
}
