//! Threads that write streams. A reader costs a few hundred bytes here. An event costs one write, and so do events that
//! come together.
//!
//! On HTTP/1.1 without TLS, a stream's socket leaves the HTTP server once its response head is due, and a writer owns
//! it. The HTTP server carries every other stream: the reader's bytes go into a pipe of a few KiB, and the response
//! body takes them from there. Everything else is the same for both.
//!
//! A published event is kept once for all readers that are behind; each reader only knows its position. So a reader
//! that takes nothing costs nothing while others get events. Once the events that it needs are dropped, it gets the
//! newest sample of each instance when it takes something again. A reader that takes nothing for too long is cut off.
//! Readers that have something to write take turns by client, one write each.
//!
//! # Layout
//!
//! * `writer`: one thread, with its readers, their events and their timers.
//! * `backlog`: the events that are kept for readers that are behind; `fair_queue`: the order of writes.
//! * `reader`: one stream, and its position.

mod backlog;
mod fair_queue;
mod reader;
mod writer;

use dropsonde_engine::health::Vitals;
use dropsonde_engine::hub::{Hub, Inbox, WriterMessage, WriterWaker};
use mio::{Poll, Waker};
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use writer::{StreamWriter, WAKE};

/// The largest number of writers. More would wait for the kernel, not for each other.
const MOST_WRITERS: usize = 4;

/// The timeouts of readers.
#[derive(Debug, Clone, Copy)]
pub struct ReaderTimeouts {
    /// Time without an event after which a reader gets a comment, which shows that the stream is alive.
    pub heartbeat: Duration,
    /// Time after which a reader that takes nothing is cut off.
    pub stalled: Duration,
}

/// The writer threads.
#[derive(Debug)]
pub struct Writers {
    inboxes: Vec<Arc<Inbox>>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts a thread for each processor, at most four. From now on they take the hub's streams.
    pub fn start(hub: &Hub, patience: ReaderTimeouts, vitals: &Arc<Vitals>) -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, usize::from).min(MOST_WRITERS);
        let (mut inboxes, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count {
            let poll = Poll::new()?;
            let waker = Waker::new(poll.registry(), WAKE)?;
            // This fails only if the writer is gone.
            let wake = WriterWaker(Box::new(move || drop(waker.wake())));
            let inbox = Arc::new(Inbox::new(wake));
            let pulse = vitals.pulse("streams");
            let writer = StreamWriter::new(number, hub.clone(), inbox.clone(), poll, patience, pulse);
            inboxes.push(inbox);
            threads.push(thread::Builder::new().name(format!("stream-{number}")).spawn(move || writer.run())?);
        }
        hub.set_writers(inboxes.clone());
        Ok(Self { inboxes, threads })
    }

    /// Lets the threads write what is left, for a second at most, and ends them.
    pub fn stop(mut self) {
        self.tell();
        for thread in std::mem::take(&mut self.threads) {
            if thread.join().is_err() {
                tracing::error!("a stream writer panicked");
            }
        }
    }

    fn tell(&self) {
        self.inboxes.iter().for_each(|inbox| inbox.put(WriterMessage::Stop));
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_engine::hub::{FollowRequest, Outlet, Selection};
    use dropsonde_store::{InstanceId, Sample};
    use std::collections::HashMap;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn a_carried_stream_delivers_all_earlier_events_before_it_ends() {
        let lost = prometheus::IntCounter::new("lost", "Lost.").unwrap();
        let hub = Hub::new(0xb007, 0, 5000, 1, lost.clone());
        let patience = ReaderTimeouts { heartbeat: Duration::from_secs(60), stalled: Duration::from_secs(60) };
        let writers = Writers::start(&hub, patience, &Arc::default()).unwrap();
        let id = InstanceId::new("a").unwrap();
        let (selection, members, unheard) = (Selection::One(id.clone()).into(), Vec::new(), HashMap::new());
        let follow = FollowRequest { selection, seen: None, members, unheard, together: None };
        let (outlet, mut body) = Outlet::body();
        hub.follow(hub.claim(None, None).unwrap(), follow, outlet, b"first\n\n".to_vec());
        for at_ms in 0..2000 {
            hub.publish(&id, &Arc::default(), Sample { at_ms, values: vec![("x".into(), 1.5)] });
        }
        hub.close_all();
        let mut text = Vec::new();
        loop {
            match body.poll_take(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(bytes)) => text.extend_from_slice(&bytes.unwrap()),
                Poll::Ready(None) => break,
                Poll::Pending => thread::yield_now(),
            }
        }
        let text = String::from_utf8(text).unwrap();
        assert_eq!((text.matches("event: usage\n").count(), lost.get()), (2000, 0));
        assert!(text.starts_with("first\n\nevent: usage\nid: b007-1\n"), "{text}");
        writers.stop();
        assert_eq!(hub.open(), 0);
    }
}
