//! The sampler `httpjson`: an instance is a URL that answers with JSON, and its fields are numbers in it.

use dropsonde_guest::http::{Progress, Request};
use dropsonde_guest::log::Troubles;
use dropsonde_guest::{
    Aggregation, Config, Failure, Field, Instance, Need, Reading, Readings, Sampler, Tick, export_sampler,
};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use targets::{LastRequest, RequestConfig, RequestSettings, Round, Url, Visit, grants};

/// Most bytes of a response.
const LARGEST: usize = 1 << 20;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct JsonConfig {
    targets: Vec<TargetConfig>,
}

#[derive(Debug, Deserialize)]
struct TargetConfig {
    id: String,
    url: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default = "get")]
    method: String,
    /// The body of the request.
    #[serde(default)]
    body: String,
    fields: BTreeMap<String, FieldConfig>,
    #[serde(flatten)]
    request: RequestConfig,
}

fn get() -> String {
    "GET".to_owned()
}

/// Where a field is in the JSON, and what it means.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldConfig {
    /// A JSON Pointer (RFC 6901): `/stats/queue/0/length`.
    pointer: String,
    #[serde(default)]
    kind: KindName,
    /// The name of a counter's running total. None: the field's name with `_total` in place of `_per_sec`.
    total: Option<String>,
    /// A factor for the value.
    scale: Option<f64>,
    #[serde(default)]
    unit: String,
    help: Option<String>,
    #[serde(default)]
    precision: f64,
    aggregation: Option<Aggregation>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindName {
    #[default]
    Gauge,
    Counter,
}

#[derive(Debug, Default)]
struct HttpJson {
    targets: BTreeMap<String, Target>,
    fields: Vec<Field>,
    /// The position of each field.
    positions: HashMap<String, usize>,
    troubles: Troubles,
}

#[derive(Debug)]
struct Target {
    config: TargetConfig,
    request: RequestSettings,
    last: LastRequest,
}

impl Sampler for HttpJson {
    fn needs(config: &Config) -> Result<Vec<Need>, Failure> {
        let JsonConfig { targets } = config.parse()?;
        grants(targets.iter().map(|target| (&*target.id, &*target.url, &*target.method, &target.request)))
    }

    fn init(&mut self, config: &Config) -> Result<(), Failure> {
        self.fields = vec![
            Field::gauge("up", "Whether the last request succeeded: 1 or 0")
                .aggregation(Aggregation::Min)
                .precision(1.0),
            Field::gauge("total_ms", "Time until the response was complete")
                .unit("ms")
                .aggregation(Aggregation::Max)
                .precision(0.01),
        ];
        for config in config.parse::<JsonConfig>()?.targets {
            let id = config.id.clone();
            let wrong = |why: String| Failure::invalid(format!("the target {id}: {why}"));
            Url::parse(&config.url).map_err(wrong)?;
            let request = config.request.settings().map_err(wrong)?;
            for (name, field) in &config.fields {
                self.add_field(name, field).map_err(wrong)?;
            }
            let target = Target { config, request, last: LastRequest::default() };
            if self.targets.insert(id.clone(), target).is_some() {
                return Err(wrong("there are two targets of this id".to_owned()));
            }
        }
        self.positions = self.fields.iter().map(|field| field.name.clone()).zip(0..).collect();
        Ok(())
    }

    fn fields(&self) -> Vec<Field> {
        self.fields.clone()
    }

    fn discover(&mut self, _: &Tick) -> Result<Vec<Instance>, Failure> {
        let instance = |target: &Target| Instance {
            id: target.config.id.clone(),
            labels: target.config.labels.clone().into_iter().collect(),
        };
        Ok(self.targets.values().map(instance).collect())
    }

    fn sample(&mut self, _: &str) -> Result<Reading, Failure> {
        Err(Failure::unavailable("targets are asked together"))
    }

