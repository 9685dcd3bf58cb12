//! A real Prometheus scrapes a real host, in both formats.

use crate::harness::{Host, Prometheus, client, verbs};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use tempfile::TempDir;

/// Starts a proxy that scrapes a host in the classic text format. Returns its address.
fn classic_format_proxy(address: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = BufReader::new(stream.try_clone().unwrap()).lines();
            while request.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            let answer = client::request(&address, "GET", "/metrics", "Accept: text/plain;version=0.0.4\r\n");
            let (kind, length) = (answer.header("content-type").unwrap(), answer.body.len());
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(answer.body.as_bytes()));
        }
    });
    own
}

#[test]
fn prometheus_scrapes_both_formats_and_reads_the_values_of_the_api() {
    let config = "poll.interval = '100ms'\n[[instances]]\nid = 'version'\nlabels = { workload = 'w' }\nsamplers = ['verbs']\n[[instances]]\nid = 'measure'\nsamplers = ['verbs']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    host.until("/v1/instances/measure/usage", |usage| usage.status == 200);
    let prometheus =
        Prometheus::start(&[("open", &host.address), ("classic", &classic_format_proxy(host.address.clone()))]);
    for job in ["open", "classic"] {
        assert_eq!(prometheus.until(&format!("up{{job=\"{job}\"}}"), |up| up == 1.0), 1.0);
        let version =
            format!("dropsonde_sample_value{{job=\"{job}\",id=\"version\",workload=\"w\",sampler=\"verbs\"}}");
        let usage = host.get("/v1/instances/version/usage").json();
        assert_eq!(Some(prometheus.until(&version, |_| true)), usage["value"].as_f64());
        prometheus.until(&format!("verbs_level{{job=\"{job}\",plugin=\"verbs\"}}"), |level| level == 4.5);
        prometheus
            .until(&format!("rate(dropsonde_sample_verb_calls_total{{job=\"{job}\",id=\"version\"}}[1m])"), |rate| {
                rate > 1.0
            });
        let quantile = format!("histogram_quantile(0.9, rate(verbs_seconds_bucket{{job=\"{job}\"}}[1m]))");
        prometheus.until(&quantile, |quantile| (0.1..=1.0).contains(&quantile));
        prometheus.until(&format!("scrape_samples_scraped{{job=\"{job}\"}}"), |samples| samples > 100.0);
    }
    // The same series under the same labels, whichever format they came in.
    let differ = "count(count by (__name__, le) ({job=\"open\",__name__=~\"verbs_.*\"}) unless count by (__name__, le) ({job=\"classic\"})) or vector(0)";
    prometheus.until(differ, |differ| differ == 0.0);
}

#[test]
fn prometheus_scrapes_a_host_that_requires_a_token_and_a_client_certificate() {
    let folder = TempDir::new().unwrap();
    let here = folder.path().display().to_string();
    let write = |file: &str, pem: String| fs::write(folder.path().join(file), pem).unwrap();
    for file in ["host", "client"] {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        write(&format!("{file}.pem"), made.cert.pem());
        write(&format!("{file}.key"), made.signing_key.serialize_pem());
    }
    let config = format!(
        "poll.interval = '100ms'\nauth.read_token_file = '{here}/read.token'\n\
         [tls]\ncert = '{here}/host.pem'\nkey = '{here}/host.key'\nclient_ca = '{here}/client.pem'\n"
    );
    let host = Host::start(&config, &[]);
    let address = host.address.replace("127.0.0.1", "localhost");
    let job = |name: &str, more: &str| {
        format!(
            "  - job_name: {name}\n    scheme: https\n    tls_config:\n      ca_file: {here}/host.pem\n      \
             cert_file: {here}/client.pem\n      key_file: {here}/client.key\n{more}    static_configs:\n      \
             - targets: ['{address}']\n"
        )
    };
    let token = format!("    authorization: {{ credentials_file: {here}/read.token }}\n");
    let prometheus = Prometheus::with(&(job("known", &token) + &job("stranger", "")));
    prometheus.until("up{job=\"known\"}", |up| up == 1.0);
    prometheus.until("up{job=\"stranger\"}", |up| up == 0.0);
    prometheus.until("dropsonde_sample_memory_used_bytes{job=\"known\",id=\"host\"}", |bytes| bytes > 0.0);
}
