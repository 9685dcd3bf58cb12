//! `log`: lines for the host's log, escaped, and limited in rate and length.

use crate::Limits;
use dropsonde_model::text::is_harmful;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Most lines that are kept for an error of the call: enough for a traceback of an interpreter.
const MOST_WORDS: usize = 12;

/// Most bytes of each of these lines.
const LONGEST_WORD: usize = 300;

const WINDOW: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// One plugin's access to the log.
#[derive(Debug)]
pub(crate) struct Log {
    plugin: Arc<str>,
    lines_per_second: u32,
    /// Most bytes of one line after escaping; the rest is cut.
    line_bytes: usize,
    window_start: Instant,
    lines: u32,
    dropped: Arc<AtomicU64>,
    /// The latest warnings and errors of the current call, whether they were logged or not: an error of the call quotes
    /// them.
    last_words: VecDeque<String>,
}

impl Log {
    /// Returns the log of a plugin. `dropped` counts the lines over the limit.
    pub(crate) fn new(plugin: Arc<str>, limits: &Limits, dropped: Arc<AtomicU64>) -> Self {
        let Limits { log_lines_per_second: lines_per_second, log_line_bytes: line_bytes, .. } = *limits;
        Self {
            plugin,
            lines_per_second,
            line_bytes,
            window_start: Instant::now(),
            lines: 0,
            dropped,
            last_words: VecDeque::new(),
        }
    }

    /// Forgets the lines of the previous call, as a new call begins.
    pub(crate) fn forget_last_words(&mut self) {
        self.last_words.clear();
    }

    pub(crate) fn take_last_words(&mut self) -> Vec<String> {
        std::mem::take(&mut self.last_words).into()
    }

    /// Remembers a line, in case the call ends with an error.
    pub(crate) fn remember(&mut self, message: &str) {
        if self.last_words.len() == MOST_WORDS {
            self.last_words.pop_front();
        }
        self.last_words.push_back(printable(message, LONGEST_WORD));
    }

    pub(crate) fn write(&mut self, level: Level, message: &str) {
        if matches!(level, Level::Warn | Level::Error) && !message.trim().is_empty() {
            self.remember(message);
        }
        if !self.admit(Instant::now()) {
            self.dropped.fetch_add(1, Relaxed);
            return;
        }
        let plugin = &*self.plugin;
        let message = printable(message, self.line_bytes);
        match level {
            Level::Trace => tracing::trace!(target: "plugin", plugin, "{message}"),
            Level::Debug => tracing::debug!(target: "plugin", plugin, "{message}"),
            Level::Info => tracing::info!(target: "plugin", plugin, "{message}"),
            Level::Warn => tracing::warn!(target: "plugin", plugin, "{message}"),
            Level::Error => tracing::error!(target: "plugin", plugin, "{message}"),
        }
    }

    fn admit(&mut self, now: Instant) -> bool {
        if now.duration_since(self.window_start) >= WINDOW {
            self.window_start = now;
            self.lines = 0;
        }
        self.lines = self.lines.saturating_add(1);
        self.lines <= self.lines_per_second
    }
}

/// Returns one line without control characters: a guest must not be able to forge lines or control a terminal.
fn printable(message: &str, longest: usize) -> String {
    let mut line = String::with_capacity(message.len().min(longest));
    for c in message.trim_end().chars() {
        if line.len() >= longest {
            line.push('…');
            break;
        }
        if is_harmful(c) {
            let _ = write!(line, "{}", c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_cannot_forge_another_or_drive_a_terminal() {
        assert_eq!(printable("a\nERROR b\x1b[31m", 100), "a\\nERROR b\\u{1b}[31m");
        assert_eq!(printable("\u{202e}x\u{2028}y", 100), "\\u{202e}x\\u{2028}y");
        assert_eq!(printable("größe\n", 100), "größe");
    }

    #[test]
    fn a_long_line_is_cut() {
        let line = printable(&"x".repeat(1 << 20), 4096);
        assert!(line.len() <= 4096 + '…'.len_utf8());
        assert!(line.ends_with('…'));
    }

    #[test]
    fn lines_over_the_rate_are_dropped_and_counted_until_the_next_second() {
        let dropped = Arc::new(AtomicU64::new(0));
        let mut log = Log::new("p".into(), &Limits { log_lines_per_second: 2, ..Limits::default() }, dropped.clone());
        for _ in 0..5 {
            log.write(Level::Info, "x");
        }
        assert_eq!(dropped.load(Relaxed), 3);
        assert!(log.admit(Instant::now() + WINDOW));
    }
}
