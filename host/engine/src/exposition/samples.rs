//! Samples as metrics: one series for each field, instance and sampler. There may be very many, so labels are written
//! once and kept as bytes, rows are read once, and families are written from flat columns.

use crate::Engine;
use crate::plugins::{FieldMetric, Fields, PluginStatus};
use crate::tracked::{InstanceState, PluginName};
use dropsonde_openmetrics::{ExpositionText, FamilyKind, fixed, label, number};
use dropsonde_store::{Frame, STALE_INTERVALS};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// The size of a line without its name and labels, in bytes.
const VALUE: usize = 40;

/// The state that is kept from one scrape to the next.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// The revisions of the tracked set and of the store when they were last looked through.
    known: Option<(u64, u64)>,
    /// The labels of all series, as they are written.
    labels: Vec<u8>,
    /// The frames of each sampler.
    groups: BTreeMap<PluginName, SamplerFrames>,
}

/// One sampler's frames, and their newest rows.
#[derive(Debug)]
struct SamplerFrames {
    fields: Fields,
    /// The size of the names of all its metrics, in bytes.
    names: usize,
    interval_ms: i64,
    /// The order of samplers that disagree: samplers that come with the program, then those that started earlier.
    order: (bool, Instant),
    /// The frames, each with the position of its labels.
    frames: Vec<(Arc<Frame>, Range<usize>)>,
    /// The position of the labels of each row.
    rows: Vec<Range<usize>>,
    /// The readings of all fields, row after row. A counter's reading is its running total.
    values: Vec<f64>,
}

impl Samples {
    /// Writes all families, sorted by name.
    pub(super) fn write(&self, text: &mut ExpositionText) {
        let mut families: BTreeMap<&str, Vec<(&SamplerFrames, usize)>> = BTreeMap::new();
        for group in self.groups.values() {
            for (column, metric) in group.fields.metrics.iter().enumerate() {
                families.entry(dropsonde_sandbox::family(&metric.name)).or_default().push((group, column));
            }
        }
        for columns in families.values() {
            // Two samplers may disagree about the kind of a metric. The first decides, even without rows.
            let first = columns.iter().min_by_key(|(group, _)| group.order);
            let Some(first) = first.and_then(|(group, column)| group.fields.metrics.get(*column)) else { continue };
            let agrees = |metric: &&FieldMetric| metric.is_counter == first.is_counter;
            let help = help(columns.iter().filter_map(|(group, column)| {
                let metric = group.fields.metrics.get(*column).filter(agrees)?;
                Some((&**group.fields.schema.sampler(), metric.help.as_str()))
            }));
            let mut is_there = false;
            for (group, column) in columns {
                let Some(metric) = group.fields.metrics.get(*column).filter(agrees) else { continue };
                let begins = [metric.name.as_bytes(), b"{"].concat();
                let values = group.values.iter().skip(*column).step_by(group.fields.metrics.len().max(1));
                // A total that is negative or infinite is no signal.
                let is_shown =
                    |value: f64| !value.is_nan() && (!metric.is_counter || (value >= 0.0 && value.is_finite()));
                for (labels, value) in group.rows.iter().zip(values).filter(|(_, value)| is_shown(**value)) {
                    if !std::mem::replace(&mut is_there, true) {
                        text.family(
                            &first.name,
                            &help,
                            if first.is_counter { FamilyKind::Counter } else { FamilyKind::Gauge },
                        );
                    }
                    text.bytes.extend_from_slice(&begins);
                    text.bytes.extend_from_slice(self.labels.get(labels.clone()).unwrap_or_default());
                    metric.show(&mut text.bytes, *value);
                    text.bytes.push(b'\n');
                }
            }
        }
    }

    /// Reads the newest row of each frame.
    pub(super) fn read(&mut self, engine: &Engine) {
        self.look_through(engine);
        let now_ms = engine.clock.now_ms();
        for group in self.groups.values_mut() {
            group.rows.clear();
            group.values.clear();
            for (frame, labels) in &group.frames {
                // A row from before the start may be older than the one exposed last, and a total would fall.
                if frame.last_write() == 0 {
                    continue;
                }
                // `latest_readings` checks the time first, because the row of an old frame may be in a file.
                let mut read = |pace_ms| {
                    let stale_ms = now_ms.saturating_sub(STALE_INTERVALS * pace_ms);
                    frame.latest_readings(stale_ms, &mut group.values)
                };
                // Only a row that seems late needs the pace, which takes longer to find.
                if read(frame.interval_ms()) || read(frame.pace_ms()) {
                    group.rows.push(labels.clone());
                }
            }
        }
    }

