//! Reads this machine from /proc and /sys: the host, its mounts, interfaces and disks, and its programs.
//!
//! Instances are `host`; one per configured mount other than `/`, interface and disk; and one per watched or large
//! program (or process, with `per = "pid"`). All instances have the same fields; a field that has no meaning for an
//! instance has no value. The id alone says what to read, so a new worker continues where the last one stopped. Totals
//! over parts that come and go are saved.
//!
//! # Layout
//!
//! * `config`: the operator's settings, and the grants that they need.
//! * `row`: the fields, and the values of one instance. `names`: the ids of instances.
//! * `shared`: files that several rows of one tick use.
//! * `host`, `mounts`, `programs`, `process`: the rows of these kinds of instances.
//! * `census`, `choice`: the existing processes, and the choice of those that become instances.
//! * `totals`, `pace`: running totals that never fall and never grow faster than time.
//! * `cpu`, `memory`, `cgroup`, `net`, `disks`, `sysfs`, `clock`: one parser per kernel file or folder.

mod census;
mod cgroup;
mod choice;
mod clock;
mod config;
mod cpu;
mod disks;
mod host;
mod memory;
mod mounts;
mod names;
mod net;
mod pace;
mod process;
mod programs;
mod row;
mod shared;
mod sysfs;
mod totals;

use census::{Allowance, Census, Process};
use choice::Chooser;
use config::{Per, Settings};
use dropsonde_guest::log::Troubles;
use dropsonde_guest::{Config, Failure, Field, Instance, Need, Reading, Readings, Sampler, Tick, export_sampler};
use host::Devices;
use process::ProcessId;
use row::Row;
use shared::TickFiles;
use std::collections::BTreeMap;
use totals::Totals;

/// The sampler of this plugin.
#[derive(Default)]
pub struct Procfs {
    settings: Settings,
    census: Census,
    chooser: Chooser,
    devices: Devices,
    totals: Totals,
    troubles: Troubles,
    /// The instances that each part of discovery found last.
    found: BTreeMap<&'static str, Vec<Instance>>,
}

/// The state of one sampling call.
struct SamplingCall {
    shared: TickFiles,
    allowance: Allowance,
    /// The number of processes, after they were listed in this call.
    listed: Option<Result<Option<usize>, Failure>>,
    /// Whether new processes were examined in this call.
    has_looked: bool,
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
        let mut shared = TickFiles::at(tick);
        let mut instances = vec![Instance::new(host::ID).label("kind", "host")];
        let mounts = mounts::discover(&self.settings, &mut shared);
        instances.extend(self.found("mounts", mounts, mounts::assumed));
        let interfaces = host::interfaces(&self.settings, &mut shared, &mut self.devices);
        instances.extend(self.found("interfaces", interfaces, |_| Vec::new()));
        let disks = host::disks(&self.settings, &mut shared, &mut self.devices);
        instances.extend(self.found("disks", disks, |_| Vec::new()));
        if self.settings.wants_processes() {
            self.totals.begin_call(&shared.boot());
            let measured = self.totals.measured_last();
            let processes = self.discover_processes(tick);
            instances.extend(self.found("processes", processes, |_| measured));
        }
        Ok(instances)
    }

    fn sample(&mut self, instance: &str) -> Result<Reading, Failure> {
        let mut call = SamplingCall::new(TickFiles::default(), u32::MAX);
        self.totals.begin_call(&call.shared.boot());
        let row = self.row(instance, &mut call);
        self.totals.end_call();
        row.map(|row| Reading::from(row.values()))
    }

    fn sample_all(&mut self, tick: &Tick, instances: &[String]) -> Result<Readings, Failure> {
        let fields = row::fields();
        let mut call = SamplingCall::new(TickFiles::at(tick), tick.budget_ms);
        let mut readings = Readings::default();
        self.totals.begin_call(&call.shared.boot());
        for instance in instances {
            let row = self.row(instance, &mut call);
            readings.push(row.map(|row| Reading::from(row.values())), &fields);
        }
        self.totals.end_call();
        Ok(readings)
    }
}

