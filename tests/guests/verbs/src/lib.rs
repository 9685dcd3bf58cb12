//! The tests' guest: an instance's id is a verb, and sampling the instance does it.
//!
//! Well-behaved: `ok` reads 1, `count` counts its own calls, `gap` reads a gap, `unavailable` nothing, `gone` is gone,
//! `remember` counts in saved state; `read` reads the file in the configuration, `list` lists the folder, `env` reads
//! the variable, `get` asks for the URL, `walk` reads what it can of the folders WASI shows. `post` sends the URL a
//! POST with a header and a large body. `raid` sends the host of the configuration requests that its grant does not
//! allow, then one that it does.
//!
//! `measure` has metrics of its own and reads how many of them were refused, `wrong` such as are not taken, `labels`
//! ever more series, `once` counts, sets a gauge, and panics the first time; `astray` records where nothing is;
//! `single` records ten thousand times, `batch` the same at once.
//!
//! `series` reports series of its own: two counters, one of them only at every other call, a gauge with labels that the
//! host has too, and values of an instance that nobody asked for. It reads how many definitions were refused.
//!
//! `version` reads which version of the guest this is: tests make others by changing `VERSION` in the component. From
//! 90000 on they have other fields, 66666 panics in `init`, 77777 in `sample`, 55555 refuses its configuration.
//!
//! Every call counts to the number in the file `work` of the configuration, whomever it is for.
//!
//! Others: `panic` panics, `spin` never returns, `wait` waits for ever, `hoard` takes all memory, `recurse` all stack,
//! `flood` logs much, `line` a megabyte at once, `long` returns too much, `handles` holds too many resources, `headers`
//! sends too many, `random` asks for too much, `shout` passes fifty megabytes, `requests` prepares requests without
//! end, `dial` opens a socket, `infinite` reads ∞, `short` returns a value too few, `stranger` a failure for a row
//! nobody asked for.

use dropsonde_guest::{Config, Failure, Field, Instance, Need, Reading, Readings, Sampler, Tick, export_sampler};
use dropsonde_guest::{env, files, http, log, metrics, series, state};
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

static VERSION: &str = "version-00001";

fn version() -> f64 {
    // Known when it runs, not when it is compiled.
    let version: Option<f64> = black_box(VERSION).strip_prefix("version-").and_then(|number| number.parse().ok());
    version.unwrap_or(f64::NAN)
}

#[derive(Default)]
struct Verbs {
    settings: Settings,
    calls: f64,
    /// How many of a flock there were.
    found: u32,
}

#[derive(Default, Clone, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    discover: Vec<String>,
    read: Option<String>,
    list: Option<String>,
    env: Option<String>,
    get: Option<String>,
    post: Option<String>,
    raid: Option<String>,
    walk: Option<String>,
    work: Option<String>,
    /// Names of the fields, others than usual.
    fields: Option<[String; 2]>,
    /// `panic`, `spin` or `refuse`, in `init`.
    init: Option<String>,
    /// Finds so many more, `flock-0` and so on.
    flock: u32,
    /// They are others every time.
    churn: bool,
    /// Has so many fields more, which are kept to every bit and read ever other noise.
    wide: u32,
}

