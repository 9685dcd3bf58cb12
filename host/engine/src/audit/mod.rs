//! The audit log: who changed what, when, and with what result. Each entry is a line of JSON in the data directory.
//!
//! A thread writes the lines, so that callers never wait for a disk. Lines that do not fit into its queue are dropped
//! and counted.
//!
//! # Layout
//!
//! * `entry`: the content of a line; `file`: the file of lines.

mod entry;
mod file;

pub use entry::{Actor, ApiCaller, AuditEntry, AuditedAction, AuditedRequest, PluginAction, PluginChange};

use crate::disk_errors::{is_denied, is_unwritable};
use crate::json;
use file::RotatingFile;
use prometheus::IntCounterVec;
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The most lines that wait to be written: some MiB at most.
const MOST_WAITING: usize = 4096;

/// The approximate size of one write, in bytes.
const AT_ONCE: usize = 64 << 10;

/// The lines about actions that changed nothing: so many in a burst, and so many a second after it. So they do not push
/// out lines about changes.
const REFUSALS: LineRate = LineRate { burst: 1000.0, a_second: 1.0 };

/// The lines about changes that need no more than the right to write, as tracking an instance. A program can make very
/// many. They do not push out what administrators did.
const WRITES: LineRate = LineRate { burst: 10_000.0, a_second: 10.0 };

/// The time between two tries to open a file that cannot be opened, and between two checks whether it was deleted.
const RETRY: Duration = Duration::from_secs(1);

/// The audit log. Without a data directory, entries go only to the host's own log.
#[derive(Debug)]
pub struct Audit {
    writer: Option<AuditWriter>,
    /// The reason why nothing is written, if lines should be written.
    trouble: Trouble,
    refusals: Mutex<LineBudget>,
    writes: Mutex<LineBudget>,
    dropped: IntCounterVec,
}

type Trouble = Arc<Mutex<Option<String>>>;

/// The caller's side of the thread that writes lines.
#[derive(Debug)]
struct AuditWriter {
    /// The queue of lines. None: the log is closed.
    lines: Mutex<Option<SyncSender<Vec<u8>>>>,
    /// Disconnects when all lines are written.
    written: Mutex<Receiver<()>>,
}

/// The file, as the writing thread holds it.
struct AuditFile {
    data: PathBuf,
    /// None: the file cannot be opened at the moment.
    file: Option<RotatingFile>,
    trouble: Trouble,
}

/// The most lines of a kind.
#[derive(Debug, Clone, Copy)]
struct LineRate {
    burst: f64,
    a_second: f64,
}

/// The budget for lines of a kind.
#[derive(Debug)]
struct LineBudget {
    rate: LineRate,
    /// Lines that may still be written.
    left: f64,
    /// The time of the last update of `left`.
    at: Instant,
}

// === impl Audit ===

impl Audit {
    /// Opens the log in a data directory. `dropped` counts lines that are not written, by `reason`. While the file
    /// cannot be written, entries go only to the host's own log, as without a data directory.
    pub fn open(data: Option<&Path>, dropped: IntCounterVec) -> io::Result<Self> {
        let trouble = Trouble::default();
        let start = |data: &Path| {
            let mut log = AuditFile { data: data.to_owned(), file: None, trouble: trouble.clone() };
            if let Err(error) = log.look()
                && !is_unwritable(&error)
                && !is_denied(&error)
            {
                return Err(io::Error::new(error.kind(), lock(&trouble).take().unwrap_or_default()));
            }
            let (lines, waiting) = sync_channel(MOST_WAITING);
            let (writing, written) = sync_channel(0);
            let failed = dropped.clone();
            thread::Builder::new().name("audit".to_owned()).spawn(move || {
                write_all(log, &waiting, &failed);
                drop(writing);
            })?;
            Ok::<_, io::Error>(AuditWriter { lines: Mutex::new(Some(lines)), written: Mutex::new(written) })
        };
        let writer = data.map(start).transpose()?;
        let (refusals, writes) = (Mutex::new(LineBudget::new(REFUSALS)), Mutex::new(LineBudget::new(WRITES)));
        Ok(Self { writer, trouble, refusals, writes, dropped })
    }

