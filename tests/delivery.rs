//! Alerts that are sent elsewhere: to Debian's Alertmanager, and to webhooks that are slow, broken or away.

use crate::harness::{Host, Measured, Receiver, Server, TestProxy, TestServer, host_with_rules, wait_until};
use crate::servers::say_not_tested;
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

/// The last value counts for some seconds, so that a machine that is busy for so long ends no alert.
const RULES: &str = "groups:\n- name: g\n  interval: 200ms\n  rules:\n  - alert: Long\n    expr: last_over_time(queue[10s]) > 5\n    \
                     labels: {severity: page}\n    annotations: {summary: '{{ $labels.zone }} has {{ $value }}'}\n";

/// Starts a host with the rules above and a part of `[alerting]`.
fn host(measured: &Measured, alerting: &str) -> Host {
    host_with_rules(measured, RULES, alerting)
}

fn webhook(receiver: &Receiver, more: &str) -> String {
    let url = receiver.url("/hook");
    format!("[[alerting.webhooks]]\nname = 'ops'\nurl = '{url}'\ngroup_wait = 0\ngroup_interval = 0\n{more}\n")
}

/// Returns the state of each alert in a message, by the label `zone`.
fn states(message: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let alerts = message["alerts"].as_array().unwrap().iter();
    alerts.map(|alert| (text(&alert["labels"]["zone"]), text(&alert["status"]))).collect()
}

