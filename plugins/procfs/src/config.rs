//! The operator's settings, and the grants that they need.

use crate::mounts::{self, Mount};
use crate::names::{MOST_NAME_CHARS, is_free, sanitised};
use crate::{cgroup, clock, cpu, disks, memory, net, process, totals};
use dropsonde_guest::{Config, Failure, Need};
use regex_lite::Regex;
use serde::Deserialize;

/// Largest `top`: as many as a page shows.
const MOST_TOP: usize = 100;

/// Largest `max_processes`. Each process takes two reads per tick; in all, they take half of a budget of 100 ms, as the
/// census estimates reads.
const MOST_PROCESSES: usize = 500;

const DEFAULT_TOP: usize = 5;
const DEFAULT_MAX_PROCESSES: usize = 64;

/// The configuration keys, not yet checked.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    top: usize,
    watch: Vec<WatchKey>,
    per: Per,
    max_processes: usize,
    mounts: Vec<String>,
    interfaces: Vec<String>,
    disks: Vec<String>,
}

/// An entry of `watch`.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "an entry of watch is a regular expression, or { name = \"…\", match = \"…\" }")]
enum WatchKey {
    Pattern(String),
    Named(NamedKey),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedKey {
    name: String,
    #[serde(rename = "match")]
    pattern: String,
}

/// The kind of an instance of processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Per {
    /// All processes with the same name.
    #[default]
    Program,
    /// One process.
    Pid,
}

/// The checked settings.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The number of programs or processes to discover by resident memory.
    pub(crate) top: usize,
    /// Patterns: processes whose command line matches one of them are discovered too.
    pub(crate) watch: Vec<WatchPattern>,
    pub(crate) per: Per,
    /// The most programs or processes to discover, watched ones first.
    pub(crate) max_processes: usize,
    /// Mount points whose disk space is read. `/` belongs to the host; each other one is an instance.
    pub(crate) mounts: Vec<Mount>,
    /// Interfaces that are instances of their own.
    pub(crate) interfaces: Names,
    /// Disks that are instances of their own.
    pub(crate) disks: Names,
}

/// A pattern for command lines. Without a name the instance is named after the program that matches.
#[derive(Debug)]
pub(crate) struct WatchPattern {
    pub(crate) name: Option<String>,
    pub(crate) pattern: Regex,
}

/// Device names: exact ones, and globs with `*` and `?`.
#[derive(Debug, Default)]
pub(crate) struct Names {
    exact: Vec<String>,
    globs: Vec<Regex>,
}

// === impl Keys ===

impl Default for Keys {
    fn default() -> Self {
        Self {
            top: DEFAULT_TOP,
            watch: Vec::new(),
            per: Per::default(),
            max_processes: DEFAULT_MAX_PROCESSES,
            mounts: vec![mounts::ROOT.to_owned()],
            interfaces: Vec::new(),
            disks: Vec::new(),
        }
    }
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            top: DEFAULT_TOP,
            watch: Vec::new(),
            per: Per::default(),
            max_processes: DEFAULT_MAX_PROCESSES,
            mounts: vec![Mount::root()],
            interfaces: Names::default(),
            disks: Names::default(),
        }
    }
}

impl Settings {
    /// Reads and checks the configuration. A configuration that cannot work is [`Failure::Invalid`].
    pub(crate) fn read(config: &Config) -> Result<Self, Failure> {
        let Keys { top, watch, per, max_processes, mounts, interfaces, disks } = config.parse()?;
        if top > MOST_TOP {
            return Err(Failure::invalid(format!("top: {top} is more than {MOST_TOP}")));
        }
        if !(1..=MOST_PROCESSES).contains(&max_processes) {
            return Err(Failure::invalid(format!("max_processes: {max_processes} is not in 1 to {MOST_PROCESSES}")));
        }
        Ok(Self {
            top,
            watch: WatchPattern::all(watch, per)?,
            per,
            max_processes,
            mounts: mounts::configured(&mounts)?,
            interfaces: Names::read("interfaces", &interfaces)?,
            disks: Names::read("disks", &disks)?,
        })
    }

    pub(crate) fn wants_processes(&self) -> bool {
        self.top > 0 || !self.watch.is_empty()
    }

