use crate::descriptors;
use crate::memory::default_pool_bytes;
use dropsonde_model::{InvalidValue, Size, Span};
use serde::Deserialize;
use std::time::Duration;

/// `[stream]`: the streams of live readers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamConfig {
    /// Samples of an instance that a slow reader may be behind before it loses some, or that a reader may be away for
    /// without missing any. For readers that are away, the newest 16 MiB of all instances' samples are kept.
    pub watch_buffer: usize,
    /// The silence after which a reader is told that its stream is alive.
    pub heartbeat: Span,
    /// The time after which a reader that takes nothing is cut off.
    pub stalled: Span,
    /// The most streams that may be open.
    pub max_streams: usize,
    /// The most streams of one address (IPv6: one /64). None: 1000; for this machine three quarters of all streams, if
    /// that is more.
    pub max_streams_per_peer: Option<usize>,
    /// The most bytes of samples that may wait for slow readers, counted once for all of them. A reader whose stream
    /// the HTTP server carries has 16 KiB of its own besides. None: an eighth of the memory this process may have, at
    /// least 32 MiB and at most 256 MiB.
    pub max_buffer_bytes: Option<Size>,
}

impl Default for StreamConfig {
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

impl StreamConfig {
    /// Returns the most streams that may be open, for which there are always enough sockets.
    pub fn streams(&self) -> usize {
        self.max_streams.min(descriptors::streams(descriptors::sockets()))
    }

    /// Returns the most bytes that may wait for slow readers. `memory`: the bytes of memory this process may have.
    pub fn buffer_bytes(&self, memory: usize) -> usize {
        self.max_buffer_bytes.map_or_else(|| default_pool_bytes(memory), Size::get)
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
