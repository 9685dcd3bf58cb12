//! Messages about a group of alerts, as different servers read them.

use super::notice::Notice;
use crate::alerts::options::Format;
use crate::alerts::payload::SentAlert;
use crate::client::Message;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use dropsonde_model::text::harmless;
use hyper::Method;
use hyper::header::{self, HeaderName, HeaderValue};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most alerts of one message for programs.
const MOST: usize = 10_000;

/// The most alerts of a message that people read.
const MOST_READ: usize = 20;

/// The longest text of one alert for people, in characters.
const LONGEST_LINE: usize = 500;

/// Returns the request that tells a server of a group.
pub(super) fn message(format: Format, url: &str, notice: &Notice<'_>) -> Message {
    let json_body = |method: Method, url: String, body: &Value| Message {
        method,
        url,
        headers: vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        body: Bytes::from(serde_json::to_vec(body).unwrap_or_default()),
    };
    match format {
        Format::Alertmanager => json_body(Method::POST, url.to_owned(), &alertmanager(notice)),
        Format::Slack => json_body(Method::POST, url.to_owned(), &slack(notice)),
        // A message with the same number is shown once, however often it is sent.
        Format::Matrix => {
            let url = format!("{}/{}", url.trim_end_matches('/'), notice.number());
            json_body(Method::PUT, url, &matrix(notice))
        }
        Format::Ntfy => Message {
            method: Method::POST,
            url: url.to_owned(),
            headers: ntfy_headers(notice),
            body: Bytes::from(lines(notice).join("\n")),
        },
    }
}

fn alertmanager(notice: &Notice<'_>) -> Value {
    let alerts: Vec<_> = notice.alerts.iter().take(MOST).map(|alert| alert.notified()).collect();
    json!({
        "version": "4",
        "groupKey": notice.group_key(),
        "truncatedAlerts": notice.alerts.len().saturating_sub(MOST),
        "status": notice.status(),
        "receiver": notice.receiver,
        "groupLabels": notice.labels,
        "commonLabels": common(&notice.alerts, |alert| &alert.labels),
        "commonAnnotations": common(&notice.alerts, |alert| &alert.annotations),
        "externalURL": notice.external_url,
        "alerts": alerts,
    })
}

/// Returns the pairs that all alerts have.
fn common<'a>(
    alerts: &'a [Arc<SentAlert>],
    of: impl Fn(&'a SentAlert) -> &'a BTreeMap<String, String>,
) -> BTreeMap<&'a str, &'a str> {
    let Some(first) = alerts.first() else { return BTreeMap::new() };
    let is_common = |(name, value): &(&String, &String)| alerts.iter().all(|other| of(other).get(*name) == Some(value));
    of(first).iter().filter(is_common).map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn slack(notice: &Notice<'_>) -> Value {
    let color = match (notice.status(), severity(notice)) {
        ("resolved", _) => "good",
        (_, "critical" | "page") => "danger",
        _ => "warning",
    };
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let title = title(notice);
    let text: Vec<String> = lines(notice).iter().map(|line| escape(line)).collect();
    json!({
        "attachments": [{
            "color": color,
            "fallback": escape(&title),
            "title": escape(&title),
            "title_link": notice.alerts.first().map_or(notice.external_url, |alert| &alert.url),
            "text": text.join("\n"),
        }]
    })
}

fn matrix(notice: &Notice<'_>) -> Value {
    let escape =
        |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let (title, lines) = (title(notice), lines(notice));
    let items: String = lines.iter().map(|line| format!("<li>{}</li>", escape(line))).collect();
    json!({
        "msgtype": "m.text",
        "body": format!("{title}\n{}", lines.join("\n")),
        "format": "org.matrix.custom.html",
        "formatted_body": format!("<strong>{}</strong><ul>{items}</ul>", escape(&title)),
    })
}

fn ntfy_headers(notice: &Notice<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let is_resolved = notice.status() == "resolved";
    let priority = match (is_resolved, severity(notice)) {
        (true, _) => "default",
        (false, "critical" | "page") => "urgent",
        (false, "info") => "low",
        (false, _) => "high",
    };
    let tags = if is_resolved { "white_check_mark" } else { "rotating_light" };
    let click = notice.alerts.first().map_or(notice.external_url, |alert| &alert.url);
    let header = |name: &'static str, value: &str| {
        // Headers are ASCII: other texts are encoded as in mail.
        let written =
            if value.is_ascii() { value.to_owned() } else { format!("=?UTF-8?B?{}?=", BASE64_STANDARD.encode(value)) };
        Some((HeaderName::from_static(name), HeaderValue::from_str(&written).ok()?))
    };
    let headers =
        [header("title", &title(notice)), header("priority", priority), header("tags", tags), header("click", click)];
    headers.into_iter().flatten().collect()
}

/// Returns the highest severity among the firing alerts.
fn severity<'a>(notice: &'a Notice<'_>) -> &'a str {
    let firing = notice.alerts.iter().filter(|alert| alert.resolved_ms.is_none());
    let of = |alert: &'a Arc<SentAlert>| alert.labels.get("severity").map_or("", String::as_str);
    let rank = |severity: &&str| match *severity {
        "critical" | "page" => 3,
        "info" | "none" => 1,
        _ => 2,
    };
    firing.map(of).max_by_key(rank).unwrap_or_default()
}

/// Returns one line about the group: `[FIRING:2] DiskFull (host-a)`.
fn title(notice: &Notice<'_>) -> String {
    let firing = notice.alerts.iter().filter(|alert| alert.resolved_ms.is_none()).count();
    let state = if firing > 0 { format!("FIRING:{firing}") } else { "RESOLVED".to_owned() };
    let common = common(&notice.alerts, |alert| &alert.labels);
    let name = common.get("alertname").copied().unwrap_or("several alerts");
    let about: Vec<&str> = ["id", "instance"].iter().filter_map(|label| common.get(label).copied()).collect();
    let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join(" on ")) };
    harmless(&format!("[{state}] {name}{about}"))
}

