use crate::harness::{Host, Response, verbs};
use serde_json::{Value, json};

/// Starts a host with the tests' guest, which knows every instance, whatever its name.
fn host() -> Host {
    Host::start("poll.interval = '100ms'\n", &[("verbs", verbs())])
}

/// Returns the state of each instance; `-` if there is none.
fn instance_states(host: &Host, ids: &[&str]) -> Vec<String> {
    let state = |id: &&str| match host.get(&format!("/v1/instances/{id}")) {
        Response { status: 404, .. } => "-".to_owned(),
        page => page.json()["state"].as_str().unwrap().to_owned(),
    };
    ids.iter().map(state).collect()
}

fn is_there(answer: &Response) -> bool {
    answer.status == 200
}

fn samples_of(host: &Host, id: &str) -> Vec<Value> {
    let path = format!("/v1/instances/{id}/usage/range?resolution=100ms&range=10m");
    host.get(&path).json().as_array().unwrap().clone()
}

#[test]
fn putting_an_instance_again_keeps_it_tracked_and_put_without_labels_clears_them() {
    let host = host();
    let body = r#"{"labels":{"workload":"web"},"samplers":["verbs"]}"#;
    for _ in 0..3 {
        let answer = host.send_as_writer("PUT", "/v1/instances/web-1", body);
        assert_eq!(
            (answer.status, &answer.json()["id"], &answer.json()["state"]),
            (200, &json!("web-1"), &json!("tracked"))
        );
    }
    host.until("/v1/instances/web-1/usage", is_there);
    let page = host.get("/v1/instances/web-1").json();
    assert_eq!((&page["labels"], &page["samplers"]), (&json!({ "workload": "web" }), &json!(["verbs"])));
    assert_eq!(host.get("/v1/instances?label=workload%3Dweb").json().as_array().unwrap().len(), 1);
    // Without a word of labels, there are none.
    host.send_as_writer("PUT", "/v1/instances/web-1", "");
    assert_eq!(host.get("/v1/instances/web-1").json()["labels"], json!({}));
}

#[test]
fn an_untracked_instance_loses_its_history_ends_its_streams_and_comes_back_empty() {
    let host = host();
    host.send_as_writer("PUT", "/v1/instances/x", "");
    host.until("/v1/instances/x/usage", is_there);
    let mut stream = host.stream("/v1/instances/x/usage/stream");
    assert_eq!(stream.next_event().0, "usage");
    let time = |at: &Value| at.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let before = time(&host.get("/v1/instances/x/usage").json()["at"]);
    for _ in 0..2 {
        assert_eq!(host.send_as_writer("DELETE", "/v1/instances/x", "").status, 204);
    }
    let last = std::iter::repeat_with(|| stream.next_event()).find(|(what, ..)| what != "usage").unwrap();
    assert_eq!((&*last.0, &last.2), ("untracked", &json!({ "instance": "x" })));
    assert_eq!(stream.next(), None, "and it ends");
    assert_eq!(host.get("/v1/instances/x/usage").status, 404);
    assert_eq!(host.get("/v1/instances/x").status, 404);
    assert_eq!(samples_of(&host, "x"), Vec::<Value>::new());

    let mut waiting = host.stream("/v1/instances/x/usage/stream");
    host.send_as_writer("PUT", "/v1/instances/x", "");
    assert_eq!(waiting.next_event().0, "usage", "who waits for it hears of the next one");
    let all = samples_of(&host, "x");
    // A bucket begins before what is in it.
    let length = jiff::SignedDuration::from_millis(100);
    assert!(all.iter().all(|sample| time(&sample["at"]) + length > before), "{before} {all:?}");
}

