use crate::harness::{Host, SettableWallClock, run, verbs};
use std::time::Duration;

const EVERY_100_MS: &str = "poll.interval = '100ms'\n[[instances]]\nid = 'ok'\nsamplers = ['verbs']\n";

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const YEAR_MS: i64 = 365 * DAY_MS;

/// Returns the times of all samples that `store export` finds.
fn exported_times(host: &Host) -> Vec<String> {
    let mut command = crate::harness::dropsonde();
    command.args(["store", "export", "--format", "csv", "--instance", "ok", "--data"]).arg(host.data());
    let (code, out, errors) = run(&mut command);
    assert_eq!(code, 0, "{errors}");
    out.lines().skip(1).map(|line| line.split(',').next().unwrap().to_owned()).collect()
}

/// Returns the times of the samples within a minute of a time, in buckets of 100 ms.
fn sample_times_around(host: &Host, now_ms: i64) -> Vec<String> {
    let (since, until) = ((now_ms - 60_000) / 1000, (now_ms + 60_000) / 1000);
    let path = format!("/v1/instances/ok/usage/range?since={since}&until={until}&resolution=100ms");
    let range = host.get(&path).json();
    range.as_array().unwrap().iter().map(|sample| sample["at"].as_str().unwrap().to_owned()).collect()
}

fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Waits until `more` further samples were published.
fn until_published(host: &Host, more: u64) {
    let published = |metrics: &str| {
        let line =
            metrics.lines().find(|line| line.starts_with("dropsonde_messages_published_total{service=\"verbs\""));
        line.and_then(|line| line.split(' ').next_back()?.parse::<f64>().ok()).unwrap_or(0.0) as u64
    };
    let before = published(&host.get("/metrics").body);
    host.until("/metrics", |metrics| published(&metrics.body) >= before + more);
}

/// Starts with a wrong clock and sets it right: samples recorded by either clock are there in the end.
fn no_sample_is_lost_after_a_start_with_the_clock_off_by(ms: i64) {
    let clock = SettableWallClock::at_real_time();
    let mut host = Host::start_as(clock.dropsonde(), EVERY_100_MS, &[("verbs", verbs())]);
    until_published(&host, 5);
    let right = sample_times_around(&host, now_ms());
    assert!(right.len() >= 3);

    host.stop();
    clock.set(ms);
    let mut host = host.start_again_as(clock.dropsonde());
    until_published(&host, 5);
    let (wrong_ms, before) = (now_ms() + ms, sample_times_around(&host, now_ms() + ms));
    assert!(before.len() >= 3, "{before:?}");
    let latest = host.get("/v1/instances/ok/usage").json()["at"].as_str().unwrap().to_owned();
    assert!(before.iter().any(|at| at[..13] == latest[..13]), "the latest is what was read last: {latest}");

    // Right again, while it runs.
    clock.set(0);
    let jumps =
        ["back", "ahead"].map(|direction| format!("dropsonde_clock_jumps_total{{direction=\"{direction}\"}} 1"));
    host.until("/metrics", |metrics| jumps.iter().all(|jump| metrics.body.contains(jump)));
    until_published(&host, 5);
    let after = sample_times_around(&host, now_ms());
    assert!(right.iter().all(|at| after.contains(at)), "what was there before stays: {right:?} {after:?}");
    let wrong = sample_times_around(&host, wrong_ms);
    if ms < 0 {
        assert!(before.iter().all(|at| wrong.contains(at)), "{before:?} {wrong:?}");
    } else {
        assert!(wrong.is_empty() || ms < 60_000, "its time has not come: {wrong:?}");
    }
    let health = host.get("/health");
    assert_eq!(health.status, 200);
    let reasons = health.json()["reasons"].to_string();
    assert!(reasons.contains("the clock was set "), "{reasons}");
    host.stop();
    let all = exported_times(&host);
    for at in right.iter().chain(&before).chain(&after) {
        let at = at.trim_end_matches('Z');
        assert!(all.iter().any(|row| row.starts_with(at)), "{at} is gone: {all:?}");
    }
    let mut stats = crate::harness::dropsonde();
    let (_, out, _) = run(stats.args(["store", "stats", "--data"]).arg(host.data()));
    assert!(out.contains("clock was set"), "{out}");
    let mut verify = crate::harness::dropsonde();
    let (code, out, _) = run(verify.args(["store", "verify", "--data"]).arg(host.data()));
    assert!(code == 0 && out.contains("clock was set"), "{out}");
}

