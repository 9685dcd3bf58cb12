//! Reads this machine from /proc: the host, its mounts and its processes.
//!
//! Instances are `host`, one per configured mount other than `/`, and one per watched or large process. They all have
//! the same fields; those without a meaning for an instance have no signal. Nothing needed for sampling is remembered
//! between calls: an id says by itself what to read, so a fresh worker carries on where the last one stopped.
//!
//! # Layout
//!
//! * `config`: the operator's settings, and what they need to be granted.
//! * `row`: the fields, and one instance's values for them.
//! * `shared`: files that several rows of one tick have in common.
//! * `host`, `mounts`, `process`: an instance's row.
//! * `roster`: which processes become instances.
//! * `cpu`, `memory`, `net`, `disks`, `clock`: one parser per kernel file.

mod clock;
mod config;
mod cpu;
mod disks;
mod host;
mod memory;
mod mounts;
mod net;
mod process;
mod roster;
mod row;
mod shared;

use config::Settings;
use dropsonde_guest::{Config, Failure, Field, Instance, Need, Reading, Readings, Sampler, Tick, export_sampler, log};
use process::ProcessId;
use roster::Roster;
use row::Row;
use shared::Shared;

/// The sampler of this plugin.
#[derive(Default)]
pub struct Procfs {
    settings: Settings,
    roster: Roster,
    /// Whether the last discovery left processes out; the log is told when that begins.
    crowded: bool,
}

export_sampler!(Procfs);

// === impl Procfs ===

impl Sampler for Procfs {
    fn needs(config: &Config) -> Result<Vec<Need>, Failure> {
        Settings::read(config).map(|settings| settings.needs())
    }

    fn init(&mut self, config: &Config) -> Result<(), Failure> {
        *self = Self { settings: Settings::read(config)?, ..Self::default() };
        Ok(())
    }

    fn fields(&self) -> Vec<Field> {
        row::fields()
    }

    fn discover(&mut self, tick: &Tick) -> Result<Vec<Instance>, Failure> {
        let mut instances = vec![Instance::new(host::ID).label("kind", "host")];
        instances.extend(mounts::discover(&self.settings)?);
        if self.settings.wants_processes() {
            instances.extend(self.discover_processes(tick)?);
        }
        Ok(instances)
    }

    fn sample(&mut self, instance: &str) -> Result<Reading, Failure> {
        self.row(instance, &mut Shared::default()).map(|row| Reading::from(row.values()))
    }

    fn sample_all(&mut self, _tick: &Tick, instances: &[String]) -> Result<Readings, Failure> {
        let fields = row::fields();
        let mut shared = Shared::default();
        let mut readings = Readings::default();
        for instance in instances {
            let row = self.row(instance, &mut shared);
            readings.push(row.map(|row| Reading::from(row.values())), &fields);
        }
        Ok(readings)
    }
}

impl Procfs {
    fn row(&self, instance: &str, shared: &mut Shared) -> Result<Row, Failure> {
        if instance == host::ID {
            return host::row(&self.settings, shared);
        }
        if let Some(mount) = self.settings.mounts.iter().find(|mount| mount.is_instance() && mount.id == instance) {
            return mounts::row(mount, shared);
        }
        match ProcessId::parse(instance) {
            Some(id) => process::row(&id, shared),
            None => Err(Failure::Gone),
        }
    }