impl Sampler for Verbs {
    fn needs(config: &Config) -> Result<Vec<Need>, Failure> {
        let Settings { read, list, env, get, post, walk, work, .. } = config.parse()?;
        let (read, list, work) = (read.map(Need::read), list.map(Need::read), work.map(Need::read));
        let origin = get.or(post).map(|url| Need::http(url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/")));
        Ok([read, list, work, env.map(Need::env), origin, walk.map(Need::dir)].into_iter().flatten().collect())
    }

    fn init(&mut self, config: &Config) -> Result<(), Failure> {
        self.settings = config.parse()?;
        if version() == 66666.0 {
            act("panic", &self.settings)?;
        }
        if version() == 55555.0 {
            return Err(Failure::invalid("this version wants another"));
        }
        match self.settings.init.as_deref() {
            None => Ok(()),
            Some("refuse") => Err(Failure::invalid("it says so")),
            Some(verb) => act(verb, &self.settings).map(drop),
        }
    }

    fn fields(&self) -> Vec<Field> {
        let value = if version() >= 90000.0 { "other_value" } else { "value" };
        let usual = [value.to_owned(), "calls_per_sec".to_owned()];
        let [value, calls] = self.settings.fields.clone().unwrap_or(usual);
        let mut fields = vec![
            Field::gauge(value, "What the verb gave").precision(0.001),
            Field::rate(calls, "Calls of this instance of the plugin", "verb_calls_total"),
        ];
        fields.extend((0..self.settings.wide).map(|nth| Field::gauge(format!("wide_{nth}"), "Noise")));
        fields
    }

    fn discover(&mut self, _: &Tick) -> Result<Vec<Instance>, Failure> {
        let first = if self.settings.churn { self.found } else { 0 };
        self.found += self.settings.flock;
        let flock = (first..first + self.settings.flock).map(|nth| Instance::new(format!("flock-{nth}")));
        Ok(self.settings.discover.iter().map(Instance::new).chain(flock).collect())
    }

    fn sample(&mut self, verb: &str) -> Result<Reading, Failure> {
        if version() == 77777.0 {
            act("panic", &self.settings)?;
        }
        let value = match verb {
            "count" => self.calls,
            "series" => report_series(self.calls),
            _ => act(verb, &self.settings)?,
        };
        let mut values = vec![value, self.calls];
        values.extend(
            (0..self.settings.wide).map(|nth| ((self.calls + 1.0) * 0.618_033_988_7 * f64::from(nth + 1)).fract()),
        );
        Ok(Reading::from(values))
    }

    fn sample_all(&mut self, _: &Tick, verbs: &[String]) -> Result<Readings, Failure> {
        self.calls += 1.0;
        if let Some(file) = &self.settings.work {
            let turns = files::read_to_string(file)?.trim().parse::<u64>();
            let turns = turns.map_err(|error| Failure::unavailable(error.to_string()))?;
            (0..turns).for_each(|turn| {
                black_box(turn);
            });
        }
        let (fields, mut readings) = (self.fields(), Readings::default());
        for verb in verbs {
            let reading = self.sample(verb);
            readings.push(reading, &fields);
        }
        for verb in verbs {
            match verb.as_str() {
                "long" => readings.values = vec![0.0; 4 << 20],
                "short" => drop(readings.values.pop()),
                "stranger" => readings.failures.push((verbs.len() as u32, Failure::Gone)),
                _ => {}
            }
        }
        Ok(readings)
    }
}

/// Reports series. Returns how many definitions were refused.
fn report_series(calls: f64) -> f64 {
    use series::MetricType::{Counter, Gauge};
    let define = |name, metric_type, labels: &[(&str, &str)]| series::define(name, metric_type, "Help.", labels);
    let wanted = [
        define("verb_reads_total", Counter, &[("part", "a")]),
        define("verb_depth", Gauge, &[("id", "own"), ("sampler", "me"), ("zone", "verbs")]),
        define("verb_reads_total", Counter, &[("part", "b")]),
        define("verb reads", Gauge, &[]),
        define("verb_reads", Gauge, &[("__name__", "up")]),
    ];
    let values = [calls, 0.5, calls * 10.0];
    let defined = wanted.iter().flatten().copied().zip(values);
    let points: Vec<_> = defined.take(if calls % 2.0 == 0.0 { 2 } else { 3 }).collect();
    series::report("series", &points);
    series::report("nobody", &points);
    wanted.iter().filter(|defined| defined.is_err()).count() as f64
}

#[allow(clippy::panic, reason = "one of the verbs")]
fn act(verb: &str, settings: &Settings) -> Result<f64, Failure> {
    match verb {
        "measure" => measure()?,
        "wrong" => return Ok(wrong()),
        "once" => once()?,
        "labels" => return labels(),
        "single" | "batch" => record(verb == "batch")?,
        #[cfg(target_family = "wasm")]
        "astray" => {
            use dropsonde_guest::glue::dropsonde::plugin::metrics as host;
            host::record(u32::MAX, 1.0);
            host::record_many(&[(0, 1.0), (1 << 20, f64::NAN)]);
        }
        "version" => return Ok(version()),
        "gap" => return Ok(f64::NAN),
        "infinite" => return Ok(f64::INFINITY),
        "unavailable" => return Err(Failure::unavailable("not now")),
        "gone" => return Err(Failure::Gone),
        "panic" => panic!("told to"),
        "spin" => spin(),
        "hoard" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(vec![1_u8; 1 << 20]);
                black_box(&hoard);
            }
        }
        "recurse" => return Ok(recurse(1.0)),
        "flood" => (0..1000).for_each(|line| log::info(format!("line {line}\n\x1b[31mforged"))),
        #[cfg(target_family = "wasm")]
        "walk" => return walk().map(|files| files as f64).map_err(Failure::unavailable),
        #[cfg(target_family = "wasm")]
        "dial" => {
            use wasip2::sockets::{
                instance_network::instance_network, network::IpAddressFamily, network::Ipv4SocketAddress,
            };
            use wasip2::sockets::{network::IpSocketAddress, tcp_create_socket::create_tcp_socket};
            let address = Ipv4SocketAddress { port: 22, address: (127, 0, 0, 1) };
            let socket =
                create_tcp_socket(IpAddressFamily::Ipv4).map_err(|error| Failure::Denied(format!("{error:?}")))?;
            let dialed = socket.start_connect(&instance_network(), IpSocketAddress::Ipv4(address));
            dialed.map_err(|error| Failure::Denied(format!("{error:?}")))?;
        }
        #[cfg(target_family = "wasm")]
        "shout" => drop(wasip2::http::types::Fields::new().append("x", &vec![b'x'; 50 << 20])),
        #[cfg(target_family = "wasm")]
        "requests" => {
            use wasip2::http::types::{Fields, Method, OutgoingRequest};
            let mut held = Vec::new();
            loop {
                let request = OutgoingRequest::new(Fields::new());
                let _ = request.set_method(&Method::Other("x".repeat(100_000)));
                let _ = request.set_authority(Some(&"x".repeat(100_000)));
                let body = request.body().and_then(|body| body.write().map(|stream| (body, stream)));
                if let Ok((_body, stream)) = body {
                    while stream
                        .check_write()
                        .is_ok_and(|room| room > 0 && stream.write(&vec![b'x'; room as usize]).is_ok())
                    {
                    }
                }
                held.push(request);
            }
        }
        "line" => log::info("x".repeat(1 << 20)),
        #[cfg(target_family = "wasm")]
        "wait" => wasip2::clocks::monotonic_clock::subscribe_duration(u64::MAX / 2).block(),
        #[cfg(target_family = "wasm")]
        "handles" => {
            let mut held = Vec::new();
            loop {
                held.push(wasip2::clocks::monotonic_clock::subscribe_duration(1));
                black_box(&held);
            }
        }
        #[cfg(target_family = "wasm")]
        "headers" => {
            let fields = wasip2::http::types::Fields::new();
            let refused = (0..40_000).filter(|nth| fields.append(&format!("x-{nth}"), b"x").is_err()).count();
            return Ok(refused as f64);
        }
        #[cfg(target_family = "wasm")]
        "random" => return Ok(wasip2::random::random::get_random_bytes(1 << 30).len() as f64),
        "list" => return Ok(files::entries(settings.list.as_deref().unwrap_or_default())?.len() as f64),
        "env" => {
            let value = env::var(settings.env.as_deref().unwrap_or_default());
            return value.map(|value| value.len() as f64).ok_or_else(|| Failure::unavailable("it is not there"));
        }
        "get" => {
            let answer = http::get(settings.get.as_deref().unwrap_or_default(), Duration::from_millis(800))?;
            return Ok(f64::from(answer.status) + answer.body.len() as f64 / 1000.0);
        }
        "post" => {
            let request = http::Request::new("POST", settings.post.as_deref().unwrap_or_default())
                .header("authorization", "Bearer secret")
                .body(vec![b'x'; 300_000]);
            let answer = request.send(Duration::from_millis(800))?;
            return answer.text().parse().map_err(|_| Failure::unavailable(answer.text()));
        }
        #[cfg(target_family = "wasm")]
        "raid" => return raid(settings.raid.as_deref().unwrap_or_default()).map_err(Failure::unavailable),
        "read" => return Ok(files::read(settings.read.as_deref().unwrap_or_default())?.len() as f64),
        "remember" => {
            let times = state::load().and_then(|bytes| bytes.first().copied()).unwrap_or(0).saturating_add(1);
            state::save(&[times]).map_err(Failure::unavailable)?;
            return Ok(f64::from(times));
        }
        _ => {}
    }
    Ok(1.0)
}

