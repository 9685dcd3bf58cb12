//! What applications tell observers: parsed whole or not at all, queued, handed over in the order it came.

use crate::places::{Full, PeerId, Place, Places, Share};
use dropsonde_model::nearest::unknown_key;
use dropsonde_model::time::FURTHEST_MS;
use dropsonde_sandbox::Event;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Events of a request at most.
pub const MOST_AT_ONCE: usize = 100_000;

/// Bytes of events that wait for one observer at most. One client may have half of them.
pub const MOST_WAITING: usize = 32 << 20;

/// Events an observer is handed at a time.
const BATCH: usize = 1000;

/// In bytes, of a name, a subject, an attribute's name or value.
const LONGEST: usize = 256;

const MOST_ATTRIBUTES: usize = 16;

/// Keys of an event.
const KEYS: [&str; 5] = ["at", "name", "subject", "value", "attributes"];

/// As an application writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    #[serde(borrow)]
    at: Option<&'a RawValue>,
    name: String,
    #[serde(default)]
    subject: String,
    value: Option<f64>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

/// What is wrong with a batch, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEvents {
    /// Counted from 1.
    #[error("event {number} of {count}: {why}")]
    Event { number: usize, count: usize, why: String },
    #[error("event {number} of {count}, on line {line}: {why}")]
    Line { number: usize, count: usize, line: usize, why: String },
    #[error("it is neither an event nor a list of events: {0}")]
    Body(String),
}

/// A JSON list of events, or one.
pub fn parse_json(body: &[u8], now_ms: i64) -> Result<Vec<Event>, BadEvents> {
    let is_list = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let malformed = |error: serde_json::Error| BadEvents::Body(error.to_string());
    let all: Vec<&RawValue> = if is_list {
        serde_json::from_slice(body).map_err(malformed)?
    } else {
        vec![serde_json::from_slice(body).map_err(malformed)?]
    };
    let count = all.len();
    let events = all.into_iter().zip(1..);
    events
        .map(|(raw, number)| event(raw.get(), now_ms).map_err(|why| BadEvents::Event { number, count, why }))
        .collect()
}

/// An event a line; empty lines are nothing.
pub fn parse_lines(body: &[u8], now_ms: i64) -> Result<Vec<Event>, BadEvents> {
    let text = std::str::from_utf8(body).map_err(|error| BadEvents::Body(error.to_string()))?;
    let lines = || text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let bad = |number, line, why| BadEvents::Line { number, count: lines().count(), line, why };
    let events = lines().zip(1..);
    events.map(|((text, line), number)| event(text, now_ms).map_err(|why| bad(number, line, why))).collect()
}

fn event(text: &str, now_ms: i64) -> Result<Event, String> {
    if !text.trim_start().starts_with('{') {
        return Err("it is no JSON object".to_owned());
    }
    let Written { at, name, subject, value, attributes } =
        serde_json::from_str(text).map_err(|error| unknown_key(text, &KEYS).unwrap_or_else(|| error.to_string()))?;
    if name.is_empty() {
        return Err("its name is empty".to_owned());
    }
    if attributes.len() > MOST_ATTRIBUTES {
        return Err(format!("it has {} attributes; at most {MOST_ATTRIBUTES} are taken", attributes.len()));
    }
    let texts = [&name, &subject].into_iter().chain(attributes.keys()).chain(attributes.values());
    if let Some(long) = texts.into_iter().find(|text| text.len() > LONGEST) {
        return Err(format!("a text of {} bytes is in it; at most {LONGEST} are taken", long.len()));
    }
    let at_ms = match at {
        None => now_ms,
        Some(at) => {
            moment(at.get()).ok_or_else(|| format!("at: {} is neither RFC 3339 nor ms since 1970", at.get()))?
        }
    };
    let at_ms = u64::try_from(at_ms).map_err(|_| "at: it is before 1970".to_owned())?;
    let value = value.unwrap_or(1.0);
    Ok(Event { at_ms, name, subject, value, attributes: attributes.into_iter().collect() })
}

