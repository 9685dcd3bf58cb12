//! Shares of plugins: a modest plugin beside a greedy one loses nothing, and the host stays within its limits.

use crate::harness::{Host, connect_from, dropsonde, verbs};
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::process::Command;

/// Returns a plugin's share of a pool, from its page.
fn share(page: &Value, pool: &str) -> Value {
    page["shares"].as_array().unwrap().iter().find(|share| share["pool"] == pool).cloned().unwrap_or(Value::Null)
}

/// Checks that the modest plugin misses none of the next ticks.
fn assert_no_missed_tick(host: &Host, ticks: usize) {
    let mut stream = host.stream("/v1/instances/ok/usage/stream");
    (0..ticks).for_each(|_| drop(stream.next_sample()));
    assert_eq!(host.plugin("modest")["polls_missed"], 0);
    assert!(share(&host.plugin("modest"), "history_rows_bytes")["refused"] == 0);
}

/// Returns the command for the binary with 2 GiB of address space.
fn with_2_gib_of_address_space() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -v 2097152 && exec "$0" "$@""#, env!("CARGO_BIN_EXE_dropsonde")]);
    command
}

#[test]
fn open_streams_leave_file_descriptors_for_requests() {
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -n 200 && exec "$0" "$@""#, env!("CARGO_BIN_EXE_dropsonde")]);
    let host = Host::start_as(command, "", &[]);
    let open = |nth: u8| {
        let mut socket = connect_from(Ipv4Addr::new(127, 0, 0, nth % 8 + 2), &host.address);
        write!(socket, "GET /v1/stream HTTP/1.1\r\nHost: {}\r\n\r\n", host.address).unwrap();
        let mut head = [0; 15];
        socket.read_exact(&mut head).unwrap();
        (socket, String::from_utf8(head.into()).unwrap())
    };
    let opened: Vec<_> = (0..=255).map(open).collect();
    // Of 150 sockets 113 may be streams, and the last quarter of those is for clients that have few.
    assert_eq!(opened.iter().filter(|(_, head)| head == "HTTP/1.1 200 OK").count(), 85);
    let health = host.get("/health");
    assert_eq!(health.status, 200, "{health:?}");
    host.until("/v1/instances/host/usage", |answer| answer.status == 200);
}

const MODEST: &str = "[[instances]]\nid = 'ok'\nsamplers = ['modest']\n[plugins.modest]\ninterval = '500ms'\n";

