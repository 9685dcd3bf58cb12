use super::{Descriptor, MetricFamily, NotRegistered, PluginMetrics, Series};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Bits of a handle for its index: an instance may hold 2^20 handles of each kind at a time.
const INDEX_BITS: u32 = 20;

/// The handles that one instance of a plugin has for its metrics.
#[derive(Debug)]
pub struct MetricHandles {
    metrics: PluginMetrics,
    /// The number of this instance, counted from 1.
    instance: u32,
    families: Slots<MetricFamily>,
    series: Slots<Series>,
}

/// A table of things by number. The upper bits of a number tell whether its thing still exists: numbers from other
/// instances, and numbers of things that were unregistered, are not valid.
#[derive(Debug)]
struct Slots<T> {
    all: Vec<(u32, Option<Arc<T>>)>,
    free: Vec<u32>,
    /// The first generation of a slot.
    first: u32,
    /// The uppermost bit of the numbers: a family's number is never a series' number.
    kind: u32,
}

impl<T> Slots<T> {
    fn of(instance: u32, kind: u32) -> Self {
        // The generations start far from those of earlier instances, because each reuse of a slot adds one.
        Self { all: Vec::new(), free: Vec::new(), first: instance.wrapping_mul(61), kind }
    }

    fn number(&self, generation: u32, index: u32) -> u32 {
        self.kind << 31 | (generation << INDEX_BITS & !(1 << 31)) | index
    }

    fn add(&mut self, thing: Arc<T>) -> Option<u32> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.all.len()).ok().filter(|index| index >> INDEX_BITS == 0)?;
                self.all.push((self.first, None));
                index
            }
        };
        let slot = self.all.get_mut(index as usize)?;
        *slot = (slot.0.wrapping_add(1), Some(thing));
        let generation = slot.0;
        Some(self.number(generation, index))
    }

    fn get(&self, number: u32) -> Option<&Arc<T>> {
        let index = number & ((1 << INDEX_BITS) - 1);
        let (generation, thing) = self.all.get(index as usize)?;
        thing.as_ref().filter(|_| self.number(*generation, index) == number)
    }

    fn remove(&mut self, number: u32) {
        let index = number & ((1 << INDEX_BITS) - 1);
        if self.get(number).is_some()
            && let Some(slot) = self.all.get_mut(index as usize)
        {
            slot.1 = None;
            self.free.push(index);
        }
    }
}

impl MetricHandles {
    /// Returns the handles of a new instance.
    pub fn new(metrics: &PluginMetrics) -> Self {
        let instance = metrics.0.instances.fetch_add(1, Relaxed).wrapping_add(1).max(1);
        Self { metrics: metrics.clone(), instance, families: Slots::of(instance, 1), series: Slots::of(instance, 0) }
    }

    /// Counts values with wrong handles, which were ignored.
    pub(crate) fn ignore(&self, count: u64) {
        self.metrics.ignore(count);
    }

    /// Registers a metric. The same descriptor again returns the same handle.
    pub fn register(&mut self, descriptor: Descriptor) -> Result<u32, NotRegistered> {
        let family = self.metrics.register(descriptor)?;
        if let Some(handle) = family.handle.get(self.instance) {
            return Ok(handle);
        }
        let handle = self.families.add(family.clone()).ok_or_else(|| self.metrics.overflow(1 << INDEX_BITS))?;
        family.handle.set(self.instance, handle);
        Ok(handle)
    }

    /// Returns the handle of the series with these label values, which are in the order of the labels.
    pub fn with_labels(&mut self, family: u32, values: &[String]) -> Result<u32, NotRegistered> {
        let Some(family) = self.families.get(family) else {
            self.metrics.0.wrong_handles.fetch_add(1, Relaxed);
            return Err(NotRegistered::Conflict(format!("{family} is not a family of this instance of the plugin")));
        };
        let series = self.metrics.with_labels(family, values)?;
        if let Some(handle) = series.handle.get(self.instance) {
            return Ok(handle);
        }
        let handle = self.series.add(series.clone()).ok_or_else(|| self.metrics.overflow(1 << INDEX_BITS))?;
        series.handle.set(self.instance, handle);
        Ok(handle)
    }

    /// Records a value. A wrong handle or value is ignored and counted.
    pub fn record(&self, series: u32, value: f64) {
        match self.series.get(series) {
            Some(series) if series.record(value) => {}
            Some(_) => drop(self.metrics.0.wrong_values.fetch_add(1, Relaxed)),
            None => drop(self.metrics.0.wrong_handles.fetch_add(1, Relaxed)),
        }
    }

