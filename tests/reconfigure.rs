//! Reloads of the configuration while the host runs.

use crate::harness::{Host, dropsonde, run, verbs};
use serde_json::json;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

const VERBS: &str =
    "poll.interval = '100ms'\n[[instances]]\nid = 'ok'\nlabels = { workload = 'web' }\nsamplers = ['verbs']\n";

#[test]
fn a_reload_applies_changed_keys_without_interrupting_streams_or_history() {
    let host = Host::start(VERBS, &[("verbs", verbs())]);
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    let mut stream = host.stream("/v1/instances/ok/usage/stream");
    stream.next_sample();
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
    stream.next_sample();
    assert_eq!(host.plugin("verbs")["loaded_at"], before["loaded_at"], "what is as it was goes on");
    host.reconfigure("poll.interval = '100ms'\n");
    assert_eq!(host.get("/v1/instances/ok").json()["state"], "ended", "its history stays");
    assert_eq!(host.get("/v1/instances/ok/usage").status, 200);
}

#[test]
fn a_changed_plugin_section_restarts_only_that_plugin() {
    let host = Host::start(VERBS, &[("verbs", verbs())]);
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    host.until("/v1/instances/host/usage", |usage| usage.status == 200);
    let procfs = host.plugin("procfs");
    let mut stream = host.stream("/v1/instances/ok/usage/stream");
    stream.next_sample();
    host.reconfigure(&format!("{VERBS}[plugins.verbs]\ninterval = '200ms'\ngrants = {{ read = ['/etc/hostname'] }}\n"));
    let page =
        host.until("/v1/plugins/verbs", |page| page.json()["interval_seconds"] == 0.2 && page.json()["calls"] != 0);
    assert_eq!(page.json()["grants"]["read"], json!(["/etc/hostname"]));
    let before = stream.next_sample();
    assert!(before["at"].as_str() < stream.next_sample()["at"].as_str(), "its streams go on");
    assert_eq!(host.plugin("procfs")["loaded_at"], procfs["loaded_at"]);
    assert_eq!(host.get("/v1/instances/host").json()["state"], "tracked");
    // The bundled one too, and what it discovered is tracked all the while.
    host.reconfigure("[plugins.procfs]\ninterval = '100ms'\nconfig = { top = 0 }\n");
    host.until("/v1/plugins/procfs", |page| page.json()["interval_seconds"] == 0.1 && page.json()["calls"] != 0);
    assert_eq!(host.get("/v1/instances/host").json()["state"], "tracked");
}

#[test]
fn keys_that_need_a_restart_are_logged_and_an_invalid_file_changes_nothing() {
    let host = Host::start("poll.interval = '1s'\n", &[]);
    host.reconfigure("poll.interval = '1s'\nstore.retention = '1d'\nhttp.socket_mode = 0o660\n");
    let log = host.log();
    for key in ["store.retention", "http.socket_mode"] {
        assert!(
            log.lines().any(|line| line.contains("restart the host to apply it") && line.contains(key)),
            "{key}: {log}"
        );
    }
    assert!(!log.contains("key=\"poll"), "{log}");
    host.configure("poll.intervall = '2s'\nlabels = { a = 'b' }\n");
    host.signal("HUP");
    let log = host.until_logged("cannot reload the configuration");
    assert!(log.contains("intervall") && log.contains("dropsonde.toml"), "{log}");
    host.until("/v1/instances/host", |instance| instance.status == 200);
    assert!(host.get("/v1/instances/host").json()["labels"].get("a").is_none());
    host.configure("listen = '0.0.0.0:1'\nauth.read_token_file = '/no/such/folder/token'\n");
    host.signal("HUP");
    host.until_logged("/no/such/folder/token");
    assert_eq!(host.get("/v1/instances").status, 200, "reading still needs none");
}

#[test]
fn a_changed_configuration_file_is_reloaded_once_without_a_signal() {
    let host = Host::start("", &[]);
    let began = Instant::now();
    host.configure("labels = { site = 'fra1' }\n");
    host.until_logged("reloaded the configuration");
    assert!(began.elapsed() < Duration::from_secs(30));
    host.until("/v1/instances/host", |one| one.status == 200 && one.json()["labels"]["site"] == "fra1");
    let log = host.stop_and_read_log();
    assert_eq!(log.matches("reloaded the configuration").count(), 1, "once: {log}");
}

