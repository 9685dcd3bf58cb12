//! Longer history that is read from another database.

use crate::harness::{Browser, Host, Measured, Prometheus, Reply, Server, answer_requests, request, wait_until};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Asks a host for the values of an expression.
fn range(host: &Host, query: &str, start: i64, end: i64, step: i64) -> Value {
    let query = encoded(query);
    host.get(&format!("/api/v1/query_range?query={query}&start={start}&end={end}&step={step}")).json()
}

fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64
}

/// A database of made answers, which keeps what it is asked.
struct MadeDatabase {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    reply: Arc<Mutex<Option<Reply>>>,
}

impl MadeDatabase {
    /// `series`: its labels as JSON. Each has the value 7 at all times.
    fn start(series: &'static [&'static str]) -> Self {
        let (asked, reply) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<Option<Reply>>>::default());
        let (kept, instead) = (asked.clone(), reply.clone());
        let address = answer_requests(move |request| {
            let form = String::from_utf8(request.body).unwrap();
            let form = percent_encoding::percent_decode_str(&form).decode_utf8().unwrap().into_owned();
            kept.lock().unwrap().push(form.clone());
            if let Some(reply) = instead.lock().unwrap().clone() {
                return reply;
            }
            assert_eq!((&*request.method, &*request.path), ("POST", "/select/0/prometheus/api/v1/query_range"));
            let number = |name: &str| -> f64 {
                let (_, rest) = form.split_once(&format!("&{name}=")).unwrap();
                rest.split('&').next().unwrap().parse().unwrap()
            };
            let (start, end, step) = (number("start"), number("end"), number("step"));
            let count = ((end - start) / step).round() as u32;
            let values: Vec<String> =
                (0..=count).map(|nth| format!("[{:.3},\"7\"]", start + f64::from(nth) * step)).collect();
            let values = values.join(",");
            let all: Vec<String> =
                series.iter().map(|metric| format!("{{\"metric\":{metric},\"values\":[{values}]}}")).collect();
            let body = format!(
                "{{\"status\":\"success\",\"data\":{{\"resultType\":\"matrix\",\"result\":[{}]}}}}",
                all.join(",")
            );
            (200, "Content-Type: application/json\r\n".to_owned(), body.into_bytes())
        });
        Self { url: format!("http://{address}/select/0/prometheus"), asked, reply }
    }

    fn config(&self) -> String {
        format!(
            "[read_through]\nurl = '{}/'\nname = 'far'\nexternal_labels = {{ site = 'fra1' }}\ntimeout = '2s'\n",
            self.url
        )
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, status: u16, body: &str) {
        *self.reply.lock().unwrap() = Some((status, String::new(), body.as_bytes().to_vec()));
    }
}

const OLD_UP: [&str; 2] = [
    r#"{"__name__":"up","id":"app","instance":"me","job":"dropsonde","sampler":"scrape","site":"fra1"}"#,
    r#"{"__name__":"up","id":"gone","instance":"me","job":"dropsonde","sampler":"scrape","site":"fra1"}"#,
];

