//! Tokens, logins and the audit log.

use crate::harness::{Host, Response, dropsonde, request, run, send};
use serde_json::json;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

/// Starts a host that requires a token from readers, too.
fn host_with_read_token() -> Host {
    Host::start("poll.interval = '100ms'\nauth.read_token_file = '{}/data/read.token'\n", &[])
}

fn session_cookie(login: &Response) -> String {
    let cookie = login.header("set-cookie").unwrap_or_else(|| panic!("{login:?}"));
    format!("Cookie: other=1; {}\r\n", cookie.split(';').next().unwrap())
}

#[test]
fn with_a_read_token_every_path_but_probes_and_openapi_returns_401_without_it() {
    let host = host_with_read_token();
    let mode = fs::metadata(host.data().join("read.token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "it is made for this user alone");
    for path in ["/", "/v1/instances", "/v1/instances/host/usage/stream", "/metrics", "/v1/snapshot", "/parsec/metrics"]
    {
        let refused = host.get(path);
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        assert!(refused.json()["error"].as_str().unwrap().contains("the read token"), "{refused:?}");
        assert_eq!(host.request_with("GET", path, "Authorization: Bearer guessed\r\n").status, 401, "{path}");
    }
    assert_eq!(host.request_with("GET", "/metrics", "Authorization: Basic eDp5\r\n").status, 401, "a wrong password");
    for right in ["read", "write", "admin"] {
        assert_eq!(host.request_with("GET", "/v1/instances", &host.bearer(right)).status, 200, "{right}");
    }
    for path in ["/health", "/ready", "/openapi.json"] {
        host.until(path, |answer| answer.status == 200);
    }
    assert_eq!(host.get("/no/such/path").status, 404);
}

#[test]
fn health_shows_its_reasons_only_to_clients_with_the_read_token() {
    let host = host_with_read_token();
    host.until("/ready", |ready| ready.status == 200);
    assert_eq!(host.send_as_admin("POST", "/v1/plugins/procfs/quarantine", &[]).status, 202);
    let health = host.until("/health", |health| health.json()["status"] == "degraded");
    assert!(health.json().get("reasons").is_none(), "{health:?}");
    let told = host.request_with("GET", "/health", &host.bearer("read"));
    assert!(told.json()["reasons"][0].as_str().unwrap().contains("quarantine"), "{told:?}");
}

#[test]
fn a_token_without_the_needed_right_gets_403_and_no_token_gets_401() {
    let host = host_with_read_token();
    let put = |headers: &str| request(&host.address, "PUT", "/v1/instances/web", headers);
    let refused = put(&host.bearer("read"));
    assert_eq!(
        (refused.status, refused.body.contains("the read token does not allow this")),
        (403, true),
        "{refused:?}"
    );
    assert_eq!(put("").status, 401);
    assert_eq!(put(&host.bearer("write")).status, 200);
    let order = |right| request(&host.address, "POST", "/v1/plugins/procfs/reload", &host.bearer(right)).status;
    assert_eq!((order("write"), order("admin")), (403, 202));
}

#[test]
fn a_browser_can_log_in_read_stream_and_log_out() {
    let host = host_with_read_token();
    let html = "Accept: text/html,application/xhtml+xml\r\n";
    let page = host.request_with("GET", "/", html);
    assert_eq!(page.status, 401);
    assert!(page.body.contains("<form method=\"post\" action=\"/login\">"), "{page:?}");
    assert!(page.header("content-security-policy").unwrap().contains("form-action 'self'"));
    let token = fs::read_to_string(host.data().join("read.token")).unwrap();
    let form = format!("token={}", token.trim());
    let wrong = send(&host.address, "POST", "/login", html, b"token=guessed");
    assert_eq!(wrong.status, 415, "it is a form, or JSON: {wrong:?}");
    let headers = format!("{html}Content-Type: application/x-www-form-urlencoded\r\nSec-Fetch-Site: same-origin\r\n");
    let wrong = send(&host.address, "POST", "/login", &headers, b"token=%3Cguessed%3E");
    assert!(
        wrong.status == 401 && wrong.body.contains("<form") && wrong.body.contains("not a token of this host"),
        "{wrong:?}"
    );
    let login = send(&host.address, "POST", "/login", &headers, form.as_bytes());
    assert_eq!((login.status, login.header("location")), (303, Some("/")));
    let set = login.header("set-cookie").unwrap();
    assert!(
        set.contains("HttpOnly; SameSite=Strict") && !set.contains("Secure") && !set.contains(token.trim()),
        "{set}"
    );
    let cookie = session_cookie(&login);
    assert!(host.request_with("GET", "/", &cookie).body.contains("Log out"));
    host.until_with("/v1/instances/host/usage", &cookie, |usage| usage.status == 200);
    let mut stream = crate::harness::stream(&host.address, "/v1/instances/host/usage/stream", &cookie);
    assert!(stream.next_sample()["memory_used_mb"].is_number());
    let logout = request(&host.address, "POST", "/logout", &cookie);
    assert!(logout.status == 204 && logout.header("set-cookie").unwrap().contains("Max-Age=0"), "{logout:?}");
    assert_eq!(host.request_with("GET", "/v1/instances", &cookie).status, 401, "also for who has a copy");
    let audit = host.until_audited(|line| line["path"] == "/logout");
    let logins: Vec<_> = audit.iter().map(|line| json!([line["path"], line["token"], line["status"]])).collect();
    let expected = [
        json!(["/login", null, 415]),
        json!(["/login", null, 401]),
        json!(["/login", "read", 303]),
        json!(["/logout", null, 204]),
    ];
    assert_eq!(logins, expected);
}

#[test]
fn a_session_cookie_allows_only_reading_even_if_made_from_the_admin_token() {
    let host = host_with_read_token();
    let login = request(&host.address, "POST", "/login", &host.bearer("admin"));
    assert_eq!(login.status, 204);
    let cookie = session_cookie(&login);
    assert_eq!(host.request_with("GET", "/v1/instances", &cookie).status, 200);
    for (method, path) in [("PUT", "/v1/instances/a"), ("POST", "/v1/plugins/procfs/quarantine")] {
        assert_eq!(request(&host.address, method, path, &cookie).status, 401, "{path}");
    }
    assert_eq!(host.request_with("GET", "/v1/snapshot?fresh=1", &cookie).status, 401);
}

#[test]
fn invalid_logins_get_no_cookie() {
    let host = host_with_read_token();
    let login = |headers: &str, body: &str| {
        let answer = send(&host.address, "POST", "/login", headers, body.as_bytes());
        assert!(answer.header("set-cookie").is_none(), "{answer:?}");
        answer.status
    };
    assert_eq!(login("", ""), 400);
    assert_eq!(login("Content-Type: application/json\r\n", r#"{"token":"guessed"}"#), 401);
    assert_eq!(login("Content-Type: application/json\r\n", r#"{"tokens":"x"}"#), 400);
    assert_eq!(login("Content-Type: application/x-www-form-urlencoded\r\n", "token=guessed"), 401);
    assert_eq!(login("Content-Type: application/x-www-form-urlencoded\r\n", "x=y"), 400);
    assert_eq!(login("Content-Type: text/plain\r\n", "guessed"), 415);
    assert_eq!(login("Authorization: Bearer guessed\r\n", ""), 401);
    assert_eq!(login("Content-Type: application/json\r\n", &format!("{{\"token\":\"{}\"}}", "x".repeat(9000))), 413);
    assert_eq!(host.get("/login").status, 405);
}

#[test]
fn configured_token_files_are_created_if_missing_and_reloaded_when_replaced() {
    let own = "[auth]\nread_token_file = '{}/own'\nwrite_token_file = '{}/own-write'\n";
    let host = Host::start(own, &[]);
    let shows = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let reads = |token: &str| host.request_with("GET", "/v1/instances", &shows(token)).status;
    let made = fs::read_to_string(host.folder().join("own")).unwrap();
    assert_eq!((made.trim().len(), reads(made.trim())), (64, 200), "where there is none, one is made");
    assert!(!host.data().join("write.token").exists());
    // As an operator rotates it: whole, and nobody tells the host.
    let half = host.folder().join("half");
    fs::write(&half, "the operator's very own token\n").unwrap();
    fs::rename(half, host.folder().join("own")).unwrap();
    host.until_with("/v1/instances", &shows("the operator's very own token"), |answer| answer.status == 200);
    assert_eq!(reads(made.trim()), 401);
    fs::write(host.folder().join("own"), "").unwrap();
    host.until_logged("the file contains no token");
    assert_eq!(reads("the operator's very own token"), 200, "what cannot be used changes nothing");
}

#[test]
fn every_mutating_request_is_audited_with_its_token_path_and_status() {
    let host = Host::start("", &[]);
    host.until("/ready", |ready| ready.status == 200);
    assert_eq!(host.send_as_writer("PUT", "/v1/instances/web%201", "{}").status, 200);
    assert_eq!(host.send_as_writer("PUT", "/v1/instances/web", "nonsense").status, 400);
    assert_eq!(request(&host.address, "DELETE", "/v1/instances/web?secret=1", "").status, 401);
    assert_eq!(host.send_events("appstats", "application/json", b"[]").status, 202);
    assert_eq!(host.send_as_admin("DELETE", "/v1/plugins/procfs", &[]).status, 409);
    assert_eq!(host.get("/v1/instances").status, 200);
    let audit = host.until_audited(|line| line["status"] == 409);
    let mut requests = audit.clone();
    requests.retain(|line| line["action"] == "request");
    let shown: Vec<_> =
        requests.iter().map(|line| json!([line["token"], line["method"], line["path"], line["status"]])).collect();
    let expected = [
        json!(["write", "PUT", "/v1/instances/web%201", 200]),
        json!(["write", "PUT", "/v1/instances/web", 400]),
        json!([null, "DELETE", "/v1/instances/web", 401]),
        json!(["write", "POST", "/v1/sources/appstats/events", 202]),
        json!(["admin", "DELETE", "/v1/plugins/procfs", 409]),
    ];
    assert_eq!(shown, expected, "reading is none: {audit:#?}");
    for line in &requests {
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:") && line["by"] == "api", "{line}");
        assert!(line["at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
        assert_eq!(line["refused"].is_string(), line["status"].as_u64().unwrap() >= 400, "{line}");
    }
    let mode = fs::metadata(host.data().join("audit.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_request_whose_client_disconnects_before_the_response_is_audited() {
    let host = Host::start("", &[]);
    let events: Vec<_> =
        (0..20_000).map(|nth| json!({ "type": "instance.created", "instance": format!("i{nth}") })).collect();
    let body = json!(events).to_string();
    let mut socket = TcpStream::connect(&host.address).unwrap();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: localhost\r\n{}Content-Length: {}\r\n\r\n",
        host.bearer("write"),
        body.len() + 1
    );
    socket.write_all((head + &body).as_bytes()).unwrap();
    // With its last byte it goes, so that nobody is there to be answered.
    rustix::net::sockopt::set_socket_linger(&socket, Some(std::time::Duration::ZERO)).unwrap();
    socket.write_all(b" ").unwrap();
    drop(socket);
    let audit = host.until_audited(|line| line["path"] == "/v1/events");
    assert_eq!((&audit[0]["token"], &audit[0]["method"]), (&json!("write"), &json!("POST")), "{audit:#?}");
}

#[test]
fn the_command_line_finds_the_token_or_names_the_option_to_pass_it() {
    let host = host_with_read_token();
    host.until_with("/v1/instances/host/usage", &host.bearer("read"), |usage| usage.status == 200);
    let folder = host.data().display().to_string();
    let url = host.url();
    let ask =
        |args: &[&str]| run(dropsonde().args(["latest", "host", "--url", &url]).args(args).env("HOME", "/nowhere"));
    let (code, out, error) = ask(&["--data", &folder]);
    assert!(code == 0 && out.contains("memory_used_mb"), "{error}");
    let (code, ..) = ask(&["--token-file", &format!("{folder}/write.token")]);
    assert_eq!(code, 0);
    let token = fs::read_to_string(host.data().join("read.token")).unwrap();
    let (code, ..) = run(dropsonde().args(["latest", "host", "--url", &url]).env("DROPSONDE_TOKEN", &token));
    assert_eq!(code, 0);
    let (code, _, error) = run(dropsonde().args(["latest", "host", "--url", &url]).env("DROPSONDE_TOKEN", "guessed"));
    assert!(code == 1 && error.contains("--token-file") && error.contains("not a token of this host"), "{error}");
    let (code, _, error) = ask(&["--token-file", "/no/such/file"]);
    assert!(code == 1 && error.contains("/no/such/file"), "{error}");
    let order = ["plugin", "reload", "procfs", "--url", &url, "--data", "/no/such/folder"];
    let (code, _, error) = run(dropsonde().args(order));
    assert!(code == 1 && error.contains("/no/such/folder/admin.token") && error.contains("--data"), "{error}");
}