#[test]
fn serve_check_finds_the_errors_of_a_start_and_creates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dropsonde.toml");
    let data = folder.path().join("data").display().to_string();
    let check = |config: &str| {
        fs::write(&file, config).unwrap();
        run(dropsonde().args(["serve", "--check", "--data", &data, "--config"]).arg(&file))
    };
    let made = format!("auth.read_token_file = '{}/yet'\n", folder.path().display());
    let (code, out, error) = check(&format!("listen = '127.0.0.1:0'\n{made}"));
    assert_eq!((code, out.as_str()), (0, "the configuration is fine\n"), "{error}");
    let open = folder.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let open = format!("plugins_dir = '{}'\n", open.display());
    fs::write(folder.path().join("empty"), "").unwrap();
    let empty = format!("auth.admin_token_file = '{}/empty'\n", folder.path().display());
    for (config, says) in [
        ("poll.interval = '1ms'\n", "dropsonde.toml: poll.interval"),
        ("listen = '0.0.0.0:1'\n", "--insecure"),
        ("listen = 'nonsense'\n", "unix:/run/dropsonde.sock"),
        ("plugins_dir = '/no/such/folder'\n", "/no/such/folder"),
        ("[tls]\ncert = '/no/cert.pem'\nkey = '/no/key.pem'\n", "/no/cert.pem"),
        (&empty, "the file contains no token"),
        ("auth.read_token_file = '/no/such/yet'\n", "cannot create /no/such/yet: no such folder"),
        ("listen = 'unix:/no/such/d.sock'\n", "cannot create /no/such/d.sock: no such folder"),
        (&open, "chmod go-w"),
    ] {
        let (code, out, error) = check(config);
        assert!(code == 1 && out.is_empty() && error.contains(says), "{config}: {error}");
    }
    assert!(!folder.path().join("data").exists() && !folder.path().join("yet").exists());
}

#[test]
fn a_section_that_its_plugin_refuses_leaves_the_whole_configuration_unchanged() {
    let host = Host::start("plugins.procfs.interval = '100ms'\n", &[]);
    host.until("/v1/instances/host/usage", |usage| usage.status == 200);
    let before = host.plugin("procfs")["loaded_at"].clone();
    host.configure("labels = { a = 'b' }\n[plugins.procfs]\ninterval = '200ms'\nconfig = { watch = ['('] }\n");
    host.signal("HUP");
    let log = host.until_logged("cannot reload the configuration");
    assert!(log.contains("part=\"[plugins.procfs]\""), "{log}");
    let page = host.plugin("procfs");
    assert_eq!(
        (&page["state"], &page["interval_seconds"], &page["loaded_at"]),
        (&json!("running"), &json!(0.1), &before)
    );
    assert!(page["refused_section"]["reason"].as_str().unwrap().contains("its configuration cannot work"), "{page}");
    assert!(host.get("/v1/instances/host").json()["labels"].get("a").is_none(), "no part of it is in force");
    let health = host.get("/health").json();
    assert_eq!(health["status"], "degraded");
    let reasons = health["reasons"].to_string();
    assert!(reasons.contains("was refused") && reasons.contains("[plugins.procfs]"), "{reasons}");
    let metrics = host.get("/metrics").body;
    assert!(metrics.contains("\ndropsonde_config_last_reload_successful 0\n"), "{metrics}");
    assert!(metrics.contains("\ndropsonde_config_reloads_total{outcome=\"refused\"} 1\n"), "{metrics}");
    host.reconfigure("labels = { a = 'b' }\n[plugins.procfs]\ninterval = '200ms'\nconfig = { watch = ['nobody'] }\n");
    let page = host.until("/v1/plugins/procfs", |page| page.json()["interval_seconds"] == 0.2).json();
    assert!(page.get("refused_section").is_none(), "{page}");
    assert_eq!(host.get("/v1/instances/host").json()["labels"]["a"], "b");
    assert_eq!(host.get("/health").json()["status"], "healthy");
    let metrics = host.get("/metrics").body;
    assert!(metrics.contains("\ndropsonde_config_last_reload_successful 1\n"), "{metrics}");
}

