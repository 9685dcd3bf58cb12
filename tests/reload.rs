use crate::harness::{Host, Response, verbs, verbs_version, wait_until};
use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// One instance whose value is the version of the plugin.
const CONFIG: &str = "poll.interval = '100ms'\n[[instances]]\nid = 'version'\nsamplers = ['verbs']\n";

const USAGE: &str = "/v1/instances/version/usage";
const PAGE: &str = "/v1/plugins/verbs";

fn wait_for_version(host: &Host, version: u32) -> Response {
    host.until(USAGE, |usage| usage.status == 200 && usage.json()["value"] == version)
}

/// Waits until a newer version was refused, and returns the reason.
fn wait_for_refusal(host: &Host, containing: &str) -> String {
    let reason = |page: &Response| page.json()["refused"]["reason"].as_str().unwrap_or_default().to_owned();
    reason(&host.until(PAGE, |page| reason(page).contains(containing)))
}

#[test]
fn an_added_plugin_file_is_polled_and_a_removed_one_keeps_its_history() {
    let host = Host::start(CONFIG, &[]);
    assert_eq!(host.get(PAGE).status, 404);
    host.drop_in("verbs", verbs());
    wait_for_version(&host, 1);
    fs::remove_file(host.plugin_file("verbs")).unwrap();
    host.until(PAGE, |page| page.status == 404);
    let range = host.get("/v1/instances/version/usage/range?range=1h").json();
    assert!(!range.as_array().unwrap().is_empty(), "its history stays");
    let metrics = host.get("/metrics").body;
    assert!(
        !metrics.contains("plugin=\"verbs\"") && !metrics.contains("service=\"verbs\""),
        "its series go: {metrics}"
    );
}

#[test]
fn discovered_instances_end_when_their_plugin_is_removed_and_resume_when_it_is_back() {
    let config = "poll.interval = '100ms'\n[plugins.verbs.config]\ndiscover = ['ok']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    let state = |state: &str| {
        let list = move |list: &Response| {
            let list = list.json();
            let ok = list.as_array().unwrap().iter().find(|instance| instance["id"] == "ok").cloned();
            ok.is_some_and(|ok| ok["state"] == state)
        };
        host.until("/v1/instances", list)
    };
    state("tracked");
    fs::remove_file(host.plugin_file("verbs")).unwrap();
    state("ended");
    host.drop_in("verbs", verbs());
    state("tracked");
}

#[test]
fn a_newer_plugin_version_takes_over_without_losing_a_tick_or_ending_a_stream() {
    let host = Host::start(CONFIG, &[("verbs", verbs())]);
    wait_for_version(&host, 1);
    let mut stream = host.stream("/v1/instances/version/usage/stream");
    let mut samples = vec![stream.next_sample()];
    for number in 2..8 {
        host.drop_in("verbs", &verbs_version(number));
        while samples.last().unwrap()["value"] != number {
            samples.push(stream.next_sample());
        }
    }
    let page = host.plugin("verbs");
    assert_no_tick_is_lost_or_doubled(&samples, &page);
    let versions: Vec<u64> = samples.iter().map(|sample| sample["value"].as_u64().unwrap()).collect();
    assert!(versions.is_sorted() && versions.iter().collect::<BTreeSet<_>>().len() == 7, "{versions:?}");
    assert!(page["refused"].is_null() && page["restored"] == false && page["state"] == "running", "{page}");
}

