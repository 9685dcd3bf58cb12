use crate::descriptors;
use crate::memory::of_pool;
use dropsonde_model::{InvalidValue, Size, Span};
use serde::Deserialize;
use std::time::Duration;

/// `[stream]`: live readers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stream {
    /// Samples of an instance that a slow reader may be behind before it loses some, or be away without missing any; the
    /// newest 16 MiB of all instances' are kept for those who are away.
    pub watch_buffer: usize,
    /// Silence after which a reader is told that the stream still is.
    pub heartbeat: Span,
    /// Time after which a reader that takes nothing is cut off.
    pub stalled: Span,
    pub max_streams: usize,
    /// Of one address (IPv6: one /64). None: 1000 of another machine's, of this one's three quarters of all.
    pub max_streams_per_peer: Option<usize>,
    /// Size of samples that may wait for slow readers, once for all of them, beside 16 KiB that each has of its own whose stream
    /// the HTTP server carries. None: an eighth of the memory this process may have, at least 32 MiB and at most 256 MiB.
    pub max_buffer_bytes: Option<Size>,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            watch_buffer: 64,
            heartbeat: Span::from_secs(15),
            stalled: Span::from_secs(30),
            max_streams: 20_000,
            max_streams_per_peer: None,
            max_buffer_bytes: None,
        }
    }
}

impl Stream {
    /// Streams there may be: no more than there are sockets for.
    pub fn streams(&self) -> usize {
        self.max_streams.min(descriptors::streams(descriptors::sockets()))
    }

    /// Size that may wait for slow readers, of those this process may have.
    pub fn buffer_bytes(&self, memory: usize) -> usize {
        self.max_buffer_bytes.map_or_else(|| of_pool(memory), Size::get)
    }

    pub fn check(&self) -> Result<(), InvalidValue> {
        if !(1..=65_536).contains(&self.watch_buffer) {
            return InvalidValue::of("stream.watch_buffer", "must be at least 1 and at most 65536");
        }
        for (key, count) in [
            ("stream.max_streams", self.max_streams),
            ("stream.max_streams_per_peer", self.max_streams_per_peer.unwrap_or(1)),
        ] {
            if !(1..=1_000_000).contains(&count) {
                return InvalidValue::of(key, "must be at least 1 and at most 1000000");
            }
        }
        for (key, span) in [("stream.heartbeat", self.heartbeat), ("stream.stalled", self.stalled)] {
            if !(Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(&span.get()) {
                return InvalidValue::of(key, "must be at least 100ms and at most 1d");
            }
        }
        if self.max_buffer_bytes.is_some_and(|bytes| bytes.get() < 1 << 20) {
            return InvalidValue::of("stream.max_buffer_bytes", "must be at least 1MiB");
        }
        Ok(())
    }
}