/// Returns a line about each alert.
fn lines(notice: &Notice<'_>) -> Vec<String> {
    let line = |alert: &Arc<SentAlert>| {
        let text = ["summary", "description", "message"].iter().find_map(|name| alert.annotations.get(*name));
        let name = alert.labels.get("alertname").map_or("", String::as_str);
        let about = alert.labels.get("id").map(|id| format!(" ({id})")).unwrap_or_default();
        let line = format!("{}: {}{about}", alert.status(), text.map_or(name, String::as_str));
        harmless(&line).chars().take(LONGEST_LINE).collect()
    };
    let mut lines: Vec<String> = notice.alerts.iter().take(MOST_READ).map(line).collect();
    if notice.alerts.len() > MOST_READ {
        lines.push(format!("and {} more", notice.alerts.len() - MOST_READ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::webhook::notice::Notice;

    fn alert(name: &str, id: &str, severity: &str, resolved_ms: Option<i64>) -> SentAlert {
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
        };
        SentAlert {
            labels: pairs(&[("alertname", name), ("id", id), ("severity", severity)]),
            annotations: pairs(&[("summary", &format!("{id} <b>is</b> full"))]),
            starts_ms: 1000,
            resolved_ms,
            url: "http://h/graph?g0.expr=x".to_owned(),
        }
    }

    fn notice(alerts: Vec<SentAlert>) -> Notice<'static> {
        let labels = BTreeMap::from([("alertname".to_owned(), "Full".to_owned())]);
        let alerts = alerts.into_iter().map(Arc::new).collect();
        Notice { receiver: "ops", external_url: "http://h", labels, alerts, nth: 3 }
    }

    fn body(format: Format, alerts: Vec<SentAlert>) -> Value {
        serde_json::from_slice(&message(format, "http://r/x", &notice(alerts)).body).unwrap()
    }

    #[test]
    fn a_webhook_gets_the_message_of_alertmanager_version_4() {
        let body = body(
            Format::Alertmanager,
            vec![alert("Full", "a", "critical", None), alert("Full", "b", "info", Some(5000))],
        );
        assert_eq!(body["version"], "4");
        assert_eq!(body["status"], "firing");
        assert_eq!(body["receiver"], "ops");
        assert_eq!(body["groupKey"], "{}:{alertname=\"Full\"}");
        assert_eq!(body["groupLabels"], json!({ "alertname": "Full" }));
        assert_eq!(body["commonLabels"], json!({ "alertname": "Full" }));
        assert_eq!(body["commonAnnotations"], json!({}));
        assert_eq!(body["truncatedAlerts"], 0);
        assert_eq!(body["alerts"][0]["status"], "firing");
        assert_eq!(body["alerts"][0]["startsAt"], "1970-01-01T00:00:01Z");
        assert_eq!(body["alerts"][0]["endsAt"], NEVER);
        assert_eq!(body["alerts"][1]["status"], "resolved");
        assert_eq!(body["alerts"][1]["endsAt"], "1970-01-01T00:00:05Z");
    }

    const NEVER: &str = "0001-01-01T00:00:00Z";

    #[test]
    fn messages_for_people_say_what_fires_where_and_escape_the_rest() {
        let slack = body(Format::Slack, vec![alert("Full", "a", "critical", None)]);
        assert_eq!(slack["attachments"][0]["title"], "[FIRING:1] Full (a)");
        assert_eq!(slack["attachments"][0]["color"], "danger");
        assert_eq!(slack["attachments"][0]["text"], "firing: a &lt;b&gt;is&lt;/b&gt; full (a)");
        let matrix = body(Format::Matrix, vec![alert("Full", "a", "info", Some(1))]);
        assert_eq!(matrix["body"], "[RESOLVED] Full (a)\nresolved: a <b>is</b> full (a)");
        assert!(matrix["formatted_body"].as_str().unwrap().contains("a &lt;b&gt;is"));
    }

    #[test]
    fn ntfy_gets_a_text_with_its_title_and_priority_in_headers() {
        let message = message(Format::Ntfy, "http://r/topic", &notice(vec![alert("Voll ä", "a", "critical", None)]));
        let header = |name: &str| {
            let found = message.headers.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.to_str().unwrap().to_owned())
        };
        assert_eq!(header("priority").as_deref(), Some("urgent"));
        assert!(header("title").unwrap().starts_with("=?UTF-8?B?"));
        assert_eq!(message.body, "firing: a <b>is</b> full (a)");
    }

    #[test]
    fn a_message_of_matrix_has_the_same_number_when_it_is_sent_again() {
        let url = |alerts| message(Format::Matrix, "http://r/send/m.room.message", &notice(alerts)).url;
        let one = url(vec![alert("Full", "a", "info", None)]);
        assert_eq!(one, url(vec![alert("Full", "a", "info", None)]));
        assert_ne!(one, url(vec![alert("Full", "a", "info", Some(1))]));
        assert!(one.starts_with("http://r/send/m.room.message/dropsonde-"), "{one}");
    }

    #[test]
    fn a_message_of_very_many_alerts_is_cut() {
        let many: Vec<_> = (0..10_100).map(|nth| alert("Full", &nth.to_string(), "info", None)).collect();
        let body = body(Format::Alertmanager, many.clone());
        assert_eq!((body["alerts"].as_array().unwrap().len(), &body["truncatedAlerts"]), (10_000, &json!(100)));
        assert_eq!(lines(&notice(many)).last().unwrap(), "and 10080 more");
    }
}
