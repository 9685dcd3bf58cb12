//! The sections of the snapshot, in one table. The document, its metrics, its history and the page of a source follow
//! from this table.

use super::Aggregate;
use dropsonde_sandbox::Stats;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A number of a section.
#[derive(Debug)]
pub struct SnapshotNumber {
    pub section: &'static str,
    /// The key in the section.
    pub key: &'static str,
    /// The field in history.
    pub field: &'static str,
    /// The part of the metric's name behind `dropsonde_snapshot_`.
    pub metric: &'static str,
    pub help: &'static str,
    /// Whether the document leaves the number out when it is 0.
    is_optional: bool,
    of_source: fn(&Stats) -> Option<SourceReading>,
    of_all: fn(&Aggregate) -> SourceReading,
    set: fn(&mut Aggregate, &[SourceReading]),
}

/// Counts, by name.
type NamedCounts = Vec<(String, i64)>;

/// Counts by name, which a section has beside its numbers.
#[derive(Debug)]
pub(super) struct SectionCounts {
    section: &'static str,
    key: &'static str,
    pub(super) of_source: fn(&Stats) -> Option<&NamedCounts>,
    of_all: fn(&Aggregate) -> &NamedCounts,
    pub(super) of_source_mut: fn(&mut Stats) -> Option<&mut NamedCounts>,
    pub(super) of_all_mut: fn(&mut Aggregate) -> &mut NamedCounts,
}

/// The value of a number, and how the values of several sources are combined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum SourceReading {
    /// The values are added up.
    Sum(i64),
    /// The values of the sources that report the section are averaged.
    Mean(f64),
}

macro_rules! reading {
    (sum $value:expr) => {
        SourceReading::Sum($value)
    };
    (mean $value:expr) => {
        SourceReading::Mean($value)
    };
}

macro_rules! together {
    (sum $readings:expr) => {
        sum($readings)
    };
    (mean $readings:expr) => {
        mean($readings)
    };
}

macro_rules! metric {
    ($section:ident $key:ident) => {
        concat!(stringify!($section), "_", stringify!($key))
    };
    ($section:ident $key:ident $metric:literal) => {
        $metric
    };
}

macro_rules! is_optional {
    () => {
        false
    };
    (optional) => {
        true
    };
}

macro_rules! sections {
    ($($section:ident $(with $counts:ident)? {
        $($how:ident $([$optional:ident])? $key:ident $(as $metric:literal)?, $help:literal;)*
    })*) => {
        /// The names of all sections, in the document's order.
        const SECTIONS: &[&str] = &[$(stringify!($section)),*];

        /// All numbers of the document, in its order.
        pub const NUMBERS: &[SnapshotNumber] = &[$($(SnapshotNumber {
            section: stringify!($section),
            key: stringify!($key),
            field: concat!(stringify!($section), "_", stringify!($key)),
            metric: metric!($section $key $($metric)?),
            help: $help,
            is_optional: is_optional!($($optional)?),
            of_source: |stats| stats.$section.as_ref().map(|section| reading!($how section.$key)),
            of_all: |all| reading!($how all.$section.$key),
            set: |all, readings| all.$section.$key = together!($how readings),
        },)*)*];

        pub(super) const COUNTS: &[SectionCounts] = &[$($(SectionCounts {
            section: stringify!($section),
            key: stringify!($counts),
            of_source: |stats| stats.$section.as_ref().map(|section| &section.$counts),
            of_all: |all| &all.$section.$counts,
            of_source_mut: |stats| stats.$section.as_mut().map(|section| &mut section.$counts),
            of_all_mut: |all| &mut all.$section.$counts,
        },)?)*];
    };
}

sections! {
    channels with by_pattern {
        sum total_active, "Open channels.";
    }
    envelopes with by_aspect {
        mean rate_per_second, "Messages per second.";
    }
    presence {
        sum total_users, "Users who are present.";
        sum total_agents, "Agents that are present.";
        mean average_per_channel, "Average number of members per open channel.";
    }
    history {
        sum total_envelopes_buffered, "Messages in the buffer.";
        mean buffer_utilization_pct, "Use of the buffer for messages, in percent.";
    }
    tokens {
        sum issued_last_hour, "Tokens issued within the last hour.";
        sum revoked_last_hour, "Tokens revoked within the last hour.";
        // A gauge must not end in `_count`.
        sum active_count as "tokens_active", "Tokens that are valid.";
    }
    cache {
        mean hit_rate_pct, "Lookups that the cache answered, in percent.";
        sum size_bytes, "Size of the cache, in bytes.";
        sum [optional] size_entries, "Entries in the cache.";
        sum evictions_last_hour, "Entries evicted from the cache within the last hour.";
    }
}