/// Checks that every tick is there, but for those missed by the plugin's page: on a busy machine some come too late.
fn assert_no_tick_is_lost_or_doubled(samples: &[serde_json::Value], page: &serde_json::Value) {
    let at_ms = |sample: &serde_json::Value| {
        let at: jiff::Timestamp = sample["at"].as_str().unwrap().parse().unwrap();
        at.as_millisecond()
    };
    // The very first tick is at once, and not on the grid.
    let at: Vec<i64> = samples.iter().skip(1).map(at_ms).collect();
    let phases: Vec<i64> = at.iter().map(|at| at % 100).collect();
    let phase = phases.iter().max_by_key(|phase| phases.iter().filter(|other| other == phase).count()).unwrap();
    // What was read late has its own time, after its tick's.
    let ticks: Vec<i64> = at.iter().map(|at| (at - phase).div_euclid(100)).collect();
    let is_once = ticks.windows(2).all(|pair| pair[0] < pair[1]);
    let missed = ticks.last().unwrap() - ticks[0] + 1 - ticks.len() as i64;
    let known = page["polls_missed"].as_i64().unwrap();
    assert!(is_once && missed <= known, "{missed} of {known} missed: {at:?}");
}

#[test]
fn twenty_replacements_a_second_lose_no_tick_and_the_last_version_stays() {
    let host = Host::start(CONFIG, &[("verbs", verbs())]);
    wait_for_version(&host, 1);
    let mut stream = host.stream("/v1/instances/version/usage/stream");
    let first = stream.next_sample();
    let versions: Vec<_> = (2..6).map(verbs_version).collect();
    let seen = AtomicU64::new(0);
    let swapping = || {
        // Until most of them took over: they are compiled first.
        for nth in 0.. {
            host.drop_in("verbs", &versions[nth % 4]);
            if nth >= 60 && seen.load(Relaxed) >= 4 {
                break;
            }
            // The pace is what is tested.
            std::thread::park_timeout(Duration::from_millis(50));
        }
        host.drop_in("verbs", &verbs_version(77));
    };
    let samples = std::thread::scope(|scope| {
        scope.spawn(swapping);
        let mut samples = vec![first];
        let mut versions = BTreeSet::new();
        while samples.last().unwrap()["value"] != 77 {
            samples.push(stream.next_sample());
            versions.insert(samples.last().unwrap()["value"].as_u64());
            seen.store(versions.len() as u64, Relaxed);
        }
        samples
    });
    let page = host.plugin("verbs");
    assert_no_tick_is_lost_or_doubled(&samples, &page);
    assert_eq!(page["state"], "running", "{page}");
}

#[test]
fn a_broken_newer_version_is_refused_with_a_reason_and_the_running_one_continues() {
    let host = Host::start(CONFIG, &[("verbs", verbs())]);
    wait_for_version(&host, 1);
    let half = &verbs_version(2)[..verbs().len() / 2];
    let bad: [(&[u8], &str); 5] = [
        (half, "not a valid component"),
        (b"", "it is empty"),
        (b"#!/bin/sh\n", "not WebAssembly"),
        (&verbs_version(66666), "does not start"),
        (&verbs_version(55555), "this version wants another"),
    ];
    for (component, why) in bad {
        // Not as a careful operator does.
        fs::write(host.plugin_file("verbs"), component).unwrap();
        wait_for_refusal(&host, why);
        let page = host.plugin("verbs");
        assert_eq!((&page["state"], &page["restored"]), (&"running".into(), &false.into()), "{page}");
        host.until(USAGE, |usage| usage.json()["value"] == 1);
        assert!(page["last_failure"]["reason"].as_str().unwrap().contains(why), "{page}");
    }
    let trapped = host.plugin("verbs")["refused"]["digest"].as_str().map(str::len);
    assert_eq!(trapped, Some(64), "of the file that was refused");
    host.drop_in("verbs", &verbs_version(3));
    wait_for_version(&host, 3);
    assert!(host.plugin("verbs")["refused"].is_null());
}

#[test]
fn a_slowly_written_plugin_file_is_loaded_once_it_is_complete() {
    use std::io::Write as _;
    let host = Host::start(CONFIG, &[("verbs", verbs())]);
    wait_for_version(&host, 1);
    let component = verbs_version(4);
    let mut file = fs::File::create(host.plugin_file("verbs")).unwrap();
    for part in component.chunks(component.len().div_ceil(30)) {
        file.write_all(part).unwrap();
        std::thread::park_timeout(Duration::from_millis(20));
    }
    wait_for_version(&host, 4);
    let log = host.stop_and_read_log();
    assert!(!log.contains("panic"), "{log}");
}