#[test]
fn a_plugins_page_shows_a_refused_section_until_a_configuration_without_it_is_read() {
    let host = Host::start("plugins.procfs.interval = '100ms'\n", &[]);
    host.until("/v1/instances/host/usage", |usage| usage.status == 200);
    let refused = |config: &str| {
        host.configure(config);
        let answer = host.send_as_admin("POST", "/v1/reload", b"");
        assert_eq!(answer.status, 422, "{}", answer.body);
        host.plugin("procfs").get("refused_section").map(|section| section["reason"].to_string())
    };
    let reason = refused("plugins.procfs.config.watch = ['(']\n");
    assert!(reason.as_ref().is_some_and(|reason| reason.contains("its configuration cannot work")), "{reason:?}");
    assert_eq!(refused("poll.intervall = '1s'\n"), reason, "this file cannot be understood");
    assert_eq!(refused("plugins.procfs.interval = '100ms'\n[plugins.nope]\n"), None);
}

#[test]
fn a_reload_by_the_api_reports_the_outcome_of_each_part() {
    let host = Host::start("poll.interval = '100ms'\n", &[]);
    host.until("/v1/instances/host/usage", |usage| usage.status == 200);
    let reload = || host.send_as_admin("POST", "/v1/reload", b"");
    let outcomes = |answer: &serde_json::Value| -> Vec<(String, String)> {
        let text = |part: &serde_json::Value, key: &str| part[key].as_str().unwrap().to_owned();
        answer["parts"].as_array().unwrap().iter().map(|part| (text(part, "part"), text(part, "outcome"))).collect()
    };
    let expected = |parts: &[(&str, &str)]| -> Vec<(String, String)> {
        parts.iter().map(|(part, outcome)| ((*part).to_owned(), (*outcome).to_owned())).collect()
    };
    assert_eq!(host.send_as_writer("POST", "/v1/reload", "").status, 403, "it needs the admin token");

    host.configure(
        "poll.interval = '100ms'\nstore.retention = '1d'\nhttp.hosts = ['me.example']\n\
         [plugins.procfs.config]\ntop = 1\n",
    );
    let answer = reload();
    assert_eq!(answer.status, 200, "{}", answer.body);
    let file = host.folder().join("dropsonde.toml");
    assert_eq!(answer.json()["file"], file.display().to_string());
    let parts = [("store.retention", "restart"), ("[http]", "applied"), ("[plugins.procfs]", "applied")];
    assert_eq!(outcomes(&answer.json()), expected(&parts));

    host.configure(
        "poll.interval = '100ms'\nhttp.hosts = ['you.example']\n[plugins.procfs.config]\nwatch = ['(']\n[plugins.nope]\n",
    );
    let answer = reload();
    assert_eq!(answer.status, 422, "{}", answer.body);
    let parts = [("[plugins.nope]", "failed"), ("[plugins.procfs]", "failed"), ("[http]", "not_applied")];
    assert_eq!(outcomes(&answer.json()), expected(&parts));
    assert!(answer.json()["error"].as_str().unwrap().contains("[plugins.nope]: "), "{}", answer.body);
    let error = answer.json()["parts"][1]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("its configuration cannot work"), "{error}");
    assert_eq!(host.plugin("procfs")["state"], "running");

    host.configure(
        "poll.interval = '100ms'\nhttp.hosts = ['me.example']\n[plugins.procfs.grants]\nread = ['/proc/stat']\n",
    );
    let answer = reload();
    assert_eq!((answer.status, outcomes(&answer.json())), (200, expected(&[("[plugins.procfs]", "applied")])));
    let missing = answer.json()["parts"][0]["missing"].to_string();
    assert!(missing.contains("read /proc/"), "{}", answer.body);

    host.configure("poll.intervall = 'secret'\n");
    let answer = reload();
    assert_eq!((answer.status, outcomes(&answer.json()).len()), (422, 0));
    assert!(answer.json()["error"].as_str().unwrap().contains("intervall"), "{}", answer.body);
    let reasons = host.get("/health").json()["reasons"].to_string();
    assert!(reasons.contains("the log has the details") && !reasons.contains("secret"), "{reasons}");

    host.until_audited(|line| line["path"] == "/v1/reload" && line["status"] == 422 && line["refused"].is_string());
    host.until_audited(|line| line["path"] == "/v1/reload" && line["status"] == 200);
}

