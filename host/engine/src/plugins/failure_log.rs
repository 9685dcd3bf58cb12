//! Which failures of a plugin are logged. One that goes on is logged when it begins, when it changes and when it ends, and
//! once an hour with how often it happened. However a plugin fails, it fills no log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a failure that goes on is logged again, and the time that `MOST` is for.
const REMINDER: Duration = Duration::from_secs(3600);

/// Beginnings and changes of one kind of failure that are logged in an hour.
const MOST: u32 = 12;

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failing {
    Discover,
    /// Some of what it discovered cannot be taken.
    Discovered,
    Sample,
    /// Single instances of calls that came back.
    Readings,
    Collect,
    Observe,
    Start,
    SavedState,
    /// Versions that are not taken.
    Version,
}

/// The failures of one plugin.
#[derive(Debug, Default)]
pub(crate) struct FailureLog(Mutex<BTreeMap<Failing, Course>>);

/// A line that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// It fails for the first time, or otherwise than before.
    New,
    /// It has failed so often since it began.
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
    /// The reason without its numbers, which differ from time to time.
    reason: String,
    began: Instant,
    failures: u64,
    is_over: bool,
    /// Something of it was logged, so that its end is, too.
    is_told: bool,
    logged: Instant,
    hour: Instant,
    lines: u32,
    /// Of versions that are not taken: reasons that were logged in this hour.
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
    /// Logs a failure, if that is due.
    pub(crate) fn failed(&self, plugin: &str, what: Failing, reason: &str) {
        let message = match what {
            Failing::Start => "could not start, and is tried again",
            Failing::SavedState => "cannot write the plugin's state to disk; retrying",
            Failing::Discovered => "some of what it discovered is not taken",
            Failing::Readings => "some of its instances have no reading",
            Failing::Version => "a version is not taken",
            Failing::Discover | Failing::Sample | Failing::Collect | Failing::Observe => "a poll failed",
        };
        let call = what.as_str();
        match self.note(what, reason, Instant::now()) {
            Some(Line::New) => tracing::warn!(plugin, call, reason, "{message}"),
            Some(Line::Again(failures)) => tracing::warn!(plugin, call, reason, failures, "{message}, still"),
            None => {}
        }
    }

    /// Logs that a version is not taken: once for each reason, so many in an hour. The rest is counted.
    pub(crate) fn refused(&self, plugin: &str, reason: &str, message: &str) {
        match self.note(Failing::Version, reason, Instant::now()) {
            Some(Line::New) => tracing::error!(plugin, reason, "{message}"),
            Some(Line::Again(failures)) => tracing::error!(plugin, reason, failures, "{message}, still"),
            None => {}
        }
    }

    /// Logs that what failed works again, if it failed.
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
            // Each is another file: what was said of one of them holds for the next.
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

/// Each run of digits as one `#`.
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
