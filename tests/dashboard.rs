//! The dashboard in a real browser. `tests/browser/scenarios.mjs` has what a person does in each test. In all of them the
//! console stays empty, nothing violates the page's policy, and no other server is asked.

use crate::harness::{Browser, Host, MadeServer, Response, request, run, verbs, workspace};
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Starts a host with made-up series, as a newcomer does.
fn demo() -> Host {
    let host = Host::start("poll.interval = '1s'\n[plugins.synthetic.config]\ninstances = 50\n", &[]);
    host.until("/v1/instances/web-0/usage", |usage| usage.status == 200);
    host
}

fn url(host: &Host) -> String {
    format!("http://{}", host.address)
}

#[test]
fn alerts_are_listed_as_they_change_looked_at_silenced_and_found_in_history() {
    let config = "poll.interval = '1s'\nalerting.interval = '1s'\n[plugins.synthetic.config]\ninstances = 5\n\
        [[alerts]]\nname = 'Busy'\nwhen = 'cpu_percent >= 0'\ninstance = 'web-*'\nseverity = 'critical'\n\
        summary = '<b>{{ $labels.id }}</b> is busy: see https://example.org/busy.'\n\
        [[alerts]]\nname = 'Waits'\nwhen = 'cpu_percent >= 0'\nfor = '1h'\ninstance = 'web-*'\n\
        [[alerts]]\nname = 'Flaps'\nwhen = 'vector(time() % 6) > 2'\n";
    let host = Host::start(config, &[]);
    host.until("/v1/alerts?state=firing", |alerts| alerts.body.contains("Busy"));
    let token = fs::read_to_string(host.folder().join("data/write.token")).unwrap();
    Browser::start("alerts", &url(&host), &[token.trim()]).passes();
}

#[test]
fn the_list_fills_and_its_values_change_without_a_reload() {
    let host = demo();
    Browser::start("overview", &url(&host), &[]).passes();
}

#[test]
fn a_search_is_kept_in_the_address_and_the_list_is_sorted_and_grouped() {
    let host = demo();
    Browser::start("search", &url(&host), &[]).passes();
}

#[test]
fn a_zoom_shows_finer_points_down_to_raw_readings_and_goes_back() {
    let host = Host::start_demo();
    host.until("/v1/instances/web-0/usage", |usage| usage.status == 200);
    Browser::start("zoom", &url(&host), &["web-0"]).passes();
}

#[test]
fn instances_are_compared_in_one_chart_and_a_workload_is_summed() {
    let host = demo();
    Browser::start("compare", &url(&host), &["api-1", "api-6"]).passes();
}

#[test]
fn an_expression_is_completed_checked_and_shown_as_a_chart_or_a_table() {
    let host = demo();
    Browser::start("explore", &url(&host), &[]).passes();
}

#[test]
fn the_series_of_an_instance_are_found_by_name_and_drawn() {
    let reads = AtomicU64::new(0);
    let server = MadeServer::start(move |_, _| {
        let nth = reads.fetch_add(1, Relaxed);
        let text = format!(
            "# TYPE http_requests_total counter\nhttp_requests_total{{code=\"200\"}} {}\n\
             http_requests_total{{code=\"503\"}} {nth}\nqueue_length 5\n",
            nth * 9
        );
        (200, text)
    });
    let target = format!("id = 'web-1'\nurl = '{}'\nkeep = 'all'\n", server.url("/metrics"));
    let host = Host::start(&format!("poll.interval = '1s'\n[[plugins.scrape.config.targets]]\n{target}"), &[]);
    let asked = "/api/v1/query?query=rate(http_requests_total%5B5m%5D)";
    host.until(asked, |answer| answer.json()["data"]["result"].as_array().is_some_and(|all| all.len() == 2));
    Browser::start("series", &url(&host), &["web-1"]).passes();
}