    fn discover_processes(&mut self, tick: &Tick) -> Result<Vec<Instance>, Failure> {
        let settings = &self.settings;
        let pids = match process::pids() {
            Ok(pids) => pids,
            // The operator granted no processes: there are none to see, and the rest goes on.
            Err(Failure::Denied(_)) => return Ok(Vec::new()),
            // Any other failure passes; an empty answer would end every process instance.
            Err(failure) => return Err(failure),
        };
        let room = roster::room(tick.budget_ms, !settings.watch.is_empty());
        self.roster.refresh(&pids, room, |pid| process::look(pid, settings));
        let choice = self.roster.choose(settings.top, settings.max_processes);
        let crowded = choice.left_out > 0;
        if crowded && !self.crowded {
            log::warn(format!("max_processes is {}: {} more are left out", settings.max_processes, choice.left_out));
        }
        self.crowded = crowded;
        Ok(choice.processes.iter().map(process::instance).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    const TICK: Tick = Tick { at_ms: 0, monotonic_ns: 0, budget_ms: 10_000, interval_ms: 10_000 };

    /// A child of this test that is never left behind.
    struct Sleeper(Child);

    impl Sleeper {
        /// Sleeps for a number of seconds that is this test's own, to be told from others by its command line.
        fn start(seconds: &str) -> Self {
            let child = Self(Command::new("sleep").arg(seconds).spawn().unwrap());
            // The kernel lets the parent go on a moment before the child has its new command line.
            let cmdline = format!("/proc/{}/cmdline", child.0.id());
            while !std::fs::read_to_string(&cmdline).unwrap().contains(seconds) {
                std::thread::yield_now();
            }
            child
        }

        fn end(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.end();
        }
    }

    fn sampler(config: &str) -> Procfs {
        let mut sampler = Procfs::default();
        sampler.init(&Config::from_json(config)).unwrap();
        sampler
    }

    fn value(readings: &Readings, row: usize, field: &str) -> f64 {
        let fields = row::fields();
        let column = fields.iter().position(|each| each.name == field).unwrap();
        readings.values[row * fields.len() + column]
    }

    #[test]
    fn the_host_is_always_there_and_has_memory_and_time() {
        let mut sampler = sampler(r#"{"top": 0}"#);
        let instances = sampler.discover(&TICK).unwrap();
        assert_eq!(instances, [Instance::new("host").label("kind", "host")]);
        let readings = sampler.sample_all(&TICK, &["host".to_owned()]).unwrap();
        assert_eq!(readings.failures, []);
        assert!(value(&readings, 0, "memory_used_mb") > 0.0);
        assert!(value(&readings, 0, "memory_limit_mb") > 0.0);
        assert!(value(&readings, 0, "cpu_percent") > 0.0);
        assert!(value(&readings, 0, "uptime_seconds") > 0.0);
        assert!(value(&readings, 0, "processes") >= 1.0);
        assert!(value(&readings, 0, "threads").is_nan());
    }

    #[test]
    fn a_watched_child_is_sampled_while_it_lives_and_gone_once_it_was_killed() {
        let seconds = (1_000_000 + u64::from(std::process::id())).to_string();
        let mut child = Sleeper::start(&seconds);
        let mut sampler = sampler(&format!(r#"{{"watch": ["^sleep {seconds}$"]}}"#));

        let found = sampler.discover(&TICK).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        let id = found[1].id.clone();
        let pid = child.0.id().to_string();
        assert!(id.starts_with(&format!("sleep-{pid}-")), "{id}");
        for (key, value) in [("kind", "process"), ("program", "sleep"), ("pid", &pid)] {
            assert!(found[1].labels.contains(&(key.to_owned(), value.to_owned())), "{found:?}");
        }

        let asked = ["host".to_owned(), id.clone()];
        let readings = sampler.sample_all(&TICK, &asked).unwrap();
        assert_eq!(readings.failures, []);
        assert!(value(&readings, 1, "memory_used_mb") > 0.0);
        assert_eq!(value(&readings, 1, "memory_limit_mb"), value(&readings, 0, "memory_limit_mb"));
        assert_eq!(value(&readings, 1, "threads"), 1.0);
        assert!(value(&readings, 1, "cpu_percent") >= 0.0);
        assert!(value(&readings, 1, "load_1m").is_nan());

        child.end();
        let readings = sampler.sample_all(&TICK, &asked).unwrap();
        assert_eq!(readings.failures, [(1, Failure::Gone)]);
        assert_eq!(sampler.discover(&TICK).unwrap().len(), 1);
    }

    #[test]
    fn a_process_that_ended_but_was_not_waited_for_is_gone() {
        let seconds = (2_000_000 + u64::from(std::process::id())).to_string();
        let mut child = Sleeper::start(&seconds);
        let mut sampler = sampler(&format!(r#"{{"watch": ["^sleep {seconds}$"]}}"#));
        let id = sampler.discover(&TICK).unwrap()[1].id.clone();
        child.0.kill().unwrap();
        // The kernel ends it on its own time; until then it counts as alive.
        while sampler.sample(&id).is_ok() {
            std::thread::yield_now();
        }
        assert_eq!(sampler.sample(&id), Err(Failure::Gone));
    }

    #[test]
    fn a_pid_with_another_start_time_is_another_process() {
        let mut sampler = sampler("{}");
        let own = format!("procfs-{}-1", std::process::id());
        assert_eq!(sampler.sample(&own), Err(Failure::Gone));
    }

    #[test]
    fn an_id_this_sampler_did_not_make_is_gone() {
        let mut sampler = sampler("{}");
        let ids = ["web-1", "", "mount-root", "mount-var", "-1-1", "a-b-c", "ünï-1-1", "x-99999999999-1"];
        let readings = sampler.sample_all(&TICK, &ids.map(str::to_owned)).unwrap();
        let gone: Vec<_> = (0..ids.len() as u32).map(|row| (row, Failure::Gone)).collect();
        assert_eq!(readings.failures, gone);
        assert_eq!(readings.values.len(), ids.len() * row::fields().len());
    }

    #[test]
    fn the_largest_processes_are_found_without_any_configuration() {
        let mut sampler = sampler("{}");
        let found = sampler.discover(&TICK).unwrap();
        let processes = found.iter().filter(|each| each.id != "host").count();
        assert!((1..=5).contains(&processes), "{found:?}");
    }
}
