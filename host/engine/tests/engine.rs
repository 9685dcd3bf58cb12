//! The engine in one process: samplers and sources of the test, no sockets, and a clock that moves when everybody waits.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "these are tests")]

use dropsonde_engine::clock::Clock;
use dropsonde_engine::health::Health;
use dropsonde_engine::hub::{EventContent, Selection, WatchItem};
use dropsonde_engine::metrics::{HostMetrics, ServiceStatus};
use dropsonde_engine::native::{ChannelStats, Failure, Field, Instance, Native, Sampler, Stats};
use dropsonde_engine::options::{Options, PluginConfig, PollConfig, StaticInstance, StoreConfig};
use dropsonde_engine::plugins::{OperatorOrder, PluginState};
use dropsonde_engine::quota::ClientId;
use dropsonde_engine::service::Service;
use dropsonde_engine::snapshot::{Source, named};
use dropsonde_engine::tracked::{InstanceState, Lifecycle, LifecycleChange, NotTracked, TrackRequest};
use dropsonde_engine::{Engine, EngineParts, RunningEngine};
use dropsonde_model::InstanceId;
use dropsonde_openmetrics::{ExpositionFormat, strict};
use dropsonde_sandbox::Sandbox;
use dropsonde_store::Query;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A Tuesday in 2023, at a multiple of all intervals of the tests.
const START_MS: i64 = 1_700_000_000_000 - 1_700_000_000_000 % 600_000;

type Reads = Box<dyn FnMut(&str) -> Result<Vec<f64>, Failure> + Send>;

/// A sampler that reads whatever the test says.
struct Fake {
    name: &'static str,
    fields: Vec<Field>,
    finds: Arc<Mutex<Vec<&'static str>>>,
    reads: Reads,
}

impl Fake {
    /// With a gauge `x`.
    fn new(name: &'static str, reads: impl FnMut(&str) -> Result<Vec<f64>, Failure> + Send + 'static) -> Self {
        let fields = vec![Field::gauge("x", "A number.")];
        Self { name, fields, finds: Arc::default(), reads: Box::new(reads) }
    }

    fn finding(self, found: &[&'static str]) -> Self {
        *self.finds.lock().unwrap() = found.to_vec();
        self
    }

    fn with_fields(self, fields: Vec<Field>) -> Self {
        Self { fields, ..self }
    }
}

impl Sampler for Fake {
    fn name(&self) -> &str {
        self.name
    }

    fn fields(&self) -> Vec<Field> {
        self.fields.clone()
    }

    fn discover(&mut self) -> Result<Vec<Instance>, Failure> {
        let found = self.finds.lock().unwrap();
        Ok(found.iter().map(|id| Instance { id: (*id).to_owned(), labels: Vec::new() }).collect())
    }

