//! The bundled plugins `probe`, `httpjson`, `textfile`, `containers` and `synthetic`: what they measure, their recorded
//! cases, their dashboard and alerts, and `serve --demo`.

use crate::harness::{Host, MadeServer, client, dropsonde, respond, run, wait_until, workspace};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
#[test]
fn a_probe_tells_status_times_and_whether_the_body_matches() {
    let server = MadeServer::start(|path, _| match path {
        "/moved" => (302, String::new()),
        "/broken" => (500, String::new()),
        _ => (200, "all is well".to_owned()),
    });
    let mut config = "poll.interval = '200ms'\n".to_owned();
    for (id, path, more) in [
        ("fine", "/", "matches = 'is w.ll'"),
        ("other", "/", "matches = 'nothing'"),
        ("moved", "/moved", ""),
        ("broken", "/broken", "interval = '1h'"),
    ] {
        let url = server.url(path);
        writeln!(config, "[[plugins.probe.config.targets]]\nid = '{id}'\nurl = '{url}'\n{more}").unwrap();
    }
    let host = Host::start(&config, &[]);
    let outcome = |id: &str| {
        let sample = host.until_usage(id, |usage| usage["status"].is_number());
        assert!(sample["total_ms"].as_f64() >= sample["first_byte_ms"].as_f64(), "{sample}");
        (sample["up"].clone(), sample["status"].clone(), sample["body_matches"].clone())
    };
    assert_eq!(outcome("fine"), (json!(1), json!(200), json!(1)));
    assert_eq!(outcome("other"), (json!(0), json!(200), json!(0)));
    assert_eq!(outcome("moved"), (json!(1), json!(302), Value::Null), "redirects are not followed");
    assert_eq!(outcome("broken"), (json!(0), json!(500), Value::Null));
    // It was asked once, and an hour has not passed.
    let before = host.usage("broken")["at"].clone();
    let fine = host.usage("fine")["at"].clone();
    host.until_usage("fine", |usage| usage["at"] != fine);
    assert_eq!(host.usage("broken")["at"], before);
}

#[test]
fn fields_are_read_from_json_and_from_text_files() {
    let server = MadeServer::start(|_, _| (200, json!({ "queue": { "length": 3 }, "ok": true }).to_string()));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("backup.prom"), "backup_bytes{db=\"a\"} 10\nbackup_bytes{db=\"b\"} 5\n").unwrap();
    let config = format!(
        "poll.interval = '200ms'\n[[plugins.httpjson.config.targets]]\nid = 'queue'\nurl = '{}'\n\
         fields.waiting = {{ pointer = '/queue/length', precision = 1 }}\nfields.ok = {{ pointer = '/ok' }}\n\
         [[plugins.textfile.config.folders]]\nid = 'backups'\npath = '{}'\n\
         mapping.backup_bytes = {{ value = 'backup_bytes' }}\n",
        server.url("/stats"),
        folder.path().canonicalize().unwrap().display()
    );
    let host = Host::start(&config, &[]);
    let queue = host.until_usage("queue", |usage| usage["up"] == 1.0);
    assert_eq!((&queue["waiting"], &queue["ok"]), (&json!(3), &json!(1)), "{queue}");
    let backups = host.until_usage("backups", |usage| usage["files"] == 1.0);
    assert_eq!((&backups["backup_bytes"], &backups["failed_files"]), (&json!(15), &json!(0)), "{backups}");
    let age = backups["oldest_file_seconds"].as_f64().unwrap();
    assert!((0.0..600.0).contains(&age), "{backups}");
}

