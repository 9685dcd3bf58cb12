//! Samples as JSON, written without intermediate trees.
//!
//! Field names need no escaping: they were checked against `[a-z][a-z0-9_]*` when their plugin was loaded.

use dropsonde_store::{Points, Sample};
use jiff::Timestamp;

/// Returns a sample as `{"at":"2026-01-02T03:04:05Z","cpu_percent":12.5,…}`. Fields without a value are left out.
pub fn sample(sample: &Sample) -> Vec<u8> {
    let mut json = Vec::with_capacity(64 + sample.values.len() * 32);
    open(&mut json, sample.at_ms);
    for (name, value) in &sample.values {
        member(&mut json, name, "", *value);
    }
    json.push(b'}');
    json
}

/// The form in which points are written.
#[derive(Debug, Clone, Copy, Default)]
pub struct PointsFormat {
    pub time: TimeFormat,
    /// Adds `_min` and `_max` of each field.
    pub bands: bool,
}

/// The form in which the time of a point is written.
#[derive(Debug, Clone, Copy, Default)]
pub enum TimeFormat {
    /// `"at":"2026-01-02T03:04:05Z"`
    #[default]
    At,
    /// `"ts":1700000000`, in seconds since 1970.
    Seconds,
}

impl PointsFormat {
    /// Returns the number of values of each field in a point.
    pub fn values(self) -> usize {
        if self.bands { 3 } else { 1 }
    }
}

/// Appends points to an array, in ascending order. `open` is the character before the next point: `[` or a comma before
/// the first of them, and a comma afterwards.
pub fn points(json: &mut Vec<u8>, points: &Points, form: PointsFormat, open: &mut u8) {
    for (row, &at_ms) in points.at_ms.iter().enumerate() {
        json.push(std::mem::replace(open, b','));
        match form.time {
            TimeFormat::At => self::open(json, at_ms),
            TimeFormat::Seconds => {
                json.extend_from_slice(b"{\"ts\":");
                json.extend_from_slice(itoa::Buffer::new().format(at_ms.div_euclid(1000)).as_bytes());
            }
        }
        for column in &points.columns {
            let Some(&value) = column.values.get(row).filter(|value| !value.is_nan()) else { continue };
            member(json, &column.name, "", value);
            if form.bands
                && let (Some(&min), Some(&max)) = (column.min.get(row), column.max.get(row))
            {
                member(json, &column.name, "_min", min);
                member(json, &column.name, "_max", max);
            }
        }
        json.push(b'}');
    }
}

/// Returns a time as RFC 3339 in UTC, with a fraction only if it is not a whole second.
pub fn time(at_ms: i64) -> String {
    Timestamp::from_millisecond(at_ms).unwrap_or(Timestamp::MAX).to_string()
}

fn open(json: &mut Vec<u8>, at_ms: i64) {
    json.extend_from_slice(b"{\"at\":\"");
    json.extend_from_slice(time(at_ms).as_bytes());
    json.push(b'"');
}

fn member(json: &mut Vec<u8>, name: &str, suffix: &str, value: f64) {
    for part in [",\"", name, suffix, "\":"] {
        json.extend_from_slice(part.as_bytes());
    }
    number(json, value);
}

/// Appends a number: a whole number as an integer, another in the fewest digits that read back the same, and `null` if
/// it is not finite.
pub fn number(json: &mut Vec<u8>, value: f64) {
    /// Beyond it doubles skip integers, and all digits would claim a precision that the value does not have.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        json.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
    } else if value.is_finite() {
        json.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    } else {
        json.extend_from_slice(b"null");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_store::FieldPoints;
    use proptest::prelude::*;

    #[test]
    fn a_sample_has_its_time_first_and_integers_print_as_integers() {
        let values = vec![("cpu_percent".into(), 12.5), ("memory_used_mb".into(), 900.0)];
        let json = sample(&Sample { at_ms: 1_767_323_045_000, values });
        let text = String::from_utf8(json).unwrap();
        assert_eq!(text, r#"{"at":"2026-01-02T03:04:05Z","cpu_percent":12.5,"memory_used_mb":900}"#);
    }

    #[test]
    fn points_leave_out_gaps_and_have_bands_after_their_field() {
        let column =
            FieldPoints { name: "x".into(), values: vec![1.5, f64::NAN], min: vec![1.0, f64::NAN], max: vec![2.0; 2] };
        let points_of_two = Points { at_ms: vec![0, 1500], columns: vec![column] };
        let text = |form| {
            let (mut json, mut open) = (Vec::new(), b'[');
            points(&mut json, &points_of_two, form, &mut open);
            points(&mut json, &Points::default(), form, &mut open);
            assert_eq!(open, b',');
            String::from_utf8(json).unwrap()
        };
        let at = text(PointsFormat::default());
        assert_eq!(at, r#"[{"at":"1970-01-01T00:00:00Z","x":1.5},{"at":"1970-01-01T00:00:01.5Z"}"#);
        assert_eq!(text(PointsFormat { time: TimeFormat::Seconds, bands: false }), r#"[{"ts":0,"x":1.5},{"ts":1}"#);
        assert!(
            text(PointsFormat { bands: true, ..PointsFormat::default() }).contains(r#""x":1.5,"x_min":1,"x_max":2"#)
        );
    }

    proptest! {
        #[test]
        fn every_number_reads_back_the_same(value in any::<f64>().prop_filter("finite", |value| value.is_finite())) {
            let mut json = Vec::new();
            number(&mut json, value);
            prop_assert_eq!(std::str::from_utf8(&json).unwrap().parse::<f64>().unwrap(), value);
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
        }
    }
}
