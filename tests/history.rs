use crate::harness::{Host, dropsonde, request, run, verbs};
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

const OK: &str = "poll.interval = '100ms'\n[[instances]]\nid = 'ok'\nsamplers = ['verbs']\n";

/// Returns the times of all samples of an instance, each in a bucket of its own; as texts that sort as times do.
fn sample_times(host: &Host, instance: &str) -> Vec<String> {
    let range = host.get(&format!("/v1/instances/{instance}/usage/range?range=5m&resolution=50ms"));
    let samples = range.json();
    samples
        .as_array()
        .unwrap()
        .iter()
        .map(|sample| sample["at"].as_str().unwrap().trim_end_matches('Z').to_owned())
        .collect()
}

fn until_flushed(host: &Host) {
    host.until("/metrics", |metrics| {
        let flushed = |line: &str| line.starts_with("dropsonde_history_flushes_total ") && !line.ends_with(" 0");
        metrics.body.lines().any(flushed)
    });
}

#[test]
fn samples_and_instances_survive_a_restart_without_their_plugin() {
    let discovering = "poll.interval = '100ms'\n[plugins.verbs.config]\ndiscover = ['ok']\n";
    let host = Host::start(discovering, &[("verbs", verbs())]);
    host.until("/v1/instances/ok/usage/range?range=1m&resolution=50ms", |range| {
        range.json().as_array().is_some_and(|samples| samples.len() >= 5)
    });
    let before = sample_times(&host, "ok");
    // The plugin is no longer there.
    std::fs::remove_file(host.data().join("plugins/verbs.wasm")).unwrap();
    host.configure("poll.interval = '100ms'\n");
    let host = host.restart();
    assert!(sample_times(&host, "ok").starts_with(&before), "a proper end loses nothing");
    let instances = host.get("/v1/instances").json();
    let ok = instances.as_array().unwrap().iter().find(|instance| instance["id"] == "ok").unwrap();
    assert_eq!((&ok["state"], &ok["samplers"]), (&"ended".into(), &serde_json::json!(["verbs"])));
    assert!(host.get("/telemetry/hosts").json()["hosts"].as_array().unwrap().contains(&"ok".into()));
}

#[test]
fn metrics_omit_samples_from_before_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "12345").unwrap();
    let file = file.to_str().unwrap();
    let config = format!(
        "poll.interval = '1m'\n[[instances]]\nid = 'read'\nsamplers = ['verbs']\n\
         [plugins.verbs]\nconfig = {{ read = '{file}' }}\ngrants.read = ['{file}']\n"
    );
    let host = Host::start(&config, &[("verbs", verbs())]);
    let value = "dropsonde_sample_value{id=\"read\",sampler=\"verbs\"}";
    host.until("/metrics", |metrics| metrics.body.contains(value));
    // Nothing can be measured from now on, and what was is seconds old.
    std::fs::remove_file(file).unwrap();
    let host = host.restart();
    host.until("/v1/plugins/verbs", |plugin| !plugin.json()["last_failure"].is_null());
    assert_eq!(host.get("/v1/instances/read/usage").json()["value"], 5);
    let metrics = host.get("/metrics").body;
    assert!(!metrics.contains(value), "{metrics}");
}

