//! Decides which failures of a plugin are logged. A failure that goes on is logged when it begins, when it changes and
//! when it ends, and once an hour with its count. So no plugin can fill the log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The interval at which a failure that goes on is logged again, and the period that [`MOST`] is for.
const REMINDER: Duration = Duration::from_secs(3600);

/// The most lines an hour about one kind of failure.
const MOST: u32 = 12;

/// A kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failing {
    Discover,
    /// Some discovered instances are refused.
    Discovered,
    Sample,
    /// Single instances have no reading, in a call that came back.
    Readings,
    Collect,
    Observe,
    Start,
    SavedState,
    /// A version is refused.
    Version,
}

/// The failures of one plugin.
#[derive(Debug, Default)]
pub(crate) struct FailureLog(Mutex<BTreeMap<Failing, Course>>);

/// A log line that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// The failure is new, or has another reason than before.
    New,
    /// The failure goes on; the number of times since it began.
    Again(u64),
}

/// A failure that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Over {
    pub(super) failures: u64,
    pub(super) lasted: Duration,
}

#[derive(Debug)]
struct Course {
    /// The reason without its numbers, which may differ each time.
    reason: String,
    began: Instant,
    failures: u64,
    is_over: bool,
    /// Whether the failure was logged. If so, its end is logged too.
    is_told: bool,
    logged: Instant,
    hour: Instant,
    lines: u32,
    /// For refused versions: the reasons that were logged in this hour.
    told: BTreeSet<String>,
}

impl Failing {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Discover => "discover",
            Self::Discovered => "discovered",
            Self::Sample => "sample",
            Self::Readings => "readings",
            Self::Collect => "collect",
            Self::Observe => "observe",
            Self::Start => "start",
            Self::SavedState => "saved state",
            Self::Version => "load",
        }
    }
}

impl FailureLog {
    /// Logs a failure, if a line is due.
    pub(crate) fn failed(&self, plugin: &str, what: Failing, reason: &str) {
        let message = match what {
            Failing::Start => "could not start; retrying",
            Failing::SavedState => "cannot write the plugin's state to disk; retrying",
            Failing::Discovered => "some discovered instances are refused",
            Failing::Readings => "some instances have no reading",
            Failing::Version => "a version is refused",
            Failing::Discover | Failing::Sample | Failing::Collect | Failing::Observe => "a poll failed",
        };
        let call = what.as_str();
        match self.note(what, reason, Instant::now()) {
            Some(Line::New) => tracing::warn!(plugin, call, reason, "{message}"),
            Some(Line::Again(failures)) => tracing::warn!(plugin, call, reason, failures, "still failing: {message}"),
            None => {}
        }
    }

    /// Logs that a version is refused: once for each reason, and [`MOST`] lines an hour at most. Further refusals are
    /// counted.
    pub(crate) fn refused(&self, plugin: &str, reason: &str, message: &str) {
        match self.note(Failing::Version, reason, Instant::now()) {
            Some(Line::New) => tracing::error!(plugin, reason, "{message}"),
            Some(Line::Again(failures)) => tracing::error!(plugin, reason, failures, "again: {message}"),
            None => {}
        }
    }

    /// Logs that a kind of failure is over, if there was one.
    pub(crate) fn works(&self, plugin: &str, what: Failing) {
        if let Some(Over { failures, lasted }) = self.end(what, Instant::now()) {
            let (call, lasted) = (what.as_str(), format_args!("{lasted:.1?}"));
            tracing::info!(plugin, call, failures, lasted, "works again");
        }
    }