    fn sample_all(&mut self, tick: &Tick, instances: &[String]) -> Result<Readings, Failure> {
        let mut readings = Readings::empty(instances.len(), self.fields.len());
        let mut round = Round::default();
        for (row, id) in instances.iter().enumerate() {
            let Some(Target { config, request, last }) = self.targets.get_mut(id) else {
                readings.failures.push((row as u32, Failure::Gone));
                continue;
            };
            if last.is_due(tick, request.interval) {
                let sent = Request::new(&config.method, &config.url).body(config.body.as_bytes());
                round.ask(row, sent.header("accept", "application/json"), request, Vec::new());
            }
        }
        for visit in round.go(tick, take) {
            if let Some(id) = instances.get(visit.row) {
                self.finish(id, visit, &mut readings);
            }
        }
        Ok(readings)
    }
}

impl HttpJson {
    fn add_field(&mut self, name: &str, config: &FieldConfig) -> Result<(), String> {
        if !config.pointer.is_empty() && !config.pointer.starts_with('/') {
            return Err(format!("the field {name}: {:?} is not a JSON Pointer such as \"/a/b\"", config.pointer));
        }
        let field = config.field(name);
        match self.fields.iter().find(|other| other.name == field.name) {
            None => self.fields.push(field),
            Some(other) if (&other.kind, &other.unit) == (&field.kind, &field.unit) => {}
            Some(_) => return Err(format!("the field {name} has two kinds or units; give one of them another name")),
        }
        Ok(())
    }

    fn finish(&mut self, id: &str, visit: Visit<Vec<u8>>, readings: &mut Readings) {
        let (Some(target), Some(row)) = (self.targets.get(id), visit.row(readings, self.fields.len())) else { return };
        let answer = match visit.failure {
            Some(why) => Err(why),
            None => serde_json::from_slice::<Value>(&visit.found)
                .map_err(|error| format!("the answer is not JSON: {error}")),
        };
        if let [up, total, ..] = row {
            *up = f64::from(u8::from(answer.is_ok()));
            *total = visit.total_ms;
        }
        let mut missing = Vec::new();
        if let Ok(answer) = &answer {
            for (name, field) in &target.config.fields {
                let value = answer.pointer(&field.pointer).and_then(number);
                let place = self.positions.get(name).and_then(|position| row.get_mut(*position));
                match (value, place) {
                    (Some(value), Some(place)) => *place = field.scaled(value),
                    _ => missing.push(field.pointer.as_str()),
                }
            }
        }
        let wrong = answer
            .err()
            .or_else(|| (!missing.is_empty()).then(|| format!("the answer has no number at {}", missing.join(", "))));
        self.troubles.report(&format!("target {id}"), wrong);
    }
}

fn take(body: &mut Vec<u8>, progress: &Progress<'_>) -> Result<(), String> {
    match progress {
        Progress::Head(head) if !(200..300).contains(&head.status) => {
            Err(format!("the server answered with status {}", head.status))
        }
        Progress::Body(piece) if body.len() + piece.len() > LARGEST => {
            Err(format!("the answer is larger than {LARGEST} bytes"))
        }
        Progress::Body(piece) => {
            body.extend_from_slice(piece);
            Ok(())
        }
        Progress::Sent | Progress::Head(_) | Progress::End(_) => Ok(()),
    }
}

/// Returns the number that a value stands for: a number, a number as text, or a boolean.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

// === impl FieldConfig ===

impl FieldConfig {
    fn field(&self, name: &str) -> Field {
        let help = self.help.clone().unwrap_or_else(|| format!("The number at {}", self.pointer));
        let field = match self.kind {
            KindName::Gauge => Field::gauge(name, help),
            KindName::Counter => {
                let stem = name.strip_suffix("_per_sec").unwrap_or(name);
                let total = self.total.clone().unwrap_or_else(|| format!("{stem}_total"));
                Field::rate(name, help, total).scale(self.scale.unwrap_or(1.0))
            }
        };
        field.unit(&self.unit).aggregation(self.aggregation.unwrap_or(Aggregation::Mean)).precision(self.precision)
    }

