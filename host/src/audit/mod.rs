//! Who changed what, and when, and what came of it: a line of JSON each, in the data directory.
//!
//! Lines wait for a thread that writes them, so that nobody waits for a disk. What there is no room for is counted.
//!
//! # Layout
//!
//! * `entry`: what a line says; `file`: where lines go.

mod entry;
mod file;

pub use entry::{Action, By, Caller, Entry, PluginChange, Request, What};

use crate::json;
use file::Appended;
use prometheus::IntCounterVec;
use serde::Serialize;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

/// Lines that may wait: some MiB at most.
const MOST_WAITING: usize = 4096;

/// Bytes of one write, about.
const AT_ONCE: usize = 64 << 10;

/// Refusals of strangers that are written at once, and one a second after that: they must not push out what others did.
const STRANGERS: f64 = 200.0;

/// The log; with nothing to keep it in, entries go to the host's own log alone.
#[derive(Debug)]
pub struct Audit {
    writer: Option<Writer>,
    strangers: Mutex<Strangers>,
    dropped: IntCounterVec,
}

#[derive(Debug)]
struct Writer {
    lines: SyncSender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Message {
    Line(Vec<u8>),
    Stop,
}

/// How many more refusals of theirs are written.
#[derive(Debug)]
struct Strangers {
    left: f64,
    at: Instant,
}

// === impl Audit ===

impl Audit {
    /// `dropped` counts lines that are not written, by `reason`.
    pub fn open(data: Option<&Path>, dropped: IntCounterVec) -> io::Result<Self> {
        let start = |data: &Path| {
            let file = Appended::open(data)?;
            let (lines, waiting) = sync_channel(MOST_WAITING);
            let failed = dropped.clone();
            let thread = thread::Builder::new().name("audit".to_owned());
            let thread = thread.spawn(move || write_all(file, &waiting, &failed))?;
            Ok::<_, io::Error>(Writer { lines, thread: Mutex::new(Some(thread)) })
        };
        let writer = data.map(start).transpose()?;
        let strangers = Mutex::new(Strangers { left: STRANGERS, at: Instant::now() });
        Ok(Self { writer, strangers, dropped })
    }

    /// Never waits.
    pub fn write(&self, now_ms: i64, entry: &Entry) {
        entry.log();
        let Some(writer) = &self.writer else { return };
        if entry.is_of_stranger() && !self.lock().may_write(Instant::now()) {
            return self.drop_for("strangers");
        }
        #[derive(Serialize)]
        struct Line<'a> {
            at: String,
            #[serde(flatten)]
            entry: &'a Entry,
        }
        let Ok(mut line) = serde_json::to_vec(&Line { at: json::time(now_ms), entry }) else { return };
        line.push(b'\n');
        match writer.lines.try_send(Message::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.drop_for("full"),
            Err(TrySendError::Disconnected(_)) => self.drop_for("closed"),
        }
    }

    /// Waits until all is written that was said before.
    pub fn close(&self) {
        let Some(writer) = &self.writer else { return };
        let thread = writer.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = writer.lines.send(Message::Stop);
            let _ = thread.join();
        }
    }

    fn drop_for(&self, reason: &str) {
        self.dropped.with_label_values(&[reason]).inc();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Strangers> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.close();
    }
}

impl Strangers {
    fn may_write(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left, self.at) = ((self.left + since).min(STRANGERS), now);
        let may = self.left >= 1.0;
        self.left -= f64::from(u8::from(may));
        may
    }
}

