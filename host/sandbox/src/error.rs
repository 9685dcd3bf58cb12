use crate::{Failure, Limits};
use dropsonde_model::text::{is_harmful, without_numbers};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::fmt;
use std::time::Duration;

/// The ways in which a call into a plugin can fail. After every error except [`CallError::Failed`] the instance is
/// discarded, and the next call gets a new one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The plugin answered with a failure. Its instance goes on.
    #[error(transparent)]
    Failed(#[from] Failure),
    #[error("trapped: {0}")]
    Trapped(Trap),
    /// The call was stopped because it used up its CPU time. How much it needed in total is not known.
    #[error("used {} of its {} of CPU time; raise {setting}", at_least(*used), at_least(*budget))]
    CpuExhausted {
        used: Duration,
        budget: Duration,
        /// The configuration key of the budget.
        setting: &'static str,
    },
    #[error(
        "took longer than its deadline of {}, with {} of CPU time; raise {setting}",
        at_least(*deadline),
        at_least(*cpu)
    )]
    DeadlineExceeded {
        deadline: Duration,
        /// CPU time used until then. If it is small, the plugin waited or the machine was busy.
        cpu: Duration,
        /// The configuration key of the deadline.
        setting: &'static str,
    },
    /// The plugin asked for more memory than its limit, and ended when the host refused.
    #[error("exceeded its {limit} bytes of memory; raise limits.memory: {trap}")]
    MemoryExhausted { limit: usize, trap: Trap },
    /// The answer does not have the form that the contract requires.
    #[error("broke the plugin contract: {0}")]
    OutOfContract(String),
    /// The plugin returned more bytes than a call may.
    #[error("returned more than its {0} bytes of output; raise limits.output")]
    OutputExceeded(usize),
    /// The plugin passed more bytes to a host function than it may.
    #[error("passed more than {0} bytes to a host function; no plugin can pass more at a time")]
    ArgumentsExceeded(usize),
    /// The plugin held more resources than it may: descriptors, streams, pollables, requests.
    #[error("held more than its {0} resource handles (limits.handles)")]
    HandlesExhausted(usize),
    /// The plugin ran out of stack.
    #[error("ran out of stack: {0}")]
    StackExhausted(Trap),
    /// The host could not create the instance to call.
    #[error("cannot create an instance: {0}")]
    NoInstance(Box<CallError>),
    /// There was no answer in time, and the thread still waits in a system call. This happens, for example, with a file
    /// on a network file system that is gone. The worker cannot be used any more.
    #[error("took longer than its deadline of {0:?}, and still runs: its thread waits in a system call")]
    Stuck(Duration),
    /// The worker's thread has ended: the host is stopping, or the machine could not start the thread.
    #[error("the worker has stopped")]
    Stopped,
}

impl CallError {
    /// Returns a short, fixed word for a metric label.
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
            Self::ArgumentsExceeded(_) => "arguments",
            Self::HandlesExhausted(_) => "handles",
            Self::StackExhausted(_) => "stack",
            Self::NoInstance(why) => why.reason(),
            Self::Stuck(_) => "stuck",
            Self::Stopped => "stopped",
        }
    }

    /// Returns where the guest was when it ended, if known: one frame per line.
    pub fn backtrace(&self) -> Option<&str> {
        self.trap()?.backtrace.as_deref()
    }

    /// Returns the trap that ended the guest, if one did.
    pub fn trap(&self) -> Option<&Trap> {
        match self {
            Self::Trapped(trap) | Self::MemoryExhausted { trap, .. } | Self::StackExhausted(trap) => Some(trap),
            Self::NoInstance(why) => why.trap(),
            _ => None,
        }
    }

    /// Returns whether the call ended its instance, or there was no instance to call.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Failed(_) | Self::Stopped => false,
            Self::NoInstance(why) => why.is_end(),
            _ => true,
        }
    }

    /// Returns whether the call ran into a limit of time or size. A call with less work might succeed.
    pub fn is_want(&self) -> bool {
        matches!(
            self,
            Self::CpuExhausted { .. }
                | Self::DeadlineExceeded { .. }
                | Self::MemoryExhausted { .. }
                | Self::OutputExceeded(_)
                | Self::ArgumentsExceeded(_)
                | Self::HandlesExhausted(_)
        )
    }

    /// Returns the plugin's message that its configuration cannot work.
    pub fn invalid(&self) -> Option<&str> {
        match self {
            Self::Failed(Failure::Invalid(why)) => Some(why),
            Self::NoInstance(why) => why.invalid(),
            _ => None,
        }
    }
}

/// Writes a duration in whole milliseconds, or in microseconds below one millisecond, rounded up. So a time above a
/// budget never reads as the budget itself.
fn at_least(time: Duration) -> String {
    match time.as_nanos() {
        nanos @ 0..1_000_000 => format!("{} µs", nanos.div_ceil(1_000)),
        nanos => format!("{} ms", nanos.div_ceil(1_000_000)),
    }
}

/// A trap: the guest ended abruptly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trap {
    pub message: String,
    /// Function names from the component's name section, innermost first.
    pub backtrace: Option<String>,
    /// Warnings and errors that the guest wrote during the call, oldest first.
    pub said: Vec<String>,
}

impl Trap {
    /// Returns the most informative line: the last one that names an error, without the lines in which a language's
    /// runtime gives up.
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

/// The messages of wasmtime for limits for which it has no error type. Its version is pinned, and a test covers each
/// message.
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

/// Returns whether a message says that the operating system had no memory. wasmtime sometimes passes that error on as
/// text only.
pub(crate) fn is_out_of_memory(message: &str) -> bool {
    message.contains(&std::io::Error::from(Errno::NOMEM).to_string())
}

/// Adds the most likely cause to an error about too little memory or a file that is too large.
pub(crate) fn explained(mut message: String) -> String {
    if is_out_of_memory(&message) {
        message.push_str(&shortage_of_address_space().unwrap_or_default());
    }
    if message.contains(&std::io::Error::from(Errno::FBIG).to_string()) {
        message.push_str(&limit_of_file_sizes().unwrap_or_default());
    }
    without_numbers(&message)
}

/// Explains that the size of files is limited. The initial contents of a plugin's memory are in a file.
fn limit_of_file_sizes() -> Option<String> {
    let allowed = getrlimit(Resource::Fsize).current?;
    Some(format!(
        ": RLIMIT_FSIZE limits the host's files to {allowed} bytes, and the initial memory of a plugin is in a file; \
         raise it (`ulimit -f unlimited` before the start, or LimitFSIZE= of the service)"
    ))
}

/// Explains that the host's address space is limited.
fn shortage_of_address_space() -> Option<String> {
    let allowed = getrlimit(Resource::As).current?;
    Some(format!(
        ": RLIMIT_AS allows the host {} MiB of address space, but threads, stacks and plugins ({} MiB each) need some \
         GiB; raise it (`ulimit -v unlimited` before the start, or LimitAS= of the service)",
        allowed >> 20,
        Limits::default().memory >> 20
    ))
}

/// Returns a function name that is safe to print: a guest chooses it, so it is cut and freed of control characters.
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
        assert_eq!(used.to_string(), "used 101 ms of its 100 ms of CPU time; raise limits.cpu");
        let late = CallError::DeadlineExceeded {
            deadline: Duration::from_secs(1),
            cpu: Duration::from_micros(250),
            setting: "poll.timeout",
        };
        assert_eq!(
            late.to_string(),
            "took longer than its deadline of 1000 ms, with 250 µs of CPU time; raise poll.timeout"
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
