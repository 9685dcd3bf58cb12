//! Docker's API, which Podman has too: answers to the requests of this plugin.

use crate::row::Usage;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

/// A container in `GET /containers/json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ListedContainer {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) names: Vec<String>,
    #[serde(default)]
    pub(crate) image: String,
    #[serde(default)]
    pub(crate) labels: Option<BTreeMap<String, String>>,
}

/// `GET /containers/ID/json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct InspectedContainer {
    restart_count: Option<f64>,
    state: InspectedState,
    host_config: InspectedLimits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct InspectedState {
    started_at: String,
    /// Podman calls it `Healthcheck` in older versions.
    #[serde(alias = "Healthcheck")]
    health: Option<InspectedHealth>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct InspectedHealth {
    status: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct InspectedLimits {
    nano_cpus: f64,
    cpu_quota: f64,
    cpu_period: f64,
}

/// `GET /containers/ID/stats`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerStats {
    /// When the engine read them.
    read: String,
    cpu_stats: CpuStats,
    memory_stats: MemoryStats,
    networks: Option<BTreeMap<String, NetworkStats>>,
    blkio_stats: BlockStats,
    pids_stats: PidStats,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CpuStats {
    cpu_usage: CpuUsage,
    online_cpus: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CpuUsage {
    /// Nanoseconds.
    total_usage: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MemoryStats {
    usage: Option<f64>,
    limit: Option<f64>,
    stats: Option<BTreeMap<String, f64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NetworkStats {
    rx_bytes: f64,
    tx_bytes: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BlockStats {
    io_service_bytes_recursive: Option<Vec<BlockOperation>>,
}

#[derive(Debug, Deserialize)]
struct BlockOperation {
    op: String,
    value: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PidStats {
    current: Option<f64>,
}

// === impl ListedContainer ===

impl ListedContainer {
    /// Returns the container's own name, which stays if the container is made anew; else the beginning of its id.
    pub(crate) fn name(&self) -> String {
        // Docker also lists the names by which other containers know it: `/other/alias`.
        let own = self.names.iter().map(|name| name.trim_start_matches('/')).find(|name| !name.contains('/'));
        match own.filter(|name| !name.is_empty()) {
            Some(name) => name.to_owned(),
            None => self.id.chars().take(12).collect(),
        }
    }

    /// Returns the labels of the instance.
    pub(crate) fn instance_labels(&self) -> Vec<(String, String)> {
        let label = |key: &str| self.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
        let compose = label("com.docker.compose.service").or_else(|| label("io.podman.compose.service"));
        let workload = label("dropsonde.workload")
            .or_else(|| compose.clone())
            .or_else(|| label("io.kubernetes.container.name"))
            .unwrap_or_else(|| short_image(&self.image));
        let labels = [
            ("name", Some(self.name())),
            ("image", Some(self.image.clone())),
            ("compose_service", compose),
            ("workload", Some(workload)),
        ];
        let known = labels.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        known.filter(|(_, value)| !value.is_empty()).collect()
    }
}

/// Returns an image's name without registry, tag and digest.
fn short_image(image: &str) -> String {
    let name = image.split('@').next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    name.split(':').next().unwrap_or_default().to_owned()
}

// === impl ContainerStats ===

impl ContainerStats {
    /// Returns how long after a time the engine read them, in milliseconds. None if it does not say, or if its clock is
    /// another one.
    pub(crate) fn offset_ms(&self, at_ms: u64) -> Option<i32> {
        const LONGEST_MS: i64 = 10_000;
        let read = humantime::parse_rfc3339_weak(&self.read).ok()?.duration_since(UNIX_EPOCH).ok()?;
        let offset_ms = i64::try_from(read.as_millis()).ok()?.saturating_sub_unsigned(at_ms);
        i32::try_from(offset_ms).ok().filter(|_| offset_ms.abs() <= LONGEST_MS)
    }

    /// Returns the usage of a container. `now_ms`: the time of the tick.
    pub(crate) fn usage(&self, inspected: &InspectedContainer, now_ms: u64) -> Usage {
        let Self { read: _, cpu_stats, memory_stats, networks, blkio_stats, pids_stats } = self;
        let known = |value: Option<f64>| value.unwrap_or(f64::NAN);
        let network = |bytes: fn(&NetworkStats) -> f64| {
            networks.as_ref().map_or(f64::NAN, |networks| networks.values().map(bytes).sum())
        };
        let block = |wanted: &str| {
            let operations = blkio_stats.io_service_bytes_recursive.as_ref();
            operations.map_or(f64::NAN, |operations| {
                let of_kind = operations.iter().filter(|operation| operation.op.eq_ignore_ascii_case(wanted));
                of_kind.map(|operation| operation.value).sum()
            })
        };
        Usage {
            cpu_seconds: known(cpu_stats.cpu_usage.total_usage) / 1e9,
            cpu_limit: inspected.cpu_limit().or(cpu_stats.online_cpus.filter(|cpus| *cpus > 0.0)).unwrap_or(f64::NAN),
            memory_bytes: known(memory_stats.used_bytes()),
            memory_limit_bytes: known(memory_stats.limit.filter(|limit| *limit > 0.0)),
            received_bytes: network(|network| network.rx_bytes),
            sent_bytes: network(|network| network.tx_bytes),
            read_bytes: block("read"),
            written_bytes: block("write"),
            processes: known(pids_stats.current),
            restarts: known(inspected.restart_count),
            healthy: known(inspected.healthy()),
            uptime_seconds: known(inspected.uptime_seconds(now_ms)),
        }
    }
}

// === impl MemoryStats ===

impl MemoryStats {
    /// Returns the memory that `docker stats` shows: without page cache that was not used lately.
    fn used_bytes(&self) -> Option<f64> {
        let usage = self.usage?;
        let stats = self.stats.as_ref();
        // cgroup v1, then v2.
        let cache = stats.and_then(|stats| stats.get("total_inactive_file").or_else(|| stats.get("inactive_file")));
        Some(usage - cache.copied().filter(|cache| *cache < usage).unwrap_or(0.0))
    }
}

// === impl InspectedContainer ===

impl InspectedContainer {
    /// Returns the number of cores that the container may use. None: all.
    fn cpu_limit(&self) -> Option<f64> {
        let InspectedLimits { nano_cpus, cpu_quota, cpu_period } = self.host_config;
        let of_quota = || (cpu_quota > 0.0 && cpu_period > 0.0).then(|| cpu_quota / cpu_period);
        (nano_cpus > 0.0).then(|| nano_cpus / 1e9).or_else(of_quota)
    }

    /// None without a health check, and while it has no result yet.
    fn healthy(&self) -> Option<f64> {
        match self.state.health.as_ref()?.status.as_str() {
            "healthy" => Some(1.0),
            "unhealthy" => Some(0.0),
            _ => None,
        }
    }

    fn uptime_seconds(&self, now_ms: u64) -> Option<f64> {
        let started = humantime::parse_rfc3339_weak(&self.state.started_at).ok()?;
        let started = started.duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
        // Docker writes the year 1 for a container that never started.
        (started > 0.0).then(|| (now_ms as f64 / 1000.0 - started).max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(json: &str) -> ListedContainer {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_container_is_named_by_its_own_name() {
        let named = |names: &str| listed(&format!(r#"{{"Id": "0123456789abcdef", "Names": {names}}}"#)).name();
        assert_eq!(named(r#"["/web-1"]"#), "web-1");
        assert_eq!(named(r#"["/other/alias", "/web-1"]"#), "web-1");
        assert_eq!(named(r#"["podman_name"]"#), "podman_name");
        assert_eq!(named("[]"), "0123456789ab");
    }

    #[test]
    fn a_workload_is_the_compose_service_or_else_the_image() {
        let workload = |rest: &str| {
            let labels = listed(&format!(r#"{{"Id": "1", "Names": ["/a"], {rest}}}"#)).instance_labels();
            labels.into_iter().find(|(key, _)| key == "workload").map(|(_, value)| value)
        };
        let image = r#""Image": "registry.example:5000/team/nginx:1.2@sha256:abc""#;
        assert_eq!(workload(image).as_deref(), Some("nginx"));
        let compose = r#""Image": "x", "Labels": {"com.docker.compose.service": "web"}"#;
        assert_eq!(workload(compose).as_deref(), Some("web"));
        assert_eq!(workload(r#""Image": "", "Labels": null"#), None);
    }

    const STATS: &str = r#"{"read": "2026-11-29T16:00:00Z",
        "cpu_stats": {"cpu_usage": {"total_usage": 1500000000}, "online_cpus": 4},
        "memory_stats": {"usage": 3000, "limit": 8000, "stats": {"inactive_file": 1000, "anon": 5}},
        "networks": {"eth0": {"rx_bytes": 5, "tx_bytes": 7}, "eth1": {"rx_bytes": 1, "tx_bytes": 1}},
        "blkio_stats": {"io_service_bytes_recursive": [{"major": 8, "minor": 0, "op": "read", "value": 10},
            {"major": 8, "minor": 0, "op": "Write", "value": 20}, {"major": 9, "minor": 0, "op": "read", "value": 5}]},
        "pids_stats": {"current": 3}}"#;

    #[test]
    fn usage_is_what_docker_stats_shows() {
        let stats: ContainerStats = serde_json::from_str(STATS).unwrap();
        let inspected: InspectedContainer = serde_json::from_str(
            r#"{"RestartCount": 2, "State": {"StartedAt": "2026-11-29T15:59:00.5Z", "Health": {"Status": "unhealthy"}},
                "HostConfig": {"NanoCpus": 500000000}}"#,
        )
        .unwrap();
        let now_ms = 1_795_968_000_500;
        assert_eq!(stats.offset_ms(now_ms), Some(-500));
        assert_eq!(stats.offset_ms(now_ms + 60_000), None, "another clock");
        let usage = stats.usage(&inspected, now_ms);
        assert_eq!((usage.cpu_seconds, usage.cpu_limit, usage.memory_bytes), (1.5, 0.5, 2000.0));
        assert_eq!((usage.received_bytes, usage.sent_bytes), (6.0, 8.0));
        assert_eq!((usage.read_bytes, usage.written_bytes, usage.processes), (15.0, 20.0, 3.0));
        assert_eq!((usage.restarts, usage.healthy, usage.uptime_seconds), (2.0, 0.0, 60.0));
    }

    #[test]
    fn what_an_engine_does_not_tell_is_not_known() {
        let stats: ContainerStats =
            serde_json::from_str(r#"{"blkio_stats": {"io_service_bytes_recursive": null}}"#).unwrap();
        let usage = stats.usage(&InspectedContainer::default(), 0);
        let unknown = [usage.cpu_seconds, usage.memory_bytes, usage.received_bytes, usage.read_bytes, usage.healthy];
        assert!(unknown.iter().all(|value| value.is_nan()), "{usage:?}");
        let old = r#"{"memory_stats": {"usage": 10, "stats": {"total_inactive_file": 4, "inactive_file": 1}}}"#;
        let stats: ContainerStats = serde_json::from_str(old).unwrap();
        assert_eq!(stats.usage(&InspectedContainer::default(), 0).memory_bytes, 6.0, "cgroup v1");
    }
}
