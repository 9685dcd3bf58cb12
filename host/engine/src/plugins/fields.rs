//! Turns a sampler's fields into columns of history and Prometheus metrics, and checks everything that a plugin says
//! about them.

use dropsonde_model::{Field, Kind};
use dropsonde_sandbox as guest;
use dropsonde_store::{Schema, StoredField};
use std::collections::HashMap;
use std::sync::Arc;

/// The most fields per sampler. A row with more of them is a dump, not a sample.
const MOST_FIELDS: usize = 256;

/// The longest HELP text or unit, in characters. Both are for people.
const LONGEST_TEXT: usize = 256;

/// The prefix of every sample metric's name.
const PREFIX: &str = "dropsonde_sample_";

/// The checked fields of a sampler.
#[derive(Debug, Clone)]
pub struct Fields {
    pub schema: Schema,
    /// One metric per field, in order.
    pub metrics: Arc<[FieldMetric]>,
    /// The unit of each field, in words as the plugin declares it; empty without a unit.
    pub units: Arc<[String]>,
}

/// A field as a Prometheus metric, in base units.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldMetric {
    pub name: String,
    pub help: String,
    /// A counter exposes its running total, a gauge its value.
    pub is_counter: bool,
    /// The factor from the field's unit to the base unit.
    pub factor: f64,
    /// The rounding of the values; `None` if they are not rounded.
    pub decimals: Option<DecimalRounding>,
}

/// The rounding of values that were stored as a whole number of units. They are written with a fixed number of decimal
/// places.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecimalRounding {
    /// The number of units in one of the field's own unit.
    pub units: f64,
    /// The number of decimal places of a value in the base unit.
    pub places: usize,
}

/// Why a sampler's fields are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFields {
    #[error("it has no fields")]
    None,
    #[error("it has {0} fields; at most {MOST_FIELDS} are allowed")]
    TooMany(usize),
    #[error("field {0:?}: a field's name must match [a-z][a-z0-9_]{{0,63}}")]
    Name(String),
    #[error("field {0:?}: the host reserves this name")]
    Reserved(String),
    #[error("field {0:?} is declared twice")]
    Twice(String),
    #[error("field {field:?}: the total {total:?} is not a metric name that ends in `_total`")]
    Total { field: String, total: String },
    #[error("field {0:?}: scale must be a finite number other than 0, and precision a finite number of at least 0")]
    Number(String),
    #[error("fields {0:?} and {1:?} would both be the metric {2}")]
    SameMetric(String, String, String),
}

impl Fields {
    /// Checks the fields of a sampler, and derives their columns and metrics.
    pub fn check(sampler: &str, fields: &[Field]) -> Result<Self, BadFields> {
        if fields.is_empty() {
            return Err(BadFields::None);
        }
        if fields.len() > MOST_FIELDS {
            return Err(BadFields::TooMany(fields.len()));
        }
        let mut by_metric: HashMap<String, &str> = HashMap::new();
        let mut columns: Vec<StoredField> = Vec::new();
        let mut metrics = Vec::new();
        for field in fields {
            let column = column(field)?;
            if columns.iter().any(|other| other.name == column.name) {
                return Err(BadFields::Twice(field.name.clone()));
            }
            let metric = metric(field);
            // A counter and a gauge that differ by `_total` are one family in OpenMetrics.
            if let Some(other) = by_metric.insert(guest::family(&metric.name).to_owned(), &field.name) {
                return Err(BadFields::SameMetric(other.to_owned(), field.name.clone(), metric.name));
            }
            columns.push(column);
            metrics.push(metric);
        }
        let units = fields.iter().map(|field| plain(&field.unit)).collect();
        Ok(Self { schema: Schema::new(sampler, columns), metrics: metrics.into(), units })
    }
}