#[test]
fn discovery_does_not_restore_an_untracked_instance_until_it_is_created_again() {
    let config = "poll.interval = '100ms'\npoll.discover_interval = '1s'\n\
                  [plugins.verbs.config]\ndiscover = ['a', 'b']\n[[instances]]\nid = 'named'\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    host.until("/v1/instances/b/usage", is_there);
    host.send_as_writer("DELETE", "/v1/instances/b", "");
    host.send_as_writer("DELETE", "/v1/instances/named", "");
    // Then what there is is asked again, before it is read.
    let host = host.restart();
    host.until("/v1/instances/a/usage", is_there);
    assert_eq!(instance_states(&host, &["a", "b", "named"]), ["tracked", "-", "-"]);
    host.until_logged("the configuration names an instance that was untracked");
    host.send_lifecycle_event("created", "b");
    host.until("/v1/instances/b/usage", is_there);
}

#[test]
fn a_paused_instance_keeps_its_history_across_a_restart_and_continues_when_unsuspended() {
    let host = host();
    host.send_lifecycle_event("created", "x");
    host.until("/v1/instances/x/usage", is_there);
    host.send_lifecycle_event("suspended", "x");
    let (paused, samples) = (host.get("/v1/instances/x/usage").body, samples_of(&host, "x"));
    // Another is polled twice meanwhile.
    host.send_lifecycle_event("created", "y");
    let mut stream = host.stream("/v1/instances/y/usage/stream");
    (0..3).for_each(|_| drop(stream.next_event()));
    assert_eq!(instance_states(&host, &["x", "y"]), ["paused", "tracked"]);
    assert_eq!((host.get("/v1/instances/x/usage").body, samples_of(&host, "x")), (paused.clone(), samples.clone()));
    let host = host.restart();
    host.until("/ready", is_there);
    assert_eq!(instance_states(&host, &["x"]), ["paused"]);
    let mut stream = host.stream("/v1/instances/x/usage/stream");
    assert_eq!(stream.next_event().2, host.get("/v1/instances/x/usage").json(), "the latest there is");
    assert_eq!(host.get("/v1/instances/x/usage").body, paused);
    host.send_lifecycle_event("unsuspended", "x");
    assert_eq!(stream.next_event().0, "usage");
}

#[test]
fn a_list_of_lifecycle_events_is_applied_as_a_whole_or_not_at_all() {
    let host = host();
    let list = r#"[{"type":"instance.created","instance":"a"},{"type":"instance.started","instance":"b","labels":{"k":"v"}},
                   {"type":"instance.stopped","instance":"b"},{"type":"instance.deleted","instance":"a"},
                   {"type":"instance.stopped","instance":"nobody"}]"#;
    let answer = host.send_as_writer("POST", "/v1/events", list);
    assert_eq!((answer.status, answer.json()), (202, json!({ "accepted": 5 })));
    assert_eq!(instance_states(&host, &["a", "b", "nobody"]), ["-", "paused", "-"]);
    let wrong = r#"[{"type":"instance.created","instance":"c"},{"type":"instance.created","instance":"c/d"}]"#;
    let answer = host.send_as_writer("POST", "/v1/events", wrong);
    assert_eq!((answer.status, &answer.json()["code"]), (400, &json!(400)));
    assert!(answer.body.contains("event 2 of 2: "), "{}", answer.body);
    assert_eq!(host.get("/v1/instances/c").status, 404);
}

#[test]
fn changing_instances_requires_the_write_token() {
    let host = host();
    for (method, path) in [("PUT", "/v1/instances/x"), ("DELETE", "/v1/instances/x"), ("POST", "/v1/events")] {
        assert_eq!(host.request(method, path).status, 401, "{method} {path}");
        let wrong = "Authorization: Bearer wrong\r\n";
        assert_eq!(host.request_with(method, path, wrong).status, 401, "{method} {path}");
    }
    assert_eq!(instance_states(&host, &["x"]), ["-"]);
    assert_eq!(host.request("POST", "/v1/instances/x").status, 405);
    let allowed = host.request("POST", "/v1/instances/x").header("allow").unwrap().to_owned();
    assert!(["GET", "PUT", "DELETE"].iter().all(|method| allowed.contains(method)), "{allowed}");
}

