use crate::harness::{EventStream, Host, connect_from, verbs};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

fn host() -> Host {
    let config = "poll.interval = '100ms'\nstream.heartbeat = '150ms'\n\
                  [[instances]]\nid = 'ok'\nsamplers = ['verbs']\n[[instances]]\nid = 'unavailable'\nsamplers = ['verbs']\n";
    Host::start(config, &[("verbs", verbs())])
}

fn time(rfc3339: &serde_json::Value) -> jiff::Timestamp {
    rfc3339.as_str().unwrap().parse().unwrap()
}

fn open(host: &Host, id: &str) -> EventStream {
    let stream = host.stream(&format!("/v1/instances/{id}/usage/stream"));
    assert_eq!(stream.head.status, 200);
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.head.header("cache-control"), Some("no-store"));
    stream
}

/// Returns the next event with a sample; a busy machine has pings between them.
fn next_usage(stream: &mut EventStream) -> String {
    std::iter::repeat_with(|| stream.next_raw_event()).find(|event| event.starts_with("event: usage\n")).unwrap()
}

/// Splits `event: usage`, `id: <boot>-<sequence>`, `data: …` into the boot, the sequence and the data.
fn parse_usage(event: &str) -> (String, u64, serde_json::Value) {
    let rest = event.strip_prefix("event: usage\nid: ").unwrap_or_else(|| panic!("{event:?}"));
    let (id, data) = rest.strip_suffix("\n\n").unwrap().split_once("\ndata: ").unwrap();
    let (boot, sequence) = id.split_once('-').unwrap();
    (boot.to_owned(), sequence.parse().unwrap(), serde_json::from_str(data).unwrap())
}

#[test]
fn a_stream_begins_with_the_latest_sample_and_its_event_ids_ascend() {
    let host = host();
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    let mut stream = open(&host, "ok");
    assert_eq!(stream.next_raw_event(), "retry: 3000\n\n");
    let events: Vec<_> = (0..4).map(|_| parse_usage(&next_usage(&mut stream))).collect();
    assert!(events.windows(2).all(|pair| pair[0].1 < pair[1].1 && pair[0].0 == pair[1].0), "{events:?}");
    assert!(events.iter().all(|(_, _, data)| data["value"] == 1 && data["at"].is_string()));
    let times: Vec<_> = events.iter().map(|(_, _, data)| time(&data["at"])).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
}

#[test]
fn a_stream_of_an_instance_without_samples_sends_pings() {
    let host = host();
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    for id in ["unavailable", "not-there-yet"] {
        let mut stream = open(&host, id);
        assert_eq!(stream.next_raw_event(), "retry: 3000\n\n");
        if id == "not-there-yet" {
            assert_eq!(stream.next_raw_event(), ": no instance \"not-there-yet\" yet; waiting for it\n\n");
        }
        assert_eq!(stream.next_raw_event(), ": ping\n\n");
        assert_eq!(stream.next_raw_event(), ": ping\n\n");
    }
}

#[test]
fn a_stream_names_the_unknown_instances_and_labels_it_waits_for() {
    let host = host();
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    let mut stream = host.stream("/v1/stream?instance=ok&instance=hosst&instance=wbe-1");
    assert_eq!(stream.next_raw_event(), "retry: 3000\n\n");
    let waits = ": no instance \"hosst\" yet; waiting for it\n: no instance \"wbe-1\" yet; waiting for it\n\n";
    assert_eq!(stream.next_raw_event(), waits);
    assert_eq!(stream.next_event().2["instance"], "ok");
    for (path, waits) in [
        ("/v1/workloads/nope/usage/stream", ": no instance of the workload \"nope\" yet; waiting for one\n\n"),
        ("/v1/stream?label=workload%3Dnope", ": no instance has these labels yet; waiting for one\n\n"),
    ] {
        let mut stream = host.stream(path);
        assert_eq!(
            (stream.next_raw_event(), stream.next_raw_event()),
            ("retry: 3000\n\n".to_owned(), waits.to_owned()),
            "{path}"
        );
    }
}

