//! Components that take long to compile delay only each other.

use crate::harness::{Host, components, verbs, verbs_version, wait_until};
use std::fs;
use std::time::{Duration, Instant};

/// Returns a component that takes minutes to compile, another for each number.
fn very_slow_component(nth: usize) -> Vec<u8> {
    components::slow_to_compile(60_000 + nth)
}

/// Returns the ids of a host's compiler processes.
fn compiler_pids(host: &Host) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let compiles = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).map(str::to_owned);
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        parent == Some(host.pid().to_string()) && command.windows(9).any(|word| word == b"__compile")
    };
    pids.filter(compiles).collect()
}

#[test]
fn slow_compilations_delay_an_upload_by_seconds_and_end_at_their_time_limit() {
    let slow: Vec<_> = (0..5).map(|nth| (format!("slow{nth}"), very_slow_component(nth))).collect();
    let slow: Vec<_> = slow.iter().map(|(name, component)| (name.as_str(), &component[..])).collect();
    let host = Host::start_cold("[plugins.slow0.limits]\ncompile_time = '2s'\n", &slow);
    wait_until("nothing is compiled", || compiler_pids(&host).len() >= 2);
    let start = Instant::now();
    assert_eq!(host.send_as_admin("PUT", "/v1/plugins/good", verbs()).status, 202);
    host.until("/v1/plugins/good", |page| page.json()["state"] == "running");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(40), "{took:?}");
    assert!(compiler_pids(&host).len() <= 3, "two quick ones and a slow one");
    // One of them waits for the others: what comes in its place is compiled at once.
    let names = ["slow1", "slow2", "slow3", "slow4"];
    let put = |name: &str| host.send_as_admin("PUT", &format!("/v1/plugins/{name}"), verbs()).status;
    assert_eq!(names.map(put), [202; 4]);
    wait_until("none has its newer version", || names.iter().any(|name| host.plugin(name)["state"] == "running"));
    let page = host.until("/v1/plugins/slow0", |page| page.json()["state"] == "failed").json();
    assert_eq!(
        page["last_failure"]["reason"],
        "it was not compiled: it took longer than 2 s; raise limits.compile_time"
    );
}

#[test]
fn a_newer_upload_replaces_an_older_one_that_is_still_queued() {
    let host = Host::start_cold("", &[("busy", &very_slow_component(0))]);
    wait_until("nothing is compiled", || !compiler_pids(&host).is_empty());
    let put = |component: Vec<u8>| {
        let (address, bearer) = (host.address.clone(), host.bearer("admin"));
        std::thread::spawn(move || crate::harness::send(&address, "PUT", "/v1/plugins/busy", &bearer, &component))
    };
    let older = put(verbs_version(2));
    // The older one may come a moment after a newer one.
    let newer = loop {
        let newer = put(verbs_version(3)).join().unwrap();
        if older.is_finished() {
            break newer;
        }
    };
    let older = older.join().unwrap();
    assert_eq!((older.status, newer.status), (409, 202), "{older:?} {newer:?}");
    assert!(older.body.contains("a newer version came while this one waited"), "{older:?}");
    assert_eq!(host.send_as_admin("DELETE", "/v1/plugins/busy", &[]).status, 204);
    wait_until("a plugin that is removed is compiled on", || compiler_pids(&host).is_empty());
}

#[test]
fn compiler_processes_end_when_their_host_is_killed() {
    let host = Host::start_cold("", &[("slow", &very_slow_component(0))]);
    // To lower its priority is the last thing a compiler does before it compiles: 10, and 19 once it takes long.
    let compiles = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let niceness = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(16));
        matches!(niceness, Some("10" | "19"))
    };
    // The bundled ones are compiled, too, and done soon.
    host.until("/v1/plugins/procfs", |page| page.json()["state"] == "running");
    let mut compilers = Vec::new();
    wait_until("nothing is compiled", || {
        compilers = compiler_pids(&host);
        compilers.iter().any(compiles)
    });
    host.signal("KILL");
    let runs = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    wait_until("the compiler goes on", || !compilers.iter().any(runs));
}