/// Returns the status of the one request that is allowed, after all that are not.
#[cfg(target_family = "wasm")]
fn raid(authority: &str) -> Result<f64, String> {
    const LIST: &str = "/v1.41/containers/json?all=true";
    const SMUGGLED: &[u8] = b"POST /v1.41/containers/create HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    for method in ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "get", "GE\u{a0}T", "X GET"]
    {
        let _ = exchange(method, authority, LIST, &[], b"");
    }
    for path in [
        "/v1.41/images/json",
        "/v1.41/containers/../images/json",
        "/v1.41/containers/%2e%2e/images/json",
        "/v1.41/containers/%2E./images/json",
        "/v1.41/containers/..%2fimages%2fjson",
        "/v1.41/containers/..%5cimages",
        "/v1.41/containers/%252e%252e/images",
        "/v1.41/containers/..;/images/json",
        "/v1.41//containers/json",
        "//v1.41/containers/json",
        "/x/v1.41/containers/json",
        "/v1.41/x/containers/json",
        "http://docker.unix/v1.41/images/json",
        "http://docker.unix/v1.41/containers/json",
        "v1.41/containers/json",
        "*",
        "?/v1.41/containers/json",
        "/v1.41/containers/json HTTP/1.1\r\nx: y\r\n\r\nGET /v1.41/images/json",
        "/v1.41/containers/json#/../..",
        "/v1.41/containers/\u{2025}/json",
    ] {
        // The path may also be put behind the host.
        let _ = exchange("GET", authority, path, &[], b"");
        let _ = exchange("GET", &format!("{authority}{path}"), LIST, &[], b"");
    }
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "tcp"),
        ("upgrade", "websocket"),
        ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
        ("x-http-method-override", "DELETE"),
        ("x-original-url", "/v1.41/images/json"),
        ("x-a", "b\r\nupgrade: tcp"),
        ("x-a: b\r\nupgrade", "tcp"),
        ("transfer-encoding", "chunked"),
    ] {
        let _ = exchange("GET", authority, LIST, &[(name, value)], b"");
    }
    for host in ["docker.unix:81", "docker.unix.evil", "x@docker.unix", "DOCKER.unix:443", "127.0.0.1", "podman.unix"] {
        let _ = exchange("GET", host, LIST, &[], b"");
    }
    let _ = exchange("GET", authority, LIST, &[("content-length", "0")], SMUGGLED);
    let _ = exchange("GET", authority, LIST, &[("content-length", "4")], SMUGGLED);
    exchange("GET", authority, LIST, &[], b"").map(f64::from)
}

