//! Samples that are sent to other servers: to a strict one of the tests' own, and to real ones.

use crate::harness::{
    Host, Measured, Prometheus, ReceiverState, Server, SettableWallClock, StrictReceiver, dropsonde, run, wait_until,
};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::process::Stdio;
use std::time::Duration;

/// Starts a host that scrapes and sends what it has. `more` are further keys of the server.
fn host(measured: &Measured, receiver: &StrictReceiver, more: &str) -> Host {
    Host::start(&config(measured, &receiver.url(), more), &[])
}

fn config(measured: &Measured, url: &str, more: &str) -> String {
    let remote = format!("[[remote_write]]\nname = 'far'\nurl = '{url}'\ninterval = '200ms'\n{more}\n");
    format!("metrics.history = true\n{}{remote}", measured.config())
}

/// Returns the samples of a series in history.
fn history(host: &Host, series: &str) -> Vec<(i64, f64)> {
    let query = percent_encoding::utf8_percent_encode(series, percent_encoding::NON_ALPHANUMERIC);
    let answer = host.get(&format!("/api/v1/query?query={query}%5B1d%5D")).json();
    let all = answer["data"]["result"].as_array().unwrap().clone();
    assert!(all.len() <= 1, "{all:?}");
    let values = all.first().map(|series| series["values"].as_array().unwrap().clone()).unwrap_or_default();
    let sample = |pair: &serde_json::Value| {
        ((pair[0].as_f64().unwrap() * 1000.0).round() as i64, pair[1].as_str().unwrap().parse().unwrap())
    };
    values.iter().map(sample).collect()
}

/// Asserts that what a server got of a series is what history has, from its first to its last sample.
fn assert_complete(host: &Host, state: &ReceiverState, series: &str, texts: &[&str]) {
    let got = state.values(texts);
    let (first, last) = (got.first().unwrap().0, got.last().unwrap().0);
    let kept: Vec<_> = history(host, series).into_iter().filter(|(at_ms, _)| (first..=last).contains(at_ms)).collect();
    assert_eq!(got, kept, "{series}");
}

fn has(state: &ReceiverState, texts: &[&str], count: usize) -> bool {
    state.values(texts).len() >= count
}

const COUNTER: &str = "# TYPE hits_total counter\nhits_total{page=\"/\"} 1\n";
const HITS: [&str; 1] = ["__name__=\"hits_total\""];

#[test]
fn a_server_gets_every_sample_in_order_with_the_labels_that_prometheus_gives_it() {
    for receiver in [StrictReceiver::start(), StrictReceiver::of_version_2()] {
        let measured = Measured::start(COUNTER);
        let host = host(&measured, &receiver, "version = '2.0'\nexternal_labels = { site = 'fra1', id = 'x' }");
        let state = receiver.until("there are no samples", |state| has(state, &HITS, 15));
        let labels = "{__name__=\"hits_total\",id=\"app\",instance=\"me\",job=\"dropsonde\",page=\"/\",";
        assert!(state.series.keys().any(|series| series.starts_with(labels)), "{:?}", state.series.keys());
        assert!(state.series.keys().all(|series| series.contains("site=\"fra1\"")), "{:?}", state.series.keys());
        assert_complete(&host, &state, "hits_total", &HITS);
        // The host's own metrics, too.
        assert!(!state.of(&["__name__=\"dropsonde_build_info\""]).is_empty());
        let is_v2 = state.headers.iter().any(|line| line == "x-prometheus-remote-write-version: 2.0.0");
        match is_v2 {
            true => assert_eq!(state.types.get("hits_total"), Some(&1), "{:?}", state.types),
            false => drop(host.until_logged("does not understand remote write 2.0")),
        }
    }
}

/// Returns the number of kills of a host at random moments: `DROPSONDE_KILLS=200` for a long run.
fn kills() -> u64 {
    std::env::var("DROPSONDE_KILLS").map_or(40, |count| count.parse().unwrap())
}

/// The most samples of a request in that test.
const AT_ONCE: usize = 50;