/// A container engine with the container `web-1`, which uses more CPU time at each request.
struct Engine {
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Engine {
    fn start() -> Self {
        const ID: &str = "0123456789abcdef";
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let reads = AtomicU64::new(1);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                respond(&stream, &|path, _| {
                    let answer = match path.strip_prefix("/v1.41/containers/").unwrap() {
                        "json" => json!([{ "Id": ID, "Names": ["/web-1"], "Image": "nginx:1",
                            "Labels": { "com.docker.compose.service": "web" } }]),
                        "0123456789abcdef/json" => {
                            json!({ "RestartCount": 2, "HostConfig": { "NanoCpus": 500_000_000_u64 },
                            "State": { "StartedAt": "2026-01-01T00:00:00Z", "Health": { "Status": "healthy" } } })
                        }
                        "0123456789abcdef/stats?stream=false&one-shot=true" => json!({
                            "cpu_stats": { "cpu_usage": { "total_usage": reads.fetch_add(1, Relaxed) * 20_000_000 } },
                            "memory_stats": { "usage": 3_145_728, "limit": 8_388_608, "stats": { "inactive_file": 1_048_576 } },
                            "networks": { "eth0": { "rx_bytes": 5, "tx_bytes": 6 } }, "pids_stats": { "current": 4 } }),
                        _ => return (404, String::new()),
                    };
                    (200, answer.to_string())
                });
            }
        });
        Self { socket, _folder: folder }
    }
}

#[test]
fn containers_of_an_engine_are_instances_and_the_plugin_can_only_read_them() {
    let Engine { socket, .. } = &Engine::start();
    let config = format!("poll.interval = '200ms'\n[plugins.containers.config]\nsocket = '{}'\n", socket.display());
    let host = Host::start(&config, &[]);
    let sample = host.until_usage("web-1", |usage| usage["cpu_limit_percent"].is_number());
    let expected =
        [("memory_used_mb", 2.0), ("memory_limit_mb", 8.0), ("processes", 4.0), ("restarts", 2.0), ("healthy", 1.0)];
    for (field, value) in expected {
        assert_eq!(sample[field], value, "{field}: {sample}");
    }
    let cpu = sample["cpu_percent"].as_f64().unwrap();
    assert!(cpu > 0.0 && sample["uptime_seconds"].as_f64() > Some(1e6), "{sample}");
    let labels = &host.get("/v1/instances/web-1").json()["labels"];
    assert_eq!(labels, &json!({ "name": "web-1", "image": "nginx:1", "compose_service": "web", "workload": "web" }));
    let granted = format!(
        "GET unix:{} as engine /v1.41/containers/json /v1.41/containers/*/json /v1.41/containers/*/stats",
        socket.display()
    );
    assert_eq!(host.plugin("containers")["grants"]["http"], json!([granted]));
}

#[test]
fn the_dashboard_and_the_alerts_of_what_hosts_measure_use_metrics_that_plugins_have() {
    let requests = AtomicU64::new(0);
    let server = MadeServer::start(move |_, _| {
        let nth = requests.fetch_add(1, Relaxed);
        let le = |upper| format!("http_request_duration_seconds_bucket{{le=\"{upper}\"}} {nth}\n");
        (200, format!("http_requests_total{{code=\"200\"}} {nth}\n{}{}", le("0.1"), le("+Inf")))
    });
    let (url, engine, folder) = (server.url("/metrics"), Engine::start(), tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("backup.prom"), "backup_bytes 10\n").unwrap();
    let config = format!(
        "poll.interval = '200ms'\n[plugins.containers.config]\nsocket = '{}'\n\
         [[plugins.scrape.config.targets]]\nid = 'web'\nurl = '{url}'\npreset = 'http-server'\n\
         [[plugins.probe.config.targets]]\nid = 'probed'\nurl = '{url}'\n\
         [[plugins.textfile.config.folders]]\nid = 'backups'\npath = '{}'\n",
        engine.socket.display(),
        folder.path().canonicalize().unwrap().display()
    );
    let host = Host::start(&config, &[]);
    let words = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| word.starts_with("dropsonde_") && !word.ends_with('_')).map(str::to_owned).collect()
    };
    for file in ["measured.json", "measured.yml"] {
        let wanted = words(&std::fs::read_to_string(workspace().join("host/monitoring").join(file)).unwrap());
        assert!(wanted.len() > 5, "{file}: {wanted:?}");
        let mut missing = wanted.clone();
        wait_until(file, || {
            missing = wanted.difference(&words(&host.get("/metrics").body)).cloned().collect();
            missing.is_empty()
        });
    }
}

