//! Values, and how Go writes them.

use super::Sample;
use dropsonde_promql::number;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// No value: `nil`.
    Nothing,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Time(Timestamp),
    Duration(SignedDuration),
    List(Vec<Value>),
    /// Texts by their names. A name that is not there has the empty text.
    Texts(BTreeMap<String, String>),
    /// Values by their names. A name that is not there has no value.
    Map(BTreeMap<String, Value>),
    /// A value with fields. It has no others.
    Fields(BTreeMap<&'static str, Value>),
}

impl Value {
    pub(super) fn of_sample(sample: Sample) -> Self {
        Self::Fields(BTreeMap::from([("Labels", Self::Texts(sample.labels)), ("Value", Self::Float(sample.value))]))
    }

    /// Returns whether a condition holds: not for no value, nothing, zero and what is empty.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Nothing => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::Duration(duration) => !duration.is_zero(),
            Self::List(list) => !list.is_empty(),
            Self::Texts(texts) => !texts.is_empty(),
            Self::Map(map) => !map.is_empty(),
            Self::Time(_) | Self::Fields(_) => true,
        }
    }

    /// Returns Go's name of the type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Nothing => "<nil>",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::Time(_) => "time.Time",
            Self::Duration(_) => "time.Duration",
            Self::List(_) => "template.queryResult",
            Self::Texts(_) => "map[string]string",
            Self::Map(_) => "map[string]interface {}",
            Self::Fields(_) => "*template.sample",
        }
    }

    /// Returns a field.
    pub(super) fn field(&self, name: &str) -> Result<Self, String> {
        match self {
            Self::Texts(texts) => Ok(Self::Text(texts.get(name).cloned().unwrap_or_default())),
            Self::Map(map) => Ok(map.get(name).cloned().unwrap_or(Self::Nothing)),
            Self::Fields(fields) => fields.get(name).cloned().ok_or_else(|| format!("there is no field {name}")),
            other => Err(format!("can't evaluate field {name} in type {}", other.type_name())),
        }
    }

    /// Returns the number that a value is, or that it is written as.
    pub(super) fn number(&self) -> Result<f64, String> {
        match self {
            Self::Float(value) => Ok(*value),
            Self::Int(value) => Ok(*value as f64),
            Self::Duration(duration) => Ok(duration.as_secs_f64()),
            Self::Text(text) => {
                let lower = text.to_ascii_lowercase();
                let unsigned = lower.trim_start_matches(['+', '-']);
                let special = matches!(unsigned, "inf" | "infinity" | "nan");
                let is_number = special || unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
                lower.parse().ok().filter(|_| is_number).ok_or_else(|| format!("{text:?} is not a number"))
            }
            other => Err(format!("can't convert {} to float", other.type_name())),
        }
    }

    /// Writes the value as `{{ . }}` does.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Nothing => "<no value>".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Float(value) => number::general(*value, None),
            Self::Text(text) => text.clone(),
            Self::Time(time) => written_time(*time),
            Self::Duration(duration) => written_duration(*duration),
            Self::List(list) => format!("[{}]", list.iter().map(Self::text).collect::<Vec<_>>().join(" ")),
            Self::Texts(texts) => {
                let pairs: Vec<_> = texts.iter().map(|(name, text)| format!("{name}:{text}")).collect();
                format!("map[{}]", pairs.join(" "))
            }
            Self::Map(map) => {
                let pairs: Vec<_> = map.iter().map(|(name, value)| format!("{name}:{}", value.text())).collect();
                format!("map[{}]", pairs.join(" "))
            }
            Self::Fields(fields) => format!("{{{}}}", fields.values().map(Self::text).collect::<Vec<_>>().join(" ")),
        }
    }
}

/// Writes a time as Go's `String` does: `2015-02-08 10:16:15.1 +0000 UTC`.
pub(super) fn written_time(time: Timestamp) -> String {
    let whole = time.strftime("%Y-%m-%d %H:%M:%S").to_string();
    let fraction = format!("{:09}", time.subsec_nanosecond().unsigned_abs());
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{whole}{point}{fraction} +0000 UTC")
}

/// Writes a duration as Go's `String` does: `1h5m0.5s`.
fn written_duration(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos().unsigned_abs();
    let sign = if duration.is_negative() { "-" } else { "" };
    let fraction = |value: u128, unit: u128| {
        let rest = format!("{:0width$}", value % unit, width = unit.ilog10() as usize);
        let rest = rest.trim_end_matches('0');
        let point = if rest.is_empty() { "" } else { "." };
        format!("{}{point}{rest}", value / unit)
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{nanos}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(nanos, 1_000_000)),
        _ => {
            let (minutes, rest) = (nanos / 60_000_000_000, nanos % 60_000_000_000);
            let seconds = fraction(rest, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}
