//! Events that applications send to observers. The host accepts all events of a request or none, queues them, and hands
//! them over in the order they came.

use crate::quota::{ClientId, ClientShare, Quota, QuotaError, QuotaPermit};
use dropsonde_model::nearest::unknown_key;
use dropsonde_model::time::FURTHEST_MS;
use dropsonde_sandbox::Event;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The most events in one request.
pub const MOST_AT_ONCE: usize = 100_000;

/// The most bytes of events that wait for one observer. One client can use half of them.
pub const MOST_WAITING: usize = 32 << 20;

/// The most events that an observer gets in one call.
const BATCH: usize = 1000;

/// The longest name, subject, attribute name or attribute value, in bytes.
const LONGEST: usize = 256;

const MOST_ATTRIBUTES: usize = 16;

/// The keys of an event in JSON.
const KEYS: [&str; 5] = ["at", "name", "subject", "value", "attributes"];

/// An event as an application writes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonEvent<'a> {
    #[serde(borrow)]
    at: Option<&'a RawValue>,
    name: String,
    #[serde(default)]
    subject: String,
    value: Option<f64>,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

/// The first mistake in a request's events, and its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEvents {
    /// A mistake in one event of a JSON body. `number` counts from 1.
    #[error("event {number} of {count}: {why}")]
    Event { number: usize, count: usize, why: String },
    /// A mistake in one event of a body of lines. `number` and `line` count from 1.
    #[error("event {number} of {count}, on line {line}: {why}")]
    Line { number: usize, count: usize, line: usize, why: String },
    #[error("{0} events in one request; the limit is {MOST_AT_ONCE}")]
    TooMany(usize),
    #[error("the body is neither an event nor a list of events: {0}")]
    Body(String),
}

/// Parses a JSON list of events, or one event. An event without a time gets `now_ms`.
pub fn parse_json(body: &[u8], now_ms: i64) -> Result<Vec<Event>, BadEvents> {
    let is_list = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let malformed = |error: serde_json::Error| BadEvents::Body(error.to_string());
    let all: Vec<&RawValue> = if is_list {
        serde_json::from_slice(body).map_err(malformed)?
    } else {
        vec![serde_json::from_slice(body).map_err(malformed)?]
    };
    let count = all.len();
    // The events take several times as much memory as their text.
    if count > MOST_AT_ONCE {
        return Err(BadEvents::TooMany(count));
    }
    let events = all.into_iter().zip(1..);
    events
        .map(|(raw, number)| event(raw.get(), now_ms).map_err(|why| BadEvents::Event { number, count, why }))
        .collect()
}

/// Parses one event per line; ignores empty lines. An event without a time gets `now_ms`.
pub fn parse_lines(body: &[u8], now_ms: i64) -> Result<Vec<Event>, BadEvents> {
    let text = std::str::from_utf8(body).map_err(|error| BadEvents::Body(error.to_string()))?;
    let lines = || text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    let count = lines().count();
    if count > MOST_AT_ONCE {
        return Err(BadEvents::TooMany(count));
    }
    let bad = |number, line, why| BadEvents::Line { number, count, line, why };
    let events = lines().zip(1..);
    events.map(|((text, line), number)| event(text, now_ms).map_err(|why| bad(number, line, why))).collect()
}

fn event(text: &str, now_ms: i64) -> Result<Event, String> {
    if !text.trim_start().starts_with('{') {
        return Err("it is not a JSON object".to_owned());
    }
    let JsonEvent { at, name, subject, value, attributes } =
        serde_json::from_str(text).map_err(|error| unknown_key(text, &KEYS).unwrap_or_else(|| error.to_string()))?;
    if name.is_empty() {
        return Err("its name is empty".to_owned());
    }
    if attributes.len() > MOST_ATTRIBUTES {
        return Err(format!("it has {} attributes; at most {MOST_ATTRIBUTES} are allowed", attributes.len()));
    }
    let texts = [&name, &subject].into_iter().chain(attributes.keys()).chain(attributes.values());
    if let Some(long) = texts.into_iter().find(|text| text.len() > LONGEST) {
        return Err(format!("it contains a text of {} bytes; at most {LONGEST} are allowed", long.len()));
    }
    let at_ms = match at {
        None => now_ms,
        Some(at) => {
            moment(at.get()).ok_or_else(|| format!("at: {} is neither RFC 3339 nor ms since 1970", at.get()))?
        }
    };
    let at_ms = u64::try_from(at_ms).map_err(|_| "at: the time is before 1970".to_owned())?;
    let value = value.unwrap_or(1.0);
    Ok(Event { at_ms, name, subject, value, attributes: attributes.into_iter().collect() })
}

/// Parses a time: a JSON number is milliseconds since 1970, a string is RFC 3339.
fn moment(json: &str) -> Option<i64> {
    match serde_json::from_str::<String>(json) {
        Ok(text) => text.parse::<jiff::Timestamp>().ok().map(|at| at.as_millisecond()),
        Err(_) => json.parse::<f64>().ok().filter(|ms| ms.abs() <= FURTHEST_MS as f64).map(|ms| ms as i64),
    }
}

/// The queue of events for one observer.
#[derive(Debug, Default)]
pub struct EventQueue {
    waiting: Mutex<VecDeque<QueuedEvents>>,
    /// The bytes of the waiting events, by client.
    bytes: Arc<Quota>,
    came: Notify,
}