fn column(field: &Field) -> Result<StoredField, BadFields> {
    let name = &field.name;
    if !is_name(name) || name.len() > 64 {
        return Err(BadFields::Name(short(name)));
    }
    let reserved = ["at", "ts", "instance", "id", "sampler", "replica_count"].contains(&name.as_str());
    if reserved || name.ends_with("_min") || name.ends_with("_max") {
        return Err(BadFields::Reserved(name.clone()));
    }
    if let Kind::Counter { scale } = field.kind {
        let total = &field.total;
        if !is_name(total) || !total.ends_with("_total") || total.len() > 128 {
            return Err(BadFields::Total { field: name.clone(), total: short(total) });
        }
        if !scale.is_finite() || scale == 0.0 {
            return Err(BadFields::Number(name.clone()));
        }
    }
    if !field.precision.is_finite() || field.precision < 0.0 {
        return Err(BadFields::Number(name.clone()));
    }
    let Field { kind, aggregation, precision, .. } = *field;
    Ok(StoredField { name: name.as_str().into(), kind, aggregation, precision })
}

impl Fields {
    /// Returns the metrics that are counters here and gauges in `others`, or the other way round.
    pub(crate) fn other_kinds<'a>(&'a self, others: &Self) -> impl Iterator<Item = &'a str> {
        let differs = |metric: &&FieldMetric| {
            let same = |other: &&FieldMetric| guest::family(&other.name) == guest::family(&metric.name);
            others.metrics.iter().find(same).is_some_and(|other| other.is_counter != metric.is_counter)
        };
        self.metrics.iter().filter(differs).map(|metric| metric.name.as_str())
    }
}

/// Returns the metric of a field, in base units as the ecosystem expects them.
fn metric(field: &Field) -> FieldMetric {
    let (name, factor) = match &field.kind {
        Kind::Counter { .. } => (field.total.clone(), 1.0),
        Kind::Gauge => in_base_units(&field.name),
    };
    let help = plain(&field.help);
    let is_counter = field.kind != Kind::Gauge;
    FieldMetric {
        decimals: decimals(field.precision, factor),
        name: format!("{PREFIX}{name}"),
        help: if help.is_empty() { format!("The field {} of a sample.", field.name) } else { help },
        is_counter,
        factor,
    }
}

/// Returns the rounding of a metric, if the field's precision and the factor are powers of ten; then so is their
/// product.
fn decimals(precision: f64, factor: f64) -> Option<DecimalRounding> {
    let places = |number: f64| (0..=9).find(|&places| 10_f64.powi(-places) == number);
    let (own, more) = (places(precision)?, places(factor)?);
    Some(DecimalRounding { units: 10_f64.powi(own), places: usize::try_from(own + more).ok()? })
}

impl FieldMetric {
    /// Returns the metric of a field of stored history, and the one to use if the first one's name is taken. History
    /// does not store the name of a counter's total, so the name is derived from that of the rate by custom.
    pub fn of_kept(field: &StoredField) -> [Self; 2] {
        let Kind::Counter { scale } = field.kind else {
            let (name, factor) = in_base_units(&field.name);
            return [(); 2].map(|()| Self::kept(&name, false, factor));
        };
        let name = &*field.name;
        let customary = match (name.strip_suffix("_per_sec"), name.strip_suffix("_percent")) {
            (Some(what), _) if scale == 1.0 => format!("{what}_total"),
            (_, Some(what)) if scale == 100.0 => format!("{what}_seconds_total"),
            _ => format!("{name}_total"),
        };
        [customary, format!("{name}_total")].map(|name| Self::kept(&name, true, 1.0))
    }

    fn kept(name: &str, is_counter: bool, factor: f64) -> Self {
        Self { name: format!("{PREFIX}{name}"), help: String::new(), is_counter, factor, decimals: None }
    }
}