#[test]
fn history_beyond_a_plugins_share_of_memory_is_refused_and_health_names_the_plugin() {
    let config = format!(
        "{MODEST}[plugins.greedy]\ninterval = '1s'\nlimits = {{ cpu = '900ms', output = '64MiB', memory = '256MiB' }}\n\
         config = {{ flock = 5000, wide = 250 }}\n"
    );
    let host = Host::start_as(with_2_gib_of_address_space(), &config, &[("modest", verbs()), ("greedy", verbs())]);
    let is_refused =
        |page: &Value| share(page, "history_rows_bytes")["refused"].as_u64().is_some_and(|refused| refused > 0);
    let page = host.until("/v1/plugins/greedy", |page| is_refused(&page.json())).json();
    let own = share(&page, "history_rows_bytes");
    assert!(own["used"].as_u64() <= own["most"].as_u64(), "{own}");
    assert_no_missed_tick(&host, 6);
    let health = host.get("/health").json();
    let reason =
        health["reasons"].as_array().unwrap().iter().find(|reason| reason.as_str().unwrap().contains("greedy"));
    assert!(reason.is_some_and(|reason| reason.as_str().unwrap().contains("store.max_memory")), "{health}");
    // A quarter of the address space is for history; the rest of the bound is the host, its plugins and a debug build.
    assert!(host.memory_kb() < 1 << 20, "{} kB", host.memory_kb());
    let metrics = host.get("/metrics").body;
    assert!(
        metrics.contains(r#"dropsonde_share_refused_total{pool="history_rows_bytes",owner="greedy"}"#),
        "{metrics}"
    );
    assert!(metrics.contains(r#"dropsonde_samples_dropped_total{reason="memory"}"#));
}

#[test]
fn instances_tracked_by_the_api_use_the_share_of_the_api_and_not_of_their_sampler() {
    let config = |discover: &str| {
        format!(
            "store.max_memory = '128MiB'\npoll.discover_interval = '1s'\n[plugins.reader]\ninterval = '1s'\n\
             config = {{ wide = 250, discover = {discover} }}\n"
        )
    };
    let host = Host::start(&config("['ok']"), &[("reader", verbs())]);
    host.until("/v1/instances/ok/usage", |answer| answer.status == 200);
    for nth in 0..80 {
        let asked = host.send_as_writer("PUT", &format!("/v1/instances/asked-{nth}"), r#"{"samplers":["reader"]}"#);
        assert_eq!(asked.status, 200, "{asked:?}");
    }
    let refused = "dropsonde_share_refused_total{pool=\"history_rows_bytes\",owner=\"dropsonde:api\"}";
    host.until("/metrics", |metrics| metrics.body.contains(refused));
    let goes_on = |host: &Host| {
        // There is room for what it finds itself.
        host.until("/v1/instances/found/usage", |answer| answer.status == 200);
        assert_eq!(share(&host.plugin("reader"), "history_rows_bytes")["refused"], 0);
        let health = host.until("/health", |health| health.body.contains("dropsonde:api wanted more")).json();
        assert!(!health["reasons"].to_string().contains("reader wanted more"), "{health}");
    };
    host.reconfigure(&config("['ok', 'found']"));
    goes_on(&host);
    let host = host.restart();
    goes_on(&host);
    // Also in files, that of the frames which were there before the restart.
    let used = |metrics: &str, owner: &str| {
        let series = format!("dropsonde_share_used{{pool=\"history_disk_bytes\",owner=\"{owner}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse::<f64>().ok())
    };
    host.until("/metrics", |metrics| {
        let [programs, reader] = ["dropsonde:api", "reader"].map(|owner| used(&metrics.body, owner));
        reader.is_some() && programs > reader
    });
}

#[test]
fn a_plugin_that_discovers_new_instances_every_time_takes_no_place_from_others() {
    let config = format!(
        "poll.max_instances = 1000\npoll.discover_interval = '1s'\n{MODEST}[plugins.churning]\ninterval = '1s'\n\
         config = {{ flock = 400, churn = true }}\n"
    );
    let host = Host::start(&config, &[("modest", verbs()), ("churning", verbs())]);
    host.until("/v1/instances/ok/usage", |answer| answer.status == 200);
    host.send_as_writer("PUT", "/v1/instances/ended", r#"{"samplers":["modest"]}"#);
    host.until("/v1/instances/ended/usage", |answer| answer.status == 200);
    let wants_more = |page: &Value| share(page, "places")["refused"].as_u64().is_some_and(|refused| refused > 400);
    let page = host.until("/v1/plugins/churning", |page| wants_more(&page.json())).json();
    assert!(share(&page, "places")["used"].as_u64() <= Some(1000), "{page}");
    assert_eq!(host.send_as_writer("PUT", "/v1/instances/new", "").status, 200, "there is a place for others");
    let range = host.get("/v1/instances/ended/usage/range?range=1h").json();
    assert!(!range.as_array().unwrap().is_empty(), "their history stays");
    assert!(host.get("/health").body.contains("churning"), "{}", host.get("/health").body);
    let host = host.restart();
    assert_eq!(host.get("/v1/instances/new").status, 200);
    host.until("/v1/instances/ok/usage", |answer| answer.status == 200);
}

#[test]
fn a_plugin_that_discovers_an_instance_of_another_replaces_none_of_its_fields_or_labels() {
    let config = "poll.interval = '300ms'\npoll.discover_interval = '1s'\n\
                  [plugins.aaa]\nconfig = { discover = ['host'], fields = ['cpu_percent', 'more_per_sec'] }\n";
    let host = Host::start(config, &[("aaa", verbs())]);
    let has_conflict = |page: &Value| !page["conflicts"].as_array().unwrap().is_empty();
    let page = host.until("/v1/plugins/aaa", |page| has_conflict(&page.json())).json();
    assert_eq!((&page["conflicts"][0]["instance"], &page["conflicts"][0]["with"]), (&json!("host"), &json!("procfs")));
    assert!(page["last_failure"].is_null(), "it is no failure: {page}");
    let said = host.until_logged("belong to others, for example host (owner: procfs)");
    assert!(said.contains("plugins.aaa.share_instances = true"), "{said}");
    let page = host.plugin("procfs");
    assert_eq!(page["conflicts"][0]["with"], "aaa", "{page}");
    host.until("/v1/instances/host/usage", |answer| answer.json()["memory_used_mb"].is_number());
    let instance = host.get("/v1/instances/host").json();
    assert_eq!((&instance["samplers"], &instance["labels"]["kind"]), (&json!(["procfs"]), &json!("host")));
    // The tests' guest reads 1.000 whatever it is asked, and counts its calls.
    let sample = host.get("/v1/instances/host/usage").json();
    assert!(sample["more_per_sec"].is_null(), "{sample}");

    // Allowed to, it adds what the owner has not.
    host.reconfigure(&format!("{config}share_instances = true\n"));
    host.until("/v1/instances/host/usage", |answer| answer.json()["more_per_sec"].is_number());
    let has_field =
        |page: &Value| page["conflicts"].as_array().unwrap().iter().any(|one| one["field"] == "cpu_percent");
    host.until("/v1/plugins/aaa", |page| has_field(&page.json()));
    let metrics = host.get("/metrics").body;
    assert!(!metrics.lines().any(|line| line.starts_with("dropsonde_sample_cpu") && line.contains("sampler=\"aaa\"")));
}

#[test]
fn the_memory_limit_of_history_shrinks_with_the_address_space_limit() {
    let most = |command: Command| {
        let host = Host::start_as(command, "", &[]);
        let metrics = host.get("/metrics").body;
        let line = metrics.lines().find(|line| line.starts_with("dropsonde_share_limit{pool=\"history_rows_bytes\"}"));
        line.unwrap().rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    // A quarter of the address space counts as memory, as much of that is for history, and half of this for newest
    // rows.
    assert_eq!(most(with_2_gib_of_address_space()), 2097152.0 * 1024.0 / 4.0 / 4.0 / 2.0);
    assert!(most(dropsonde()) >= most(with_2_gib_of_address_space()));
}
