//! Another configuration while the host runs.

use crate::harness::{Host, dropsonde, run, verbs};
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

const VERBS: &str =
    "poll.interval = '100ms'\n[[instances]]\nid = 'ok'\nlabels = { workload = 'web' }\nsamplers = ['verbs']\n";

#[test]
fn what_can_change_does_without_a_gap_in_streams_or_history() {
    let host = Host::start(VERBS, &[("verbs", verbs())]);
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    let mut stream = host.stream("/v1/instances/ok/usage/stream");
    stream.sample();
    let before = host.plugin("verbs");
    host.reconfigure(
        "poll.interval = '100ms'\nlabels = { site = 'fra1' }\nmetrics.path = '/scrape'\nhttp.hosts = ['me.example']\n\
         [[instances]]\nid = 'ok'\nlabels = { workload = 'db' }\nsamplers = ['verbs']\n\
         [[instances]]\nid = 'count'\nsamplers = ['verbs']\n",
    );
    let one = host.get("/v1/instances/ok").json();
    assert_eq!((&one["labels"], &one["state"]), (&json!({ "site": "fra1", "workload": "db" }), &json!("tracked")));
    host.until("/v1/instances/count/usage", |usage| usage.status == 200);
    assert_eq!((host.get("/scrape").status, host.get("/metrics").status), (200, 404));
    assert!(host.get("/openapi.json").json()["paths"]["/scrape"].is_object());
    stream.sample();
    assert_eq!(host.plugin("verbs")["loaded_at"], before["loaded_at"], "what is as it was goes on");
    host.reconfigure("poll.interval = '100ms'\n");
    assert_eq!(host.get("/v1/instances/ok").json()["state"], "ended", "its history stays");
    assert_eq!(host.get("/v1/instances/ok/usage").status, 200);
}

#[test]
fn a_plugin_whose_section_is_another_begins_anew_with_it_and_no_other_does() {
    let host = Host::start(VERBS, &[("verbs", verbs())]);
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    host.until("/v1/instances/host/usage", |usage| usage.status == 200);
    let procfs = host.plugin("procfs");
    let mut stream = host.stream("/v1/instances/ok/usage/stream");
    stream.sample();
    host.reconfigure(&format!("{VERBS}[plugins.verbs]\ninterval = '200ms'\ngrants = {{ read = ['/etc/hostname'] }}\n"));
    let page =
        host.until("/v1/plugins/verbs", |page| page.json()["interval_seconds"] == 0.2 && page.json()["calls"] != 0);
    assert_eq!(page.json()["grants"]["read"], json!(["/etc/hostname"]));
    let before = stream.sample();
    assert!(before["at"].as_str() < stream.sample()["at"].as_str(), "its streams go on");
    assert_eq!(host.plugin("procfs")["loaded_at"], procfs["loaded_at"]);
    assert_eq!(host.get("/v1/instances/host").json()["state"], "tracked");
    // The bundled one too, and what it discovered is tracked all the while.
    host.reconfigure("[plugins.procfs]\ninterval = '100ms'\nconfig = { top = 0 }\n");
    host.until("/v1/plugins/procfs", |page| page.json()["interval_seconds"] == 0.1 && page.json()["calls"] != 0);
    assert_eq!(host.get("/v1/instances/host").json()["state"], "tracked");
}

#[test]
fn what_takes_a_restart_is_named_and_stays_and_a_bad_file_changes_nothing() {
    let host = Host::start("poll.interval = '1s'\n", &[]);
    host.reconfigure("poll.interval = '1s'\nstore.retention = '1d'\nhttp.socket_mode = 0o660\n");
    let log = host.log();
    for key in ["store.retention", "http.socket_mode"] {
        assert!(log.lines().any(|line| line.contains("takes a restart") && line.contains(key)), "{key}: {log}");
    }
    assert!(!log.contains("key=\"poll"), "{log}");
    host.configure("poll.intervall = '2s'\nlabels = { a = 'b' }\n");
    host.signal("HUP");
    let log = host.until_logged("the configuration stays as it was");
    assert!(log.contains("intervall") && log.contains("dropsonde.toml"), "{log}");
    host.until("/v1/instances/host", |instance| instance.status == 200);
    assert!(host.get("/v1/instances/host").json()["labels"].get("a").is_none());
    host.configure("listen = '0.0.0.0:1'\nauth.read_token_file = '/no/such/folder/token'\n");
    host.signal("HUP");
    host.until_logged("/no/such/folder/token");
    assert_eq!(host.get("/v1/instances").status, 200, "reading still needs none");
}

#[test]
fn a_file_that_changes_is_read_without_anybody_telling() {
    let host = Host::start("", &[]);
    let began = Instant::now();
    host.configure("labels = { site = 'fra1' }\n");
    host.until_logged("the configuration was read again");
    assert!(began.elapsed() < Duration::from_secs(30));
    host.until("/v1/instances/host", |one| one.status == 200 && one.json()["labels"]["site"] == "fra1");
    let line = host.log().lines().filter(|line| line.contains("was read again")).count();
    assert_eq!(line, 1, "once: {}", host.log());
}

#[test]
fn check_finds_what_a_start_would_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dropsonde.toml");
    let data = folder.path().join("data").display().to_string();
    let check = |config: &str| {
        fs::write(&file, config).unwrap();
        run(dropsonde().args(["serve", "--check", "--data", &data, "--config"]).arg(&file))
    };
    let (code, out, error) = check("[auth]\nread_token_file = '/no/such/yet'\n");
    assert_eq!((code, out.as_str()), (0, "the configuration is fine\n"), "{error}");
    fs::write(folder.path().join("empty"), "").unwrap();
    let empty = format!("auth.admin_token_file = '{}/empty'\n", folder.path().display());
    for (config, says) in [
        ("poll.interval = '1ms'\n", "dropsonde.toml: poll.interval"),
        ("listen = '0.0.0.0:1'\n", "--insecure"),
        ("listen = 'nonsense'\n", "unix:/run/dropsonde.sock"),
        ("plugins_dir = '/no/such/folder'\n", "/no/such/folder"),
        ("[tls]\ncert = '/no/cert.pem'\nkey = '/no/key.pem'\n", "/no/cert.pem"),
        (&empty, "there is no token in it"),
    ] {
        let (code, out, error) = check(config);
        assert!(code == 1 && out.is_empty() && error.contains(says), "{config}: {error}");
    }
    assert!(!folder.path().join("data").exists());
}
