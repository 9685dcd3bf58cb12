use crate::harness::{Host, dropsonde, run, verbs};
use serde_json::{Value, json};

/// Longer than a busy machine delays anything.
const INTERVAL_MS: i64 = 500;

/// Starts a host in which the plugin `bad` samples one verb, beside a healthy `good`.
fn host_with_healthy_plugin(verb: &str, more: &str) -> Host {
    let config = format!(
        "poll.interval = '{INTERVAL_MS}ms'\n[[instances]]\nid = 'ok'\nsamplers = ['good']\n[[instances]]\nid = '{verb}'\nsamplers = ['bad']\n{more}"
    );
    Host::start(&config, &[("good", verbs()), ("bad", verbs())])
}

fn wait_for_failure(host: &Host, plugin: &str) -> Value {
    let path = format!("/v1/plugins/{plugin}");
    host.until(&path, |page| page.json().get("last_failure").is_some()).json()["last_failure"].clone()
}

/// Checks that the healthy plugin's samples come one interval after the other.
fn assert_no_missed_tick(host: &Host) {
    let mut stream = host.stream("/v1/instances/ok/usage/stream");
    let at = |sample: Value| sample["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let times: Vec<_> = (0..6).map(|_| at(stream.next_sample())).collect();
    // The first may be the one at start, off the grid. A busy machine delays some.
    let is_next = |pair: &[i64]| (pair[1] - pair[0] - INTERVAL_MS).abs() < INTERVAL_MS / 2;
    assert!(times[1..].windows(2).all(is_next), "{times:?}");
    assert_eq!(host.plugin("good")["polls_missed"], 0);
}

#[test]
fn a_trap_leaves_a_gap_with_its_reason_and_the_next_call_gets_a_fresh_instance() {
    let host = host_with_healthy_plugin("panic", "");
    assert_no_missed_tick(&host);
    let failure = wait_for_failure(&host, "bad");
    assert!(failure["reason"].as_str().unwrap().starts_with("trapped: "), "{failure}");
    let backtrace = failure["backtrace"].as_array().unwrap();
    assert!(backtrace.iter().any(|frame| frame.as_str().unwrap().contains("verbs::act")), "{backtrace:?}");
    let log = host.until_logged("told to");
    assert!(log.contains("tests/guests/verbs/src/lib.rs:"), "message and place reach the log: {log}");
    host.until("/v1/plugins/bad", |page| page.json()["workers_spawned"].as_u64().unwrap() >= 3);
    let metrics = host.get("/metrics").body;
    for metric in ["dropsonde_panics_total{service=\"bad\"}", "dropsonde_workers_stopped_total{reason=\"crashed\"}"] {
        let line = metrics.lines().find(|line| line.starts_with(metric)).unwrap_or_else(|| panic!("{metric}"));
        assert!(line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() >= 2.0, "{line}");
    }
    assert!(!host.stop_and_read_log().contains("cannot enter component instance"));
}

#[test]
fn endless_loops_in_four_plugins_are_stopped_and_another_plugin_misses_no_tick() {
    let mut config = format!(
        "poll.interval = '{INTERVAL_MS}ms'\n[[instances]]\nid = 'ok'\nsamplers = ['good']\n\
         [[instances]]\nid = 'spin'\nsamplers = ['bad', 'bad2', 'bad3', 'bad4']\n"
    );
    let names = ["good", "bad", "bad2", "bad3", "bad4"];
    for name in &names[1..] {
        // So little that it is used up before the deadline also where the machine has other things to do.
        config.push_str(&format!("[plugins.{name}]\ninterval = '1s'\nlimits = {{ cpu = '30ms' }}\n"));
    }
    let host = Host::start(&config, &names.map(|name| (name, verbs())));
    assert_no_missed_tick(&host);
    for name in &names[1..] {
        let failure = wait_for_failure(&host, name);
        let reason = failure["reason"].as_str().unwrap();
        assert!(reason.ends_with(" ms of its 30 ms of CPU time; raise limits.cpu"), "{reason}");
    }
    assert_eq!(host.get("/metrics").status, 200);
}

#[test]
fn a_plugin_that_exceeds_its_memory_fails_and_another_misses_no_tick() {
    let host = host_with_healthy_plugin("hoard", "[plugins.bad.limits]\nmemory = '8MiB'\n");
    let failure = wait_for_failure(&host, "bad");
    assert!(failure["reason"].as_str().unwrap().starts_with("exceeded its 8388608 bytes of memory"), "{failure}");
    assert_no_missed_tick(&host);
}

#[test]
fn a_plugin_that_exhausts_its_stack_fails_and_another_misses_no_tick() {
    let host = host_with_healthy_plugin("recurse", "");
    let reason = wait_for_failure(&host, "bad")["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("ran out of stack: "), "{reason}");
    assert_no_missed_tick(&host);
}

#[test]
fn a_plugin_that_returns_too_much_output_fails_and_another_misses_no_tick() {
    // Lifting so much takes a debug build its time.
    let host = host_with_healthy_plugin("long", "[plugins.bad.limits]\ncpu = '2s'\n");
    let reason = wait_for_failure(&host, "bad")["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("returned more than its 4194304 bytes of output"), "{reason}");
    assert_no_missed_tick(&host);
}

#[test]
fn a_flood_of_plugin_log_lines_is_limited_counted_and_escaped() {
    let host = host_with_healthy_plugin("flood", "");
    host.until("/v1/plugins/bad", |page| page.json()["log_lines_dropped"].as_u64().unwrap() > 900);
    let log = host.until_logged("line 0");
    assert!(log.contains(r"line 0\n\u{1b}[31mforged"), "{log}");
    assert!(!log.lines().any(|line| line.contains("\u{1b}[31mforged")));
}

#[test]
fn a_file_can_be_read_only_when_granted() {
    let files = tempfile::tempdir().unwrap();
    let (granted, secret) = (files.path().join("granted.txt"), files.path().join("secret.txt"));
    std::fs::write(&granted, "12345").unwrap();
    std::fs::write(&secret, "secret").unwrap();
    let section = |name: &str, path: &std::path::Path| {
        format!(
            "[plugins.{name}]\nconfig = {{ read = '{}' }}\ngrants = {{ read = ['{}'] }}\n",
            path.display(),
            granted.display()
        )
    };
    let config = format!(
        "poll.interval = '100ms'\n[[instances]]\nid = 'read'\nsamplers = ['may', 'may-not']\n{}{}",
        section("may", &granted),
        section("may-not", &secret)
    );
    let host = Host::start(&config, &[("may", verbs()), ("may-not", verbs())]);
    host.until("/v1/instances/read/usage", |usage| usage.status == 200 && usage.json()["value"] == 5);
    let failure = wait_for_failure(&host, "may-not");
    let path = secret.display();
    assert_eq!(failure["reason"], format!("read: denied: {path} is not granted; add read = [\"{path}\"]"));
    let missing = host.plugin("may-not")["missing"].clone();
    assert_eq!(missing, json!([format!("read {}", secret.display())]));
    // The lines to paste.
    host.until_logged("[plugins.may-not.grants]");
}

#[test]
fn a_plugin_file_named_like_a_bundled_plugin_does_not_get_its_grants() {
    let host = Host::start("", &[("procfs", verbs())]);
    let page = host.until("/v1/plugins/procfs", |page| page.json()["state"] == "running").json();
    assert_eq!((&page["bundled"], &page["grants"]["read"]), (&json!(false), &json!([])));
}

#[test]
fn plugins_that_cannot_start_degrade_health_and_others_keep_sampling() {
    let config = "poll.interval = '100ms'\n[[instances]]\nid = 'ok'\nsamplers = ['good']\n\
                  [plugins.refuses.config]\ninit = 'refuse'\n[plugins.spins]\nconfig = { init = 'spin' }\nlimits = { init_deadline = '200ms' }\n";
    let text = b"this is no plugin".as_slice();
    let plugins = [("good", verbs()), ("refuses", verbs()), ("spins", verbs()), ("text", text)];
    let host = Host::start(config, &plugins);
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    for (name, state, reason) in [
        ("refuses", "failed", "its configuration cannot work: it says so"),
        ("text", "failed", "it is not WebAssembly"),
        ("spins", "backoff", "raise limits.init_deadline"),
    ] {
        let page = host.until(&format!("/v1/plugins/{name}"), |page| page.json()["state"] == state).json();
        assert!(page["last_failure"]["reason"].as_str().unwrap().contains(reason), "{page}");
    }
    let health = host.get("/health");
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("degraded")));
    for (name, is_named) in [("refuses", true), ("spins", true), ("text", true), ("good", false)] {
        assert_eq!(health.body.contains(&format!("plugin {name} ")), is_named, "{name}: {}", health.body);
    }
}

#[test]
fn an_instance_reported_as_gone_ends_and_others_are_still_sampled() {
    let config = "poll.interval = '100ms'\n[plugins.verbs.config]\ndiscover = ['ok', 'gone']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    let ended = |page: &crate::harness::Response| {
        page.json().as_array().unwrap().iter().any(|one| one["id"] == "gone" && one["state"] == "ended")
    };
    host.until("/v1/instances", ended);
    assert_eq!(host.until("/v1/instances/ok/usage", |usage| usage.status == 200).json()["value"], 1);
}

