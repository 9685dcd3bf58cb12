//! The interface `sampler`.

use super::Exported;
use super::dropsonde::plugin::types as wit;
use crate::{Aggregation, Field, Instance, Kind, Readings, Sampler, Tick};

wit_bindgen::generate!({
    inline: "package dropsonde:sdk; world sampler-part { export dropsonde:plugin/sampler@0.1.0; }",
    world: "dropsonde:sdk/sampler-part",
    path: "../wit",
    generate_all,
    pub_export_macro: true,
    export_macro_name: "export_sampler_interface",
    default_bindings_module: "dropsonde_guest::glue::sampler",
    with: { "dropsonde:plugin/types@0.1.0": crate::glue::dropsonde::plugin::types },
});

use exports::dropsonde::plugin::sampler;

impl<E: Exported<Plugin: Sampler>> sampler::Guest for E {
    fn fields() -> Vec<wit::Field> {
        E::with(|sampler| sampler.fields()).into_iter().map(wit::Field::from).collect()
    }

    fn discover(tick: wit::Tick) -> Result<Vec<sampler::Instance>, wit::Failure> {
        let instances = E::with(|sampler| sampler.discover(&tick.into()))?;
        Ok(instances.into_iter().map(|Instance { id, labels }| sampler::Instance { id, labels }).collect())
    }

    fn sample(tick: wit::Tick, instances: Vec<String>) -> Result<sampler::Readings, wit::Failure> {
        let tick = Tick::from(tick);
        let Readings { values, offsets_ms, failures } = E::with(|sampler| sampler.sample_all(&tick, &instances))?;
        let failures = failures.into_iter().map(|(row, failure)| (row, failure.into())).collect();
        Ok(sampler::Readings { values, offsets_ms, failures })
    }
}

impl From<Field> for wit::Field {
    fn from(field: Field) -> Self {
        Self {
            name: field.name,
            help: field.help,
            unit: field.unit,
            kind: match field.kind {
                Kind::Gauge => wit::Kind::Gauge,
                Kind::Counter { total, scale } => wit::Kind::Counter(wit::Total { name: total, scale }),
            },
            aggregation: match field.aggregation {
                Aggregation::Mean => wit::Aggregation::Mean,
                Aggregation::Min => wit::Aggregation::Min,
                Aggregation::Max => wit::Aggregation::Max,
                Aggregation::Last => wit::Aggregation::Last,
                Aggregation::Sum => wit::Aggregation::Sum,
            },
            precision: field.precision,
        }
    }
}