/// A JSON number is ms since 1970, a string RFC 3339.
fn moment(json: &str) -> Option<i64> {
    match serde_json::from_str::<String>(json) {
        Ok(text) => text.parse::<jiff::Timestamp>().ok().map(|at| at.as_millisecond()),
        Err(_) => json.parse::<f64>().ok().filter(|ms| ms.abs() <= FURTHEST_MS as f64).map(|ms| ms as i64),
    }
}

/// Events that wait for an observer.
#[derive(Debug, Default)]
pub struct EventQueue {
    waiting: Mutex<VecDeque<Batch>>,
    /// Bytes of those, by client.
    bytes: Arc<Places>,
    came: Notify,
}

/// Events that came together.
#[derive(Debug)]
struct Batch {
    events: VecDeque<Event>,
    /// Taken until the last of them is handed over.
    _bytes: Option<Place>,
}

/// The bytes that an event takes, estimated. Small events count as more, so that one client has no more than [`MOST_AT_ONCE`]
/// waiting.
fn size(event: &Event) -> usize {
    const LEAST: usize = MOST_WAITING / 2 / MOST_AT_ONCE;
    let attributes = event.attributes.iter().map(|(key, value)| key.len() + value.len() + 2 * size_of::<String>());
    let size = size_of::<Event>() + event.name.len() + event.subject.len() + attributes.sum::<usize>();
    size.max(LEAST)
}

impl EventQueue {
    /// All of them or none, behind those that came before. More than a client may have of the queue find room where nothing
    /// of that client waits.
    pub fn offer(&self, client: PeerId, events: Vec<Event>) -> Result<(), Full> {
        let share = Share { peer: client, most: MOST_WAITING / 2 };
        let bytes = events.iter().map(size).sum::<usize>().min(share.most);
        let bytes = self.bytes.take_many(bytes, MOST_WAITING, Some(share))?;
        self.lock().push_back(Batch { events: events.into(), _bytes: Some(bytes) });
        self.came.notify_one();
        Ok(())
    }

    /// Bytes that wait, by client.
    pub(crate) fn bytes(&self) -> &Places {
        &self.bytes
    }

    /// The next, as many as are handed over at a time. Waits until there are some.
    pub(crate) async fn next(&self) -> Vec<Event> {
        loop {
            let events = self.take();
            if !events.is_empty() {
                return events;
            }
            self.came.notified().await;
        }
    }

    /// These were not handed over after all: they are the next again.
    pub(crate) fn give_back(&self, events: Vec<Event>) {
        self.lock().push_front(Batch { events: events.into(), _bytes: None });
        self.came.notify_one();
    }

