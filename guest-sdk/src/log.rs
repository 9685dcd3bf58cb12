//! Writes lines to the host's log. Natively, to standard error.

/// The level of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

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
