//! Hosts under the filters and limits that service managers, containers and older kernels set.

use crate::harness::{Host, Response, components, connect_from, run, verbs, workspace};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter, compile_from_json};
use serde_json::json;
use std::collections::BTreeSet;
use std::process::Command;

/// System call numbers that are the same on every architecture.
const CLONE3: i64 = 435;
const OPENAT2: i64 = 437;

const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

/// Calls `start` on a thread whose child processes have these filters, the last one set first.
fn with_filters<T: Send>(filters: Vec<BpfProgram>, start: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let filtered = scope.spawn(move || {
            filters.iter().rev().for_each(|filter| apply_filter(filter).unwrap());
            start()
        });
        filtered.join().unwrap()
    })
}

/// Returns a filter that makes some system calls fail with an error.
fn errno_filter(calls: &[i64], errno: u32) -> BpfProgram {
    let filter = SeccompFilter::new(
        calls.iter().map(|call| (*call, Vec::new())).collect(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    filter.unwrap().try_into().unwrap()
}

fn where_openat2_fails_with<T: Send>(errno: u32, start: impl FnOnce() -> T + Send) -> T {
    with_filters(vec![errno_filter(&[OPENAT2], errno)], start)
}

/// Returns the filter of `SystemCallFilter=` for some of systemd's groups, with `SystemCallErrorNumber=EPERM`.
fn allow_filter(groups: &[&str]) -> BpfProgram {
    let (mut calls, mut known) = (BTreeSet::new(), BTreeSet::new());
    let mut ahead: Vec<_> = groups.iter().map(|group| (*group).to_owned()).collect();
    while let Some(group) = ahead.pop() {
        if !known.insert(group.clone()) {
            continue;
        }
        let (code, listed, error) = run(systemd_analyze().args(["syscall-filter", &group]));
        assert_eq!(code, 0, "{error}");
        for line in listed.lines().skip(1).map(str::trim).filter(|line| !line.starts_with('#')) {
            match line.strip_prefix('@') {
                Some(_) => ahead.push(line.to_owned()),
                None => {
                    calls.insert(line.to_owned());
                }
            }
        }
    }
    let compiled = |calls: &[&String]| {
        let calls: Vec<_> = calls.iter().map(|call| json!({ "syscall": call })).collect();
        let filter =
            json!({ "main": { "mismatch_action": { "errno": EPERM }, "match_action": "allow", "filter": calls } });
        compile_from_json(filter.to_string().as_bytes(), std::env::consts::ARCH.try_into().unwrap())
    };
    // Those of other architectures are not known here.
    let here: Vec<_> = calls.iter().filter(|call| compiled(&[call]).is_ok()).collect();
    assert!(here.len() > 200, "{here:?}");
    compiled(&here).unwrap().remove("main").unwrap()
}

fn systemd_analyze() -> Command {
    Command::new("systemd-analyze")
}

/// Returns the shipped unit with the path of the tested binary.
fn systemd_unit() -> String {
    let unit = std::fs::read_to_string(workspace().join("host/systemd/dropsonde.service")).unwrap();
    unit.replace("/usr/local/bin/dropsonde", env!("CARGO_BIN_EXE_dropsonde"))
}

/// Returns the value of a setting of the unit.
fn unit_setting(name: &str) -> String {
    let unit = systemd_unit();
    let value = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("{name} is not in the unit")).to_owned()
}

/// Returns the command for the binary in a mount namespace of its own, started by a script.
fn with_mounts(script: &str) -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "--propagation=private", "sh", "-ec", script, env!("CARGO_BIN_EXE_dropsonde")]);
    command
}

