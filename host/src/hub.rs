//! Live fan-out: each sample is encoded once and its bytes shared by everyone who watches the instance.
//!
//! A watcher has a bounded buffer. When it is full the newest samples are lost for this watcher alone, and the next one
//! that fits says how many.

use crate::json;
use bytes::Bytes;
use dropsonde_store::{InstanceId, Sample};
use prometheus::IntCounter;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc::{self, error::TrySendError};

/// Who watches what.
#[derive(Debug)]
pub struct Hub {
    /// Tells ids of this start from those of another.
    boot: String,
    buffer: usize,
    max_watchers: usize,
    watchers: Arc<AtomicUsize>,
    topics: Arc<Mutex<Topics>>,
    /// Counts what slow watchers lose.
    lost: IntCounter,
}

#[derive(Debug, Default)]
struct Topics {
    sequence: u64,
    /// The host is stopping: who comes now only hears that it is over.
    closed: bool,
    by_instance: HashMap<InstanceId, Topic>,
}

#[derive(Debug, Default)]
struct Topic {
    latest: Option<Bytes>,
    watchers: Vec<Watcher>,
}

#[derive(Debug)]
struct Watcher {
    events: mpsc::Sender<Event>,
    lost: u64,
}

/// One sample on its way to a watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// How many this watcher lost just before this one.
    pub lost: u64,
    /// The whole server-sent event: type, id, data.
    pub bytes: Bytes,
}

/// A watcher's end. Dropped, it stops watching.
#[derive(Debug)]
pub struct Watch {
    instance: InstanceId,
    events: mpsc::Receiver<Event>,
    watchers: Arc<AtomicUsize>,
    topics: Arc<Mutex<Topics>>,
}

/// All watchers the configuration allows are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} streams are open, and more are not allowed")]
pub struct TooManyWatchers(pub usize);

// === impl Hub ===

impl Hub {
    /// `buffer`: samples a watcher may be behind.
    pub fn new(boot_ms: i64, buffer: usize, max_watchers: usize, lost: IntCounter) -> Self {
        let boot = format!("{boot_ms:x}");
        Self { boot, buffer: buffer.max(1), max_watchers, watchers: Arc::default(), topics: Arc::default(), lost }
    }

    /// Hands a sample to everyone who watches the instance. Never waits.
    pub fn publish(&self, instance: &InstanceId, sample: &Sample) {
        let data = json::sample(sample);
        let mut topics = self.lock();
        topics.sequence += 1;
        let bytes = Bytes::from(self.encode(topics.sequence, &data));
        let topic = match topics.by_instance.get_mut(instance) {
            Some(topic) => topic,
            None => topics.by_instance.entry(instance.clone()).or_default(),
        };
        topic.watchers.retain_mut(|watcher| watcher.offer(&bytes, &self.lost));
        topic.latest = Some(bytes);
    }

    /// Watches an instance, tracked or not yet. The latest sample comes at once.
    pub fn watch(&self, instance: &InstanceId) -> Result<Watch, TooManyWatchers> {
        let claim = self.watchers.fetch_update(Relaxed, Relaxed, |now| (now < self.max_watchers).then_some(now + 1));
        claim.map_err(TooManyWatchers)?;
        let (sender, events) = mpsc::channel(self.buffer);
        let (instance, watchers, topics) = (instance.clone(), self.watchers.clone(), self.topics.clone());
        let watch = Watch { instance, events, watchers, topics };
        let mut watcher = Watcher { events: sender, lost: 0 };
        let mut topics = self.lock();
        if topics.closed {
            drop(topics);
            return Ok(watch);
        }
        let topic = topics.by_instance.entry(watch.instance.clone()).or_default();
        if let Some(latest) = &topic.latest {
            watcher.offer(latest, &self.lost);
        }
        topic.watchers.push(watcher);
        Ok(watch)
    }

    /// Forgets an instance and ends its streams.
    pub fn close(&self, instance: &InstanceId) {
        self.lock().by_instance.remove(instance);
    }

    /// Ends all streams.
    pub fn close_all(&self) {
        let mut topics = self.lock();
        topics.closed = true;
        topics.by_instance.clear();
    }

    /// How many streams are open.
    pub fn watchers(&self) -> usize {
        self.watchers.load(Relaxed)
    }

    fn encode(&self, sequence: u64, data: &[u8]) -> Vec<u8> {
        let head = format!("event: usage\nid: {}-{sequence}\ndata: ", self.boot);
        [head.as_bytes(), data, b"\n\n"].concat()
    }

