//! A platform that starts, stops and deletes instances: the host tracks, pauses and untracks them by the platform's
//! events.
//!
//! `cargo run -p dropsonde --example events`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use dropsonde::config::Config;
use dropsonde::host::Host;
use dropsonde::native::{Failure, Field, Sampler};
use dropsonde::store::{Align, InstanceId, Query};
use dropsonde::tracked::{Lifecycle, LifecycleChange};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Samples the load of the platform's instances.
struct Load;

impl Sampler for Load {
    fn name(&self) -> &str {
        "load"
    }

    fn fields(&self) -> Vec<Field> {
        vec![Field::gauge("load_1m", "1-minute load average.").precision(0.01)]
    }

    fn sample(&mut self, instance: &InstanceId) -> Result<Vec<f64>, Failure> {
        // Other instances are not this platform's.
        if instance.as_str().starts_with("web-") { Ok(vec![0.5]) } else { Err(Failure::Gone) }
    }
}

/// The platform's events. Any stream of them works.
struct Platform(VecDeque<Lifecycle>);

impl futures_core::Stream for Platform {
    type Item = Lifecycle;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Lifecycle>> {
        Poll::Ready(self.0.pop_front())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut config = Config { listen: SocketAddr::from(([127, 0, 0, 1], 0)).into(), ..Config::default() };
    config.store.memory_only = true;
    config.poll.interval = "100ms".parse().map_err(anyhow::Error::msg)?;
    let host = Host::builder().config(config).sampler(Load).without_plugins().start().await?;
    let service = host.service();

    let event =
        |what, name: &str| Ok::<_, anyhow::Error>(Lifecycle { what, instance: InstanceId::new(name)?, labels: None });
    let subscription = host.attach_to_events(Platform(VecDeque::from([
        event(LifecycleChange::Created, "web-1")?,
        event(LifecycleChange::Created, "web-2")?,
        event(LifecycleChange::Suspended, "web-2")?,
    ])));

    let web = InstanceId::new("web-1")?;
    let mut watch = service.watch(dropsonde::hub::Selection::One(web.clone()))?;
    for _ in 0..3 {
        watch.next().await;
    }
    println!("web-1: {:?}", service.latest(&web).and_then(|sample| sample.get("load_1m")));
    for instance in host.engine().tracked.list() {
        println!("{} is {:?}", instance.id, instance.state);
    }

    service.untrack(&web);
    let query = Query { since_ms: 0, until_ms: i64::MAX, step_ms: 60_000, align: Align::Epoch, fields: None };
    println!("and then: {:?}", service.range(&web, &query));
    // Detached or dropped, the subscription no longer follows the platform.
    subscription.detach();
    host.stop().await;
    Ok(())
}
