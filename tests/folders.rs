//! Folders that are unreadable or missing: the host says so, and uses them once it can.

use crate::harness::{Host, Response, dropsonde, verbs, wait_until};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

const CONFIG: &str = "poll.interval = '100ms'\npoll.discover_interval = '1s'\n[store]\nflush_interval = '100ms'\n\
                      [plugins.verbs.config]\ndiscover = ['ok']\n";

const RANGE: &str = "/v1/instances/ok/usage/range?range=10m&resolution=100ms";

/// Returns the command for a host without capabilities: permissions count for it, also where the tests run as root.
fn without_capabilities() -> Command {
    if !rustix::process::geteuid().is_root() {
        return dropsonde();
    }
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all", env!("CARGO_BIN_EXE_dropsonde")]);
    command
}

fn set_mode(folder: &Path, mode: u32) {
    fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
}

fn is_there(answer: &Response) -> bool {
    answer.status == 200
}

fn is_healthy(health: &Response) -> bool {
    health.json()["status"] == "healthy"
}

fn is_degraded_with(part: &str) -> impl Fn(&Response) -> bool {
    move |health| health.json()["status"] == "degraded" && health.json()["reasons"].to_string().contains(part)
}

fn sample_count(host: &Host) -> usize {
    let range = host.get(RANGE).json();
    range.as_array().unwrap().len()
}

#[test]
fn a_host_starts_with_an_unreadable_data_folder_and_uses_it_once_it_is_readable() {
    let mut host = Host::start(CONFIG, &[("verbs", verbs())]);
    host.until("/v1/instances/ok/usage", is_there);
    host.until(RANGE, |range| range.json().as_array().is_some_and(|samples| samples.len() > 3));
    assert_eq!(host.send_as_writer("PUT", "/v1/instances/asked", r#"{"samplers":["verbs"]}"#).status, 200);
    assert_eq!(host.stop(), 0);
    let before = sample_count_after_start(&host);
    for folder in [host.data(), host.data().join("history")] {
        set_mode(&folder, 0o000);
        let unreadable = host.start_again_as(without_capabilities());
        unreadable.until("/health", is_degraded_with("history is in memory alone since"));
        let health = unreadable.get("/health").body;
        assert!(health.contains("Permission denied") && health.contains("the host retries"), "{health}");
        assert!(unreadable.log().contains("history is in memory alone until it can be read"), "{}", unreadable.log());
        unreadable.until("/v1/instances/host/usage", is_there);
        set_mode(&folder, 0o700);
        unreadable.until("/health", is_healthy);
        assert!(sample_count(&unreadable) >= before, "what it had before is there");
        unreadable.until(RANGE, |range| range.json().as_array().is_some_and(|samples| samples.len() > before));
        unreadable.until("/v1/instances/asked", |instance| instance.json()["state"] == "tracked");
        assert_eq!(unreadable.send_as_writer("PUT", "/v1/instances/more", "").status, 200, "its tokens are read, too");
        // What came while it could not be read is written, too.
        let host = unreadable.restart();
        assert!(sample_count(&host) > before);
        assert_eq!(host.get("/v1/instances/more").status, 200);
        host.until("/health", is_healthy);
    }
}

/// Returns the number of samples on disk, of a host that has ended.
fn sample_count_after_start(host: &Host) -> usize {
    let host = host.start_again();
    let before = sample_count(&host);
    drop(host);
    before
}

#[test]
fn a_data_folder_that_is_moved_away_degrades_health_until_it_is_back() {
    let host = Host::start(CONFIG, &[("verbs", verbs())]);
    host.until("/v1/instances/ok/usage", is_there);
    host.until("/health", is_healthy);
    let away = host.folder().join("away");
    fs::rename(host.data(), &away).unwrap();
    for part in ["its folder is gone", "cannot read the plugins folder", "cannot write the audit log"] {
        host.until("/health", is_degraded_with(part));
    }
    let at = host.get("/v1/instances/ok/usage").json()["at"].clone();
    host.until("/v1/instances/ok/usage", |usage| is_there(usage) && usage.json()["at"] != at);
    assert!(!host.data().exists(), "nobody makes it anew: it may be a disk that is not mounted");
    fs::rename(away, host.data()).unwrap();
    host.until("/health", is_healthy);
    assert_eq!(host.send_as_writer("PUT", "/v1/instances/more", "").status, 200);
}

#[test]
fn a_deleted_data_folder_degrades_health_and_is_used_again_once_recreated() {
    let host = Host::start(CONFIG, &[("verbs", verbs())]);
    host.until("/v1/instances/ok/usage", is_there);
    // At once: the host makes files in it all the while.
    let deleted = host.folder().join("deleted");
    fs::rename(host.data(), &deleted).unwrap();
    fs::remove_dir_all(deleted).unwrap();
    for part in [
        "its folder is gone",
        "cannot read the plugins folder",
        "cannot write the audit log",
        "cannot read or make a token",
    ] {
        host.until("/health", is_degraded_with(part));
    }
    fs::create_dir(host.data()).unwrap();
    set_mode(&host.data(), 0o700);
    fs::create_dir(host.data().join("plugins")).unwrap();
    // That files of history were deleted is told for a while.
    host.until("/health", |health| health.json()["reasons"].as_array().is_some_and(|reasons| reasons.len() <= 1));
    // Each of them is made by its own part of the host, when that looks again.
    for name in ["history", "audit.log", "write.token"] {
        wait_until(&format!("{name} is not made anew"), || host.data().join(name).exists());
    }
    host.until("/v1/instances/ok", |_| host.send_as_writer("PUT", "/v1/instances/more", "").status == 200);
}

#[test]
fn an_unreadable_plugins_folder_degrades_health_until_it_is_readable() {
    let host = Host::start_as(without_capabilities(), CONFIG, &[("verbs", verbs())]);
    host.until("/v1/instances/ok/usage", is_there);
    let folder = host.data().join("plugins");
    set_mode(&folder, 0o000);
    host.until("/health", is_degraded_with("cannot read the plugins folder"));
    assert_eq!(host.plugin("verbs")["state"], "running");
    set_mode(&folder, 0o700);
    host.until("/health", is_healthy);
    host.drop_in("more", verbs());
    host.until("/v1/plugins/more", |page| page.status == 200 && page.json()["state"] == "running");
}