fn alerts_of(alertmanager: &Server) -> Vec<Value> {
    let body = crate::harness::request(&alertmanager.address.to_string(), "GET", "/api/v2/alerts", "").body;
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// Starts Debian's Alertmanager, which tells `receiver` of alerts; none where it cannot run.
fn alertmanager(receiver: &Receiver) -> Option<Server> {
    let config = format!(
        "route: {{ receiver: r, group_by: [alertname], group_wait: 100ms, group_interval: 200ms, repeat_interval: 1h }}\n\
         receivers: [{{ name: r, webhook_configs: [{{ url: '{}' }}] }}]\n",
        receiver.url("/am")
    );
    let started = Server::alertmanager_with(&config);
    if started.is_none() {
        say_not_tested("Alertmanager's templates cannot be mounted here");
    }
    started
}

#[test]
fn alertmanager_gets_each_alert_once_groups_it_and_hears_of_its_end() {
    let receiver = Receiver::start();
    let Some(alertmanager) = alertmanager(&receiver) else { return };
    let measured = Measured::start("queue{zone=\"a\"} 7\nqueue{zone=\"b\"} 8\n");
    let config = format!(
        "[alerting]\nalertmanagers = ['http://{}/']\nexternal_url = 'https://me.example/x/'\n\
         [alerting.external_labels]\nregion = 'eu'\nzone = 'ours'\n",
        alertmanager.address
    );
    let host = host(&measured, &config);
    let first = receiver.until_count(1)[0].json();
    assert_eq!(first["status"], "firing");
    let told = |messages: &[crate::harness::Received], zone: &str, state: &str| {
        messages.iter().filter(|message| states(&message.json()).contains(&(zone.to_owned(), state.to_owned()))).count()
    };
    receiver
        .until("both are told of", |messages| told(messages, "b", "firing") > 0 && told(messages, "a", "firing") > 0);
    let alerts = alerts_of(&alertmanager);
    assert_eq!(alerts.len(), 2, "{alerts:?}");
    let own = json!({ "alertname": "Long", "id": "app", "instance": "me", "job": "dropsonde", "region": "eu",
        "sampler": "scrape", "severity": "page", "zone": alerts[0]["labels"]["zone"] });
    assert_eq!(alerts[0]["labels"], own, "a label of the alert wins over one of the host");
    assert_eq!(
        alerts[0]["generatorURL"],
        "https://me.example/x/graph?g0.expr=last_over_time%28queue%5B10s%5D%29%20%3E%205&g0.tab=1"
    );
    // A firing alert ends by itself after four times the time between two sends.
    let at = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let left = at(&alerts[0]["endsAt"]).as_second() - at(&alerts[0]["updatedAt"]).as_second();
    assert!((235..=240).contains(&left), "{left}");
    measured.set("queue{zone=\"a\"} 1\nqueue{zone=\"b\"} 8\n");
    receiver.until("the end is not told of", |messages| told(messages, "a", "resolved") == 1);
    drop(host);
}

#[test]
fn alerts_survive_fifty_kills_at_random_moments_without_being_lost_or_resolved() {
    let (receiver, hook) = (Receiver::start(), Receiver::start());
    let alertmanager = alertmanager(&receiver);
    let measured = Measured::start("queue{zone=\"stays\"} 7\n");
    let of_alertmanager =
        alertmanager.as_ref().map(|server| format!("alertmanagers = ['http://{}']\n", server.address));
    let config = format!("[alerting]\n{}{}", of_alertmanager.unwrap_or_default(), webhook(&hook, ""));
    let mut host = host(&measured, &config);
    hook.until_count(1);
    for nth in 0..50_u64 {
        if nth == 25 {
            measured.set("queue{zone=\"stays\"} 7\nqueue{zone=\"late\"} 9\n");
        }
        // Moments that differ and that no clock of the host shares.
        std::thread::park_timeout(Duration::from_millis(20 + (nth * 7919) % 400));
        host = host.kill_and_restart();
    }
    let heard = |zone: &str, state: &str| {
        let messages = hook.received();
        messages.iter().filter(|message| states(&message.json()).contains(&(zone.to_owned(), state.to_owned()))).count()
    };
    wait_until("what fired between two kills is not told of", || heard("late", "firing") > 0);
    assert_eq!((heard("stays", "resolved"), heard("late", "resolved")), (0, 0), "{:?}", hook.received());
    if let Some(alertmanager) = &alertmanager {
        wait_until("Alertmanager does not know both", || alerts_of(alertmanager).len() == 2);
        let ends = receiver.received().iter().filter(|message| message.json()["status"] == "resolved").count();
        assert_eq!(ends, 0, "{:?}", receiver.received());
    }
    // Each was told of once, but for a kill between the answer and the note of it.
    let alone = hook.received().iter().filter(|message| states(&message.json()).len() == 1).count();
    assert!(alone <= 3, "{:?}", hook.received());
    measured.set("queue{zone=\"stays\"} 1\nqueue{zone=\"late\"} 1\n");
    wait_until("the end is not told of", || heard("stays", "resolved") > 0 && heard("late", "resolved") > 0);
}

#[test]
fn a_webhook_hears_of_a_group_once_of_its_changes_and_of_its_end() {
    let (hook, other) = (Receiver::start(), Receiver::start());
    let measured = Measured::start("queue{zone=\"a\"} 7\n");
    let config =
        [webhook(&hook, "group_by = ['alertname']"), webhook(&other, "match = ['zone=\"b\"']").replace("ops", "b")];
    let host = host(&measured, &config.concat());
    let first = hook.until_count(1)[0].json();
    assert_eq!(
        (&first["version"], &first["status"], &first["receiver"]),
        (&json!("4"), &json!("firing"), &json!("ops"))
    );
    assert_eq!(first["groupLabels"], json!({ "alertname": "Long" }));
    assert_eq!(first["alerts"][0]["annotations"], json!({ "summary": "a has 7" }));
    measured.set("queue{zone=\"a\"} 7\nqueue{zone=\"b\"} 7\n");
    let second = hook.until_count(2)[1].json();
    assert_eq!(states(&second), [("a".into(), "firing".into()), ("b".into(), "firing".into())]);
    measured.set("queue{zone=\"a\"} 1\nqueue{zone=\"b\"} 7\n");
    let third = hook.until_count(3)[2].json();
    assert_eq!(states(&third), [("b".into(), "firing".into()), ("a".into(), "resolved".into())]);
    measured.set("queue{zone=\"a\"} 1\nqueue{zone=\"b\"} 1\n");
    let last = hook.until_count(4)[3].json();
    assert_eq!((&last["status"], states(&last)), (&json!("resolved"), vec![("b".into(), "resolved".into())]));
    let filtered: Vec<_> = other.until_count(2).iter().map(|message| states(&message.json())).collect();
    assert_eq!(filtered, [vec![("b".into(), "firing".into())], vec![("b".to_owned(), "resolved".to_owned())]]);
    let metrics = host.get("/metrics").body;
    assert!(metrics.contains("dropsonde_remote_requests_total{destination=\"ops\",outcome=\"ok\"} 4\n"), "{metrics}");
    assert_eq!(hook.received().len(), 4, "nothing is told twice");
}

#[test]
fn a_webhook_that_no_longer_wants_an_alert_is_not_told_that_it_ended() {
    let hook = Receiver::start();
    let measured = Measured::start("queue{zone=\"a\"} 7\nqueue{zone=\"b\"} 7\n");
    let host = host(&measured, &webhook(&hook, "group_by = ['...']"));
    hook.until_count(2);
    let text = fs::read_to_string(host.folder().join("dropsonde.toml")).unwrap();
    host.reconfigure(&text.replace("group_by = ['...']", "group_by = ['...']\nmatch = ['zone!=\"b\"']"));
    measured.set("queue{zone=\"a\"} 1\nqueue{zone=\"b\"} 7\n");
    let last = hook.until_count(3)[2].json();
    assert_eq!(states(&last), [("a".into(), "resolved".into())]);
}

#[test]
fn a_rule_file_that_is_renamed_keeps_its_alerts() {
    let hook = Receiver::start();
    let measured = Measured::start("queue{zone=\"a\"} 7\n");
    let host = host(&measured, &webhook(&hook, ""));
    let (before, after) = (host.folder().join("rules/a.yml"), host.folder().join("rules/b.yml"));
    hook.until_count(1);
    let fired = host.get("/v1/alerts").json()[0]["fired_at"].clone();
    fs::rename(&before, &after).unwrap();
    host.until("/v1/alerts", |alerts| alerts.body.contains("b.yml"));
    assert_eq!(host.get("/v1/alerts").json()[0]["fired_at"], fired);
    measured.set("queue{zone=\"a\"} 1\n");
    let messages = hook.until_count(2);
    assert_eq!(states(&messages[1].json()), [("a".into(), "resolved".into())]);
    assert_eq!(messages.len(), 2);
}

#[test]
fn a_message_is_repeated_while_its_alerts_fire() {
    let hook = Receiver::start();
    let measured = Measured::start("queue{zone=\"a\"} 7\n");
    let _host = host(&measured, &webhook(&hook, "repeat_interval = '1s'"));
    let messages = hook.until_count(3);
    assert!(messages.iter().all(|message| message.json()["status"] == "firing"), "{messages:?}");
}

#[test]
fn nobody_is_told_of_silenced_alerts_or_in_muted_times() {
    let (hook, muted) = (Receiver::start(), Receiver::start());
    let measured = Measured::start("queue{zone=\"a\"} 1\n");
    let always = "mute = [{ days = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'], time_zone = 'Asia/Tokyo' }]";
    let host = host(&measured, &[webhook(&hook, ""), webhook(&muted, always).replace("ops", "muted")].concat());
    let silence = "{\"matchers\":[{\"name\":\"zone\",\"value\":\"a\"}],\"duration\":\"1h\"}";
    let id = host.send_as_writer("POST", "/v1/silences", silence).json()["id"].as_str().unwrap().to_owned();
    measured.set("queue{zone=\"a\"} 7\nqueue{zone=\"b\"} 7\n");
    host.until("/v1/alerts?state=firing", |alerts| alerts.json().as_array().unwrap().len() == 2);
    let first = hook.until_count(1)[0].json();
    assert_eq!(states(&first), [("b".into(), "firing".into())]);
    assert_eq!(host.send_as_writer("DELETE", &format!("/v1/silences/{id}"), "").status, 204);
    let second = hook.until_count(2)[1].json();
    assert_eq!(states(&second), [("a".into(), "firing".into()), ("b".into(), "firing".into())]);
    // A silence of what was told is no end of it.
    let silence = silence.replace("\"a\"", "\"b\"");
    assert_eq!(host.send_as_writer("POST", "/v1/silences", &silence).status, 201);
    host.until("/v1/alerts", |alerts| alerts.body.contains("silenced_by"));
    measured.set("queue{zone=\"a\"} 1\nqueue{zone=\"b\"} 7\n");
    let third = hook.until_count(3)[2].json();
    assert_eq!(states(&third), [("a".into(), "resolved".into())]);
    assert!(muted.received().is_empty());
}

#[test]
fn a_receiver_that_is_away_slow_or_broken_gets_all_once_it_works() {
    let measured = Measured::start("queue{zone=\"a\"} 7\n");
    // Errors, garbage in place of an answer, and no answer at all.
    let answers = [(500, "500"), (404, "404"), (429, "429"), (1, "invalid HTTP"), (0, "did not answer within 0.3 s")];
    let receivers = answers.map(|(status, why)| {
        let receiver = Receiver::start();
        receiver.answer(status, "");
        (receiver, why)
    });
    let hook = |(nth, (receiver, _)): (usize, &(Receiver, &str))| {
        webhook(receiver, "timeout = '300ms'").replace("ops", &format!("hook-{nth}"))
    };
    let config: String = receivers.iter().enumerate().map(hook).collect();
    let host = host(&measured, &config);
    for (receiver, why) in &receivers {
        receiver.until_count(2);
        host.until_logged(why);
    }
    let health = host.until("/health", |health| health.body.contains("the server hook-0 does not work"));
    assert_eq!(health.json()["status"], "degraded");
    let metrics = host.get("/metrics").body;
    assert!(metrics.contains("dropsonde_remote_alerts_waiting{destination=\"hook-0\"} 1\n"), "{metrics}");
    // Alerts that fired meanwhile are told of with the rest.
    measured.set("queue{zone=\"a\"} 7\nqueue{zone=\"b\"} 7\n");
    host.until("/v1/alerts?state=firing", |alerts| alerts.json().as_array().unwrap().len() == 2);
    for (receiver, _) in &receivers {
        receiver.answer(200, "");
        let both = [("a".to_owned(), "firing".to_owned()), ("b".to_owned(), "firing".to_owned())];
        receiver.until("both are told of", |messages| messages.iter().any(|message| states(&message.json()) == both));
    }
    host.until("/health", |health| !health.body.contains("the server hook-0"));
}

#[test]
fn a_receiver_that_asks_to_wait_is_not_asked_again_before() {
    let hook = Receiver::start();
    let measured = Measured::start("queue{zone=\"a\"} 7\n");
    hook.answer(429, "Retry-After: 3\r\n");
    let _host = host(&measured, &webhook(&hook, ""));
    hook.until_count(1);
    let refused = Instant::now();
    hook.answer(200, "");
    hook.until_count(2);
    assert!(refused.elapsed() >= Duration::from_millis(2800), "{:?}", refused.elapsed());
}

#[test]
fn credentials_and_certificates_let_the_host_in() {
    let hook = Receiver::start();
    let measured = Measured::start("queue{zone=\"a\"} 7\n");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (token, password) = (file("token", "secret\n"), file("password", "word\n"));
    let (secure, certificate) = TestServer::start_secure();
    let (trusted, url) = (file("ca.pem", &certificate), file("url", &hook.url("/by/file")));
    let one = |name: &str, more: &str| {
        format!(
            "[[alerting.webhooks]]\nname = '{name}'\ngroup_wait = 0\nurl = '{}'\n{more}\n",
            hook.url(&format!("/{name}"))
        )
    };
    let config = [
        one("token", &format!("bearer_token_file = '{token}'")),
        one("basic", &format!("username = 'user'\npassword_file = '{password}'")),
        format!("[[alerting.webhooks]]\nname = 'file'\ngroup_wait = 0\nurl_file = '{url}'\n"),
        format!(
            "[[alerting.webhooks]]\nname = 'tls'\ngroup_wait = 0\nurl = 'https://{}/'\nca_file = '{trusted}'\n",
            secure.address
        ),
        format!("[[alerting.webhooks]]\nname = 'untrusted'\ngroup_wait = 0\nurl = 'https://{}/'\n", secure.address),
    ];
    let host = host(&measured, &config.concat());
    let messages = hook.until_count(3);
    let authorization = |path: &str| {
        let message = messages.iter().find(|message| message.path == path).unwrap();
        message.header("authorization").map(str::to_owned)
    };
    assert_eq!(authorization("/token").as_deref(), Some("Bearer secret"));
    assert_eq!(authorization("/basic").as_deref(), Some("Basic dXNlcjp3b3Jk"));
    assert_eq!(authorization("/by/file"), None);
    let sent = |remote: &str, outcome: &str| {
        format!("dropsonde_remote_requests_total{{destination=\"{remote}\",outcome=\"{outcome}\"}} 1\n")
    };
    host.until("/metrics", |metrics| metrics.body.contains(&sent("tls", "ok")));
    host.until_logged("UnknownIssuer");
    assert!(!host.log().contains("secret") && !host.log().contains("by/file"), "{}", host.log());
}

#[test]
fn requests_go_through_a_proxy() {
    let measured = Measured::start("queue{zone=\"a\"} 7\n");
    let (proxy, (secure, certificate)) = (TestProxy::start(), TestServer::start_secure());
    let folder = tempfile::tempdir().unwrap();
    let [password, trusted] = [("password", "word\n"), ("ca.pem", &certificate)].map(|(name, text)| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).display().to_string()
    });
    let one = |name: &str, url: &str| {
        format!(
            "[[alerting.webhooks]]\nname = '{name}'\ngroup_wait = 0\nurl = '{url}'\nca_file = '{trusted}'\n\
             proxy_url = 'http://user@{}'\nproxy_password_file = '{password}'\n",
            proxy.address
        )
    };
    let config = [one("plain", "http://no.such.host/hook"), one("tls", &format!("https://{}/", secure.address))];
    let host = host(&measured, &config.concat());
    for remote in ["plain", "tls"] {
        let sent = format!("dropsonde_remote_requests_total{{destination=\"{remote}\",outcome=\"ok\"}} 1\n");
        host.until("/metrics", |metrics| metrics.body.contains(&sent));
    }
    let asked = proxy.asked();
    let starts = |text: &str| asked.iter().find(|head| head.starts_with(text)).unwrap_or_else(|| panic!("{asked:?}"));
    let heads = [starts("post http://no.such.host/hook http/1.1"), starts(&format!("connect {}", secure.address))];
    let authorization = "proxy-authorization: basic dxnlcjp3b3jk";
    assert!(heads.iter().all(|head| head.contains(authorization)), "{asked:?}");
    assert!(!host.log().contains("word\n"), "{}", host.log());
}

