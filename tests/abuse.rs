//! Malformed, oversized, slow and hostile requests: the host refuses them with a reason and stays healthy.

use crate::harness::{Host, request, verbs};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

fn connect(host: &Host) -> TcpStream {
    let socket = TcpStream::connect(&host.address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket
}

/// Reads until the other end closes the connection.
fn read_to_end_of_connection(socket: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}: {:?}", String::from_utf8_lossy(&answer)),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn send_and_close(host: &Host, bytes: &[u8]) -> String {
    let mut socket = connect(host);
    // It may be refused before all of it was read.
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(Shutdown::Write);
    read_to_end_of_connection(&mut socket)
}

fn statuses(answers: &str) -> Vec<u16> {
    let heads = answers.match_indices("HTTP/1.1 ");
    heads.map(|(at, head)| answers[at + head.len()..][..3].parse().unwrap()).collect()
}

/// Waits until the host is healthy: a busy machine may be late for a few ticks.
fn wait_until_healthy(host: &Host) {
    host.until("/health", |health| health.json()["status"] == "healthy");
}

/// Sends `begin` and then a byte every 20 ms, until the host closes the connection. Returns the response.
fn send_byte_by_byte(socket: &mut TcpStream, begin: &str) -> String {
    socket.write_all(begin.as_bytes()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut answer = Vec::new();
    loop {
        let mut piece = [0; 1024];
        match socket.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(_) => drop(socket.write_all(b"x")),
        }
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn requests_that_arrive_too_slowly_get_408_and_silent_connections_are_closed() {
    let host = Host::start("[http]\nheader_timeout = '300ms'\nread_timeout = '300ms'\n", &[]);
    let answer = send_byte_by_byte(&mut connect(&host), "GET /health HTTP/1.1\r\nHost: localhost\r\nX-Drip: ");
    assert_eq!(statuses(&answer), [408], "{answer}");
    assert!(answer.ends_with("{\"code\":408,\"error\":\"the request head did not arrive in time\"}"), "{answer}");
    let token = host.bearer("write");
    let body = format!("POST /v1/events HTTP/1.1\r\nHost: localhost\r\n{token}Content-Length: 100000\r\n\r\n[");
    let answer = send_byte_by_byte(&mut connect(&host), &body);
    assert_eq!(statuses(&answer), [408], "{answer}");
    let chunked =
        format!("POST /v1/events HTTP/1.1\r\nHost: localhost\r\n{token}Transfer-Encoding: chunked\r\n\r\nfff\r\n[");
    assert_eq!(statuses(&send_byte_by_byte(&mut connect(&host), &chunked)), [408]);
    // Who says nothing has nothing to hear, also behind a request whose body came by itself.
    assert_eq!(read_to_end_of_connection(&mut connect(&host)), "");
    let mut socket = connect(&host);
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: localhost\r\n{token}Expect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).unwrap();
    let mut go_on = [0; 25];
    socket.read_exact(&mut go_on).unwrap();
    assert_eq!(go_on, *b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(b"[]").unwrap();
    assert_eq!(statuses(&read_to_end_of_connection(&mut socket)), [202]);
    wait_until_healthy(&host);
}

#[test]
fn a_client_that_never_reads_its_responses_is_disconnected() {
    let instances: String =
        (0..400).map(|nth| format!("[[instances]]\nid = 'an-instance-with-a-long-name-{nth}'\n")).collect();
    let host = Host::start(&format!("http.write_timeout = '300ms'\npoll.interval = '1h'\n{instances}"), &[]);
    let mut socket = connect(&host);
    let ask = "GET /v1/instances HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // Far more than fits on the way.
    socket.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let _ = socket.write_all(ask.repeat(1000).as_bytes());
    let port = socket.local_addr().unwrap().port();
    host.until("/health", |_| !has_connection_from(&host, port));
    wait_until_healthy(&host);
}

/// Returns whether the host has a connection from this port.
fn has_connection_from(host: &Host, port: u16) -> bool {
    let own: u16 = host.address.rsplit(':').next().unwrap().parse().unwrap();
    let table = std::fs::read_to_string(format!("/proc/{}/net/tcp", host.pid())).unwrap();
    let pair = (format!(":{own:04X}"), format!(":{port:04X}"));
    table.lines().skip(1).any(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (local, remote, state) = (columns.next().unwrap(), columns.next().unwrap(), columns.next().unwrap());
        local.ends_with(&pair.0) && remote.ends_with(&pair.1) && state == "01"
    })
}

#[test]
fn ten_thousand_idle_connections_do_not_keep_others_from_being_served() {
    let host = Host::start("poll.interval = '100ms'\nhttp.header_timeout = '60s'\n", &[("verbs", verbs())]);
    let before = host.memory_kb();
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let idle: Vec<_> = (0..10_000).map(|_| TcpStream::connect(&host.address).unwrap()).collect();
    host.until("/v1/instances/host/usage", |usage| usage.status == 200);
    wait_until_healthy(&host);
    // All are held, and this one.
    let open = format!("dropsonde_http_connections {}\n", idle.len() + 1);
    host.until("/metrics", |metrics| metrics.body.contains(&open));
    let each = (host.memory_kb().saturating_sub(before)) / idle.len() as u64;
    assert!(each < 32, "{each} KiB for each of {}", idle.len());
}

#[test]
fn connections_beyond_the_total_or_per_peer_limit_are_refused_and_counted() {
    for (limit, status, reason) in [("max_connections", 503, "all"), ("max_connections_per_peer", 429, "peer")] {
        let host = Host::start(&format!("[http]\n{limit} = 5\nheader_timeout = '60s'\n"), &[]);
        let mut held: Vec<_> = (0..5).map(|_| connect(&host)).collect();
        let begun = b"GET /health HTTP/1.1\r\n";
        held.iter_mut().for_each(|socket| socket.write_all(begun).unwrap());
        let mut refused = connect(&host);
        let _ = refused.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let answer = read_to_end_of_connection(&mut refused);
        assert_eq!(statuses(&answer), [status], "{answer}");
        assert!(answer.contains("retry-after: 1") && answer.contains(&format!("http.{limit}")), "{answer}");
        // Streams have places of their own.
        held[0].write_all(b"Host: localhost\r\n\r\n").unwrap();
        let mut health = [0; 64];
        assert!(held[0].read(&mut health).unwrap() > 0 && health.starts_with(b"HTTP/1.1 200"));
        drop(held);
        let series = format!("dropsonde_http_connections_refused_total{{reason=\"{reason}\"}} ");
        let metrics = host.until("/metrics", |metrics| metrics.status == 200).body;
        let count = metrics.lines().find_map(|line| line.strip_prefix(&series)).unwrap();
        assert!(count.parse::<u64>().unwrap() >= 1, "{metrics}");
    }
}

#[test]
fn streams_beyond_the_per_peer_limit_get_429_until_others_are_closed() {
    let host = Host::start("stream.max_streams_per_peer = 2\n", &[]);
    let path = "/v1/instances/host/usage/stream";
    let open: Vec<_> = (0..2).map(|_| host.stream(path)).collect();
    assert!(open.iter().all(|stream| stream.head.status == 200));
    let refused = host.get(path);
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("5")), "{refused:?}");
    assert!(refused.body.contains("stream.max_streams_per_peer"), "{refused:?}");
    drop(open);
    host.until("/metrics", |metrics| metrics.body.contains("dropsonde_sessions_active 0\n"));
    assert_eq!(host.stream(path).head.status, 200);
}

