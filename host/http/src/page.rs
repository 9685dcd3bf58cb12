//! The page at `/`: the frame of the dashboard and, without JavaScript, the latest numbers and links to everything
//! else. Also the pages of the handbook, and the login page.

use super::AppState;
use super::blocking::off_thread;
use super::error::{ApiError, PathSegment};
use super::login::sessions;
use super::range_query::QueryParameters;
use crate::App;
use crate::dashboard;
use crate::handbook;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use dropsonde_engine::json;
use dropsonde_engine::tracked::{InstanceState, TrackedInstance};
use dropsonde_model::nearest::nearest;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::fmt::Write as _;

/// Instances on the page. It links to the list of all.
const MOST_INSTANCES: usize = 50;

/// Instances among which those of the page are looked for: some may have ended.
const MOST_LOOKED_AT: usize = 1000;

pub(super) const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'; \
     base-uri 'none'; form-action 'self'",
);

/// Writes the beginning of a page. `$more`: further elements of its head.
macro_rules! head {
    ($html:expr, $more:expr) => {
        write!(
            $html,
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\"><title>Dropsonde</title>{}</head><body>",
            $more
        )
    };
}

pub(crate) async fn index(State(app): AppState, headers: HeaderMap) -> Response {
    let own =
        [(header::CONTENT_SECURITY_POLICY, POLICY), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    let has_session = sessions(&headers).next().is_some();
    match off_thread(move || render(&app, has_session)).await {
        Ok(html) => (own, Html(html)).into_response(),
        Err(error) => error.into_response(),
    }
}

/// Leads a link that Prometheus would have made to the view in which its expression can be looked at.
pub(crate) async fn graph(RawQuery(query): RawQuery) -> Redirect {
    let parameters = QueryParameters::parse(query.as_deref());
    let expr = parameters.one("g0.expr").unwrap_or_default();
    let expr = utf8_percent_encode(expr, NON_ALPHANUMERIC);
    Redirect::to(&format!("/#/explore?expr={expr}"))
}

/// Lists the pages of the handbook.
pub(crate) async fn handbook() -> Response {
    let mut html = String::new();
    let _ = head!(html, dashboard::style());
    html.push_str("<main class=\"page\"><p><a href=\"/\">Dropsonde</a></p><h1>Handbook</h1><dl>");
    for page in handbook::PAGES {
        let (name, title, about) = (page.name, escape(page.title()), escape(&page.about()));
        let _ = write!(html, "<dt><a href=\"/docs/{name}\">{title}</a><dd>{about}");
    }
    html.push_str("</dl></main>");
    document(html)
}

pub(crate) async fn of_handbook(PathSegment(name): PathSegment) -> Result<Response, ApiError> {
    let Some(page) = handbook::page(&name) else {
        let near = nearest(&name, handbook::PAGES.iter().map(|page| page.name));
        let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        return Err(ApiError::not_found(format!("the handbook has no page {name}{near}")));
    };
    let mut html = String::new();
    let _ = head!(html, dashboard::style());
    let _ = write!(
        html,
        "<main class=\"page\"><p><a href=\"/\">Dropsonde</a> · <a href=\"/docs\">Handbook</a></p>{}</main>",
        page.html()
    );
    Ok(document(html))
}

/// Answers with a page that stays the same as long as the host runs.
fn document(html: String) -> Response {
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(html)).into_response()
}

/// Returns the login page. `why` is the reason of the refusal.
pub(super) fn login(why: &str) -> String {
    let mut html = String::new();
    let _ = head!(html, dashboard::login());
    let _ =
        write!(html, "<main class=\"page\"><h1>Dropsonde</h1><p class=\"problem\" role=\"alert\">{}</p>", escape(why));
    html.push_str(
        "<p>The token is in <code>read.token</code> in the host's data directory, unless the configuration names another file.</p>\
         <form method=\"post\" action=\"/login\"><label>Token <input type=\"password\" name=\"token\" \
         autocomplete=\"current-password\" required autofocus></label> <button>Log in</button></form></main>",
    );
    html
}

