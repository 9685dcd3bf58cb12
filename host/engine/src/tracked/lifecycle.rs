//! What became of an instance, as platforms tell it.

use super::{NotTracked, Wanted};
use dropsonde_model::labels::{self, Labels};
use dropsonde_model::names::{RESERVED, is_reserved};
use dropsonde_model::nearest::unknown_key;
use dropsonde_store::InstanceId;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// What became of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Change {
    /// It is tracked, also if it was untracked before.
    #[serde(rename = "instance.created")]
    Created,
    #[serde(rename = "instance.started")]
    Started,
    #[serde(rename = "instance.unsuspended")]
    Unsuspended,
    /// It is paused: no polls, and its history stays as it is.
    #[serde(rename = "instance.stopped")]
    Stopped,
    #[serde(rename = "instance.suspended")]
    Suspended,
    /// It is untracked.
    #[serde(rename = "instance.deleted")]
    Deleted,
}

/// Something that became of an instance. Doing it twice changes nothing more; of an instance that is not there, only its
/// beginning does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lifecycle {
    pub what: Change,
    pub instance: InstanceId,
    /// None: as they are.
    pub labels: Option<Labels>,
}

/// Why what is said of instances is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLifecycle {
    #[error("neither an event nor a list of events: {0}")]
    Body(String),
    /// Counted from 1.
    #[error("event {number} of {count}: {why}")]
    Event { number: usize, count: usize, why: String },
}

/// As it is sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    r#type: Change,
    instance: String,
    labels: Option<Labels>,
    /// Whatever a platform says beside: it means nothing here.
    #[serde(rename = "attributes")]
    _attributes: Option<IgnoredAny>,
}

/// Keys of an event.
const EVENT_KEYS: [&str; 4] = ["type", "instance", "labels", "attributes"];

/// Keys of what `PUT` sends.
const WANTED_KEYS: [&str; 2] = ["labels", "samplers"];

/// Samplers of one instance that `PUT` names: they are noted on disk.
const MOST_SAMPLERS: usize = 64;

/// What `PUT` sends. What is not known here is a mistake.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WrittenWanted {
    labels: Labels,
    samplers: Option<Vec<String>>,
}

impl Lifecycle {
    /// `{"type":"instance.created","instance":"web-1","labels":{}}`, one or a list. All are fine, or none is taken.
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
            return Err("it is no JSON object".to_owned());
        }
        let Written { r#type, instance, labels, .. } = serde_json::from_str(json)
            .map_err(|error| unknown_key(json, &EVENT_KEYS).unwrap_or_else(|| error.to_string()))?;
        let event = Self { what: r#type, instance: instance_id(&instance)?, labels };
        event.check().map_err(|why| why.to_string())?;
        Ok(event)
    }

    /// Programs may have made it as they like.
    pub(crate) fn check(&self) -> Result<(), NotTracked> {
        check(&self.instance, self.labels.as_ref())
    }
}

impl Wanted {
    /// `{"labels":{"workload":"web"},"samplers":["scrape"]}`, or nothing. What is left out is none, and the default ones.
    pub fn parse(id: InstanceId, json: &[u8]) -> Result<Self, String> {
        let written: WrittenWanted = match json.iter().find(|byte| !byte.is_ascii_whitespace()) {
            None => WrittenWanted::default(),
            // A list would do for a struct, too.
            Some(b'{') => serde_json::from_slice(json).map_err(|error| {
                let text = std::str::from_utf8(json).ok();
                text.and_then(|text| unknown_key(text, &WANTED_KEYS)).unwrap_or_else(|| error.to_string())
            })?,
            Some(_) => return Err("it is no JSON object".to_owned()),
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
            return Err(NotTracked::Invalid(format!("samplers: there are more than {MOST_SAMPLERS}")));
        }
        check(&self.id, Some(&self.labels))
    }
}

fn check(id: &InstanceId, labels: Option<&Labels>) -> Result<(), NotTracked> {
    if is_reserved(id.as_str()) {
        return Err(NotTracked::Invalid(format!("{RESERVED} is how the host's own begin")));
    }
    labels.map_or(Ok(()), labels::check).map_err(NotTracked::Invalid)
}

/// What anybody outside may call an instance.
pub fn instance_id(text: &str) -> Result<InstanceId, String> {
    if is_reserved(text) {
        return Err(format!("{RESERVED} is how the host's own begin"));
    }
    InstanceId::new(text).map_err(|why| why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str =
        r#"{"type":"instance.created","instance":"web-1","labels":{"workload":"web"},"attributes":{"at":[1]}}"#;

    #[test]
    fn one_alone_and_a_list_say_the_same() {
        let labels = Labels::from([("workload".to_owned(), "web".to_owned())]);
        let instance = InstanceId::new("web-1").unwrap();
        let one = Lifecycle { what: Change::Created, instance, labels: Some(labels) };
        assert_eq!(Lifecycle::parse(ONE.as_bytes()), Ok(vec![one.clone()]));
        assert_eq!(Lifecycle::parse(format!(" [{ONE},{ONE}]").as_bytes()), Ok(vec![one.clone(), one]));
        assert_eq!(Lifecycle::parse(b"[]"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (wrong, why) in [
            ("{}", "type"),
            (r#"{"type":"instance.exploded","instance":"x"}"#, "instance.exploded"),
            (r#"{"type":"instance.created","instance":"a/b"}"#, "`/`"),
            (r#"{"type":"instance.created","instance":"dropsonde:x"}"#, "the host's own"),
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
    fn what_is_wanted_may_be_nothing_but_not_a_mistake() {
        let parse = |json: &str| Wanted::parse(InstanceId::new("x").unwrap(), json.as_bytes());
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