    /// There is nobody to hand them to any more.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn take(&self) -> Vec<Event> {
        let mut waiting = self.lock();
        let mut taken = Vec::new();
        while let Some(batch) = waiting.front_mut().filter(|_| taken.len() < BATCH) {
            let count = batch.events.len().min(BATCH - taken.len());
            taken.extend(batch.events.drain(..count));
            if batch.events.is_empty() {
                waiting.pop_front();
            }
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Batch>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_one_alone_and_lines_say_the_same() {
        let one = r#"{"at":"2026-01-02T03:04:05Z","name":"channel.opened","attributes":{"pattern":"room.*"}}"#;
        let event = Event {
            at_ms: 1_767_323_045_000,
            name: "channel.opened".to_owned(),
            subject: String::new(),
            value: 1.0,
            attributes: vec![("pattern".to_owned(), "room.*".to_owned())],
        };
        assert_eq!(parse_json(one.as_bytes(), 0), Ok(vec![event.clone()]));
        assert_eq!(parse_json(format!(" [{one},{one}]").as_bytes(), 0), Ok(vec![event.clone(), event.clone()]));
        assert_eq!(parse_lines(format!("{one}\n\n{one}\n").as_bytes(), 0), Ok(vec![event.clone(), event]));
        assert_eq!(parse_json(b"[]", 0), Ok(vec![]));
        assert_eq!(parse_json(br#"{"name":"x","at":1500}"#, 0).unwrap()[0].at_ms, 1500);
        assert_eq!(parse_json(br#"{"name":"x"}"#, 7).unwrap()[0].at_ms, 7, "now, when it does not say");
    }

    #[test]
    fn the_one_that_is_wrong_is_named() {
        let json = |body: &str| parse_json(body.as_bytes(), 0).unwrap_err().to_string();
        assert!(
            json(r#"[{"name":"x"},{"nam":"x"}]"#).starts_with("event 2 of 2: unknown key `nam`; did you mean `name`?")
        );
        assert!(json(r#"[{"name":"x","at":"soon"}]"#).starts_with("event 1 of 1: at: \"soon\" is neither"));
        assert!(json(r#"[{"name":""}]"#).contains("its name is empty"));
        assert!(json(r#"[["now","x"]]"#).starts_with("event 1 of 1: it is no JSON object"));
        assert!(json(r#"{"name":"x","at":-5}"#).ends_with("at: it is before 1970"));
        assert!(json(r#"{"name":"x","at":1e300}"#).contains("is neither"));
        assert!(json("3").starts_with("event 1 of 1: "));
        assert!(json("[").starts_with("it is neither"));
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(257));
        assert!(json(&long).contains("257 bytes"));
        let lines = parse_lines(b"{\"name\":\"x\"}\n\nnonsense\n", 0).unwrap_err().to_string();
        assert!(lines.starts_with("event 2 of 2, on line 3: "), "{lines}");
    }

    fn client(last: u8) -> PeerId {
        PeerId::Ip([127, 0, 0, last].into())
    }

    fn event(nth: usize) -> Event {
        Event { at_ms: nth as u64, name: "x".to_owned(), subject: String::new(), value: 0.0, attributes: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_hands_over_in_the_order_it_was_told() {
        let queue = EventQueue::default();
        queue.offer(client(1), (0..1500).map(event).collect()).unwrap();
        queue.offer(client(2), (1500..2500).map(event).collect()).unwrap();
        let first = queue.next().await;
        assert_eq!((first.len(), first[0].at_ms, first[999].at_ms), (BATCH, 0, 999));
        let next = queue.next().await;
        assert_eq!((next.len(), next[0].at_ms, next[999].at_ms), (BATCH, 1000, 1999));
        queue.give_back(next);
        assert_eq!(queue.next().await[0].at_ms, 1000);
        assert_eq!(queue.next().await.len(), 500);
        queue.offer(client(1), vec![event(0)]).unwrap();
        queue.clear();
        queue.offer(client(1), vec![event(7)]).unwrap();
        assert_eq!(queue.next().await[0].at_ms, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_tells_very_much_leaves_half_of_a_queue_to_others() {
        let attributes = (0..16).map(|nth| (format!("{nth:0>256}"), "x".repeat(256))).collect();
        let large = vec![Event { attributes, ..event(0) }; 800];
        let queue = EventQueue::default();
        queue.offer(client(1), large.clone()).unwrap();
        queue.offer(client(1), vec![event(1)]).unwrap();
        queue.offer(client(1), large.clone()).unwrap();
        assert_eq!(queue.offer(client(1), large.clone()), Err(Full::OfPeer(MOST_WAITING / 2)));
        queue.offer(client(2), large.clone()).unwrap();
        queue.next().await;
        queue.offer(client(1), large.clone()).unwrap();
        // More than its share, and nothing of it waits.
        queue.offer(client(3), vec![large[0].clone(); 3200]).unwrap_err();
        while queue.bytes().taken() > 0 {
            queue.next().await;
        }
        queue.offer(client(3), vec![large[0].clone(); 3200]).unwrap();
    }

    proptest! {
        #[test]
        fn nothing_an_application_sends_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_json(&body, 0);
            let _ = parse_lines(&body, 0);
        }
    }
}