#[test]
fn only_the_instance_that_traps_is_set_aside_among_many() {
    let others: Vec<String> = (0..9).map(|nth| format!("'ok-{nth}'")).collect();
    let config = format!(
        "poll.interval = '100ms'\n[plugins.verbs]\nconfig = {{ discover = [{}, 'panic'] }}\n",
        others.join(", ")
    );
    let host = Host::start(&config, &[("verbs", verbs())]);
    let page = host.until("/v1/plugins/verbs", |page| !page.json()["set_aside"].as_array().unwrap().is_empty()).json();
    let [aside] = &page["set_aside"].as_array().unwrap()[..] else { panic!("{page}") };
    assert_eq!(aside["instance"], "panic");
    assert!(aside["reason"].as_str().unwrap().starts_with("trapped: "), "{aside}");
    assert!(aside["retry_at"].is_string() && aside["times"].as_u64() >= Some(1), "{aside}");
    for nth in 0..9 {
        host.until(&format!("/v1/instances/ok-{nth}/usage"), |usage| usage.status == 200);
    }
    host.until("/v1/plugins/verbs", |page| page.json()["state"] == "running");
    assert_eq!(host.get("/v1/instances/panic/usage").status, 404);
    assert_eq!(host.get("/health").json()["status"], "healthy", "the plugin works");
    let set_aside = host.until("/v1/plugins/verbs", |page| page.json()["set_aside"][0]["times"].as_u64() >= Some(2));
    assert_eq!(set_aside.json()["set_aside"].as_array().unwrap().len(), 1, "tried again, alone");
}

