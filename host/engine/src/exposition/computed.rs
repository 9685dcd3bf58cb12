//! Metrics that are computed at each scrape, from the state of the host's parts.

use super::process;
use crate::Engine;
use crate::health::Health;
use crate::metrics::{HEALTH_STATUS, SERVICE_STATUS};
use crate::shares;
use crate::snapshot::{NUMBERS, SnapshotNumber};
use dropsonde_rules::AlertState;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::BTreeMap;

/// The most series about firing alerts: a severity can be made of what a plugin reports.
const MOST_ALERTS: usize = 10_000;

pub(super) fn families(engine: &Engine) -> Vec<MetricFamily> {
    let mut families = history(engine);
    families.extend(workers(engine));
    families.extend(services(engine));
    families.extend(snapshot(engine));
    families.extend(shares(engine));
    families.extend(alerts(engine));
    let streams = engine.hub.open() as u64;
    families.push(count("sessions_active", "Open streams.", false, &[(&[], streams)]));
    let connections = engine.front().map_or(0, |front| front.connections()) as u64;
    families.push(count("http_connections", "Open connections that are not streams.", false, &[(&[], connections)]));
    families.extend(process::families());
    families
}

/// Returns the status and the health of the host's parts and of the plugins.
fn services(engine: &Engine) -> [MetricFamily; 2] {
    let health = Health::of(engine);
    let shown = |value: &dyn Fn(&crate::health::ServiceHealth) -> u64| -> Vec<([LabelPair; 1], u64)> {
        health.services.iter().map(|service| ([label("service", &service.name)], value(service))).collect()
    };
    let (status, well) = (shown(&|service| service.status as u64), shown(&|service| service.reasons.is_empty().into()));
    let family = |name, help, series: &[([LabelPair; 1], u64)]| {
        let series: Vec<(&[LabelPair], u64)> = series.iter().map(|(labels, value)| (&labels[..], *value)).collect();
        count(name, help, false, &series)
    };
    [family(SERVICE_STATUS.0, SERVICE_STATUS.1, &status), family(HEALTH_STATUS.0, HEALTH_STATUS.1, &well)]
}

/// Returns the number of running plugin instances, and of plugin instances by state.
fn workers(engine: &Engine) -> [MetricFamily; 2] {
    let live: Vec<_> =
        engine.plugins.list().iter().filter_map(|plugin| plugin.worker()).filter(|worker| worker.is_live()).collect();
    let busy = live.iter().filter(|worker| worker.is_busy()).count() as u64;
    let idle = (live.len() as u64).saturating_sub(busy);
    let draining = engine.plugins.list().iter().map(|plugin| plugin.draining() as u64).sum();
    let states =
        [("busy", busy), ("idle", idle), ("draining", draining)].map(|(state, n)| ([label("state", state)], n));
    let states: Vec<(&[LabelPair], u64)> = states.iter().map(|(labels, n)| (&labels[..], *n)).collect();
    [
        count("workers_active", "Plugin instances that are running.", false, &[(&[], live.len() as u64)]),
        count(
            "workers",
            "Plugin instances by state; a draining one was replaced and has not ended yet.",
            false,
            &states,
        ),
    ]
}

/// Returns the use of shared pools, and the refusals.
fn shares(engine: &Engine) -> [MetricFamily; 4] {
    let pools = shares::pools(engine);
    let all: Vec<_> = pools.iter().map(|pool| (pool.name, pool.all(&engine.plugins))).collect();
    let each = |value: fn(&(u64, u64)) -> u64| -> Vec<([LabelPair; 2], u64)> {
        let series = all.iter().flat_map(|(pool, owners)| owners.iter().map(move |(owner, has)| (pool, owner, has)));
        series.map(|(pool, owner, has)| ([label("pool", pool), label("owner", owner)], value(has))).collect()
    };
    let family = |name, help, is_counter, all: &[([LabelPair; 2], u64)]| {
        let all: Vec<(&[LabelPair], u64)> = all.iter().map(|(labels, value)| (&labels[..], *value)).collect();
        count(name, help, is_counter, &all)
    };
    let totals: Vec<_> = pools.iter().map(|pool| ([label("pool", pool.name)], pool.total())).collect();
    let totals: Vec<(&[LabelPair], u64)> = totals.iter().map(|(labels, total)| (&labels[..], *total)).collect();
    let clients = shares::of_clients(engine);
    let clients: Vec<_> = clients.iter().map(|of| ([label("pool", of.pool)], of.refusals)).collect();
    let clients: Vec<(&[LabelPair], u64)> = clients.iter().map(|(labels, times)| (&labels[..], *times)).collect();
    [
        count(
            "client_refusals_total",
            "Requests refused because a client used up its share of a pool.",
            true,
            &clients,
        ),
        count("share_limit", "Size of each pool that plugins share, in the pool's unit.", false, &totals),
        family("share_used", "Use of a pool by owner, in the pool's unit.", false, &each(|(used, _)| *used)),
        family(
            "share_refused_total",
            "Refusals and evictions because an owner used up its share of a pool.",
            true,
            &each(|(_, refused)| *refused),
        ),
    ]
}