#[test]
fn two_streams_of_one_instance_receive_the_same_bytes() {
    let host = host();
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    let (mut one, mut two) = (open(&host, "ok"), open(&host, "ok"));
    // The first each gets may be the latest from before the other came.
    next_usage(&mut one);
    let last = (0..5).map(|_| next_usage(&mut one)).collect::<Vec<_>>();
    let mut of_two = vec![next_usage(&mut two)];
    let sequence = |events: &[String]| parse_usage(events.last().unwrap()).1;
    while sequence(&of_two) < sequence(&last) {
        of_two.push(next_usage(&mut two));
    }
    let (first, rest) = last.split_first().unwrap();
    assert!(of_two.ends_with(rest), "{first:?} {rest:?} {of_two:?}");
}

#[test]
fn streams_beyond_the_limit_get_503() {
    let config = "stream.max_streams = 1\n";
    let host = Host::start(config, &[]);
    let first = open(&host, "host");
    let refused = host.get("/v1/instances/host/usage/stream");
    assert_eq!(refused.status, 503, "{refused:?}");
    drop(first);
    host.until("/metrics", |metrics| metrics.body.contains("dropsonde_sessions_active 0\n"));
}

/// Starts a host whose instance `count` has samples that are each one more than the last.
fn host_with_counter() -> Host {
    let config = "poll.interval = '100ms'\n[[instances]]\nid = 'count'\nsamplers = ['verbs']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    host.until("/v1/instances/count/usage", |usage| usage.status == 200);
    host
}

#[test]
fn a_resumed_stream_continues_with_exactly_the_missed_samples() {
    let host = host_with_counter();
    let path = "/v1/instances/count/usage/stream";
    let (_, mut seen, first) = host.stream(path).next_event();
    let mut count = first["value"].as_u64().unwrap();
    for round in 0..6 {
        // Others are published meanwhile, as another reader sees.
        let mut other = host.stream(path);
        (0..round % 3 + 1).for_each(|_| drop(other.next_event()));
        let mut stream = host.stream_after(path, &seen);
        for _ in 0..round + 1 {
            let (what, id, sample) = stream.next_event();
            count += 1;
            assert_eq!((&*what, sample["value"].as_u64()), ("usage", Some(count)), "in round {round}");
            seen = id;
        }
    }
}

#[test]
fn a_stream_resumed_too_late_begins_with_a_reset_event() {
    let config = "poll.interval = '100ms'\nstream.watch_buffer = 2\n\
                  [[instances]]\nid = 'count'\nsamplers = ['verbs']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    let path = "/v1/instances/count/usage/stream";
    let mut stream = host.stream(path);
    let (_, seen, sample) = stream.next_event();
    // The bundled sampler has some, too, which count.
    let missed = |sample: &serde_json::Value, now: &serde_json::Value| {
        now["value"].as_u64().unwrap() - sample["value"].as_u64().unwrap()
    };
    while missed(&sample, &stream.next_event().2) < 40 {}
    for seen in [&*seen, "7b-1", "nonsense", "%FF"] {
        let mut stream = host.stream_after(path, seen);
        let (what, id, data) = stream.next_event();
        assert_eq!((&*what, &*id), ("reset", ""), "{seen}: {data}");
        assert!(time(&data["from"]) <= time(&sample["at"]), "{seen}: {data} {sample}");
        assert_eq!(stream.next_event().0, "usage", "then the latest");
    }
}

#[test]
fn a_stream_resumed_after_a_restart_begins_with_a_reset_event() {
    let host = host_with_counter();
    let (_, seen, sample) = host.stream("/v1/instances/count/usage/stream").next_event();
    let host = host.restart();
    let (what, _, data) = host.stream_after("/v1/instances/count/usage/stream", &seen).next_event();
    assert_eq!(what, "reset");
    assert!(time(&data["from"]) <= time(&sample["at"]), "{data} {sample}");
}