#[test]
fn messages_for_people_reach_ntfy_slack_and_matrix_in_their_own_forms() {
    let hook = Receiver::start();
    let measured = Measured::start("queue{zone=\"a\"} 7\n");
    let one = |format: &str, path: &str| {
        format!(
            "[[alerting.webhooks]]\nname = '{format}'\nformat = '{format}'\ngroup_wait = 0\nurl = '{}'\n",
            hook.url(path)
        )
    };
    let _host = host(
        &measured,
        &[one("slack", "/s"), one("ntfy", "/topic"), one("matrix", "/rooms/r/send/m.room.message")].concat(),
    );
    let messages = hook.until_count(3);
    let of = |path: &str| messages.iter().find(|message| message.path.starts_with(path)).unwrap();
    assert_eq!(of("/s").json()["attachments"][0]["title"], "[FIRING:1] Long (app on me)");
    assert_eq!(
        (of("/topic").header("title"), of("/topic").header("priority")),
        (Some("[FIRING:1] Long (app on me)"), Some("urgent"))
    );
    assert_eq!(of("/topic").body, "firing: a has 7 (app)");
    let matrix = of("/rooms");
    assert_eq!((matrix.method.as_str(), &matrix.json()["msgtype"]), ("PUT", &json!("m.text")));
    assert!(matrix.path.starts_with("/rooms/r/send/m.room.message/dropsonde-"), "{}", matrix.path);
}

