/// A named value that a sampler reads of each instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    pub help: String,
    pub unit: String,
    pub kind: Kind,
    pub aggregation: Aggregation,
    pub precision: f64,
}

/// The kind of a field: the meaning of its readings.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A level, stored as it is read.
    Gauge,
    /// A running total. The host derives the field's value: `scale` × the increase of the total per second.
    Counter { total: String, scale: f64 },
}

/// How several readings become one point when a query asks for fewer points than there are readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregation {
    Mean,
    Min,
    Max,
    Last,
    Sum,
}

// === impl Field ===

impl Field {
    /// Returns a gauge that is averaged over time and keeps every bit. Its name ends in its unit: `memory_used_mb`.
    pub fn gauge(name: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            help: help.into(),
            unit: String::new(),
            kind: Kind::Gauge,
            aggregation: Aggregation::Mean,
            precision: 0.0,
        }
    }

    /// Returns the per-second rate of a running total. `total` is the Prometheus name of the total itself, ending in
    /// `_total`.
    pub fn rate(name: impl Into<String>, help: impl Into<String>, total: impl Into<String>) -> Self {
        Self { kind: Kind::Counter { total: total.into(), scale: 1.0 }, ..Self::gauge(name, help) }
    }

    /// Sets the units of the field per unit of the total. For example, 100 turns seconds of CPU time per second into
    /// percent. It has no effect on a gauge.
    pub fn scale(mut self, by: f64) -> Self {
        if let Kind::Counter { scale, .. } = &mut self.kind {
            *scale = by;
        }
        self
    }

    /// Sets the unit in words: `percent`, `MiB`, `bytes/s`.
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.unit = unit.into();
        self
    }

    pub fn aggregation(mut self, aggregation: Aggregation) -> Self {
        self.aggregation = aggregation;
        self
    }

    /// Sets the smallest step that matters; for a rate, in the unit of its total. A coarser step makes history smaller.
    pub fn precision(mut self, step: f64) -> Self {
        self.precision = step;
        self
    }
}
