//! Mistakes of operators: the host reports them, and continues once they are corrected.

use crate::harness::{Host, Response, components, connect_from, dropsonde, request, run, verbs};
use std::fs;
use std::io::{Read as _, Write as _};

const CONFIG: &str = "poll.interval = '100ms'\n";

fn is_healthy(health: &Response) -> bool {
    health.json()["status"] == "healthy"
}

#[test]
fn a_refused_section_of_a_missing_plugin_is_applied_when_its_file_appears() {
    let host = Host::start(CONFIG, &[]);
    host.until("/health", is_healthy);
    host.configure(&format!("{CONFIG}[plugins.late]\nconfig = {{ discover = ['ok'] }}\n"));
    host.until_logged("cannot reload the configuration");
    host.until("/health", |health| health.body.contains("no plugin is called"));
    host.drop_in("late", verbs());
    host.until("/health", is_healthy);
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
}

#[test]
fn a_data_folder_on_the_command_line_with_memory_only_in_the_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("dropsonde.toml"), folder.path().join("data"));
    fs::write(&file, "store.memory_only = true\n").unwrap();
    for more in [&["--check"][..], &["--listen", "127.0.0.1:0"]] {
        let mut command = dropsonde();
        let (code, _, error) = run(command.args(["serve", "--config"]).arg(&file).arg("--data").arg(&data).args(more));
        assert_eq!(code, 1, "{error}");
        for word in ["--data", "memory_only", "remove", "dropsonde.toml"] {
            assert!(error.contains(word), "{word}: {error}");
        }
    }
    assert!(!data.exists(), "nothing is made");
}

#[test]
fn a_wrong_configuration_is_refused_with_the_first_error_of_each_section() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dropsonde.toml");
    let wrong = "poll.interval = '0s'\nstore.retention = '1s'\n[plugins.a.grants]\nread = ['relative']\n[plugins.b.grants]\n\
                 http = ['no url']\n";
    fs::write(&file, wrong).unwrap();
    let (code, _, error) = run(dropsonde().args(["serve", "--memory-only", "--check", "--config"]).arg(&file));
    assert_eq!(code, 1, "{error}");
    for said in ["4 errors", "poll.interval", "store.retention", "plugins.a.grants", "plugins.b.grants"] {
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn a_client_with_many_wrong_tokens_gets_429_but_its_right_tokens_are_accepted() {
    let host = Host::start("auth.read_token_file = '{}/data/read.token'\n", &[]);
    let get = |headers: &str| request(&host.address, "GET", "/v1/instances", headers);
    let wrong = "Authorization: Bearer wrong\r\n";
    for _ in 0..10 {
        assert_eq!(get(wrong).status, 401);
        assert_eq!(get(&host.bearer("read")).status, 200);
    }
    let refused = get(wrong);
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.body.contains("too many wrong tokens from this client"), "{refused:?}");
    let wait: u32 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(request(&host.address, "PUT", "/v1/instances/x", wrong).status, 429);
    // A right one of the same client is not held up, nor is a login, nor another client.
    assert_eq!(get(&host.bearer("read")).status, 200);
    assert_eq!(host.send_as_writer("PUT", "/v1/instances/x", "").status, 200);
    assert_eq!(request(&host.address, "POST", "/login", &host.bearer("read")).status, 204);
    let mut other = connect_from([127, 0, 0, 2].into(), &host.address);
    write!(other, "GET /v1/instances HTTP/1.1\r\nHost: localhost\r\n{wrong}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[test]
fn an_invalid_plugin_file_that_keeps_changing_is_logged_once_per_reason() {
    let host = Host::start(CONFIG, &[]);
    let refused = |count: u64| {
        let counted = format!("dropsonde_errors_total{{service=\"junk\",type=\"load\"}} {count}");
        host.until("/metrics", |metrics| metrics.body.contains(&counted));
    };
    for nth in 1..=5 {
        host.drop_in("junk", format!("junk {nth}").as_bytes());
        refused(nth);
    }
    // Removed and put back, it is the same.
    fs::remove_file(host.plugin_file("junk")).unwrap();
    host.until("/v1/plugins/junk", |page| page.status == 404);
    host.drop_in("junk", b"junk again");
    host.until("/v1/plugins/junk", |page| page.status == 200 && page.json()["state"] == "failed");
    host.drop_in("junk", b"");
    host.until("/v1/plugins/junk", |page| page.body.contains("it is empty"));
    let log = host.stop_and_read_log();
    let lines = |part: &str| log.lines().filter(|line| line.contains("plugin=\"junk\"") && line.contains(part)).count();
    assert_eq!((lines("it is not WebAssembly"), lines("it is empty")), (1, 1), "{log}");
}

#[test]
fn the_page_of_a_plugin_in_the_compile_queue_says_that_it_waits() {
    let slow: Vec<_> = (0..5).map(|nth| (format!("slow{nth}"), components::slow_to_compile(60_000 + nth))).collect();
    let slow: Vec<_> = slow.iter().map(|(name, component)| (name.as_str(), &component[..])).collect();
    let host = Host::start_cold("", &slow);
    let page = host.until("/v1/plugins", |plugins| plugins.body.contains("waiting_for")).json();
    let mut waiting = page.as_array().unwrap().iter().filter(|page| page.get("waiting_for").is_some());
    assert!(waiting.all(|page| page["state"] == "compiling" && page["waiting_for"] == "its turn to be compiled"));
    let (_, list, _) = run(dropsonde().args(["plugin", "list", "--url", &host.url()]));
    assert!(list.contains("waits for its turn to be compiled"), "{list}");
}