/// Replaces the unit at the end of a name by its base unit, and returns the factor. The unit may come before an
/// aggregation (`latency_ms_p95`) or before the unit of a rate (`read_kb_per_sec`).
fn in_base_units(name: &str) -> (String, f64) {
    let mut parts: Vec<&str> = name.split('_').collect();
    // A gauge's name must not look like a counter's, nor give the type of the metric.
    while parts.len() > 1 && parts.last().is_some_and(|last| ["total", "gauge"].contains(last)) {
        parts.pop();
    }
    // It must not look like a part of a histogram either.
    for (part, gauge) in [("count", "counted"), ("sum", "summed"), ("bucket", "bucketed"), ("created", "creation")] {
        match parts.last_mut() {
            Some(last) if *last == part => *last = gauge,
            _ => {}
        }
    }
    let made_of_it = |part: &&str| {
        let is_quantile = part.strip_prefix('p').is_some_and(|digits| digits.parse::<u16>().is_ok());
        is_quantile || ["avg", "mean", "median", "min", "max", "stddev", "summed"].contains(part)
    };
    let mut end = parts.len() - parts.iter().skip(1).rev().take_while(|part| made_of_it(part)).count();
    let mut factor = 1.0;
    if let Some(per) = end.checked_sub(2).filter(|per| *per > 0 && parts.get(*per) == Some(&"per")) {
        factor /= in_base_unit(parts.get_mut(per + 1));
        parts.iter_mut().skip(per + 1).take(1).filter(|unit| **unit == "seconds").for_each(|unit| *unit = "second");
        end = per;
    }
    // The first part names the quantity: `ms` alone is not a unit of time.
    if let Some(last) = end.checked_sub(1).filter(|last| *last > 0) {
        factor *= in_base_unit(parts.get_mut(last));
    }
    (parts.join("_"), factor)
}