#[test]
fn the_last_working_version_is_restored_at_a_start_with_a_broken_file() {
    let mut host = Host::start(CONFIG, &[("verbs", verbs())]);
    host.drop_in("verbs", &verbs_version(2));
    wait_for_version(&host, 2);
    for (component, why) in [(verbs_version(66666), "does not start"), (b"nonsense".to_vec(), "not WebAssembly")] {
        // Not while it runs: then it would only be refused.
        assert_eq!(host.stop(), 0);
        host.drop_in("verbs", &component);
        host = host.start_again();
        host.until(PAGE, |page| page.json()["calls"].as_u64() > Some(0));
        wait_for_version(&host, 2);
        let page = host.plugin("verbs");
        assert!(page["restored"] == true && page["refused"]["reason"].as_str().unwrap().contains(why), "{page}");
        let metrics = host.get("/metrics").body;
        assert!(metrics.contains("dropsonde_plugin_restores_succeeded_total 1"), "{metrics}");
    }
    host.drop_in("verbs", &verbs_version(3));
    wait_for_version(&host, 3);
    assert_eq!(host.plugin("verbs")["restored"], false);
}

#[test]
fn a_newer_version_whose_calls_all_fail_is_replaced_by_the_last_working_one() {
    let host = Host::start(&format!("{CONFIG}[plugins.verbs.limits]\nfailures = 2\n"), &[("verbs", verbs())]);
    wait_for_version(&host, 1);
    host.drop_in("verbs", &verbs_version(77777));
    let page = host.until(PAGE, |page| page.json()["restored"] == true && page.json()["state"] == "running").json();
    assert_eq!(page["refused"]["digest"], sha256(&verbs_version(77777)), "{page}");
    let reason = page["refused"]["reason"].as_str().unwrap();
    assert!(reason.contains("ended badly") && reason.contains("told to"), "how, and in its own words: {page}");
    let audit = host.until_audited(|line| line["action"] == "restore");
    assert_eq!(audit.last().unwrap()["by"], "host", "{audit:#?}");
    assert_eq!(host.get("/health").json()["status"], "degraded");
    let host = host.restart();
    let page = host.until(PAGE, |page| page.json()["restored"] == true).json();
    assert_eq!(page["digest"], sha256(verbs()), "at the next start as well: {page}");
    host.until(USAGE, |usage| usage.json()["value"] == 1);
    // Its file repaired, it is no longer brought back, but what is there.
    host.drop_in("verbs", verbs());
    host.until(PAGE, |page| page.json()["restored"] == false && page.json()["refused"].is_null());
    assert!(host.plugin("verbs")["file"].as_str().unwrap().ends_with("plugins/verbs.wasm"));
}

#[test]
fn an_upload_of_the_running_version_replaces_a_broken_file() {
    let host = Host::start(CONFIG, &[("verbs", verbs())]);
    wait_for_version(&host, 1);
    host.drop_in("verbs", b"nonsense");
    wait_for_refusal(&host, "not WebAssembly");
    assert_eq!(host.send_as_admin("PUT", PAGE, verbs()).status, 202);
    assert!(fs::read(host.plugin_file("verbs")).unwrap() == verbs(), "the next start has it");
    host.until(PAGE, |page| page.json()["refused"].is_null());
}