impl Procfs {
    fn row(&mut self, instance: &str, call: &mut SamplingCall) -> Result<Row, Failure> {
        if instance == host::ID {
            let processes = self.list(call);
            let Self { settings, devices, totals, .. } = self;
            return host::row(settings, &mut call.shared, devices, totals, processes);
        }
        if let Some(mount) = self.settings.mounts.iter().find(|mount| mount.is_instance() && mount.id == instance) {
            return mounts::row(mount, &mut call.shared);
        }
        if let Some(row) = host::device_row(instance, &mut call.shared) {
            return row;
        }
        match ProcessId::parse(instance) {
            Some(id) => process::row(&id, &mut call.shared, &mut self.totals),
            None if names::is_free(instance) => self.program_row(instance, call),
            None => Err(Failure::Gone),
        }
    }

    fn program_row(&mut self, program: &str, call: &mut SamplingCall) -> Result<Row, Failure> {
        self.list(call)?;
        if !std::mem::replace(&mut call.has_looked, true) {
            // The other half is for measuring processes.
            let mut half = call.allowance.half();
            let Self { census, settings, .. } = self;
            census.look_at_new(&mut half, settings.reads_each(), |pid| look(pid, settings));
            call.allowance.give_back(&half);
        }
        let members = self.census.members(program, &self.settings.watch);
        let mut processes = programs::measure(program, &members, &mut call.allowance)?;
        // A process that became another program counts for that program. A pattern with a name keeps it, whatever the
        // process is called.
        let is_named = self.settings.watch.iter().any(|watch| watch.name.as_deref() == Some(program));
        processes.retain(|(id, measured)| self.census.is_still(id.pid, &measured.comm) || is_named);
        if processes.is_empty() {
            return match self.census.unknown() {
                Some(0) => Err(Failure::Gone),
                _ => Err(Failure::unavailable("not all processes of this machine have been examined yet")),
            };
        }
        Ok(programs::row(program, &processes, &mut call.shared, &mut self.totals))
    }

    /// Lists the machine's processes, once per call.
    fn list(&mut self, call: &mut SamplingCall) -> Result<Option<usize>, Failure> {
        if let Some(listed) = &call.listed {
            return listed.clone();
        }
        let listed = self.census.list(&mut call.allowance);
        self.tell_how_many(&listed);
        call.listed.insert(listed).clone()
    }

    /// Logs when there are more processes than one call can list.
    fn tell_how_many(&mut self, listed: &Result<Option<usize>, Failure>) {
        let is_crowded = matches!(listed, Ok(None)) || (listed.is_ok() && self.census.takes_several_calls());
        let why = "there are more than one call can list within its budget, so new ones are found some calls later, \
                   and `processes` has a value only now and then; raise plugins.procfs.limits.cpu";
        self.troubles.report("processes of this machine", is_crowded.then(|| why.to_owned()));
    }

    fn discover_processes(&mut self, tick: &Tick) -> Result<Vec<Instance>, Failure> {
        let mut allowance = Allowance::of(tick.budget_ms);
        let listed = self.census.list(&mut allowance);
        self.tell_how_many(&listed);
        listed?;
        if self.census.unknown().is_none() {
            return Err(Failure::unavailable("the processes are still being listed"));
        }
        let Self { census, settings, .. } = self;
        census.look_at_new(&mut allowance, settings.reads_each(), |pid| look(pid, settings));
        census.look_again(&mut allowance, settings.reads_each(), |pid| look(pid, settings));
        let candidates = match settings.per {
            Per::Program => census.programs(&settings.watch),
            Per::Pid => census.processes(&settings.watch),
        };
        let choice = self.chooser.choose(candidates, settings.top, settings.max_processes);
        let most = settings.max_processes;
        let why = format!("there are more than max_processes, {most}, allows, so some are left out; raise it");
        self.troubles.report("watched and largest processes", (choice.left_out > 0).then_some(why));
        let instance = match settings.per {
            Per::Program => programs::instance,
            Per::Pid => ProcessId::instance,
        };
        Ok(choice.chosen.iter().map(instance).collect())
    }

