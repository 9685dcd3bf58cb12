//! Lifecycle events of instances, as platforms send them.

use super::{NotTracked, TrackRequest};
use dropsonde_model::labels::{self, Labels};
use dropsonde_model::names::{RESERVED, is_reserved};
use dropsonde_model::nearest::unknown_key;
use dropsonde_store::InstanceId;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The type of a lifecycle event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum LifecycleChange {
    /// The instance is tracked, also if it was untracked before.
    #[serde(rename = "instance.created")]
    Created,
    #[serde(rename = "instance.started")]
    Started,
    #[serde(rename = "instance.unsuspended")]
    Unsuspended,
    /// The instance is paused: nobody polls it, and its history stays as it is.
    #[serde(rename = "instance.stopped")]
    Stopped,
    #[serde(rename = "instance.suspended")]
    Suspended,
    /// The instance is untracked.
    #[serde(rename = "instance.deleted")]
    Deleted,
}

/// A lifecycle event of an instance. Applying it twice changes nothing more. For an instance that is not there, only an
/// event that begins it changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    pub what: LifecycleChange,
    pub instance: InstanceId,
    /// None: the labels stay as they are.
    pub labels: Option<Labels>,
}

/// The reason why lifecycle events are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLifecycle {
    #[error("neither an event nor a list of events: {0}")]
    Body(String),
    /// `number` counts from 1.
    #[error("event {number} of {count}: {why}")]
    Event { number: usize, count: usize, why: String },
}

/// A lifecycle event as it is sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonLifecycle {
    r#type: LifecycleChange,
    instance: String,
    labels: Option<Labels>,
    /// Anything else that a platform sends. It is ignored.
    #[serde(rename = "attributes")]
    _attributes: Option<IgnoredAny>,
}

/// Keys of an event.
const EVENT_KEYS: [&str; 4] = ["type", "instance", "labels", "attributes"];

/// Keys of the body of `PUT`.
const WANTED_KEYS: [&str; 2] = ["labels", "samplers"];

/// The most samplers of one instance that `PUT` may name, because they are noted on disk.
const MOST_SAMPLERS: usize = 64;

/// The body of `PUT`. An unknown key is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct JsonTrackRequest {
    labels: Labels,
    samplers: Option<Vec<String>>,
}

impl Lifecycle {
    /// Parses `{"type":"instance.created","instance":"web-1","labels":{}}`, or a list of such events. If one of them is
    /// invalid, none is taken.
    pub fn parse(json: &[u8]) -> Result<Vec<Self>, BadLifecycle> {
        let body = |error: serde_json::Error| BadLifecycle::Body(error.to_string());
        let is_list = json.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
        let written: Vec<&serde_json::value::RawValue> =
            if is_list { serde_json::from_slice(json) } else { serde_json::from_slice(json).map(|one| vec![one]) }
                .map_err(body)?;
        let count = written.len();
        let parsed = written.into_iter().zip(1..);
        parsed
            .map(|(one, number)| Self::one(one.get()).map_err(|why| BadLifecycle::Event { number, count, why }))
            .collect()
    }