#[test]
fn malformed_requests_are_refused_and_the_host_stays_healthy() {
    let host = Host::start("", &[]);
    let whole = |line: &str, more: &str| {
        format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}\r\n").into_bytes()
    };
    for (bytes, status) in [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400),
        (b"nonsense\r\n\r\n".to_vec(), 400),
        (vec![0xff; 4096], 400),
        (vec![0; 4096], 400),
        (b"GET / HTTP/9.9\r\n\r\n".to_vec(), 400),
        (whole("GET /health", "X: a\0b\r\n"), 400),
        (whole("GET /health", "X : a\r\n"), 400),
        (whole("GET /health", "X: a\r\n continued\r\n"), 400),
        (whole("GET /he alth", ""), 400),
        (whole("GET /\x01", ""), 400),
        (whole("GET localhost", ""), 404),
        (whole("CONNECT localhost:80", ""), 404),
        (whole("OPTIONS *", ""), 404),
        (whole("BREW /health", ""), 405),
        ([whole("POST /health", "Content-Length: 5\r\n"), b"hello".to_vec()].concat(), 405),
    ] {
        let answer = send_and_close(&host, &bytes);
        assert_eq!(statuses(&answer), [status], "{:?}: {answer}", String::from_utf8_lossy(&bytes));
    }
    // Another protocol is none that is spoken here.
    assert_eq!(send_and_close(&host, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), "");
    wait_until_healthy(&host);
}

