use crate::tracked::PluginName;
use dropsonde_sandbox::PluginMetrics;
use dropsonde_store::Pool;
use std::collections::BTreeMap;

/// The bytes that the own series of each plugin have of the pool for them.
#[derive(Debug, Default)]
pub(super) struct OwnSeries(BTreeMap<PluginName, u64>);

impl OwnSeries {
    /// Takes from the pool what the plugins' series need. Returns with each plugin the bytes of its series that may be
    /// shown: `u64::MAX` if all may.
    pub(super) fn admit(
        &mut self,
        pool: &Pool,
        plugins: Vec<(PluginName, PluginMetrics)>,
    ) -> Vec<(PluginName, PluginMetrics, u64)> {
        self.0.retain(|name, taken| {
            let is_there = plugins.iter().any(|(plugin, _)| plugin == name);
            if !is_there {
                pool.give_back(name, *taken);
            }
            is_there
        });
        let admit = |(name, metrics): (PluginName, PluginMetrics)| {
            let needed = metrics.bytes() as u64;
            let taken = self.0.entry(name.clone()).or_default();
            pool.give_back(&name, taken.saturating_sub(needed));
            *taken = needed.min(*taken);
            if pool.take(&name, needed - *taken).is_ok() {
                *taken = needed;
                return (name, metrics, u64::MAX);
            }
            let most = pool.limit_of(&name).min(needed);
            pool.take_anyway(&name, most.saturating_sub(*taken));
            *taken = most.max(*taken);
            let shown = *taken;
            (name, metrics, shown)
        };
        plugins.into_iter().map(admit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_sandbox::{Descriptor, MetricHandles, MetricKind};

    /// Returns metrics with some series.
    fn metrics(plugin: &str, series: usize) -> PluginMetrics {
        let metrics = PluginMetrics::new(plugin, Default::default(), 10_000);
        let mut handles = MetricHandles::new(&metrics);
        let labels = vec!["l".to_owned()];
        let name = format!("{plugin}_total");
        let kind = MetricKind::Counter;
        let family =
            handles.register(Descriptor { name, help: String::new(), kind, labels, buckets: Vec::new() }).unwrap();
        for nth in 0..series {
            let series = handles.with_labels(family, &[nth.to_string()]).unwrap();
            handles.record(series, 1.0);
        }
        metrics
    }

    #[test]
    fn a_plugin_with_too_many_series_shows_some_and_another_shows_all() {
        let (greedy, modest) = (metrics("greedy", 5000), metrics("modest", 10));
        let pool = Pool::halved(greedy.bytes() as u64);
        let mut own = OwnSeries::default();
        let plugins = |them: &[(&str, &PluginMetrics)]| -> Vec<_> {
            them.iter().map(|(name, metrics)| ((*name).into(), (*metrics).clone())).collect()
        };
        let shown = |admitted: Vec<(PluginName, PluginMetrics, u64)>| -> Vec<u64> {
            admitted.into_iter().map(|(_, _, shown)| shown).collect()
        };
        let half = pool.total() / 2;
        for _ in 0..2 {
            let both = own.admit(&pool, plugins(&[("greedy", &greedy), ("modest", &modest)]));
            assert_eq!(shown(both), [half, u64::MAX], "{:?}", pool.accounts());
            assert_eq!(pool.account("greedy").used, half);
        }
        assert_eq!(pool.account("greedy").refused, 2);
        assert_eq!(shown(own.admit(&pool, plugins(&[("modest", &modest)]))), [u64::MAX]);
        assert_eq!(pool.account("greedy").used, 0, "it is gone");
    }
}
