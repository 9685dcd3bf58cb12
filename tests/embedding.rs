use crate::harness::{request, run};
use dropsonde::clock::Clock;
use dropsonde::config::Config;
use dropsonde::host::Host;
use dropsonde::hub::{EventContent, Selection, WatchItem};
use dropsonde::metrics::{HostMetrics, Registrar as _};
use dropsonde::native::{ChannelStats, Failure, Field, Instance, Readings, Sampler, Stats};
use dropsonde::snapshot::named;
use dropsonde::store::{Align, InstanceId, Query};
use dropsonde::tracked::{Lifecycle, LifecycleChange, TrackRequest};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A sampler that reads its own number for every instance but `odd`; some names of instances behave otherwise.
struct NumberSampler {
    name: &'static str,
    number: f64,
    finds: &'static [&'static str],
}

impl Sampler for NumberSampler {
    fn name(&self) -> &str {
        self.name
    }

    fn fields(&self) -> Vec<Field> {
        vec![Field::gauge("number", "A number."), Field::rate("calls_per_sec", "Calls.", "calls_total")]
    }

    fn discover(&mut self) -> Result<Vec<Instance>, Failure> {
        let found = |id: &&str| Instance { id: (*id).to_owned(), labels: Vec::new() };
        Ok(self.finds.iter().map(found).collect())
    }

    fn sample(&mut self, instance: &InstanceId) -> Result<Vec<f64>, Failure> {
        match instance.as_str() {
            "panic" => panic!("told to"),
            "odd" => Ok(vec![1.0]),
            "gone" => Err(Failure::Gone),
            _ => Ok(vec![self.number, 7.0]),
        }
    }
}

/// A sampler that returns one value, however many instances were asked for.
struct ForgetfulSampler;

impl Sampler for ForgetfulSampler {
    fn name(&self) -> &str {
        "forgetful"
    }

    fn fields(&self) -> Vec<Field> {
        vec![Field::gauge("number", "A number.")]
    }

    fn sample(&mut self, _: &InstanceId) -> Result<Vec<f64>, Failure> {
        Ok(vec![1.0])
    }

    fn sample_all(&mut self, _: &[InstanceId]) -> Readings {
        Readings { values: vec![1.0], ..Readings::default() }
    }
}

fn number_sampler(name: &'static str, number: f64) -> NumberSampler {
    NumberSampler { name, number, finds: &[] }
}

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

fn wanted(text: &str) -> TrackRequest {
    TrackRequest { id: id(text), labels: Default::default(), samplers: None }
}

fn config() -> Config {
    let mut config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)).into(), ..Config::default() };
    config.store.memory_only = true;
    config.poll.interval = "100ms".parse().unwrap();
    config.snapshot.interval = "100ms".parse().unwrap();
    config
}

/// Returns a builder without plugins: the same program compiles those, and this one runs tests.
fn builder() -> dropsonde::host::HostBuilder {
    Host::builder().config(config()).without_plugins()
}

async fn get(host: &Host, path: &str) -> crate::harness::Response {
    let (address, path) = (host.address().to_string(), path.to_owned());
    tokio::task::spawn_blocking(move || request(&address, "GET", &path, "")).await.unwrap()
}

