//! The sampler `probe`: an instance is a URL that is checked.

use dropsonde_guest::http::{Progress, Request};
use dropsonde_guest::log::Troubles;
use dropsonde_guest::{
    Aggregation, Config, Failure, Field, Instance, Need, Reading, Readings, Sampler, Tick, export_sampler,
};
use regex_lite::Regex;
use serde::Deserialize;
use std::collections::BTreeMap;
use targets::{LastRequest, RequestConfig, RequestSettings, Round, Url, Visit, grants};

/// Most bytes of a body that are searched.
const SEARCHED: usize = 1 << 20;

const FIELDS: usize = 5;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ProbeConfig {
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
    /// The statuses of a server that is up.
    status: Option<Vec<u16>>,
    /// A regular expression that the body of a server that is up matches somewhere.
    matches: Option<String>,
    #[serde(flatten)]
    request: RequestConfig,
}

fn get() -> String {
    "GET".to_owned()
}

#[derive(Debug, Default)]
struct Probe {
    targets: BTreeMap<String, Target>,
    troubles: Troubles,
}

#[derive(Debug)]
struct Target {
    config: TargetConfig,
    request: RequestSettings,
    matches: Option<Regex>,
    last: LastRequest,
}

/// What a server answered.
#[derive(Default)]
struct Answer {
    status: Option<u16>,
    /// The beginning of the body, if it is searched.
    body: Option<Vec<u8>>,
}

impl Sampler for Probe {
    fn needs(config: &Config) -> Result<Vec<Need>, Failure> {
        let ProbeConfig { targets } = config.parse()?;
        grants(targets.iter().map(|target| (&*target.id, &*target.url, &*target.method, &target.request)))
    }

    fn init(&mut self, config: &Config) -> Result<(), Failure> {
        for target in config.parse::<ProbeConfig>()?.targets {
            let id = target.id.clone();
            let wrong = |why: String| Failure::invalid(format!("the target {id}: {why}"));
            let target = Target::new(target).map_err(wrong)?;
            if self.targets.insert(id.clone(), target).is_some() {
                return Err(wrong("there are two targets of this id".to_owned()));
            }
        }
        Ok(())
    }

    fn fields(&self) -> Vec<Field> {
        let fields = [
            Field::gauge("up", "Whether the server answered as it should: 1 or 0")
                .aggregation(Aggregation::Min)
                .precision(1.0),
            Field::gauge("status", "Status of the response").aggregation(Aggregation::Max).precision(1.0),
            Field::gauge("first_byte_ms", "Time until the response began")
                .unit("ms")
                .aggregation(Aggregation::Max)
                .precision(0.01),
            Field::gauge("total_ms", "Time until the response was complete")
                .unit("ms")
                .aggregation(Aggregation::Max)
                .precision(0.01),
            Field::gauge("body_matches", "Whether the body has the expected text: 1 or 0")
                .aggregation(Aggregation::Min)
                .precision(1.0),
        ];
        let fields: [Field; FIELDS] = fields;
        fields.into()
    }

    fn discover(&mut self, _: &Tick) -> Result<Vec<Instance>, Failure> {
        let instance = |target: &Target| Instance {
            id: target.config.id.clone(),
            labels: target.config.labels.clone().into_iter().collect(),
        };
        Ok(self.targets.values().map(instance).collect())
    }

    fn sample(&mut self, _: &str) -> Result<Reading, Failure> {
        Err(Failure::unavailable("targets are checked together"))
    }

    fn sample_all(&mut self, tick: &Tick, instances: &[String]) -> Result<Readings, Failure> {
        let mut readings = Readings::empty(instances.len(), FIELDS);
        let mut round = Round::default();
        for (row, id) in instances.iter().enumerate() {
            let Some(Target { config, request, matches, last }) = self.targets.get_mut(id) else {
                readings.failures.push((row as u32, Failure::Gone));
                continue;
            };
            if last.is_due(tick, request.interval) {
                let body = matches.is_some().then(Vec::new);
                let sent = Request::new(&config.method, &config.url).body(config.body.as_bytes());
                round.ask(row, sent, request, Answer { status: None, body });
            }
        }
        for visit in round.go(tick, Answer::take) {
            let Some((id, target)) = instances.get(visit.row).and_then(|id| Some((id, self.targets.get(id)?))) else {
                continue;
            };
            let (values, wrong) = target.judge(&visit);
            if let Some(row) = visit.row(&mut readings, FIELDS) {
                row.copy_from_slice(&values);
            }
            self.troubles.report(&of_target(id), wrong);
        }
        Ok(readings)
    }
}

/// Returns how the log names a target.
fn of_target(id: &str) -> String {
    format!("target {id}")
}

// === impl Target ===

impl Target {
    fn new(config: TargetConfig) -> Result<Self, String> {
        Url::parse(&config.url)?;
        let request = config.request.settings()?;
        let matches = config.matches.as_deref().map(Regex::new).transpose();
        let matches = matches.map_err(|error| format!("`matches` is not a regular expression: {error}"))?;
        Ok(Self { config, request, matches, last: LastRequest::default() })
    }

