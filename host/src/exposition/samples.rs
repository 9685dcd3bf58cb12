//! Samples as metrics: one series for each field, instance and sampler. There may be very many, so labels are written once
//! and kept as bytes, rows are read once, and families are written from flat columns.

use super::text::{Kind, Text, fixed, label, number};
use crate::core::Core;
use crate::plugins::{Fields, Metric};
use crate::tracked::PluginName;
use dropsonde_store::{Frame, InstanceId};
use std::collections::BTreeMap;
use std::ops::Range;

/// Frames that gave nothing for this many of their intervals are no longer exposed.
const STALE_INTERVALS: i64 = 3;

/// What is kept from one scrape to the next.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// Of the tracked set, when the labels were written.
    revision: Option<u64>,
    instances: Vec<(InstanceId, Range<usize>)>,
    labels: Vec<u8>,
    /// By sampler.
    groups: BTreeMap<PluginName, Group>,
}

/// The rows of one sampler.
#[derive(Debug)]
struct Group {
    fields: Fields,
    /// `sampler="…"} `, which ends the labels of each line.
    ends: Vec<u8>,
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
                let values = group.values.iter().skip(*column).step_by(group.fields.metrics.len().max(1));
                for (labels, value) in group.rows.iter().zip(values).filter(|(_, value)| !value.is_nan()) {
                    if !std::mem::replace(&mut is_there, true) {
                        text.family(
                            &first.name,
                            &first.help,
                            if first.is_counter { Kind::Counter } else { Kind::Gauge },
                        );
                    }
                    text.put(&[&metric.name, "{"]);
                    text.bytes.extend_from_slice(self.labels.get(labels.clone()).unwrap_or_default());
                    text.bytes.extend_from_slice(&group.ends);
                    metric.show(&mut text.bytes, *value);
                    text.bytes.push(b'\n');
                }
            }
        }
    }

    /// Labels change seldom, and are written when they do.
    fn know_labels(&mut self, core: &Core) {
        let revision = core.tracked.revision();
        if self.revision == Some(revision) {
            return;
        }
        self.revision = Some(revision);
        self.labels.clear();
        self.instances.clear();
        for instance in core.tracked.list() {
            let begins = self.labels.len();
            for (key, value) in &instance.labels {
                label(&mut self.labels, key, value);
                self.labels.push(b',');
            }
            label(&mut self.labels, "id", instance.id.as_str());
            self.labels.push(b',');
            self.instances.push((instance.id, begins..self.labels.len()));
        }
    }

    /// The newest row of each frame.
    pub(super) fn read(&mut self, core: &Core) {
        self.know_labels(core);
        let mut before = std::mem::take(&mut self.groups);
        for plugin in core.plugins.list() {
            let Some(fields) = plugin.fields() else { continue };
            let group = before.remove(&*plugin.name).map(|group| group.emptied(fields.clone()));
            self.groups.insert(plugin.name.clone(), group.unwrap_or_else(|| Group::new(&plugin.name, fields)));
        }
        let now_ms = core.clock.now_ms();
        for (id, labels) in &self.instances {
            core.store.each_frame(id, |frame| {
                let schema = frame.schema();
                // Its plugin may have other fields now.
                let group = self.groups.get_mut(&**schema.sampler()).filter(|group| group.fields.schema == *schema);
                let Some(group) = group.filter(|_| is_fresh(frame, now_ms)) else { return };
                if frame.latest_readings(&mut group.values) {
                    group.rows.push(labels.clone());
                }
            });
        }
    }
}

impl Group {
    fn new(sampler: &str, fields: Fields) -> Self {
        let mut ends = Vec::new();
        label(&mut ends, "sampler", sampler);
        ends.extend_from_slice(b"} ");
        Self { fields, ends, rows: Vec::new(), values: Vec::new() }
    }

    fn emptied(mut self, fields: Fields) -> Self {
        self.rows.clear();
        self.values.clear();
        Self { fields, ..self }
    }
}

/// Looks at the time first: the row of an old frame may be in a file.
fn is_fresh(frame: &Frame, now_ms: i64) -> bool {
    frame.latest_at_ms().is_some_and(|at_ms| now_ms - at_ms <= STALE_INTERVALS * frame.interval_ms())
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
        samples.labels.push(b',');
        let mut group = Group::new("s", Fields::check("s", &[field]).unwrap());
        group.rows.push(0..samples.labels.len());
        group.values.push(reading);
        samples.groups.insert("s".into(), group);
        samples
    }
}