#[test]
fn instance_ids_are_percent_decoded_and_unprintable_ones_get_400() {
    let host = host();
    let longest = "x".repeat(256);
    for (path, id) in
        [("b%C3%BCro%201", "büro 1"), ("a%2Bb", "a+b"), ("a+b", "a+b"), ("%25", "%"), (&longest, &longest)]
    {
        assert_eq!(host.send_as_writer("PUT", &format!("/v1/instances/{path}"), "").json()["id"], id, "{path}");
        assert_eq!(host.get(&format!("/v1/instances/{path}")).json()["id"], id);
        host.until(&format!("/v1/instances/{path}/usage"), is_there);
    }
    let long = "x".repeat(257);
    for path in ["a%2Fb", "%2E", "%2e%2e", "%00", "a%0Ab", "a%7F", "%FF", "%C3", "dropsonde%3Ax", &long] {
        let answer = host.send_as_writer("PUT", &format!("/v1/instances/{path}"), "");
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!(400)), "{path}");
        for more in ["/usage", "/usage/range", "/usage/stream"] {
            assert_eq!(host.get(&format!("/v1/instances/{path}{more}")).status, 400, "{path}{more}");
        }
    }
    for (method, path, body) in [
        ("PUT", "/v1/instances/x", "[]"),
        ("PUT", "/v1/instances/x", r#"{"sampler":["verbs"]}"#),
        ("PUT", "/v1/instances/x", r#"{"labels":{"le":"1"}}"#),
        ("PUT", "/v1/instances/x", r#"{"labels":{"a":1}}"#),
        ("POST", "/v1/events", "{"),
        ("POST", "/v1/events", ""),
        ("POST", "/v1/events", r#"{"type":"instance.exploded","instance":"x"}"#),
        ("POST", "/v1/events", r#"{"type":"instance.created"}"#),
    ] {
        assert_eq!(host.send_as_writer(method, path, body).status, 400, "{method} {path} {body}");
    }
    assert_eq!(host.get("/v1/instances/x").status, 404);
}

#[test]
fn a_hundred_thousand_instances_can_be_created_and_deleted() {
    // The bundled sampler, which would find some more, is told to be another.
    let pinned = format!("plugins.procfs.sha256 = '{:064}'\n", 0);
    let host = Host::start(&format!("{pinned}poll.default_samplers = []\npoll.max_instances = 100000\n"), &[]);
    for (what, left) in [("created", 100_000), ("deleted", 0)] {
        for part in 0..4 {
            let event = |nth| json!({ "type": format!("instance.{what}"), "instance": format!("i-{nth:06}") });
            let events: Vec<_> = (part * 25_000..(part + 1) * 25_000).map(event).collect();
            assert_eq!(host.send_as_writer("POST", "/v1/events", &json!(events).to_string()).status, 202);
        }
        let after = host.get("/v1/instances?limit=2&after=i-0").json();
        let expected = if left > 0 { json!(["i-000000", "i-000001"]) } else { json!([]) };
        let ids: Vec<_> = after.as_array().unwrap().iter().map(|one| one["id"].clone()).collect();
        assert_eq!(json!(ids), expected);
        if left > 0 {
            let one_more = host.send_as_writer("PUT", "/v1/instances/one-more", "");
            assert!(one_more.status == 429 && one_more.body.contains("poll.max_instances"), "{one_more:?}");
        }
    }
}

#[test]
fn tracked_and_deleted_instances_survive_a_restart() {
    let host = host();
    host.send_as_writer("PUT", "/v1/instances/asked", r#"{"labels":{"k":"v"},"samplers":["verbs"]}"#);
    host.send_as_writer("PUT", "/v1/instances/gone", "");
    host.send_lifecycle_event("deleted", "gone");
    let host = host.restart();
    host.until("/v1/instances/asked/usage", is_there);
    assert_eq!(host.get("/v1/instances/asked").json()["labels"], json!({ "k": "v" }));
    assert_eq!(instance_states(&host, &["gone"]), ["-"]);
}