// === impl SnapshotNumber ===

impl SnapshotNumber {
    /// Returns the number's value.
    pub fn value(&self, all: &Aggregate) -> f64 {
        match (self.of_all)(all) {
            SourceReading::Sum(value) => value as f64,
            SourceReading::Mean(value) => value,
        }
    }

    /// Sets the number to the combined value of several sources.
    pub(super) fn aggregate(&self, all: &mut Aggregate, sources: &[&Stats]) {
        let readings: Vec<SourceReading> = sources.iter().filter_map(|stats| (self.of_source)(stats)).collect();
        (self.set)(all, &readings);
    }
}

/// Returns the sum of counts. A negative count counts as 0.
fn sum(readings: &[SourceReading]) -> i64 {
    readings.iter().fold(0, |sum: i64, reading| match reading {
        SourceReading::Sum(count) => sum.saturating_add((*count).max(0)),
        SourceReading::Mean(_) => sum,
    })
}

/// Returns the mean of values, which is 0 without any. If the sum is beyond all numbers, each value is divided first.
fn mean(readings: &[SourceReading]) -> f64 {
    if readings.is_empty() {
        return 0.0;
    }
    let values = || {
        readings.iter().map(|reading| match reading {
            SourceReading::Sum(count) => *count as f64,
            SourceReading::Mean(value) => *value,
        })
    };
    let (sum, count): (f64, f64) = (values().sum(), readings.len() as f64);
    if sum.is_finite() { sum / count } else { values().map(|value| value / count).sum() }
}

/// Returns all sections of the document.
pub(super) fn json_of_all(all: &Aggregate) -> Map<String, Value> {
    sections(
        |number| match (number.of_all)(all) {
            SourceReading::Sum(0) if number.is_optional => None,
            SourceReading::Sum(count) => Some(json!(count)),
            SourceReading::Mean(value) => Some(in_short(value)),
        },
        |counts| {
            let counts = (counts.of_all)(all).iter().filter(|(_, count)| *count != 0);
            counts.map(|(name, count)| (name.clone(), json!(count))).collect()
        },
    )
}

/// Returns the sections that a source reports.
pub fn json_of_source(stats: &Stats) -> Value {
    let json = sections(
        |number| match (number.of_source)(stats)? {
            SourceReading::Sum(count) => Some(json!(count)),
            SourceReading::Mean(value) => Some(json!(value)),
        },
        |counts| {
            let counts: BTreeMap<_, _> = (counts.of_source)(stats).into_iter().flatten().cloned().collect();
            counts.into_iter().map(|(name, count)| (name, json!(count))).collect()
        },
    );
    Value::Object(json)
}

/// Returns sections as JSON, without sections that have no number, and without counts that have no name.
fn sections(
    value_of: impl Fn(&SnapshotNumber) -> Option<Value>,
    counts_of: impl Fn(&SectionCounts) -> Map<String, Value>,
) -> Map<String, Value> {
    let mut json = Map::new();
    for name in SECTIONS {
        let numbers = NUMBERS.iter().filter(|number| number.section == *name);
        let mut section: Map<_, _> =
            numbers.filter_map(|number| Some((number.key.to_owned(), value_of(number)?))).collect();
        if section.is_empty() {
            continue;
        }
        for counts in COUNTS.iter().filter(|counts| counts.section == *name) {
            let by_name = counts_of(counts);
            if !by_name.is_empty() {
                section.insert(counts.key.to_owned(), Value::Object(by_name));
            }
        }
        json.insert((*name).to_owned(), Value::Object(section));
    }
    json
}

/// Returns a number as JSON. Whole numbers print as integers.
fn in_short(value: f64) -> Value {
    let whole = value as i64;
    if whole as f64 == value && whole.unsigned_abs() < 1 << 53 { json!(whole) } else { json!(value) }
}
