//! Mappings: which fields an exposition becomes.

use crate::selector::Selector;
use dropsonde_guest::{Aggregation, Failure, Field};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// The fields of a mapping by name, as the configuration has them.
pub type MappingConfig = BTreeMap<String, FieldConfig>;

/// How one field is computed: exactly one of `rate`, `quantile`, `percent`, `value` and `count`. Where a selector is
/// expected, there may be a list of them: the first one that finds series is used.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldConfig {
    /// The increase per second of counters.
    rate: Option<Selectors>,
    /// A quantile from 0 to 1 of the observations since the scrape before, of the histograms in `of`: their `_bucket`.
    quantile: Option<f64>,
    /// A share of `of`, in percent: of their increases if they are counters.
    percent: Option<Selectors>,
    /// Values as they are, combined `by`; less those of `minus`.
    value: Option<Selectors>,
    /// The number of series for which `where` holds.
    count: Option<Selectors>,
    of: Option<Selectors>,
    /// The name of the running total of a rate.
    total: Option<String>,
    minus: Option<Selectors>,
    by: Option<Combination>,
    r#where: Option<String>,
    /// A factor for the result.
    scale: Option<f64>,
    help: Option<String>,
    unit: Option<String>,
    precision: Option<f64>,
    aggregation: Option<Aggregation>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a selector, or a list of selectors")]
