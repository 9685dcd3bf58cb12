//! The output of commands.

use std::fmt::Display;
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};

/// Size of the output buffer, in bytes: exports are long.
const BUFFER: usize = 64 << 10;

/// Standard output, locked and buffered. Flush it to show output before the command ends.
///
/// When the reader of standard output has gone, as in `dropsonde range host | head -1`, writes fail with an error that
/// [`is_reader_gone`] recognizes. That error ends the command, but not as a failure. Any other broken pipe is a
/// failure, such as that of a connection to a host.
#[derive(Debug)]
pub(super) struct Out(BufWriter<StdoutLock<'static>>);

/// The cause of an error that [`is_reader_gone`] recognizes.
#[derive(Debug, thiserror::Error)]
#[error("the reader of standard output has gone")]
struct ReaderGone;

/// Writes a line to an [`Out`].
macro_rules! say {
    ($out:expr, $($line:tt)*) => {{
        use std::io::Write as _;
        writeln!($out, $($line)*)?
    }};
}

/// Writes a line to standard error. Ignores errors: standard error may have no reader.
pub(super) fn aside(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Returns whether a command ended because the reader of its output has gone.
pub(super) fn is_reader_gone(error: &anyhow::Error) -> bool {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.filter_map(io::Error::get_ref).any(|cause| cause.is::<ReaderGone>())
}

// === impl Out ===

impl Out {
    pub(super) fn stdout() -> Self {
        Self(BufWriter::with_capacity(BUFFER, io::stdout().lock()))
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(named)
    }
}

fn named(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::BrokenPipe => io::Error::new(ErrorKind::BrokenPipe, ReaderGone),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_broken_pipe_of_a_connection_does_not_count_as_a_closed_standard_output() {
        let broken = || io::Error::from(ErrorKind::BrokenPipe);
        let output: anyhow::Result<()> = Err(named(broken())).context("cannot write");
        assert!(is_reader_gone(&output.unwrap_err()));
        let connection: anyhow::Result<()> = Err(broken()).context("the stream was cut off");
        assert!(!is_reader_gone(&connection.unwrap_err()));
    }
}
