//! Limits per peer: a greedy peer beside a modest one.

use crate::harness::{connect_from, request, send, stream, verbs};
use dropsonde::config::{Config, Size};
use dropsonde::host::Host;
use dropsonde::native::{Failure, Field, Sampler};
use dropsonde::store::{InstanceId, Schema, StoredField};
use dropsonde::tracked::TrackRequest;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Number of points of `big`, a second apart.
const POINTS: i64 = 1000;

/// Starts a host with an instance of 256 fields.
async fn host_with_big_instance(change: impl FnOnce(&mut Config)) -> Host {
    let mut config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)).into(), ..Config::default() };
    config.store.memory_only = true;
    change(&mut config);
    let host = Host::builder().config(config).without_plugins().start().await.unwrap();
    let fields = (0..256).map(|nth| StoredField::gauge(format!("field_{nth}"))).collect();
    let id = InstanceId::new("big").unwrap();
    let frame = host.engine().store.frame(&id, &Schema::new("s", fields), 1000);
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    for nth in 0..POINTS {
        let values: Vec<_> = (0..256).map(|field| (nth * field) as f64 / 7.0).collect();
        frame.push(now_ms - (POINTS - nth) * 1000, &values);
    }
    host
}

/// Raises the limit of open files to its maximum.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// Sends a request from the greedy peer, and reads the beginning of the response.
fn send_and_read_head(address: &str, path: &str) -> (TcpStream, String) {
    let mut socket = connect_from(GREEDY, address);
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut head = vec![0; 1024];
    let count = socket.read(&mut head).unwrap();
    head.truncate(count);
    (socket, String::from_utf8_lossy(&head).into_owned())
}

