//! What of a configuration can change while the host runs.

use super::Config;

/// A newer configuration, as far as it can be in force without a restart.
#[derive(Debug)]
pub struct Change {
    /// What is in force from now on.
    pub config: Config,
    /// Keys that were changed, and take a restart: in `config` they are as before.
    pub needs_restart: Vec<&'static str>,
    /// Sections that are others in `config`, without those of plugins.
    pub changed: Vec<&'static str>,
}

macro_rules! changed {
    ($before:ident $now:ident: $($key:ident $name:literal;)*) => {
        [$(($now.$key != $before.$key, $name)),*].into_iter().filter(|(is_other, _)| *is_other).map(|(_, name)| name)
    };
}

macro_rules! keep {
    ($before:ident $now:ident $kept:ident: $($($key:ident).+;)*) => {
        $(if $now.$($key).+ != $before.$($key).+ {
            $now.$($key).+ = $before.$($key).+.clone();
            $kept.push(concat!($(stringify!($key), "."),+));
        })*
    };
}

impl Change {
    /// From what is in force to what an operator says now. Both are valid.
    pub fn between(before: &Config, mut now: Config) -> Self {
        let mut kept: Vec<&'static str> = Vec::new();
        // What is opened, bound or sized at the start.
        keep! { before now kept:
            listen;
            data_dir;
            plugins_dir;
            compile_cache;
            insecure;
            store.retention_samples;
            store.retention;
            store.max_disk;
            store.memory_only;
            store.flush_interval;
            store.block_cache;
            store.max_memory;
            poll.max_instances;
            stream.watch_buffer;
            stream.heartbeat;
            stream.stalled;
            metrics.max_series_per_plugin;
            metrics.max_size;
            http.socket_mode;
            tracing;
        }
        // A client that speaks one does not speak the other.
        if now.tls.files().is_some() != before.tls.files().is_some() {
            now.tls = before.tls.clone();
            kept.push("tls.");
        }
        let needs_restart = kept.into_iter().map(|key| key.trim_end_matches('.')).collect();
        let changed = changed! { before now:
            labels "labels";
            poll "[poll]";
            stream "[stream]";
            metrics "[metrics]";
            snapshot "[snapshot]";
            http "[http]";
            auth "[auth]";
            tls "[tls]";
            instances "[[instances]]";
        };
        let changed = changed.collect();
        Self { config: now, needs_restart, changed }
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
    fn what_takes_a_restart_is_named_and_stays_as_it_was() {
        let before = parse("listen = '127.0.0.1:1'\npoll.interval = '10s'");
        let now =
            parse("listen = '127.0.0.1:2'\npoll.interval = '1s'\nstore.retention = '1h'\n[tls]\ncert = 'c'\nkey = 'k'");
        let Change { config, needs_restart, changed } = Change::between(&before, now.clone());
        assert_eq!(needs_restart, ["listen", "store.retention", "tls"]);
        assert_eq!(changed, ["[poll]"]);
        assert_eq!((&config.listen, &config.store, &config.tls), (&before.listen, &before.store, &before.tls));
        assert_eq!(config.poll.interval, now.poll.interval, "and the rest is in force");
    }

    #[test]
    fn another_certificate_takes_none() {
        let before = parse("[tls]\ncert = 'c'\nkey = 'k'");
        let now = parse("[tls]\ncert = 'd'\nkey = 'k'\nmin_version = '1.3'");
        let Change { config, needs_restart, changed } = Change::between(&before, now.clone());
        assert!(needs_restart.is_empty());
        assert_eq!(changed, ["[tls]"]);
        assert_eq!(config, now);
    }
}
