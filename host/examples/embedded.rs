//! A program with a host inside: its own sampler and source run beside the plugins that an operator adds.
//!
//! `cargo run -p dropsonde --example embedded`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use dropsonde::config::Config;
use dropsonde::host::{Host, compile_if_told};
use dropsonde::hub::{EventContent, EventSubject, Selection, WatchItem};
use dropsonde::metrics::{HostMetrics, Registrar as _};
use dropsonde::native::{ChannelStats, Failure, Field, Instance, Sampler, Stats};
use dropsonde::snapshot::named;
use dropsonde::store::InstanceId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The program: queues of waiting orders.
#[derive(Default)]
struct Shop {
    orders: BTreeMap<&'static str, AtomicU64>,
}

/// Samples the length of each queue.
struct Queues(Arc<Shop>);

impl Sampler for Queues {
    fn name(&self) -> &str {
        "queues"
    }

    fn fields(&self) -> Vec<Field> {
        let waiting = Field::gauge("orders_waiting", "Orders that nobody has begun with.").precision(1.0);
        vec![waiting, Field::rate("orders_per_sec", "Orders taken a second.", "orders_total")]
    }

    fn discover(&mut self) -> Result<Vec<Instance>, Failure> {
        let queue = |name: &&str| Instance {
            id: format!("queue-{name}"),
            labels: vec![("workload".to_owned(), "shop".to_owned())],
        };
        Ok(self.0.orders.keys().map(queue).collect())
    }

    fn sample(&mut self, instance: &InstanceId) -> Result<Vec<f64>, Failure> {
        let orders = instance.as_str().strip_prefix("queue-").and_then(|name| self.0.orders.get(name));
        let orders = orders.ok_or(Failure::Gone)?.fetch_add(3, Relaxed) as f64;
        Ok(vec![orders % 10.0, orders])
    }
}

fn main() -> anyhow::Result<ExitCode> {
    // First of all: the host compiles plugins in a child process of the same program.
    if let Some(compiled) = compile_if_told() {
        return Ok(compiled);
    }
    tokio::runtime::Runtime::new()?.block_on(run())?;
    Ok(ExitCode::SUCCESS)
}

async fn run() -> anyhow::Result<()> {
    let orders = ["berlin", "oslo"].map(|name| (name, AtomicU64::new(0)));
    let shop = Arc::new(Shop { orders: orders.into() });

    // The same keys as in a configuration file. Nothing is written to disk.
    let mut config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)).into(), ..Config::default() };
    config.store.memory_only = true;
    config.poll.interval = "100ms".parse().map_err(anyhow::Error::msg)?;

    // The program's own metrics are on /metrics beside the host's.
    let metrics = HostMetrics::new()?;
    let taken = metrics.registry.counter_vec("shop", "shop_orders_total", "Orders taken.", &["city"])?;
    taken.with_label_values(&["oslo"]).inc();

    let rooms = |_now_ms| {
        let channels = ChannelStats { total_active: 2, ..ChannelStats::default() };
        Ok(Stats { channels: Some(channels), ..Stats::default() })
    };
    let host = Host::builder()
        .config(config)
        .metrics(metrics)
        .sampler(Queues(shop))
        .source(named("rooms", rooms))
        .start()
        .await?;
    println!("{}", host.url());

    // The program can follow the same streams as HTTP clients.
    let mut watch = host.service().watch(Selection::Labels([("workload".to_owned(), "shop".to_owned())].into()))?;
    for _ in 0..6 {
        match watch.next().await {
            Some(WatchItem::Event(event)) => match (&event.of, &event.what) {
                (EventSubject::Instance { id, .. }, EventContent::Usage(sample)) => {
                    println!("{id}: {:?} waiting", sample.get("orders_waiting").unwrap_or(f64::NAN));
                }
                (of, what) => println!("{of:?}: {what:?}"),
            },
            Some(WatchItem::Lagged(lost)) => println!("{lost} samples came too fast"),
            None => break,
        }
    }
    drop(watch);
    host.stop().await;
    Ok(())
}
