//! Measures events sent over HTTP to the bundled observer, in batches of 1000: events per second that the host accepts,
//! and events per second that the observer gets. `cargo bench -p dropsonde --bench events [-- SECONDS]`

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark that cannot run says why")]

mod shared;

use shared::Host;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const CLIENTS: usize = 4;
const BATCH: usize = 1000;

fn main() {
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(5);
    let folder = tempfile::tempdir().expect("a folder");
    let host = Host::start(folder.path(), &[]);
    let address = &host.address;
    let token = fs::read_to_string(folder.path().join("write.token")).expect("the token");
    while !host.get("/v1/snapshot").lines().map_while(Result::ok).any(|line| line.contains("appstats")) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let event = r#"{"name":"envelope.published","subject":"room-17","attributes":{"aspect":"chat"}}"#;
    let body = vec![event; BATCH].join("\n");
    let request = format!(
        "POST /v1/sources/appstats/events HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{body}",
        token.trim(),
        body.len()
    );
    let (taken, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let started = Instant::now();
    let until = started + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut socket = TcpStream::connect(address).expect("the host");
                let mut answers = BufReader::new(socket.try_clone().expect("a socket"));
                while Instant::now() < until {
                    socket.write_all(request.as_bytes()).expect("the host");
                    match status(&mut answers) {
                        202 => drop(taken.fetch_add(BATCH as u64, Relaxed)),
                        429 => {
                            refused.fetch_add(1, Relaxed);
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        other => panic!("{other}"),
                    }
                }
            });
        }
    });
    let took = started.elapsed().as_secs_f64();
    let told = told(&host);
    let per_second = |count: u64| count as f64 / took;
    println!(
        "accepted {:.0} events/s, handled by the observer {:.0} events/s",
        per_second(taken.load(Relaxed)),
        per_second(told)
    );
    println!("{} requests of {BATCH} events refused (queue full)", refused.load(Relaxed));
}

/// Returns the number of events that the observer took.
fn told(host: &Host) -> u64 {
    let metric = "dropsonde_messages_processed_total{service=\"appstats\",status=\"ok\",type=\"event\"} ";
    let mut lines = host.get("/metrics").lines().map_while(Result::ok);
    lines.find_map(|line| line.strip_prefix(metric)?.parse().ok()).unwrap_or(0)
}

/// Reads the next answer and returns its status.
fn status(answers: &mut BufReader<TcpStream>) -> u16 {
    let mut line = String::new();
    answers.read_line(&mut line).expect("an answer");
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let mut length = 0;
    loop {
        let mut line = String::new();
        answers.read_line(&mut line).expect("a header");
        if line.trim().is_empty() {
            break;
        }
        length = line.strip_prefix("content-length: ").map_or(length, |text| text.trim().parse().unwrap_or(0));
    }
    let mut body = vec![0; length];
    answers.read_exact(&mut body).expect("a body");
    status
}
