//! The bundled sampler on recorded machines, and on this one.

use crate::harness::{Host, dropsonde, run, workspace};
use std::fs;
use std::path::Path;
use std::process::{Child, Command};

/// Replays the cases of a project with the bundled sampler. Returns the exit code and the output.
fn replay_cases(project: &Path) -> (i32, String) {
    let (code, out, error) = run(dropsonde().args(["plugin", "test", "--file", "procfs"]).current_dir(project));
    (code, out + &error)
}

/// Writes a case of one tick.
fn write_case(project: &Path, config: &str, expected: &str, files: &[(&str, &str)]) {
    let case = project.join("tests/one");
    for (path, text) in files {
        let file = case.join("tick-1").join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    let json = format!(r#"{{"config": {config}, "ticks": [{{"at": "2026-01-02T03:04:00Z", {expected}}}]}}"#);
    fs::write(case.join("case.json"), json).unwrap();
}

/// A child process that is killed when it is dropped.
struct ChildProcess(Child);

impl ChildProcess {
    fn start(seconds: &str) -> Self {
        Self(Command::new("sleep").arg(seconds).spawn().unwrap())
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn recorded_machines_replay_with_the_expected_values() {
    let (code, said) = replay_cases(&workspace().join("plugins/procfs"));
    assert!(code == 0 && !said.contains("FAILED"), "{said}");
    assert!(said.lines().filter(|line| line.ends_with("ok")).count() == 29, "{said}");
}

#[test]
fn a_mount_table_of_more_than_a_mebibyte_is_read() {
    let project = tempfile::tempdir().unwrap();
    let overlay = |nth| {
        format!("overlay /var/lib/docker/overlay2/{nth:064}/merged overlay rw,lowerdir={} 0 0\n", "l".repeat(1200))
    };
    let table = (0..1000).map(overlay).collect::<String>() + "/dev/sdb1 /srv xfs rw 0 0\n";
    assert!(table.len() > 1 << 20);
    let expected = r#""samples": {"mount-srv": {"disk_used_mb": 1, "disk_limit_mb": 4, "disk_available_mb": 2}},
        "failures": {"mount-data": "gone"}"#;
    write_case(project.path(), r#"{"top": 0, "mounts": ["/srv", "/data"]}"#, expected, &[("proc/self/mounts", &table)]);
    fs::write(project.path().join("tests/one/tick-1.space"), "/srv\t4194304\t2097152\t9\t9\t1048576\n").unwrap();
    let (code, said) = replay_cases(project.path());
    assert!(code == 0, "{said}");
}

#[test]
fn a_command_line_of_more_than_a_mebibyte_is_matched_by_its_beginning() {
    let project = tempfile::tempdir().unwrap();
    let stat = format!("7 (java) S 1 7 7 0 -1 0 0 0 0 0 5 0 0 0 20 0 3 0 100 8192000 256{}\n", " 0".repeat(28));
    let line = format!("java\0-jar\0shop.jar\0{}", "x".repeat(1_300_000));
    let expected = r#""samples": {"shop": {"processes": 1, "threads": 3}}"#;
    let config = r#"{"top": 0, "mounts": [], "watch": [{"name": "shop", "match": "shop\\.jar"}]}"#;
    write_case(project.path(), config, expected, &[("proc/7/stat", &stat), ("proc/7/cmdline", &line)]);
    let (code, said) = replay_cases(project.path());
    assert!(code == 0, "{said}");
}

#[test]
fn a_machine_with_100_000_processes_gives_a_host_sample_without_their_number() {
    let project = tempfile::tempdir().unwrap();
    let config = r#"{"top": 0, "mounts": []}"#;
    write_case(project.path(), config, r#""samples": {"host": {"load_1m": 1.5}}"#, &[("proc/loadavg", "1.5")]);
    let proc = project.path().join("tests/one/tick-1/proc");
    (1..=100_000).for_each(|pid| fs::create_dir(proc.join(pid.to_string())).unwrap());
    let (code, said) = replay_cases(project.path());
    assert!(code == 0, "{said}");
}

#[test]
fn a_watched_program_stays_one_instance_while_its_processes_come_and_go() {
    let seconds = (5_000_000 + u64::from(std::process::id())).to_string();
    let first = ChildProcess::start(&seconds);
    let config = format!(
        "poll.interval = '100ms'\npoll.discover_interval = '1s'\n\
         plugins.procfs.config = {{ top = 0, watch = [{{ name = 'naps', match = 'sleep {seconds}' }}] }}\n"
    );
    let host = Host::start(&config, &[]);
    let processes = |wanted: f64| {
        host.until("/v1/instances/naps/usage", |usage| {
            usage.status == 200 && usage.json()["processes"].as_f64() == Some(wanted)
        });
    };
    processes(1.0);
    let second = ChildProcess::start(&seconds);
    processes(2.0);
    drop(first);
    processes(1.0);
    let labels = host.get("/v1/instances/naps").json()["labels"].clone();
    assert_eq!(labels, serde_json::json!({ "kind": "program", "program": "naps" }));
    drop(second);
    host.until("/v1/instances/naps", |instance| instance.json()["state"] == "ended");
}

/// Returns the value of the first series whose line has these words in it.
fn metric_value(metrics: &str, words: [&str; 2]) -> Option<f64> {
    let line = metrics.lines().find(|line| words.iter().all(|word| line.contains(word)))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

#[test]
fn a_cpu_total_does_not_fall_when_a_process_ends_while_the_host_is_down() {
    let tag = 6_000_000 + u64::from(std::process::id());
    let burn = || {
        let script = format!("while :; do :; done # {tag}");
        // What else is tested comes first.
        ChildProcess(Command::new("nice").args(["-n", "19", "sh", "-c", &script]).spawn().unwrap())
    };
    let (first, _second) = (burn(), burn());
    let watch = format!("{{ name = 'burners', match = '# {tag}$' }}");
    let config = format!("poll.interval = '100ms'\nplugins.procfs.config = {{ top = 0, watch = [{watch}] }}\n");
    let total = |metrics: &str| metric_value(metrics, ["dropsonde_sample_cpu_seconds_total", "\"burners\""]);
    let host = Host::start(&config, &[]);
    let before = host.until("/metrics", |metrics| total(&metrics.body) > Some(1.0));
    let before = total(&before.body).unwrap();
    // Another poll has begun: what the one before it saved is written.
    host.until("/metrics", |metrics| total(&metrics.body) > Some(before));
    host.signal("KILL");
    drop(first);
    let host = host.kill_and_restart();
    let after = host.until("/metrics", |metrics| total(&metrics.body).is_some());
    assert!(total(&after.body).unwrap() >= before, "{before} {:?}", total(&after.body));
}
