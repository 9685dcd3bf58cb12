//! The operator's settings, and what they need to be granted.

use crate::mounts::{self, Mount};
use crate::{clock, cpu, disks, memory, net, process};
use dropsonde_guest::{Config, Failure, Need};
use regex_lite::Regex;
use serde::Deserialize;

/// As many as a page shows; hysteresis may list twice that.
const MOST_TOP: usize = 100;

/// Each takes two files a tick: half of a budget of 100 ms, as the roster reckons it.
const MOST_PROCESSES: usize = 500;

const DEFAULT_TOP: usize = 5;
const DEFAULT_MAX_PROCESSES: usize = 64;

/// The keys as the operator writes them.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    top: Option<usize>,
    watch: Vec<String>,
    max_processes: usize,
    mounts: Vec<String>,
}

/// The settings, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    /// How many processes to discover by resident memory.
    pub(crate) top: usize,
    /// Processes whose command line matches one of these are discovered too.
    pub(crate) watch: Vec<Regex>,
    /// The most processes to discover, watched ones first.
    pub(crate) max_processes: usize,
    /// Where to read disk space. `/` belongs to the host, each other one is an instance.
    pub(crate) mounts: Vec<Mount>,
}

// === impl Keys ===

impl Default for Keys {
    fn default() -> Self {
        Self {
            top: None,
            watch: Vec::new(),
            max_processes: DEFAULT_MAX_PROCESSES,
            mounts: vec![mounts::ROOT.to_owned()],
        }
    }
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self { top: DEFAULT_TOP, watch: Vec::new(), max_processes: DEFAULT_MAX_PROCESSES, mounts: vec![Mount::root()] }
    }
}

impl Settings {
    /// Reads and checks the configuration; what cannot work is [`Failure::Invalid`].
    pub(crate) fn read(config: &Config) -> Result<Self, Failure> {
        let keys: Keys = config.parse()?;
        let watch = keys.watch.iter().map(|pattern| watch(pattern)).collect::<Result<Vec<_>, _>>()?;
        // Whoever names processes wants those.
        let top = keys.top.unwrap_or(if watch.is_empty() { DEFAULT_TOP } else { 0 });
        if top > MOST_TOP {
            return Err(Failure::invalid(format!("top: {top} is more than {MOST_TOP}")));
        }
        let max_processes = keys.max_processes;
        if !(1..=MOST_PROCESSES).contains(&max_processes) {
            return Err(Failure::invalid(format!("max_processes: {max_processes} is not in 1 to {MOST_PROCESSES}")));
        }
        Ok(Self { top, watch, max_processes, mounts: mounts::configured(&keys.mounts)? })
    }

    pub(crate) fn wants_processes(&self) -> bool {
        self.top > 0 || !self.watch.is_empty()
    }

    /// Every path these settings make the sampler read, and no other.
    pub(crate) fn needs(&self) -> Vec<Need> {
        let mut paths = vec![cpu::STAT, memory::MEMINFO, net::DEV, clock::LOADAVG];
        paths.extend([clock::UPTIME, disks::DISKSTATS, process::PROC]);
        paths.extend(memory::LIMITS);
        if self.mounts.iter().any(Mount::is_instance) {
            paths.push(mounts::TABLE);
        }
        if self.wants_processes() {
            paths.extend(["/proc/*/stat", "/proc/*/status"]);
        }
        if !self.watch.is_empty() {
            paths.push("/proc/*/cmdline");
        }
        let spaces = self.mounts.iter().map(|mount| Need::read(literal(&mount.path)));
        paths.into_iter().map(Need::read).chain(spaces).collect()
    }
}

fn watch(pattern: &str) -> Result<Regex, Failure> {
    Regex::new(pattern)
        .map_err(|error| Failure::invalid(format!("watch: {pattern:?} is not a regular expression: {error}")))
}

/// A glob that matches exactly this path, whatever a mount point is called.
fn literal(path: &str) -> String {
    let mut glob = String::with_capacity(path.len());
    for c in path.chars() {
        match c {
            '*' | '?' | '[' | ']' => glob.extend(['[', c, ']']),
            _ => glob.push(c),
        }
    }
    glob
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Settings, Failure> {
        Settings::read(&Config::from_json(json))
    }

    fn why(json: &str) -> String {
        match read(json).unwrap_err() {
            Failure::Invalid(why) => why,
            other => panic!("{other:?}"),
        }
    }

    fn paths(json: &str) -> Vec<String> {
        let path = |need| match need {
            Need::Read(path) => path,
            other => panic!("{other:?}"),
        };
        read(json).unwrap().needs().into_iter().map(path).collect()
    }

    #[test]
    fn without_keys_the_five_largest_processes_and_the_root_file_system_are_read() {
        let settings = read("{}").unwrap();
        assert_eq!((settings.top, settings.max_processes), (5, 64));
        assert_eq!(settings.mounts, [Mount::root()]);
    }

    #[test]
    fn watching_turns_the_largest_processes_off_unless_they_are_asked_for() {
        assert_eq!(read(r#"{"watch": ["nginx"]}"#).unwrap().top, 0);
        assert_eq!(read(r#"{"watch": ["nginx"], "top": 3}"#).unwrap().top, 3);
    }

    #[test]
    fn a_value_that_cannot_work_is_named_with_its_key() {
        assert_eq!(why(r#"{"top": 101}"#), "top: 101 is more than 100");
        assert_eq!(why(r#"{"max_processes": 0}"#), "max_processes: 0 is not in 1 to 500");
        assert!(why(r#"{"watch": ["ok", "("]}"#).starts_with(r#"watch: "(" is not a regular expression: "#));
        assert!(why(r#"{"tops": 1}"#).contains("unknown field `tops`"));
        assert!(why(r#"{"top": -1}"#).contains("-1"));
    }

    #[test]
    fn only_what_is_used_is_asked_for() {
        let nothing_extra = paths(r#"{"top": 0, "mounts": []}"#);
        assert_eq!(
            nothing_extra,
            [
                "/proc/stat",
                "/proc/meminfo",
                "/proc/net/dev",
                "/proc/loadavg",
                "/proc/uptime",
                "/proc/diskstats",
                "/proc",
                "/sys/fs/cgroup/memory.max",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            ]
        );
        assert_eq!(paths(r#"{"top": 0}"#)[nothing_extra.len()..], ["/"]);
        assert_eq!(paths("{}")[nothing_extra.len()..], ["/proc/*/stat", "/proc/*/status", "/"]);
        assert!(paths(r#"{"watch": ["x"]}"#).contains(&"/proc/*/cmdline".to_owned()));
    }

    #[test]
    fn a_mount_is_asked_for_by_exactly_its_path() {
        let paths = paths(r#"{"mounts": ["/", "/srv/*[a]"]}"#);
        assert!(paths.contains(&"/srv/[*][[]a[]]".to_owned()), "{paths:?}");
        assert!(paths.contains(&"/proc/self/mounts".to_owned()), "{paths:?}");
    }
}