/// Sends a request by the bare functions of WASI, and returns the status of the response.
#[cfg(target_family = "wasm")]
fn exchange(method: &str, authority: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<u16, String> {
    use wasip2::http::outgoing_handler::handle;
    use wasip2::http::types::{Fields, Method, OutgoingBody, OutgoingRequest, Scheme};
    let entries: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
    let request = OutgoingRequest::new(Fields::from_list(&entries).map_err(|why| why.to_string())?);
    let refused = |()| "refused".to_owned();
    request
        .set_method(&if method == "GET" { Method::Get } else { Method::Other(method.to_owned()) })
        .map_err(refused)?;
    request.set_scheme(Some(&Scheme::Http)).map_err(refused)?;
    request.set_authority(Some(authority)).map_err(refused)?;
    request.set_path_with_query(Some(path)).map_err(refused)?;
    let outgoing = if body.is_empty() { None } else { Some(request.body().map_err(refused)?) };
    let future = handle(request, None).map_err(|code| format!("{code:?}"))?;
    if let Some(outgoing) = outgoing {
        let stream = outgoing.write().map_err(refused)?;
        let _ = stream.blocking_write_and_flush(body);
        drop(stream);
        let _ = OutgoingBody::finish(outgoing, None);
    }
    future.subscribe().block();
    let response = future.get().ok_or("no response")?.map_err(refused)?.map_err(|code| format!("{code:?}"))?;
    Ok(response.status())
}

/// How many files there are in the folders shown; an error tells what it could do that it should not.
#[cfg(target_family = "wasm")]
fn walk() -> Result<usize, String> {
    use wasip2::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
    let open = |folder: &Descriptor, path: &str, open: OpenFlags, may: DescriptorFlags| {
        folder.open_at(PathFlags::SYMLINK_FOLLOW, path, open, may)
    };
    let mut files = 0;
    for (folder, _) in wasip2::filesystem::preopens::get_directories() {
        let entries = folder.read_directory().map_err(|error| format!("{error:?}"))?;
        while let Ok(Some(entry)) = entries.read_directory_entry() {
            let Ok(file) = open(&folder, &entry.name, OpenFlags::empty(), DescriptorFlags::READ) else { continue };
            files += usize::from(file.read(16, 0).is_ok());
        }
        for path in ["../secret", "up/secret", "out", "/etc/passwd", "root/etc/passwd"] {
            if open(&folder, path, OpenFlags::empty(), DescriptorFlags::READ).is_ok_and(|file| file.read(1, 0).is_ok())
            {
                return Err(format!("read {path}"));
            }
        }
        if open(&folder, "new", OpenFlags::CREATE, DescriptorFlags::WRITE).is_ok()
            || folder.unlink_file_at("file").is_ok()
        {
            return Err("wrote".to_owned());
        }
    }
    Ok(files)
}

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns).wrapping_add(1);
    }
}