enum Selectors {
    One(String),
    Several(Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Combination {
    Sum,
    Min,
    Max,
    Mean,
    Count,
}

/// A mapping, ready to read expositions with.
#[derive(Debug, Default)]
pub struct Mapping {
    pub fields: Vec<MappedField>,
    pub(crate) selections: Vec<Selection>,
    /// The selections of each metric.
    by_metric: HashMap<String, Vec<usize>>,
}

#[derive(Debug)]
pub struct MappedField {
    pub field: Field,
    pub(crate) measure: Measure,
    pub(crate) scale: f64,
}

/// The series that a selector finds, and what is made of them.
#[derive(Debug)]
pub(crate) struct Selection {
    text: String,
    selector: Selector,
    pub(crate) reading: SeriesReading,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SeriesReading {
    /// Values as they are.
    Values,
    /// Their increase since the scrape before.
    Increase,
    /// The same by the label `le`.
    Buckets,
}

/// How the value of a field is computed from selections, which are alternatives: the first that finds series is used.
#[derive(Debug)]
pub(crate) enum Measure {
    Rate(Vec<usize>),
    Quantile(f64, Vec<usize>),
    /// A share of the whole, in percent. The alternatives of both lists belong together.
    Percent(Vec<usize>, Vec<usize>),
    /// Values, less other values. The alternatives of both lists belong together.
    Value(Combination, Vec<usize>, Vec<usize>),
    Count(Comparison, Vec<usize>),
}

/// A comparison with a number: `> 0`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comparison {
    holds: fn(&f64, &f64) -> bool,
    with: f64,
}

// === impl Mapping ===

impl Mapping {
    /// Returns the mapping of a configuration; the mistake if it has one.
    pub fn new(config: &MappingConfig) -> Result<Self, String> {
        let mut mapping = Self::default();
        for (name, field) in config {
            let field = mapping.field(name, field).map_err(|why| format!("the field {name}: {why}"))?;
            mapping.fields.push(field);
        }
        Ok(mapping)
    }

    /// Returns the positions of the selections of a metric.
    pub(crate) fn of_metric(&self, name: &str) -> &[usize] {
        self.by_metric.get(name).map_or(&[], Vec::as_slice)
    }

    fn field(&mut self, name: &str, config: &FieldConfig) -> Result<MappedField, String> {
        let FieldConfig { rate, quantile, percent, value, count, of, total, minus, by, r#where, .. } = config;
        let kinds = [rate.is_some(), quantile.is_some(), percent.is_some(), value.is_some(), count.is_some()];
        if kinds.into_iter().filter(|is_there| *is_there).count() != 1 {
            return Err("it needs one of rate, quantile, percent, value and count".to_owned());
        }
        let belongs = |key: &str, is_there: bool, to: &str, kind: bool| match is_there && !kind {
            true => Err(format!("`{key}` belongs to {to}")),
            false => Ok(()),
        };
        belongs("of", of.is_some(), "quantile and percent", quantile.is_some() || percent.is_some())?;
        belongs("total", total.is_some(), "rate", rate.is_some())?;
        belongs("minus", minus.is_some(), "value", value.is_some())?;
        belongs("by", by.is_some(), "value", value.is_some())?;
        belongs("where", r#where.is_some(), "count", count.is_some())?;
        let of = || of.as_ref().ok_or("`of` is missing: the selector of the whole");
        let measure = if let Some(rate) = rate {
            Measure::Rate(self.select(rate, SeriesReading::Increase)?)
        } else if let Some(q) = quantile {
            if !(0.0..=1.0).contains(q) {
                return Err(format!("the quantile {q} is not from 0 to 1"));
            }
            Measure::Quantile(*q, self.select(of()?, SeriesReading::Buckets)?)
        } else if let Some(percent) = percent {
            let (part, whole) = (percent.list(), of()?.list());
            belong_together("percent", part, "of", whole)?;
            let (mut parts, mut wholes) = (Vec::new(), Vec::new());
            for (part, whole) in part.iter().zip(whole) {
                let reading = if is_counter(whole) { SeriesReading::Increase } else { SeriesReading::Values };
                parts.push(self.selection(part, reading)?);
                wholes.push(self.selection(whole, reading)?);
            }
            Measure::Percent(parts, wholes)
        } else if let Some(value) = value {
            let by = by.unwrap_or(Combination::Sum);
            let minus = match minus {
                Some(minus) => {
                    belong_together("value", value.list(), "minus", minus.list())?;
                    self.select(minus, SeriesReading::Values)?
                }
                None => Vec::new(),
            };
            Measure::Value(by, self.select(value, SeriesReading::Values)?, minus)
        } else if let Some(count) = count {
            let comparison = r#where.as_deref().map_or(Ok(Comparison::ANY), str::parse)?;
            Measure::Count(comparison, self.select(count, SeriesReading::Values)?)
        } else {
            return Err("it needs one of rate, quantile, percent, value and count".to_owned());
        };
        let scale = config.scale.unwrap_or(if quantile.is_some() && name.ends_with("_ms") { 1000.0 } else { 1.0 });
        if !scale.is_finite() {
            return Err(format!("the scale {scale} is not a number"));
        }
        Ok(MappedField { field: config.describe(name, &measure, scale), measure, scale })
    }

    /// Adds selections, and returns their positions.
    fn select(&mut self, selectors: &Selectors, reading: SeriesReading) -> Result<Vec<usize>, String> {
        selectors.list().iter().map(|text| self.selection(text, reading)).collect()
    }

    /// Returns the position of a selection. Fields that read the same series share it.
    fn selection(&mut self, text: &str, reading: SeriesReading) -> Result<usize, String> {
        let known = self.selections.iter().position(|known| known.text == text && known.reading == reading);
        if let Some(known) = known {
            return Ok(known);
        }
        let selector: Selector = text.parse()?;
        let position = self.selections.len();
        self.by_metric.entry(selector.metric.clone()).or_default().push(position);
        self.selections.push(Selection { text: text.to_owned(), selector, reading });
        Ok(position)
    }
}

// === impl Selection ===

impl Selection {
    pub(crate) fn matches(&self, labels: dropsonde_openmetrics::read::LabelText<'_>) -> bool {
        self.selector.matches(labels)
    }
}

// === impl Selectors ===

impl Selectors {
    fn list(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Several(several) => several,
        }
    }

    fn first(&self) -> &str {
        self.list().first().map_or("", String::as_str)
    }
}

/// Fails unless two lists have equally many selectors.
fn belong_together(one: &str, ones: &[String], other: &str, others: &[String]) -> Result<(), String> {
    match ones.len() == others.len() {
        true => Ok(()),
        false => Err(format!("`{one}` and `{other}` need equally many selectors: they belong together")),
    }
}

/// Returns whether the name of a selector's metric is that of a counter. Envoy's counters by class of status end in
/// `_rq_xx`.
fn is_counter(selector: &str) -> bool {
    let metric = selector.split('{').next().unwrap_or_default().trim_end();
    ["_total", "_count", "_sum", "_bucket", "_rq_xx"].iter().any(|suffix| metric.ends_with(suffix))
}

// === impl FieldConfig ===

impl FieldConfig {
    /// Returns the field that a measure becomes.
    fn describe(&self, name: &str, measure: &Measure, scale: f64) -> Field {
        let (help, aggregation) = match measure {
            Measure::Rate(_) => ("Per-second increase of ", Aggregation::Mean),
            Measure::Quantile(..) => ("Quantile of the interval of ", Aggregation::Max),
            Measure::Percent(..) => ("Percentage of ", Aggregation::Mean),
            Measure::Value(Combination::Min, ..) => ("Smallest of ", Aggregation::Min),
            Measure::Value(Combination::Max, ..) => ("Largest of ", Aggregation::Max),
            Measure::Value(Combination::Sum, ..) => ("Sum of ", Aggregation::Mean),
            Measure::Value(Combination::Mean, ..) => ("Mean of ", Aggregation::Mean),
            Measure::Value(Combination::Count, ..) => ("Number of series of ", Aggregation::Min),
            Measure::Count(..) => ("Number of series of ", Aggregation::Min),
        };
        let source = [&self.rate, &self.of, &self.percent, &self.value, &self.count].into_iter().flatten().next();
        let source = source.map_or("", |selectors| selectors.first());
        let help = self.help.clone().unwrap_or_else(|| format!("{help}{source}"));
        let field = match measure {
            Measure::Rate(_) => {
                let stem = name.strip_suffix("_per_sec").or_else(|| name.strip_suffix("_sec")).unwrap_or(name);
                let total = self.total.clone().unwrap_or_else(|| format!("{stem}_total"));
                Field::rate(name, help, total).scale(scale)
            }
            _ => Field::gauge(name, help),
        };
        let unit = match (measure, name) {
            (Measure::Percent(..), _) => "percent",
            (_, name) if name.ends_with("_ms") => "ms",
            (_, name) if name.ends_with("_percent") => "percent",
            (_, name) if name.ends_with("_mb") => "MiB",
            (_, name) if name.ends_with("_bytes_per_sec") => "bytes/s",
            (_, name) if name.ends_with("_bytes") => "bytes",
            (_, name) if name.ends_with("_seconds") => "s",
            (Measure::Rate(_), _) => "per second",
            _ => "",
        };
        let aggregation = self.aggregation.unwrap_or(aggregation);
        field
            .unit(self.unit.as_deref().unwrap_or(unit))
            .aggregation(aggregation)
            .precision(self.precision.unwrap_or(0.0))
    }
}

// === impl Comparison ===

impl Comparison {
    /// Holds for every number.
    const ANY: Self = Self { holds: |_, _| true, with: 0.0 };

    pub(crate) fn holds(&self, value: f64) -> bool {
        (self.holds)(&value, &self.with)
    }
}

impl std::str::FromStr for Comparison {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        type Operator = (&'static str, fn(&f64, &f64) -> bool);
        let operators: [Operator; 6] =
            [("==", f64::eq), ("!=", f64::ne), (">=", f64::ge), ("<=", f64::le), (">", f64::gt), ("<", f64::lt)];
        let found = operators.iter().find_map(|(operator, holds)| {
            let with = text.trim().strip_prefix(operator)?.trim().parse().ok()?;
            Some(Self { holds: *holds, with })
        });
        found.ok_or_else(|| format!("{text:?} is not a comparison with a number, such as \"> 0\""))
    }
}

/// Returns the fields of all mappings, each once. Fails if two mappings have a field of different kinds or units.
pub fn all_fields(mappings: &[Rc<Mapping>]) -> Result<Vec<Field>, Failure> {
    let mut fields: Vec<Field> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for mapped in mappings.iter().flat_map(|mapping| &mapping.fields) {
        let field = &mapped.field;
        match known.get(&field.name).and_then(|position| fields.get(*position)) {
            None => {
                known.insert(field.name.clone(), fields.len());
                fields.push(field.clone());
            }
            Some(other) if (&other.kind, &other.unit) == (&field.kind, &field.unit) => {}
            Some(_) => {
                let why = "has two kinds or units; give one of them another name";
                return Err(Failure::invalid(format!("the field {} {why}", field.name)));
            }
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(json: &str) -> Result<Mapping, String> {
        Mapping::new(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn fields_that_read_the_same_series_share_a_selection() {
        let mapping = mapping(
            r#"{"p95_ms": {"quantile": 0.95, "of": "d_bucket"}, "p99_ms": {"quantile": 0.99, "of": "d_bucket"},
                "requests_per_sec": {"rate": ["a_total", "b_total"]},
                "error_rate": {"percent": "a_total{code=~\"5..\"}", "of": "a_total"}}"#,
        )
        .unwrap();
        let names: Vec<_> = mapping.fields.iter().map(|mapped| mapped.field.name.as_str()).collect();
        assert_eq!(names, ["error_rate", "p95_ms", "p99_ms", "requests_per_sec"]);
        assert_eq!(mapping.selections.len(), 4);
        assert_eq!(mapping.of_metric("a_total").len(), 2);
        assert_eq!(mapping.of_metric("d_bucket").len(), 1);
        assert_eq!(mapping.fields[1].scale, 1000.0, "seconds become milliseconds");
    }

    #[test]
    fn a_mapping_with_a_mistake_is_refused_with_the_mistake() {
        for (json, why) in [
            ("{}", "one of rate"),
            (r#"{"rate": "a", "value": "b"}"#, "one of rate"),
            (r#"{"quantile": 2, "of": "a_bucket"}"#, "from 0 to 1"),
            (r#"{"quantile": 0.5}"#, "`of` is missing"),
            (r#"{"rate": "a", "of": "b"}"#, "`of` belongs to quantile and percent"),
            (r#"{"rate": "a", "where": "> 0"}"#, "`where` belongs to count"),
            (r#"{"value": "a{", "by": "max"}"#, "not a selector"),
            (r#"{"count": "a", "where": "~ 0"}"#, "not a comparison"),
            (r#"{"percent": ["a", "b"], "of": "c"}"#, "belong together"),
        ] {
            let error = mapping(&format!(r#"{{"x": {json}}}"#)).unwrap_err();
            assert!(error.starts_with("the field x: ") && error.contains(why), "{json}: {error}");
        }
    }

    #[test]
    fn two_mappings_agree_about_a_field_or_are_refused() {
        let fields = |second: &str| {
            let of = |json: &str| Rc::new(mapping(&format!(r#"{{"x": {json}}}"#)).unwrap());
            all_fields(&[of(r#"{"value": "a"}"#), of(second)])
        };
        assert_eq!(fields(r#"{"value": "b"}"#).unwrap().len(), 1);
        assert!(fields(r#"{"rate": "b"}"#).is_err());
    }
}