#[test]
fn an_instance_that_exceeds_the_cpu_limit_is_set_aside_and_names_the_limit() {
    // Of the deadline, a second, little is enough to use up the budget.
    let config = "poll.interval = '1s'\n[plugins.verbs]\nconfig = { discover = ['count', 'ok', 'spin'] }\n\
                  limits = { cpu = '30ms' }\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    let page = host.until("/v1/plugins/verbs", |page| !page.json()["set_aside"].as_array().unwrap().is_empty()).json();
    let [aside] = &page["set_aside"].as_array().unwrap()[..] else { panic!("{page}") };
    assert_eq!(aside["instance"], "spin");
    assert!(aside["reason"].as_str().unwrap().ends_with(" ms of its 30 ms of CPU time; raise limits.cpu"), "{aside}");
    for name in ["count", "ok"] {
        host.until(&format!("/v1/instances/{name}/usage"), |usage| usage.status == 200);
    }
}

#[test]
fn a_plugin_whose_calls_are_all_too_slow_is_quarantined_and_recovers_without_setting_instances_aside() {
    let folder = tempfile::tempdir().unwrap();
    let work = folder.path().canonicalize().unwrap().join("work");
    let turns = |turns: u64| std::fs::write(&work, turns.to_string()).unwrap();
    turns(0);
    let path = work.display();
    let config = format!(
        "poll.interval = '500ms'\n[plugins.verbs]\nconfig = {{ discover = ['count', 'ok', 'version'], work = '{path}' }}\n\
         grants = {{ read = ['{path}'] }}\nlimits = {{ cpu = '30ms', failures = 3, retry_after = '400ms' }}\n"
    );
    let host = Host::start(&config, &[("verbs", verbs())]);
    host.until("/v1/instances/count/usage", |usage| usage.status == 200);
    // A number that nobody counts to in the time.
    turns(u64::MAX);
    let page = host.until("/v1/plugins/verbs", |page| {
        assert_eq!(page.json()["set_aside"], json!([]), "the cost is the call's");
        page.json()["state"] == "quarantined" && page.json()["retry_at"].is_string()
    });
    let page = page.json();
    let reason = page["last_failure"]["reason"].as_str().unwrap();
    // On a busy machine the deadline may be over first.
    assert!(["; raise limits.cpu", "; raise poll.interval"].iter().any(|end| reason.ends_with(end)), "{reason}");
    let health = host.get("/health").json();
    assert!(health["reasons"][0].as_str().unwrap().contains("; the host retries at 20"), "{health}");
    let (_, listed, _) = run(dropsonde().args(["plugin", "list", "--url", &host.url()]));
    assert!(listed.contains("next try at 20"), "{listed}");
    // It is tried again, in vain, and stays where it is.
    host.until_logged("still in quarantine");
    let metrics = host.get("/metrics").body;
    let dropped =
        metrics.lines().find_map(|line| line.strip_prefix("dropsonde_samples_dropped_total{reason=\"budget\"} "));
    assert!(dropped.unwrap().parse::<f64>().unwrap() >= 2.0, "the other two were not asked: {dropped:?}");
    turns(0);
    let page = host.until("/v1/plugins/verbs", |page| page.json()["state"] == "running").json();
    assert!(page.get("retry_at").is_none() && page.get("quarantined").is_none(), "{page}");
    assert_eq!(page["set_aside"], json!([]));
    host.until_logged("out of quarantine");
    let calls = host.plugin("verbs")["calls"].as_u64().unwrap();
    host.until("/v1/plugins/verbs", |page| page.json()["calls"].as_u64().unwrap() > calls + 3);
    host.until("/health", |health| health.json()["status"] == "healthy");
}

