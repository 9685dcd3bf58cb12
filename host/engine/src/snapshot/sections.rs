//! The sections of the snapshot: one table, of which follow the document, its metrics, its history, and what is shown of a
//! source.

use super::Aggregate;
use dropsonde_sandbox::Stats;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A number of a section.
#[derive(Debug)]
pub struct Number {
    pub section: &'static str,
    /// Its key in the section.
    pub key: &'static str,
    /// Its field in history.
    pub field: &'static str,
    /// What follows `dropsonde_snapshot_` in the name of its metric.
    pub metric: &'static str,
    pub help: &'static str,
    /// It is left out of the document when it is 0.
    is_optional: bool,
    of_source: fn(&Stats) -> Option<Reading>,
    of_all: fn(&Aggregate) -> Reading,
    set: fn(&mut Aggregate, &[Reading]),
}

/// Counts by name, which a section has beside its numbers.
#[derive(Debug)]
pub(super) struct Counts {
    section: &'static str,
    key: &'static str,
    pub(super) of_source: fn(&Stats) -> Option<&Vec<(String, i64)>>,
    of_all: fn(&Aggregate) -> &Vec<(String, i64)>,
    pub(super) of_source_mut: fn(&mut Stats) -> Option<&mut Vec<(String, i64)>>,
    pub(super) of_all_mut: fn(&mut Aggregate) -> &mut Vec<(String, i64)>,
}

/// What a source says of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reading {
    /// Of all sources together it is the sum.
    Sum(i64),
    /// Of all that say something it is the mean.
    Mean(f64),
}

macro_rules! reading {
    (sum $value:expr) => {
        Reading::Sum($value)
    };
    (mean $value:expr) => {
        Reading::Mean($value)
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
        /// In the document's order.
        const SECTIONS: &[&str] = &[$(stringify!($section)),*];

        /// All numbers of the document, in its order.
        pub const NUMBERS: &[Number] = &[$($(Number {
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

        pub(super) const COUNTS: &[Counts] = &[$($(Counts {
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
        sum total_users, "Users who are there.";
        sum total_agents, "Agents that are there.";
        mean average_per_channel, "Average number of members per open channel.";
    }
    history {
        sum total_envelopes_buffered, "Messages that are kept.";
        mean buffer_utilization_pct, "Share of the room for messages that is used, 0 to 100.";
    }
    tokens {
        sum issued_last_hour, "Tokens issued within the last hour.";
        sum revoked_last_hour, "Tokens revoked within the last hour.";
        // A gauge must not end in `_count`.
        sum active_count as "tokens_active", "Tokens that are good.";
    }
    cache {
        mean hit_rate_pct, "Share of look-ups the cache answered, 0 to 100.";
        sum size_bytes, "What the cache takes.";
        sum [optional] size_entries, "Entries of the cache.";
        sum evictions_last_hour, "Entries the cache let go of within the last hour.";
    }
}

// === impl Number ===

impl Number {
    /// Its value.
    pub fn value(&self, all: &Aggregate) -> f64 {
        match (self.of_all)(all) {
            Reading::Sum(value) => value as f64,
            Reading::Mean(value) => value,
        }
    }

    /// Makes it what several sources say together.
    pub(super) fn aggregate(&self, all: &mut Aggregate, sources: &[&Stats]) {
        let readings: Vec<Reading> = sources.iter().filter_map(|stats| (self.of_source)(stats)).collect();
        (self.set)(all, &readings);
    }
}

/// There is never less than nothing of something.
fn sum(readings: &[Reading]) -> i64 {
    readings.iter().fold(0, |sum: i64, reading| match reading {
        Reading::Sum(count) => sum.saturating_add((*count).max(0)),
        Reading::Mean(_) => sum,
    })
}

/// Of nothing it is 0. Where their sum is beyond all numbers, each is divided first.
fn mean(readings: &[Reading]) -> f64 {
    if readings.is_empty() {
        return 0.0;
    }
    let values = || {
        readings.iter().map(|reading| match reading {
            Reading::Sum(count) => *count as f64,
            Reading::Mean(value) => *value,
        })
    };
    let (sum, count): (f64, f64) = (values().sum(), readings.len() as f64);
    if sum.is_finite() { sum / count } else { values().map(|value| value / count).sum() }
}

/// All sections of the document.
pub(super) fn json_of_all(all: &Aggregate) -> Map<String, Value> {
    sections(
        |number| match (number.of_all)(all) {
            Reading::Sum(0) if number.is_optional => None,
            Reading::Sum(count) => Some(json!(count)),
            Reading::Mean(value) => Some(in_short(value)),
        },
        |counts| {
            let counts = (counts.of_all)(all).iter().filter(|(_, count)| *count != 0);
            counts.map(|(name, count)| (name.clone(), json!(count))).collect()
        },
    )
}

/// A source's sections, those it knows something about.
pub fn json_of_source(stats: &Stats) -> Value {
    let json = sections(
        |number| match (number.of_source)(stats)? {
            Reading::Sum(count) => Some(json!(count)),
            Reading::Mean(value) => Some(json!(value)),
        },
        |counts| {
            let counts: BTreeMap<_, _> = (counts.of_source)(stats).into_iter().flatten().cloned().collect();
            counts.into_iter().map(|(name, count)| (name, json!(count))).collect()
        },
    );
    Value::Object(json)
}

/// Sections without a number are left out, and so are counts without a name.
fn sections(
    value_of: impl Fn(&Number) -> Option<Value>,
    counts_of: impl Fn(&Counts) -> Map<String, Value>,
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

/// Integers print as integers.
fn in_short(value: f64) -> Value {
    let whole = value as i64;
    if whole as f64 == value && whole.unsigned_abs() < 1 << 53 { json!(whole) } else { json!(value) }
}