#[test]
fn a_section_of_a_missing_plugin_is_accepted_at_a_start_and_kept_by_a_reload() {
    let section = "poll.interval = '100ms'\n[plugins.verbs.grants]\nread = ['/etc/hostname']\n";
    let host = Host::start(section, &[]);
    let log = host.until_logged("the configuration names a plugin that is not there yet");
    assert!(
        log.contains("no plugin is called \"verbs\"") || log.contains("no plugin is called \\\"verbs\\\""),
        "{log}"
    );
    host.reconfigure(&format!("{section}[http]\nhosts = ['me.example']\n"));
    host.drop_in("verbs", verbs());
    let page = host.until("/v1/plugins/verbs", |page| page.status == 200 && page.json()["state"] == "running");
    assert_eq!(page.json()["grants"]["read"], json!(["/etc/hostname"]));
}

#[test]
fn serve_check_validates_plugin_sections_and_reports_a_port_and_folder_in_use() {
    let host = Host::start("", &[]);
    let folder = tempfile::tempdir().unwrap();
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    fs::write(plugins.join("verbs.wasm"), verbs()).unwrap();
    let file = folder.path().join("dropsonde.toml");
    let check = |config: &str, data: &std::path::Path, listen: &str| {
        fs::write(&file, config).unwrap();
        let plugins = plugins.as_os_str();
        run(dropsonde()
            .args(["serve", "--check", "--listen", listen, "--data"])
            .arg(data)
            .arg("--plugins")
            .arg(plugins)
            .arg("--config")
            .arg(&file))
    };
    let (free, any) = (folder.path().join("data"), "127.0.0.1:0");
    let wrong = "plugins.procfs.config = { watch = ['('] }\npoll.default_samplers = ['procsf']\n[plugins.nope]\n\
                 [[instances]]\nid = 'a'\nsamplers = ['nobody']\n";
    let (code, out, error) = check(wrong, &free, any);
    assert_eq!((code, out.as_str()), (1, ""), "{error}");
    for says in [
        "plugin procfs: its configuration cannot work",
        "plugins.nope: no plugin is called \"nope\"",
        "poll.default_samplers: no plugin is called \"procsf\"",
        "did you mean \"procfs\"?",
        "the samplers of instance \"a\": no plugin is called \"nobody\"",
    ] {
        assert!(error.contains(says), "{says}: {error}");
    }
    let (code, _, error) = check("[[instances]]\nid = 'a'\n[[instances]]\nid = 'a'\n", &free, any);
    assert!(code == 1 && error.contains("instances[1].id") && error.contains("already"), "{error}");
    let (code, _, error) = check("", &host.data(), &host.address);
    assert!(code == 1 && error.contains(&format!("port {} is in use; ", host.address)), "{error}");
    assert!(error.contains(&format!("{} is in use by a running host", host.data().display())), "{error}");
    let few = "[plugins.procfs.grants]\nread = ['/proc/stat']\n";
    let (code, _, error) = check(few, &free, any);
    assert!(code == 1 && error.contains("plugin procfs needs more than it is granted: read /proc"), "{error}");
    assert!(error.contains("[plugins.procfs.grants]\nread = ["), "{error}");
    assert!(!free.exists(), "nothing is made");
    assert_eq!(host.get("/health").status, 200, "who was asked beside goes on");
}