/// Those that wait together are written together.
fn write_all(mut file: Appended, waiting: &Receiver<Message>, dropped: &IntCounterVec) {
    let mut is_over = false;
    while !is_over {
        let (mut bytes, mut count) = (Vec::new(), 0);
        let mut next = waiting.recv().ok();
        loop {
            match next {
                Some(Message::Line(line)) => {
                    bytes.extend_from_slice(&line);
                    count += 1;
                }
                Some(Message::Stop) => is_over = true,
                None => is_over |= count == 0,
            }
            if is_over || bytes.len() >= AT_ONCE {
                break;
            }
            next = waiting.try_recv().ok();
            if next.is_none() {
                break;
            }
        }
        if let Err(error) = file.append(&bytes) {
            tracing::error!(%error, "cannot write the audit log");
            dropped.with_label_values(&["io"]).inc_by(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::time::Duration;

    fn change(plugin: &str) -> Entry {
        let change = PluginChange { action: Action::Replace, plugin: plugin.to_owned(), digest: None, refused: None };
        Entry { by: By::Folder, what: What::Plugin(change) }
    }

    fn request(token: Option<&'static str>, status: u16) -> Entry {
        let caller = Caller { token, certificate: None, peer: "127.0.0.1:1".to_owned() };
        let request = Request { method: "PUT".to_owned(), path: "/v1/instances/a".to_owned(), status, refused: None };
        Entry { by: By::Api(caller), what: What::Request(request) }
    }

    fn dropped() -> IntCounterVec {
        IntCounterVec::new(prometheus::Opts::new("dropped", "d"), &["reason"]).unwrap()
    }

    fn lines(data: &tempfile::TempDir) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(data.path().join(file::NAME)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_for_each_goes_on_where_the_last_host_ended() {
        let data = tempfile::tempdir().unwrap();
        for plugin in ["a\n\"", "b"] {
            Audit::open(Some(data.path()), dropped()).unwrap().write(0, &change(plugin));
        }
        let lines = lines(&data);
        assert_eq!((lines.len(), &lines[0]["plugin"], &lines[1]["action"]), (2, &"a\n\"".into(), &"replace".into()));
        assert_eq!(lines[0]["by"], "folder");
    }

    #[test]
    fn a_request_says_who_asked_for_what_and_what_came_of_it() {
        let data = tempfile::tempdir().unwrap();
        Audit::open(Some(data.path()), dropped()).unwrap().write(0, &request(Some("write"), 200));
        let expected = serde_json::json!({
            "at": "1970-01-01T00:00:00Z", "by": "api", "token": "write", "peer": "127.0.0.1:1",
            "action": "request", "method": "PUT", "path": "/v1/instances/a", "status": 200,
        });
        assert_eq!(lines(&data), [expected]);
    }

    #[test]
    fn it_takes_two_files_at_most() {
        let data = tempfile::tempdir().unwrap();
        let long = "x".repeat(1 << 20);
        for _ in 0..40 {
            Audit::open(Some(data.path()), dropped()).unwrap().write(0, &change(&long));
        }
        let sizes: Vec<_> = fs::read_dir(data.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= file::LARGEST), "{sizes:?}");
    }

    #[test]
    fn what_strangers_try_does_not_push_out_what_others_did() {
        let (data, dropped) = (tempfile::tempdir().unwrap(), dropped());
        let audit = Audit::open(Some(data.path()), dropped.clone()).unwrap();
        for _ in 0..1000 {
            audit.write(0, &request(None, 401));
        }
        audit.write(0, &request(Some("admin"), 202));
        audit.close();
        let lines = lines(&data);
        assert!(lines.len() < 300 && lines.last().unwrap()["status"] == 202, "{}", lines.len());
        assert_eq!(dropped.with_label_values(&["strangers"]).get() as usize, 1001 - lines.len());
        audit.write(0, &request(Some("admin"), 202));
        assert_eq!(dropped.with_label_values(&["closed"]).get(), 1);
    }

    #[test]
    fn strangers_are_written_of_again_after_a_while() {
        let now = Instant::now();
        let mut strangers = Strangers { left: 0.5, at: now };
        assert!(!strangers.may_write(now));
        assert!(strangers.may_write(now + Duration::from_secs(1)));
        assert!(!strangers.may_write(now + Duration::from_secs(1)));
    }
}