/// The answer about the fields of an instance.
const FIELDS_OF_APP: [&str; 2] =
    [r#"{"dropsonde_field":"up","id":"app"}"#, r#"{"dropsonde_field":"up_min","id":"app"}"#];

#[test]
fn a_query_has_the_values_of_the_database_before_those_of_the_host_and_says_so() {
    let (measured, database) = (Measured::start("up_since 5\n"), MadeDatabase::start(&OLD_UP));
    let host = Host::start(&format!("query.lookback = '1s'\n{}{}", measured.config(), database.config()), &[]);
    host.until_usage("app", |usage| usage["up"] == 1);
    let (mut answer, mut now_s) = (Value::Null, 0);
    let values_of = |answer: &Value| {
        let result = answer["data"]["result"].as_array().unwrap();
        let app = result.iter().find(|series| series["metric"]["id"] == "app").unwrap().clone();
        assert_eq!(app["metric"]["site"], Value::Null, "{app}");
        let pair = |pair: &Value| (pair[0].as_i64().unwrap(), pair[1].as_str().unwrap().to_owned());
        app["values"].as_array().unwrap().iter().map(pair).collect::<Vec<(i64, String)>>()
    };
    wait_until("the host has no values of its own", || {
        now_s = now();
        answer = range(&host, "up", now_s - 1000, now_s, 1);
        values_of(&answer).iter().filter(|(_, value)| value == "1").count() >= 2
    });
    let (now, asked_before) = (now_s, database.asked().len());
    let values = values_of(&answer);
    let own = values.iter().position(|(_, value)| value == "1").unwrap();
    let (older, own) = values.split_at(own);
    assert!(older.len() > 800 && older.iter().all(|(_, value)| value == "7"), "{values:?}");
    assert!(own.iter().all(|(_, value)| value == "1"), "{values:?}");
    // No time comes twice, and the database leaves none out.
    assert!(older.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1), "{values:?}");
    assert!(values.is_sorted_by(|one, other| one.0 < other.0), "{values:?}");
    let result = answer["data"]["result"].as_array().unwrap();
    assert!(result.iter().any(|series| series["metric"]["id"] == "gone"));
    let said = answer["infos"][0].as_str().unwrap();
    assert!(said.starts_with("values before 2") && said.ends_with(" come from far"), "{answer}");
    let asked = database.asked();
    assert!(asked[0].starts_with("query=up{instance=\"me\",site=\"fra1\"}&"), "{asked:?}");
    // What is known and cannot change is not asked for again.
    range(&host, "up", now - 1000, now, 1);
    let start = |form: &str| form.split("&start=").nth(1).unwrap().split('&').next().unwrap().parse::<f64>().unwrap();
    let again = &database.asked()[asked_before..];
    assert!(again.len() == 1 && start(&again[0]) > now as f64 - 200.0, "{again:?}");
    let asked_before = database.asked().len();
    // A recent window is none of its business.
    let recent = range(&host, "up", now - 1, now, 1);
    assert!(recent["infos"].is_null() && database.asked().len() == asked_before, "{recent}");
    // A query of another host is all the database's.
    let other = range(&host, "up{instance=\"other\"}", now - 10, now, 1);
    assert_eq!(other["data"]["result"][0]["values"].as_array().unwrap().len(), 11, "{other}");
    assert!(database.asked()[asked_before].starts_with("query=up{instance=\"other\"}&"), "{:?}", database.asked());
    // So is a value that needs what is older, at any time.
    let fixed = range(&host, &format!("up @ {}", now - 5000), now - 1, now, 1);
    assert_eq!(fixed["data"]["result"][0]["values"][1][1], "7", "{fixed}");
    // A subquery with very many steps is refused as it is without a database.
    let huge = range(&host, "max_over_time(up[1y:1ms])", now - 1, now, 1);
    assert_eq!(huge["status"], "error", "{huge}");
    assert_eq!(host.get("/health").status, 200);
    let instant = host.get(&format!("/api/v1/query?query=up&time={}", now - 5000)).json();
    assert_eq!(instant["data"]["result"][0]["value"][1], "7", "{instant}");
}

#[test]
fn the_samples_of_an_instance_have_older_points_from_the_database() {
    let field = r#"{"dropsonde_field":"up","id":"app"}"#;
    let low = r#"{"dropsonde_field":"up_min","id":"app"}"#;
    let (measured, database) =
        (Measured::start("up_since 5\n"), MadeDatabase::start(Box::leak(Box::new([field, low]))));
    let host = Host::start(&format!("{}{}", measured.config(), database.config()), &[]);
    host.until_usage("app", |usage| usage["up"] == 1);
    let path = "/v1/instances/app/usage/range?range=30d&fields=up&bands=1";
    // Its own are at most 1: a scrape may have failed.
    let is_own = |point: &Value| point["up"].as_f64() <= Some(1.0);
    let answer = host.until(path, |answer| answer.json().as_array().unwrap().last().is_some_and(is_own));
    let points = answer.json();
    let points = points.as_array().unwrap();
    assert!(points.len() > 100, "{points:?}");
    assert_eq!((&points[0]["up"], &points[0]["up_min"]), (&7.into(), &7.into()), "{points:?}");
    let said = answer.header("dropsonde-longer-history").unwrap().to_owned();
    assert!(said.starts_with("values before ") && said.ends_with(" come from far"), "{said}");
    let asked = database.asked();
    let expected = "label_replace(avg by (id, instance) (min_over_time(dropsonde_sample_up{instance=\"me\",site=\"fra1\",id=~\"app\"}[";
    assert!(asked[0].starts_with(&format!("query={expected}")), "{asked:?}");
    // Several instances, and a workload.
    let several = host.get("/v1/usage/range?instance=app&range=30d&fields=up").json();
    assert_eq!(several["app"][0]["up"], 7, "{several}");
    // An instance that lives elsewhere.
    let elsewhere = host.get("/v1/instances/elsewhere/usage/range?range=1h");
    assert_eq!(elsewhere.status, 200);
    assert!(!database.asked().last().unwrap().contains("instance="), "{:?}", database.asked().last());
}

#[test]
fn the_dashboard_shows_a_year_where_there_is_longer_history() {
    let (measured, database) = (Measured::start("up_since 5\n"), MadeDatabase::start(&FIELDS_OF_APP));
    let host = Host::start(&format!("{}{}", measured.config(), database.config()), &[]);
    host.until_usage("app", |usage| usage["up"] == 1);
    Browser::start("longer", &format!("http://{}", host.address), &["app"]).passes();
}

