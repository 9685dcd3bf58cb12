//! Events with unknown names: misspelt, or meant for another observer.

use crate::sections::NAMES;
use dropsonde_guest::log;
use dropsonde_guest::metrics::{self, Counter, Family};
use std::collections::BTreeMap;

/// Most names that are counted separately: an application could send any number of different names.
const MOST: usize = 64;

/// Most bytes of a name that are shown.
const LONGEST: usize = 64;

/// Stands for all names after the first [`MOST`].
const OTHER: &str = "other";

/// Counts unknown events by name, in a metric that the plugin's page shows.
#[derive(Debug, Default)]
pub(crate) struct UnknownEvents {
    family: Option<Family<Counter>>,
    by_name: BTreeMap<String, Counter>,
    others: Option<Counter>,
}

impl UnknownEvents {
    pub(crate) fn count(&mut self, name: &str) {
        let name = shown(name);
        let counter = match self.by_name.get(name) {
            Some(known) => Some(*known),
            None if self.by_name.len() < MOST => self.first_of(name),
            None => self.other(),
        };
        if let Some(counter) = counter {
            counter.add(1.0);
        }
    }

    fn first_of(&mut self, name: &str) -> Option<Counter> {
        log::warn(format!("unknown event name {name:?}; known: {}", NAMES.join(", ")));
        let counter = self.series(name)?;
        self.by_name.insert(name.to_owned(), counter);
        Some(counter)
    }

    fn other(&mut self) -> Option<Counter> {
        if self.others.is_none() {
            log::warn(format!("more than {MOST} unknown event names; further ones are counted as {OTHER:?}"));
            self.others = self.series(OTHER);
        }
        self.others
    }

    /// Returns the counter of a name. None if the host refuses another series; then only the log names the event.
    fn series(&mut self, name: &str) -> Option<Counter> {
        let help = "Events with a name that appstats does not know, by name.";
        let register = || metrics::counters("appstats_unknown_events_total", help, &["name"]).ok();
        self.family = self.family.or_else(register);
        self.family.as_ref()?.with(&[name]).ok()
    }
}

/// Returns the beginning of a name, at most [`LONGEST`] bytes.
fn shown(name: &str) -> &str {
    let mut end = name.len().min(LONGEST);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(name: &str) -> Option<f64> {
        metrics::recorded("appstats_unknown_events_total", &[name])
    }

    #[test]
    fn unknown_events_are_counted_by_name_and_from_the_65th_name_on_together() {
        let mut unknown = UnknownEvents::default();
        unknown.count("chanel.opened");
        unknown.count("chanel.opened");
        assert_eq!((counted("chanel.opened"), counted(OTHER)), (Some(2.0), None));
        (0..100).for_each(|nth| unknown.count(&format!("n{nth}")));
        unknown.count("chanel.opened");
        assert_eq!((counted("chanel.opened"), counted("n62"), counted("n63")), (Some(3.0), Some(1.0), None));
        assert_eq!(counted(OTHER), Some(37.0));
    }

    #[test]
    fn a_long_name_is_cut_between_two_characters() {
        assert_eq!(shown("short"), "short");
        assert_eq!(shown(&"ü".repeat(200)), "ü".repeat(32));
        assert_eq!(shown(&format!("x{}", "ü".repeat(200))), format!("x{}", "ü".repeat(31)));
    }
}
