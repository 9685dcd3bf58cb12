/// One column of a sampler's history.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    pub help: String,
    pub unit: String,
    pub kind: Kind,
    pub aggregation: Aggregation,
    pub precision: f64,
}

/// What a reading of the field is.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// A level, stored as read.
    Gauge,
    /// A running total: the field's value is `scale` × its increase per second, derived by the host.
    Counter { total: String, scale: f64 },
}

/// How readings combine into one point when a query asks for fewer points than there are readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregation {
    Mean,
    Min,
    Max,
    Last,
    Sum,
}

// === impl Field ===

impl Field {
    /// A level, averaged when downsampled, kept to every bit. The name ends in the unit: `memory_used_mb`.
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

    /// The per-second rate of a running total. `total` is the total's own Prometheus name, ending in `_total`.
    pub fn rate(name: impl Into<String>, help: impl Into<String>, total: impl Into<String>) -> Self {
        Self { kind: Kind::Counter { total: total.into(), scale: 1.0 }, ..Self::gauge(name, help) }
    }

    /// Field units per total unit: 100 turns CPU seconds per second into percent. Gauges have none.
    pub fn scale(mut self, by: f64) -> Self {
        if let Kind::Counter { scale, .. } = &mut self.kind {
            *scale = by;
        }
        self
    }

    /// The unit in words: `percent`, `MiB`, `bytes/s`.
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.unit = unit.into();
        self
    }

    pub fn aggregation(mut self, aggregation: Aggregation) -> Self {
        self.aggregation = aggregation;
        self
    }

    /// The smallest step that matters (for a rate: in the total). Coarser means smaller history.
    pub fn precision(mut self, step: f64) -> Self {
        self.precision = step;
        self
    }
}
