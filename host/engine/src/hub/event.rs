//! Events as they are sent: server-sent events, encoded once for all readers.

use super::StreamForm;
use crate::json;
use bytes::Bytes;
use dropsonde_model::Labels;
use dropsonde_store::{InstanceId, Sample};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

/// Tells a browser how long to wait before it connects again.
pub const RETRY: &[u8] = b"retry: 3000\n\n";

/// Tells a reader that a silent stream is still alive.
pub const PING: &[u8] = b": ping\n\n";

/// A published event.
#[derive(Debug)]
pub struct StreamEvent {
    /// The number of the event. Numbers ascend in the order of publishing.
    pub sequence: u64,
    pub of: EventSubject,
    pub what: EventContent,
    /// The event for readers of one instance or workload.
    single: OnceLock<EncodedEvent>,
    /// The event for readers of several instances.
    multiplexed: OnceLock<EncodedEvent>,
    boot: Arc<str>,
}

/// The subject of an event.
#[derive(Debug, Clone)]
pub enum EventSubject {
    Instance {
        id: InstanceId,
        /// Its labels at the time.
        labels: Labels,
        /// The instance was untracked since, so no reader is told of the event any more.
        is_discarded: Arc<AtomicBool>,
    },
    Workload(String),
}

/// The content of an event.
#[derive(Debug)]
pub enum EventContent {
    Usage(Sample),
    Untracked,
}

/// A whole server-sent event, in a chunk of an HTTP/1.1 body.
#[derive(Debug, Clone)]
pub struct EncodedEvent {
    chunk: Bytes,
    /// The position of the event in the chunk.
    from: usize,
}

// === impl StreamEvent ===

impl StreamEvent {
    pub fn new(boot: &Arc<str>, sequence: u64, of: EventSubject, what: EventContent) -> Self {
        Self { sequence, of, what, single: OnceLock::new(), multiplexed: OnceLock::new(), boot: boot.clone() }
    }

    /// Returns the event in a reader's form. The first reader of a form encodes it, all others share the bytes.
    pub fn encoded(&self, form: StreamForm) -> &EncodedEvent {
        match (form, &self.what, &self.of) {
            (StreamForm::Multiplexed, EventContent::Usage(sample), EventSubject::Instance { id, .. }) => {
                self.multiplexed.get_or_init(|| {
                    let mut data = b"{\"instance\":".to_vec();
                    data.extend_from_slice(serde_json::Value::from(id.as_str()).to_string().as_bytes());
                    data.extend_from_slice(b",\"sample\":");
                    data.extend_from_slice(&json::sample(sample));
                    data.push(b'}');
                    encode(self.what.name(), &self.boot, self.sequence, &data)
                })
            }
            _ => self.single.get_or_init(|| {
                let data = match &self.what {
                    EventContent::Usage(sample) => json::sample(sample),
                    EventContent::Untracked => untracked(&self.of),
                };
                encode(self.what.name(), &self.boot, self.sequence, &data)
            }),
        }
    }

    pub(super) fn is_discarded(&self) -> bool {
        matches!(&self.of, EventSubject::Instance { is_discarded, .. } if is_discarded.load(Relaxed))
    }

    /// Returns the approximate size of the event in memory, in bytes.
    pub fn size(&self) -> usize {
        /// Bytes of a name's quotes, a number and a comma.
        const NUMBER: usize = 24;
        /// Bytes of an event without its values.
        const FRAME: usize = 128;
        let values = if let EventContent::Usage(sample) = &self.what { &sample.values[..] } else { &[] };
        let text = FRAME + values.iter().map(|(name, _)| name.len() + NUMBER).sum::<usize>();
        // Both forms count, because readers may make them later.
        size_of::<Self>() + 2 * text + size_of_val(values)
    }
}

fn untracked(of: &EventSubject) -> Vec<u8> {
    let name = match of {
        EventSubject::Instance { id, .. } => id.as_str(),
        EventSubject::Workload(workload) => workload,
    };
    serde_json::json!({ "instance": name }).to_string().into_bytes()
}

fn encode(name: &str, boot: &str, sequence: u64, data: &[u8]) -> EncodedEvent {
    let mut text = Vec::with_capacity(64 + data.len());
    let _ = write!(text, "event: {name}\nid: {boot}-{sequence}\ndata: ");
    text.extend_from_slice(data);
    text.extend_from_slice(b"\n\n");
    EncodedEvent::of(&text)
}

impl EventContent {
    fn name(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::Untracked => "untracked",
        }
    }
}

// === impl EncodedEvent ===

impl EncodedEvent {
    pub fn of(text: &[u8]) -> Self {
        let mut chunk = Vec::with_capacity(text.len() + 10);
        let _ = write!(chunk, "{:x}\r\n", text.len());
        let from = chunk.len();
        chunk.extend_from_slice(text);
        chunk.extend_from_slice(b"\r\n");
        Self { chunk: chunk.into(), from }
    }

    /// Returns the event that tells a reader how many events it lost just before the next one.
    pub fn lagged(lost: u64) -> Self {
        Self::of(format!("event: lagged\ndata: {{\"lost\":{lost}}}\n\n").as_bytes())
    }

    /// Returns the event that tells a reader to query history from a time on, because some of what it missed is no
    /// longer kept.
    pub(super) fn reset(from_ms: i64) -> Self {
        Self::of(format!("event: reset\ndata: {{\"from\":\"{}\"}}\n\n", json::time(from_ms)).as_bytes())
    }

    /// Returns the event in a chunk of an HTTP/1.1 body.
    pub fn chunk(&self) -> &Bytes {
        &self.chunk
    }

    /// Returns the event without the chunk around it.
    pub fn text(&self) -> Bytes {
        self.chunk.slice(self.from..self.chunk.len() - 2)
    }
}
