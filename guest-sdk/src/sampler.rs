use crate::{Config, Failure, Field, Need, Tick};

/// Something that can be measured: a host, a process, a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub id: String,
    pub labels: Vec<(String, String)>,
}

/// One row: the values of one instance. A missing value is NaN.
///
/// `Reading::from([0.5, 3.0])` takes the values in the order of [`Sampler::fields`]; [`Reading::named`] takes them by
/// name.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading(Values);

#[derive(Debug, Clone, PartialEq)]
enum Values {
    InOrder(Vec<f64>),
    ByName(Vec<(String, f64)>),
}

/// The rows of one tick, in the flat form of the contract.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Readings {
    /// All rows in one list: one row per requested instance, one value per field.
    pub values: Vec<f64>,
    /// The time at which each row was read, in milliseconds relative to the tick. Empty: all rows were read at the
    /// tick.
    pub offsets_ms: Vec<i32>,
    /// The rows without a reading, by index, each with the reason.
    pub failures: Vec<(u32, Failure)>,
}

/// A plugin that reads instances.
///
/// Only [`fields`](Sampler::fields) and [`sample`](Sampler::sample) have no default implementation.
pub trait Sampler: Default + 'static {
    /// Returns the grants that the plugin needs with this configuration. The host calls it before `init`, without any
    /// grant.
    fn needs(_config: &Config) -> Result<Vec<Need>, Failure> {
        Ok(Vec::new())
    }

    /// Prepares the plugin with its configuration.
    fn init(&mut self, _config: &Config) -> Result<(), Failure> {
        Ok(())
    }

    /// Returns the fields that [`sample`](Sampler::sample) reads. The host calls it once, after the first `init`.
    fn fields(&self) -> Vec<Field>;

    /// Returns the instances that the plugin finds by itself.
    fn discover(&mut self, _tick: &Tick) -> Result<Vec<Instance>, Failure> {
        Ok(Vec::new())
    }

    /// Reads one instance.
    fn sample(&mut self, instance: &str) -> Result<Reading, Failure>;

    /// Reads all instances of a call. Override it if the instances share work.
    fn sample_all(&mut self, _tick: &Tick, instances: &[String]) -> Result<Readings, Failure> {
        let fields = self.fields();
        let mut readings = Readings::default();
        for instance in instances {
            let reading = self.sample(instance);
            readings.push(reading, &fields);
        }
        Ok(readings)
    }
}

// === impl Instance ===

impl Instance {
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), labels: Vec::new() }
    }

    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }
}

// === impl Reading ===

impl Reading {
    /// Returns a reading from values by field name. Fields without a value get NaN.
    pub fn named<N: Into<String>>(values: impl IntoIterator<Item = (N, f64)>) -> Self {
        Self(Values::ByName(values.into_iter().map(|(name, value)| (name.into(), value)).collect()))
    }

    fn into_row(self, fields: &[Field], row: &mut Vec<f64>) -> Result<(), Failure> {
        match self.0 {
            Values::InOrder(values) if values.len() == fields.len() => row.extend(values),
            Values::InOrder(values) => {
                return Err(Failure::unavailable(format!("{} values for {} fields", values.len(), fields.len())));
            }
            Values::ByName(values) => {
                if let Some((name, _)) = values.iter().find(|(name, _)| fields.iter().all(|field| field.name != *name))
                {
                    return Err(Failure::unavailable(format!("no field is named {name:?}")));
                }
                row.extend(fields.iter().map(|field| {
                    values.iter().find(|(name, _)| *name == field.name).map_or(f64::NAN, |(_, value)| *value)
                }));
            }
        }
        Ok(())
    }
}

impl<const N: usize> From<[f64; N]> for Reading {
    fn from(values: [f64; N]) -> Self {
        Self(Values::InOrder(values.to_vec()))
    }
}

impl From<Vec<f64>> for Reading {
    fn from(values: Vec<f64>) -> Self {
        Self(Values::InOrder(values))
    }
}

// === impl Readings ===

impl Readings {
    /// Returns rows without any value, to be filled. A row without values is no reading, and no failure either.
    pub fn empty(rows: usize, fields: usize) -> Self {
        Self { values: vec![f64::NAN; rows * fields], offsets_ms: vec![0; rows], failures: Vec::new() }
    }

    /// Adds the next row. A failure also takes a row, so that the rows stay in the order of the instances.
    pub fn push(&mut self, reading: Result<Reading, Failure>, fields: &[Field]) {
        let start = self.values.len();
        if let Err(failure) = reading.and_then(|reading| reading.into_row(fields, &mut self.values)) {
            let row = start.checked_div(fields.len()).unwrap_or(self.failures.len());
            self.failures.push((row as u32, failure));
            self.values.resize(start + fields.len(), f64::NAN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Vec<Field> {
        vec![Field::gauge("a", ""), Field::gauge("b", "")]
    }

    #[test]
    fn a_failure_takes_a_row_so_that_the_next_row_keeps_its_place() {
        let mut readings = Readings::default();
        readings.push(Ok(Reading::from([1.0, 2.0])), &fields());
        readings.push(Err(Failure::Gone), &fields());
        readings.push(Ok(Reading::named([("b", 4.0)])), &fields());
        assert_eq!(readings.failures, vec![(1, Failure::Gone)]);
        assert_eq!(readings.values.len(), 6);
        assert!(readings.values[4].is_nan());
        assert_eq!(readings.values[5], 4.0);
    }

    #[test]
    fn a_row_that_does_not_fit_the_fields_is_a_failure_that_says_why() {
        let mut readings = Readings::default();
        readings.push(Ok(Reading::from([1.0])), &fields());
        readings.push(Ok(Reading::named([("c", 4.0)])), &fields());
        let why: Vec<_> = readings.failures.iter().map(|(_, failure)| failure.clone()).collect();
        assert_eq!(
            why,
            [Failure::unavailable("1 values for 2 fields"), Failure::unavailable("no field is named \"c\"")]
        );
    }
}
