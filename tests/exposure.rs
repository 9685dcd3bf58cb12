//! Other machines, other sites' pages and other host names: what they can reach.

use crate::harness::{Host, dropsonde, request, run};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

/// Sends a request as it is written, and returns the whole response.
fn send_raw(address: &str, request: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("{answer:?}")).parse().unwrap()
}

#[test]
fn listening_beyond_loopback_without_tls_is_refused_unless_insecure_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().display().to_string();
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let (code, out, error) = run(dropsonde().args(["serve", "--listen", listen, "--data", &data]));
        assert!(code == 1 && out.is_empty(), "{listen}: {error}");
        assert!(error.contains("TLS") && error.contains("--insecure"), "{error}");
    }
    let host = Host::start_insecure("0.0.0.0:0");
    let port = host.address.rsplit(':').next().unwrap().to_owned();
    host.until_logged("--insecure: other machines can connect without TLS");
    assert_eq!(request(&format!("127.0.0.1:{port}"), "GET", "/v1/instances", "").status, 200);
}

#[test]
fn requests_with_an_unknown_host_name_get_421() {
    let host = Host::start("http.hosts = ['metrics.example.com']\n", &[]);
    let ask =
        |head: &str| send_raw(&host.address, &format!("GET /v1/instances HTTP/1.1\r\n{head}Connection: close\r\n\r\n"));
    for own in ["localhost", "127.0.0.1:9090", "metrics.example.com", "METRICS.example.com:443", "[::1]"] {
        assert_eq!(status(&ask(&format!("Host: {own}\r\n"))), 200, "{own}");
    }
    for other in ["evil.example", "localhost.evil.example", "metrics.example.com.evil.example"] {
        let answer = ask(&format!("Host: {other}\r\n"));
        assert_eq!(status(&answer), 421, "{other}");
        assert!(answer.contains("http.hosts") && answer.contains("{\"code\":421"), "{answer}");
    }
    for none in ["", "Host: a\r\nHost: localhost\r\n", "Host: user@localhost\r\n", "Host: \r\n", "Host: a b\r\n"] {
        assert_eq!(status(&ask(none)), 400, "{none:?}");
    }
    let absolute = send_raw(
        &host.address,
        "GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(status(&absolute), 421);
    assert_eq!(status(&send_raw(&host.address, "GET /health HTTP/1.0\r\n\r\n")), 200, "as old probes ask");
}

#[test]
fn cross_site_requests_are_refused_except_navigation_to_the_front_page() {
    let host = Host::start("", &[]);
    let ask = |path: &str, headers: &str| host.request_with("GET", path, headers).status;
    assert_eq!(ask("/v1/instances", "Sec-Fetch-Site: cross-site\r\n"), 403);
    assert_eq!(ask("/v1/instances", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n"), 403);
    assert_eq!(ask("/", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n"), 200);
    assert_eq!(ask("/", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n"), 403);
    for site in ["same-origin", "same-site", "none"] {
        assert_eq!(ask("/v1/instances", &format!("Sec-Fetch-Site: {site}\r\n")), 200, "{site}");
    }
    let token = host.bearer("write");
    let put = request(&host.address, "PUT", "/v1/instances/a", &format!("{token}Sec-Fetch-Site: cross-site\r\n"));
    assert_eq!((put.status, put.body.contains("http.cors_origins")), (403, true), "{put:?}");
}

#[test]
fn other_origins_can_read_responses_only_when_configured() {
    let from = |origin: &str| format!("Origin: {origin}\r\nSec-Fetch-Site: cross-site\r\n");
    let plain = Host::start("", &[]);
    let answer = plain.request_with("GET", "/health", "Origin: https://dash.example.com\r\n");
    assert!(answer.header("access-control-allow-origin").is_none(), "{answer:?}");
    assert_eq!(request(&plain.address, "OPTIONS", "/health", &from("https://dash.example.com")).status, 403);

    let host = Host::start("http.cors_origins = ['https://dash.example.com']\n", &[]);
    let answer = host.request_with("GET", "/v1/instances", &from("https://dash.example.com"));
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("https://dash.example.com")));
    assert!(answer.header("access-control-allow-credentials").is_none());
    let other = host.request_with("GET", "/v1/instances", &from("https://evil.example"));
    assert_eq!((other.status, other.header("access-control-allow-origin")), (403, None));
    let asked = "Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: authorization\r\n";
    let may =
        request(&host.address, "OPTIONS", "/v1/instances/a", &format!("{}{asked}", from("https://dash.example.com")));
    assert_eq!(may.status, 200);
    assert!(may.header("access-control-allow-methods").unwrap().contains("PUT"), "{may:?}");
    assert!(may.header("access-control-allow-headers").unwrap().contains("authorization"), "{may:?}");
}

#[test]
fn every_response_has_the_security_headers() {
    let host = Host::start("", &[]);
    for path in ["/", "/health", "/no/such/path", "/v1/instances/host/usage/range?range=x", "/metrics"] {
        let answer = host.get(path);
        let header = |name: &str| answer.header(name).unwrap_or_default().to_owned();
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("x-frame-options"), "DENY", "{path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin", "{path}");
        assert!(header("content-security-policy").contains("default-src 'none'"), "{path}");
        assert!(answer.header("server").is_none() && answer.header("access-control-allow-origin").is_none());
    }
}

#[test]
fn a_unix_socket_has_the_configured_mode_serves_clients_and_is_removed_at_stop() {
    let mut host =
        Host::start_at("unix:{}/d.sock", dropsonde(), "poll.interval = '100ms'\nhttp.socket_mode = 0o660\n", &[]);
    let path = host.folder().join("d.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let ask = |request: &str| {
        let mut socket = UnixStream::connect(&path).unwrap();
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    };
    assert_eq!(status(&ask("GET /health HTTP/1.1\r\nHost: any.proxy.example\r\nConnection: close\r\n\r\n")), 200);
    let listen = host.address.clone();
    let client = |args: &[&str]| run(dropsonde().args(args).args(["--url", &listen]));
    while !ask("GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").starts_with("HTTP/1.1 200") {}
    let (code, out, error) = client(&["plugin", "list"]);
    assert!(code == 0 && out.contains("procfs"), "{error}");
    let data = host.data().display().to_string();
    let (code, _, error) = client(&["plugin", "quarantine", "procfs", "--data", &data]);
    assert_eq!(code, 0, "{error}");
    let audit = host.until_audited(|line| line["action"] == "quarantine");
    assert!(audit[0]["peer"].as_str().unwrap().starts_with("unix:uid="), "{audit:#?}");
    let mut watch = UnixStream::connect(&path).unwrap();
    watch.write_all(b"GET /v1/instances/host/usage/stream HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut begun = [0; 512];
    assert!(watch.read(&mut begun).unwrap() > 0 && begun.starts_with(b"HTTP/1.1 200"));
    let mut waits = UnixStream::connect(&path).unwrap();
    waits.write_all(b"GET /v1/instances/hosst/usage/stream HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut lines = BufReader::new(waits).lines().map(Result::unwrap);
    assert!(lines.any(|line| line == ": no instance \"hosst\" yet; waiting for it"));
    // Two hosts do not share one, and what a host leaves that was killed is in nobody's way.
    let other = |listen: &str| run(dropsonde().args(["serve", "--memory-only", "--listen", listen]));
    let (code, _, error) = other(&listen);
    assert!(code == 1 && error.contains("taken by another program"), "{error}");
    host = host.kill_and_restart();
    assert_eq!(status(&ask("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")), 200);
    assert_eq!(host.stop(), 0);
    assert!(!path.exists(), "it goes with the host");
    std::fs::write(&path, "precious").unwrap();
    let (code, _, error) = other(&listen);
    assert!(code == 1 && error.contains("is not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}