#[test]
fn the_bundled_plugins_replay_their_recorded_cases() {
    for name in ["containers", "httpjson", "probe", "scrape", "textfile"] {
        let project = workspace().join("plugins").join(name);
        let cases = std::fs::read_dir(project.join("tests")).unwrap().count();
        let (code, out, error) = run(dropsonde().args(["plugin", "test", "--file", name]).current_dir(project));
        assert!(code == 0 && out.matches(" ok").count() == cases && cases > 0, "{name}: {out}{error}");
    }
}

#[test]
fn a_recording_keeps_exchanges_without_credentials_and_replays_them_without_the_network() {
    let asked = Arc::<AtomicU64>::default();
    let server = {
        let asked = asked.clone();
        MadeServer::start(move |_, head| {
            assert!(head.contains("authorization: bearer let-me-in"), "{head}");
            (200, json!({ "n": asked.fetch_add(1, Relaxed) }).to_string())
        })
    };
    let project = tempfile::tempdir().unwrap();
    std::fs::write(project.path().join("token"), "let-me-in").unwrap();
    let config = json!({ "targets": [{ "id": "a", "url": server.url("/n?api_key=let-me-in"),
        "bearer_file": project.path().canonicalize().unwrap().join("token"), "fields": { "n": { "pointer": "/n" } } }] });
    let command = |arguments: &[&str]| run(dropsonde().arg("plugin").args(arguments).current_dir(project.path()));
    let config = config.to_string();
    let (code, out, error) =
        command(&["run", "httpjson", "--config", &config, "--instance", "a", "--record", "tests/one"]);
    assert!(code == 0 && out.contains('n'), "{out}{error}");
    let recorded = std::fs::read_to_string(project.path().join("tests/one/tick-1.http")).unwrap();
    assert!(recorded.contains("\"url\":") && !recorded.contains("let-me-in"), "{recorded}");
    let before = asked.load(Relaxed);
    let (code, out, error) = command(&["test", "--file", "httpjson"]);
    assert!(code == 0 && out.contains("ok"), "{out}{error}");
    assert_eq!(asked.load(Relaxed), before, "a replay asks nobody");
}

#[test]
fn a_demo_fills_every_surface_and_has_two_hours_of_history() {
    let mut command = dropsonde();
    command.args(["serve", "--demo"]);
    let mut demo = Demo::start(command);
    let get = |path: &str| client::request(&demo.address, "GET", path, "");
    wait_until("no snapshot", || get("/v1/snapshot").body.contains("total_users"));
    let count = |workload: &str| {
        let instances = get("/v1/instances").json();
        let ids = instances.as_array().into_iter().flatten().filter_map(|instance| instance["id"].as_str());
        ids.filter(|id| id.starts_with(&format!("{workload}-"))).count()
    };
    for workload in ["web", "api", "worker", "cache", "search"] {
        wait_until("instances are missing", || count(workload) == 10);
    }
    wait_until("no history", || {
        let range = get("/v1/instances/web-0/usage/range?range=2h&resolution=5m").json();
        range.as_array().is_some_and(|points| points.len() >= 24)
    });
    let workload = get("/v1/workloads/api/usage/range?range=1h&resolution=5m").json();
    let points = workload.as_array().unwrap();
    // The last five minutes are not over.
    let whole = points.iter().rev().skip(1);
    assert!(points.len() >= 12 && whole.clone().all(|point| point["replica_count"] == 10), "{workload}");
    assert!(get("/v1/plugins/flaky").json()["bundled"] == true);
    demo.stop();
}

/// A running `serve --demo`.
struct Demo {
    child: std::process::Child,
    address: String,
}

impl Demo {
    fn start(mut command: std::process::Command) -> Self {
        let mut child = command
            .args(["--listen", "127.0.0.1:0"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit("://").next().unwrap_or_default().to_owned();
        Self { child, address }
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
