//! Samples as metrics: one series for each field, instance and sampler. There may be very many, so labels are written once
//! and kept as bytes, rows are read once, and families are written from flat columns.

use super::text::{Kind, Text, fixed, label, number};
use crate::core::Core;
use crate::plugins::{Fields, Metric};
use crate::tracked::PluginName;
use dropsonde_store::Frame;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Frames that gave nothing for this many of their intervals are no longer exposed.
const STALE_INTERVALS: i64 = 3;

/// What is kept from one scrape to the next.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// Of the tracked set and of the store, when they were last looked through.
    known: Option<(u64, u64)>,
    labels: Vec<u8>,
    /// By sampler.
    groups: BTreeMap<PluginName, Group>,
}

/// One sampler's frames, and their newest rows.
#[derive(Debug)]
struct Group {
    fields: Fields,
    /// With where the labels of each are, up to the value.
    frames: Vec<(Arc<Frame>, Range<usize>)>,
    /// Where the labels of each row are.
    rows: Vec<Range<usize>>,
    /// What was read for each field, row after row: of a counter its running total.
    values: Vec<f64>,
}

impl Samples {
    /// Writes all families, by name.
    pub(super) fn write(&self, text: &mut Text) {
        let mut families: BTreeMap<&str, Vec<(&Group, usize)>> = BTreeMap::new();
        for group in self.groups.values().filter(|group| !group.rows.is_empty()) {
            for (column, metric) in group.fields.metrics.iter().enumerate() {
                families.entry(dropsonde_sandbox::family(&metric.name)).or_default().push((group, column));
            }
        }
        for columns in families.values() {
            let Some(first) = columns.iter().find_map(|(group, column)| group.fields.metrics.get(*column)) else {
                continue;
            };
            // Two samplers may disagree what kind of metric a name is; whoever comes first is right.
            let agrees = |metric: &&Metric| metric.is_counter == first.is_counter;
            let mut is_there = false;
            for (group, column) in columns {
                let Some(metric) = group.fields.metrics.get(*column).filter(agrees) else { continue };
                let begins = [metric.name.as_bytes(), b"{"].concat();
                let values = group.values.iter().skip(*column).step_by(group.fields.metrics.len().max(1));
                for (labels, value) in group.rows.iter().zip(values).filter(|(_, value)| !value.is_nan()) {
                    if !std::mem::replace(&mut is_there, true) {
                        text.family(
                            &first.name,
                            &first.help,
                            if first.is_counter { Kind::Counter } else { Kind::Gauge },
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

    /// The newest row of each frame.
    pub(super) fn read(&mut self, core: &Core) {
        self.look_through(core);
        let now_ms = core.clock.now_ms();
        for group in self.groups.values_mut() {
            group.rows.clear();
            group.values.clear();
            for (frame, labels) in &group.frames {
                let stale_ms = now_ms.saturating_sub(STALE_INTERVALS * frame.interval_ms());
                // Looks at the time first: the row of an old frame may be in a file.
                if frame.latest_readings(stale_ms, &mut group.values) {
                    group.rows.push(labels.clone());
                }
            }
        }
    }

    /// Which frames there are changes seldom, and so do their labels.
    fn look_through(&mut self, core: &Core) {
        let known = Some((core.tracked.revision(), core.store.revision()));
        let plugins = core.plugins.list();
        let fields: Vec<_> = plugins.iter().filter_map(|plugin| Some((&plugin.name, plugin.fields()?))).collect();
        let is_same = |(name, fields): &(&PluginName, Fields)| {
            self.groups.get(*name).is_some_and(|group| group.fields.schema == fields.schema)
        };
        if self.known == known && fields.len() == self.groups.len() && fields.iter().all(is_same) {
            return;
        }
        self.known = known;
        self.groups = fields.into_iter().map(|(name, fields)| (name.clone(), Group::new(fields))).collect();
        self.labels.clear();
        let mut of_instance = Vec::new();
        for instance in core.tracked.list() {
            of_instance.clear();
            for (key, value) in &instance.labels {
                label(&mut of_instance, key, value);
                of_instance.push(b',');
            }
            label(&mut of_instance, "id", instance.id.as_str());
            for frame in core.store.frames(&instance.id) {
                let sampler = frame.schema().sampler().clone();
                // Its plugin may have other fields now.
                let group = self.groups.get_mut(&*sampler).filter(|group| group.fields.schema == *frame.schema());
                let Some(group) = group else { continue };
                let begins = self.labels.len();
                self.labels.extend_from_slice(&of_instance);
                end_labels(&mut self.labels, &sampler);
                group.frames.push((frame, begins..self.labels.len()));
            }
        }
    }
}

impl Group {
    fn new(fields: Fields) -> Self {
        Self { fields, frames: Vec::new(), rows: Vec::new(), values: Vec::new() }
    }
}

/// After those of the instance.
fn end_labels(labels: &mut Vec<u8>, sampler: &str) {
    labels.push(b',');
    label(labels, "sampler", sampler);
    labels.extend_from_slice(b"} ");
}

impl Metric {
    /// In the base unit. What was rounded when it was kept is shown with as many decimals.
    fn show(&self, bytes: &mut Vec<u8>, value: f64) {
        /// Below, what is written reads back as what it was.
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
    /// One reading of one field, `x`, of one instance.
    pub(super) fn of(instance: &str, reading: f64) -> Self {
        use dropsonde_sandbox::{Aggregation, Field, Kind};
        let field = Field {
            name: "x".to_owned(),
            help: "Help \"quoted\" \\ and\nmore.".to_owned(),
            unit: String::new(),
            kind: Kind::Gauge,
            aggregation: Aggregation::Mean,
            precision: 0.0,
        };
        let mut samples = Self::default();
        label(&mut samples.labels, "id", instance);
        end_labels(&mut samples.labels, "s");
        let mut group = Group::new(Fields::check("s", &[field]).unwrap());
        group.rows.push(0..samples.labels.len());
        group.values.push(reading);
        samples.groups.insert("s".into(), group);
        samples
    }
}
