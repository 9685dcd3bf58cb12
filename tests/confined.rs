//! Where people run it: under the filters and limits that service managers, containers and older kernels set.

use crate::harness::{Host, Response, components, verbs};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use std::process::Command;

/// openat2, on every architecture.
const OPENAT2: i64 = 437;

const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

/// Starts hosts on a thread whose children the kernel answers openat2 with an error.
fn where_openat2_answers<T: Send>(errno: u32, start: impl FnOnce() -> T + Send) -> T {
    let filter = SeccompFilter::new(
        [(OPENAT2, Vec::new())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno),
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let filter: BpfProgram = filter.unwrap().try_into().unwrap();
    std::thread::scope(|scope| {
        let filtered = scope.spawn(move || {
            apply_filter(&filter).unwrap();
            start()
        });
        filtered.join().unwrap()
    })
}

fn has_cpu(usage: &Response) -> bool {
    usage.status == 200 && usage.json().get("cpu_percent").is_some()
}

#[test]
fn this_machine_is_measured_where_openat2_is_unknown_or_forbidden() {
    for errno in [ENOSYS, EPERM] {
        let host = where_openat2_answers(errno, || Host::start("poll.interval = '200ms'\n", &[]));
        let usage = host.until("/v1/instances/host/usage", has_cpu).json();
        assert!(usage["memory_used_mb"].as_f64().unwrap() > 0.0, "{usage}");
        assert!(host.plugin("procfs").get("last_failure").is_none(), "{}", host.plugin("procfs"));
        let health = host.get("/health").json();
        assert_eq!(health["status"], "healthy", "{health}");
    }
}

#[test]
fn a_file_that_is_not_granted_is_denied_where_openat2_is_unknown_and_no_magic_link_is_followed() {
    let config = "poll.interval = '200ms'\n[[instances]]\nid = 'read'\nsamplers = ['link', 'other']\n\
                  [plugins.link]\nconfig = { read = '/proc/self/root/etc/passwd' }\n\
                  grants = { read = ['/proc/**', '/etc/**'] }\n\
                  [plugins.other]\nconfig = { read = '/etc/passwd' }\ngrants = { read = ['/proc/**'] }\n";
    let host = where_openat2_answers(ENOSYS, || Host::start(config, &[("link", verbs()), ("other", verbs())]));
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
fn a_limit_of_address_space_below_what_compiling_needs_is_named_with_its_value_and_the_way_out() {
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -v 1000000 && exec "$0" "$@""#, env!("CARGO_BIN_EXE_dropsonde")]);
    let slow = components::slow_to_compile(20_000);
    let host = Host::start_as(command, "", &[("slow", &slow)]);
    let page = host.until("/v1/plugins/slow", |page| page.json()["state"] == "failed").json();
    let reason = page["last_failure"]["reason"].as_str().unwrap();
    assert_eq!(
        reason,
        "it was not compiled: compiling needs up to 2147483648 bytes of address space, and RLIMIT_AS allows 1024000000; \
         raise it (`ulimit -Hv 2097152` before the start, or LimitAS= of the service)"
    );
}