#[test]
fn a_database_that_is_away_costs_a_warning_and_not_the_answer() {
    let (measured, database) = (Measured::start("up_since 5\n"), MadeDatabase::start(&OLD_UP));
    let host = Host::start(&format!("{}{}", measured.config(), database.config()), &[]);
    host.until_usage("app", |usage| usage["up"] == 1);
    std::thread::sleep(Duration::from_secs(1));
    let now = now();
    let ask = |step: i64| range(&host, "up", now - 1000, now + 5, step);
    for (status, body, why) in [
        (500, "oh", "it answered 500"),
        (200, "<html>", "its answer is not that of a Prometheus"),
        (0, "", "it did not answer within 2 s"),
    ] {
        database.answer(status, body);
        let answer = ask(i64::from(status % 7) + 1);
        let said = answer["warnings"][0].as_str().unwrap();
        assert!(said.starts_with("values before ") && said.contains(why), "{answer}");
        assert_eq!(answer["data"]["result"][0]["metric"]["id"], "app", "{answer}");
    }
    // It is left in peace for a while: the answer is there at once.
    let (asked, began) = (database.asked().len(), Instant::now());
    let answer = ask(9);
    assert!(answer["warnings"][0].as_str().unwrap().ends_with("it is asked again soon"), "{answer}");
    assert!(database.asked().len() == asked && began.elapsed() < Duration::from_secs(2));
    let health = host.get("/health").body;
    assert!(health.contains("read_through"), "{health}");
    let points = host.get("/v1/instances/app/usage/range?range=30d&fields=up");
    assert!(points.header("dropsonde-warning").unwrap().contains("far"), "{points:?}");
    assert_eq!(points.json()[0]["up"], 1);
    // An error of the query itself is told, and no reason to leave it in peace.
    *database.reply.lock().unwrap() = None;
    wait_until("it is not asked again", || ask(11)["infos"][0].is_string());
    database.answer(422, r#"{"status":"error","errorType":"execution","error":"too many samples"}"#);
    assert!(ask(13)["warnings"][0].as_str().unwrap().ends_with("it refuses the query: too many samples"));
}

/// Returns the values of the first series of an answer.
fn values(answer: &Value) -> Vec<(i64, String)> {
    let pair = |pair: &Value| (pair[0].as_i64().unwrap(), pair[1].as_str().unwrap().to_owned());
    answer["data"]["result"][0]["values"].as_array().unwrap_or(&Vec::new()).iter().map(pair).collect()
}

#[test]
fn a_host_with_new_history_answers_as_one_that_kept_it_all() {
    let counter =
        |hits: u32| format!("# TYPE hits_total counter\nhits_total {hits}\n# TYPE depth gauge\ndepth {}\n", hits % 7);
    let (victoria, prometheus) = (Server::victoria_metrics(), Prometheus::receiving());
    let measured = Measured::start(&counter(0));
    let urls = [format!("http://{}", victoria.address), format!("http://{}", prometheus.address)];
    let to = |url: &String| format!("[[remote_write]]\nurl = '{url}/api/v1/write'\ninterval = '200ms'\n");
    let of_database = |url: &str, query: &str| {
        let path = format!("/api/v1/query?query={query}");
        request(url.trim_start_matches("http://"), "GET", &path, "").body
    };
    let before = Host::start(&format!("{}{}", measured.config(), urls.iter().map(to).collect::<String>()), &[]);
    for url in &urls {
        wait_until("the database has nothing", || of_database(url, "depth").contains("\"0\"]"));
    }
    let start = now() + 1;
    for hits in 1..60 {
        measured.set(&counter(hits * hits));
        std::thread::sleep(Duration::from_millis(200));
    }
    let end = now() - 1;
    let ask = |host: &Host, query: &str| range(host, query, start, end, 2);
    let queries = ["depth", "max_over_time(depth[2s])", "hits_total"];
    let whole: Vec<_> = queries.iter().map(|query| values(&ask(&before, query))).collect();
    let points = format!("/v1/instances/app/usage/range?since={start}&until={end}&resolution=2s&align=since&fields=up");
    let whole_points = before.get(&points).json();
    for url in &urls {
        let has_last = |(query, whole): (&&str, &Vec<(i64, String)>)| {
            let (at, value) = whole.last().unwrap();
            of_database(url, &format!("{}&time={at}", encoded(query))).contains(&format!("\"{value}\"]"))
        };
        wait_until("the database does not have all", || queries.iter().zip(&whole).all(has_last));
        let config = format!("{}[read_through]\nurl = '{url}'\n", measured.config());
        let host = Host::start(&config, &[]);
        host.until_usage("app", |usage| usage["up"] == 1);
        for (query, whole) in queries.iter().zip(&whole) {
            let answer = ask(&host, query);
            assert!(answer["infos"][0].is_string(), "{answer}");
            let got = values(&answer);
            assert!(whole.len() >= 4 && got == *whole, "{url} {query}: {got:?}\n{whole:?}");
        }
        assert_eq!(host.get(&points).json(), whole_points, "{url}");
    }
}
