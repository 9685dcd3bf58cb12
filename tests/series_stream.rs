//! Streams of series.

use crate::harness::{EventStream, Host, MadeServer};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Returns a server whose page counts how often it was read, while it works; and a host that scrapes it.
fn counting() -> (Arc<AtomicBool>, Host) {
    let (works, reads) = (Arc::new(AtomicBool::new(true)), AtomicU64::new(0));
    let is_up = works.clone();
    let server = MadeServer::start(move |_, _| {
        if !is_up.load(Relaxed) {
            return (503, String::new());
        }
        (200, format!("reads{{part=\"a\"}} {}\nother 1\n", reads.fetch_add(1, Relaxed)))
    });
    let config = format!(
        "poll.interval = '200ms'\n[plugins.procfs]\ninterval = '1h'\n\
         [[plugins.scrape.config.targets]]\nid = 'web'\nurl = '{}'\nkeep = 'all'\n",
        server.url("/")
    );
    let host = Host::start(&config, &[]);
    host.until("/v1/series?match[]=reads", |answer| answer.json().as_array().is_some_and(|all| !all.is_empty()));
    (works, host)
}

const READS: &str = "/v1/stream?match[]=reads";

/// Returns the id and the samples of an event.
fn samples(event: &str) -> (String, Vec<Value>) {
    let field =
        |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{event}"));
    assert_eq!(field("event: "), "samples");
    (field("id: ").to_owned(), serde_json::from_str(field("data: ")).unwrap())
}

/// Returns the next event that is no heartbeat: those come when a busy machine is late.
fn next_event(stream: &mut EventStream) -> String {
    std::iter::repeat_with(|| stream.next_raw_event()).find(|event| !event.starts_with(": ping")).unwrap()
}

/// Checks that samples follow each other: none is missing, none is there twice.
fn assert_consecutive(samples: &[Value]) {
    for pair in samples.windows(2) {
        assert!(pair[0]["at"].as_str() < pair[1]["at"].as_str(), "{pair:?}");
        assert_eq!(pair[0]["value"].as_f64().unwrap() + 1.0, pair[1]["value"].as_f64().unwrap(), "{pair:?}");
    }
}

#[test]
fn a_stream_of_series_has_each_sample_once_and_tells_that_a_series_has_ended() {
    let (works, host) = counting();
    let mut stream = host.stream(READS);
    assert_eq!(stream.head.header("content-type"), Some("text/event-stream"));
    assert_eq!(stream.next_raw_event(), "retry: 3000\n\n");
    let mut all = Vec::new();
    while all.len() < 6 {
        all.extend(samples(&next_event(&mut stream)).1);
    }
    assert_consecutive(&all);
    assert_eq!(all[0]["series"], "reads{id=\"web\",part=\"a\",sampler=\"scrape\"}");
    works.store(false, Relaxed);
    let end = loop {
        let (_, more) = samples(&next_event(&mut stream));
        if let Some(end) = more.into_iter().find(|sample| sample["value"].is_null()) {
            break end;
        }
    };
    assert_eq!(end["series"], all[0]["series"]);
}

#[test]
fn a_reader_of_series_that_was_away_gets_what_it_missed() {
    let (_works, host) = counting();
    let mut stream = host.stream(READS);
    stream.next_raw_event();
    let (id, seen) = samples(&next_event(&mut stream));
    drop(stream);
    let last = seen.last().unwrap()["value"].as_f64().unwrap();
    let newer = format!("/api/v1/query?query=reads%3E{}", last + 5.0);
    host.until(&newer, |answer| answer.json()["data"]["result"][0].is_object());
    let mut stream = host.stream_after(READS, &id);
    assert_eq!(stream.next_raw_event(), "retry: 3000\n\n");
    let (_, missed) = samples(&next_event(&mut stream));
    assert_consecutive(&missed);
    // What came at about the time of the last event can come again.
    assert!(missed[0]["value"].as_f64() <= Some(last + 1.0) && missed.len() > 5, "{last} {missed:?}");
    // One that was away for hours starts anew.
    let mut stream = host.stream_after(READS, "1000000000000");
    assert_eq!(stream.next_raw_event(), "retry: 3000\n\n");
    let reset = next_event(&mut stream);
    assert_eq!(reset, "event: reset\ndata: {\"from\":\"2001-09-09T01:46:40Z\"}\n\n");
    assert_eq!(samples(&next_event(&mut stream)).1.len(), 1);
}

#[test]
fn streams_of_series_end_when_the_host_stops_and_when_tokens_change() {
    let (_works, mut host) = counting();
    let ended = |mut stream: crate::harness::EventStream| while stream.next().is_some() {};
    let before = host.stream(READS);
    let half = host.folder().join("half.token");
    fs::write(&half, "an operator's own new token\n").unwrap();
    fs::set_permissions(&half, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(half, host.data().join("write.token")).unwrap();
    ended(before);
    let before = host.stream(READS);
    assert_eq!(host.stop(), 0);
    ended(before);
}

#[test]
fn wrong_requests_for_streams_of_series_are_refused() {
    let host = Host::start("", &[]);
    for (query, why) in [
        ("match[]=%7B", "match[]"),
        ("match[]=up&instance=host", "give either series or instances, not both"),
        ("match[]=up&fields=x", "fields"),
    ] {
        let answer = host.get(&format!("/v1/stream?{query}"));
        assert!(answer.status == 400 && answer.body.contains(why), "{query}: {} {}", answer.status, answer.body);
    }
}