/// Returns the JSON of a response, also one in chunks. Repeats the request while the host refuses it with 429: the
/// memory of the response before may be given back a moment after it was read.
fn get_json_once_admitted(address: &str, path: &str) -> serde_json::Value {
    let answers = std::iter::repeat_with(|| stream(address, path, ""));
    let answer = answers.take(1000).find(|answer| answer.head.status != 429).unwrap();
    assert_eq!(answer.head.status, 200, "{path}");
    serde_json::from_str(&answer.read_body()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_responses_of_one_peer_leave_memory_to_other_peers() {
    // A peer may have 2 MiB, which is two large answers.
    let host = host_with_big_instance(|config| config.http.max_answer_bytes = Some(Size::new(4 << 20))).await;
    let address = host.address().to_string();
    tokio::task::spawn_blocking(move || {
        for path in [
            "/v1/instances/big/usage/range?range=1h&resolution=1s",
            "/v1/usage/range?instance=big&range=1h&resolution=1s&bands=1",
            "/telemetry/history?host=big&range=24h",
        ] {
            // That the ones before have left is noticed once something is written to them.
            let large = "/v1/instances/big/usage/range?range=1h&resolution=1s";
            let ask_again = || {
                std::iter::repeat_with(|| send_and_read_head(&address, large)).find(|(_, head)| !head.contains(" 429 "))
            };
            let held = [(); 2].map(|()| ask_again().unwrap());
            for (_, head) in &held {
                assert!(head.starts_with("HTTP/1.1 200") && !head.contains("content-length"), "{head}");
            }
            let (_, refused) = send_and_read_head(&address, path);
            assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("retry-after: 5"), "{refused}");
            assert!(refused.contains("http.max_answer_bytes"), "{refused}");
            // Another has all of it.
            assert!(get_json_once_admitted(&address, path).to_string().contains("\"field_255\":"), "{path}");
        }
        let points = get_json_once_admitted(&address, "/v1/instances/big/usage/range?range=1h&resolution=1s");
        assert!(points.as_array().unwrap().len() as i64 >= POINTS - 1);
        let small = request(&address, "GET", "/v1/instances/big/usage/range?range=1m&fields=field_1", "");
        assert!(small.header("content-length").is_some(), "{small:?}");
    })
    .await
    .unwrap();
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_guesses_tokens_at_the_login_gets_429_and_other_peers_can_log_in() {
    let folder = tempfile::TempDir::new().unwrap();
    let token = folder.path().join("read.token");
    std::fs::write(&token, "the right one").unwrap();
    let host = host_with_big_instance(|config| config.auth.read_token_file = Some(token)).await;
    let address = host.address().to_string();
    tokio::task::spawn_blocking(move || {
        let guess = |token: &str| {
            let mut socket = connect_from(GREEDY, &address);
            let head = format!(
                "POST /login HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
            );
            socket.write_all(head.as_bytes()).unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).unwrap();
            answer
        };
        for _ in 0..10 {
            let login = guess("the right one");
            assert!(login.starts_with("HTTP/1.1 204"), "{login}");
            assert!(guess("guessed").starts_with("HTTP/1.1 401"));
        }
        let refused = guess("guessed");
        assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("retry-after: "), "{refused}");
        assert!(guess("the right one").starts_with("HTTP/1.1 429"), "it could be a guess");
        let login = send(&address, "POST", "/login", "Authorization: Bearer the right one\r\n", &[]);
        assert_eq!(login.status, 204, "{login:?}");
    })
    .await
    .unwrap();
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_request_bodies_of_one_peer_leave_memory_to_other_peers() {
    let folder = tempfile::TempDir::new().unwrap();
    let token = folder.path().join("write.token");
    std::fs::write(&token, "may write").unwrap();
    let host = host_with_big_instance(|config| {
        config.auth.write_token_file = Some(token);
        config.http.max_answer_bytes = Some(Size::new(4 << 20));
    })
    .await;
    let address = host.address().to_string();
    tokio::task::spawn_blocking(move || {
        let begin = |length: usize| {
            let mut socket = connect_from(GREEDY, &address);
            let head = format!(
                "POST /v1/events HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer may write\r\n\
                 Content-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
            );
            socket.write_all(head.as_bytes()).unwrap();
            let mut answer = vec![0; 1024];
            let count = socket.read(&mut answer).unwrap();
            (socket, String::from_utf8_lossy(answer.get(..count).unwrap()).into_owned())
        };
        // Each counts twice.
        let held = [(); 2].map(|()| begin(500 << 10));
        assert!(held.iter().all(|(_, answer)| answer.starts_with("HTTP/1.1 100")), "{held:?}");
        let (_, refused) = begin(500 << 10);
        assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("http.max_answer_bytes"), "{refused}");
        let (_, small) = begin(1000);
        assert!(small.starts_with("HTTP/1.1 100"), "{small}");
        let mut body = br#"[{"type":"instance.created","instance":"modest"}"#.to_vec();
        body.resize(500 << 10, b' ');
        body.push(b']');
        let done = send(&address, "POST", "/v1/events", "Authorization: Bearer may write\r\n", &body);
        assert_eq!(done.status, 202, "{done:?}");
        let health = request(&address, "GET", "/health", "").body;
        assert!(health.contains("127.0.0.2") && !health.contains("127.0.0.1"), "{health}");
    })
    .await
    .unwrap();
    host.stop().await;
}

/// Starts a host with 1500 instances every 100 ms and one that counts, and opens as many streams of all of them from
/// one peer, without reading any.
fn host_with_1500_streams(version: &str) -> (crate::harness::Host, Vec<TcpStream>) {
    let config = "poll.interval = '100ms'\npoll.discover_interval = '1h'\n\
                  [[instances]]\nid = 'count'\nsamplers = ['modest']\n[plugins.modest]\nlimits = { deadline = '10s' }\n\
                  [plugins.flock]\nconfig = { flock = 1500 }\nlimits = { cpu = '90ms', output = '64MiB' }\n\
                  [plugins.procfs]\ninterval = '1h'\n";
    let host = crate::harness::Host::start(config, &[("flock", verbs()), ("modest", verbs())]);
    host.until("/v1/instances/flock-1499/usage", |usage| usage.status == 200);
    let open = || {
        let mut socket = connect_from(GREEDY, &host.address);
        write!(socket, "GET /v1/stream {version}\r\nHost: {}\r\n\r\n", host.address).unwrap();
        socket
    };
    let streams = (0..1500).map(|_| open()).collect();
    (host, streams)
}