    /// Returns the instances of a part of discovery. If the part fails, its last instances stay, because leaving them
    /// out would end them; the other parts are not affected. Instances that the operator does not grant are left out.
    fn found(
        &mut self,
        part: &'static str,
        found: Result<Vec<Instance>, Failure>,
        assumed: impl FnOnce(&Settings) -> Vec<Instance>,
    ) -> Vec<Instance> {
        let (found, wrong) = match found {
            Ok(found) => (found, None),
            Err(Failure::Denied(_)) => (Vec::new(), None),
            Err(failure) => {
                let last = self.found.get(part).cloned().unwrap_or_else(|| assumed(&self.settings));
                (last, Some(failure.reason().to_owned()))
            }
        };
        self.troubles
            .report(part, wrong.map(|why| format!("cannot be discovered; keeping the known instances: {why}")));
        self.found.insert(part, found.clone());
        found
    }
}

fn look(pid: u32, settings: &Settings) -> Option<Process> {
    process::look(pid, settings.watch.iter().map(|watch| &watch.pattern))
}

// === impl SamplingCall ===

impl SamplingCall {
    fn new(shared: TickFiles, budget_ms: u32) -> Self {
        Self { shared, allowance: Allowance::of(budget_ms), listed: None, has_looked: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    const TICK: Tick = Tick { at_ms: 0, monotonic_ns: 0, budget_ms: 10_000, interval_ms: 10_000 };

    /// A child process that is always ended with its test.
    struct Sleeper(Child);

    impl Sleeper {
        /// Starts a `sleep` with a number of seconds that only this test uses, so that its command line identifies it.
        fn start(seconds: &str) -> Self {
            let child = Self(Command::new("sleep").arg(seconds).spawn().unwrap());
            // The kernel lets the parent continue a moment before the child has its new command line.
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

    /// Discovers instances of a kind, among all processes of this machine, including those of other tests.
    fn found(sampler: &mut Procfs, kind: &str) -> Vec<Instance> {
        let kind = ("kind".to_owned(), kind.to_owned());
        sampler.discover(&TICK).unwrap().into_iter().filter(|each| each.labels.contains(&kind)).collect()
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
    fn watched_children_are_one_program_while_one_of_them_lives_and_gone_after() {
        let seconds = (1_000_000 + u64::from(std::process::id())).to_string();
        let (mut first, mut second) = (Sleeper::start(&seconds), Sleeper::start(&seconds));
        let mut sampler = sampler(&format!(r#"{{"top": 0, "watch": ["^sleep {seconds}$"]}}"#));
        let expected = Instance::new("sleep").label("kind", "program").label("program", "sleep");
        assert_eq!(found(&mut sampler, "program"), [expected]);

        let asked = ["host".to_owned(), "sleep".to_owned()];
        let both = sampler.sample_all(&TICK, &asked).unwrap();
        assert_eq!(both.failures, []);
        let of = |readings: &Readings, field| value(readings, 1, field);
        assert_eq!((of(&both, "processes"), of(&both, "threads")), (2.0, 2.0));
        assert!(of(&both, "memory_used_mb") > 0.0 && of(&both, "cpu_percent") >= 0.0);
        assert_eq!(of(&both, "memory_limit_mb"), value(&both, 0, "memory_limit_mb"));
        assert!(of(&both, "load_1m").is_nan());

        first.end();
        let one = sampler.sample_all(&TICK, &asked).unwrap();
        assert_eq!(of(&one, "processes"), 1.0);
        assert!(of(&one, "cpu_percent") >= of(&both, "cpu_percent"), "the total keeps what the other one used");
        assert!(of(&one, "memory_used_mb") < of(&both, "memory_used_mb"));

        let _third = Sleeper::start(&seconds);
        assert_eq!(of(&sampler.sample_all(&TICK, &asked).unwrap(), "processes"), 2.0, "found without a discovery");
        drop(_third);
        second.end();
        assert_eq!(sampler.sample_all(&TICK, &asked).unwrap().failures, [(1, Failure::Gone)]);
        assert_eq!(found(&mut sampler, "program"), []);
    }

    #[test]
    fn a_named_pattern_is_an_instance_of_that_name() {
        let seconds = (3_000_000 + u64::from(std::process::id())).to_string();
        let _child = Sleeper::start(&seconds);
        let mut sampler =
            sampler(&format!(r#"{{"top": 0, "watch": [{{"name": "naps", "match": "^sleep {seconds}$"}}]}}"#));
        assert!(found(&mut sampler, "program").iter().any(|each| each.id == "naps"));
        let readings = sampler.sample_all(&TICK, &["naps".to_owned()]).unwrap();
        assert_eq!((readings.failures.len(), value(&readings, 0, "processes")), (0, 1.0));
    }

    #[test]
    fn watched_processes_can_be_instances_by_themselves() {
        let seconds = (4_000_000 + u64::from(std::process::id())).to_string();
        let mut child = Sleeper::start(&seconds);
        let mut sampler = sampler(&format!(r#"{{"per": "pid", "top": 0, "watch": ["^sleep {seconds}$"]}}"#));
        let found = found(&mut sampler, "process");
        let pid = child.0.id().to_string();
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].id.starts_with(&format!("sleep-{pid}-")), "{found:?}");
        for (key, value) in [("program", "sleep"), ("pid", &pid)] {
            assert!(found[0].labels.contains(&(key.to_owned(), value.to_owned())), "{found:?}");
        }
        let asked = [found[0].id.clone()];
        let readings = sampler.sample_all(&TICK, &asked).unwrap();
        assert_eq!((readings.failures.len(), value(&readings, 0, "threads")), (0, 1.0));
        assert!(value(&readings, 0, "processes").is_nan());
        child.end();
        assert_eq!(sampler.sample_all(&TICK, &asked).unwrap().failures, [(0, Failure::Gone)]);
    }

    #[test]
    fn a_process_that_ended_but_was_not_waited_for_is_gone() {
        let seconds = (2_000_000 + u64::from(std::process::id())).to_string();
        let mut child = Sleeper::start(&seconds);
        let mut sampler = sampler(&format!(r#"{{"per": "pid", "top": 0, "watch": ["^sleep {seconds}$"]}}"#));
        let id = found(&mut sampler, "process")[0].id.clone();
        child.0.kill().unwrap();
        // The kernel ends the process with a delay; until then it counts as alive.
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
    fn the_largest_programs_are_found_without_any_configuration() {
        let mut sampler = sampler("{}");
        let programs = found(&mut sampler, "program");
        assert!((1..=5).contains(&programs.len()), "{programs:?}");
        let ids: Vec<String> = programs.into_iter().map(|program| program.id).collect();
        let readings = sampler.sample_all(&TICK, &ids[..1]).unwrap();
        assert!(readings.failures.is_empty() && value(&readings, 0, "processes") >= 1.0, "{ids:?} {readings:?}");
    }

    #[test]
    fn a_part_of_discovery_that_fails_costs_that_part_alone() {
        let mut sampler = sampler(r#"{"top": 0, "mounts": ["/srv"]}"#);
        let wrong = || Err(Failure::unavailable("/proc/self/mounts: larger than 1 bytes"));
        let assumed = sampler.found("mounts", wrong(), mounts::assumed);
        assert_eq!(assumed, [Instance::new("mount-srv").label("kind", "mount").label("mount", "/srv")]);
        let real = vec![Instance::new("mount-srv").label("fstype", "xfs")];
        assert_eq!(sampler.found("mounts", Ok(real.clone()), mounts::assumed), real);
        assert_eq!(sampler.found("mounts", wrong(), mounts::assumed), real, "what it found last");
        let denied = Err(Failure::Denied("not granted".to_owned()));
        assert_eq!(sampler.found("mounts", denied, mounts::assumed), []);
    }

    #[test]
    fn configured_interfaces_and_disks_are_instances() {
        let mut sampler = sampler(r#"{"top": 0, "interfaces": ["lo"], "disks": ["no-such-disk"]}"#);
        let expected = Instance::new("interface-lo").label("kind", "interface").label("interface", "lo");
        assert_eq!(found(&mut sampler, "interface"), [expected]);
        let readings = sampler.sample_all(&TICK, &["interface-lo".to_owned()]).unwrap();
        assert!(readings.failures.is_empty() && value(&readings, 0, "network_in_bytes_per_sec") >= 0.0);
        assert_eq!(found(&mut sampler, "disk"), []);
    }
}