/// Replaces a unit by its base unit. Returns the factor from the unit to the base unit.
fn in_base_unit(part: Option<&mut &str>) -> f64 {
    const UNITS: [(&str, &str, f64); 22] = [
        ("percent", "ratio", 0.01),
        ("ms", "seconds", 1e-3),
        ("us", "seconds", 1e-6),
        ("ns", "seconds", 1e-9),
        ("s", "seconds", 1.0),
        ("sec", "seconds", 1.0),
        ("milliseconds", "seconds", 1e-3),
        ("microseconds", "seconds", 1e-6),
        ("nanoseconds", "seconds", 1e-9),
        ("minutes", "seconds", 60.0),
        ("hours", "seconds", 3600.0),
        ("days", "seconds", 86_400.0),
        ("b", "bytes", 1.0),
        ("kb", "bytes", 1024.0),
        ("mb", "bytes", 1_048_576.0),
        ("gb", "bytes", 1_073_741_824.0),
        ("tb", "bytes", 1_099_511_627_776.0),
        ("kilobytes", "bytes", 1e3),
        ("megabytes", "bytes", 1e6),
        ("kibibytes", "bytes", 1024.0),
        ("mebibytes", "bytes", 1_048_576.0),
        ("gibibytes", "bytes", 1_073_741_824.0),
    ];
    let Some(part) = part else { return 1.0 };
    match UNITS.iter().find(|(unit, ..)| part == unit) {
        Some((_, base, to_base)) => {
            *part = base;
            *to_base
        }
        None => 1.0,
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Shortens a text for an error message, because a plugin's text may be of any length.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Returns a text as one line of bounded length, without characters that control a terminal or reorder text.
pub fn plain(text: &str) -> String {
    let line: String =
        text.chars().map(|c| if dropsonde_model::text::is_harmful(c) { ' ' } else { c }).take(LONGEST_TEXT).collect();
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(name: &str) -> Field {
        Field::gauge(name, "Help.")
    }

    fn counter(name: &str, total: &str) -> Field {
        Field::rate(name, "Help.", total)
    }

    fn metric_of(field: Field) -> (String, f64) {
        let metric = Fields::check("s", &[field]).unwrap().metrics[0].clone();
        (metric.name.strip_prefix(PREFIX).unwrap().to_owned(), metric.factor)
    }

    #[test]
    fn metrics_are_in_base_units_and_counters_have_the_name_of_their_total() {
        assert_eq!(metric_of(gauge("memory_used_mb")), ("memory_used_bytes".to_owned(), 1_048_576.0));
        assert_eq!(metric_of(gauge("latency_p95_ms")), ("latency_p95_seconds".to_owned(), 0.001));
        assert_eq!(metric_of(gauge("cpu_percent")), ("cpu_ratio".to_owned(), 0.01));
        assert_eq!(metric_of(gauge("ops_per_sec")), ("ops_per_second".to_owned(), 1.0));
        assert_eq!(metric_of(gauge("x_total_total")), ("x".to_owned(), 1.0));
        assert_eq!(metric_of(gauge("threads_count")), ("threads_counted".to_owned(), 1.0));
        assert_eq!(metric_of(gauge("gc_ms_count")), ("gc_ms_counted".to_owned(), 1.0), "a count is no time");
        assert_eq!(metric_of(gauge("latency_ms_sum")), ("latency_seconds_summed".to_owned(), 1e-3));
        assert_eq!(metric_of(gauge("slots_b_used")), ("slots_b_used".to_owned(), 1.0), "b is no unit there");
        assert_eq!(metric_of(gauge("ops_per_sec_avg")), ("ops_per_second_avg".to_owned(), 1.0));
        assert_eq!(metric_of(gauge("latency_us_p95")), ("latency_seconds_p95".to_owned(), 1e-6));
        assert_eq!(metric_of(gauge("read_mb_per_s")), ("read_bytes_per_second".to_owned(), 1_048_576.0));
        assert_eq!(metric_of(gauge("swap_kb")), ("swap_bytes".to_owned(), 1024.0));
        assert_eq!(metric_of(gauge("s")), ("s".to_owned(), 1.0));
        assert_eq!(metric_of(counter("requests_per_sec", "requests_total")), ("requests_total".to_owned(), 1.0));
    }

    #[test]
    fn metric_names_of_stored_fields_follow_the_naming_convention() {
        let names = |field: StoredField| FieldMetric::of_kept(&field).map(|metric| metric.name.replace(PREFIX, ""));
        assert_eq!(names(StoredField::gauge("memory_used_mb")), ["memory_used_bytes", "memory_used_bytes"]);
        assert_eq!(names(StoredField::counter("disk_read_bytes_per_sec", 1.0))[0], "disk_read_bytes_total");
        assert_eq!(names(StoredField::counter("cpu_percent", 100.0)), ["cpu_seconds_total", "cpu_percent_total"]);
        assert_eq!(names(StoredField::counter("odd_per_sec", 0.5))[0], "odd_per_sec_total");
    }

    #[test]
    fn reserved_invalid_and_duplicate_field_names_are_refused() {
        for reserved in ["at", "id", "replica_count", "load_min", "load_max"] {
            assert_eq!(Fields::check("s", &[gauge(reserved)]).unwrap_err(), BadFields::Reserved(reserved.to_owned()));
        }
        for bad in ["", "A", "1a", "a-b", "a\"b", "ä", &"x".repeat(65)] {
            assert!(matches!(Fields::check("s", &[gauge(bad)]), Err(BadFields::Name(_))), "{bad}");
        }
        assert!(matches!(Fields::check("s", &[counter("a", "b")]), Err(BadFields::Total { .. })));
        assert!(matches!(Fields::check("s", &[gauge("a"), gauge("a")]), Err(BadFields::Twice(_))));
        assert_eq!(Fields::check("s", &[]).unwrap_err(), BadFields::None);
    }

    #[test]
    fn two_fields_with_the_same_metric_name_are_refused() {
        let clash = Fields::check("s", &[gauge("x_mb"), gauge("x_bytes")]);
        assert!(matches!(clash, Err(BadFields::SameMetric(..))));
    }

    #[test]
    fn a_precision_that_is_not_finite_or_negative_is_refused() {
        for precision in [f64::NAN, -1.0, f64::INFINITY] {
            let field = Field { precision, ..gauge("x") };
            assert_eq!(Fields::check("s", &[field]).unwrap_err(), BadFields::Number("x".to_owned()));
        }
    }
}