#[allow(unconditional_recursion, reason = "one of the verbs")]
fn recurse(depth: f64) -> f64 {
    black_box(recurse(black_box(depth + 1.0))) + depth
}

/// For whoever makes it the module's start function.
#[cfg(target_family = "wasm")]
#[expect(unsafe_code, reason = "it is found by its name")]
#[unsafe(no_mangle)]
extern "C" fn spin_at_start() {
    spin()
}

export_sampler!(Verbs);

fn measure() -> Result<(), Failure> {
    metrics::counters("verbs_measured_total", "How often it measured.", &["how"])?.with(&["\"quoted\"\n"])?.inc();
    let mut batch = metrics::Batch::default();
    batch.set(metrics::gauge("verbs_level", "A level.")?, 4.5);
    batch.observe(metrics::histogram("verbs_seconds", "Times.", &[0.1, 1.0])?, 0.5);
    // No counter takes that.
    batch.add(metrics::counter("verbs_strange_total", "What is not counted.")?, -1.0);
    batch.record();
    Ok(())
}

#[allow(clippy::panic, reason = "one of the verbs")]
fn once() -> Result<(), Failure> {
    let counter = metrics::counter("verbs_once_total", "How often it was the first time.")?;
    let level = metrics::gauge("verbs_once_level", "Set the first time.")?;
    if state::load().is_none() {
        counter.inc();
        level.set(1.0);
        state::save(&[1]).map_err(Failure::unavailable)?;
        panic!("told to");
    }
    Ok(())
}

/// How many of the metrics that nobody may have are refused.
fn wrong() -> f64 {
    let gauges = ["", "dropsonde_samples", "a b", "a_total", "a_count", "verbs_\n"];
    let refused = gauges.iter().filter(|name| metrics::gauge(name, "Help.").is_err()).count();
    let conflict = metrics::gauge("verbs_wrong", "Help.").and(metrics::histogram("verbs_wrong", "Help.", &[]));
    let labels = metrics::gauges("verbs_wrong_label", "Help.", &["plugin"]);
    (refused + usize::from(conflict.is_err()) + usize::from(labels.is_err())) as f64
}

/// How many of a thousand new series are refused.
fn labels() -> Result<f64, Failure> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let family = metrics::gauges("verbs_labels", "Help.", &["nth"])?;
    let next = NEXT.fetch_add(1000, Relaxed);
    let refused = (next..next + 1000).filter(|nth| family.with(&[&nth.to_string()]).is_err());
    Ok(refused.count() as f64)
}

fn record(at_once: bool) -> Result<(), Failure> {
    const TIMES: u32 = 10_000;
    let counter = metrics::counter("verbs_recorded_total", "How often it recorded.")?;
    let mut batch = metrics::Batch::default();
    for _ in 0..TIMES {
        if at_once { batch.add(counter, 1.0) } else { counter.inc() }
    }
    batch.record();
    Ok(())
}
