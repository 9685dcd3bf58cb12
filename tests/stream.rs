use crate::harness::{Host, Stream, verbs};

fn host() -> Host {
    let config = "poll.interval = '100ms'\nstream.heartbeat = '150ms'\n\
                  [[instances]]\nid = 'ok'\nsamplers = ['verbs']\n[[instances]]\nid = 'unavailable'\nsamplers = ['verbs']\n";
    Host::start(config, &[("verbs", verbs())])
}

fn open(host: &Host, id: &str) -> Stream {
    let stream = host.stream(&format!("/v1/instances/{id}/usage/stream"));
    assert_eq!(stream.head.status, 200);
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.head.header("cache-control"), Some("no-store"));
    stream
}

/// `event: usage`, `id: <boot>-<sequence>`, `data: …`: the boot, the sequence, the data.
fn parse(event: &str) -> (String, u64, serde_json::Value) {
    let rest = event.strip_prefix("event: usage\nid: ").unwrap_or_else(|| panic!("{event:?}"));
    let (id, data) = rest.strip_suffix("\n\n").unwrap().split_once("\ndata: ").unwrap();
    let (boot, sequence) = id.split_once('-').unwrap();
    (boot.to_owned(), sequence.parse().unwrap(), serde_json::from_str(data).unwrap())
}

#[test]
fn the_latest_sample_comes_at_once_and_ids_ascend_in_publish_order() {
    let host = host();
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    let mut stream = open(&host, "ok");
    assert_eq!(stream.event(), "retry: 3000\n\n");
    let events: Vec<_> = (0..4).map(|_| parse(&stream.event())).collect();
    assert!(events.windows(2).all(|pair| pair[0].1 < pair[1].1 && pair[0].0 == pair[1].0), "{events:?}");
    assert!(events.iter().all(|(_, _, data)| data["value"] == 1 && data["at"].is_string()));
    let times: Vec<_> = events.iter().map(|(_, _, data)| data["at"].as_str().unwrap().to_owned()).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
}

#[test]
fn what_has_no_samples_is_waited_for_with_pings() {
    let host = host();
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    for id in ["unavailable", "not-there-yet"] {
        let mut stream = open(&host, id);
        assert_eq!(stream.event(), "retry: 3000\n\n");
        assert_eq!(stream.event(), ": ping\n\n");
        assert_eq!(stream.event(), ": ping\n\n");
    }
}

#[test]
fn everyone_who_watches_sees_the_same_bytes() {
    let host = host();
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    let (mut one, mut two) = (open(&host, "ok"), open(&host, "ok"));
    let usage = |stream: &mut Stream| loop {
        let event = stream.event();
        if event.starts_with("event: usage\n") {
            break event;
        }
    };
    // The first each gets may be the latest from before the other came.
    usage(&mut one);
    let last = (0..5).map(|_| usage(&mut one)).collect::<Vec<_>>();
    let mut of_two = vec![usage(&mut two)];
    let sequence = |events: &[String]| parse(events.last().unwrap()).1;
    while sequence(&of_two) < sequence(&last) {
        of_two.push(usage(&mut two));
    }
    let (first, rest) = last.split_first().unwrap();
    assert!(of_two.ends_with(rest), "{first:?} {rest:?} {of_two:?}");
}

#[test]
fn no_more_streams_than_allowed() {
    let config = "stream.max_streams = 1\n";
    let host = Host::start(config, &[]);
    let first = open(&host, "host");
    let refused = host.get("/v1/instances/host/usage/stream");
    assert_eq!(refused.status, 503, "{refused:?}");
    drop(first);
    host.until("/metrics", |metrics| metrics.body.contains("dropsonde_sessions_active 0\n"));
}
