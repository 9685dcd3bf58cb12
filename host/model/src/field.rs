use crate::Aggregation;

/// A named value that a sampler reads of each instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    pub help: String,
    /// The unit in words; empty if the field has none.
    pub unit: String,
    pub kind: Kind,
    /// The Prometheus name of a counter's total, ending in `_total`. Empty for a gauge.
    pub total: String,
    pub aggregation: Aggregation,
    /// The smallest step that matters; 0 keeps every bit.
    pub precision: f64,
}

/// The kind of a field: how its readings become its values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A level: the readings are the values.
    Gauge,
    /// A running total: the values are `scale` × the increase of the total per second.
    Counter { scale: f64 },
}

impl Field {
    /// Returns a gauge that is averaged over time and keeps every bit. Its name ends in its unit: `queue_length`,
    /// `heap_mb`.
    pub fn gauge(name: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            help: help.into(),
            unit: String::new(),
            kind: Kind::Gauge,
            total: String::new(),
            aggregation: Aggregation::Mean,
            precision: 0.0,
        }
    }

    /// Returns the per-second rate of a running total. `total` is the name of that total: `orders_total`.
    pub fn rate(name: impl Into<String>, help: impl Into<String>, total: impl Into<String>) -> Self {
        Self { kind: Kind::Counter { scale: 1.0 }, total: total.into(), ..Self::gauge(name, help) }
    }

    /// Sets the smallest step that matters. A coarser step makes history smaller.
    pub fn precision(self, precision: f64) -> Self {
        Self { precision, ..self }
    }

    /// Sets how several readings are combined into one point.
    pub fn aggregation(self, aggregation: Aggregation) -> Self {
        Self { aggregation, ..self }
    }
}