#[test]
fn nothing_is_lost_and_nothing_comes_in_another_order_through_kills_and_an_outage_of_hours() {
    let clock = SettableWallClock::at_real_time();
    let (measured, receiver) = (Measured::start(COUNTER), StrictReceiver::start());
    let config = config(&measured, &receiver.url(), &format!("max_samples = {AT_ONCE}\nshards = 1"));
    let mut host = Host::start_as(clock.dropsonde(), &config, &[]);
    receiver.wait_for("there are no samples", |state| has(state, &HITS, 1));
    let kills = kills();
    for round in 0..kills {
        match round {
            round if round == kills / 4 => receiver.answer(503, ""),
            // It is away for six hours.
            round if round == kills / 2 => clock.set(6 * 3_600_000),
            round if round == kills * 5 / 8 => receiver.accept(),
            _ => {}
        }
        // Any moment from the start on, up to a second.
        let moment = RandomState::new().hash_one(round) % 1000;
        std::thread::sleep(Duration::from_millis(moment));
        host = host.kill().start_again_as(clock.dropsonde());
    }
    let count = history(&host, "hits_total").len();
    host.until("/metrics", |_| history(&host, "hits_total").len() >= count + 5);
    let last_ms = history(&host, "hits_total").last().unwrap().0;
    let state = receiver.until("the last samples are missing", |state| {
        state.values(&HITS).last().is_some_and(|(at_ms, _)| *at_ms >= last_ms)
    });
    assert_complete(&host, &state, "hits_total", &HITS);
    assert!(state.again <= kills as usize * AT_ONCE, "{} samples came again", state.again);
}

#[test]
fn a_server_that_asks_for_patience_gets_it_and_one_that_refuses_a_request_gets_the_next() {
    let (measured, receiver) = (Measured::start(COUNTER), StrictReceiver::start());
    let host = host(&measured, &receiver, "");
    receiver.wait_for("there are no samples", |state| has(state, &HITS, 1));
    for (status, headers) in
        [(500, ""), (429, "Retry-After: 1\r\n"), (401, ""), (404, ""), (308, "Location: /x\r\n"), (1, "")]
    {
        let before = receiver.state().requests;
        receiver.answer(status, headers);
        receiver.wait_for("it is not asked again", |state| state.requests >= before + 2);
        receiver.accept();
        let count = receiver.state().values(&HITS).len();
        receiver.wait_for("it gets nothing more", |state| has(state, &HITS, count + 2));
    }
    let state = receiver.state();
    assert_complete(&host, &state, "hits_total", &HITS);
    assert_eq!(state.again, 0);
    drop(state);
    // Only such an answer is about the samples themselves.
    receiver.answer(400, "");
    let dropped = "dropsonde_remote_samples_dropped_total{destination=\"far\",reason=\"400\"}";
    host.until("/metrics", |metrics| metrics.body.contains(dropped));
    receiver.accept();
    let count = receiver.state().values(&HITS).len();
    receiver.wait_for("it gets nothing more", |state| has(state, &HITS, count + 2));
    host.until_logged("a server refuses samples for good");
}

#[test]
fn the_end_of_a_series_is_marked_once() {
    let measured = Measured::start("# TYPE a gauge\na 1\n# TYPE b gauge\nb 2\n");
    let receiver = StrictReceiver::start();
    let host = host(&measured, &receiver, "");
    let (a, b) = (["__name__=\"a\""], ["__name__=\"b\""]);
    receiver.wait_for("there are no samples", |state| has(state, &a, 2) && has(state, &b, 2));
    measured.set("# TYPE a gauge\na 1\n");
    let state = receiver.until("the end is not marked", |state| state.has_ended(&b));
    assert!(!state.has_ended(&a));
    drop(state);
    measured.set("# TYPE a gauge\na 1\n# TYPE b gauge\nb 3\n");
    receiver.wait_for("it does not go on", |state| !state.has_ended(&b));
    // An instance that is gone takes its history along.
    host.request_with("DELETE", "/v1/instances/app", &host.bearer("write"));
    receiver.wait_for("the end is not marked", |state| state.has_ended(&a) && state.has_ended(&b));
}

#[test]
fn an_operator_chooses_what_is_sent_under_which_labels_and_with_which_credentials() {
    let (measured, receiver) = (Measured::start(COUNTER), StrictReceiver::start());
    let host = host(
        &measured,
        &receiver,
        "bearer_token_file = '{}/token'\nrelabel = [\n\
         { action = 'keep', source_labels = ['__name__'], regex = 'hits_total|up' },\n\
         { source_labels = ['page'], regex = '/', target_label = 'page', replacement = 'root' },\n\
         { action = 'labeldrop', regex = 'job|sampler' }]\n[remote_write.headers]\nX-Scope-OrgID = 'shop'",
    );
    // The file is not there yet: that is waited for.
    host.until_logged("/token");
    fs::write(host.folder().join("token"), "secret\n").unwrap();
    let state = receiver.until("there are no samples", |state| has(state, &HITS, 2));
    assert!(state.series.contains_key("{__name__=\"hits_total\",id=\"app\",instance=\"me\",page=\"root\"}"));
    assert!(state.series.keys().all(|labels| labels.contains("hits_total") || labels.contains("\"up\"")));
    for line in ["authorization: Bearer secret", "x-scope-orgid: shop"] {
        assert!(state.headers.iter().any(|header| header == line), "{:?}", state.headers);
    }
}