#[test]
fn one_stream_carries_many_instances_including_those_added_later() {
    let config = "poll.interval = '100ms'\n[[instances]]\nid = 'a'\nlabels = { k = 'v' }\n[[instances]]\nid = 'b'\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    for id in ["a", "b"] {
        host.until(&format!("/v1/instances/{id}/usage"), |usage| usage.status == 200);
    }
    let mut named = host.stream("/v1/stream?instance=a&instance=b&instance=later");
    let mut labelled = host.stream("/v1/stream?label=k%3Dv");
    let of = |stream: &mut EventStream, wanted: &str| {
        for _ in 0..1000 {
            let (what, id, data) = stream.next_event();
            assert!(what == "usage" && !id.is_empty() && data["sample"]["at"].is_string(), "{what} {id} {data}");
            if data["instance"] == wanted {
                return;
            }
        }
        panic!("nothing of {wanted}");
    };
    let firsts = [named.next_event().2["instance"].clone(), named.next_event().2["instance"].clone()];
    assert_eq!(firsts, ["a", "b"], "the latest of each");
    of(&mut labelled, "a");
    host.send_as_writer("PUT", "/v1/instances/later", r#"{"labels":{"k":"v"}}"#);
    of(&mut named, "later");
    of(&mut labelled, "later");
    // Of whom another label is known now, nothing comes any more.
    host.send_as_writer("PUT", "/v1/instances/later", r#"{"labels":{"k":"w"}}"#);
    host.send_as_writer("DELETE", "/v1/instances/a", "");
    let told = std::iter::repeat_with(|| named.next_event()).find(|(what, ..)| what != "usage").unwrap();
    assert_eq!((&*told.0, &told.2["instance"]), ("untracked", &serde_json::json!("a")));
    of(&mut named, "b");
    std::iter::repeat_with(|| labelled.next_event()).find(|(what, ..)| what == "untracked").unwrap();
    assert_eq!(host.get("/v1/stream?label=novalue").status, 400);
}

/// Reads from a socket until the text is enough.
fn read_until(socket: &mut TcpStream, is_enough: impl Fn(&str) -> bool) -> String {
    let (mut text, mut piece) = (String::new(), vec![0; 64 << 10]);
    while !is_enough(&text) {
        let count = socket.read(&mut piece).unwrap();
        assert!(count > 0, "it ended: {text}");
        text.push_str(std::str::from_utf8(&piece[..count]).unwrap());
    }
    text
}

/// Opens a stream of all instances on a socket with a small receive buffer, and reads nothing.
fn open_slow_reader(host: &Host, version: &str) -> TcpStream {
    let mut socket = connect_from(Ipv4Addr::new(127, 0, 0, 2), &host.address);
    write!(socket, "GET /v1/stream?label=slow%3D1 {version}\r\nHost: {}\r\n\r\n", host.address).unwrap();
    socket
}

fn host_with_500_instances(stalled: &str) -> Host {
    host_with_500_instances_and_options(&format!("watch_buffer = 1\nstalled = '{stalled}'\n"))
}

/// Starts a host with 500 instances. `stream`: keys of `[stream]`.
fn host_with_500_instances_and_options(stream: &str) -> Host {
    let config = format!(
        "poll.interval = '100ms'\npoll.default_samplers = ['verbs']\n[plugins.procfs]\ninterval = '1h'\n[stream]\n{stream}"
    );
    let host = Host::start(&config, &[("verbs", verbs())]);
    let event = |nth| serde_json::json!({ "type": "instance.created", "instance": format!("i-{nth:03}"), "labels": { "slow": "1" } });
    let events: Vec<_> = (0..500).map(event).collect();
    host.send_as_writer("POST", "/v1/events", &serde_json::json!(events).to_string());
    host.until("/v1/instances/i-499/usage", |usage| usage.status == 200);
    host
}

#[test]
fn a_slow_reader_skips_to_the_newest_samples_is_told_how_many_it_lost_and_delays_no_other() {
    assert_slow_reader_skips_to_newest("HTTP/1.1");
}

#[test]
fn a_slow_http_1_0_reader_skips_to_the_newest_samples_and_is_told_how_many_it_lost() {
    assert_slow_reader_skips_to_newest("HTTP/1.0");
}

fn assert_slow_reader_skips_to_newest(version: &str) {
    let host = host_with_500_instances("1h");
    let mut socket = open_slow_reader(&host, version);
    let lost = "dropsonde_samples_dropped_total{reason=\"slow_reader\"}";
    let dropped = |metrics: &str| {
        let line = metrics.lines().find(|line| line.starts_with(lost)).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    host.until("/metrics", |metrics| dropped(&metrics.body) > 100.0);
    let mut quick = host.stream("/v1/stream?instance=i-000&instance=i-499");
    (0..6).for_each(|_| assert_eq!(quick.next_event().0, "usage"));
    // It begins to take more: in order, and between two samples as many are missing as it is told.
    let text = read_until(&mut socket, |text| {
        text.split_once("event: lagged").is_some_and(|(_, after)| after.matches("\n\n").count() > 1500)
    });
    let (before, after) = text.split_once("event: lagged").unwrap();
    let sequences = |text: &str| -> Vec<u64> {
        let ids = text.split("id: ").skip(1).filter_map(|id| id.lines().next()?.split('-').nth(1)?.parse().ok());
        ids.collect()
    };
    let told: u64 = after.split("\"lost\":").nth(1).unwrap().split('}').next().unwrap().parse().unwrap();
    let (last, next) = (*sequences(before).last().unwrap(), sequences(after)[0]);
    assert!(told > 100 && next > last + told, "{told} between {last} and {next}");
    // All but what it was to begin with, the latest of each instance at that time, and is out of date by now.
    assert!(next - last - 1 - told < 510, "{told} between {last} and {next}");
    // If an instance has a newer sample by the time its latest would be written, that one comes in the next round.
    let instances = after.split("{\"instance\":\"").skip(1).filter_map(|event| event.split('"').next()).take(1500);
    assert_eq!(instances.collect::<std::collections::BTreeSet<_>>().len(), 500);
    let ids = sequences(before);
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
}

#[test]
fn unread_streams_of_one_peer_use_little_memory_and_cost_another_peer_no_sample() {
    let host = host_with_500_instances_and_options("stalled = '1h'\nmax_buffer_bytes = '1MiB'\n");
    let mut modest = host.stream("/v1/stream?label=slow%3D1");
    let before_kb = host.memory_kb();
    let greedy: Vec<_> = (0..200).map(|_| open_slow_reader(&host, "HTTP/1.1")).collect();
    let open = format!("dropsonde_sessions_active {}\n", greedy.len() + 1);
    host.until("/metrics", |metrics| metrics.body.contains(&open));
    let (mut seen, mut rounds) = (0, std::collections::BTreeMap::<String, u32>::new());
    while rounds.values().min().is_none_or(|least| *least < 30) || rounds.len() < 500 {
        let (what, event, data) = modest.next_event();
        assert_eq!(what, "usage", "{data}");
        let sequence: u64 = event.split_once('-').unwrap().1.parse().unwrap();
        assert!(sequence > seen);
        seen = sequence;
        *rounds.entry(data["instance"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let each_kb = host.memory_kb().saturating_sub(before_kb) / greedy.len() as u64;
    assert!(each_kb < 100, "{each_kb} KiB for each");
}

#[test]
fn an_unread_stream_is_cut_off_and_no_longer_counted() {
    let host = host_with_500_instances("200ms");
    let mut socket = wait_until_cut_off(&host, "HTTP/1.1");
    let mut rest = Vec::new();
    let ended = socket.read_to_end(&mut rest);
    assert!(ended.is_err() || !rest.ends_with(b"0\r\n\r\n"), "its stream did not end properly");
}

#[test]
fn an_unread_http_1_0_stream_is_cut_off_and_no_longer_counted() {
    wait_until_cut_off(&host_with_500_instances("200ms"), "HTTP/1.0");
}

fn wait_until_cut_off(host: &Host, version: &str) -> TcpStream {
    let socket = open_slow_reader(host, version);
    let begun = "dropsonde_http_requests_total{route=\"/v1/stream\",status=\"2xx\"} 1\n";
    host.until("/metrics", |metrics| metrics.body.contains(begun));
    host.until("/metrics", |metrics| metrics.body.contains("dropsonde_sessions_active 0\n"));
    socket
}

#[test]
fn a_thousand_streams_of_one_instance_receive_the_same_samples() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let host = host_with_counter();
    let mut streams: Vec<_> = (0..1000).map(|_| open(&host, "count")).collect();
    host.until("/metrics", |metrics| metrics.body.contains("dropsonde_sessions_active 1000\n"));
    // All are there now: from here on each sees each.
    let from = host.get("/v1/instances/count/usage").json()["value"].as_u64().unwrap() + 1;
    let expected: Vec<u64> = (from..from + 5).collect();
    for stream in &mut streams {
        let counts = std::iter::repeat_with(|| stream.next_sample()["value"].as_u64().unwrap());
        let seen: Vec<u64> = counts.skip_while(|count| *count < from).take(5).collect();
        assert_eq!(seen, expected);
    }
    drop(streams);
    host.until("/metrics", |metrics| metrics.body.contains("dropsonde_sessions_active 0\n"));
}

#[test]
fn an_http_1_0_client_gets_its_stream_without_chunks_and_a_head_request_gets_no_body() {
    let host = host_with_counter();
    let mut socket = TcpStream::connect(&host.address).unwrap();
    write!(socket, "GET /v1/instances/count/usage/stream HTTP/1.0\r\n\r\n").unwrap();
    let text = read_until(&mut socket, |text| text.matches("event: usage").count() >= 2);
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_lowercase().contains("chunked") && body.starts_with("retry: 3000\n\nevent: usage\n"), "{text}");
    let head = host.request("HEAD", "/v1/instances/count/usage/stream");
    assert_eq!((head.status, head.header("content-type"), &*head.body), (200, Some("text/event-stream"), ""));
    drop(socket);
    host.until("/metrics", |metrics| metrics.body.contains("dropsonde_sessions_active 0\n"));
}

#[test]
fn a_stream_may_be_the_last_of_several_pipelined_requests() {
    let host = host_with_counter();
    let mut socket = TcpStream::connect(&host.address).unwrap();
    let get = |path: &str| format!("GET /v1/instances/count/{path} HTTP/1.1\r\nHost: {}\r\n\r\n", host.address);
    let requests = [get("usage"), get("usage/range?range=10m"), get("usage/stream")];
    socket.write_all(requests.concat().as_bytes()).unwrap();
    let text = read_until(&mut socket, |text| text.matches("event: usage").count() >= 3);
    let answers: Vec<_> =
        text.split("HTTP/1.1 200 OK\r\n").skip(1).map(|all| all.split_once("\r\n\r\n").unwrap()).collect();
    assert_eq!(answers.len(), 3, "{text}");
    for (head, body) in &answers[..2] {
        assert!(
            head.contains(&format!("content-length: {}", body.len()))
                && serde_json::from_str::<serde_json::Value>(body).is_ok()
        );
    }
    assert!(
        answers[2].0.contains("transfer-encoding: chunked") && answers[2].1.starts_with("d\r\nretry: 3000\n\n\r\n")
    );
}

#[test]
fn streams_end_with_a_last_chunk_when_the_host_stops() {
    let mut host = host_with_counter();
    let mut stream = open(&host, "count");
    stream.next_sample();
    host.signal("TERM");
    while stream.next().is_some() {}
    assert_eq!(host.stop(), 0);
}