#[test]
fn a_reload_cannot_drop_the_read_token_while_a_public_address_stays_until_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let here = folder.path().display().to_string();
    let tls = format!("store.memory_only = true\ntls = {{ cert = '{here}/cert.pem', key = '{here}/key.pem' }}\n");
    let file = folder.path().join("dropsonde.toml");
    fs::write(&file, format!("listen = '0.0.0.0:0'\n{tls}auth.read_token_file = '{here}/read'\n")).unwrap();
    let mut child = dropsonde()
        .args(["serve", "--config"])
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut listening = String::new();
    out.read_line(&mut listening).unwrap();
    // By itself this is fine: a host that only this machine reaches.
    fs::write(&file, format!("listen = '127.0.0.1:0'\n{tls}")).unwrap();
    let refused = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let refused = refused.into_iter().find(|line| line.contains("cannot reload the configuration")).unwrap();
    assert!(refused.contains("the keys that need a restart") && refused.contains("auth.read_token_file"), "{refused}");
    let url = listening.trim().replace("listening on ", "").replace("0.0.0.0", "localhost");
    let (code, _, error) =
        run(dropsonde().args(["instances", "--url", &url, "--ca", &format!("{here}/cert.pem"), "--data", "/no"]));
    assert!(code == 1 && error.contains("needs the read token"), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_configured_instance_beyond_the_limit_is_tracked_by_a_reload_once_there_is_room() {
    let two = "[[instances]]\nid = 'a'\n[[instances]]\nid = 'b'\n";
    let limit = "plugins.procfs.config = { top = 0, host = false }\npoll.max_instances = 2\n";
    let host = Host::start(&format!("{limit}[[instances]]\nid = 'a'\n"), &[]);
    host.until("/ready", |ready| ready.status == 200);
    assert_eq!(host.send_as_writer("PUT", "/v1/instances/other", "{}").status, 200);
    host.reconfigure(&format!("{limit}{two}"));
    host.until_logged("instance limit reached; raise poll.max_instances");
    assert_eq!(host.get("/v1/instances/b").status, 404);
    assert_eq!(host.send_as_writer("DELETE", "/v1/instances/other", "").status, 204);
    host.reconfigure(&format!("{limit}{two}"));
    host.until("/v1/instances/b", |instance| instance.status == 200);
}

#[test]
fn replacing_the_read_token_ends_streams_opened_with_the_old_one() {
    let host = Host::start("poll.interval = '100ms'\nauth.read_token_file = '{}/data/read.token'\n", &[]);
    let path = "/v1/instances/host/usage/stream";
    let bearer = host.bearer("read");
    let mut stream = crate::harness::stream(&host.address, path, &bearer);
    stream.next_sample();
    fs::remove_file(host.data().join("read.token")).unwrap();
    while stream.next().is_some() {}
    assert_eq!(host.request_with("GET", path, &bearer).status, 401);
    let mut stream = crate::harness::stream(&host.address, path, &host.bearer("read"));
    assert!(stream.next_sample()["at"].is_string(), "who knows the new one goes on");
}

/// Replaces the write token, and waits until the old one is refused.
fn replace_token(host: &Host) {
    let put = |bearer: &str| {
        let headers = format!("{bearer}Content-Type: application/json\r\n");
        crate::harness::send(&host.address, "PUT", "/v1/instances/a", &headers, b"{}").status
    };
    let old = host.bearer("write");
    assert_eq!(put(&old), 200);
    let half = host.folder().join("half.token");
    fs::write(&half, "an operator's own new token\n").unwrap();
    fs::set_permissions(&half, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(half, host.data().join("write.token")).unwrap();
    let began = Instant::now();
    while put(&old) != 401 {
        // Two seconds on a machine that has nothing else to do.
        assert!(began.elapsed() < Duration::from_secs(20), "{}", host.log());
        std::thread::park_timeout(Duration::from_millis(20));
    }
    assert_eq!(put(&host.bearer("write")), 200);
}

#[test]
fn a_replaced_token_is_refused_while_another_file_keeps_changing() {
    let host = Host::start("", &[]);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let file = host.folder().join("dropsonde.toml");
        scope.spawn(move || {
            let mut text = String::new();
            while stopped.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
                text.push_str("# another line\n");
                fs::write(&file, &text).unwrap();
            }
        });
        host.until_logged("reloaded the configuration");
        replace_token(&host);
        drop(stop);
    });
}

#[test]
fn a_replaced_token_is_refused_while_a_plugin_is_slow_to_start_with_its_new_section() {
    let host = Host::start("", &[("verbs", verbs())]);
    host.until("/v1/plugins/verbs", |page| page.json()["state"] == "running");
    host.configure("[plugins.verbs]\nconfig = { init = 'spin' }\nlimits = { init_deadline = '10m' }\n");
    host.until_logged("the configuration or a file it names has changed");
    replace_token(&host);
    assert!(!host.log().contains("reloaded the configuration"), "the plugin has not started: {}", host.log());
}

#[test]
fn a_host_whose_token_and_certificate_files_are_named_pipes_still_stops() {
    let mut host = Host::start("", &[]);
    let pipe = host.folder().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    host.configure("[tls]\ncert = '{}/pipe'\nkey = '{}/pipe'\n");
    // TLS is not switched on without a restart, and a token that is no file is refused.
    host.reconfigure("[tls]\ncert = '{}/pipe'\nkey = '{}/pipe'\n");
    host.configure("auth.read_token_file = '{}/pipe'\n");
    host.signal("HUP");
    host.until_logged("it is not a regular file");
    assert_eq!(host.stop(), 0);
}