#[test]
fn concurrent_plugin_changes_all_get_a_response_and_the_file_matches_what_runs() {
    let host = Host::start(CONFIG, &[]);
    let statuses: Vec<_> = std::thread::scope(|scope| {
        let puts: Vec<_> = (2..10)
            .map(|number| {
                let host = &host;
                scope.spawn(move || match number % 3 {
                    0 => host.send_as_admin("PUT", PAGE, b"nonsense").status,
                    1 => host.send_as_admin("POST", "/v1/plugins/verbs/reload", &[]).status,
                    _ => host.send_as_admin("PUT", PAGE, &verbs_version(number)).status,
                })
            })
            .collect();
        puts.into_iter().map(|put| put.join().unwrap()).collect()
    });
    // Done, refused, unknown yet, too much at once, or stopped with an upload that was none.
    assert!(statuses.iter().all(|status| [202, 422, 404, 409, 503].contains(status)), "{statuses:?}");
    // As soon as there is not too much under way.
    let mut put = std::iter::repeat_with(|| host.send_as_admin("PUT", PAGE, &verbs_version(2)).status).take(1000);
    assert_eq!(put.find(|status| *status != 409), Some(202));
    wait_for_version(&host, 2);
    assert!(fs::read(host.plugin_file("verbs")).unwrap() == verbs_version(2));
}

#[test]
fn removing_a_pinned_plugin_file_fails_the_plugin_when_the_bundled_one_has_another_digest() {
    let config = format!("poll.interval = '100ms'\n[plugins.procfs]\nsha256 = '{}'\n", sha256(verbs()));
    let host = Host::start(&config, &[("procfs", verbs())]);
    host.until("/v1/plugins/procfs", |page| page.json()["state"] == "running");
    fs::remove_file(host.plugin_file("procfs")).unwrap();
    let page = host.until("/v1/plugins/procfs", |page| page.json()["state"] == "failed").json();
    assert!(page["last_failure"]["reason"].as_str().unwrap().contains("sha256"), "{page}");
}

#[test]
fn a_component_whose_digest_is_not_the_pinned_one_is_not_run() {
    use sha2::{Digest as _, Sha256};
    let pinned: String = Sha256::digest(verbs()).iter().map(|byte| format!("{byte:02X}")).collect();
    let host = Host::start(&format!("{CONFIG}[plugins.verbs]\nsha256 = '{pinned}'\n"), &[("verbs", verbs())]);
    wait_for_version(&host, 1);
    assert_eq!(host.plugin("verbs")["digest"], pinned.to_lowercase(), "the page has it to paste");
    host.drop_in("verbs", &verbs_version(2));
    let reason = wait_for_refusal(&host, "plugins.verbs.sha256");
    assert!(reason.to_lowercase().contains(&pinned.to_lowercase()), "{reason}");
    let refused = host.send_as_admin("PUT", PAGE, &verbs_version(3));
    assert_eq!((refused.status, refused.body.contains(&sha256(&verbs_version(3)))), (409, true), "{refused:?}");
    let host = host.restart();
    let page = host.until(PAGE, |page| page.json()["restored"] == true).json();
    assert_eq!(page["digest"], pinned.to_lowercase(), "only what is pinned comes back: {page}");
}

#[test]
fn after_a_plugin_changes_its_fields_range_queries_return_old_and_new_ones() {
    let host = Host::start(CONFIG, &[("verbs", verbs())]);
    wait_for_version(&host, 1);
    host.drop_in("verbs", &verbs_version(90000));
    let usage = host.until(USAGE, |usage| usage.json()["other_value"] == 90000).json();
    assert!(usage["value"].is_null(), "what is no field any more is no part of the latest sample: {usage}");
    let range = host.get("/v1/instances/version/usage/range?range=1h&resolution=1s").json();
    let has = |field: &str| range.as_array().unwrap().iter().any(|sample| sample[field].is_number());
    assert!(has("value") && has("other_value"), "{range}");
    let fields = host.plugin("verbs")["fields"].clone();
    assert_eq!(fields, serde_json::json!(["other_value", "calls_per_sec"]));
}

