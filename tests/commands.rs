use crate::harness::{Host, dropsonde, run, verbs, wait_until};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

fn write_file(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[test]
fn plugin_check_succeeds_when_its_output_pipe_is_closed() {
    let mut child = dropsonde().args(["plugin", "check", "procfs"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn plugin_check_refuses_invalid_components_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let newer = r#"(component (instance $i) (export "dropsonde:plugin/plugin@0.2.0" (instance $i)))"#;
    let stranger = r#"(component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#;
    let truncated = &verbs()[..verbs().len() / 2];
    for (name, bytes, says) in [
        ("empty.wasm", Vec::new(), "it is empty"),
        ("text.wasm", b"hello".to_vec(), "it is not WebAssembly"),
        ("core.wasm", wat("(module)"), "a core module, not a component"),
        ("newer.wasm", wat(newer), "version 0.2.0 of the plugin contract; this host speaks 0.1"),
        ("stranger.wasm", wat(stranger), "it exports wasi:cli/run@0.2.0"),
        ("truncated.wasm", truncated.to_vec(), "not a valid component"),
    ] {
        let (code, out, error) = run(dropsonde().args(["plugin", "check"]).arg(write_file(&folder, name, &bytes)));
        assert!(code == 1 && error.contains(says) && out.is_empty(), "{name}: {code} {error}");
    }
    let (code, _, error) = run(dropsonde().args(["plugin", "check", "/no/such.wasm"]));
    assert!(code == 1 && error.contains("/no/such.wasm"), "{error}");
    let (code, ..) = run(dropsonde().args(["plugin", "check"]));
    assert_eq!(code, 2, "wrong usage");
}

#[test]
fn plugin_check_shows_exports_imports_and_the_grants_to_paste() {
    let folder = tempfile::tempdir().unwrap();
    let verbs = write_file(&folder, "verbs.wasm", verbs());
    let (code, out, error) =
        run(dropsonde().args(["plugin", "check", "--config", r#"{"read":"/etc/hostname"}"#]).arg(&verbs));
    assert_eq!(code, 0, "{error}");
    for says in [
        "contract  0.1, as sampler",
        "dropsonde:plugin/sampler@0.1.0",
        "dropsonde:plugin/files@0.1.0",
        "read /etc/hostname",
        "[plugins.verbs.grants]\nread = [\"/etc/hostname\"]",
    ] {
        assert!(out.contains(says), "{says} in {out}");
    }
    let (_, procfs, _) = run(dropsonde().args(["plugin", "check", "procfs"]));
    assert!(!procfs.contains("wasi:"), "what is not used is not imported: {procfs}");
    let (code, out, _) = run(dropsonde().args(["plugin", "check", "--json"]).arg(&verbs));
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["roles"][0]), (0, &serde_json::json!("sampler")));
    let (code, _, error) = run(dropsonde().args(["plugin", "check", "--config", r#"{"nonsense":1}"#]).arg(&verbs));
    assert!(code == 1 && error.contains("nonsense"), "{error}");
}

#[test]
fn plugin_run_shows_samples_call_time_and_memory() {
    let (code, out, error) = run(dropsonde().args(["plugin", "run", "procfs", "--instance", "host", "--json"]));
    assert_eq!(code, 0, "{error}");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(report["samples"]["host"]["cpu_percent"].is_number(), "rates are there: {report}");
    assert!(report["call_seconds"].as_f64().unwrap() > 0.0 && report["memory_bytes"].as_u64().unwrap() > 0);
    let folder = tempfile::tempdir().unwrap();
    let verbs = write_file(&folder, "verbs.wasm", verbs());
    let (code, out, _) = run(dropsonde().args(["plugin", "run", "--instance", "ok", "--instance", "gone"]).arg(&verbs));
    assert!(code == 0 && out.contains("value") && out.contains("gone  the instance is gone"), "{out}");
    let (code, _, error) = run(dropsonde().args(["plugin", "run", "--instance", "panic"]).arg(&verbs));
    assert!(code == 1 && error.contains("trapped") && error.contains("told to"), "{error}");
}

#[test]
fn client_commands_show_instances_samples_ranges_and_streams_of_a_running_host() {
    let host = Host::start("poll.interval = '100ms'\n", &[]);
    host.until("/v1/instances/host/usage", |usage| usage.status == 200 && usage.json()["cpu_percent"].is_number());
    let ask = |args: &[&str]| run(dropsonde().args(args).args(["--url", &host.url()]));
    let (code, out, _) = ask(&["instances"]);
    assert!(code == 0 && out.contains("host ") && out.contains("kind=host"), "{out}");
    let (code, out, _) = ask(&["latest", "host"]);
    assert!(code == 0 && out.contains("memory_used_mb"), "{out}");
    let (code, out, _) = ask(&["latest", "host", "--json"]);
    assert!(code == 0 && serde_json::from_str::<serde_json::Value>(&out).unwrap()["at"].is_string());
    let (code, out, _) = ask(&["range", "host", "--range", "10m"]);
    assert!(code == 0 && out.contains("memory_used_mb") && out.contains('▁'), "{out}");
    let (code, out, _) = ask(&["range", "host", "--field", "memory_used_mb"]);
    assert!(code == 0 && out.contains('│'), "{out}");
    // No program of this machine, which may be an instance, has a name that is nearly this.
    let (code, _, error) = ask(&["latest", "0123456789"]);
    assert_eq!(
        (code, error.as_str()),
        (1, "error: no instance \"0123456789\"; `dropsonde instances` lists all instances\n")
    );
    let mut watch = dropsonde()
        .args(["watch", "host", "--json", "--url", &host.url()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(watch.stdout.take().unwrap()), &mut line).unwrap();
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["at"].is_string());
}

#[test]
fn client_commands_name_unknown_instances_and_fields_and_suggest_the_nearest() {
    let host = Host::start("poll.interval = '100ms'\n[[instances]]\nid = 'idle'\nsamplers = ['nobody']\n", &[]);
    host.until("/v1/instances/host/usage", |usage| usage.status == 200 && usage.json()["cpu_percent"].is_number());
    let fails = |args: &[&str]| {
        let (code, out, error) = run(dropsonde().args(args).args(["--url", &host.url()]));
        assert_eq!((code, out.as_str()), (1, ""), "{args:?}: {error}");
        error
    };
    for args in [
        &["latest", "hosst"][..],
        &["latest", "hosst", "--json"],
        &["range", "hosst"],
        &["range", "hosst", "--json"],
        &["range", "hosst", "--field", "cpu_percent"],
        &["watch", "hosst"],
    ] {
        assert_eq!(fails(args), "error: no instance \"hosst\"; did you mean \"host\"?\n", "{args:?}");
    }
    for args in [&["range", "host", "--field", "cpu"][..], &["range", "host", "--field", "cpu", "--json"]] {
        let error = fails(args);
        assert!(error.contains("cpu_percent") && error.contains("did you mean"), "{args:?}: {error}");
    }
    assert_eq!(fails(&["latest", "idle"]), "error: no sample of instance idle\n", "it is there");
    assert!(fails(&["range", "idle"]).contains("instance idle has no samples in the last 1h"));
}

#[test]
fn plugin_run_shows_usage_of_each_limit_and_names_the_exceeded_one() {
    let folder = tempfile::tempdir().unwrap();
    let verbs = write_file(&folder, "verbs.wasm", verbs());
    let run = |args: &[&str]| run(dropsonde().args(["plugin", "run"]).arg(&verbs).args(args));
    let (code, out, error) = run(&["--instance", "ok", "--cpu", "90ms", "--memory", "32MiB", "--deadline", "2s"]);
    assert_eq!(code, 0, "{error}");
    let line = |name: &str| out.lines().find(|line| line.trim_start().starts_with(name)).unwrap().trim().to_owned();
    assert!(line("took").ends_with(" of 2s"), "{out}");
    assert!(line("CPU time").ends_with("s of 90ms"), "{out}");
    assert!(line("memory").ends_with("iB of 32 MiB"), "{out}");

    let (code, _, error) = run(&["--instance", "spin", "--cpu", "5ms"]);
    let says = "sample used more than 50ms of CPU time, 10 times its limit of 5ms; --cpu raises it here";
    assert!(code == 1 && error.contains(says), "{error}");
    let (code, _, error) = run(&["--instance", "ok", "--cpu", "1us"]);
    assert!(code == 1 && error.contains("its limit of 1us; --cpu raises it here"), "{error}");
    let (code, _, error) = run(&["--instance", "wait", "--deadline", "50ms"]);
    let says = "sample took longer than 500ms, 10 times its limit of 50ms; --deadline raises it here";
    assert!(code == 1 && error.contains(says), "{error}");
    let (code, _, error) = run(&["--instance", "ok", "--memory", "512KiB"]);
    assert!(code == 1 && error.contains("more than its limit of 512 KiB; --memory raises it here"), "{error}");
    let (code, _, error) = run(&["--instance", "ok", "--cpu", "0s"]);
    assert!(code == 2 && error.contains("more than zero"), "{error}");
}

#[test]
fn grant_all_grants_what_a_plugin_needs_and_lists_it() {
    let folder = tempfile::tempdir().unwrap();
    let verbs = write_file(&folder, "verbs.wasm", verbs());
    let mut command = dropsonde();
    command.args(["plugin", "run", "--instance", "read", "--config", r#"{"read":"/proc/loadavg"}"#]).arg(&verbs);
    let (code, _, error) = run(&mut command);
    assert!(code == 1 && error.contains("read = [\"/proc/loadavg\"]"), "{error}");
    let (code, out, error) = run(command.arg("--grant-all"));
    assert!(code == 0 && out.contains("value"), "{out}{error}");
    assert_eq!(error, "granted: read /proc/loadavg\n");
}

#[test]
fn client_commands_say_how_to_start_a_host_when_none_responds() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, _, error) = run(dropsonde().args(["instances", "--url", &format!("http://{port}")]));
    assert!(code == 1 && error.contains("no host answers") && error.contains("dropsonde serve"), "{error}");
    let (code, _, error) = run(dropsonde().args(["instances", "--url", "ftp://x"]));
    assert!(code == 1 && error.contains("http://"), "{error}");
}

#[test]
fn help_names_every_command() {
    let (code, out, _) = run(dropsonde().arg("--help"));
    assert_eq!(code, 0);
    for command in ["serve", "plugin", "store", "instances", "latest", "range", "watch", "--memory-only"] {
        assert!(out.contains(command), "{command} in {out}");
    }
}

#[test]
fn instances_are_chosen_by_label_state_and_number_and_workloads_are_listed() {
    let host = Host::start("", &[]);
    for (id, workload) in [("a", "web"), ("b", "web"), ("c", "api")] {
        let body = format!("{{\"labels\":{{\"workload\":\"{workload}\"}},\"samplers\":[]}}");
        let put = host.send_as_writer("PUT", &format!("/v1/instances/{id}"), &body);
        assert!(put.status < 300, "{put:?}");
    }
    let url = format!("http://{}", host.address);
    let ids = |arguments: &[&str]| -> Vec<String> {
        let (code, out, error) = run(dropsonde().args(["instances", "--json", "--url", &url]).args(arguments));
        assert_eq!(code, 0, "{error}");
        let rows: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&["--label", "workload=web"]), ["a", "b"]);
    assert_eq!(ids(&["--label", "workload=web", "--limit", "1"]), ["a"]);
    assert_eq!(ids(&["--label", "workload=web", "--state", "paused"]), [""; 0]);
    assert_eq!(ids(&["--label", "workload=web", "--state", "tracked", "--limit", "1"]), ["a"]);
    let workloads = host.get("/v1/workloads").json();
    assert_eq!(workloads, serde_json::json!([{"workload":"api","instances":1},{"workload":"web","instances":2}]));
}

#[test]
fn numbers_have_units_and_times_may_be_relative_to_now() {
    let host = Host::start("poll.interval = '200ms'\n", &[]);
    host.until_usage("host", |usage| usage["cpu_percent"].is_number());
    let url = format!("http://{}", host.address);
    let (_, latest, _) = run(dropsonde().args(["latest", "host", "--url", &url]));
    let line = |name: &str| latest.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("memory_limit_mb").ends_with(" MiB") && line("cpu_percent").ends_with(" %"), "{latest}");
    assert!(line("load_1m").ends_with(|c: char| c.is_ascii_digit()), "{latest}");
    let (_, range, _) = run(dropsonde().args(["range", "host", "--url", &url]));
    assert!(range.contains("memory_used_mb (MiB)"), "{range}");

    let since = |since: &str| host.get(&format!("/v1/instances/host/usage/range?since={since}"));
    assert!(!since("-1h").json().as_array().unwrap().is_empty());
    assert_eq!(since("now").status, 200);
    let wrong = since("1h");
    assert!(wrong.status == 400 && wrong.body.contains("relative such as -1h"), "{wrong:?}");
    let data = host.data().display().to_string();
    wait_until("nothing of the last hour is exported", || {
        let (code, csv, error) = run(dropsonde().args(["store", "export", "--since", "-1h", "--data", &data]));
        assert_eq!(code, 0, "{error}");
        csv.contains("host")
    });
}

#[test]
fn watch_connects_again_after_a_restart_and_goes_on() {
    let host = Host::start_at("127.0.0.1:0", dropsonde(), "poll.interval = '200ms'\n", &[]);
    host.until("/v1/instances/host/usage", |usage| usage.status == 200);
    let url = format!("http://{}", host.address);
    let mut watch = dropsonde();
    watch.args(["watch", "host", "--json", "--url", &url]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut watch = watch.spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut at = || -> String {
        let sample: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        sample["at"].as_str().unwrap().to_owned()
    };
    let before = at();
    let host = host.kill();
    let again = host.start_here();
    again.until("/v1/instances/host/usage", |usage| usage.json()["at"].as_str() > Some(&before));
    let restarted = again.get("/v1/instances/host/usage").json()["at"].as_str().unwrap().to_owned();
    while at() < restarted {}
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn the_metrics_of_the_process_have_the_names_that_dashboards_know() {
    let host = Host::start("", &[]);
    let metrics = host.get("/metrics").body;
    for name in
        ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"]
    {
        let value = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        assert!(value.is_some_and(|value| value.parse::<f64>().unwrap() > 0.0), "{name}: {value:?}");
    }
}