    fn sample(&mut self, instance: &InstanceId) -> Result<Vec<f64>, Failure> {
        (self.reads)(instance.as_str())
    }
}

/// Every ten seconds, in memory alone.
fn options() -> Options {
    let store = StoreConfig { memory_only: true, ..StoreConfig::default() };
    let poll = PollConfig {
        interval: "10s".parse().unwrap(),
        discover_interval: "30s".parse().unwrap(),
        ..PollConfig::default()
    };
    Options { store, poll, ..Options::default() }
}

fn start(options: Options, natives: Vec<Native>) -> RunningEngine {
    start_by(Clock::starting_at(START_MS), options, natives)
}

fn start_by(clock: Clock, options: Options, natives: Vec<Native>) -> RunningEngine {
    let metrics = HostMetrics::new().unwrap();
    let sandbox = Arc::new(Sandbox::new().unwrap());
    RunningEngine::start(options, EngineParts { clock, metrics, natives, sandbox, has_plugins: false }).unwrap()
}

fn sampler(fake: Fake) -> Native {
    Native::Sampler(Box::new(fake))
}

fn source(name: &'static str, source: impl Source + 'static) -> Native {
    Native::Source(Arc::new(named(name, source)))
}

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

fn wanted(instance: &str) -> TrackRequest {
    TrackRequest { id: id(instance), labels: Default::default(), samplers: None }
}

/// Lets time pass.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// The times of all readings of an instance, in seconds since the start, and their values.
fn readings(engine: &Engine, instance: &str, field: &str) -> Vec<(i64, f64)> {
    let query = Query { since_ms: 0, until_ms: i64::MAX / 2, step_ms: 1, ..Query::default() };
    let points = engine.store.range(&id(instance), &query);
    let column = points.columns.iter().find(|column| &*column.name == field).unwrap();
    points.at_ms.iter().zip(&column.values).map(|(at_ms, value)| ((at_ms - START_MS) / 1000, *value)).collect()
}

fn state(engine: &Engine, plugin: &str) -> PluginState {
    engine.plugins.get(plugin).unwrap().state()
}

#[tokio::test(start_paused = true)]
async fn a_sampler_is_polled_at_once_and_then_on_a_grid_of_its_interval() {
    let running = start(options(), vec![sampler(Fake::new("s", |_| Ok(vec![1.0])).finding(&["a"]))]);
    pass(65).await;
    let at: Vec<_> = readings(running.engine(), "a", "x").into_iter().map(|(at, _)| at).collect();
    assert_eq!(at, [0, 10, 20, 30, 40, 50, 60]);
    assert!(running.stop().await);
}

#[tokio::test(start_paused = true)]
async fn a_plugins_own_interval_overrides_the_general_one() {
    let own = PluginConfig { interval: Some("2s".parse().unwrap()), ..PluginConfig::default() };
    let options = Options { plugins: BTreeMap::from([("quick".to_owned(), own)]), ..options() };
    let quick = Fake::new("quick", |_| Ok(vec![1.0])).finding(&["a"]);
    let usual = Fake::new("usual", |_| Ok(vec![1.0])).finding(&["b"]);
    let running = start(options, vec![sampler(quick), sampler(usual)]);
    pass(11).await;
    let engine = running.engine();
    assert_eq!((readings(engine, "a", "x").len(), readings(engine, "b", "x").len()), (6, 2));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_counter_becomes_a_rate_from_its_second_reading_on() {
    let mut total = 0.0;
    let fields = vec![Field::rate("orders_per_sec", "Orders.", "orders_total")];
    let reads = move |_: &str| {
        total += 50.0;
        Ok(vec![total])
    };
    let running = start(options(), vec![sampler(Fake::new("shop", reads).with_fields(fields).finding(&["a"]))]);
    pass(31).await;
    let rates = readings(running.engine(), "a", "orders_per_sec");
    // The first interval is longer by the sampler's phase.
    assert!(rates[0].0 == 10 && (rates[0].1 - 5.0).abs() < 0.1, "{rates:?}");
    assert_eq!(rates[1..], [(20, 5.0), (30, 5.0)]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_no_longer_discovered_ends_and_keeps_its_history() {
    let fake = Fake::new("s", |_| Ok(vec![1.0])).finding(&["stays", "goes"]);
    let finds = fake.finds.clone();
    let running = start(options(), vec![sampler(fake)]);
    pass(15).await;
    *finds.lock().unwrap() = vec!["stays"];
    pass(60).await;
    let engine = running.engine();
    let states: Vec<_> = engine.tracked.list().into_iter().map(|one| (one.id.to_string(), one.state)).collect();
    assert_eq!(states, [("goes".to_owned(), InstanceState::Ended), ("stays".to_owned(), InstanceState::Tracked)]);
    assert!(readings(engine, "goes", "x").len() >= 2);
    assert!(readings(engine, "stays", "x").len() > readings(engine, "goes", "x").len());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_reading_is_a_gap_and_other_instances_are_still_recorded() {
    let reads = |instance: &str| match instance {
        "bad" => Err(Failure::Unavailable("not now".to_owned())),
        _ => Ok(vec![2.0]),
    };
    let running = start(options(), vec![sampler(Fake::new("s", reads).finding(&["bad", "good"]))]);
    pass(25).await;
    let engine = running.engine();
    assert_eq!(readings(engine, "good", "x").len(), 3);
    assert!(engine.latest(&id("bad")).is_none());
    let failure = engine.plugins.get("s").unwrap().look(|known| known.last_failure.clone()).unwrap();
    assert!(failure.reason.contains("bad: unavailable: not now"), "{}", failure.reason);
    assert_eq!(state(engine, "s"), PluginState::Running);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sampler_that_keeps_panicking_is_quarantined_and_retried_after_a_minute() {
    let is_broken = Arc::new(AtomicBool::new(true));
    let broken = is_broken.clone();
    let reads = move |_: &str| {
        if broken.load(Ordering::Relaxed) {
            // Says nothing on standard error, as a panic does.
            std::panic::resume_unwind(Box::new("told to"));
        }
        Ok(vec![1.0])
    };
    let running = start(options(), vec![sampler(Fake::new("s", reads).finding(&["a"]))]);
    let engine = running.engine().clone();
    while state(&engine, "s") != PluginState::Quarantined {
        pass(1).await;
    }
    let health = Health::of(&engine);
    let own = health.services.iter().find(|service| service.name == "s").unwrap();
    assert_eq!(own.status, ServiceStatus::Failed);
    assert!(own.reasons[0].contains("is in quarantine"), "{:?}", own.reasons);
    is_broken.store(false, Ordering::Relaxed);
    pass(90).await;
    assert_eq!(state(&engine, "s"), PluginState::Running);
    assert_eq!(engine.latest(&id("a")).unwrap().values, [("x".into(), 1.0)]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sampler_that_an_operator_quarantined_is_not_polled_until_released() {
    let running = start(options(), vec![sampler(Fake::new("s", |_| Ok(vec![1.0])).finding(&["a"]))]);
    pass(5).await;
    let engine = running.engine().clone();
    let status = engine.plugins.get("s").unwrap();
    status.order(OperatorOrder::Quarantine);
    pass(600).await;
    assert_eq!((state(&engine, "s"), readings(&engine, "a", "x").len()), (PluginState::Quarantined, 1));
    status.order(OperatorOrder::Release);
    pass(15).await;
    assert_eq!(state(&engine, "s"), PluginState::Running);
    assert!(readings(&engine, "a", "x").len() > 1);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_untracked_instance_loses_its_history_and_its_streams_end() {
    let running = start(options(), vec![sampler(Fake::new("s", |_| Ok(vec![1.0])))]);
    let engine = running.engine();
    engine.track(wanted("a")).unwrap();
    let mut watch = engine.watch(Selection::One(id("a"))).unwrap();
    pass(25).await;
    engine.untrack(&id("a"));
    assert!(engine.store.frames(&id("a")).is_empty());
    let mut samples = 0;
    while let Some(seen) = watch.next().await {
        match seen {
            WatchItem::Event(event) => match &event.what {
                EventContent::Usage(_) => samples += 1,
                EventContent::Untracked => break,
            },
            WatchItem::Lagged(_) => panic!("nothing was lost"),
        }
    }
    assert!(samples >= 2, "{samples}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_suspended_instance_is_not_polled_until_it_goes_on() {
    let running = start(options(), vec![sampler(Fake::new("s", |_| Ok(vec![1.0])))]);
    let engine = running.engine();
    engine.track(wanted("a")).unwrap();
    pass(15).await;
    let event = |what| Lifecycle { what, instance: id("a"), labels: None };
    engine.apply(&[event(LifecycleChange::Suspended)]).unwrap();
    let before = readings(engine, "a", "x").len();
    pass(100).await;
    assert_eq!(readings(engine, "a", "x").len(), before);
    engine.apply(&[event(LifecycleChange::Unsuspended)]).unwrap();
    pass(25).await;
    assert!(readings(engine, "a", "x").len() > before);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn tracking_beyond_max_instances_is_refused_with_the_configuration_key() {
    let poll = PollConfig { max_instances: Some(2), ..options().poll };
    let running = start(Options { poll, ..options() }, vec![sampler(Fake::new("s", |_| Ok(vec![1.0])))]);
    let engine = running.engine();
    engine.track(wanted("a")).unwrap();
    engine.track(wanted("b")).unwrap();
    let refused = engine.track(wanted("c")).unwrap_err();
    assert!(matches!(refused, NotTracked::TooMany(_)), "{refused}");
    assert!(refused.to_string().contains("poll.max_instances"), "{refused}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_instance_belongs_to_the_sampler_that_discovered_it_first() {
    let first = Fake::new("zzz", |_| Ok(vec![1.0])).finding(&["a"]);
    let second = Fake::new("aaa", |_| Ok(vec![9.0]));
    let finds = second.finds.clone();
    let running = start(options(), vec![sampler(first), sampler(second)]);
    pass(15).await;
    *finds.lock().unwrap() = vec!["a"];
    pass(60).await;
    let engine = running.engine();
    assert_eq!(engine.latest(&id("a")).unwrap().values, [("x".into(), 1.0)]);
    let health = Health::of(engine);
    let second = health.services.iter().find(|service| service.name == "aaa").unwrap();
    assert!(second.reasons.iter().any(|reason| reason.contains('a')), "{:?}", second.reasons);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_combined_snapshot_of_several_sources_is_recorded_in_history() {
    let open = |total_active| {
        move |_: i64| {
            let channels = ChannelStats { total_active, ..ChannelStats::default() };
            Ok(Stats { channels: Some(channels), ..Stats::default() })
        }
    };
    let running = start(options(), vec![source("one", open(2)), source("two", open(3))]);
    pass(35).await;
    let engine = running.engine();
    let document = engine.snapshots.document(engine.clock.now_ms());
    let document: serde_json::Value = serde_json::from_slice(&document.json).unwrap();
    assert_eq!(document["channels"]["total_active"], 5);
    let kept = readings(engine, "dropsonde:snapshot", "channels_total_active");
    assert!(kept.len() >= 2 && kept.iter().all(|(_, open)| *open == 5.0), "{kept:?}");
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn metrics_expose_the_newest_sample_of_each_instance_until_it_ends() {
    let fake = Fake::new("s", |_| Ok(vec![4.0])).finding(&["stays", "goes"]);
    let finds = fake.finds.clone();
    let running = start(options(), vec![sampler(fake)]);
    pass(15).await;
    let engine = running.engine();
    let shown = async |instance: &str| {
        let peer = ClientId::Unix;
        let scrape = dropsonde_engine::exposition::Exposition::scrape(engine, peer, ExpositionFormat::Text, false);
        let (text, _place) = scrape.await.unwrap();
        let families = strict::text(std::str::from_utf8(&text).unwrap()).unwrap();
        strict::value(&families, "dropsonde_sample_x", &[("id", instance), ("sampler", "s")])
    };
    assert_eq!((shown("stays").await, shown("goes").await), (Some(4.0), Some(4.0)));
    *finds.lock().unwrap() = vec!["stays"];
    pass(120).await;
    assert_eq!((shown("stays").await, shown("goes").await), (Some(4.0), None));
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn readings_go_on_after_the_clock_was_set_back() {
    let start_ms = Arc::new(std::sync::atomic::AtomicI64::new(START_MS));
    let set = start_ms.clone();
    let clock = Clock::set_by(move || set.load(Ordering::Relaxed));
    let running = start_by(clock, options(), vec![sampler(Fake::new("s", |_| Ok(vec![1.0])).finding(&["a"]))]);
    pass(35).await;
    let before = readings(running.engine(), "a", "x").len();
    assert_eq!(before, 4);
    start_ms.fetch_sub(3_600_000, Ordering::Relaxed);
    pass(30).await;
    let engine = running.engine();
    let after = readings(engine, "a", "x");
    assert!(after.len() >= before + 2, "{after:?}");
    assert_eq!(engine.latest(&id("a")).unwrap().at_ms / 1000, (START_MS - 3_600_000) / 1000 + 60);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn changed_options_apply_at_once_to_labels_and_configured_instances() {
    let named = |id: &str| StaticInstance { id: id.to_owned(), labels: Default::default(), samplers: None };
    let before = Options { instances: vec![named("a")], ..options() };
    let running = start(before.clone(), vec![sampler(Fake::new("s", |_| Ok(vec![1.0])))]);
    let engine = running.engine();
    pass(5).await;
    let labels = [("site".to_owned(), "fra1".to_owned())].into_iter().collect();
    let now = Options { instances: vec![named("b")], labels, ..before };
    engine.options.store(Arc::new(now.clone()));
    assert_eq!(engine.reconfigure_instances(&now).unwrap(), 0);
    pass(25).await;
    let listed: Vec<_> = engine.tracked.list().into_iter().map(|one| (one.id.to_string(), one.state)).collect();
    assert_eq!(listed.last(), Some(&("b".to_owned(), InstanceState::Tracked)));
    assert_eq!(engine.tracked.get(&id("b")).unwrap().labels.get("site"), Some("fra1"));
    assert!(readings(engine, "b", "x").len() >= 2);
    running.stop().await;
}