/// Returns how many alerts fire, by name and severity, sorted by name.
fn alerts(engine: &Engine) -> Option<MetricFamily> {
    let mut firing: BTreeMap<(String, String), u64> = BTreeMap::new();
    for listed in engine.rules.alerts().iter().filter(|listed| listed.alert.state == AlertState::Firing) {
        let severity = listed.alert.labels.get("severity").unwrap_or_default();
        *firing.entry((listed.name().to_owned(), severity.to_owned())).or_default() += 1;
    }
    let series: Vec<([LabelPair; 2], u64)> = firing
        .iter()
        .take(MOST_ALERTS)
        .map(|((name, severity), count)| ([label("alert", name), label("severity", severity)], *count))
        .collect();
    let series: Vec<(&[LabelPair], u64)> = series.iter().map(|(labels, count)| (&labels[..], *count)).collect();
    let help = "Alerts that fire, by name and severity.";
    (!series.is_empty()).then(|| count("alerts_firing", help, false, &series))
}

/// Returns the numbers of the snapshot; none while there are no sources.
fn snapshot(engine: &Engine) -> Vec<MetricFamily> {
    if engine.snapshots.is_empty() {
        return Vec::new();
    }
    let document = engine.snapshots.document(engine.clock.now_ms());
    let gauge = |number: &SnapshotNumber| {
        let mut family = MetricFamily::default();
        family.set_name(format!("dropsonde_snapshot_{}", number.metric));
        family.set_help(number.help.to_owned());
        family.set_field_type(MetricType::GAUGE);
        family.set_metric(vec![series(false, number.value(&document.aggregate), &[])]);
        family
    };
    NUMBERS.iter().map(gauge).collect()
}

/// Returns the numbers of the store and of its archive.
fn history(engine: &Engine) -> Vec<MetricFamily> {
    let (usage, archive) = (engine.store.recent_usage(), engine.store.archive());
    let counter = |name: &str, help: &str, series: &[(&[LabelPair], u64)]| count(name, help, true, series);
    let gauge = |name: &str, help: &str, value: u64| count(name, help, false, &[(&[], value)]);
    let mut families = vec![
        gauge("history_rows", "Rows of history, in memory and on disk.", usage.rows),
        gauge("history_block_bytes", "Bytes of compressed rows in memory.", usage.block_bytes),
        gauge(
            "history_cell_bytes",
            "Bytes of the aggregates in memory that answer queries of long windows.",
            usage.cell_bytes,
        ),
        gauge("history_block_cache_bytes", "Bytes of unpacked history in the block cache.", usage.cache_bytes),
        counter(
            "history_block_cache_total",
            "Lookups of a block in the cache of unpacked history, by result.",
            &[(&[label("result", "hit")], usage.cache_hits), (&[label("result", "miss")], usage.cache_misses)],
        ),
        counter(
            "history_unreadable_total",
            "Blocks of history that a query needed and that could not be read.",
            &[(&[], usage.unreadable)],
        ),
    ];
    if archive.on {
        families.extend([
            gauge("history_disk_bytes", "Bytes that files of history take on disk.", archive.size),
            gauge("history_unstored_rows", "Rows of history that are not on disk yet.", archive.unstored_rows),
            counter("history_flushes_total", "Writes of history that succeeded.", &[(&[], archive.flushes)]),
            counter(
                "history_written_bytes_total",
                "Bytes of history written to disk, without those that merging files wrote again.",
                &[(&[], archive.bytes)],
            ),
            counter(
                "history_lost_rows_total",
                "Rows of history that were dropped before they could be written to disk.",
                &[(&[], archive.lost_rows)],
            ),
        ]);
        let failed: Vec<_> = ["full", "read_only", "denied", "gone", "file_limit", "io"]
            .map(|reason| ([label("reason", reason)], archive.failed.get(reason).copied().unwrap_or(0)))
            .into();
        let failed: Vec<(&[LabelPair], u64)> = failed.iter().map(|(labels, count)| (&labels[..], *count)).collect();
        families.push(counter("history_write_failures_total", "Writes of history that failed, by reason.", &failed));
    }
    families
}

fn count(name: &str, help: &str, is_counter: bool, all: &[(&[LabelPair], u64)]) -> MetricFamily {
    let kind = if is_counter { MetricType::COUNTER } else { MetricType::GAUGE };
    let all = all.iter().map(|(labels, value)| series(is_counter, *value as f64, labels)).collect();
    family(format!("dropsonde_{name}"), help, kind, all)
}

pub(super) fn family(name: String, help: &str, kind: MetricType, all: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name);
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(all);
    family
}

pub(super) fn series(is_counter: bool, value: f64, labels: &[LabelPair]) -> Metric {
    let mut series = Metric::from_label(labels.to_vec());
    if is_counter {
        let mut counter = Counter::default();
        counter.set_value(value);
        series.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        series.set_gauge(gauge);
    }
    series
}

fn label(key: &str, value: &str) -> LabelPair {
    let mut label = LabelPair::default();
    label.set_name(key.to_owned());
    label.set_value(value.to_owned());
    label
}