    fn lock(&self) -> MutexGuard<'_, Topics> {
        lock(&self.topics)
    }
}

fn lock(topics: &Mutex<Topics>) -> MutexGuard<'_, Topics> {
    topics.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Watcher ===

impl Watcher {
    /// False when the other end is gone.
    fn offer(&mut self, bytes: &Bytes, lost: &IntCounter) -> bool {
        match self.events.try_send(Event { lost: self.lost, bytes: bytes.clone() }) {
            Ok(()) => self.lost = 0,
            Err(TrySendError::Full(_)) => {
                self.lost += 1;
                lost.inc();
            }
            Err(TrySendError::Closed(_)) => return false,
        }
        true
    }
}

// === impl Watch ===

impl Watch {
    /// The next event; none when the stream is over.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    pub(crate) fn poll_next(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Option<Event>> {
        self.events.poll_recv(context)
    }
}

impl Drop for Watch {
    /// Also forgets a topic that nobody watches and nothing was ever published to: whoever asks for made-up instances
    /// must not leave anything behind.
    fn drop(&mut self) {
        self.events.close();
        let mut topics = lock(&self.topics);
        // Where samples come, the next one finds out who is gone.
        if let Some(topic) = topics.by_instance.get_mut(&self.instance).filter(|topic| topic.latest.is_none()) {
            topic.watchers.retain(|watcher| !watcher.events.is_closed());
            if topic.watchers.is_empty() {
                topics.by_instance.remove(&self.instance);
            }
        }
        self.watchers.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> IntCounter {
        IntCounter::new("lost", "Lost.").unwrap()
    }

    fn hub() -> (Hub, InstanceId) {
        (Hub::new(0xb007, 2, 3, lost()), InstanceId::new("host").unwrap())
    }

    fn sample(at_ms: i64) -> Sample {
        Sample { at_ms, values: vec![("x".into(), 1.5)] }
    }

    fn text(event: &Event) -> &str {
        std::str::from_utf8(&event.bytes).unwrap()
    }

    #[tokio::test]
    async fn the_latest_sample_comes_first_and_ids_ascend() {
        let (hub, host) = hub();
        hub.publish(&host, &sample(0));
        let mut watch = hub.watch(&host).unwrap();
        hub.publish(&host, &sample(1000));
        let first = watch.next().await.unwrap();
        assert_eq!(text(&first), "event: usage\nid: b007-1\ndata: {\"at\":\"1970-01-01T00:00:00Z\",\"x\":1.5}\n\n");
        assert!(text(&watch.next().await.unwrap()).contains("id: b007-2\n"));
    }

    #[tokio::test]
    async fn a_slow_watcher_loses_the_newest_is_told_how_many_and_costs_others_nothing() {
        let (hub, host) = hub();
        let (mut slow, mut quick) = (hub.watch(&host).unwrap(), hub.watch(&host).unwrap());
        for at in 0..5 {
            hub.publish(&host, &sample(at));
            assert_eq!(quick.next().await.unwrap().lost, 0);
        }
        assert!(text(&slow.next().await.unwrap()).contains("id: b007-1\n"));
        assert!(text(&slow.next().await.unwrap()).contains("id: b007-2\n"));
        hub.publish(&host, &sample(9));
        let after = slow.next().await.unwrap();
        assert_eq!((after.lost, text(&after).contains("id: b007-6\n")), (3, true));
    }

    #[tokio::test]
    async fn a_watch_may_begin_before_the_instance_and_ends_with_it() {
        let (hub, host) = hub();
        let mut watch = hub.watch(&host).unwrap();
        hub.publish(&host, &sample(0));
        assert!(watch.next().await.is_some());
        hub.close(&host);
        assert_eq!(watch.next().await, None);
    }

    #[tokio::test]
    async fn no_more_watchers_than_allowed_and_a_place_is_free_again_when_one_leaves() {
        let (hub, host) = hub();
        let mut watches: Vec<_> = (0..3).map(|_| hub.watch(&host).unwrap()).collect();
        assert_eq!(hub.watch(&host).unwrap_err(), TooManyWatchers(3));
        watches.pop();
        assert!(hub.watch(&host).is_ok());
        drop(watches);
        assert!(hub.lock().by_instance.is_empty(), "nothing is left of instances that never were");
    }
}