/// Returns the number of the next sample.
async fn next_number(host: &Host, instance: &str) -> f64 {
    let mut watch = host.service().watch(Selection::One(id(instance))).unwrap();
    match watch.next().await.unwrap() {
        WatchItem::Event(event) => match &event.what {
            EventContent::Usage(sample) => sample.get("number").unwrap(),
            EventContent::Untracked => panic!("it was untracked"),
        },
        WatchItem::Lagged(_) => panic!("nothing was lost"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_sampler_is_polled_and_served_like_a_plugin() {
    let host = builder().sampler(NumberSampler { name: "mine", number: 5.0, finds: &["found"] }).start().await.unwrap();
    let service = host.service();
    service.track(wanted("asked")).unwrap();
    assert_eq!((next_number(&host, "found").await, next_number(&host, "asked").await), (5.0, 5.0));
    assert_eq!(get(&host, "/v1/instances/asked/usage").await.json()["number"], 5);
    let plugin = get(&host, "/v1/plugins/mine").await.json();
    assert_eq!((&plugin["state"], &plugin["native"]), (&"running".into(), &true.into()));
    for line in
        ["dropsonde_sample_number{id=\"found\",sampler=\"mine\"} 5", "dropsonde_sample_calls_total{id=\"asked\""]
    {
        // What is late is not shown.
        let shown = async { while !get(&host, "/metrics").await.body.contains(line) {} };
        tokio::time::timeout(Duration::from_secs(60), shown).await.expect(line);
    }
    let query = Query { since_ms: 0, until_ms: i64::MAX, step_ms: 3_600_000, align: Align::Epoch, fields: None };
    assert_eq!(service.range(&id("asked"), &query).unwrap().column("number").unwrap().values[0], 5.0);
    assert_eq!((service.range(&id("nobody"), &query), service.latest(&id("nobody"))), (None, None));
    service.untrack(&id("asked"));
    assert_eq!((service.range(&id("asked"), &query), service.latest(&id("asked"))), (None, None));
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_sampler_that_panics_or_returns_too_few_values_does_not_affect_others() {
    let builder =
        builder().sampler(number_sampler("bad", 1.0)).sampler(number_sampler("good", 2.0)).sampler(ForgetfulSampler);
    let host = builder.start().await.unwrap();
    for (sampler, instance) in
        [("bad", "panic"), ("good", "odd"), ("good", "fine"), ("forgetful", "a"), ("forgetful", "b")]
    {
        let samplers = Some(vec![sampler.to_owned()]);
        host.service().track(TrackRequest { samplers, ..wanted(instance) }).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(next_number(&host, "fine").await, 2.0);
    }
    let failed = async |name: &str, why: &str| {
        loop {
            let page = get(&host, &format!("/v1/plugins/{name}")).await;
            if page.json()["last_failure"]["reason"].as_str().is_some_and(|reason| reason.contains(why)) {
                return page.json()["state"].as_str().unwrap().to_owned();
            }
        }
    };
    // Calls that end badly have what they lead to, as those of plugins.
    failed("bad", "it panicked").await;
    failed("forgetful", "returned 1 values instead of 2").await;
    assert_eq!(failed("good", "odd: unavailable: returned 1 values for 2 fields").await, "running");
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_source_is_part_of_the_snapshot() {
    let rooms = |_| {
        let channels = ChannelStats { total_active: 3, ..ChannelStats::default() };
        Ok(Stats { channels: Some(channels), ..Stats::default() })
    };
    let host = builder()
        .source(named("rooms", rooms))
        .source(named("broken", |_| Err("not now".to_owned())))
        .start()
        .await
        .unwrap();
    let document = loop {
        let document = get(&host, "/v1/snapshot").await.json();
        if document["sources"].as_array().unwrap().len() == 2 {
            break document;
        }
    };
    assert_eq!(document["channels"]["total_active"], 3);
    assert_eq!(
        (&document["sources"][0]["name"], &document["sources"][0]["status"]),
        (&"broken".into(), &"stale".into())
    );
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lifecycle_events_of_a_platform_are_applied_until_the_subscription_is_detached() {
    let host = builder().sampler(number_sampler("mine", 1.0)).start().await.unwrap();
    let (platform, events) = tokio::sync::mpsc::unbounded_channel();
    let send = |what, name: &str| platform.send(Lifecycle { what, instance: id(name), labels: None });
    let subscription = host.attach_to_events(PlatformEvents(events));
    send(LifecycleChange::Created, "x").unwrap();
    assert_eq!(next_number(&host, "x").await, 1.0);
    let mut watch = host.service().watch(Selection::One(id("x"))).unwrap();
    send(LifecycleChange::Deleted, "x").unwrap();
    while watch.next().await.is_some() {}
    assert_eq!(host.service().latest(&id("x")), None);
    subscription.detach();
    platform.closed().await;
    assert!(send(LifecycleChange::Created, "x").is_err(), "nobody listens any more");
    host.stop().await;
}

struct PlatformEvents(tokio::sync::mpsc::UnboundedReceiver<Lifecycle>);

impl futures_core::Stream for PlatformEvents {
    type Item = Lifecycle;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Lifecycle>> {
        self.0.poll_recv(context)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_in_one_process_share_no_instances_samples_or_metrics() {
    let (one_metrics, two_metrics) = (HostMetrics::new().unwrap(), HostMetrics::new().unwrap());
    one_metrics
        .registry
        .counter_vec("shop", "shop_orders_total", "Orders.", &["city"])
        .unwrap()
        .with_label_values(&["oslo"])
        .inc();
    let one = builder().metrics(one_metrics).sampler(number_sampler("mine", 1.0)).start().await.unwrap();
    let two = builder().metrics(two_metrics).sampler(number_sampler("mine", 2.0)).start().await.unwrap();
    for host in [&one, &two] {
        host.service().track(wanted("x")).unwrap();
    }
    one.service().track(wanted("y")).unwrap();
    assert_eq!((next_number(&one, "x").await, next_number(&two, "x").await), (1.0, 2.0));
    assert_eq!(get(&two, "/v1/instances/y").await.status, 404);
    assert!(get(&one, "/metrics").await.body.contains("shop_orders_total{city=\"oslo\",service=\"shop\"} 1"));
    assert!(!get(&two, "/metrics").await.body.contains("shop_orders_total"));
    one.stop().await;
    assert_eq!(next_number(&two, "x").await, 2.0);
    two.stop().await;
}

#[tokio::test]
async fn native_samplers_with_invalid_or_duplicate_names_are_refused() {
    for (builder, why) in [
        (builder().sampler(number_sampler("no name", 1.0)), "\"no name\" is not a valid name"),
        (
            builder().sampler(number_sampler("a", 1.0)).sampler(number_sampler("a", 2.0)),
            "two native samplers or sources have the name \"a\"",
        ),
    ] {
        let error = builder.start().await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

/// Runs an example. `cargo test` builds the examples, unless it is given `--test`.
fn run_example(name: &str) -> String {
    let tests = std::env::current_exe().unwrap();
    let example: PathBuf = tests.parent().unwrap().parent().unwrap().join("examples").join(name);
    assert!(example.exists(), "there is no {}: cargo build --examples makes it", example.display());
    let (code, out, error) = run(&mut Command::new(example));
    assert_eq!(code, 0, "{out}\n{error}");
    out
}

#[test]
fn the_examples_run_and_print_their_results() {
    let embedded = run_example("embedded");
    assert!(embedded.contains("queue-oslo: ") && embedded.contains("queue-berlin: "), "{embedded}");
    let events = run_example("events");
    assert!(events.contains("web-1: Some(0.5)") && events.contains("web-2 is Paused"), "{events}");
    assert!(events.contains("and then: None"), "{events}");
    let history = run_example("history");
    assert!(history.contains("[\"example.org\"]") && history.contains("1 hour: 61 points"), "{history}");
}

/// Checks minute by minute, in the host's own paused time.
#[tokio::test(start_paused = true)]
async fn an_instance_gains_six_samples_a_minute_only_while_it_is_tracked() {
    const NOON: i64 = 1_763_812_800_000;
    let mut config = config();
    config.poll.interval = "10s".parse().unwrap();
    let builder = Host::builder().config(config).clock(Clock::starting_at(NOON)).without_plugins();
    let host = builder.sampler(number_sampler("mine", 1.0)).start().await.unwrap();
    let service = host.service();
    let query = Query { since_ms: 0, until_ms: i64::MAX, step_ms: 1000, align: Align::Epoch, fields: None };
    let samples = || service.range(&id("x"), &query).map(|points| points.at_ms.len());
    let mut before = samples();
    for (what, grows) in [
        (None, None),
        (Some(LifecycleChange::Created), Some(6)),
        (None, Some(6)),
        (Some(LifecycleChange::Created), Some(6)),
        (Some(LifecycleChange::Stopped), Some(0)),
        (Some(LifecycleChange::Suspended), Some(0)),
        (Some(LifecycleChange::Started), Some(6)),
        (Some(LifecycleChange::Suspended), Some(0)),
        (Some(LifecycleChange::Unsuspended), Some(6)),
        (Some(LifecycleChange::Deleted), None),
        (Some(LifecycleChange::Stopped), None),
        (Some(LifecycleChange::Started), Some(6)),
    ] {
        let events: Vec<_> = what.map(|what| Lifecycle { what, instance: id("x"), labels: None }).into_iter().collect();
        host.engine().apply(&events).unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        let now = samples();
        assert_eq!(now, grows.map(|grows| before.unwrap_or(0) + grows), "after {what:?}");
        before = now;
    }
    host.stop().await;
}
