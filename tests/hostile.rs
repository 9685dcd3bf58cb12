//! Plugins that misbehave: each fails with its own reason, and a healthy plugin beside it misses no tick.

use crate::harness::{Host, StartHost, components, verbs};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// Longer than a busy machine delays anything.
const INTERVAL_MS: i64 = 500;

/// Starts a host in which each verb has a plugin of its own, named after it, beside a healthy `good`. Their intervals
/// are long enough to reach their own ends on a busy machine. The second part of each pair goes into the
/// plugin's section.
fn host_with_healthy_plugin(verbs: &[(&str, &str)], more: &str, plugins: &[(&str, &[u8])]) -> Host {
    start_with_healthy_plugin(Host::start, verbs, more, plugins)
}

fn start_with_healthy_plugin(start: StartHost, verbs: &[(&str, &str)], more: &str, plugins: &[(&str, &[u8])]) -> Host {
    let mut config =
        format!("poll.interval = '{INTERVAL_MS}ms'\n[[instances]]\nid = 'ok'\nsamplers = ['good']\n{more}");
    for (verb, own) in verbs {
        config.push_str(&format!(
            "[[instances]]\nid = '{verb}'\nsamplers = ['{verb}']\n[plugins.{verb}]\ninterval = '5s'\n{own}\n"
        ));
    }
    let all = [("good", self::verbs())].into_iter().chain(verbs.iter().map(|(verb, _)| (*verb, self::verbs())));
    start(&config, &all.chain(plugins.iter().copied()).collect::<Vec<_>>())
}

fn last_failure_reason(host: &Host, plugin: &str) -> String {
    let path = format!("/v1/plugins/{plugin}");
    let page = host.until(&path, |page| page.json().get("last_failure").is_some()).json();
    page["last_failure"]["reason"].as_str().unwrap().to_owned()
}