#[test]
fn a_page_recovers_when_the_host_is_killed_and_starts_again() {
    let host = demo();
    let mut browser = Browser::start("restart", &url(&host), &["web-0"]);
    browser.until("kill");
    let host = host.kill();
    browser.go_on();
    browser.until("start");
    let host = host.start_here();
    host.until("/v1/instances/web-0/usage", |usage| usage.status == 200);
    browser.go_on();
    browser.passes();
}

#[test]
fn plugins_are_uploaded_put_in_quarantine_released_and_removed() {
    let host = demo();
    let (bad, good) = (host.folder().join("bad.wasm"), host.folder().join("good.wasm"));
    fs::write(&bad, b"not a component").unwrap();
    fs::write(&good, verbs()).unwrap();
    let token = fs::read_to_string(host.folder().join("data/admin.token")).unwrap();
    let arguments = [token.trim(), bad.to_str().unwrap(), good.to_str().unwrap()];
    let mut browser = Browser::start("plugins", &url(&host), &arguments);
    browser.until("removed");
    host.until("/v1/plugins/good", |plugin| plugin.status == 404);
    browser.go_on();
    browser.passes();
}

#[test]
fn a_user_logs_in_over_tls_and_lands_on_the_view_of_the_address() {
    let folder = tempfile::tempdir().unwrap();
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| folder.path().join(name));
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    fs::write(folder.path().join("read.token"), "a-token-for-reading-of-the-browser-test").unwrap();
    let mut permissions = fs::metadata(folder.path().join("read.token")).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    fs::set_permissions(folder.path().join("read.token"), permissions).unwrap();
    let config = format!(
        "tls = {{ cert = '{}', key = '{}' }}\nauth.read_token_file = '{}'\n",
        certificate.display(),
        key.display(),
        folder.path().join("read.token").display()
    );
    let host = Host::start(&config, &[]);
    let url = format!("https://{}", host.address);
    Browser::start("login", &url, &["a-token-for-reading-of-the-browser-test"]).passes();
}

#[test]
fn every_view_fits_a_narrow_screen_in_the_dark() {
    let host = demo();
    Browser::start("narrow", &url(&host), &["web-0"]).passes();
}

#[test]
fn the_keyboard_alone_reaches_an_instance_and_zooms_its_chart() {
    let host = demo();
    Browser::start("keyboard", &url(&host), &[]).passes();
}

#[test]
fn without_javascript_the_page_is_a_table() {
    let host = demo();
    Browser::start("plain", &url(&host), &[]).passes();
}

#[test]
fn ten_thousand_instances_scroll_without_ten_thousand_rows() {
    let config = "poll.interval = '10s'\n[plugins.synthetic.config]\ninstances = 10000\n";
    let host = Host::start(config, &[]);
    host.until("/v1/host", |host| host.json()["instances"].as_u64().unwrap() >= 10_000);
    Browser::start("many", &url(&host), &[]).passes();
}

#[test]
fn assets_are_compressed_as_the_browser_takes_them_and_kept_for_ever() {
    let host = Host::start("", &[]);
    let page = host.get("/").body;
    let style = page.split("href=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let get = |encoding: &str| -> Response {
        request(&host.address, "HEAD", &style, &format!("Accept-Encoding: {encoding}\r\n"))
    };
    for (encoding, answered) in [("gzip, br", Some("br")), ("gzip", Some("gzip")), ("identity", None)] {
        let answer = get(encoding);
        assert_eq!((answer.status, answer.header("content-encoding")), (200, answered), "{encoding}");
        assert_eq!(answer.header("cache-control"), Some("public, max-age=31536000, immutable"));
        assert_eq!(answer.header("content-type"), Some("text/css; charset=utf-8"));
    }
    assert_eq!(host.get("/assets/0000000000000000/style.css").status, 404);
}

#[test]
fn units_gaps_and_axes_are_computed_as_people_expect() {
    let mut command = Command::new("node");
    let (code, out, errors) = run(command.arg("--test").arg(workspace().join("tests/browser/lib.test.mjs")));
    assert_eq!(code, 0, "{out}{errors}");
}
