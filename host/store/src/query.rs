use std::sync::Arc;

/// The point that buckets are aligned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Align {
    /// Buckets begin at multiples of the step since 1970, so every query has the same buckets.
    #[default]
    Epoch,
    /// The first bucket begins at the window's start.
    Since,
}

/// A window of history that is divided into buckets. Times are milliseconds since 1970 UTC.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Query {
    /// The start of the window, inclusive.
    pub since_ms: i64,
    /// The end of the window, exclusive.
    pub until_ms: i64,
    /// The length of a bucket in milliseconds, positive.
    pub step_ms: i64,
    pub align: Align,
    /// The names of the fields to answer; `None` for all fields. Unknown names are ignored.
    pub fields: Option<Vec<String>>,
}

/// The buckets that have at least one value, ascending. Each column has one value per bucket; NaN if it has none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Points {
    /// The start of each bucket.
    pub at_ms: Vec<i64>,
    pub columns: Vec<FieldPoints>,
}

/// One field's points.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldPoints {
    pub name: Arc<str>,
    /// The values, aggregated as the field declares.
    pub values: Vec<f64>,
    pub min: Vec<f64>,
    pub max: Vec<f64>,
}

/// The values of one instance at one time, for fields that have one.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub at_ms: i64,
    pub values: Vec<(Arc<str>, f64)>,
}

// === impl Points ===

impl Points {
    pub fn column(&self, name: &str) -> Option<&FieldPoints> {
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

    /// Returns the start of the bucket that contains a time.
    pub fn bucket(&self, at_ms: i64) -> i64 {
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
