//! Measures live streams of 300-byte samples from the whole binary to readers in another process: how late samples come
//! once a second, ten times a second, and with one reader in a hundred that reads nothing; the memory per reader; and
//! events per second of a core, beside those of bare `write` calls to as many sockets.
//! `cargo bench -p dropsonde --bench streams [-- READERS SECONDS]`

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a benchmark that cannot run says why")]

mod shared;

use dropsonde_builder::{Crate, Network, Toolchain};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use shared::Host;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bytes of a bare event: as many as a sample of eight fields has.
const FRAME: usize = 300;

/// One reader in this many reads nothing, where some do.
const STALLED: usize = 100;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |nth: usize, otherwise| arguments.get(nth).and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    raise_open_files();
    if arguments.first().is_some_and(|first| first == "client") {
        let client =
            Client::connect(arguments[1].parse().expect("an address"), &arguments[2], number(3, 1), number(4, 0));
        return client.read(Duration::from_secs(number(5, 1) as u64));
    }
    let (readers, seconds) = (number(0, 10_000), number(1, 20));
    println!("{readers} readers, {seconds} s");

    let folder = tempfile::tempdir().expect("a folder");
    let guest = Crate::at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests/eight")).expect("the guest");
    let toolchain = Toolchain::find(guest.target_dir()).expect("a toolchain");
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins).expect("a folder");
    fs::write(plugins.join("eight.wasm"), guest.build(&toolchain, Network::Allowed).expect("the guest")).expect("it");
    let config = folder.path().join("dropsonde.toml");
    let configure = |interval: &str| {
        let text = format!(
            "poll.interval = '10s'\nplugins_dir = '{}'\n[plugins.eight]\ninterval = '{interval}'\n\
             [[instances]]\nid = 'x'\nsamplers = ['eight']\n",
            plugins.display()
        );
        fs::write(&config, text).expect("the configuration");
        Host::start(&folder.path().join("data"), &["--config", &config.display().to_string()])
    };

    let host = configure("1s");
    let path = "/v1/instances/x/usage/stream";
    let empty = host.memory_kb();
    let all = client(&host.address, path, readers, 0, seconds);
    std::thread::sleep(Duration::from_secs(seconds as u64 / 2));
    let each = (host.memory_kb().saturating_sub(empty)) as f64 / readers as f64;
    println!("memory per reader: {each:.2} kB");
    println!("once a second:                         {}", all.told());
    drop(host);

    // Often enough that unread samples fill the kernel's buffer of a reader, and then the host's own buffer.
    let host = configure("100ms");
    let all = client(&host.address, path, readers, 0, seconds);
    std::thread::sleep(Duration::from_secs(seconds as u64 / 2));
    let (before, sent, lost) = (host.writers_cpu(), host.published(), host.lost());
    std::thread::sleep(Duration::from_secs(seconds as u64 / 4));
    let frames = (host.published() - sent) * readers as u64 - (host.lost() - lost);
    let ours = frames as f64 / (host.writers_cpu() - before).as_secs_f64();
    println!("ten times a second:                    {}", all.told());
    let some = client(&host.address, path, readers, readers / STALLED, 3 * seconds);
    println!("the same, 1 in {STALLED} reads nothing:       {}; lost {}", some.told(), host.lost());
    drop(host);
    let floor = floor(readers, seconds);
    println!("events/s per core: {:.0} k; bare writes {:.0} k: {:.0} %", ours / 1e3, floor / 1e3, 100.0 * ours / floor);
}

/// A process of its own with all readers.
struct Readers(Child);

fn client(address: &str, path: &str, readers: usize, stalled: usize, seconds: usize) -> Readers {
    let numbers = [readers, stalled, seconds].map(|number| number.to_string());
    let itself = std::env::current_exe().expect("this binary");
    let mut command = Command::new(itself);
    let mut child =
        command.args(["client", address, path]).args(numbers).stdout(Stdio::piped()).spawn().expect("itself");
    // It prints `ready` once all readers are connected.
    let mut said = [0; 6];
    child.stdout.as_mut().expect("its output").read_exact(&mut said).expect("its readers");
    Readers(child)
}

impl Readers {
    /// Waits for the process to end, and returns its measurement.
    fn told(mut self) -> String {
        let mut told = String::new();
        self.0.stdout.as_mut().expect("its output").read_to_string(&mut told).expect("its words");
        self.0.wait().expect("its end");
        told.trim().to_owned()
    }
}

/// Many sockets, polled by one thread.
struct Client {
    poll: Poll,
    sockets: Vec<TcpStream>,
    stalled: usize,
}

