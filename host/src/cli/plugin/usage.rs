//! Compares a plugin's CPU time, wall time and memory with its limits.

use super::LimitArgs;
use crate::config::{Size, Span};
use anyhow::{Result, bail};
use dropsonde_sandbox::{CallError, Limits};
use humantime::format_duration;
use serde_json::{Value, json};
use std::time::Duration;

/// A plugin without a host can use this many times its limits of time and of memory, so that an error can say how far
/// it exceeds them.
const ROOM_OF_TIME: u32 = 10;
const ROOM_OF_MEMORY: usize = 4;

/// The usage of one call.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CallUsage {
    pub(super) cpu: Duration,
    pub(super) wall: Duration,
    /// Bytes of the plugin's memories. They never shrink: the size after the call is the largest so far.
    pub(super) memory: usize,
}

/// The limits that a host would set.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostLimits {
    pub(super) cpu: Duration,
    pub(super) wall: Duration,
    pub(super) memory: usize,
}

// === impl CallUsage ===

impl CallUsage {
    /// Returns the higher value of each resource.
    pub(super) fn max(self, other: Self) -> Self {
        let Self { cpu, wall, memory } = self;
        Self { cpu: cpu.max(other.cpu), wall: wall.max(other.wall), memory: memory.max(other.memory) }
    }
}

// === impl HostLimits ===

impl Default for HostLimits {
    fn default() -> Self {
        let Limits { cpu, deadline: wall, memory, .. } = Limits::default();
        Self { cpu, wall, memory }
    }
}

impl HostLimits {
    pub(super) fn new(args: &LimitArgs) -> Self {
        let Self { cpu, wall, memory } = Self::default();
        Self {
            cpu: args.cpu.map_or(cpu, Span::get),
            wall: args.deadline.map_or(wall, Span::get),
            memory: args.memory.map_or(memory, Size::get),
        }
    }

    /// Returns limits that leave room above the allowed values.
    pub(super) fn with_room(&self) -> Limits {
        Limits {
            cpu: self.cpu.saturating_mul(ROOM_OF_TIME),
            deadline: self.wall.saturating_mul(ROOM_OF_TIME),
            memory: self.memory.saturating_mul(ROOM_OF_MEMORY),
            ..Limits::default()
        }
    }

    /// Fails if the usage exceeds a limit. The error says which, by how much, and how to raise it.
    pub(super) fn check(&self, what: &str, used: CallUsage) -> Result<()> {
        let Self { cpu, wall, memory } = *self;
        if used.cpu > cpu {
            bail!("{what} used {} of CPU time, {}", took(used.cpu), over_time(used.cpu, cpu, "--cpu", "cpu"));
        }
        if used.memory > memory {
            let over = used.memory.saturating_sub(memory);
            let (used, over, limit) = (Size::new(used.memory), Size::new(over), Size::new(memory));
            bail!(
                "{what} used {used} of memory, {over} more than its limit of {limit}; {}",
                raise("--memory", "memory")
            );
        }
        if used.wall > wall {
            bail!("{what} took {}, {}", took(used.wall), over_time(used.wall, wall, "--deadline", "deadline"));
        }
        Ok(())
    }

    /// Turns the error of a call that exceeded even the raised limits into the same kind of message. Other errors keep
    /// their text.
    pub(super) fn explain(&self, what: &str, error: CallError) -> anyhow::Error {
        let Self { cpu, wall, memory } = *self;
        let times = |limit| format!("{ROOM_OF_TIME} times its limit of {}", format_duration(limit));
        match error {
            CallError::CpuExhausted { budget, .. } => {
                let used = format_duration(budget);
                anyhow::anyhow!("{what} used more than {used} of CPU time, {}; {}", times(cpu), raise("--cpu", "cpu"))
            }
            CallError::DeadlineExceeded { deadline, .. } => {
                let (used, raise) = (format_duration(deadline), raise("--deadline", "deadline"));
                anyhow::anyhow!("{what} took longer than {used}, {}; {raise}", times(wall))
            }
            CallError::MemoryExhausted { limit, trap } => anyhow::anyhow!(
                "{what} wanted more than {} of memory, {ROOM_OF_MEMORY} times its limit of {}; {}: {trap}",
                Size::new(limit),
                Size::new(memory),
                raise("--memory", "memory")
            ),
            CallError::NoInstance(why) => self.explain(what, *why),
            error => anyhow::Error::from(error).context(format!("{what} failed")),
        }
    }

    pub(super) fn json(&self) -> Value {
        let Self { cpu, wall, memory } = self;
        json!({ "cpu_seconds": cpu.as_secs_f64(), "deadline_seconds": wall.as_secs_f64(), "memory_bytes": memory })
    }
}

fn over_time(used: Duration, limit: Duration, flag: &str, key: &str) -> String {
    let over = used.saturating_sub(limit);
    let over = took(over);
    format!("{over} more than its limit of {}; {}", format_duration(limit), raise(flag, key))
}

/// Formats a duration for people.
pub(super) fn took(duration: Duration) -> String {
    format!("{duration:.1?}").replace(".0", "")
}

fn raise(flag: &str, key: &str) -> String {
    format!("{flag} raises it here, limits.{key} on a host")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: HostLimits =
        HostLimits { cpu: Duration::from_millis(100), wall: Duration::from_secs(1), memory: 64 << 20 };

    fn used(cpu_ms: u64, wall_ms: u64, memory: usize) -> CallUsage {
        CallUsage { cpu: Duration::from_millis(cpu_ms), wall: Duration::from_millis(wall_ms), memory }
    }

    #[test]
    fn the_error_of_a_call_over_a_limit_says_by_how_much_and_which_flag_raises_it() {
        let said = |used| ALLOWED.check("sample", used).unwrap_err().to_string();
        assert_eq!(
            said(used(340, 400, 0)),
            "sample used 340ms of CPU time, 240ms more than its limit of 100ms; --cpu raises it here, limits.cpu on a host"
        );
        assert_eq!(
            said(used(1, 1500, 0)),
            "sample took 1.5s, 500ms more than its limit of 1s; --deadline raises it here, limits.deadline on a host"
        );
        assert_eq!(
            said(used(1, 1, 80 << 20)),
            "sample used 80 MiB of memory, 16 MiB more than its limit of 64 MiB; --memory raises it here, limits.memory on a host"
        );
        assert!(ALLOWED.check("sample", used(100, 1000, 64 << 20)).is_ok());
    }

    #[test]
    fn the_error_of_a_call_over_the_raised_limit_says_the_least_usage() {
        let said = |error| ALLOWED.explain("sample", error).to_string();
        let Limits { cpu: budget, deadline, .. } = ALLOWED.with_room();
        let cpu = CallError::CpuExhausted { used: budget, budget, setting: "limits.cpu" };
        assert_eq!(
            said(CallError::NoInstance(Box::new(cpu))),
            "sample used more than 1s of CPU time, 10 times its limit of 100ms; --cpu raises it here, limits.cpu on a host"
        );
        let late = CallError::DeadlineExceeded { deadline, cpu: budget, setting: "limits.deadline" };
        assert!(said(late).contains("longer than 10s"));
    }
}