    /// Logs an entry and queues its line. Never waits.
    pub fn write(&self, now_ms: i64, entry: &AuditEntry) {
        entry.log();
        let Some(writer) = &self.writer else { return };
        let limited = if entry.is_no_change() {
            Some((&self.refusals, "refusals"))
        } else if entry.is_of_writer() {
            Some((&self.writes, "writes"))
        } else {
            None
        };
        if let Some((budget, reason)) = limited
            && !lock(budget).may_write(Instant::now())
        {
            return self.drop_for(reason);
        }
        #[derive(Serialize)]
        struct AuditLine<'a> {
            at: String,
            #[serde(flatten)]
            entry: &'a AuditEntry,
        }
        let Ok(mut line) = serde_json::to_vec(&AuditLine { at: json::time(now_ms), entry }) else { return };
        line.push(b'\n');
        match lock(&writer.lines).as_ref().map(|lines| lines.try_send(line)) {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_))) => self.drop_for("full"),
            Some(Err(TrySendError::Disconnected(_))) | None => self.drop_for("closed"),
        }
    }

    /// Returns why nothing is written, if lines should be written.
    pub fn trouble(&self) -> Option<String> {
        lock(&self.trouble).clone()
    }

    /// Closes the log, and waits up to `patience` until all earlier lines are written. Returns whether they are.
    pub fn close(&self, patience: Duration) -> bool {
        let Some(writer) = &self.writer else { return true };
        drop(lock(&writer.lines).take());
        lock(&writer.written).recv_timeout(patience) == Err(RecvTimeoutError::Disconnected)
    }

    fn drop_for(&self, reason: &str) {
        self.dropped.with_label_values(&[reason]).inc();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl LineBudget ===

impl LineBudget {
    fn new(rate: LineRate) -> Self {
        Self { rate, left: rate.burst, at: Instant::now() }
    }

    fn may_write(&mut self, now: Instant) -> bool {
        let more = now.saturating_duration_since(self.at).as_secs_f64() * self.rate.a_second;
        (self.left, self.at) = ((self.left + more).min(self.rate.burst), now);
        let may = self.left >= 1.0;
        self.left -= f64::from(u8::from(may));
        may
    }
}

impl AuditFile {
    /// Opens the file if it is not open, or if its name no longer leads to it because somebody deleted it or its
    /// folder.
    fn look(&mut self) -> io::Result<()> {
        if self.file.as_ref().is_some_and(RotatingFile::is_there) {
            return Ok(());
        }
        self.file = None;
        match RotatingFile::open(&self.data) {
            Ok(file) => {
                self.file = Some(file);
                if lock(&self.trouble).take().is_some() {
                    tracing::info!("the audit log is written again");
                }
                Ok(())
            }
            Err(error) => {
                self.fail(&error);
                Err(error)
            }
        }
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.look()?;
        let Some(file) = &mut self.file else { return Ok(()) };
        let appended = file.append(lines);
        match &appended {
            Ok(()) => *lock(&self.trouble) = None,
            Err(error) => self.fail(error),
        }
        appended
    }

    /// Logs a failure, once for each different error.
    fn fail(&self, error: &io::Error) {
        let why = format!("cannot write the audit log {}: {error}", self.data.join(file::NAME).display());
        let before = lock(&self.trouble).replace(why.clone());
        if before.as_ref() != Some(&why) {
            tracing::error!("{why}");
        }
    }
}

/// Writes lines until the log is closed. Lines that wait together are written together.
fn write_all(mut log: AuditFile, waiting: &Receiver<Vec<u8>>, dropped: &IntCounterVec) {
    loop {
        let mut lines = match waiting.recv_timeout(RETRY) {
            Ok(lines) => lines,
            Err(RecvTimeoutError::Timeout) => {
                // `look` reports a failure itself.
                let _ = log.look();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut count = 1;
        while lines.len() < AT_ONCE
            && let Ok(line) = waiting.try_recv()
        {
            lines.extend_from_slice(&line);
            count += 1;
        }
        if log.append(&lines).is_err() {
            dropped.with_label_values(&["io"]).inc_by(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn change(plugin: &str) -> AuditEntry {
        let change =
            PluginChange { action: PluginAction::Replace, plugin: plugin.to_owned(), digest: None, refused: None };
        AuditEntry { by: Actor::Folder, what: AuditedAction::Plugin(change) }
    }

    fn request(token: Option<&'static str>, status: u16) -> AuditEntry {
        let caller = ApiCaller { token, certificate: None, peer: "127.0.0.1:1".to_owned() };
        let request = AuditedRequest {
            method: "PUT".to_owned(),
            path: "/v1/instances/a".to_owned(),
            status: Some(status),
            refused: None,
        };
        AuditEntry { by: Actor::Api(caller), what: AuditedAction::Request(request) }
    }

    fn dropped() -> IntCounterVec {
        IntCounterVec::new(prometheus::Opts::new("dropped", "d"), &["reason"]).unwrap()
    }

    fn write(data: &tempfile::TempDir, entry: &AuditEntry) {
        let audit = Audit::open(Some(data.path()), dropped()).unwrap();
        audit.write(0, entry);
        assert!(audit.close(PATIENCE));
    }

    fn lines(data: &tempfile::TempDir) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(data.path().join(file::NAME)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_reopened_audit_log_appends_lines() {
        let data = tempfile::tempdir().unwrap();
        for plugin in ["a\n\"", "b"] {
            write(&data, &change(plugin));
        }
        let lines = lines(&data);
        assert_eq!((lines.len(), &lines[0]["plugin"], &lines[1]["action"]), (2, &"a\n\"".into(), &"replace".into()));
        assert_eq!(lines[0]["by"], "folder");
    }

    #[test]
    fn the_line_of_a_request_has_its_caller_path_and_status() {
        let data = tempfile::tempdir().unwrap();
        write(&data, &request(Some("write"), 200));
        let expected = serde_json::json!({
            "at": "1970-01-01T00:00:00Z", "by": "api", "token": "write", "peer": "127.0.0.1:1",
            "action": "request", "method": "PUT", "path": "/v1/instances/a", "status": 200,
        });
        assert_eq!(lines(&data), [expected]);
    }

    #[test]
    fn the_audit_log_keeps_at_most_two_files_of_bounded_size() {
        let data = tempfile::tempdir().unwrap();
        let long = "x".repeat(1 << 20);
        for _ in 0..40 {
            write(&data, &change(&long));
        }
        let sizes: Vec<_> = fs::read_dir(data.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).collect();
        assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= file::LARGEST), "{sizes:?}");
    }

    #[test]
    fn refused_requests_do_not_displace_lines_about_changes() {
        let (data, dropped) = (tempfile::tempdir().unwrap(), dropped());
        let audit = Audit::open(Some(data.path()), dropped.clone()).unwrap();
        for nth in 0..3000 {
            audit.write(0, &request(Some("write").filter(|_| nth % 2 == 0), 401));
            if nth % 500 == 0 {
                audit.write(0, &request(Some("admin"), 202));
            }
        }
        audit.write(0, &request(Some("admin"), 202));
        assert!(audit.close(PATIENCE));
        let lines = lines(&data);
        assert_eq!(lines.iter().filter(|line| line["status"] == 202).count(), 7);
        assert_eq!(dropped.with_label_values(&["refusals"]).get() as usize, 3007 - lines.len());
        assert!(lines.len() < 1200, "{}", lines.len());
        audit.write(0, &request(Some("admin"), 202));
        assert_eq!(dropped.with_label_values(&["closed"]).get(), 1);
    }

    #[test]
    fn changes_by_programs_do_not_displace_lines_about_administrators() {
        let (data, dropped) = (tempfile::tempdir().unwrap(), dropped());
        let audit = Audit::open(Some(data.path()), dropped.clone()).unwrap();
        let written = || fs::read_to_string(data.path().join(file::NAME)).unwrap().lines().count();
        for nth in 1..=20_000 {
            audit.write(0, &request(Some("write"), 200));
            while nth % 1000 == 0 && nth <= 10_000 && written() < nth {
                std::thread::yield_now();
            }
        }
        audit.write(0, &request(Some("admin"), 202));
        assert!(audit.close(PATIENCE));
        assert!((9_000..=10_000).contains(&dropped.with_label_values(&["writes"]).get()));
        let text = fs::read_to_string(data.path().join(file::NAME)).unwrap();
        assert!(text.lines().last().unwrap().contains("admin"));
    }

    #[test]
    fn writes_never_wait_for_the_disk_and_dropped_lines_are_counted() {
        let (data, dropped) = (tempfile::tempdir().unwrap(), dropped());
        let pipe = data.path().join(file::NAME);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        // The holder reads nothing, so the pipe takes some lines and then no more.
        let held = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        let audit = Audit::open(Some(data.path()), dropped.clone()).unwrap();
        for _ in 0..3 * MOST_WAITING {
            audit.write(0, &request(Some("write"), 200));
        }
        assert!(dropped.with_label_values(&["full"]).get() >= 1);
        assert!(!audit.close(Duration::from_millis(1)), "nor does a host that stops");
        drop(held);
        assert!(audit.close(PATIENCE));
        let lost = ["full", "io"].map(|reason| dropped.with_label_values(&[reason]).get());
        assert!(lost.iter().sum::<u64>() <= 3 * MOST_WAITING as u64 && lost[1] >= 1, "{lost:?}");
    }

    #[test]
    fn refusals_are_written_again_after_a_second() {
        let now = Instant::now();
        let mut refusals = LineBudget { rate: REFUSALS, left: 0.5, at: now };
        assert!(!refusals.may_write(now));
        assert!(refusals.may_write(now + Duration::from_secs(1)));
        assert!(!refusals.may_write(now + Duration::from_secs(1)));
    }
}
