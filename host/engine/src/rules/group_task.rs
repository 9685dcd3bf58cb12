//! Evaluates one group at its ticks.

use super::GroupId;
use super::history_storage::{GroupSeries, HistoryStorage};
use super::report::{GroupReport, ListedAlert};
use crate::series::PromqlSource;
use crate::{Engine, Options};
use dropsonde_model::Labels;
use dropsonde_promql::Settings;
use dropsonde_rules::{Alert, AlertState, RuleFailure, RuleGroup, RuleSettings, RunningGroup};
use dropsonde_store::InvalidInstanceId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};

/// The longest time between two looks at the clock: somebody may set it.
const LOOK: Duration = Duration::from_secs(1);

/// The least time after a start in which no alert is resolved, in milliseconds.
const LEAST_HELD_MS: i64 = 10_000;

/// A group that is evaluated.
#[derive(Debug)]
pub(super) struct GroupTask {
    id: GroupId,
    interval_ms: i64,
    /// The time of its ticks after multiples of the interval.
    offset_ms: i64,
    state: Mutex<GroupState>,
    /// Becomes true when nobody waits for its evaluation.
    cancelled: AtomicBool,
    ends: watch::Sender<bool>,
}

#[derive(Debug)]
struct GroupState {
    running: RunningGroup,
    keys: Vec<Arc<str>>,
    series: GroupSeries,
    /// The failures that the last evaluation logged.
    failing: Vec<RuleFailure>,
    /// Whether the group has ended, and evaluates no more.
    is_over: bool,
}

impl GroupTask {
    /// Makes a task for a group. It goes on with the alerts of `before`, else with those that were kept over a restart.
    pub(super) fn new(
        engine: &Engine,
        id: GroupId,
        group: RuleGroup,
        before: Option<RunningGroup>,
    ) -> Result<Self, InvalidInstanceId> {
        let options = engine.options.load();
        let usual_ms = options.rules.interval.as_ms();
        let interval_ms = group.interval_ms.unwrap_or(usual_ms).max(1);
        let mut running = RunningGroup::new(group);
        match before {
            Some(before) => running.take_over(before),
            None => {
                let held_ms = held_ms(&options, interval_ms);
                running.restore(engine.rules.state.of_group(&id), engine.clock.now_ms().saturating_add(held_ms));
            }
        }
        let hash = blake3::hash(id.to_string().as_bytes());
        let number = hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let series = GroupSeries::new(id.clone(), interval_ms)?;
        let keys = running.rule_keys().into_iter().map(Arc::from).collect();
        Ok(Self {
            offset_ms: (number % interval_ms.unsigned_abs()) as i64,
            interval_ms,
            state: Mutex::new(GroupState { running, keys, series, failing: Vec::new(), is_over: false }),
            cancelled: AtomicBool::new(false),
            ends: watch::Sender::new(false),
            id,
        })
    }

