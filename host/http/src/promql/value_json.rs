use dropsonde_model::Labels;
use dropsonde_promql::{Points, Value, number};
use std::io::Write as _;

/// Points that are written at a time.
const POINTS_AT_ONCE: usize = 4096;

/// Writes the answer to a query piece by piece.
pub(super) struct Writer {
    rest: Rest,
    open: u8,
    /// The JSON behind the result: statistics, warnings and infos.
    end: Vec<u8>,
    has_begun: bool,
}

/// The series that are not yet written.
enum Rest {
    Whole(Value),
    Vector(i64, std::vec::IntoIter<(Labels, f64)>),
    /// The series that is being written is the first, with the number of its points that are written.
    Matrix(std::vec::IntoIter<Points>, Option<(Points, usize)>),
}

impl Writer {
    pub(super) fn new(
        value: Value,
        stats: Option<serde_json::Value>,
        warnings: Vec<String>,
        infos: Vec<String>,
    ) -> Self {
        let mut end = Vec::new();
        if let Some(stats) = stats {
            let _ = write!(end, ",\"stats\":{stats}");
        }
        end.push(b'}');
        for (name, texts) in [("warnings", warnings), ("infos", infos)] {
            if !texts.is_empty() {
                let _ = write!(end, ",\"{name}\":");
                end.extend(serde_json::to_vec(&texts).unwrap_or_default());
            }
        }
        end.push(b'}');
        let rest = match value {
            Value::Vector(at_ms, series) => Rest::Vector(at_ms, series.into_iter()),
            Value::Matrix(series) => Rest::Matrix(series.into_iter(), None),
            whole => Rest::Whole(whole),
        };
        Self { rest, open: b'[', end, has_begun: false }
    }

    /// Writes a part. Returns whether there is more.
    pub(super) fn write(&mut self, json: &mut Vec<u8>) -> bool {
        if !self.has_begun {
            self.has_begun = true;
            let kind = match &self.rest {
                Rest::Vector(..) => "vector",
                Rest::Matrix(..) => "matrix",
                Rest::Whole(Value::String(..)) => "string",
                Rest::Whole(_) => "scalar",
            };
            let _ = write!(json, "{{\"status\":\"success\",\"data\":{{\"resultType\":\"{kind}\",\"result\":");
        }
        let has_more = match &mut self.rest {
            Rest::Whole(value) => {
                whole(json, value);
                false
            }
            Rest::Vector(at_ms, series) => {
                for (labels, value) in series.by_ref().take(POINTS_AT_ONCE) {
                    json.push(std::mem::replace(&mut self.open, b','));
                    json.extend_from_slice(b"{\"metric\":");
                    metric(json, &labels);
                    json.extend_from_slice(b",\"value\":");
                    point(json, *at_ms, value);
                    json.push(b'}');
                }
                series.len() > 0
            }
            Rest::Matrix(series, current) => {
                let (points, written) = match current.take() {
                    Some(current) => current,
                    None => match series.next() {
                        Some(points) => {
                            json.push(std::mem::replace(&mut self.open, b','));
                            json.extend_from_slice(b"{\"metric\":");
                            metric(json, &points.0);
                            json.extend_from_slice(b",\"values\":[");
                            (points, 0)
                        }
                        None => return self.finish(json),
                    },
                };
                let part = points.1.iter().skip(written).take(POINTS_AT_ONCE);
                for (nth, (at_ms, value)) in part.enumerate() {
                    if written + nth > 0 {
                        json.push(b',');
                    }
                    point(json, *at_ms, *value);
                }
                let written = written + POINTS_AT_ONCE;
                if written < points.1.len() {
                    *current = Some((points, written));
                } else {
                    json.extend_from_slice(b"]}");
                }
                true
            }
        };
        has_more || self.finish(json)
    }