#[test]
fn oversized_heads_and_bodies_are_refused_before_they_are_buffered() {
    let host = Host::start("[http]\nmax_header = '8KiB'\nmax_body = '64KiB'\n", &[]);
    let long = "x".repeat(9000);
    let head = |head: &str| {
        statuses(&send_and_close(&host, format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{head}\r\n").as_bytes()))
    };
    assert_eq!(head(&format!("X-Long: {long}\r\n")), [431]);
    let many: String = (0..200).map(|nth| format!("X-{nth}: x\r\n")).collect();
    assert_eq!(head(&many), [431]);
    let target = statuses(&send_and_close(
        &host,
        format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(70_000)).as_bytes(),
    ));
    assert!([[414], [431]].contains(&[target[0]]), "{target:?}");
    let token = host.bearer("write");
    // Nobody has to send what is not taken.
    let announced = format!(
        "POST /v1/events HTTP/1.1\r\nHost: localhost\r\n{token}Expect: 100-continue\r\nContent-Length: 65537\r\n\r\n"
    );
    assert_eq!(statuses(&send_and_close(&host, announced.as_bytes())), [413]);
    let chunk = "10000\r\n".to_owned() + &" ".repeat(65536) + "\r\n";
    let chunked = format!("POST /v1/events HTTP/1.1\r\nHost: localhost\r\n{token}Transfer-Encoding: chunked\r\n\r\n");
    assert_eq!(statuses(&send_and_close(&host, (chunked + &chunk.repeat(3)).as_bytes())), [413]);
    let put = format!("{token}Content-Length: 99999999999999999999\r\n");
    assert_eq!(
        statuses(&send_and_close(
            &host,
            format!("POST /v1/events HTTP/1.1\r\nHost: localhost\r\n{put}\r\n").as_bytes()
        )),
        [400]
    );
    wait_until_healthy(&host);
}

#[test]
fn ambiguous_message_lengths_do_not_smuggle_a_second_request() {
    let host = Host::start("", &[]);
    let smuggled = "GET /v1/plugins HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let post = |headers: &str, body: &str| {
        send_and_close(&host, format!("POST /v1/events HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n{body}").as_bytes())
    };
    let length = |more: usize| format!("Content-Length: {}\r\n", smuggled.len() + more);
    for (headers, body, status) in [
        (format!("Transfer-Encoding: chunked\r\n{}", length(5)), format!("0\r\n\r\n{smuggled}"), 401),
        (format!("{}Transfer-Encoding: chunked\r\n", length(5)), format!("0\r\n\r\n{smuggled}"), 401),
        ("Content-Length: 5\r\nContent-Length: 0\r\n".to_owned(), format!("hello{smuggled}"), 400),
        ("Content-Length: 0, 5\r\n".to_owned(), format!("hello{smuggled}"), 400),
        ("Content-Length: +5\r\n".to_owned(), format!("hello{smuggled}"), 400),
        ("Transfer-Encoding: identity\r\n".to_owned(), smuggled.to_owned(), 400),
        ("Transfer-Encoding: chunked, identity\r\n".to_owned(), format!("0\r\n\r\n{smuggled}"), 400),
        ("Transfer-Encoding: xchunked\r\n".to_owned(), format!("0\r\n\r\n{smuggled}"), 400),
        ("Transfer-Encoding : chunked\r\n".to_owned(), format!("0\r\n\r\n{smuggled}"), 400),
        ("Transfer-Encoding: chunked\r\n".to_owned(), format!("0x0\r\n\r\n{smuggled}"), 401),
        ("Transfer-Encoding: chunked\r\n".to_owned(), format!("-1\r\n\r\n{smuggled}"), 401),
    ] {
        let answer = post(&headers, &body);
        assert_eq!(statuses(&answer), [status], "{headers:?}: {answer}");
    }
    wait_until_healthy(&host);
}