/// Returns the command for the binary under a limit of the shell's `ulimit`.
fn with_ulimit(limit: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!(r#"ulimit {limit} && exec "$0" "$@""#), env!("CARGO_BIN_EXE_dropsonde")]);
    command
}

fn has_cpu(usage: &Response) -> bool {
    usage.status == 200 && usage.json().get("cpu_percent").is_some()
}

#[test]
fn procfs_samples_this_machine_where_openat2_is_unknown_or_forbidden() {
    for errno in [ENOSYS, EPERM] {
        let host = where_openat2_fails_with(errno, || {
            Host::start("poll.interval = '1s'\nplugins.procfs.limits.cpu = '1s'\n", &[])
        });
        let usage = host.until("/v1/instances/host/usage", has_cpu).json();
        assert!(usage["memory_used_mb"].as_f64().unwrap() > 0.0, "{usage}");
        assert!(host.plugin("procfs").get("last_failure").is_none(), "{}", host.plugin("procfs"));
        let health = host.get("/health").json();
        assert_eq!(health["status"], "healthy", "{health}");
    }
}

#[test]
fn systemd_analyze_accepts_the_unit_and_rates_its_exposure_low() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dropsonde.service");
    std::fs::write(&file, systemd_unit()).unwrap();
    let (code, out, error) = run(systemd_analyze().args(["verify", "--man=no"]).arg(&file));
    assert_eq!((code, out.as_str(), error.as_str()), (0, "", ""));
    // In tenths: 2.0.
    let (code, out, error) =
        run(systemd_analyze().args(["security", "--offline=true", "--threshold=20", "--no-pager"]).arg(&file));
    assert_eq!(code, 0, "{out}{error}");
}

