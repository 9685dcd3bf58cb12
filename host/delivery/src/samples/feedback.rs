//! Tells people how sending goes: by the metrics, the log and the health of a running host.

use dropsonde_engine::Engine;
use dropsonde_engine::metrics::BreakerState;
use dropsonde_model::Labels;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The time between two log lines about samples that are refused for the same reason.
const LOGGED: Duration = Duration::from_secs(3600);

/// Hears how sending goes.
pub trait Feedback: Debug + Send + Sync {
    /// The server answered; `is_back`: after it had failed.
    fn works(&self, took: Duration, is_back: bool);

    /// The server does not work, and is asked again. `is_down`: it has failed for some time.
    fn fails(&self, why: &str, is_down: bool);

    /// A server that was down is asked once.
    fn tries(&self) {}

    /// The server took samples.
    fn took(&self, samples: usize, bytes: usize);

    /// The server refused samples for good. `reason`: one of a few words; `why`: a sentence; `example`: the labels of one
    /// of the series.
    fn refused(&self, samples: usize, reason: &str, why: &str, example: Option<&Labels>);

    /// Everything before a time was sent.
    fn sent_before(&self, _at_ms: i64) {}

    /// History lost samples of some time before they were sent.
    fn expired(&self, _span_ms: i64) {}
}

/// The feedback of a running host.
#[derive(Debug)]
pub(super) struct HostFeedback {
    engine: Arc<Engine>,
    name: String,
    logged: Mutex<HashMap<String, Instant>>,
}

impl HostFeedback {
    pub(super) fn new(engine: Arc<Engine>, name: String) -> Self {
        engine.metrics.remotes.know_samples(&name);
        engine.metrics.core.remote_connected(&name, false);
        engine.metrics.core.remote_reconnects(&name, 0);
        engine.metrics.core.remote_breaker(&name, BreakerState::Closed);
        Self { engine, name, logged: Mutex::default() }
    }
}

impl Feedback for HostFeedback {
    fn works(&self, took: Duration, is_back: bool) {
        let (metrics, core) = (&self.engine.metrics.remotes, &self.engine.metrics.core);
        metrics.requests.with_label_values(&[&*self.name, "ok"]).inc();
        metrics.seconds.with_label_values(&[&self.name]).observe(took.as_secs_f64());
        metrics.last_success.with_label_values(&[&self.name]).set(self.engine.clock.now_ms() as f64 / 1000.0);
        core.remote_connected(&self.name, true);
        core.remote_rtt(&self.name, took);
        core.remote_breaker(&self.name, BreakerState::Closed);
        core.remote_reconnects(&self.name, u64::from(is_back));
        self.engine.remotes.works(&self.name);
    }

    fn fails(&self, why: &str, is_down: bool) {
        let (metrics, core) = (&self.engine.metrics.remotes, &self.engine.metrics.core);
        metrics.requests.with_label_values(&[&*self.name, "failed"]).inc();
        metrics.retries.with_label_values(&[&self.name]).inc();
        core.remote_connected(&self.name, false);
        core.remote_breaker(&self.name, if is_down { BreakerState::Open } else { BreakerState::Closed });
        self.engine.remotes.fails(&self.name, why, self.engine.clock.now_ms());
    }

    fn tries(&self) {
        self.engine.metrics.core.remote_breaker(&self.name, BreakerState::HalfOpen);
    }

    fn took(&self, samples: usize, bytes: usize) {
        let metrics = &self.engine.metrics.remotes;
        metrics.samples.with_label_values(&[&self.name]).inc_by(samples as u64);
        metrics.bytes.with_label_values(&[&self.name]).inc_by(bytes as u64);
    }

    fn refused(&self, samples: usize, reason: &str, why: &str, example: Option<&Labels>) {
        self.engine.metrics.remotes.samples_dropped.with_label_values(&[&*self.name, reason]).inc_by(samples as u64);
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.get(reason).is_none_or(|logged| logged.elapsed() >= LOGGED) {
            logged.insert(reason.to_owned(), Instant::now());
            let one_of_them = example.map(as_text).unwrap_or_default();
            tracing::warn!(
                destination = self.name,
                samples,
                error = why,
                one_of_them,
                "a server refuses samples for good; dropsonde_remote_samples_dropped_total counts them"
            );
        }
    }

    fn expired(&self, span_ms: i64) {
        let lost = span_ms as f64 / 1000.0;
        self.engine.metrics.remotes.expired_seconds.with_label_values(&[&self.name]).inc_by(lost);
    }
}

/// Writes labels as PromQL does.
pub fn as_text(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}