    /// Returns the row, and why the server is not up.
    fn judge(&self, visit: &Visit<Answer>) -> ([f64; FIELDS], Option<String>) {
        let Answer { status, body } = &visit.found;
        let is_complete = visit.failure.is_none();
        let matches = self.matches.as_ref().zip(body.as_ref()).filter(|_| is_complete);
        let matches = matches.map(|(matches, body)| matches.is_match(&String::from_utf8_lossy(body)));
        let wrong = match (&visit.failure, status) {
            (Some(why), _) => Some(why.clone()),
            (None, Some(status)) if !self.expects(*status) => Some(format!("the server answered with status {status}")),
            (None, _) => (matches == Some(false)).then(|| "the body does not match".to_owned()),
        };
        let row = [
            f64::from(u8::from(wrong.is_none())),
            status.map_or(f64::NAN, f64::from),
            visit.first_byte_ms.unwrap_or(f64::NAN),
            if is_complete { visit.total_ms } else { f64::NAN },
            matches.map_or(f64::NAN, |matches| f64::from(u8::from(matches))),
        ];
        (row, wrong)
    }

    fn expects(&self, status: u16) -> bool {
        match &self.config.status {
            Some(expected) => expected.contains(&status),
            None => (200..400).contains(&status),
        }
    }
}

// === impl Answer ===

impl Answer {
    fn take(&mut self, progress: &Progress<'_>) -> Result<(), String> {
        match (progress, &mut self.body) {
            (Progress::Head(head), _) => self.status = Some(head.status),
            (Progress::Body(piece), Some(body)) => {
                let room = SEARCHED.saturating_sub(body.len());
                body.extend_from_slice(piece.get(..room).unwrap_or(piece));
            }
            _ => {}
        }
        Ok(())
    }
}

export_sampler!(Probe);

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Starts a server that answers each connection with the next response. Returns its origin.
    fn server(responses: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for response in responses {
                let (mut stream, _) = listener.accept().unwrap();
                let (mut request, mut byte) = (Vec::new(), [0]);
                while !request.ends_with(b"\r\n\r\n") {
                    stream.read_exact(&mut byte).unwrap();
                    request.extend(byte);
                }
                stream.write_all(response.as_bytes()).unwrap();
            }
        });
        origin
    }

    fn probe(json: &str) -> Result<Probe, Failure> {
        let mut probe = Probe::default();
        probe.init(&Config::from_json(json))?;
        Ok(probe)
    }

    /// Returns the row of the only target.
    fn check(origin: &str, more: &str) -> Vec<f64> {
        let json = format!(r#"{{"targets": [{{"id": "a", "url": "{origin}/x"{more}}}]}}"#);
        let tick = Tick { at_ms: 0, monotonic_ns: 0, budget_ms: 100, interval_ms: 10_000 };
        probe(&json).unwrap().sample_all(&tick, &["a".to_owned()]).unwrap().values
    }

    #[test]
    fn a_server_is_up_if_status_and_body_are_as_expected() {
        const OK: &str = "HTTP/1.0 200 OK\r\n\r\nall is well";
        const BUSY: &str = "HTTP/1.0 503 No\r\n\r\n";
        const MOVED: &str = "HTTP/1.0 302 Found\r\nlocation: /y\r\n\r\n";
        let origin = server(&[OK, OK, OK, BUSY, MOVED, BUSY]);
        let of = |more: &str| {
            let row = check(&origin, more);
            assert!(row[2] >= 0.0 && row[3] >= row[2], "{row:?}");
            (row[0], row[1], row[4])
        };
        assert_eq!(of(r#", "matches": "is w.ll$""#), (1.0, 200.0, 1.0));
        assert_eq!(of(r#", "matches": "^is well""#), (0.0, 200.0, 0.0));
        assert!(of("").2.is_nan());
        assert_eq!((of("").0, of("").0, of(r#", "status": [503]"#).0), (0.0, 1.0, 1.0));
    }

    #[test]
    fn a_server_that_does_not_answer_is_down_and_has_no_times() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let row = check(&format!("http://{free}"), "");
        assert!(row[0] == 0.0 && row[1..].iter().all(|value| value.is_nan()), "{row:?}");
    }

    #[test]
    fn a_target_with_a_mistake_is_refused_with_the_mistake() {
        for (target, why) in [
            (r#"{"id": "a", "url": "a"}"#, "the target a: \"a\" is not a URL"),
            (r#"{"id": "a", "url": "http://a", "matches": "("}"#, "`matches` is not a regular expression"),
            (r#"{"id": "a", "url": "http://a", "match": "x"}"#, "no key `match`"),
            (r#"{"id": "a", "url": "http://a"}, {"id": "a", "url": "http://b"}"#, "two targets"),
        ] {
            let Err(Failure::Invalid(error)) = probe(&format!(r#"{{"targets": [{target}]}}"#)) else {
                panic!("{target}")
            };
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn a_target_needs_its_method_and_path_and_no_more() {
        let needs = |json: &str| Probe::needs(&Config::from_json(json)).unwrap();
        let head = r#"{"targets": [{"id": "a", "url": "http://127.0.0.1:1/x?y", "method": "HEAD"}]}"#;
        assert_eq!(needs(head), [Need::http("HEAD http://127.0.0.1:1 /x")]);
    }
}
