//! Eight fields per instance and no work of its own: what is measured is the way in and out.

use dropsonde_guest::{Failure, Field, Reading, Readings, Sampler, Tick, export_sampler};

const FIELDS: usize = 8;

#[derive(Default)]
struct Eight;

impl Sampler for Eight {
    fn fields(&self) -> Vec<Field> {
        (0..FIELDS).map(|index| Field::gauge(format!("field_{index}"), "A number")).collect()
    }

    fn sample(&mut self, instance: &str) -> Result<Reading, Failure> {
        Ok(Reading::from([instance.len() as f64; FIELDS]))
    }

    fn sample_all(&mut self, tick: &Tick, instances: &[String]) -> Result<Readings, Failure> {
        let mut values = Vec::with_capacity(instances.len() * FIELDS);
        for instance in instances {
            let first = (tick.at_ms + instance.len() as u64) as f64;
            values.extend((0..FIELDS).map(|index| first + index as f64));
        }
        Ok(Readings { values, ..Readings::default() })
    }
}

export_sampler!(Eight);