#[test]
fn plugins_give_samples_under_the_system_call_filter_of_the_unit() {
    assert_eq!(unit_setting("SystemCallFilter"), "@system-service");
    assert_eq!(unit_setting("SystemCallErrorNumber"), "EPERM");
    assert_eq!(
        (unit_setting("RestrictSUIDSGID"), unit_setting("RestrictNamespaces")),
        ("yes".to_owned(), "yes".to_owned())
    );
    // The last two have no flags that a filter could look at: systemd answers them with ENOSYS.
    let filters = vec![allow_filter(&["@system-service", "@default"]), errno_filter(&[OPENAT2, CLONE3], ENOSYS)];
    let host = with_filters(filters, || Host::start("poll.interval = '200ms'\n", &[("verbs", verbs())]));
    host.until("/v1/instances/host/usage", has_cpu);
    host.until("/v1/plugins/verbs", |page| page.json()["state"] == "running");
    assert_eq!(host.send_as_writer("PUT", "/v1/instances/ok", r#"{"samplers":["verbs"]}"#).status, 200);
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    let health = host.get("/health").json();
    assert_eq!(health["status"], "healthy", "{health}");
}

#[test]
fn plugins_give_samples_without_capabilities_on_a_read_only_file_system() {
    assert_eq!(
        (unit_setting("ProtectSystem"), unit_setting("CapabilityBoundingSet")),
        ("strict".to_owned(), String::new())
    );
    // As systemd does: all is read-only, but for what is a mount of its own.
    const CONFINED: &str = r#"
        for folder in "$DATA" /proc/sys /sys; do mount --rbind "$folder" "$folder"; done
        for folder in / /proc/sys /sys; do mount -o remount,bind,ro "$folder"; done
        exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$0" "$@""#;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().canonicalize().unwrap();
    let mut command = with_mounts(CONFINED);
    // Where the harness makes the host's own folder.
    command.env("DATA", data.parent().unwrap());
    let unreadable = data.join("unreadable");
    std::fs::write(&unreadable, "secret").unwrap();
    std::fs::set_permissions(&unreadable, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let path = unreadable.display();
    let config = format!(
        "poll.interval = '200ms'\n[[instances]]\nid = 'read'\nsamplers = ['verbs']\n\
         [plugins.verbs]\nconfig = {{ read = '{path}' }}\ngrants = {{ read = ['{path}'] }}\n"
    );
    let host = Host::start_as(command, &config, &[("verbs", verbs())]);
    host.until("/v1/instances/host/usage", has_cpu);
    let page = host.until("/v1/plugins/verbs", |page| page.json().get("last_failure").is_some()).json();
    assert_eq!(
        page["last_failure"]["reason"],
        format!(
            "read: unavailable: permission denied by the operating system: {path}; run the host as a user that may read it"
        )
    );
}

#[test]
fn ungranted_files_and_magic_links_are_denied_where_openat2_is_unknown() {
    let config = "poll.interval = '200ms'\n[[instances]]\nid = 'read'\nsamplers = ['link', 'other']\n\
                  [plugins.link]\nconfig = { read = '/proc/self/root/etc/passwd' }\n\
                  grants = { read = ['/proc/**', '/etc/**'] }\n\
                  [plugins.other]\nconfig = { read = '/etc/passwd' }\ngrants = { read = ['/proc/**'] }\n";
    let host = where_openat2_fails_with(ENOSYS, || Host::start(config, &[("link", verbs()), ("other", verbs())]));
    for name in ["link", "other"] {
        let page = host.until(&format!("/v1/plugins/{name}"), |page| page.json().get("last_failure").is_some()).json();
        let reason = page["last_failure"]["reason"].as_str().unwrap();
        assert!(reason.starts_with("read: denied: "), "{name}: {reason}");
    }
}

#[test]
fn a_sampler_that_never_gave_a_sample_degrades_health_with_the_reason() {
    let config = "poll.interval = '100ms'\n[[instances]]\nid = 'read'\nsamplers = ['verbs']\n\
                  [[instances]]\nid = 'ok'\nsamplers = ['well']\n\
                  [plugins.verbs.config]\nread = '/no/such'\n";
    let host = Host::start(config, &[("verbs", verbs()), ("well", verbs())]);
    let health = host.until("/health", |health| health.json()["status"] == "degraded").json();
    let reasons = health["reasons"].as_array().unwrap();
    let [reason] = &reasons[..] else { panic!("{health}") };
    let reason = reason.as_str().unwrap();
    assert!(reason.starts_with("plugin verbs has given no sample in "), "{reason}");
    assert!(reason.contains(" polls of its instance: read: denied: "), "{reason}");
    assert_eq!(host.plugin("verbs")["state"], "running");
}

#[test]
fn a_plugin_that_cannot_be_compiled_within_the_address_space_limit_fails_and_names_it() {
    let slow = components::slow_to_compile(20_000);
    let patient = "plugins.slow.limits.compile_time = '10m'\n";
    let host = Host::start_as(with_ulimit("-v 1000000"), patient, &[("slow", &slow)]);
    let page = host.until("/v1/plugins/slow", |page| page.json()["state"] == "failed").json();
    let reason = page["last_failure"]["reason"].as_str().unwrap();
    assert_eq!(
        reason,
        "it was not compiled: compiling needs up to 2147483648 bytes of address space, and RLIMIT_AS allows 1024000000; \
         raise it (`ulimit -Hv 2097152` before the start, or LimitAS= of the service)"
    );
}

#[test]
fn a_start_with_too_little_address_space_fails_and_names_the_limit() {
    let (code, _, error) = run(with_ulimit("-v 300000").args(["serve", "--listen", "127.0.0.1:0", "--memory-only"]));
    assert_eq!(code, 1, "{error}");
    assert_eq!(
        error,
        "error: RLIMIT_AS allows 292 MiB of address space; the host needs 512 MiB to start, and some GiB to compile plugins: \
         raise it (`ulimit -v unlimited` before the start, or LimitAS= of the service)\n"
    );
}

#[test]
fn a_host_with_a_read_only_data_folder_serves_from_memory_and_degrades_health() {
    // The last argument is the data directory.
    const READ_ONLY: &str = r#"
        for data; do :; done
        mount --bind "$data" "$data"
        mount -o remount,bind,ro "$data"
        exec "$0" "$@""#;
    let config = "poll.interval = '100ms'\n[[instances]]\nid = 'ok'\nsamplers = ['verbs']\n";
    let mut host = Host::start_as(with_mounts(READ_ONLY), config, &[("verbs", verbs())]);
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    host.until("/v1/instances/ok/usage/range?range=1m&resolution=50ms", |range| {
        range.json().as_array().is_some_and(|samples| samples.len() > 3)
    });
    let health = host.get("/health").json();
    let data = host.data();
    let missing = |what: &str| format!("{}: Read-only file system", data.join(what).display());
    let expected = [
        format!("there is no write token, and nobody has its right: cannot make {}", missing("write.token")),
        format!("there is no admin token, and nobody has its right: cannot make {}", missing("admin.token")),
        format!("cannot write the audit log {}", missing("audit.log")),
        format!("history is in memory alone until a restart: cannot make {}", missing("history")),
    ];
    assert_eq!((&health["status"], &health["reasons"]), (&json!("degraded"), &json!(expected)));
    let put = |headers: &str| crate::harness::send(&host.address, "PUT", "/v1/instances/a", headers, b"{}").status;
    assert_eq!((put(""), put("Authorization: Bearer guessed\r\n")), (403, 403));
    let metrics = host.get("/metrics").body;
    assert!(metrics.contains("dropsonde_service_status{service=\"history\"} 4"), "{metrics}");
    // It reads its configuration again all the same.
    host.reconfigure(&format!("{config}labels = {{ site = 'fra1' }}\n").replace("poll.interval = '100ms'\n", ""));
    assert_eq!(host.stop(), 1, "{}", host.log());
    assert!(host.log().contains("the last samples could not be written"), "{}", host.log());

    // With what an earlier start made it has tokens and history.
    let made = host.start_again();
    made.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    let first = made.restart_as(with_mounts(READ_ONLY));
    assert_eq!(first.get("/v1/instances/ok/usage").status, 200, "it was written before");
    assert_eq!(first.send_as_writer("PUT", "/v1/instances/a", "{}").status, 200);
    first.until("/health", |health| health.body.contains("history is in memory alone since"));
}

#[test]
fn history_stays_in_memory_beyond_the_file_size_limit_and_stopping_reports_the_loss() {
    let config = "poll.interval = '100ms'\n[store]\nflush_interval = '50ms'\n";
    let mut host = Host::start(config, &[]);
    host.until("/v1/instances/host/usage", has_cpu);
    let limit = Some(512);
    let pid = Pid::from_raw(host.pid().try_into().unwrap());
    prlimit(pid, Resource::Fsize, Rlimit { current: limit, maximum: limit }).unwrap();
    let health = host.until("/health", |health| health.body.contains("history is in memory alone since")).json();
    assert_eq!(health["status"], "degraded");
    let reason = health["reasons"].to_string();
    assert!(reason.contains("File too large"), "{reason}");
    let at = |usage: &Response| usage.json()["at"].clone();
    let before = at(&host.get("/v1/instances/host/usage"));
    host.until("/v1/instances/host/usage", |usage| at(usage) != before);
    assert_eq!(host.stop(), 1, "{}", host.log());
    assert!(host.log().contains("error: the last samples could not be written"), "{}", host.log());
}

#[test]
fn a_plugin_that_needs_more_than_the_file_size_limit_fails_and_names_it() {
    // In blocks of 512 bytes.
    let host = Host::start_cold_as(with_ulimit("-f 16"), "", &[]);
    let page = host.until("/v1/plugins/procfs", |page| page.json().get("last_failure").is_some()).json();
    assert_eq!(
        page["last_failure"]["reason"],
        "trapped: File too large: RLIMIT_FSIZE limits the host's files to 8192 bytes, and the initial memory \
         of a plugin is in a file; raise it (`ulimit -f unlimited` before the start, or LimitFSIZE= of the service)"
    );
}

/// Opens connections of several peers whose responses and streams nobody reads.
fn open_unread_connections(address: &str, each: usize) -> Vec<std::net::TcpStream> {
    use std::io::Write as _;
    let paths = ["/v1/instances", "/metrics", "/v1/stream", "/v1/usage/range?range=1h&label=kind%3Dflock", "/v1/usage"];
    let open = |(peer, nth): (u8, usize)| {
        let mut socket = connect_from(std::net::Ipv4Addr::new(127, 0, 0, peer), address);
        let path = paths[nth % paths.len()];
        write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
        socket
    };
    (2..14).flat_map(|peer| (0..each).map(move |nth| (peer, nth))).map(open).collect()
}

#[test]
fn plugins_beyond_the_address_space_limit_are_refused_and_running_ones_continue() {
    let config = "[[instances]]\nid = 'count'\nsamplers = ['modest']\n[plugins.modest]\ninterval = '200ms'\n\
                  limits = { deadline = '10s' }\n";
    let host = Host::start_as(with_ulimit("-v 2097152"), config, &[("modest", verbs())]);
    host.until("/v1/instances/count/usage", |usage| usage.status == 200);
    let mut stream = host.stream("/v1/instances/count/usage/stream");
    let first = stream.next_sample()["value"].as_u64().unwrap();
    let names: Vec<_> = (0..24).map(|nth| format!("copy-{nth:02}")).collect();
    for name in &names {
        std::fs::write(host.data().join("plugins").join(name).with_extension("wasm"), verbs()).unwrap();
    }
    let mut refused = Vec::new();
    for name in &names {
        let is_settled = |page: &Response| {
            page.status == 200 && ["running", "failed"].contains(&page.json()["state"].as_str().unwrap())
        };
        let page = host.until(&format!("/v1/plugins/{name}"), is_settled).json();
        refused
            .extend((page["state"] == "failed").then(|| page["last_failure"]["reason"].as_str().unwrap().to_owned()));
    }
    assert!((1..24).contains(&refused.len()), "some run, some do not: {refused:#?}");
    for why in &refused {
        let parts = ["RLIMIT_AS allows the host 2048 MiB", "MiB are left for plugins", "it needs", "raise the limit"];
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    }
    // Its own instance was the same all the while: it counts its calls.
    for count in first + 1..first + 20 {
        assert_eq!(stream.next_sample()["value"].as_u64(), Some(count));
    }
    let page = host.plugin("modest");
    assert_eq!((&page["state"], &page["quarantined"]), (&json!("running"), &json!(null)), "{page}");

    // Whoever leaves makes room.
    let running = names.iter().find(|name| host.plugin(name)["state"] == "running").unwrap();
    let failed = names.iter().find(|name| host.plugin(name)["state"] == "failed").unwrap();
    assert_eq!(host.send_as_admin("DELETE", &format!("/v1/plugins/{running}"), b"").status, 204);
    let is_back = |path: &str| host.send_as_admin("POST", path, b"").status < 300;
    crate::harness::wait_until("there is no room yet", || is_back(&format!("/v1/plugins/{failed}/reload")));
    assert_eq!(host.plugin(failed)["state"], "running");
}

#[test]
fn unread_responses_and_streams_of_several_peers_fit_into_2_gib_of_address_space() {
    let config = "[[instances]]\nid = 'count'\nsamplers = ['modest']\n[plugins.modest]\ninterval = '500ms'\n\
                  limits = { deadline = '10s' }\n[plugins.flock]\ninterval = '1s'\n\
                  config = { flock = 1500, wide = 2 }\nlimits = { cpu = '900ms', output = '64MiB' }\n";
    let host = Host::start_as(with_ulimit("-v 2097152"), config, &[("modest", verbs()), ("flock", verbs())]);
    host.until("/v1/instances/flock-1499/usage", |usage| usage.status == 200);
    let mut stream = host.stream("/v1/instances/count/usage/stream");
    let first = stream.next_sample()["value"].as_u64().unwrap();
    let unread = open_unread_connections(&host.address, 100);
    for count in first + 1..first + 20 {
        assert_eq!(stream.next_sample()["value"].as_u64(), Some(count));
    }
    assert!(host.threads() < 200, "{} threads", host.threads());
    assert_eq!(host.plugin("modest")["state"], "running");
    drop(unread);
}
