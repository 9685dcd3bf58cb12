//! Writes lines to the host's log. Natively, to standard error.

use std::collections::BTreeMap;

/// The level of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Lasting problems: the log gets a line when a problem begins, changes or ends, and none while it lasts.
///
/// ```
/// # use dropsonde_guest::log::Troubles;
/// let mut troubles = Troubles::default();
/// troubles.report("mounts", Some("permission denied".to_owned()));
/// troubles.report("mounts", Some("permission denied".to_owned()));
/// troubles.report("mounts", None);
/// ```
///
/// writes two lines: `mounts: permission denied` and `mounts: works again`.
#[derive(Debug, Default)]
pub struct Troubles(BTreeMap<String, String>);

/// Most bytes of a line that are passed to the host: more than any host shows.
const LONGEST: usize = 64 << 10;

/// Writes one line. The host limits the number of lines per second and their length.
pub fn write(level: Level, message: &str) {
    let message = message.get(..message.floor_char_boundary(LONGEST)).unwrap_or(message);
    #[cfg(target_family = "wasm")]
    {
        use crate::glue::dropsonde::plugin::log as host;
        let level = match level {
            Level::Trace => host::Level::Trace,
            Level::Debug => host::Level::Debug,
            Level::Info => host::Level::Info,
            Level::Warn => host::Level::Warn,
            Level::Error => host::Level::Error,
        };
        host::write(level, message);
    }
    #[cfg(not(target_family = "wasm"))]
    {
        use std::io::Write as _;
        // Standard error may have no reader.
        let _ = writeln!(std::io::stderr(), "{level:?}: {message}");
    }
}

pub fn debug(message: impl AsRef<str>) {
    write(Level::Debug, message.as_ref());
}

pub fn info(message: impl AsRef<str>) {
    write(Level::Info, message.as_ref());
}

pub fn warn(message: impl AsRef<str>) {
    write(Level::Warn, message.as_ref());
}

pub fn error(message: impl AsRef<str>) {
    write(Level::Error, message.as_ref());
}

// === impl Troubles ===

impl Troubles {
    /// Reports that something is wrong, or that nothing is wrong with it.
    pub fn report(&mut self, what: &str, wrong: Option<String>) {
        let before = self.0.get(what);
        if before == wrong.as_ref() {
            return;
        }
        match wrong {
            Some(why) => {
                warn(format!("{what}: {why}"));
                self.0.insert(what.to_owned(), why);
            }
            None => {
                info(format!("{what}: works again"));
                self.0.remove(what);
            }
        }
    }

    /// Forgets what is no longer there. The log gets no line.
    pub fn forget(&mut self, what: &str) {
        self.0.remove(what);
    }

    /// Returns what is wrong now, and why.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(what, why)| (what.as_str(), why.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_known_from_its_beginning_to_its_end() {
        let mut troubles = Troubles::default();
        troubles.report("a", None);
        troubles.report("b", Some("x".to_owned()));
        troubles.report("b", Some("y".to_owned()));
        assert_eq!(troubles.iter().collect::<Vec<_>>(), [("b", "y")]);
        troubles.report("b", None);
        assert_eq!(troubles.iter().next(), None);
    }
}