fn render(app: &App, has_session: bool) -> String {
    let mut html = String::new();
    let reload = "<noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>";
    let _ = head!(html, format!("{reload}{}", dashboard::application()));
    // The application takes the place of the table. Its header is there before its scripts are.
    let session = if has_session { " data-session" } else { "" };
    let _ = write!(
        html,
        "<div id=\"app\" class=\"app\"{session}><header><a class=\"brand\" href=\"#/\">Dropsonde</a></header></div><div id=\"plain\" class=\"page\"><h1>Dropsonde</h1>"
    );
    if has_session {
        html.push_str("<form method=\"post\" action=\"/logout\"><button>Log out</button></form>");
    }
    html.push_str("<p>");
    let metrics = app.options.load().metrics_path.clone();
    for path in [
        "/v1/instances",
        "/v1/plugins",
        "/v1/snapshot",
        "/telemetry/hosts",
        &metrics,
        "/health",
        "/openapi.json",
        "/docs",
    ] {
        let _ = write!(html, "<a href=\"{0}\">{0}</a> ", escape(path));
    }
    html.push_str("</p><h2>Plugins</h2><table><tr><th>name<th>state<th>last failure</tr>");
    for plugin in app.engine.plugins.list() {
        let (state, failure) = plugin.look(|known| {
            let waits = if known.waits_for_its_turn() { ", waits for its turn" } else { "" };
            let failure = known.last_failure.as_ref().map(|failure| {
                let over = if failure.is_over { "resolved; at " } else { "" };
                format!("{over}{}: {}", json::time(failure.at_ms), failure.reason)
            });
            (format!("{:?}", known.state).to_lowercase() + waits, failure.unwrap_or_default())
        });
        let name = escape(&plugin.name);
        let _ =
            write!(html, "<tr><td><a href=\"/v1/plugins/{name}\">{name}</a><td>{state}<td>{}</tr>", escape(&failure));
    }
    html.push_str("</table>");
    instances(app, &mut html);
    html.push_str("</div>");
    html
}

fn instances(app: &App, html: &mut String) {
    let is_tracked = |one: &TrackedInstance| one.state == InstanceState::Tracked;
    // One more tells whether there are more.
    let listed = app.engine.tracked.list_after(None, MOST_LOOKED_AT, |_, _| true);
    let tracked: Vec<_> = listed.into_iter().filter(is_tracked).take(MOST_INSTANCES + 1).collect();
    for instance in tracked.iter().take(MOST_INSTANCES) {
        let path = format!("/v1/instances/{}/usage", utf8_percent_encode(instance.id.as_str(), NON_ALPHANUMERIC));
        let _ = write!(
            html,
            "<h2>{}</h2><small><a href=\"{path}\">usage</a> · <a href=\"{path}/range?range=1h\">last hour</a> · <a href=\"{path}/stream\">live</a>",
            escape(instance.id.as_str())
        );
        let Some(sample) = app.engine.store.latest(&instance.id) else {
            html.push_str(" · no sample yet</small>");
            continue;
        };
        let _ = write!(html, " · {}</small><table>", json::time(sample.at_ms));
        for (name, value) in &sample.values {
            let _ = write!(html, "<tr><td>{}<td class=\"n\">{}</tr>", escape(name), rounded(*value));
        }
        html.push_str("</table>");
    }
    if tracked.len() > MOST_INSTANCES {
        html.push_str("<p>and <a href=\"/v1/instances\">more</a></p>");
    }
}

/// Formats a value for people, with at most two decimals.
fn rounded(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_plugins_is_escaped_in_html() {
        assert_eq!(escape("<b a=\"'&'\">"), "&lt;b a=&quot;&#39;&amp;&#39;&quot;&gt;");
    }

    #[test]
    fn values_are_rounded_to_two_decimals() {
        assert_eq!([rounded(12.0), rounded(0.333_3), rounded(100.0), rounded(1.5)], ["12", "0.33", "100", "1.5"]);
    }
}