    /// Returns the number of files to read to examine one process.
    pub(crate) fn reads_each(&self) -> usize {
        if self.watch.is_empty() { 1 } else { 2 }
    }

    /// Returns exactly the paths that the sampler reads with these settings. Single processes can be requested by their
    /// ids, whatever is discovered.
    pub(crate) fn needs(&self) -> Vec<Need> {
        let mut paths = vec![cpu::STAT, memory::MEMINFO, net::DEV, clock::LOADAVG];
        paths.extend([clock::UPTIME, disks::DISKSTATS, totals::BOOT_ID, process::PROC]);
        paths.extend(["/proc/*/stat", "/proc/*/status"]);
        paths.extend(cgroup::NEEDED);
        paths.extend(net::NEEDED);
        paths.extend(disks::NEEDED);
        if self.mounts.iter().any(Mount::is_instance) {
            paths.push(mounts::TABLE);
        }
        if !self.watch.is_empty() {
            paths.push("/proc/*/cmdline");
        }
        let spaces = self.mounts.iter().map(|mount| Need::read(literal(&mount.path)));
        paths.into_iter().map(Need::read).chain(spaces).collect()
    }
}

// === impl WatchPattern ===

impl WatchPattern {
    fn all(keys: Vec<WatchKey>, per: Per) -> Result<Vec<Self>, Failure> {
        let mut watch: Vec<Self> = Vec::new();
        for key in keys {
            let (name, pattern) = match key {
                WatchKey::Pattern(pattern) => (None, pattern),
                WatchKey::Named(NamedKey { name, pattern }) => (Some(name), pattern),
            };
            if let Some(name) = &name {
                let invalid = |why: &str| Err(Failure::invalid(format!("watch: the name {name:?} {why}")));
                if name.is_empty() || name.len() > MOST_NAME_CHARS || sanitised(name) != *name {
                    return invalid("is not made of 1 to 64 letters, digits, dots, hyphens and underscores");
                }
                if !is_free(name) {
                    return invalid("is reserved for another kind of instance");
                }
                if watch.iter().any(|other| other.name.as_ref() == Some(name)) {
                    return invalid("is given twice");
                }
                if per == Per::Pid {
                    return invalid("has no use with per = \"pid\", where every process is an instance of its own");
                }
            }
            let pattern = Regex::new(&pattern).map_err(|error| {
                Failure::invalid(format!("watch: {pattern:?} is not a regular expression: {error}"))
            })?;
            watch.push(Self { name, pattern });
        }
        Ok(watch)
    }
}

// === impl Names ===

impl Names {
    fn read(key: &str, patterns: &[String]) -> Result<Self, Failure> {
        let mut names = Self::default();
        for pattern in patterns {
            if pattern.is_empty() || pattern.contains('/') || pattern.contains(char::is_whitespace) {
                return Err(Failure::invalid(format!(
                    "{key}: {pattern:?} is neither a device name nor a glob of device names"
                )));
            }
            if !pattern.contains(['*', '?']) {
                names.exact.push(pattern.clone());
                continue;
            }
            let escaped = |c: char| match c {
                '*' => ".*".to_owned(),
                '?' => ".".to_owned(),
                c => regex_lite::escape(c.encode_utf8(&mut [0; 4])),
            };
            let regex: String = pattern.chars().map(escaped).collect();
            let glob = Regex::new(&format!("^(?:{regex})$"));
            names.globs.push(glob.map_err(|error| Failure::invalid(format!("{key}: {pattern:?}: {error}")))?);
        }
        Ok(names)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.globs.is_empty()
    }

    /// Returns whether a device is configured: by its exact name, or, if it is a physical device, by a glob.
    pub(crate) fn have(&self, name: &str, is_physical: bool) -> bool {
        self.exact.iter().any(|exact| exact == name)
            || (is_physical && self.globs.iter().any(|glob| glob.is_match(name)))
    }
}