/// Events that came in one request, or that were given back.
#[derive(Debug)]
struct QueuedEvents {
    events: VecDeque<Event>,
    /// The client's bytes of the queue, taken until the last event of the batch is handed over. `None` for events that
    /// were given back.
    _bytes: Option<QuotaPermit>,
}

/// Returns the estimated bytes of an event. A small event counts as more than it takes, so that at most
/// [`MOST_AT_ONCE`] events of one client wait.
fn size(event: &Event) -> usize {
    const LEAST: usize = MOST_WAITING / 2 / MOST_AT_ONCE;
    let attributes = event.attributes.iter().map(|(key, value)| key.len() + value.len() + 2 * size_of::<String>());
    let size = size_of::<Event>() + event.name.len() + event.subject.len() + attributes.sum::<usize>();
    size.max(LEAST)
}

impl EventQueue {
    /// Appends all of the events or none. Events that exceed the client's share of the queue are accepted only while no
    /// other event of that client waits.
    pub fn offer(&self, client: ClientId, events: Vec<Event>) -> Result<(), QuotaError> {
        if events.is_empty() {
            return Ok(());
        }
        let share = ClientShare { peer: client, most: MOST_WAITING / 2 };
        let bytes = events.iter().map(size).sum::<usize>().min(share.most);
        let bytes = self.bytes.take_many(bytes, MOST_WAITING, Some(share))?;
        self.lock().push_back(QueuedEvents { events: events.into(), _bytes: Some(bytes) });
        self.came.notify_one();
        Ok(())
    }

    /// Returns the bytes of the waiting events, by client.
    pub(crate) fn bytes(&self) -> &Quota {
        &self.bytes
    }

    /// Waits for events and returns the next ones, as many as one call can take.
    pub(crate) async fn next(&self) -> Vec<Event> {
        loop {
            let events = self.take();
            if !events.is_empty() {
                return events;
            }
            self.came.notified().await;
        }
    }

    /// Puts events that were not handed over back to the front of the queue.
    pub(crate) fn give_back(&self, events: Vec<Event>) {
        self.lock().push_front(QueuedEvents { events: events.into(), _bytes: None });
        self.came.notify_one();
    }

    /// Discards all waiting events, because no observer is left to take them.
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

    fn lock(&self) -> MutexGuard<'_, VecDeque<QueuedEvents>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_a_single_event_and_lines_parse_to_the_same_events() {
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
    fn empty_lists_take_no_room_in_the_queue_and_too_many_events_are_not_parsed() {
        let queue = EventQueue::default();
        for _ in 0..10 {
            queue.offer(ClientId::Unix, Vec::new()).unwrap();
        }
        assert!(queue.lock().is_empty());
        let many = format!("[{}]", vec!["{}"; MOST_AT_ONCE + 1].join(","));
        assert_eq!(parse_json(many.as_bytes(), 0), Err(BadEvents::TooMany(MOST_AT_ONCE + 1)));
        let lines = "x\n".repeat(MOST_AT_ONCE + 1);
        assert_eq!(parse_lines(lines.as_bytes(), 0), Err(BadEvents::TooMany(MOST_AT_ONCE + 1)));
    }

    #[test]
    fn errors_name_the_invalid_event_and_its_mistake() {
        let json = |body: &str| parse_json(body.as_bytes(), 0).unwrap_err().to_string();
        assert!(
            json(r#"[{"name":"x"},{"nam":"x"}]"#).starts_with("event 2 of 2: unknown key `nam`; did you mean `name`?")
        );
        assert!(json(r#"[{"name":"x","at":"soon"}]"#).starts_with("event 1 of 1: at: \"soon\" is neither"));
        assert!(json(r#"[{"name":""}]"#).contains("its name is empty"));
        assert!(json(r#"[["now","x"]]"#).starts_with("event 1 of 1: it is not a JSON object"));
        assert!(json(r#"{"name":"x","at":-5}"#).ends_with("at: the time is before 1970"));
        assert!(json(r#"{"name":"x","at":1e300}"#).contains("is neither"));
        assert!(json("3").starts_with("event 1 of 1: "));
        assert!(json("[").starts_with("the body is neither"));
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(257));
        assert!(json(&long).contains("257 bytes"));
        let lines = parse_lines(b"{\"name\":\"x\"}\n\nnonsense\n", 0).unwrap_err().to_string();
        assert!(lines.starts_with("event 2 of 2, on line 3: "), "{lines}");
    }

    fn client(last: u8) -> ClientId {
        ClientId::Ip([127, 0, 0, last].into())
    }

    fn event(nth: usize) -> Event {
        Event { at_ms: nth as u64, name: "x".to_owned(), subject: String::new(), value: 0.0, attributes: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_hands_events_over_in_the_order_they_came() {
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
    async fn one_client_can_fill_only_half_of_a_queue() {
        let attributes = (0..16).map(|nth| (format!("{nth:0>256}"), "x".repeat(256))).collect();
        let large = vec![Event { attributes, ..event(0) }; 800];
        let queue = EventQueue::default();
        queue.offer(client(1), large.clone()).unwrap();
        queue.offer(client(1), vec![event(1)]).unwrap();
        queue.offer(client(1), large.clone()).unwrap();
        assert_eq!(queue.offer(client(1), large.clone()), Err(QuotaError::OfPeer(MOST_WAITING / 2)));
        queue.offer(client(2), large.clone()).unwrap();
        queue.next().await;
        queue.offer(client(1), large.clone()).unwrap();
        // The events exceed the client's share. None of its events wait, but the queue has too little room left.
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
