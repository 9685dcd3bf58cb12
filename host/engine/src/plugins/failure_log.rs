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
pub(crate) enum FailureKind {
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
pub(crate) struct FailureLog(Mutex<BTreeMap<FailureKind, FailureCourse>>);

/// A log line that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DueLine {
    /// The failure is new, or has another reason than before.
    New,
    /// The failure goes on; the number of times since it began.
    Again(u64),
}

/// A failure that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EndedFailure {
    pub(super) failures: u64,
    pub(super) lasted: Duration,
}

#[derive(Debug)]
struct FailureCourse {
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

impl FailureKind {
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
    pub(crate) fn failed(&self, plugin: &str, what: FailureKind, reason: &str) {
        let message = match what {
            FailureKind::Start => "could not start; retrying",
            FailureKind::SavedState => "cannot write the plugin's state to disk; retrying",
            FailureKind::Discovered => "some discovered instances are refused",
            FailureKind::Readings => "some instances have no reading",
            FailureKind::Version => "a version is refused",
            FailureKind::Discover | FailureKind::Sample | FailureKind::Collect | FailureKind::Observe => {
                "a poll failed"
            }
        };
        let call = what.as_str();
        match self.note(what, reason, Instant::now()) {
            Some(DueLine::New) => tracing::warn!(plugin, call, reason, "{message}"),
            Some(DueLine::Again(failures)) => {
                tracing::warn!(plugin, call, reason, failures, "still failing: {message}")
            }
            None => {}
        }
    }

    /// Logs that a version is refused: once for each reason, and [`MOST`] lines an hour at most. Further refusals are
    /// counted.
    pub(crate) fn refused(&self, plugin: &str, reason: &str, message: &str) {
        match self.note(FailureKind::Version, reason, Instant::now()) {
            Some(DueLine::New) => tracing::error!(plugin, reason, "{message}"),
            Some(DueLine::Again(failures)) => tracing::error!(plugin, reason, failures, "again: {message}"),
            None => {}
        }
    }

    /// Logs that a kind of failure is over, if there was one.
    pub(crate) fn works(&self, plugin: &str, what: FailureKind) {
        if let Some(EndedFailure { failures, lasted }) = self.end(what, Instant::now()) {
            let (call, lasted) = (what.as_str(), format_args!("{lasted:.1?}"));
            tracing::info!(plugin, call, failures, lasted, "works again");
        }
    }

    fn note(&self, what: FailureKind, reason: &str, now: Instant) -> Option<DueLine> {
        let mut courses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = without_numbers(reason);
        let course = courses.entry(what).or_insert_with(|| FailureCourse {
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
            FailureKind::Version => !course.told.contains(&reason),
            _ => course.failures == 1 || course.reason != reason,
        };
        course.reason = reason;
        let is_due = is_new || !course.is_told || now.duration_since(course.logged) >= REMINDER;
        if !is_due || course.lines >= MOST {
            return None;
        }
        course.lines += 1;
        course.told.extend((what == FailureKind::Version).then(|| course.reason.clone()));
        (course.logged, course.is_told) = (now, true);
        Some(if is_new { DueLine::New } else { DueLine::Again(course.failures) })
    }

    fn end(&self, what: FailureKind, now: Instant) -> Option<EndedFailure> {
        let mut courses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let course = courses.get_mut(&what).filter(|course| !course.is_over)?;
        course.is_over = true;
        let over = EndedFailure { failures: course.failures, lasted: now.duration_since(course.began) };
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
            lines.extend(log.note(FailureKind::Sample, &reason, now).map(|line| (nth, line)));
            now += TICK;
        }
        assert_eq!(lines, [(0, DueLine::New), (10, DueLine::New)]);
        assert_eq!(log.end(FailureKind::Sample, now), Some(EndedFailure { failures: 20, lasted: 20 * TICK }));
        assert_eq!(log.end(FailureKind::Sample, now), None, "once");
        assert_eq!(log.note(FailureKind::Sample, "trapped", now), Some(DueLine::New), "it begins anew");
    }

    #[test]
    fn a_lasting_failure_is_logged_each_hour_with_its_count() {
        let (log, start) = (FailureLog::default(), Instant::now());
        let ticks = 3 * 1800_u32;
        let lines = (0..ticks).filter_map(|nth| log.note(FailureKind::Discover, "denied", start + nth * TICK));
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines, [DueLine::New, DueLine::Again(1801), DueLine::Again(3601)]);
    }

    #[test]
    fn alternating_and_changing_failures_are_logged_a_bounded_number_of_times_an_hour() {
        let (log, start) = (FailureLog::default(), Instant::now());
        let (mut begins, mut ends) = (0, 0);
        for nth in 0..1799 {
            begins += u32::from(log.note(FailureKind::Sample, "trapped", start + nth * TICK).is_some());
            ends += u32::from(log.end(FailureKind::Sample, start + nth * TICK).is_some());
        }
        assert_eq!((begins, ends), (MOST, MOST));
        let other = |nth: u32| "x".repeat(nth as usize);
        let changes =
            (0..1799).filter_map(|nth| log.note(FailureKind::Collect, &other(nth), start + nth * TICK)).count();
        assert_eq!(changes, MOST as usize);
    }

    #[test]
    fn kinds_of_failure_are_logged_separately() {
        let (log, now) = (FailureLog::default(), Instant::now());
        assert_eq!(log.note(FailureKind::Sample, "denied", now), Some(DueLine::New));
        assert_eq!(log.note(FailureKind::Discover, "denied", now), Some(DueLine::New));
        assert_eq!(log.end(FailureKind::Observe, now), None, "it never failed");
    }
}
