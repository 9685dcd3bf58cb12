use crate::{Failure, Limits};
use dropsonde_model::text::{is_harmful, without_numbers};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::fmt;
use std::time::Duration;

/// How a call into a plugin can fail. After everything but [`CallError::Failed`] the instance is discarded, and the
/// next call gets a fresh one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The plugin answered with a failure; it is well.
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error("trapped: {0}")]
    Trapped(Trap),
    /// It was stopped once it had used its CPU time; how much it would have used is not known.
    #[error("used {} of CPU of its {}; raise {setting}", at_least(*used), at_least(*budget))]
    CpuExhausted {
        used: Duration,
        budget: Duration,
        /// The configuration key that sets the budget.
        setting: &'static str,
    },
    #[error("took longer than its deadline of {}, with {} of CPU; raise {setting}", at_least(*deadline), at_least(*cpu))]
    DeadlineExceeded {
        deadline: Duration,
        /// CPU time it used until then: little, and it waited or the machine was busy.
        cpu: Duration,
        /// The configuration key that sets the deadline.
        setting: &'static str,
    },
    /// It asked for more memory than its ceiling, and did not survive the refusal.
    #[error("wanted more than its {limit} bytes of memory (limits.memory): {trap}")]
    MemoryExhausted { limit: usize, trap: Trap },
    /// The answer does not have the shape the contract asks for.
    #[error("answered out of contract: {0}")]
    OutOfContract(String),
    /// It returned more bytes than one call may, or passed more than 128 KiB to a host function.
    #[error("gave more than its {0} bytes of output (limits.output), or than 128 KiB to one host function")]
    OutputExceeded(usize),
    /// It held more resources than it may: descriptors, streams, pollables, requests.
    #[error("held more than its {0} resource handles (limits.handles)")]
    HandlesExhausted(usize),
    /// It recursed too deep.
    #[error("ran out of stack: {0}")]
    StackExhausted(Trap),
    /// The instance to call could not be made.
    #[error("no instance of it could be made: {0}")]
    NoInstance(Box<CallError>),
    /// No answer in time, nor later: its thread sits in a system call, as it can for a file on a network file system
    /// that has gone. The worker is of no more use.
    #[error("took longer than its deadline of {0:?}, and still does: its thread waits for the system")]
    Stuck(Duration),
    /// The worker's thread is gone: the host is stopping, or the machine could give it none.
    #[error("the worker has stopped")]
    Stopped,
}

impl CallError {
    /// A short, fixed word for a metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Failed(Failure::Gone) => "gone",
            Self::Failed(Failure::Unavailable(_)) => "unavailable",
            Self::Failed(Failure::Denied(_)) => "denied",
            Self::Failed(Failure::Invalid(_)) => "invalid",
            Self::Trapped(_) => "trap",
            Self::CpuExhausted { .. } => "cpu",
            Self::DeadlineExceeded { .. } => "deadline",
            Self::MemoryExhausted { .. } => "memory",
            Self::OutOfContract(_) => "contract",
            Self::OutputExceeded(_) => "output",
            Self::HandlesExhausted(_) => "handles",
            Self::StackExhausted(_) => "stack",
            Self::NoInstance(why) => why.reason(),
            Self::Stuck(_) => "stuck",
            Self::Stopped => "stopped",
        }
    }

    /// Where the guest was, when that is known: one frame a line.
    pub fn backtrace(&self) -> Option<&str> {
        self.trap()?.backtrace.as_deref()
    }

    /// How the guest ended, if it did so abruptly.
    pub fn trap(&self) -> Option<&Trap> {
        match self {
            Self::Trapped(trap) | Self::MemoryExhausted { trap, .. } | Self::StackExhausted(trap) => Some(trap),
            Self::NoInstance(why) => why.trap(),
            _ => None,
        }
    }

    /// Whether the call ended the instance it went to, or there was none to call.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Failed(_) | Self::Stopped => false,
            Self::NoInstance(why) => why.is_end(),
            _ => true,
        }
    }

    /// Whether there was not enough time or room for the call: for less work there might be.
    pub fn is_want(&self) -> bool {
        matches!(
            self,
            Self::CpuExhausted { .. }
                | Self::DeadlineExceeded { .. }
                | Self::MemoryExhausted { .. }
                | Self::OutputExceeded(_)
                | Self::HandlesExhausted(_)
        )
    }

    /// The plugin's own word that its configuration cannot work.
    pub fn invalid(&self) -> Option<&str> {
        match self {
            Self::Failed(Failure::Invalid(why)) => Some(why),
            Self::NoInstance(why) => why.invalid(),
            _ => None,
        }
    }
}

/// Writes a duration in whole milliseconds, or microseconds below one, rounded up: what is above a budget never reads as
/// the budget itself.
fn at_least(time: Duration) -> String {
    match time.as_nanos() {
        nanos @ 0..1_000_000 => format!("{} µs", nanos.div_ceil(1_000)),
        nanos => format!("{} ms", nanos.div_ceil(1_000_000)),
    }
}

/// A guest that ended abruptly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trap {
    pub message: String,
    /// Function names from the component's name section, innermost first.
    pub backtrace: Option<String>,
    /// What it wrote as warnings and errors in the call, oldest first: its own account of what was wrong.
    pub said: Vec<String>,
}