#[test]
fn unread_streams_of_one_peer_delay_no_other_peer_and_health_names_that_peer() {
    assert_unread_streams_delay_no_other_peer("HTTP/1.1");
}

#[test]
fn unread_http_1_0_streams_of_one_peer_delay_no_other_peer_and_health_names_that_peer() {
    assert_unread_streams_delay_no_other_peer("HTTP/1.0");
}

/// Reads some sockets until the other end has closed all of them.
fn read_all(mut sockets: Vec<TcpStream>) {
    sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    let mut piece = vec![0; 64 << 10];
    while !sockets.is_empty() {
        sockets.retain_mut(|socket| match socket.read(&mut piece) {
            Ok(count) => count > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
    }
}

#[test]
fn many_http_1_0_streams_read_by_one_peer_cost_another_peer_no_sample() {
    raise_open_files();
    let (host, streams) = host_with_1500_streams("HTTP/1.0");
    host.until("/metrics", |metrics| metrics.body.contains("dropsonde_sessions_active 1500\n"));
    let reading = std::thread::spawn(|| read_all(streams));
    assert_no_sample_is_missed(&mut host.stream("/v1/instances/count/usage/stream"));
    drop(host);
    reading.join().unwrap();
}

/// Checks that a modest stream has each of 50 samples.
fn assert_no_sample_is_missed(modest: &mut crate::harness::EventStream) {
    let (_, _, first) = modest.next_event();
    let first = first["value"].as_u64().unwrap();
    for count in first + 1..first + 50 {
        let (what, _, sample) = modest.next_event();
        assert_eq!((&*what, sample["value"].as_u64()), ("usage", Some(count)));
    }
}

fn assert_unread_streams_delay_no_other_peer(version: &str) {
    raise_open_files();
    let (host, unread) = host_with_1500_streams(version);
    host.until("/metrics", |metrics| metrics.body.contains("dropsonde_sessions_active 1500\n"));
    let begins = Instant::now();
    let mut modest = host.stream("/v1/instances/count/usage/stream");
    modest.next_event();
    // A minute and more where all streams are written in turn.
    assert!(begins.elapsed() < Duration::from_secs(20), "it began after {:?}", begins.elapsed());
    assert_no_sample_is_missed(&mut modest);
    host.until("/health", |health| health.body.contains("client 127.0.0.2 reads many of its streams more slowly"));
    assert!(!host.get("/health").body.contains("127.0.0.1"), "who reads is not named");
    drop(unread);
}

/// A sampler with 200 fields, all of which are on its page.
struct WideSampler(String);

impl Sampler for WideSampler {
    fn name(&self) -> &str {
        &self.0
    }

    fn fields(&self) -> Vec<Field> {
        (0..200).map(|nth| Field::gauge(format!("field_of_a_plugin_with_very_many_{nth}"), "One of many.")).collect()
    }

    fn sample(&mut self, _: &InstanceId) -> Result<Vec<f64>, Failure> {
        Err(Failure::Gone)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_lists_of_hosts_and_plugins_are_sent_in_chunks_and_count_against_the_peers_share() {
    // More than the kernel keeps for a client that reads nothing.
    const HOSTS: usize = 40_000;
    const PLUGINS: usize = 200;
    let mut config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)).into(), ..Config::default() };
    config.store.memory_only = true;
    config.http.max_answer_bytes = Some(Size::new(4 << 20));
    let mut host = Host::builder().config(config).without_plugins();
    for nth in 0..PLUGINS {
        host = host.sampler(WideSampler(format!("wide-{nth:03}")));
    }
    let host = host.start().await.unwrap();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    for nth in 0..HOSTS {
        let id = InstanceId::new(format!("{nth:0250}")).unwrap();
        let wanted = TrackRequest { id: id.clone(), labels: Default::default(), samplers: Some(Vec::new()) };
        host.engine().track(wanted).unwrap();
        host.engine().store.frame(&id, &Schema::new("s", vec![StoredField::gauge("x")]), 1000).push(now_ms, &[1.0]);
    }
    let address = host.address().to_string();
    tokio::task::spawn_blocking(move || {
        let path = "/telemetry/hosts";
        let held = [(); 2].map(|()| send_and_read_head(&address, path));
        for (_, head) in &held {
            assert!(head.starts_with("HTTP/1.1 200") && !head.contains("content-length"), "{head}");
        }
        let (_, refused) = send_and_read_head(&address, path);
        assert!(refused.starts_with("HTTP/1.1 429") && refused.contains("http.max_answer_bytes"), "{refused}");
        let hosts = get_json_once_admitted(&address, "/telemetry/hosts");
        let hosts: Vec<_> = hosts["hosts"].as_array().unwrap().iter().map(|host| host.as_str().unwrap()).collect();
        assert!(hosts.len() == HOSTS && hosts.is_sorted(), "{}", hosts.len());
        drop(held);
        // The memory of the answers before may not be free yet.
        let mut answers = std::iter::repeat_with(|| stream(&address, "/v1/plugins", ""));
        let plugins = answers.find(|plugins| plugins.head.status != 429).unwrap();
        assert_eq!((plugins.head.status, plugins.head.header("content-length")), (200, None), "it is large, too");
        let plugins: serde_json::Value = serde_json::from_str(&plugins.read_body()).unwrap();
        let names: Vec<_> = plugins.as_array().unwrap().iter().map(|page| page["name"].as_str().unwrap()).collect();
        assert!(names.len() >= PLUGINS && names.is_sorted(), "{names:?}");
    })
    .await
    .unwrap();
    host.stop().await;
}

#[test]
fn slow_scrapers_of_many_addresses_keep_no_scrape_from_another() {
    const EACH: usize = 16;
    raise_open_files();
    let config = "poll.interval = '500ms'\n[plugins.flock.config]\nflock = 3000\n";
    let host = crate::harness::Host::start(config, &[("flock", verbs())]);
    // More than sockets take unread.
    host.until("/metrics", |metrics| metrics.body.len() > 300_000);
    let scrape = |address: u8| {
        let mut socket = connect_from(Ipv4Addr::new(127, 0, 1, address), &host.address);
        write!(socket, "GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", host.address).unwrap();
        let mut head = [0; 12];
        socket.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        socket
    };
    let unread: Vec<_> = (1..=10).flat_map(|address| (0..EACH).map(move |_| address)).map(scrape).collect();
    for _ in 0..3 {
        let asked = Instant::now();
        assert_eq!(host.get("/metrics").status, 200);
        assert!(asked.elapsed() < Duration::from_secs(5), "it waited for a place");
    }
    drop(unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_names_the_clients_that_have_most_of_a_pool_when_nothing_is_left_for_others() {
    let host = host_with_big_instance(|config| config.http.max_answer_bytes = Some(Size::new(4 << 20))).await;
    let address = host.address().to_string();
    tokio::task::spawn_blocking(move || {
        let large = "/v1/instances/big/usage/range?range=1h&resolution=1s";
        let ask = |last: u8| {
            let mut socket = connect_from(Ipv4Addr::new(127, 0, 0, last), &address);
            write!(socket, "GET {large} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
            let mut head = [0; 12];
            socket.read_exact(&mut head).unwrap();
            (socket, String::from_utf8_lossy(&head).into_owned())
        };
        let held: Vec<_> = (2..12).map(ask).take_while(|(_, head)| !head.ends_with("503")).collect();
        assert!(held.len() < 10 && held.iter().all(|(_, head)| head.ends_with("200")), "{held:?}");
        let health = request(&address, "GET", "/health", "").body;
        assert!(health.contains("has 1048576 of answer_bytes, and nothing is left for others"), "{health}");
        assert!(health.contains("http.max_answer_bytes"), "{health}");
    })
    .await
    .unwrap();
    host.stop().await;
}
