//! Files that several rows of one tick have in common.

use crate::{clock, memory};
use dropsonde_guest::{Failure, files};
use std::collections::BTreeMap;

/// Reads each file at most once, when first asked for: rows of one tick agree, and only what they use is read.
#[derive(Default)]
pub(crate) struct Shared {
    texts: BTreeMap<&'static str, Result<String, Failure>>,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn text(&mut self, path: &'static str) -> Result<&str, Failure> {
        let text = self.texts.entry(path).or_insert_with(|| Ok(files::read_to_string(path)?));
        text.as_deref().map_err(|failure| failure.clone())
    }

    /// What there is of memory, in MiB: the machine's, or the container's limit when that is less.
    pub(crate) fn memory_limit_mb(&mut self) -> Option<f64> {
        let machine = self.text(memory::MEMINFO).ok().and_then(|text| memory::parse(text).limit_mb);
        let container = memory::LIMITS.iter().filter_map(|path| self.text(path).ok().and_then(memory::parse_limit_mb));
        container.chain(machine).reduce(f64::min)
    }

    /// Seconds since boot.
    pub(crate) fn uptime(&mut self) -> Result<Option<f64>, Failure> {
        self.text(clock::UPTIME).map(clock::parse_uptime)
    }
}

#[cfg(test)]
impl Shared {
    /// These files as they are given, instead of the machine's.
    pub(crate) fn given(texts: impl IntoIterator<Item = (&'static str, Result<&'static str, Failure>)>) -> Self {
        Self { texts: texts.into_iter().map(|(path, text)| (path, text.map(str::to_owned))).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(v2: Result<&'static str, Failure>, v1: Result<&'static str, Failure>) -> Option<f64> {
        let [v2_path, v1_path] = memory::LIMITS;
        Shared::given([(memory::MEMINFO, Ok("MemTotal: 8388608 kB\n")), (v2_path, v2), (v1_path, v1)]).memory_limit_mb()
    }

    #[test]
    fn a_container_is_limited_by_its_cgroup_and_a_machine_by_its_memory() {
        let missing = || Err(Failure::unavailable("not found"));
        assert_eq!(limit(missing(), missing()), Some(8192.0));
        assert_eq!(limit(Ok("max\n"), missing()), Some(8192.0));
        assert_eq!(limit(Ok("536870912\n"), missing()), Some(512.0));
        assert_eq!(limit(missing(), Ok("9223372036854771712\n")), Some(8192.0));
        assert_eq!(limit(missing(), Ok("268435456\n")), Some(256.0));
    }

    #[test]
    fn a_limit_above_what_the_machine_has_limits_nothing() {
        assert_eq!(limit(Ok("17179869184\n"), Err(Failure::Gone)), Some(8192.0));
    }
}