impl Client {
    fn connect(address: SocketAddr, path: &str, readers: usize, stalled: usize) -> Self {
        let poll = Poll::new().expect("epoll");
        let sockets = (0..readers).map(|nth| {
            let mut socket = std::net::TcpStream::connect(address).expect("the host");
            write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").expect("the host");
            socket.set_nonblocking(true).expect("a socket");
            if nth < stalled {
                rustix::net::sockopt::set_socket_recv_buffer_size(&socket, 4096).expect("a socket");
            }
            let mut socket = TcpStream::from_std(socket);
            if nth >= stalled {
                poll.registry().register(&mut socket, Token(nth), Interest::READABLE).expect("epoll");
            }
            socket
        });
        let sockets = sockets.collect();
        println!("ready");
        std::io::stdout().flush().expect("its output");
        Self { poll, sockets, stalled }
    }

    /// Reads for a while, then prints the number of events, and how long after its sample's time each came.
    fn read(mut self, long: Duration) {
        let (started, mut events) = (Instant::now(), Events::with_capacity(4096));
        let (mut late, mut frames, mut buffer) = (Vec::new(), 0_u64, vec![0; 64 << 10]);
        while let Some(rest) = long.checked_sub(started.elapsed()) {
            self.poll.poll(&mut events, Some(rest)).expect("epoll");
            for event in &events {
                let Some(socket) = self.sockets.get_mut(event.token().0) else { continue };
                loop {
                    match socket.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(count) => {
                            let text = &buffer[..count];
                            let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_millis();
                            for (nth, _) in text.windows(6).enumerate().filter(|(_, part)| part == b"\"at\":\"") {
                                frames += 1;
                                let at = text.get(nth + 6..nth + 30).and_then(|at| std::str::from_utf8(at).ok());
                                let at = at.and_then(|at| at.split('"').next()?.parse::<jiff::Timestamp>().ok());
                                // Count only the second half: the first sample was taken before, and stalled readers
                                // fill up slowly.
                                if started.elapsed() > long / 2 {
                                    late.extend(at.map(|at| now_ms as i64 - at.as_millisecond()));
                                }
                            }
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(_) => break,
                    }
                }
            }
        }
        late.sort_unstable();
        let share = |share: f64| late.get(((late.len() as f64 - 1.0) * share) as usize).copied().unwrap_or(-1);
        let reading = self.sockets.len() - self.stalled;
        println!(
            "{frames} events for {reading} readers; delay p50 {} ms, p99 {} ms, max {} ms",
            share(0.5),
            share(0.99),
            share(1.0)
        );
    }
}

/// Returns the events per second of a core of a thread that only writes.
fn floor(readers: usize, seconds: usize) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let accepted = std::thread::spawn(move || -> Vec<_> {
        (0..readers)
            .map(|_| {
                let (socket, _) = listener.accept().expect("a reader");
                socket.set_nodelay(true).expect("a socket");
                socket.set_nonblocking(true).expect("a socket");
                socket
            })
            .collect()
    });
    let client = client(&address, "/", readers, 0, seconds);
    let mut sockets = accepted.join().expect("readers");
    let (frame, mut frames) = (vec![b'x'; FRAME], 0_u64);
    let (started, before) = (Instant::now(), cpu("/proc/thread-self/schedstat"));
    let mut next = started;
    while started.elapsed() < Duration::from_secs(seconds as u64 / 2) {
        // As often as the host writes: the readers' speed is not measured.
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next += Duration::from_millis(100);
        frames += sockets.iter_mut().filter_map(|socket| socket.write(&frame).ok()).count() as u64;
    }
    let took = cpu("/proc/thread-self/schedstat") - before;
    drop(sockets);
    client.told();
    frames as f64 / took.as_secs_f64()
}

/// Returns the CPU time in a `schedstat` file.
fn cpu(schedstat: &str) -> Duration {
    let text = fs::read_to_string(schedstat).unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

impl Host {
    fn memory_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
    }

    /// Returns the CPU time of the threads that write to readers.
    fn writers_cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).expect("its threads");
        let writers = tasks
            .filter_map(Result::ok)
            .filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("stream-")));
        writers.map(|task| cpu(&task.path().join("schedstat").display().to_string())).sum()
    }

    /// Returns the number of samples that went to readers.
    fn published(&self) -> u64 {
        self.counted("dropsonde_messages_published_total{service=\"eight\"")
    }

    /// Returns the number of samples that slow readers lost.
    fn lost(&self) -> u64 {
        self.counted("dropsonde_samples_dropped_total{reason=\"slow_reader\"")
    }

    fn counted(&self, series: &str) -> u64 {
        let mut text = String::new();
        self.get("/metrics").read_to_string(&mut text).expect("its metrics");
        let line = text.lines().find(|line| line.starts_with(series));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    }
}

fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("more open files");
}
