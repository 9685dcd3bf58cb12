//! Lines for the host's log. Natively: standard error.

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Bytes of a line that are handed on: more than any host shows.
const LONGEST: usize = 64 << 10;

/// Writes one line. The host limits rate and length.
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
        // Standard error is allowed to have no reader.
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