impl Trap {
    /// The line that tells most: the last that names an error, but for those in which a language's runtime gives up.
    fn telling(&self) -> Option<&str> {
        let lines = || self.said.iter().rev().map(String::as_str);
        let names = |line: &&str| ["Error", "Exception", "panicked"].iter().any(|word| line.contains(word));
        let is_runtime = |line: &&str| line.starts_with("thread '") || line.starts_with("note: ");
        lines().find(|line| names(line) && !is_runtime(line)).or_else(|| lines().find(|line| !is_runtime(line)))
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.telling().map_or(Ok(()), |line| write!(f, "; it said: {line}"))
    }
}

/// wasmtime's words for a ceiling that was run into, where it has no type for it. Its version is pinned, and each of these
/// is tested.
pub(crate) mod says {
    pub(crate) const OUTPUT: &str = "fuel allocated for hostcalls has been exhausted";
    pub(crate) const HANDLES: [&str; 2] = ["resource table has no free keys", "store handle limit exceeded"];
}

impl From<wasmtime::Error> for Trap {
    fn from(error: wasmtime::Error) -> Self {
        let backtrace = error.downcast_ref::<wasmtime::WasmBacktrace>().map(|frames| {
            let names = frames.frames().iter().filter_map(|frame| {
                let name = frame.func_name()?;
                Some(readable(name))
            });
            names.collect::<Vec<_>>().join("\n")
        });
        let message = explained(format!("{:#}", error.root_cause()));
        Self { message, backtrace: backtrace.filter(|text| !text.is_empty()), said: Vec::new() }
    }
}

/// Whether the operating system gave no memory. wasmtime passes its error on as text at times.
pub(crate) fn is_out_of_memory(message: &str) -> bool {
    message.contains(&std::io::Error::from(Errno::NOMEM).to_string())
}

/// Adds to an error of too little memory, or too short a file, what is most likely why.
pub(crate) fn explained(mut message: String) -> String {
    if is_out_of_memory(&message) {
        message.push_str(&shortage_of_address_space().unwrap_or_default());
    }
    if message.contains(&std::io::Error::from(Errno::FBIG).to_string()) {
        message.push_str(&limit_of_file_sizes().unwrap_or_default());
    }
    without_numbers(&message)
}

/// Tells that files are limited: what a plugin's memory begins with is in one.
fn limit_of_file_sizes() -> Option<String> {
    let allowed = getrlimit(Resource::Fsize).current?;
    Some(format!(
        ": RLIMIT_FSIZE allows the host files of {allowed} bytes, and what the memory of a plugin begins with is in one; \
         raise it (`ulimit -f unlimited` before the start, or LimitFSIZE= of the service)"
    ))
}

/// Tells that the host's address space is limited.
fn shortage_of_address_space() -> Option<String> {
    let allowed = getrlimit(Resource::As).current?;
    Some(format!(
        ": RLIMIT_AS allows the host {} MiB of address space, where threads, stacks and plugins (each {} MiB) want some \
         GiB; raise it (`ulimit -v unlimited` before the start, or LimitAS= of the service)",
        allowed >> 20,
        Limits::default().memory >> 20
    ))
}

/// Guest-chosen: bounded and without control characters before anyone prints it.
fn readable(name: &str) -> String {
    const LONGEST: usize = 200;
    let demangled = format!("{:#}", rustc_demangle::demangle(name));
    demangled.chars().take(LONGEST).map(|c| if is_harmful(c) { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trap(said: &[&str]) -> String {
        let said = said.iter().map(|line| (*line).to_owned()).collect();
        Trap { message: "unreachable".to_owned(), backtrace: None, said }.to_string()
    }

    #[test]
    fn a_budget_that_was_not_enough_is_told_with_what_was_used_and_what_to_raise() {
        let used = CallError::CpuExhausted {
            used: Duration::from_micros(100_001),
            budget: Duration::from_millis(100),
            setting: "limits.cpu",
        };
        assert_eq!(used.to_string(), "used 101 ms of CPU of its 100 ms; raise limits.cpu");
        let late = CallError::DeadlineExceeded {
            deadline: Duration::from_secs(1),
            cpu: Duration::from_micros(250),
            setting: "poll.timeout",
        };
        assert_eq!(
            late.to_string(),
            "took longer than its deadline of 1000 ms, with 250 µs of CPU; raise poll.timeout"
        );
    }

    #[test]
    fn a_guests_own_word_of_what_was_wrong_is_told() {
        let python =
            ["Traceback (most recent call last):", "  File \"/0/app.py\", line 26, in sample", "ValueError: boom"];
        let runtime = ["thread '<unnamed>' panicked at lib.rs:1:1:", "note: run with `RUST_BACKTRACE=1`"];
        let said: Vec<&str> = python.into_iter().chain(runtime).collect();
        assert_eq!(trap(&said), "unreachable; it said: ValueError: boom");
        assert_eq!(trap(&["out of cheese"]), "unreachable; it said: out of cheese");
        assert_eq!(trap(&[]), "unreachable");
    }
}