#[test]
fn a_quarantine_by_an_operator_is_not_retried() {
    let host = host_with_healthy_plugin("panic", "[plugins.bad.limits]\nfailures = 2\nretry_after = '1h'\n");
    host.until("/v1/plugins/bad", |page| page.json()["retry_at"].is_string() && page.json()["state"] == "quarantined");
    assert_eq!(host.send_as_admin("POST", "/v1/plugins/bad/quarantine", &[]).status, 202);
    let page = host.until("/v1/plugins/bad", |page| page.json()["quarantined"] == "an operator said so").json();
    assert!(page.get("retry_at").is_none(), "{page}");
    assert_eq!(host.send_as_admin("POST", "/v1/plugins/bad/quarantine", &[]).status, 409);
    assert_eq!(host.send_as_admin("POST", "/v1/plugins/bad/release", &[]).status, 202);
    let page = host.until("/v1/plugins/bad", |page| page.json()["retry_at"].is_string()).json();
    assert_ne!(page["quarantined"], "an operator said so");
}

#[test]
fn a_lasting_failure_is_logged_only_when_it_begins_changes_and_ends() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().canonicalize().unwrap().join("file");
    let path = file.display();
    let config = format!(
        "poll.interval = '100ms'\n[[instances]]\nid = 'read'\nsamplers = ['verbs']\n\
         [plugins.verbs]\nconfig = {{ read = '{path}' }}\ngrants = {{ read = ['{path}'] }}\n"
    );
    let host = Host::start(&config, &[("verbs", verbs())]);
    let failures = || host.plugin("verbs")["failures"].as_u64().unwrap();
    host.until("/v1/plugins/verbs", |page| page.json()["failures"].as_u64().unwrap() >= 10);
    // Another failure of the same kind.
    std::fs::create_dir(&file).unwrap();
    let before = failures();
    host.until("/v1/plugins/verbs", |page| page.json()["failures"].as_u64().unwrap() >= before + 10);
    std::fs::remove_dir(&file).unwrap();
    std::fs::write(&file, "12345").unwrap();
    let log = host.until_logged("works again");
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!((lines("have no reading"), lines("works again")), (2, 1), "{log}");
    assert!(log.contains("not of the kind asked for") && log.contains("not found"), "{log}");
}