    fn finish(&mut self, json: &mut Vec<u8>) -> bool {
        if !matches!(self.rest, Rest::Whole(_)) {
            if self.open == b'[' {
                json.push(b'[');
            }
            json.push(b']');
        }
        json.append(&mut self.end);
        false
    }
}

fn whole(json: &mut Vec<u8>, value: &Value) {
    // Here a time has only the digits that it needs.
    let time = |at_ms: i64| number::plain(at_ms as f64 / 1000.0);
    match value {
        Value::Scalar(at_ms, value) => {
            let _ = write!(json, "[{},\"{}\"]", time(*at_ms), number::plain(*value));
        }
        Value::String(at_ms, text) => {
            let _ = write!(json, "[{},", time(*at_ms));
            json.extend(serde_json::to_vec(text).unwrap_or_default());
            json.push(b']');
        }
        Value::Vector(..) | Value::Matrix(_) => {}
    }
}

fn metric(json: &mut Vec<u8>, labels: &Labels) {
    json.extend(serde_json::to_vec(labels).unwrap_or_default());
}

/// Writes a point: its time in seconds, with three digits behind the point or none, and its value as a text.
fn point(json: &mut Vec<u8>, at_ms: i64, value: f64) {
    json.extend_from_slice(if at_ms < 0 { b"[-" } else { b"[" });
    let (seconds, rest) = (at_ms.unsigned_abs() / 1000, at_ms.unsigned_abs() % 1000);
    json.extend_from_slice(itoa::Buffer::new().format(seconds).as_bytes());
    if rest != 0 {
        let _ = write!(json, ".{rest:03}");
    }
    json.extend_from_slice(b",\"");
    number::write_sample(json, value);
    json.extend_from_slice(b"\"]");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: Value) -> String {
        let mut writer = Writer::new(value, None, Vec::new(), vec!["a \"remark\"".to_owned()]);
        let mut json = Vec::new();
        while writer.write(&mut json) {}
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn values_are_written_as_prometheus_writes_them() {
        let labels = Labels::from([("__name__", "x"), ("a", "\"<é>")]);
        let infos = r#""infos":["a \"remark\""]"#;
        for (value, data) in [
            (Value::Scalar(1_500, 1e-7), r#"{"resultType":"scalar","result":[1.5,"0.0000001"]}"#),
            (Value::String(1_000, "a\"b".to_owned()), r#"{"resultType":"string","result":[1,"a\"b"]}"#),
            (
                Value::Vector(1_500, vec![(labels.clone(), 1e-7)]),
                r#"{"resultType":"vector","result":[{"metric":{"__name__":"x","a":"\"<é>"},"value":[1.500,"1e-07"]}]}"#,
            ),
            (Value::Vector(1_500, Vec::new()), r#"{"resultType":"vector","result":[]}"#),
            (
                Value::Matrix(vec![(Labels::new(), vec![(-500, f64::NAN), (1_000, f64::NEG_INFINITY)])]),
                r#"{"resultType":"matrix","result":[{"metric":{},"values":[[-0.500,"NaN"],[1,"-Inf"]]}]}"#,
            ),
            (Value::Matrix(Vec::new()), r#"{"resultType":"matrix","result":[]}"#),
        ] {
            assert_eq!(written(value), format!(r#"{{"status":"success","data":{data},{infos}}}"#));
        }
    }

    #[test]
    fn a_long_answer_is_written_in_parts() {
        let points: Vec<(i64, f64)> = (0..10_000).map(|nth| (nth * 1000, nth as f64)).collect();
        let json = written(Value::Matrix(vec![(Labels::new(), points.clone()), (Labels::from([("a", "b")]), points)]));
        let answer: serde_json::Value = serde_json::from_str(&json).unwrap();
        for series in answer["data"]["result"].as_array().unwrap() {
            assert_eq!(series["values"].as_array().unwrap().len(), 10_000);
            assert_eq!(series["values"][9_999], serde_json::json!([9999, "9999"]));
        }
    }
}