    fn note(&self, what: Failing, reason: &str, now: Instant) -> Option<Line> {
        let mut courses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = without_numbers(reason);
        let course = courses.entry(what).or_insert_with(|| Course {
            reason: reason.clone(),
            began: now,
            failures: 0,
            is_over: true,
            is_told: false,
            logged: now,
            hour: now,
            lines: 0,
            told: BTreeSet::new(),
        });
        if now.duration_since(course.hour) >= REMINDER {
            (course.hour, course.lines) = (now, 0);
            course.told.clear();
        }
        if course.is_over {
            (course.began, course.failures, course.is_over, course.is_told) = (now, 0, false, false);
        }
        course.failures += 1;
        let is_new = match what {
            // Each version is another file, so a reason is not new if the log gave it for another one.
            Failing::Version => !course.told.contains(&reason),
            _ => course.failures == 1 || course.reason != reason,
        };
        course.reason = reason;
        let is_due = is_new || !course.is_told || now.duration_since(course.logged) >= REMINDER;
        if !is_due || course.lines >= MOST {
            return None;
        }
        course.lines += 1;
        course.told.extend((what == Failing::Version).then(|| course.reason.clone()));
        (course.logged, course.is_told) = (now, true);
        Some(if is_new { Line::New } else { Line::Again(course.failures) })
    }

    fn end(&self, what: Failing, now: Instant) -> Option<Over> {
        let mut courses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let course = courses.get_mut(&what).filter(|course| !course.is_over)?;
        course.is_over = true;
        let over = Over { failures: course.failures, lasted: now.duration_since(course.began) };
        course.is_told.then_some(over)
    }
}

/// Replaces each run of digits by one `#`.
fn without_numbers(reason: &str) -> String {
    let mut plain = String::with_capacity(reason.len());
    for letter in reason.chars() {
        if !letter.is_ascii_digit() {
            plain.push(letter);
        } else if !plain.ends_with('#') {
            plain.push('#');
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_secs(2);

    #[test]
    fn a_failure_that_goes_on_is_logged_when_it_begins_changes_and_ends() {
        let (log, mut now) = (FailureLog::default(), Instant::now());
        let mut lines = Vec::new();
        for nth in 0..20 {
            let reason = if nth < 10 { format!("used {} ms of CPU", 100 + nth) } else { "trapped".to_owned() };
            lines.extend(log.note(Failing::Sample, &reason, now).map(|line| (nth, line)));
            now += TICK;
        }
        assert_eq!(lines, [(0, Line::New), (10, Line::New)]);
        assert_eq!(log.end(Failing::Sample, now), Some(Over { failures: 20, lasted: 20 * TICK }));
        assert_eq!(log.end(Failing::Sample, now), None, "once");
        assert_eq!(log.note(Failing::Sample, "trapped", now), Some(Line::New), "it begins anew");
    }

    #[test]
    fn a_failure_that_lasts_is_told_again_each_hour_with_how_often_it_happened() {
        let (log, start) = (FailureLog::default(), Instant::now());
        let ticks = 3 * 1800_u32;
        let lines = (0..ticks).filter_map(|nth| log.note(Failing::Discover, "denied", start + nth * TICK));
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines, [Line::New, Line::Again(1801), Line::Again(3601)]);
    }

    #[test]
    fn a_plugin_that_fails_and_works_by_turns_or_in_ever_other_words_fills_no_log() {
        let (log, start) = (FailureLog::default(), Instant::now());
        let (mut begins, mut ends) = (0, 0);
        for nth in 0..1799 {
            begins += u32::from(log.note(Failing::Sample, "trapped", start + nth * TICK).is_some());
            ends += u32::from(log.end(Failing::Sample, start + nth * TICK).is_some());
        }
        assert_eq!((begins, ends), (MOST, MOST));
        let other = |nth: u32| "x".repeat(nth as usize);
        let changes = (0..1799).filter_map(|nth| log.note(Failing::Collect, &other(nth), start + nth * TICK)).count();
        assert_eq!(changes, MOST as usize);
    }

    #[test]
    fn kinds_of_failure_are_told_apart() {
        let (log, now) = (FailureLog::default(), Instant::now());
        assert_eq!(log.note(Failing::Sample, "denied", now), Some(Line::New));
        assert_eq!(log.note(Failing::Discover, "denied", now), Some(Line::New));
        assert_eq!(log.end(Failing::Observe, now), None, "it never failed");
    }
}