#[test]
fn path_traversal_attempts_get_400_or_404_and_remove_no_file() {
    let host = Host::start("", &[]);
    let token = host.bearer("admin");
    for path in [
        "/../../etc/passwd",
        "/v1/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v1/instances/..",
        "/v1/instances/%2e%2e/usage",
        "/v1/instances/..%2f..%2fetc%2fpasswd/usage",
        "/v1/instances/..%5c..%5cetc/usage",
        "/v1/instances/%252e%252e%252fetc/usage",
        "/v1/instances/a%00b/usage",
        "/v1/instances/%C0%AE%C0%AE%C0%AFetc/usage",
        "/v1/instances/%ff/usage",
        "/v1/instances/%/usage",
        "/v1/instances/%zz/usage",
        "/v1/instances/%e2%80%ae/usage",
        "/v1/plugins/..%2f..%2fadmin.token",
        "/v1/plugins/%2e%2e",
        "/v1/plugins/procfs%00",
        "/v1//plugins",
        "//v1/plugins",
        "/V1/plugins",
        "/v1/plugins/",
        "/v1/plugins;x=1",
        "/%76%31/plugins",
        "/telemetry/history?host=..%2fetc&range=1h",
    ] {
        let answer = host.request_with("GET", path, &token);
        assert!([400, 404].contains(&answer.status), "{path}: {answer:?}");
        assert!(answer.json()["error"].is_string() && !answer.body.contains("root:"), "{path}: {answer:?}");
    }
    for path in ["/v1/plugins/..%2f..%2fx", "/v1/plugins/%2e%2e", "/v1/plugins/a%2fb", "/v1/plugins/a%00"] {
        let put = host.send_as_admin("PUT", path, verbs());
        assert_eq!(put.status, 400, "{path}: {put:?}");
        let removed = host.send_as_admin("DELETE", path, &[]);
        assert!([400, 404].contains(&removed.status), "{path}: {removed:?}");
    }
    assert!(host.data().join("admin.token").exists());
    assert_eq!(
        request(&host.address, "GET", "/v1/instances/%68ost/usage", "").status,
        host.get("/v1/instances/host/usage").status
    );
    wait_until_healthy(&host);
}

#[test]
fn clients_that_close_their_sending_side_still_get_their_responses() {
    let host = Host::start("poll.interval = '100ms'\n", &[]);
    let get = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(statuses(&send_and_close(&host, get)), [200]);
    let get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(statuses(&send_and_close(&host, &[&get[..], &get[..]].concat())), [200, 200]);
    // It is compiled first.
    let put = format!(
        "PUT /v1/plugins/verbs HTTP/1.1\r\nHost: localhost\r\n{}Content-Length: {}\r\n\r\n",
        host.bearer("admin"),
        verbs().len()
    );
    assert_eq!(statuses(&send_and_close(&host, &[put.as_bytes(), verbs()].concat())), [202]);
}

#[test]
fn a_stream_continues_on_a_half_closed_socket_and_ends_when_the_client_disconnects() {
    let host = Host::start("poll.interval = '100ms'\nstream.heartbeat = '1h'\n", &[]);
    host.until("/v1/instances/host/usage", |usage| usage.status == 200);
    let mut socket = connect(&host);
    socket.write_all(b"GET /v1/instances/host/usage/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    while text.matches("event: usage").count() < 5 {
        let count = socket.read(&mut piece).unwrap();
        assert!(count > 0, "it ended: {text}");
        text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    drop(socket);
    host.until("/metrics", |metrics| metrics.body.contains("dropsonde_sessions_active 0\n"));
    // Also of one that says nothing.
    let silent = host.stream("/v1/instances/nobody/usage/stream");
    host.until("/metrics", |metrics| metrics.body.contains("dropsonde_sessions_active 1\n"));
    drop(silent);
    host.until("/metrics", |metrics| metrics.body.contains("dropsonde_sessions_active 0\n"));
}