    /// The host scales the rate of a counter.
    fn scaled(&self, value: f64) -> f64 {
        match self.kind {
            KindName::Gauge => value * self.scale.unwrap_or(1.0),
            KindName::Counter => value,
        }
    }
}

export_sampler!(HttpJson);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Starts a server that answers once. Returns its origin.
    fn server(response: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (mut request, mut byte) = (Vec::new(), [0]);
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream.write_all(response.as_bytes()).unwrap();
        });
        origin
    }

    fn plugin(json: &str) -> Result<HttpJson, Failure> {
        let mut plugin = HttpJson::default();
        plugin.init(&Config::from_json(json))?;
        Ok(plugin)
    }

    /// Returns the values of the only target by name.
    fn read(response: &'static str, fields: &str) -> BTreeMap<String, f64> {
        let origin = server(response);
        let json = format!(r#"{{"targets": [{{"id": "a", "url": "{origin}/x", "fields": {fields}}}]}}"#);
        let tick = Tick { at_ms: 0, monotonic_ns: 0, budget_ms: 100, interval_ms: 10_000 };
        let mut plugin = plugin(&json).unwrap();
        let values = plugin.sample_all(&tick, &["a".to_owned()]).unwrap().values;
        let named = plugin.fields.iter().map(|field| field.name.clone()).zip(values);
        named.filter(|(_, value)| !value.is_nan()).collect()
    }

    #[test]
    fn fields_are_numbers_texts_and_booleans_at_their_pointers() {
        let values = read(
            "HTTP/1.0 200 OK\r\n\r\n{\"a\": {\"b\": [1, 2.5]}, \"t\": \"7\", \"ok\": true, \"x/y\": 3, \"n\": null}",
            r#"{"b": {"pointer": "/a/b/1", "scale": 2}, "t_per_sec": {"pointer": "/t", "kind": "counter", "scale": 8},
                "ok": {"pointer": "/ok"}, "slash": {"pointer": "/x~1y"}, "none": {"pointer": "/n"}, "gone": {"pointer": "/z"}}"#,
        );
        let names: Vec<&str> = values.keys().map(String::as_str).collect();
        assert_eq!(names, ["b", "ok", "slash", "t_per_sec", "total_ms", "up"]);
        let of = |name: &str| values[name];
        assert_eq!([of("b"), of("ok"), of("slash"), of("t_per_sec"), of("up")], [5.0, 1.0, 3.0, 7.0, 1.0]);
    }

    #[test]
    fn an_answer_that_is_not_json_or_not_ok_is_down() {
        for response in ["HTTP/1.0 200 OK\r\n\r\n<html>", "HTTP/1.0 500 No\r\n\r\n{\"a\": 1}"] {
            let values = read(response, r#"{"a": {"pointer": "/a"}}"#);
            assert_eq!(values["up"], 0.0);
            assert!(!values.contains_key("a"));
        }
    }

    #[test]
    fn a_target_with_a_mistake_is_refused_with_the_mistake() {
        for (target, why) in [
            (r#"{"id": "a", "url": "http://a", "fields": {"x": {"pointer": "a"}}}"#, "not a JSON Pointer"),
            (r#"{"id": "a", "url": "http://a", "fields": {}, "feilds": 1}"#, "no key `feilds`"),
            (
                r#"{"id": "a", "url": "http://a", "fields": {"x": {"pointer": "/a"}}},
                   {"id": "b", "url": "http://a", "fields": {"x": {"pointer": "/a", "kind": "counter"}}}"#,
                "the field x has two kinds",
            ),
        ] {
            let Err(Failure::Invalid(error)) = plugin(&format!(r#"{{"targets": [{target}]}}"#)) else {
                panic!("{target}")
            };
            assert!(error.contains(why), "{error}");
        }
    }
}