#[test]
fn a_server_that_is_added_later_gets_history_from_the_time_that_the_configuration_names() {
    let (measured, receiver) = (Measured::start(COUNTER), StrictReceiver::start());
    let host = Host::start(&measured.config(), &[]);
    host.until("/metrics", |_| history(&host, "hits_total").len() >= 10);
    // Few series, because it gets them in very small requests.
    let few = "relabel = [{ action = 'keep', source_labels = ['__name__'], regex = 'hits_total|up' }]";
    host.reconfigure(&config(&measured, &receiver.url(), &format!("since = '1h'\nmax_samples = 3\n{few}")));
    let state = receiver.until("there are no samples", |state| has(state, &HITS, 12));
    let first = history(&host, "hits_total")[0].0;
    assert_eq!(state.values(&HITS)[0].0, first);
    assert_complete(&host, &state, "hits_total", &HITS);
    drop(state);
    // And it gets no more when the configuration names it no more.
    host.reconfigure(&measured.config());
    wait_until("its metrics stay", || !host.get("/metrics").body.contains("destination=\"far\""));
}

#[test]
fn metrics_and_health_say_how_far_a_server_is_behind() {
    let (measured, receiver) = (Measured::start(COUNTER), StrictReceiver::start());
    receiver.answer(503, "");
    let host = Host::start(&format!("store.retention = '1m'\n{}", config(&measured, &receiver.url(), "")), &[]);
    host.until("/metrics", |metrics| {
        metrics.body.contains("dropsonde_remote_circuit_breaker{destination=\"far\"} 1\n")
            && metrics.body.contains("dropsonde_remote_connected{destination=\"far\"} 0\n")
    });
    host.until("/health", |health| health.body.contains("half of the time for which history keeps them is over"));
    receiver.accept();
    host.until("/health", |health| !health.body.contains("far"));
    host.until("/metrics", |metrics| {
        metrics.body.contains("dropsonde_remote_circuit_breaker{destination=\"far\"} 0\n")
            && metrics.body.contains("dropsonde_remote_connected{destination=\"far\"} 1\n")
    });
    let metrics = host.get("/metrics").body;
    let lag = metrics.lines().find_map(|line| line.strip_prefix("dropsonde_remote_lag_seconds{destination=\"far\"} "));
    assert!(lag.unwrap().parse::<f64>().unwrap() < 60.0, "{lag:?}");
    let remote = &host.get("/v1/host").json()["remotes"][0];
    assert_eq!((&remote["name"], &remote["error"]), (&"far".into(), &serde_json::Value::Null), "{remote}");
    assert!(remote["samples"].as_u64().unwrap() > 0 && remote["lag_seconds"].as_f64().unwrap() < 60.0, "{remote}");
}

#[test]
fn victoria_metrics_and_prometheus_have_the_samples_of_history() {
    let measured = Measured::start(COUNTER);
    let (victoria, prometheus) = (Server::victoria_metrics(), Prometheus::receiving());
    let to =
        |name: &str, url: String| format!("[[remote_write]]\nname = '{name}'\nurl = '{url}'\ninterval = '200ms'\n");
    let both = [
        to("victoria", format!("http://{}/api/v1/write", victoria.address)),
        to("prometheus", format!("http://{}/api/v1/write", prometheus.address)),
    ];
    let host = Host::start(&format!("{}{}", measured.config(), both.concat()), &[]);
    host.until("/metrics", |_| history(&host, "hits_total").len() >= 10);
    let kept = history(&host, "hits_total");
    let samples = |json: serde_json::Value| -> Vec<(i64, f64)> {
        let values = json["data"]["result"][0]["values"].as_array().cloned().unwrap_or_default();
        let sample = |pair: &serde_json::Value| {
            ((pair[0].as_f64().unwrap() * 1000.0).round() as i64, pair[1].as_str().unwrap().parse().unwrap())
        };
        values.iter().map(sample).collect()
    };
    let path = "/api/v1/query?query=hits_total%5B1h%5D";
    for (name, ask) in [
        ("Prometheus", &(|| samples(prometheus.get(path))) as &dyn Fn() -> Vec<(i64, f64)>),
        ("VictoriaMetrics", &|| {
            let body =
                crate::harness::request(&victoria.address.to_string(), "GET", &format!("{path}&nocache=1"), "").body;
            samples(serde_json::from_str(&body).unwrap_or_default())
        }),
    ] {
        wait_until(name, || ask().last() >= kept.last());
        let (got, first) = (ask(), ask()[0].0);
        let expected: Vec<_> = kept.iter().filter(|(at_ms, _)| *at_ms >= first).copied().collect();
        assert_eq!(got[..expected.len()], expected, "{name}");
    }
}