    /// Goes on with alerts whose file could not be read at the start.
    pub(super) fn restore(&self, engine: &Engine) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let held_ms = held_ms(&engine.options.load(), self.interval_ms);
        state.running.restore(engine.rules.state.of_group(&self.id), engine.clock.now_ms().saturating_add(held_ms));
    }

    /// Keeps and publishes the group as it is before its first evaluation.
    pub(super) fn announce(&self, engine: &Engine) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.keep(engine, &self.id, &alerts(&state.running));
        let report = GroupReport::of(&self.id, self.interval_ms, &state.running, None, Duration::ZERO);
        engine.rules.publish(Arc::new(report));
    }

    /// Ends an evaluation that is under way: the host stops.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Ends the group: it is not evaluated again. Its series end at a time, unless another group goes on with them.
    /// Returns its rules with their alerts.
    pub(super) fn end(&self, at_ms: Option<i64>) -> RunningGroup {
        self.cancelled.store(true, Ordering::Relaxed);
        self.ends.send_replace(true);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_over = true;
        state.series.end(at_ms);
        let nothing = RuleGroup::default();
        std::mem::replace(&mut state.running, RunningGroup::new(nothing))
    }

    /// Evaluates the group at its ticks until it ends or the host stops. One evaluation at a time takes one of the
    /// permits.
    pub(super) async fn run(
        self: Arc<Self>,
        engine: Arc<Engine>,
        permits: Arc<Semaphore>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let mut ends = self.ends.subscribe();
        let mut due_ms = self.tick_after(engine.clock.now_ms());
        let missed = engine.metrics.rules.missed.with_label_values(&[&self.id.to_string()]);
        let mut asked = engine.clock.steady();
        let writer = engine.horizon.writer();
        loop {
            let now_ms = engine.clock.now_ms();
            if due_ms.saturating_sub(now_ms) > self.interval_ms {
                // Somebody set the clock back.
                due_ms = self.tick_after(now_ms);
            }
            writer.next_is_due(due_ms);
            let wait = u64::try_from(due_ms.saturating_sub(now_ms)).unwrap_or(0);
            if wait > 0 {
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(wait).min(LOOK)) => continue,
                    _ = stopping.wait_for(|&stopping| stopping) => return,
                    _ = ends.wait_for(|&ends| ends) => return,
                }
            }
            let permit = tokio::select! {
                permit = permits.clone().acquire_owned() => permit,
                _ = stopping.wait_for(|&stopping| stopping) => return,
                _ = ends.wait_for(|&ends| ends) => return,
            };
            let now_ms = engine.clock.now_ms();
            let at_ms = self.tick_after(now_ms).saturating_sub(self.interval_ms);
            // A jump of the clock misses nothing.
            let steady = engine.clock.steady();
            let passed_ms = steady.saturating_sub(std::mem::replace(&mut asked, steady)).as_millis();
            let most = i64::try_from(passed_ms).unwrap_or(i64::MAX) / self.interval_ms;
            missed.inc_by(u64::try_from((at_ms.saturating_sub(due_ms) / self.interval_ms).min(most)).unwrap_or(0));
            let (task, shared) = (self.clone(), engine.clone());
            let evaluation = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                task.evaluate(&shared, at_ms);
            });
            if evaluation.await.is_err() {
                tracing::error!(group = %self.id, "the evaluation of a group of rules panicked");
            }
            due_ms = at_ms.saturating_add(self.interval_ms);
        }
    }

    /// Returns the first tick after a time.
    fn tick_after(&self, now_ms: i64) -> i64 {
        let since = now_ms.saturating_sub(self.offset_ms).rem_euclid(self.interval_ms);
        now_ms.saturating_sub(since).saturating_add(self.interval_ms)
    }

    fn evaluate(&self, engine: &Engine, at_ms: i64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_over {
            return;
        }
        let began = Instant::now();
        let options = engine.options.load_full();
        let own: usize = state.running.states().iter().map(|state| state.alerts().count()).sum();
        let settings = RuleSettings {
            query: Settings { lookback_ms: options.query.lookback.as_ms(), ..Settings::default() },
            external_labels: options.rules.external_labels.clone(),
            external_url: options.rules.external_url.clone(),
            max_alerts: Some(options.rules.max_alerts.saturating_sub(engine.rules.count().saturating_sub(own))),
        };
        let before = alerts(&state.running);
        let GroupState { running, series, .. } = &mut *state;
        if engine.plugins.is_starting() {
            running.hold_on(at_ms, at_ms.saturating_add(held_ms(&options, self.interval_ms)));
        }
        let storage = HistoryStorage {
            source: PromqlSource::new(engine, options.query.max_series),
            engine,
            series: Mutex::new(series),
            cancelled: &self.cancelled,
        };
        let failures = running.evaluate(at_ms, &storage, &settings);
        drop(storage);
        if self.cancelled.load(Ordering::Relaxed) {
            // The rules have changed meanwhile: the next group evaluates them.
            return;
        }
        let took = began.elapsed();
        let now = alerts(running);
        // Readers are told only of alerts that are known after a restart.
        state.keep(engine, &self.id, &now);
        self.count(engine, &state.running, &failures, took, at_ms);
        self.log(&mut state, failures);
        let report = Arc::new(GroupReport::of(&self.id, self.interval_ms, &state.running, Some(at_ms), took));
        for change in changes(&report, &before, &now, at_ms) {
            // It fails if nobody follows.
            let _ = engine.rules.changes.send(change);
        }
        engine.rules.publish(report);
    }

    fn count(&self, engine: &Engine, running: &RunningGroup, failures: &[RuleFailure], took: Duration, at_ms: i64) {
        let group = self.id.to_string();
        let metrics = &engine.metrics.rules;
        metrics.evaluations.with_label_values(&[&group]).inc_by(running.group().rules.len() as u64);
        metrics.failures.with_label_values(&[&group]).inc_by(failures.len() as u64);
        metrics.seconds.with_label_values(&[&group]).set(took.as_secs_f64());
        metrics.last.with_label_values(&[&group]).set(at_ms as f64 / 1000.0);
        engine.metrics.core.took("rules", "evaluate", took);
    }

    /// Logs a failing rule once, until it fails for another reason.
    fn log(&self, state: &mut GroupState, failures: Vec<RuleFailure>) {
        for failure in failures.iter().filter(|failure| !state.failing.contains(failure)) {
            let RuleFailure { rule, why } = failure;
            tracing::warn!(file = &*self.id.file, group = &*self.id.name, rule, error = why, "cannot evaluate a rule");
        }
        state.failing = failures;
    }
}

