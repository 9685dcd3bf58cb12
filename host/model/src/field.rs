use crate::Aggregation;

/// What a sampler reads of an instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    pub help: String,
    /// In words; empty: none.
    pub unit: String,
    pub kind: Kind,
    /// What a counter's total is called in Prometheus, ending in `_total`. Empty for a gauge.
    pub total: String,
    pub aggregation: Aggregation,
    /// Smallest step that matters; 0 keeps every bit.
    pub precision: f64,
}

/// How readings of a field become its values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A level: its readings are its values.
    Gauge,
    /// A running total: values are `scale` × its increase per second.
    Counter { scale: f64 },
}

impl Field {
    /// A level, averaged over time, kept to every bit. A name ends in its unit: `queue_length`, `heap_mb`.
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

    /// What a running total grows by per second; `total` is what the total is called: `orders_total`.
    pub fn rate(name: impl Into<String>, help: impl Into<String>, total: impl Into<String>) -> Self {
        Self { kind: Kind::Counter { scale: 1.0 }, total: total.into(), ..Self::gauge(name, help) }
    }

    /// The smallest step that matters: the coarser, the less history takes.
    pub fn precision(self, precision: f64) -> Self {
        Self { precision, ..self }
    }

    /// How readings of a longer time become one.
    pub fn aggregation(self, aggregation: Aggregation) -> Self {
        Self { aggregation, ..self }
    }
}