#[test]
fn a_plugin_whose_calls_all_trap_is_quarantined_until_an_operator_releases_it() {
    let host = host_with_healthy_plugin("panic", "[plugins.bad.limits]\nfailures = 2\n");
    let page = host.until("/v1/plugins/bad", |page| page.json()["state"] == "quarantined").json();
    assert!(page["quarantined"].as_str().unwrap().contains("2 times in a row"), "{page}");
    assert_eq!((&page["workers"], &page["memory_bytes"]), (&json!(0), &json!(0)), "nothing of it is left: {page}");
    let health = host.get("/health").json();
    assert_eq!(health["status"], "degraded");
    assert!(health["reasons"][0].as_str().unwrap().starts_with("plugin bad is in quarantine: "), "{health}");
    assert!(host.until_logged("in quarantine").contains("dropsonde plugin release bad"), "the way out");
    let spawned = page["workers_spawned"].as_u64().unwrap();
    assert_no_missed_tick(&host);
    assert_eq!(host.plugin("bad")["workers_spawned"], spawned, "it is left alone");

    let order = |order: &str, name: &str| {
        run(dropsonde().args(["plugin", order, name, "--url", &host.url(), "--data"]).arg(host.data()))
    };
    let (code, out, error) = order("release", "bad");
    assert_eq!((code, out.as_str()), (0, "bad: released\n"), "{error}");
    host.until("/v1/plugins/bad", |page| page.json()["workers_spawned"].as_u64().unwrap() > spawned);
    host.until("/v1/plugins/bad", |page| page.json()["state"] == "quarantined");

    assert_eq!(order("quarantine", "good").0, 0);
    host.until("/v1/plugins/good", |page| page.json()["quarantined"] == "an operator said so");
    let (code, _, error) = order("quarantine", "good");
    assert!(code == 1 && error.contains("good is not running"), "{error}");
    assert_eq!(order("release", "good").0, 0);
    host.until("/v1/plugins/good", |page| page.json()["state"] == "running");
    let (code, _, error) = order("release", "no-such");
    assert!(code == 1 && error.contains("no plugin has this name"), "{error}");
}

#[test]
fn plugin_orders_require_the_admin_token() {
    let host = host_with_healthy_plugin("count", "");
    let order = |token: Option<&str>| {
        let header = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        host.request_with("POST", "/v1/plugins/good/quarantine", &header)
    };
    let refused = order(None);
    assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")), "{refused:?}");
    assert_eq!(order(Some("guessed")).status, 401);
    assert_eq!(host.get("/v1/plugins/good/quarantine").status, 405);
    let token = std::fs::read_to_string(host.data().join("admin.token")).unwrap();
    assert_eq!(order(Some(token.trim())).status, 202);
}

#[test]
fn an_idle_plugin_is_unloaded_and_continues_with_its_saved_state() {
    let config = "poll.interval = '1s'\n[[instances]]\nid = 'remember'\nsamplers = ['verbs']\n\
                  [plugins.verbs.limits]\nidle_timeout = '100ms'\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    host.until("/v1/instances/remember/usage", |usage| {
        usage.status == 200 && usage.json()["value"].as_u64() >= Some(3)
    });
    host.until("/v1/plugins/verbs", |page| page.json()["workers_spawned"].as_u64() >= Some(3));
    host.until("/v1/plugins/verbs", |page| page.json()["workers"] == 0);
    let idled = |metrics: &str| {
        let name = "dropsonde_workers_stopped_total{reason=\"idle_timeout\"}";
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    host.until("/metrics", |metrics| idled(&metrics.body) >= 2.0);
}
