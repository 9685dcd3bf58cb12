//! The OpenAPI document, and whether the host responds as it says.

use crate::harness::{Host, verbs, workspace};
use std::process::{Command, Output};

/// Returns the command for a Python program that `cargo dev setup` installs.
fn installed_program(program: &str) -> Command {
    Command::new(workspace().join("target/schemathesis/bin").join(program))
}

fn host() -> Host {
    let config = "poll.interval = '100ms'\nauth.read_token_file = '{}/data/read.token'\n\
                  [[instances]]\nid = 'count'\nlabels = { workload = 'web' }\nsamplers = ['verbs']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    host.until_with("/v1/instances/count/usage", &host.bearer("read"), |usage| usage.status == 200);
    host.until("/ready", |ready| ready.status == 200);
    host
}

#[test]
fn the_openapi_document_is_valid_and_lists_the_configured_paths() {
    let host = Host::start("metrics.path = '/scrape'\nsnapshot.path = '/app'\n", &[]);
    let answer = host.get("/openapi.json");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let document = answer.json();
    assert_eq!(document["openapi"], "3.1.0");
    let has = |path: &str| document["paths"].get(path).is_some();
    assert!(has("/scrape") && has("/app") && !has("/metrics") && !has("/parsec/metrics"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), answer.body).unwrap();
    let Output { status, stdout, stderr } =
        installed_program("openapi-spec-validator").arg(file.path()).output().unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{said}");
}

#[test]
fn responses_to_generated_requests_match_the_openapi_document() {
    let host = host();
    let folder = tempfile::tempdir().unwrap();
    let admin = host.bearer("admin");
    let Output { status, stdout, stderr } = installed_program("schemathesis")
        .current_dir(&folder)
        .arg("--config-file")
        .arg(workspace().join("tests/schemathesis.toml"))
        .args(["run", &format!("{}/openapi.json", host.url())])
        .args(["-H", admin.trim()])
        // Streams do not end.
        .args(["--exclude-path-regex", "stream$"])
        .args(["--generation-deterministic", "--max-examples", "25", "--continue-on-failure"])
        .args(["--warnings", "off", "--no-color"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{said}\n{}", host.log());
    assert!(said.contains("generated,") && !said.contains(" 0 generated"), "it asked something: {said}");
    assert_eq!(host.request_with("GET", "/health", &admin).status, 200);
}