#[test]
fn alertmanagers_in_files_come_and_go_and_a_reload_changes_whom_is_told() {
    let (one, two) = (Receiver::start(), Receiver::start());
    let measured = Measured::start("queue{zone=\"a\"} 7\n");
    let folder = tempfile::tempdir().unwrap();
    let put = |receiver: &Receiver| {
        let text = json!([{ "targets": [receiver.address.to_string()], "labels": { "__alerts_path__": "/p" } }]);
        fs::write(folder.path().join("new"), text.to_string()).unwrap();
        fs::rename(folder.path().join("new"), folder.path().join("am.json")).unwrap();
    };
    put(&one);
    let alerting = format!("[alerting]\nalertmanager_files = ['{}/*.json']\n", folder.path().display());
    let host = host(&measured, &alerting);
    let posted = one.until_count(1)[0].clone();
    assert_eq!((posted.method.as_str(), posted.path.as_str()), ("POST", "/p/api/v2/alerts"));
    assert_eq!(posted.json()[0]["labels"]["alertname"], "Long");
    put(&two);
    two.until_count(1);
    let text = fs::read_to_string(host.folder().join("dropsonde.toml")).unwrap();
    let hook = Receiver::start();
    host.reconfigure(&text.replace(&alerting, &webhook(&hook, "")));
    hook.until_count(1);
    let metrics = host.get("/metrics").body;
    assert!(!metrics.contains("remote=\"alertmanager"), "{metrics}");
}
