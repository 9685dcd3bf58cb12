//! The parts of a configuration that can change while the host runs.

use super::{
    AuthConfig, Config, HttpConfig, MetricsConfig, PollConfig, QueryConfig, SnapshotConfig, StoreConfig, StreamConfig,
    TlsConfig,
};

/// A new configuration, as far as it applies without a restart.
#[derive(Debug)]
pub struct ConfigChange {
    /// The configuration to put in force.
    pub config: Config,
    /// Changed keys that need a restart; in `config` they have their old values.
    pub needs_restart: Vec<&'static str>,
    /// Changed sections of `config`, without those of plugins.
    pub changed: Vec<&'static str>,
}

/// Destructures a section into the keys that need a restart and those that apply live. A key that is in neither list
/// does not compile. A `live` key must be read from the options in force at each use, or be applied in
/// `reload::take_over`; otherwise a change has no effect until a restart.
macro_rules! section {
    ($kept:ident, $before:expr, $now:expr => $section:ident {
        restart: [$($fixed:ident),*], live: [$($live:ident),*] $(,)?
    } $prefix:literal) => {
        let $section { $($fixed,)* $($live: _),* } = $now;
        $(if *$fixed != $before.$fixed {
            fixed_as($fixed, &$before.$fixed);
            $kept.push(concat!($prefix, stringify!($fixed)));
        })*
    };
}

fn fixed_as<T: Clone>(now: &mut T, before: &T) {
    now.clone_from(before);
}

impl ConfigChange {
    /// Compares the configuration in force with a new one. Both are valid.
    pub fn between(before: &Config, mut now: Config) -> Self {
        let mut kept: Vec<&'static str> = Vec::new();
        // Keys of resources that are opened, bound or sized at the start need a restart.
        section! { kept, before, &mut now => Config {
            restart: [listen, data_dir, plugins_dir, compile_cache, insecure, root, trust_tag, trusted_keys, is_demo, tracing],
            live: [
                labels, external_name, store, poll, stream, metrics, snapshot, query, rules, alerts, alerting, remote_write, otlp, read_through, http, auth, tls,
                instances, plugins
            ],
        } "" }
        section! { kept, before.store, &mut now.store => StoreConfig {
            restart: [
                retention_samples, retention, max_disk, memory_only, flush_interval, block_cache, max_memory, max_series
            ],
            live: [],
        } "store." }
        section! { kept, before.poll, &mut now.poll => PollConfig {
            restart: [max_instances],
            live: [interval, timeout, discover_interval, default_samplers],
        } "poll." }
        section! { kept, before.stream, &mut now.stream => StreamConfig {
            restart: [watch_buffer, heartbeat, stalled],
            live: [max_streams, max_streams_per_peer, max_buffer_bytes],
        } "stream." }
        section! { kept, before.metrics, &mut now.metrics => MetricsConfig {
            restart: [max_series_per_plugin, max_size],
            live: [path, history, history_interval, history_keep],
        } "metrics." }
        section! { kept, before.snapshot, &mut now.snapshot => SnapshotConfig {
            restart: [],
            live: [interval, path],
        } "snapshot." }
        section! { kept, before.query, &mut now.query => QueryConfig {
            restart: [],
            live: [max_samples, max_series, timeout, concurrency, lookback, experimental],
        } "query." }
        section! { kept, before.http, &mut now.http => HttpConfig {
            restart: [socket_mode],
            live: [
                hosts, cors_origins, max_connections, max_connections_per_peer, header_timeout, read_timeout,
                write_timeout, max_header, max_body, max_range_queries, max_answer_bytes
            ],
        } "http." }
        section! { kept, before.auth, &mut now.auth => AuthConfig {
            restart: [],
            live: [read_token_file, write_token_file, admin_token_file, login_lifetime],
        } "auth." }
        section! { kept, before.tls, &mut now.tls => TlsConfig {
            restart: [],
            live: [cert, key, client_ca, min_version],
        } "tls." }
        // Switching TLS on or off needs a restart: clients would have to change how they connect.
        if now.tls.files().is_some() != before.tls.files().is_some() {
            now.tls = before.tls.clone();
            kept.push("tls");
        }
        let sections = [
            ("labels", now.labels != before.labels),
            ("[poll]", now.poll != before.poll),
            ("[stream]", now.stream != before.stream),
            ("[metrics]", now.metrics != before.metrics),
            ("[snapshot]", now.snapshot != before.snapshot),
            ("external_name", now.external_name != before.external_name),
            ("[query]", now.query != before.query),
            ("rules", now.rules != before.rules),
            ("[[alerts]]", now.alerts != before.alerts),
            ("[alerting]", now.alerting != before.alerting),
            ("[[remote_write]]", now.remote_write != before.remote_write),
            ("[[otlp]]", now.otlp != before.otlp),
            ("[read_through]", now.read_through != before.read_through),
            ("[http]", now.http != before.http),
            ("[auth]", now.auth != before.auth),
            ("[tls]", now.tls != before.tls),
            ("[[instances]]", now.instances != before.instances),
        ];
        let changed = sections.into_iter().filter(|(_, is_other)| *is_other).map(|(name, _)| name).collect();
        Self { config: now, needs_restart: kept, changed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Config {
        let config: Config = toml::from_str(text).unwrap();
        config.validated().unwrap()
    }

    #[test]
    fn keys_that_need_a_restart_are_listed_and_keep_their_values() {
        let before = parse("listen = '127.0.0.1:1'\npoll.interval = '10s'");
        let now =
            parse("listen = '127.0.0.1:2'\npoll.interval = '1s'\nstore.retention = '1h'\n[tls]\ncert = 'c'\nkey = 'k'");
        let ConfigChange { config, needs_restart, changed } = ConfigChange::between(&before, now.clone());
        assert_eq!(needs_restart, ["listen", "store.retention", "tls"]);
        assert_eq!(changed, ["[poll]"]);
        assert_eq!((&config.listen, &config.store, &config.tls), (&before.listen, &before.store, &before.tls));
        assert_eq!(config.poll.interval, now.poll.interval, "the other keys apply");
    }

    #[test]
    fn a_changed_certificate_needs_no_restart() {
        let before = parse("[tls]\ncert = 'c'\nkey = 'k'");
        let now = parse("[tls]\ncert = 'd'\nkey = 'k'\nmin_version = '1.3'");
        let ConfigChange { config, needs_restart, changed } = ConfigChange::between(&before, now.clone());
        assert!(needs_restart.is_empty());
        assert_eq!(changed, ["[tls]"]);
        assert_eq!(config, now);
    }
}
