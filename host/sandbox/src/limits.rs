use std::time::Duration;
use wasmtime::ResourceLimiter;

/// What one plugin may use. Every ceiling is per plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Wall time its component may take to compile, once it is its turn.
    pub compile_time: Duration,
    /// All its linear memories and tables together, in bytes.
    pub memory: usize,
    /// CPU time per call.
    pub cpu: Duration,
    /// What the operator raises for more of it: another setting may cap this one.
    pub cpu_setting: &'static str,
    /// Wall time per call, waiting on the host included.
    pub deadline: Duration,
    /// What the operator raises for more of it.
    pub deadline_setting: &'static str,
    /// CPU and wall time for instantiation and `init`, which may read configuration or build tables.
    pub init_deadline: Duration,
    /// Bytes a call returns.
    pub output: usize,
    /// Resources it may hold at a time: descriptors, streams, pollables, requests. WASI plugins hold a dozen, a request
    /// takes five.
    pub handles: usize,
    /// Bytes read per call through `files`, of all of them together.
    pub file_bytes: usize,
    /// Bytes of one HTTP answer's body.
    pub http_body: usize,
    /// Instances it may discover.
    pub instances: usize,
    pub log_lines_per_second: u32,
    /// After escaping; the rest of a line is cut.
    pub log_line_bytes: usize,
    /// An instance that was not called for so long is ended, and made again at its next call. None: never.
    pub idle_timeout: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Of a Python interpreter on a slow board.
            compile_time: Duration::from_secs(60),
            // Several times what a Rust or C plugin needs; interpreters ask for more.
            memory: 64 << 20,
            cpu: Duration::from_millis(100),
            cpu_setting: "limits.cpu",
            deadline: Duration::from_secs(1),
            deadline_setting: "limits.deadline",
            init_deadline: Duration::from_secs(10),
            output: 4 << 20,
            handles: 256,
            // The processes of a large machine, a page each.
            file_bytes: 64 << 20,
            http_body: 8 << 20,
            instances: 100_000,
            log_lines_per_second: 20,
            log_line_bytes: 4096,
            idle_timeout: None,
        }
    }
}

/// Bytes passed to one host function: what a plugin saves fits. The host may keep them, as long as a handle does.
pub(crate) const ARGUMENTS: usize = 128 << 10;

/// Bytes of one answer to a request for random numbers.
pub(crate) const RANDOM: u64 = 64 << 10;

/// Bytes of the headers of one HTTP request or answer, as they are in memory.
pub(crate) const HTTP_FIELDS: usize = 64 << 10;

/// Core instances in one component: adapters of foreign toolchains make a few each.
pub(crate) const INSTANCES: usize = 64;

/// Holds the sum of a guest's memories and tables under one ceiling.
#[derive(Debug)]
pub(crate) struct Ceiling {
    limit: usize,
    used: usize,
    /// A growth was refused since the last look.
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