    fn one(json: &str) -> Result<Self, String> {
        if !json.starts_with('{') {
            return Err("it is not a JSON object".to_owned());
        }
        let JsonLifecycle { r#type, instance, labels, .. } = serde_json::from_str(json)
            .map_err(|error| unknown_key(json, &EVENT_KEYS).unwrap_or_else(|| error.to_string()))?;
        let event = Self { what: r#type, instance: instance_id(&instance)?, labels };
        event.check().map_err(|why| why.to_string())?;
        Ok(event)
    }

    /// Checks the event, because a program may have made it in any way.
    pub(crate) fn check(&self) -> Result<(), NotTracked> {
        check(&self.instance, self.labels.as_ref())
    }
}

impl TrackRequest {
    /// Parses `{"labels":{"workload":"web"},"samplers":["scrape"]}`, or nothing. Without `labels` the request has none;
    /// without `samplers` it means the default samplers.
    pub fn parse(id: InstanceId, json: &[u8]) -> Result<Self, String> {
        let written: JsonTrackRequest = match json.iter().find(|byte| !byte.is_ascii_whitespace()) {
            None => JsonTrackRequest::default(),
            // serde would also take a list for a struct.
            Some(b'{') => serde_json::from_slice(json).map_err(|error| {
                let text = std::str::from_utf8(json).ok();
                text.and_then(|text| unknown_key(text, &WANTED_KEYS)).unwrap_or_else(|| error.to_string())
            })?,
            Some(_) => return Err("it is not a JSON object".to_owned()),
        };
        let labels = written.labels;
        let is_sampler = |name: &&String| *name != "*" && !dropsonde_model::names::is_plugin(name);
        if let Some(wrong) = written.samplers.iter().flatten().find(is_sampler) {
            return Err(format!("samplers: {wrong:?} is neither `*` nor a plugin's name"));
        }
        let wanted = Self { id, labels, samplers: written.samplers };
        wanted.check().map_err(|why| why.to_string())?;
        Ok(wanted)
    }

    pub(crate) fn check(&self) -> Result<(), NotTracked> {
        if self.samplers.as_ref().is_some_and(|samplers| samplers.len() > MOST_SAMPLERS) {
            return Err(NotTracked::Invalid(format!("samplers: at most {MOST_SAMPLERS} are allowed")));
        }
        check(&self.id, Some(&self.labels))
    }
}

fn check(id: &InstanceId, labels: Option<&Labels>) -> Result<(), NotTracked> {
    if is_reserved(id.as_str()) {
        return Err(NotTracked::Invalid(format!("{RESERVED} is reserved for the host; use another id")));
    }
    labels.map_or(Ok(()), labels::check).map_err(NotTracked::Invalid)
}

/// Parses an id that somebody outside the host gives to an instance.
pub fn instance_id(text: &str) -> Result<InstanceId, String> {
    if is_reserved(text) {
        return Err(format!("{RESERVED} is reserved for the host; use another id"));
    }
    InstanceId::new(text).map_err(|why| why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str =
        r#"{"type":"instance.created","instance":"web-1","labels":{"workload":"web"},"attributes":{"at":[1]}}"#;

    #[test]
    fn a_single_lifecycle_event_and_a_list_parse_to_the_same_events() {
        let labels = Labels::from([("workload".to_owned(), "web".to_owned())]);
        let instance = InstanceId::new("web-1").unwrap();
        let one = Lifecycle { what: LifecycleChange::Created, instance, labels: Some(labels) };
        assert_eq!(Lifecycle::parse(ONE.as_bytes()), Ok(vec![one.clone()]));
        assert_eq!(Lifecycle::parse(format!(" [{ONE},{ONE}]").as_bytes()), Ok(vec![one.clone(), one]));
        assert_eq!(Lifecycle::parse(b"[]"), Ok(Vec::new()));
    }

    #[test]
    fn errors_name_the_invalid_lifecycle_event_and_its_mistake() {
        for (wrong, why) in [
            ("{}", "type"),
            (r#"{"type":"instance.exploded","instance":"x"}"#, "instance.exploded"),
            (r#"{"type":"instance.created","instance":"a/b"}"#, "`/`"),
            (r#"{"type":"instance.created","instance":"dropsonde:x"}"#, "reserved for the host"),
            (r#"{"type":"instance.created","instance":"x","labels":{"le":"1"}}"#, "le"),
            (r#"{"type":"instance.created","instance":"x","labels":{"a":1}}"#, "string"),
            (r#"{"type":"instance.created","instanse":"x"}"#, "unknown key `instanse`; did you mean `instance`?"),
            (
                r#"{"type":"instance.created","instance":"x","lables":{}}"#,
                "unknown key `lables`; did you mean `labels`?",
            ),
        ] {
            let error = Lifecycle::parse(format!("[{ONE},{wrong}]").as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("event 2 of 2: ") && error.contains(why), "{wrong}: {error}");
        }
        assert!(matches!(Lifecycle::parse(b"[1"), Err(BadLifecycle::Body(_))));
    }

    #[test]
    fn an_empty_track_request_is_accepted_and_an_invalid_one_is_refused() {
        let parse = |json: &str| TrackRequest::parse(InstanceId::new("x").unwrap(), json.as_bytes());
        assert_eq!(parse(" ").unwrap(), parse("{}").unwrap());
        assert_eq!(parse(r#"{"samplers":["*","a-b"]}"#).unwrap().samplers.unwrap(), ["*", "a-b"]);
        let misspelt = parse(r#"{"sampler":["a"]}"#).unwrap_err();
        assert!(misspelt.starts_with("unknown key `sampler`; did you mean `samplers`?"), "{misspelt}");
        assert!(parse(&format!(r#"{{"samplers":["a"{}]}}"#, r#","a""#.repeat(MOST_SAMPLERS))).is_err());
        for wrong in [r#"{"samplers":["a b"]}"#, r#"{"labels":{"a-b":""}}"#, "[]", "1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