/// Checks that the healthy plugin's samples come one interval after the other, and that the host responds.
fn assert_healthy(host: &Host) {
    let mut stream = host.stream("/v1/instances/ok/usage/stream");
    let at = |sample: Value| sample["at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    let times: Vec<_> = (0..6).map(|_| at(stream.next_sample())).collect();
    // The first may be the one at start, off the grid. A busy machine delays some.
    let is_next = |pair: &[i64]| (pair[1] - pair[0] - INTERVAL_MS).abs() < INTERVAL_MS / 2;
    assert!(times[1..].windows(2).all(is_next), "{times:?}");
    assert_eq!(host.plugin("good")["polls_missed"], 0);
    assert_eq!(host.get("/metrics").status, 200);
    let log = host.log();
    assert!(!log.contains("cannot enter component instance") && !log.contains("panicked at 'host"), "{log}");
}

#[test]
fn every_exceeded_limit_has_its_own_reason_and_spares_other_plugins() {
    let ends = [
        ("panic", "trapped: "),
        ("spin", "used 1"),
        ("wait", "took longer than its deadline of 1000 ms, with "),
        ("hoard", "exceeded its 16777216 bytes of memory"),
        ("recurse", "ran out of stack"),
        ("long", "returned more than its 4194304 bytes of output"),
        ("shout", "passed more than 131072 bytes to a host function"),
        ("handles", "held more than its 512 resource handles"),
        ("headers", "trapped: total size of fields exceeds limit"),
        ("random", "trapped: requested len 1073741824 exceeds limit"),
        ("short", "broke the plugin contract: 1 values for 1 instances of 2 fields"),
        ("stranger", "broke the plugin contract: a failure for row 1 of 1"),
    ];
    let own = |verb: &str| match verb {
        "hoard" => "limits = { memory = '16MiB', deadline = '5s' }",
        // Lifting so much takes a debug build its time.
        "long" => "limits = { cpu = '2s', deadline = '5s' }",
        "shout" => "limits = { memory = '128MiB', cpu = '2s', deadline = '5s' }",
        "wait" => "",
        // A busy machine may take longer than a second for the CPU time that they use up.
        _ => "limits.deadline = '5s'",
    };
    let host = host_with_healthy_plugin(&ends.map(|(verb, _)| (verb, own(verb))), "", &[]);
    for (verb, expected) in ends {
        let reason = last_failure_reason(&host, verb);
        assert!(reason.starts_with(expected), "{verb}: {reason}");
        assert_eq!(host.get(&format!("/v1/instances/{verb}/usage")).status, 404, "a gap");
    }
    assert_healthy(&host);
    let metrics = host.get("/metrics").body;
    for (verb, kind) in [("spin", "cpu"), ("hoard", "memory"), ("recurse", "stack"), ("long", "output")] {
        let counted = format!("dropsonde_errors_total{{service=\"{verb}\",type=\"{kind}\"}}");
        assert!(metrics.contains(&counted), "{counted}");
    }
}

#[test]
fn endless_loops_at_every_stage_of_a_start_end_at_the_init_deadline() {
    let looping = "config = { init = 'spin' }\nlimits = { init_deadline = '200ms', failures = 2 }\n";
    let started = "limits = { init_deadline = '200ms', failures = 2 }\n";
    let more = format!(
        "[plugins.init]\n{looping}[plugins.init2]\n{looping}[plugins.init3]\n{looping}[plugins.start]\n{started}"
    );
    let start = components::with_start_function(verbs(), "spin_at_start");
    let plugins = [("init", verbs()), ("init2", verbs()), ("init3", verbs()), ("start", &start[..])];
    let host = host_with_healthy_plugin(&[("spin", "")], &more, &plugins);
    for name in ["init", "init2", "init3", "start"] {
        let reason = last_failure_reason(&host, name);
        // Whichever is over first where others want the processor too.
        let both = [" ms of its 200 ms of CPU time; ", "took longer than its deadline of 200 ms, with "];
        assert!(both.iter().any(|words| reason.contains(words)), "{name}: {reason}");
        assert!(reason.ends_with("; raise limits.init_deadline"), "{name}: {reason}");
    }
    assert_healthy(&host);
    for name in ["init", "start"] {
        let page = host.until(&format!("/v1/plugins/{name}"), |page| page.json()["state"] == "quarantined").json();
        assert_eq!(page["workers"], 0, "{page}");
    }
}

#[test]
fn log_lines_of_plugins_are_bounded_in_length_and_number_and_escaped() {
    let verbs = [("line", "limits.log_line_bytes = '1KiB'"), ("flood", "limits.log_lines_per_second = 5")];
    let host = host_with_healthy_plugin(&verbs, "", &[]);
    host.until("/v1/plugins/flood", |page| page.json()["log_lines_dropped"].as_u64().unwrap() > 900);
    let log = host.until_logged("xxx…");
    let longest = log.lines().map(str::len).max().unwrap();
    assert!(longest < 1300, "{longest}");
    assert!(!log.contains("\u{1b}[31mforged"), "{log}");
    assert_healthy(&host);
}

#[test]
fn invalid_plugin_files_fail_with_a_reason_of_their_own() {
    let truncated = &verbs()[..verbs().len() / 2];
    let newer = components::replace_text(verbs(), "@0.1.0", "@0.2.0");
    let wanting = components::replace_text(verbs(), "dropsonde:plugin/state@", "dropsonde:plugin/stata@");
    let core = wat::parse_str("(module)").unwrap();
    let empty = wat::parse_str("(component)").unwrap();
    let nested: String = (1..5000).map(|nth| format!("(type $t{nth} (list $t{}))", nth - 1)).collect();
    let nested = wat::parse_str(format!("(component (type $t0 (list u8)) {nested})")).unwrap();
    let globals = "(global i32 (i32.const 0))".repeat(200_000);
    let heavy = format!("(component (core module $m {globals}) {})", "(core instance (instantiate $m))".repeat(60));
    let heavy = wat::parse_str(heavy).unwrap();
    let plugins: [(&str, &[u8]); 9] = [
        ("heavy", &heavy),
        ("nested", &nested),
        ("truncated", truncated),
        ("newer", &newer),
        ("wanting", &wanting),
        ("core", &core),
        ("hollow", &empty),
        ("nothing", b""),
        ("text", b"#!/bin/sh"),
    ];
    let host = host_with_healthy_plugin(&[], "", &plugins);
    for (name, expected) in [
        ("heavy", "it is not a valid component: an instance of it takes 192000000 bytes besides its memories"),
        ("nested", "it is not a valid component: "),
        ("truncated", "it is not a valid component: "),
        ("newer", "it speaks version 0.2.0 of the plugin contract; this host speaks 0.1"),
        ("wanting", "it imports something that this host does not offer"),
        ("core", "it is a core module, not a component"),
        ("hollow", "it does not export dropsonde:plugin/plugin"),
        ("nothing", "it is empty"),
        ("text", "it is not WebAssembly"),
    ] {
        let reason = last_failure_reason(&host, name);
        assert!(reason.starts_with(expected), "{name}: {reason}");
        assert_eq!(host.plugin(name)["state"], "failed");
    }
    assert_healthy(&host);
}

#[test]
fn a_plugin_file_of_200_mib_is_refused_without_reading_it() {
    let folder = tempfile::tempdir().unwrap();
    let huge = std::fs::File::create(folder.path().join("huge.wasm")).unwrap();
    huge.set_len(200 << 20).unwrap();
    let config = format!("plugins_dir = '{}'\n", folder.path().display());
    let host = Host::start(&config, &[]);
    let reason = last_failure_reason(&host, "huge");
    assert_eq!(reason, "cannot read it: it has 209715200 bytes; at most 134217728 are read");
}

#[test]
fn a_slow_compilation_delays_no_other_plugin() {
    let slow = components::slow_to_compile(6_000);
    assert!(slow.len() < 200_000, "{}", slow.len());
    let host = start_with_healthy_plugin(Host::start_cold, &[], "", &[("slow", &slow)]);
    host.until("/v1/plugins/slow", |page| page.json()["state"] == "compiling");
    assert_healthy(&host);
    let peak = peak_memory_mb(&host);
    assert!(peak < 150, "the host itself needs {peak} MB");
}

#[test]
fn host_memory_used_by_a_plugins_prepared_requests_is_bounded() {
    let host = host_with_healthy_plugin(&[("requests", "limits = { cpu = '1s', deadline = '10s' }")], "", &[]);
    let reason = last_failure_reason(&host, "requests");
    assert!(reason.starts_with("held more than its 512 resource handles"), "{reason}");
    let peak = peak_memory_mb(&host);
    assert!(peak < 250, "the host itself needs {peak} MB");
}

#[test]
fn discovered_instances_with_invalid_ids_are_refused_and_counted() {
    let long = "x".repeat(257);
    let bad = ["", ".", "..", "a/b", "/etc/passwd", "a\\nb", "\\u202e", long.as_str()];
    let names: Vec<_> = bad.iter().map(|name| format!("\"{name}\"")).collect();
    let more = format!("[plugins.names]\nconfig = {{ discover = [\"ok-too\", {}] }}\n", names.join(", "));
    let host = host_with_healthy_plugin(&[], &more, &[("names", verbs())]);
    host.until("/v1/instances/ok-too/usage", |usage| usage.status == 200);
    let instances = host.get("/v1/instances").json();
    let of_it = |one: &&Value| one["samplers"].as_array().unwrap().contains(&json!("names"));
    let found: Vec<_> = instances.as_array().unwrap().iter().filter(of_it).map(|one| &one["id"]).collect();
    assert_eq!(found, [&json!("ok-too")]);
    let refused = format!("dropsonde_errors_total{{service=\"names\",type=\"instances_refused\"}} {}", bad.len());
    assert!(host.get("/metrics").body.contains(&refused));
    assert!(last_failure_reason(&host, "names").starts_with("a discovered instance is refused: "));
}

#[test]
fn invalid_or_duplicate_field_names_are_refused() {
    let fields = [
        ("twice", "['same', 'same']", "same"),
        ("shouting", "['CPU!', 'x_per_sec']", "CPU!"),
        ("reserved", "['at', 'x_per_sec']", "at"),
        ("band", "['cpu_max', 'x_per_sec']", "cpu_max"),
        ("escape", r#"["a\u001b[31m", 'x_per_sec']"#, r"a\u{1b}[31m"),
    ];
    let sections = fields.map(|(name, fields, _)| format!("[plugins.{name}.config]\nfields = {fields}\n"));
    let plugins: Vec<(&str, &[u8])> = fields.iter().map(|(name, ..)| (*name, verbs())).collect();
    let host = host_with_healthy_plugin(&[], &sections.concat(), &plugins);
    for (name, _, field) in fields {
        let reason = last_failure_reason(&host, name);
        assert!(reason.starts_with("its fields are not taken: ") && reason.contains(field), "{name}: {reason}");
    }
    assert_healthy(&host);
}

#[test]
fn values_that_are_infinite_or_nan_become_gaps() {
    let host = host_with_healthy_plugin(&[("infinite", ""), ("gap", "")], "", &[]);
    for verb in ["infinite", "gap"] {
        host.until(&format!("/v1/plugins/{verb}"), |page| page.json()["calls"].as_u64().unwrap() > 0);
        let usage = host.get(&format!("/v1/instances/{verb}/usage"));
        // From the second call on there is a sample, of the rate beside it.
        assert!(usage.status == 404 || usage.json()["value"].is_null(), "{verb}: {usage:?}");
    }
    assert!(!host.get("/metrics").body.to_lowercase().contains(" inf"));
}

#[test]
fn sockets_are_denied_to_plugins() {
    let host = host_with_healthy_plugin(&[("dial", "")], "", &[]);
    let reason = last_failure_reason(&host, "dial");
    assert!(reason.starts_with("dial: denied: ") && reason.contains("access-denied"), "{reason}");
}

#[test]
fn discovered_instances_beyond_the_plugins_limit_are_refused() {
    let names: Vec<_> = (0..20).map(|nth| format!("'ok-{nth:02}'")).collect();
    let more =
        format!("[plugins.many]\nlimits = {{ instances = 5 }}\nconfig = {{ discover = [{}] }}\n", names.join(", "));
    let host = host_with_healthy_plugin(&[], &more, &[("many", verbs())]);
    host.until("/v1/plugins/many", |page| page.json()["instances"] == 5);
    assert_eq!(
        last_failure_reason(&host, "many"),
        "discovered 20 instances, of which the host takes 5; raise limits.instances"
    );
}

#[test]
fn sixty_four_plugins_fit_in_six_gigabytes_of_address_space() {
    // Each memory reserves the 64 MiB it may grow to, and a guard: 4 GiB together; by default each would reserve 4 GiB.
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -v 6291456 && exec "$0" "$@""#, env!("CARGO_BIN_EXE_dropsonde")]);
    let names: Vec<_> = (0..64).map(|nth| format!("p{nth:02}")).collect();
    let plugins: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), verbs())).collect();
    let config = "poll.interval = '1s'\n[[instances]]\nid = 'ok'\n";
    let host = Host::start_as(command, config, &plugins);
    for name in &names {
        host.until(&format!("/v1/plugins/{name}"), |page| page.json()["calls"].as_u64().unwrap() > 0);
    }
    assert_eq!(host.get("/health").json()["status"], "healthy");
}

#[test]
fn a_stopping_host_does_not_wait_for_plugin_calls_that_never_return() {
    let mut host = host_with_healthy_plugin(&[("spin", ""), ("wait", "")], "", &[]);
    host.until("/v1/plugins/spin", |page| page.json()["calls"].as_u64().unwrap() > 0);
    assert_eq!(host.stop(), 0);
}

/// Returns the peak of the host's resident memory.
fn peak_memory_mb(host: &Host) -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc").join(host.pid().to_string()).join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
