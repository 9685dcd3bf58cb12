//! `log`: lines for the host's log, escaped, and limited in rate and length.

use crate::Limits;
use dropsonde_model::text::is_harmful;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Most lines that are kept for an error of the call: enough for a traceback of an interpreter.
const MOST_WORDS: usize = 12;

/// Most bytes of each of these lines.
const LONGEST_WORD: usize = 300;

/// Most lines that are kept for the plugin's page, and most bytes of each.
const MOST_RECENT: usize = 20;
const LONGEST_RECENT: usize = 400;

const WINDOW: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// The newest lines of a plugin, and the number of lines over its limit.
#[derive(Debug, Default)]
pub(crate) struct RecentLog {
    lines: Mutex<VecDeque<LogLine>>,
    dropped: AtomicU64,
}

/// A line that a plugin logged: information, a warning or an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub at: SystemTime,
    /// `info`, `warn` or `error`.
    pub level: &'static str,
    /// One line without control characters.
    pub text: String,
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
    recent: Arc<RecentLog>,
    /// The latest warnings and errors of the current call, whether they were logged or not: an error of the call quotes
    /// them.
    last_words: VecDeque<String>,
}

impl Log {
    pub(crate) fn new(plugin: Arc<str>, limits: &Limits, recent: Arc<RecentLog>) -> Self {
        let Limits { log_lines_per_second: lines_per_second, log_line_bytes: line_bytes, .. } = *limits;
        Self {
            plugin,
            lines_per_second,
            line_bytes,
            window_start: Instant::now(),
            lines: 0,
            recent,
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
            self.recent.dropped.fetch_add(1, Relaxed);
            return;
        }
        let plugin = &*self.plugin;
        let message = printable(message, self.line_bytes);
        self.recent.keep(level, &message);
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

// === impl RecentLog ===

impl RecentLog {
    fn keep(&self, level: Level, line: &str) {
        let level = match level {
            Level::Trace | Level::Debug => return,
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        };
        let line = LogLine { at: SystemTime::now(), level, text: printable(line, LONGEST_RECENT) };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == MOST_RECENT {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    pub(crate) fn lines(&self) -> Vec<LogLine> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
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
        let recent = Arc::<RecentLog>::default();
        let mut log = Log::new("p".into(), &Limits { log_lines_per_second: 2, ..Limits::default() }, recent.clone());
        for _ in 0..5 {
            log.write(Level::Info, "x");
        }
        assert_eq!(recent.dropped(), 3);
        assert_eq!(recent.lines().len(), 2);
        assert!(log.admit(Instant::now() + WINDOW));
    }

    #[test]
    fn the_newest_lines_are_kept_short_and_without_debug_lines() {
        let recent = RecentLog::default();
        recent.keep(Level::Debug, "x");
        (0..30).for_each(|nth| recent.keep(Level::Warn, &format!("{nth} {}", "y".repeat(1000))));
        let lines = recent.lines();
        assert_eq!(lines.len(), MOST_RECENT);
        assert!(lines[0].text.starts_with("10 ") && lines[0].level == "warn");
        assert!(lines.iter().all(|line| line.text.len() <= LONGEST_RECENT + '…'.len_utf8()));
    }
}
