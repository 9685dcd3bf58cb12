use std::sync::Arc;

/// Where buckets begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Align {
    /// At multiples of the step since 1970: the same buckets for everyone.
    #[default]
    Epoch,
    /// At the window's start.
    Since,
}

/// A window of history, cut into buckets.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Query {
    /// Inclusive.
    pub since_ms: i64,
    /// Exclusive.
    pub until_ms: i64,
    /// Positive.
    pub step_ms: i64,
    pub align: Align,
    /// None: all. Unknown names are ignored.
    pub fields: Option<Vec<String>>,
}

/// Buckets that have at least one value, ascending. A column has a value for each; NaN where it has none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Points {
    /// Each bucket's start.
    pub at_ms: Vec<i64>,
    pub columns: Vec<Column>,
}

/// One field's points.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub name: Arc<str>,
    /// By the field's own aggregation.
    pub values: Vec<f64>,
    pub min: Vec<f64>,
    pub max: Vec<f64>,
}

/// One instance at one time: the fields that have a value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub at_ms: i64,
    pub values: Vec<(Arc<str>, f64)>,
}

// === impl Points ===

impl Points {
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| &*column.name == name)
    }

    pub fn is_empty(&self) -> bool {
        self.at_ms.is_empty()
    }
}

// === impl Query ===

impl Query {
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.fields.as_ref().is_none_or(|fields| fields.iter().any(|field| field == name))
    }

    /// The start of the bucket a time lies in.
    pub(crate) fn bucket(&self, at_ms: i64) -> i64 {
        let step = self.step_ms.max(1);
        match self.align {
            Align::Epoch => crate::ladder::floor(at_ms, step),
            Align::Since => at_ms - (at_ms - self.since_ms).rem_euclid(step),
        }
    }
}

// === impl Sample ===

impl Sample {
    pub fn get(&self, field: &str) -> Option<f64> {
        self.values.iter().find(|(name, _)| &**name == field).map(|(_, value)| *value)
    }
}
