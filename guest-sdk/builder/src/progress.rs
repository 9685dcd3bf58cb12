use std::fmt::Display;
use std::time::Instant;

/// Does `work`, saying on standard error what it is and how long it took.
pub fn step<T, E>(what: impl Display, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    eprintln!("==> {what}");
    let start = Instant::now();
    let result = work();
    let outcome = if result.is_ok() { "done" } else { "failed" };
    eprintln!("    {outcome} after {:.1} s", start.elapsed().as_secs_f64());
    result
}