#[test]
fn a_killed_host_loses_only_unflushed_samples_and_always_starts_again() {
    let kills: u32 = std::env::var("DROPSONDE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(50);
    let config = format!("{OK}[store]\nflush_interval = '50ms'\n");
    let mut host = Host::start(&config, &[("verbs", verbs())]);
    let mut pause = 0u64;
    for kill in 0..kills {
        let more = sample_times(&host, "ok").len() + 1;
        host.until("/v1/instances/ok/usage/range?range=5m&resolution=50ms", |range| {
            range.json().as_array().is_some_and(|samples| samples.len() >= more.min(2900))
        });
        // At all sorts of moments between two flushes.
        pause = (pause + 37) % 101;
        std::thread::park_timeout(Duration::from_millis(pause));
        let before = sample_times(&host, "ok");
        host = host.kill_and_restart();
        let after = sample_times(&host, "ok");
        let first = after.first().cloned().unwrap_or_default();
        // The window moves on; what was in it stays, without a hole, but for the end.
        let before: Vec<_> = before.into_iter().filter(|at| *at >= first).collect();
        let kept = before.iter().zip(&after).take_while(|(before, after)| before == after).count();
        // Ten ticks are a second: twenty flushes, on a machine that has other things to do.
        assert!(kept + 10 >= before.len(), "kill {kill}: {kept} of {} are there\n{before:?}\n{after:?}", before.len());
        assert!(after.len() >= kept && after[kept..].iter().all(|at| before.last().is_none_or(|last| at > last)));
    }
    let log = host.stop_and_read_log();
    assert!(!log.contains("damaged"), "{log}");
}

fn flush_count(host: &Host) -> u64 {
    let metrics = host.get("/metrics").body;
    let flushes = metrics.lines().find_map(|line| line.strip_prefix("dropsonde_history_flushes_total "));
    flushes.unwrap().parse::<f64>().unwrap() as u64
}

/// Returns the instances with ids that begin with `i-`, without the times of their last samples.
fn tracked_instances(host: &Host) -> Vec<serde_json::Value> {
    let all = host.get("/v1/instances").json();
    let own = all.as_array().unwrap().iter().filter(|one| one["id"].as_str().unwrap().starts_with("i-")).cloned();
    let without_time = |mut one: serde_json::Value| {
        one.as_object_mut().unwrap().remove("last_at");
        one
    };
    own.map(without_time).collect()
}

#[test]
fn instance_changes_flushed_before_a_kill_survive_it() {
    let kills: u32 = std::env::var("DROPSONDE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let mut host = Host::start("poll.interval = '100ms'\n[store]\nflush_interval = '100ms'\n", &[("verbs", verbs())]);
    for kill in 0..kills {
        // Of those that are there each second one goes, and others come: all of them are measured.
        for nth in 0..20 {
            let id = format!("i-{kill}-{nth}");
            let body = format!(r#"{{"labels":{{"kill":"{kill}"}},"samplers":["verbs"]}}"#);
            assert_eq!(host.send_as_writer("PUT", &format!("/v1/instances/{id}"), &body).status, 200);
        }
        host.until(&format!("/v1/instances/i-{kill}-19/usage"), |usage| usage.status == 200);
        let before = tracked_instances(&host);
        let mut gone = Vec::new();
        for (nth, one) in before.iter().enumerate() {
            let id = one["id"].as_str().unwrap();
            match nth % 4 {
                0 => assert_eq!(host.send_as_writer("DELETE", &format!("/v1/instances/{id}"), "").status, 204),
                1 => host.send_lifecycle_event("deleted", id),
                2 => host.send_lifecycle_event("stopped", id),
                _ => continue,
            }
            if nth % 4 < 2 {
                gone.push(id.to_owned());
            }
        }
        let before = tracked_instances(&host);
        assert!(before.iter().all(|one| !gone.contains(&one["id"].as_str().unwrap().to_owned())));
        // The first may have begun before the last answer.
        let answered = flush_count(&host);
        host.until("/metrics", |_| flush_count(&host) >= answered + 2);
        host = host.kill_and_restart();
        assert_eq!(tracked_instances(&host), before, "kill {kill}");
        let hosts = host.get("/telemetry/hosts").json();
        let is_back = |id: &String| hosts["hosts"].as_array().unwrap().contains(&id.as_str().into());
        assert!(!gone.iter().any(is_back), "kill {kill}: {hosts}");
    }
}

#[test]
fn telemetry_history_accepts_four_ranges_and_names_invalid_parameters() {
    let host = Host::start(OK, &[("verbs", verbs())]);
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    for (range, label) in [("30m", "30 minutes"), ("1h", "1 hour"), ("6h", "6 hours"), ("24h", "24 hours")] {
        let history = host.get(&format!("/telemetry/history?host=ok&range={range}")).json();
        assert_eq!((&history["host"], &history["range"]), (&"ok".into(), &label.into()));
        let sample = &history["samples"][0];
        assert!(sample["ts"].as_i64().unwrap() % 60 == 0 && sample["value"] == 1, "{history}");
    }
    let error = |path: &str| {
        let answer = host.get(path);
        (answer.status, answer.json()["error"].as_str().unwrap().to_owned())
    };
    assert_eq!(error("/telemetry/history?range=1h"), (400, "host parameter required".to_owned()));
    let no_range = "invalid range; use 30m, 1h, 6h, or 24h".to_owned();
    assert_eq!(error("/telemetry/history?host=ok&range=7d"), (400, no_range));
    assert_eq!(host.get("/telemetry/history?host=nobody&range=1h").json()["samples"], serde_json::json!([]));
    assert_eq!(host.request("POST", "/telemetry/hosts").status, 405);
}

#[test]
fn a_second_host_on_the_same_data_folder_is_refused() {
    let host = Host::start("", &[]);
    let data = host.data();
    let (code, _, error) =
        run(dropsonde().args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(&data).env("NO_COLOR", "1"));
    assert_eq!(code, 1);
    assert!(error.contains("is in use by another host") && error.contains("--data"), "{error}");
}

#[test]
fn history_files_are_readable_only_by_their_owner() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::start(OK, &[("verbs", verbs())]);
    until_flushed(&host);
    let folder = host.data().join("history");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty() && files.iter().all(|file| mode(file) == 0o600), "{files:?}");
}

#[test]
fn memory_only_serves_history_and_creates_no_files() {
    let home = tempfile::tempdir().unwrap();
    let mut child = dropsonde()
        .args(["serve", "--memory-only", "--listen", "127.0.0.1:0"])
        .current_dir(home.path())
        .env("HOME", home.path())
        .env("XDG_STATE_HOME", home.path().join("state"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
    let start = Instant::now();
    while request(&address, "GET", "/v1/instances/host/usage", "").status != 200 {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert_eq!(request(&address, "GET", "/telemetry/history?host=host", "").status, 200);
    assert!(!request(&address, "GET", "/metrics", "").body.contains("dropsonde_history_disk_bytes"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_flipped_bit_costs_less_than_half_of_the_samples_and_is_logged() {
    let mut host = Host::start(&format!("{OK}[store]\nflush_interval = '50ms'\n"), &[("verbs", verbs())]);
    host.until("/v1/instances/ok/usage/range?range=1m&resolution=50ms", |range| {
        range.json().as_array().is_some_and(|samples| samples.len() >= 20)
    });
    let before = sample_times(&host, "ok");
    assert_eq!(host.stop(), 0);
    let folder = host.data().join("history");
    let log = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path());
    let log = log.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("log-")).max().unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let late = bytes.len() * 3 / 4;
    bytes[late] ^= 4;
    std::fs::write(&log, bytes).unwrap();
    let host = host.kill_and_restart();
    host.until_logged("is damaged");
    let after = sample_times(&host, "ok");
    let lost = before.iter().filter(|at| !after.contains(at)).count();
    assert!(lost < before.len() / 2, "{lost} of {}", before.len());
}

#[test]
fn metrics_include_rows_bytes_and_failures_of_history() {
    let host = Host::start(OK, &[("verbs", verbs())]);
    until_flushed(&host);
    let metrics = host.get("/metrics").body;
    for name in [
        "dropsonde_history_rows ",
        "dropsonde_history_disk_bytes ",
        "dropsonde_history_unstored_rows ",
        "dropsonde_history_lost_rows_total ",
        "dropsonde_history_write_failures_total{reason=\"full\"} 0",
        "dropsonde_history_block_cache_total{result=\"hit\"} ",
        "dropsonde_processing_duration_seconds_count{operation=\"flush\",service=\"history\"} ",
    ] {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
}

#[test]
fn history_that_a_later_version_wrote_is_refused_with_the_way_back_and_left_as_it_is() {
    let mut host = Host::start("", &[]);
    host.until("/v1/instances/host/usage", |usage| usage.status == 200);
    assert_eq!(host.stop(), 0);
    let history = host.data().join("history");
    let logs = fs::read_dir(&history).unwrap().map(|file| file.unwrap().path());
    let log = logs.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("log-")).max().unwrap();
    // The first record: length and kind, a checksum of those and of what follows, `dropsonde`, the kind of the file, the
    // version.
    let mut bytes = fs::read(&log).unwrap();
    let length = usize::from(bytes[0]);
    bytes[8 + 10] = 99;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes[..4]);
    hasher.update(&bytes[8..8 + length]);
    bytes[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
    fs::write(&log, &bytes).unwrap();
    let data = host.data().display().to_string();
    for arguments in [vec!["serve"], vec!["serve", "--check"]] {
        let arguments = [&arguments[..], &["--listen", "127.0.0.1:0", "--data", &data]].concat();
        let (code, _, error) = run(dropsonde().args(arguments));
        assert!(code == 1 && error.contains("a later version of Dropsonde wrote history"), "{error}");
        assert!(error.contains("start that version again"), "{error}");
        assert_eq!(fs::read(&log).unwrap(), bytes);
    }
}