    /// Looks up all frames and their labels, unless nothing has changed since the last time. They change seldom.
    fn look_through(&mut self, engine: &Engine) {
        let known = Some((engine.tracked.revision(), engine.store.revision()));
        let samplers: BTreeMap<PluginName, SamplerFrames> = engine.plugins.list().iter().filter_map(sampler).collect();
        let is_same = |((a, before), (b, now)): ((&PluginName, &SamplerFrames), (&PluginName, &SamplerFrames))| {
            // Tells also when only a help text or the name of a total has changed.
            let is_same = Arc::ptr_eq(&before.fields.metrics, &now.fields.metrics);
            a == b && is_same && before.interval_ms == now.interval_ms
        };
        let is_known = self.known == known && self.groups.len() == samplers.len();
        if is_known && self.groups.iter().zip(&samplers).all(is_same) {
            return;
        }
        self.known = known;
        self.groups = samplers;
        self.labels.clear();
        engine.exposed.clear();
        let mut of_instance = Vec::new();
        for instance in engine.tracked.list().into_iter().filter(|instance| instance.state == InstanceState::Tracked) {
            of_instance.clear();
            for (key, value) in instance.labels.iter() {
                label(&mut of_instance, key, value);
                of_instance.push(b',');
            }
            label(&mut of_instance, "id", instance.id.as_str());
            for frame in engine.store.frames(&instance.id) {
                let sampler = frame.schema().sampler().clone();
                let Some(group) = self.groups.get_mut(&*sampler).filter(|group| group.takes(&frame)) else { continue };
                let lines = group.names + group.fields.metrics.len() * (of_instance.len() + sampler.len() + VALUE);
                if engine.exposed.take(frame.owner(), lines as u64).is_err() {
                    continue;
                }
                let begins = self.labels.len();
                self.labels.extend_from_slice(&of_instance);
                end_labels(&mut self.labels, &sampler);
                group.frames.push((frame, begins..self.labels.len()));
            }
        }
    }
}

/// Returns the help text of a family. Where samplers have different texts, the result has each with its sampler's name.
fn help<'a>(of_samplers: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Cow<'a, str> {
    let first = of_samplers.clone().next().map_or("", |(_, help)| help);
    if of_samplers.clone().all(|(_, help)| help == first) {
        return first.into();
    }
    let each = of_samplers.map(|(sampler, help)| format!("{} (sampler {sampler})", help.trim_end_matches('.')));
    each.collect::<Vec<_>>().join("; ").into()
}

impl SamplerFrames {
    fn new(fields: Fields, interval_ms: i64, order: (bool, Instant)) -> Self {
        let names = fields.metrics.iter().map(|metric| metric.name.len()).sum();
        Self { fields, names, interval_ms, order, frames: Vec::new(), rows: Vec::new(), values: Vec::new() }
    }

    /// Returns whether the plugin writes to this frame now. Older frames may have other fields or another interval.
    fn takes(&self, frame: &Frame) -> bool {
        frame.interval_ms() == self.interval_ms && *frame.schema() == self.fields.schema
    }
}

fn sampler(plugin: &Arc<PluginStatus>) -> Option<(PluginName, SamplerFrames)> {
    let interval_ms = i64::try_from(plugin.interval().as_millis()).unwrap_or(i64::MAX);
    Some((
        plugin.name.clone(),
        SamplerFrames::new(plugin.fields()?, interval_ms, (!plugin.is_built_in(), plugin.began)),
    ))
}

/// Appends the sampler's label after those of the instance, and ends the labels.
fn end_labels(labels: &mut Vec<u8>, sampler: &str) {
    labels.push(b',');
    label(labels, "sampler", sampler);
    labels.extend_from_slice(b"} ");
}

impl FieldMetric {
    /// Appends a value in the base unit. A value that was rounded when it was stored has as many decimals here.
    fn show(&self, bytes: &mut Vec<u8>, value: f64) {
        /// Below it, a written number reads back as the same value.
        const EXACT: f64 = 1e15;
        if let Some(decimals) = self.decimals {
            let units = (value * decimals.units).round();
            if units.abs() < EXACT {
                return fixed(bytes, units as i64, decimals.places);
            }
        }
        number(bytes, if self.is_counter { value } else { value * self.factor });
    }
}

#[cfg(test)]
impl Samples {
    /// Returns one reading of a gauge `x` and of a counter `y_total`, both of one instance.
    pub(super) fn of(instance: &str, reading: f64) -> Self {
        use dropsonde_model::Field;
        let help = "Help \"quoted\" \\ and\nmore.";
        let fields = [Field::gauge("x", help), Field::rate("y_per_sec", help, "y_total")];
        let mut samples = Self::default();
        label(&mut samples.labels, "id", instance);
        end_labels(&mut samples.labels, "s");
        let mut group = SamplerFrames::new(Fields::check("s", &fields).unwrap(), 1000, (false, Instant::now()));
        group.rows.push(0..samples.labels.len());
        group.values.extend([reading, reading]);
        samples.groups.insert("s".into(), group);
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::help;

    #[test]
    fn different_help_texts_are_joined_with_their_samplers_names() {
        let same = [("procfs", "CPU use."), ("scrape", "CPU use.")];
        assert_eq!(help(same.into_iter()), "CPU use.");
        let others = [("procfs", "CPU use of a machine or program."), ("scrape", "CPU use of a service")];
        assert_eq!(
            help(others.into_iter()),
            "CPU use of a machine or program (sampler procfs); CPU use of a service (sampler scrape)"
        );
        assert_eq!(help([].into_iter()), "");
    }
}
