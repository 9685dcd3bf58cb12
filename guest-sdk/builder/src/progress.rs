use std::fmt::Display;
use std::io::Write as _;
use std::time::Instant;

/// Runs `work`, and writes to standard error what it is and how long it took.
pub fn step<T, E>(what: impl Display, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    tell(format_args!("==> {what}"));
    let start = Instant::now();
    let result = work();
    let outcome = if result.is_ok() { "done" } else { "failed" };
    // Steps may run at the same time.
    tell(format_args!("    {outcome} after {:.1} s: {what}", start.elapsed().as_secs_f64()));
    result
}

/// Writes a line to standard error, which may have no reader.
pub fn tell(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
