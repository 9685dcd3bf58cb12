use std::time::Duration;
use wasmtime::ResourceLimiter;

/// The limits of one plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Wall time to compile the component, from the start of its turn.
    pub compile_time: Duration,
    /// All linear memories and tables together, in bytes.
    pub memory: usize,
    /// CPU time per call.
    pub cpu: Duration,
    /// The configuration key that the operator raises for more CPU time: another setting may be lower than
    /// `limits.cpu`.
    pub cpu_setting: &'static str,
    /// Wall time per call, including time that the plugin waits for the host.
    pub deadline: Duration,
    /// The configuration key that the operator raises for a longer deadline.
    pub deadline_setting: &'static str,
    /// CPU time and wall time for instantiation and for `init`, which may read configuration or build tables.
    pub init_deadline: Duration,
    /// Bytes that a call returns.
    pub output: usize,
    /// Resources held at a time: descriptors, streams, pollables, requests. A WASI plugin holds a dozen, and a request
    /// takes five.
    pub handles: usize,
    /// Bytes that a call reads through `files`, all files together.
    pub file_bytes: usize,
    /// Bytes of the body of one HTTP response.
    pub http_body: usize,
    /// Instances that the plugin may discover.
    pub instances: usize,
    pub log_lines_per_second: u32,
    /// Bytes of one log line after escaping; the rest of a longer line is cut.
    pub log_line_bytes: usize,
    /// Time without a call after which the instance of the plugin is ended. The next call creates a new one. None:
    /// never.
    pub idle_timeout: Option<Duration>,
}

impl Limits {
    pub const DEFAULT: Self = Self {
        // Enough for a Python interpreter on a slow board.
        compile_time: Duration::from_secs(60),
        // Several times the need of a Rust or C plugin. Plugins with an interpreter need a higher limit.
        memory: 64 << 20,
        cpu: Duration::from_millis(100),
        cpu_setting: "limits.cpu",
        deadline: Duration::from_secs(1),
        deadline_setting: "limits.deadline",
        init_deadline: Duration::from_secs(10),
        output: 4 << 20,
        handles: 512,
        // Enough to read one page of /proc for each process of a large machine.
        file_bytes: 64 << 20,
        http_body: 8 << 20,
        instances: 100_000,
        log_lines_per_second: 20,
        log_line_bytes: 4096,
        idle_timeout: None,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Bytes that a plugin passes to one host function. What a plugin saves fits. The host may keep them as long as a
/// handle exists.
pub(crate) const ARGUMENTS: usize = 128 << 10;

/// Bytes of random numbers per request.
pub(crate) const RANDOM: u64 = 64 << 10;

/// Bytes of the headers of one HTTP request or response, as they are in memory.
pub(crate) const HTTP_FIELDS: usize = 64 << 10;

/// Core instances in one component. Adapters of other toolchains create a few each.
pub(crate) const INSTANCES: usize = 64;

/// Limits the sum of a guest's memories and tables.
#[derive(Debug)]
pub(crate) struct Ceiling {
    limit: usize,
    used: usize,
    /// Whether a growth was refused since the last [`Self::take_refusal`].
    refused: bool,
}

impl Ceiling {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, used: 0, refused: false }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    pub(crate) fn take_refusal(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let wanted = self.used.saturating_add(desired.saturating_sub(current));
        if wanted > self.limit {
            self.refused = true;
            return false;
        }
        self.used = wanted;
        true
    }
}

impl ResourceLimiter for Ceiling {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = |elements: usize| elements.saturating_mul(size_of::<usize>());
        Ok(self.grow(bytes(current), bytes(desired)))
    }

    fn instances(&self) -> usize {
        INSTANCES
    }

    fn tables(&self) -> usize {
        INSTANCES
    }

    fn memories(&self) -> usize {
        INSTANCES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_holds_for_the_sum_of_all_memories() {
        let mut ceiling = Ceiling::new(100);
        assert!(ceiling.grow(0, 60));
        assert!(!ceiling.grow(0, 60), "a second memory beside the first");
        assert!(ceiling.take_refusal());
        assert!(!ceiling.take_refusal(), "told once");
        assert!(ceiling.grow(60, 100));
        assert_eq!(ceiling.used(), 100);
    }

    #[test]
    fn absurd_sizes_are_refused_rather_than_overflowing() {
        let mut ceiling = Ceiling::new(usize::MAX - 1);
        assert!(ceiling.grow(0, 10));
        assert!(!ceiling.grow(0, usize::MAX));
    }
}