    /// Removes a metric with all its series. Returns whether there was one of this name.
    pub fn unregister(&mut self, name: &str) -> bool {
        let Some(family) = self.metrics.unregister(name) else { return false };
        for handle in family.series().iter().filter_map(|series| series.handle.get(self.instance)) {
            self.series.remove(handle);
        }
        if let Some(handle) = family.handle.get(self.instance) {
            self.families.remove(handle);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::metrics::{MetricKind, MetricNames, SeriesReading};

    fn descriptor(name: &str, kind: MetricKind, labels: &[&str]) -> Descriptor {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        Descriptor { name: name.to_owned(), help: "Help.".to_owned(), kind, labels, buckets: Vec::new() }
    }

    fn metrics(most: usize) -> PluginMetrics {
        PluginMetrics::new("p", MetricNames::default(), most)
    }

    fn value(metrics: &PluginMetrics, name: &str) -> SeriesReading {
        let families = metrics.families();
        families.iter().find(|family| family.descriptor().name == name).unwrap().series()[0].read()
    }

    #[test]
    fn the_same_again_gives_the_same_handle() {
        let mut handles = MetricHandles::new(&metrics(100));
        let family = handles.register(descriptor("x_total", MetricKind::Counter, &["l"])).unwrap();
        assert_eq!(handles.register(descriptor("x_total", MetricKind::Counter, &["l"])), Ok(family));
        let series = handles.with_labels(family, &["a".to_owned()]).unwrap();
        assert_eq!(handles.with_labels(family, &["a".to_owned()]), Ok(series));
        assert_ne!(handles.with_labels(family, &["b".to_owned()]), Ok(series));
    }

    #[test]
    fn something_else_under_a_name_is_a_conflict() {
        let mut handles = MetricHandles::new(&metrics(100));
        handles.register(descriptor("x", MetricKind::Gauge, &[])).unwrap();
        for other in [
            descriptor("x", MetricKind::Histogram, &[]),
            descriptor("x", MetricKind::Gauge, &["l"]),
            descriptor("x_total", MetricKind::Counter, &[]),
        ] {
            assert!(matches!(handles.register(other), Err(NotRegistered::Conflict(_))));
        }
    }

    #[test]
    fn counters_go_on_in_the_next_instance_under_another_handle() {
        let metrics = metrics(100);
        let start = || {
            let mut handles = MetricHandles::new(&metrics);
            let family = handles.register(descriptor("x_total", MetricKind::Counter, &[])).unwrap();
            let series = handles.with_labels(family, &[]).unwrap();
            (handles, series)
        };
        let (handles, old) = start();
        handles.record(old, 2.0);
        drop(handles);
        let (handles, new) = start();
        handles.record(old, 100.0);
        assert_eq!(metrics.wrong_handles(), 1, "it is another instance's");
        handles.record(new, 3.0);
        assert_eq!(value(&metrics, "x_total"), SeriesReading::Number(5.0));
    }

    #[test]
    fn handles_out_of_range_and_values_out_of_meaning_are_ignored_and_counted() {
        let metrics = metrics(100);
        let mut handles = MetricHandles::new(&metrics);
        let family = handles.register(descriptor("x_total", MetricKind::Counter, &[])).unwrap();
        let series = handles.with_labels(family, &[]).unwrap();
        for wrong in [series + 1, u32::MAX, family] {
            handles.record(wrong, 1.0);
        }
        handles.record(series, -1.0);
        assert!(matches!(handles.with_labels(u32::MAX, &[]), Err(NotRegistered::Conflict(_))));
        assert_eq!((metrics.wrong_handles(), metrics.wrong_values()), (4, 1));
        assert_eq!(value(&metrics, "x_total"), SeriesReading::Number(0.0));
    }

    #[test]
    fn what_is_unregistered_makes_room_and_its_handles_mean_nothing() {
        let metrics = metrics(1);
        let mut handles = MetricHandles::new(&metrics);
        let family = handles.register(descriptor("x", MetricKind::Gauge, &["l"])).unwrap();
        let old = handles.with_labels(family, &["a".to_owned()]).unwrap();
        assert_eq!(handles.with_labels(family, &["b".to_owned()]), Err(NotRegistered::TooMany(1)));
        assert_eq!(metrics.overflowed(), 1);
        assert!(!handles.unregister("x_total"), "which it is not called");
        assert!(handles.unregister("x"));
        assert!(!handles.unregister("x"));
        let family = handles.register(descriptor("y", MetricKind::Gauge, &["l"])).unwrap();
        let new = handles.with_labels(family, &["a".to_owned()]).unwrap();
        handles.record(old, 1.0);
        assert_eq!(metrics.wrong_handles(), 1);
        handles.record(new, 2.0);
        assert_eq!(value(&metrics, "y"), SeriesReading::Number(2.0));
        assert_eq!(metrics.series(), 1);
    }

    #[test]
    fn a_histogram_counts_as_the_series_it_makes() {
        let mut handles = MetricHandles::new(&metrics(20));
        let family = handles.register(descriptor("x", MetricKind::Histogram, &["l"])).unwrap();
        assert!(handles.with_labels(family, &["a".to_owned()]).is_ok());
        assert_eq!(handles.with_labels(family, &["b".to_owned()]), Err(NotRegistered::TooMany(20)));
    }

    #[test]
    fn texts_have_a_ceiling_of_their_own() {
        let metrics = metrics(100);
        let mut handles = MetricHandles::new(&metrics);
        let family = handles.register(descriptor("x", MetricKind::Gauge, &["a", "b", "c"])).unwrap();
        let long = |nth: usize| vec![format!("{nth:0256}"); 3];
        let taken = (0..100).take_while(|nth| handles.with_labels(family, &long(*nth)).is_ok()).count();
        assert!((50..60).contains(&taken), "{taken} of about 900 bytes in 51200");
        assert_eq!(handles.with_labels(family, &vec!["x".repeat(257); 3]), Err(NotRegistered::TooMany(256)));
    }

    #[test]
    fn nothing_a_plugin_does_makes_it_grow() {
        let metrics = metrics(10);
        let mut handles = MetricHandles::new(&metrics);
        for nth in 0..10_000 {
            let name = format!("x{nth}");
            let family = handles.register(descriptor(&name, MetricKind::Gauge, &[])).unwrap();
            handles.with_labels(family, &[]).unwrap();
            assert!(handles.unregister(&name));
        }
        assert_eq!((handles.series.all.len(), handles.families.all.len()), (1, 1));
        let table = metrics.lock();
        assert_eq!((table.series, table.bytes), (0, 0));
    }
}