impl GroupState {
    /// Keeps alerts over a restart.
    fn keep(&self, engine: &Engine, id: &GroupId, now: &GroupAlerts) {
        let key = |rule: usize| self.keys.get(rule).cloned().unwrap_or_default();
        let kept = now.iter().map(|((rule, _), alert)| (key(*rule), alert.clone()));
        engine.rules.state.update(id, kept.collect());
    }
}

/// Returns how long after a start no alert is resolved: until its series are there again.
fn held_ms(options: &Options, interval_ms: i64) -> i64 {
    let polls_ms = options.poll.interval.as_ms();
    interval_ms.max(polls_ms).saturating_mul(3).max(LEAST_HELD_MS)
}

/// The alerts of a group by the number of their rule and their labels.
type GroupAlerts = BTreeMap<(usize, Labels), Arc<Alert>>;

fn alerts(running: &RunningGroup) -> GroupAlerts {
    let of_rule = |(rule, state): (usize, &dropsonde_rules::RuleState)| -> Vec<_> {
        state.alerts().map(|alert| ((rule, alert.labels.clone()), alert.clone())).collect()
    };
    running.states().iter().enumerate().flat_map(of_rule).collect()
}

/// Returns the alerts that changed their state. One that was pending and is gone is inactive.
fn changes(group: &Arc<GroupReport>, before: &GroupAlerts, now: &GroupAlerts, at_ms: i64) -> Vec<ListedAlert> {
    let listed = |rule: usize, alert: Arc<Alert>| ListedAlert { group: group.clone(), rule, alert };
    let is_other = |(key, alert): &(&(usize, Labels), &Arc<Alert>)| {
        before.get(*key).is_none_or(|known| known.state != alert.state)
    };
    let changed = now.iter().filter(is_other).map(|((rule, _), alert)| listed(*rule, alert.clone()));
    let is_gone =
        |(key, alert): &(&(usize, Labels), &Arc<Alert>)| !now.contains_key(*key) && alert.state != AlertState::Inactive;
    let gone = before.iter().filter(is_gone).map(|((rule, _), alert)| {
        let gone = Alert { state: AlertState::Inactive, resolved_ms: Some(at_ms), ..(**alert).clone() };
        listed(*rule, Arc::new(gone))
    });
    changed.chain(gone).collect()
}