/// Returns a glob that matches exactly this path, with any characters in it.
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
    fn without_keys_the_five_largest_programs_and_the_root_file_system_are_read() {
        let settings = read("{}").unwrap();
        assert_eq!((settings.top, settings.max_processes, settings.per), (5, 64, Per::Program));
        assert_eq!(settings.mounts, [Mount::root()]);
        assert!(settings.interfaces.is_empty() && settings.disks.is_empty());
    }

    #[test]
    fn watching_adds_to_the_largest() {
        assert_eq!(read(r#"{"watch": ["nginx"]}"#).unwrap().top, 5);
        assert_eq!(read(r#"{"watch": ["nginx"], "top": 0}"#).unwrap().top, 0);
    }

    #[test]
    fn a_watched_pattern_may_have_a_name_of_its_own() {
        let settings = read(r#"{"watch": ["nginx", {"name": "web", "match": "php|nginx"}]}"#).unwrap();
        let names: Vec<_> = settings.watch.iter().map(|watch| watch.name.as_deref()).collect();
        assert_eq!(names, [None, Some("web")]);
        assert!(settings.watch[1].pattern.is_match("/usr/bin/php"));
    }

    #[test]
    fn a_value_that_cannot_work_is_named_with_its_key() {
        assert_eq!(why(r#"{"top": 101}"#), "top: 101 is more than 100");
        assert_eq!(why(r#"{"max_processes": 0}"#), "max_processes: 0 is not in 1 to 500");
        assert!(why(r#"{"watch": ["ok", "("]}"#).starts_with(r#"watch: "(" is not a regular expression: "#));
        assert!(why(r#"{"tops": 1}"#).contains("unknown field `tops`"));
        assert!(why(r#"{"top": -1}"#).contains("-1"));
        assert!(why(r#"{"per": "thread"}"#).contains("thread"));
        assert!(why(r#"{"watch": [{"name": "web"}]}"#).contains("an entry of watch is a regular expression, or"));
        let named = |name: &str| why(&format!(r#"{{"watch": [{{"name": "{name}", "match": "x"}}]}}"#));
        for name in ["", "a b", "ü", "a/b"] {
            assert!(named(name).contains("is not made of"), "{name}");
        }
        for name in ["host", "mount-a", "disk-a", "interface-a", "a-1-2"] {
            assert!(named(name).contains("is reserved for another kind of instance"), "{name}");
        }
        let twice = r#"{"watch": [{"name": "a", "match": "x"}, {"name": "a", "match": "y"}]}"#;
        assert_eq!(why(twice), r#"watch: the name "a" is given twice"#);
        assert!(why(r#"{"per": "pid", "watch": [{"name": "a", "match": "x"}]}"#).contains("per = \"pid\""));
        for device in ["", "a/b", "a b"] {
            assert!(why(&format!(r#"{{"disks": ["{device}"]}}"#)).starts_with("disks: "), "{device}");
        }
    }

    #[test]
    fn a_glob_means_physical_devices_and_a_name_means_any() {
        let settings = read(r#"{"interfaces": ["eth?", "docker0", "w.*"]}"#).unwrap();
        let have = |name, is_physical| settings.interfaces.have(name, is_physical);
        assert!(have("eth0", true) && !have("eth0", false) && !have("eth10", true));
        assert!(have("docker0", false) && !have("docker01", true));
        assert!(have("w.lan", true) && !have("wlan0", true), "a dot is a dot");
    }

    #[test]
    fn only_what_is_used_is_asked_for() {
        let nothing_extra = paths(r#"{"top": 0, "mounts": []}"#);
        assert_eq!(
            nothing_extra[..10],
            [
                "/proc/stat",
                "/proc/meminfo",
                "/proc/net/dev",
                "/proc/loadavg",
                "/proc/uptime",
                "/proc/diskstats",
                "/proc/sys/kernel/random/boot_id",
                "/proc",
                "/proc/*/stat",
                "/proc/*/status",
            ]
        );
        assert!(nothing_extra[10..].iter().all(|path| path.starts_with("/sys/") || path == "/proc/self/cgroup"));
        assert_eq!(paths("{}")[nothing_extra.len()..], ["/"]);
        assert!(paths(r#"{"watch": ["x"]}"#).contains(&"/proc/*/cmdline".to_owned()));
    }

    #[test]
    fn a_mount_is_asked_for_by_exactly_its_path() {
        let paths = paths(r#"{"mounts": ["/", "/srv/*[a]"]}"#);
        assert!(paths.contains(&"/srv/[*][[]a[]]".to_owned()), "{paths:?}");
        assert!(paths.contains(&"/proc/self/mounts".to_owned()), "{paths:?}");
    }
}