#[test]
fn no_sample_is_lost_after_a_start_with_the_clock_an_hour_behind() {
    no_sample_is_lost_after_a_start_with_the_clock_off_by(-HOUR_MS);
}

#[test]
fn no_sample_is_lost_after_a_start_with_the_clock_56_years_behind() {
    no_sample_is_lost_after_a_start_with_the_clock_off_by(-56 * YEAR_MS);
}

#[test]
fn no_sample_is_lost_after_a_start_with_the_clock_two_hours_ahead() {
    no_sample_is_lost_after_a_start_with_the_clock_off_by(2 * HOUR_MS);
}

#[test]
fn no_sample_is_lost_after_a_start_with_the_clock_ten_years_ahead() {
    no_sample_is_lost_after_a_start_with_the_clock_off_by(10 * YEAR_MS);
}

#[test]
fn a_stream_resumed_after_the_clock_was_set_back_begins_with_a_reset_to_the_first_missed_sample() {
    let clock = SettableWallClock::at_real_time();
    let mut host = Host::start_as(clock.dropsonde(), EVERY_100_MS, &[("verbs", verbs())]);
    until_published(&host, 3);
    let mut stream = host.stream("/v1/instances/ok/usage/stream");
    let (_, seen, _) = stream.next_event();
    drop(stream);
    host.stop();
    clock.set(-2 * HOUR_MS);
    let host = host.start_again_as(clock.dropsonde());
    until_published(&host, 3);
    let mut stream = host.stream_after("/v1/instances/ok/usage/stream", &seen);
    let (event, _, reset) = stream.next_event();
    assert_eq!(event, "reset");
    let from = reset["from"].as_str().unwrap().to_owned();
    let first = sample_times_around(&host, now_ms() - 2 * HOUR_MS)[0].clone();
    assert!(from <= first, "{from} is later than {first}");
}

#[test]
fn a_host_paused_by_sigstop_records_no_cpu_spike() {
    let config = "poll.interval = '200ms'\n[plugins.procfs.config]\ntop = 0\n";
    let host = Host::start(config, &[]);
    let path = "/v1/instances/host/usage/range?range=1m&resolution=20ms&fields=cpu_percent";
    let samples = |host: &Host| host.get(path).json().as_array().unwrap().len();
    host.until(path, |range| range.json().as_array().is_some_and(|samples| samples.len() >= 3));
    for stopped_ms in [1500, 700, 2300] {
        host.signal("STOP");
        std::thread::park_timeout(Duration::from_millis(stopped_ms));
        host.signal("CONT");
        let before = samples(&host);
        host.until(path, |range| range.json().as_array().is_some_and(|samples| samples.len() >= before + 3));
    }
    let range = host.get(path).json();
    let values: Vec<f64> =
        range.as_array().unwrap().iter().filter_map(|sample| sample["cpu_percent"].as_f64()).collect();
    assert!(values.iter().all(|percent| (0.0..=100.0).contains(percent)), "{values:?}");
}

#[test]
fn a_clock_before_1970_breaks_no_request_or_stream() {
    let clock = SettableWallClock::at_real_time();
    clock.set(-100 * YEAR_MS);
    let host = Host::start_as(clock.dropsonde(), EVERY_100_MS, &[("verbs", verbs())]);
    for _ in 0..20 {
        let health = host.get("/health");
        assert_eq!((health.status, health.header("date")), (200, Some("Thu, 01 Jan 1970 00:00:00 GMT")));
    }
    assert!(host.get("/v1/instances").status == 200 && host.get("/metrics").status == 200);
    let closed = host.get("/v1/instances/ok/usage/range?since=1700000000&until=1700003600");
    assert_eq!((closed.status, closed.body.as_str()), (200, "[]"));
    let login = crate::harness::request(&host.address, "POST", "/login", &host.bearer("write"));
    assert_eq!(login.status, 204, "{login:?}");
    let mut stream = host.stream("/v1/instances/ok/usage/stream");
    assert!(stream.next_sample()["at"].as_str().unwrap().starts_with("19"));
    assert!(!host.log().contains("panicked"), "{}", host.log());
}