#[test]
fn saved_plugin_state_passes_to_a_newer_version_without_losing_a_save() {
    let host = Host::start(&CONFIG.replace("'version'", "'remember'"), &[("verbs", verbs())]);
    let mut stream = host.stream("/v1/instances/remember/usage/stream");
    let mut counts = vec![stream.next_sample()["value"].as_u64().unwrap()];
    for number in 2..6 {
        host.drop_in("verbs", &verbs_version(number));
        while host.plugin("verbs")["digest"] != sha256(&verbs_version(number)) {
            counts.push(stream.next_sample()["value"].as_u64().unwrap());
        }
        for _ in 0..3 {
            counts.push(stream.next_sample()["value"].as_u64().unwrap());
        }
    }
    // The stream begins with the latest sample, which may come once more.
    assert!(counts.windows(2).skip(1).all(|pair| pair[1] == pair[0] + 1), "it goes on counting, by one: {counts:?}");
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_newer_working_file_ends_quarantine_and_failure() {
    let host = Host::start(CONFIG, &[("verbs", &verbs_version(55555))]);
    host.until(PAGE, |page| page.json()["state"] == "failed");
    host.drop_in("verbs", verbs());
    wait_for_version(&host, 1);
    let ordered = host.send_as_admin("POST", "/v1/plugins/verbs/quarantine", &[]);
    assert_eq!(ordered.status, 202);
    host.until(PAGE, |page| page.json()["state"] == "quarantined");
    host.drop_in("verbs", &verbs_version(66666));
    wait_for_refusal(&host, "does not start");
    assert_eq!(host.plugin("verbs")["state"], "quarantined", "what does not work lifts nothing");
    host.drop_in("verbs", &verbs_version(2));
    wait_for_version(&host, 2);
}

#[test]
fn a_plugin_file_replaces_a_bundled_plugin_until_it_is_removed() {
    let host = Host::start("poll.interval = '100ms'\n", &[]);
    host.until("/v1/plugins/procfs", |page| page.json()["state"] == "running");
    host.drop_in("procfs", verbs());
    host.until("/v1/plugins/procfs", |page| page.json()["bundled"] == false);
    let removed = host.send_as_admin("DELETE", "/v1/plugins/procfs", &[]);
    assert_eq!(removed.status, 204, "{removed:?}");
    assert!(!host.plugin_file("procfs").exists());
    host.until("/v1/plugins/procfs", |page| page.json()["bundled"] == true);
    let refused = host.send_as_admin("DELETE", "/v1/plugins/procfs", &[]);
    assert_eq!((refused.status, refused.body.contains("comes with the binary")), (409, true), "{refused:?}");
}

#[test]
fn plugins_are_uploaded_reloaded_and_removed_by_the_api_and_audited() {
    let host = Host::start(CONFIG, &[]);
    let put =
        |headers: &str, path: &str, body: &[u8]| crate::harness::send(&host.address, "PUT", path, headers, body).status;
    assert_eq!(put("", PAGE, verbs()), 401);
    let token = fs::read_to_string(host.data().join("admin.token")).unwrap();
    let token = format!("Authorization: Bearer {}\r\n", token.trim());
    assert_eq!(put(&format!("{token}Content-Type: text/html\r\n"), PAGE, verbs()), 415);
    assert_eq!(put(&token, "/v1/plugins/a.b", verbs()), 400);
    assert_eq!(put(&token, "/v1/plugins/..%2Fescaped", verbs()), 400);

    let refused = host.send_as_admin("PUT", PAGE, b"nonsense");
    assert_eq!((refused.status, refused.body.contains("not WebAssembly")), (422, true), "{refused:?}");
    assert_eq!(host.get(PAGE).status, 404, "there is no such plugin");
    assert_eq!(put(&format!("{token}Content-Type: application/wasm\r\n"), PAGE, verbs()), 202);
    wait_for_version(&host, 1);
    let refused = host.send_as_admin("PUT", PAGE, &verbs_version(66666));
    assert_eq!((refused.status, refused.body.contains("does not start")), (422, true), "{refused:?}");
    assert!(fs::read(host.plugin_file("verbs")).unwrap() == verbs(), "its file stays what runs");
    assert_eq!(host.send_as_admin("PUT", PAGE, &verbs_version(2)).status, 202);
    wait_for_version(&host, 2);
    assert!(fs::read(host.plugin_file("verbs")).unwrap() == verbs_version(2));

    let reloaded = host.send_as_admin("POST", "/v1/plugins/verbs/reload", &[]);
    assert_eq!(reloaded.status, 202, "{reloaded:?}");
    assert_eq!(host.send_as_admin("POST", "/v1/plugins/nobody/reload", &[]).status, 404);
    assert_eq!(host.send_as_admin("DELETE", PAGE, &[]).status, 204);
    assert!(!host.plugin_file("verbs").exists() && host.get(PAGE).status == 404);
    assert_eq!(host.send_as_admin("DELETE", PAGE, &[]).status, 404);

    let metrics = host.get("/metrics").body;
    assert!(metrics.contains("dropsonde_plugins_uploaded_total 4"), "{metrics}");
    let audit = host.until_audited(|line| line["action"] == "remove");
    let mut changes = audit.clone();
    changes.retain(|line| line["plugin"] == "verbs" && line["by"] == "api" && line["token"] == "admin");
    let actions: Vec<_> =
        changes.iter().map(|line| (line["action"].as_str().unwrap(), line["refused"].is_null())).collect();
    let upload = |taken| ("upload", taken);
    assert_eq!(
        actions,
        [upload(false), upload(true), upload(false), upload(true), ("reload", true), ("remove", true)],
        "{audit:#?}"
    );
    assert_eq!(changes[1]["digest"], sha256(verbs()));
}

#[test]
fn the_compile_cache_stays_within_its_limit_but_keeps_the_newest_entry() {
    let host = Host::start_cold(&format!("compile_cache = '1B'\n{CONFIG}"), &[("verbs", verbs())]);
    wait_for_version(&host, 1);
    for number in 2..5 {
        host.drop_in("verbs", &verbs_version(number));
        wait_for_version(&host, number);
    }
    // The bundled ones are compiled meanwhile, too.
    wait_until("not one compiled plugin stays, the newest", || {
        let compiled = fs::read_dir(host.data().join("compiled")).unwrap();
        let compiled = compiled.map(|entry| entry.unwrap().path());
        compiled.filter(|path| path.extension().is_some_and(|extension| extension == "cwasm")).count() == 1
    });
}

/// `DROPSONDE_RELOADS=10000` for a long run.
#[test]
fn memory_threads_and_descriptors_level_off_over_many_reloads() {
    let reloads: u32 = std::env::var("DROPSONDE_RELOADS").map_or(600, |count| count.parse().unwrap());
    let host = Host::start(CONFIG, &[("verbs", verbs())]);
    wait_for_version(&host, 1);
    let versions = [verbs_version(2), verbs_version(3)];
    let reload = |count: u32| {
        for nth in 0..count {
            let ordered = host.send_as_admin("PUT", PAGE, &versions[nth as usize % 2]);
            assert_eq!(ordered.status, 202, "{ordered:?}");
        }
        host.until(PAGE, |page| page.json()["preparing"] == false);
        // What was replaced ends after the call it is in.
        host.until("/metrics", |metrics| metrics.body.contains("dropsonde_workers{state=\"draining\"} 0"));
    };
    let entries = |what: &str| fs::read_dir(format!("/proc/{}/{what}", host.pid())).unwrap().count();
    reload(reloads / 3);
    let before = (host.memory_kb(), entries("task"), entries("fd"));
    reload(reloads);
    // Threads come and go with the work, and so do the connections and files that it needs.
    wait_until("threads and descriptors are as many as before", || {
        entries("task") <= before.1 + 4 && entries("fd") <= before.2 + 4
    });
    assert!(host.memory_kb() <= before.0 + 8 * 1024, "resident kB: {before:?}, {}", host.memory_kb());
}