/// Runs `store send` on a host's history. Returns the exit code and both outputs.
fn store_send(host: &Host, arguments: &[&str]) -> (i32, String, String) {
    let (data, config) = (host.folder().join("data"), host.folder().join("dropsonde.toml"));
    let mut command = dropsonde();
    command.args(["store", "send", "--data"]).arg(data).arg("--config").arg(config).args(arguments);
    run(&mut command)
}

#[test]
fn history_in_files_is_sent_once_also_beside_a_running_host() {
    let (measured, receiver) = (Measured::start(COUNTER), StrictReceiver::start());
    let host = Host::start(&measured.config(), &[]);
    host.until("/metrics", |_| history(&host, "hits_total").len() >= 20);
    let only = ["--to", &receiver.url(), "--match", "{__name__=~\"hits_total|up\"}"];
    let (code, out, errors) = store_send(&host, &only);
    assert_eq!(code, 0, "{out}{errors}");
    let state = receiver.until("there are no samples", |state| has(state, &HITS, 10));
    assert_complete(&host, &state, "hits_total", &HITS);
    assert!(state.series.keys().all(|labels| labels.contains("hits_total") || labels.contains("\"up\"")));
    let count = state.series.values().map(Vec::len).sum::<usize>();
    assert!(out.starts_with(&format!("sent {count} samples in ")), "{out}");
}

#[test]
fn history_that_could_not_be_sent_is_sent_by_the_same_command() {
    let (measured, receiver) = (Measured::start(COUNTER), StrictReceiver::start());
    let host = Host::start(&measured.config(), &[]);
    host.until("/metrics", |_| history(&host, "hits_total").len() >= 20);
    let expected = history(&host, "hits_total");
    let host = host.kill();
    receiver.answer(503, "");
    let url = receiver.url();
    let mut command = dropsonde();
    command.args(["store", "send", "--to", &url, "--data"]).arg(host.folder().join("data"));
    let mut sending = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    receiver.wait_for("it does not ask", |state| state.requests >= 2);
    sending.kill().unwrap();
    sending.wait().unwrap();
    receiver.accept();
    let (code, out, errors) = store_send(&host, &["--to", &url]);
    assert_eq!(code, 0, "{out}{errors}");
    let got = receiver.state().values(&HITS);
    // The rows of the last second were not on disk yet.
    assert!(got.len() + 10 >= expected.len(), "{got:?}");
    assert!(got.iter().zip(&expected).all(|(got, expected)| got == expected), "{got:?} {expected:?}");
    let (code, out, _) = store_send(&host, &["--to", &url]);
    assert!(code == 0 && out.contains("everything was sent before; --again sends it again"), "{out}");
    let (code, ..) = store_send(&host, &["--to", &url, "--again"]);
    let state = receiver.state();
    assert_eq!((code, state.again, state.broken.len()), (0, state.series.values().map(Vec::len).sum(), 0));
    drop(state);
    for (arguments, said) in [
        (vec!["--to", "h:9"], "--to h:9: url: must be a URL"),
        (vec!["--to", &url, "--since", "soon"], "--since: \"soon\" is no time"),
        (vec!["--to", &url, "--match", "{"], "--match \"{\" is no selector"),
        (vec!["--to", &url, "--match", "nothing"], "no series in"),
    ] {
        let (code, _, errors) = store_send(&host, &arguments);
        assert!(code == 1 && errors.contains(said), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_clock_that_is_set_ahead_and_back_puts_nothing_into_another_order() {
    let clock = SettableWallClock::at_real_time();
    let (measured, receiver) = (Measured::start(COUNTER), StrictReceiver::start());
    let host = Host::start_as(clock.dropsonde(), &config(&measured, &receiver.url(), ""), &[]);
    receiver.wait_for("there are no samples", |state| has(state, &HITS, 3));
    receiver.state().refuses_future = true;
    clock.set(2 * 3_600_000);
    let dropped = "dropsonde_remote_samples_dropped_total{destination=\"far\",reason=\"400\"}";
    host.until("/metrics", |metrics| metrics.body.contains(dropped));
    clock.set(0);
    let count = receiver.state().values(&HITS).len();
    receiver.wait_for("it does not go on", |state| has(state, &HITS, count + 3));
    host.until_logged("samples are sent from its time on");
    // Nothing is sent until a clock that was set back by little has caught up.
    clock.set(-20_000);
    host.until_logged("direction=\"back\"");
    clock.set(2_000);
    let count = receiver.state().values(&HITS).len();
    receiver.wait_for("it does not go on", |state| has(state, &HITS, count + 3));
}
