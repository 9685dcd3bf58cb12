//! Between the contract's generated types and the SDK's.

use crate::{Aggregation, Config, Failure, Field, Instance, Kind, Need, Readings, Sampler, Tick, log};

wit_bindgen::generate!({
    world: "sampler-plugin",
    path: "../wit",
    pub_export_macro: true,
    export_macro_name: "export_bindings",
    default_bindings_module: "dropsonde_guest::glue",
});

use dropsonde::plugin::types as wit;
use exports::dropsonde::plugin::{plugin, sampler};

/// What `export_sampler!` fills in.
pub trait Exported {
    type Sampler: Sampler;

    fn description() -> crate::Description;
    fn with<T>(call: impl FnOnce(&mut Self::Sampler) -> T) -> T;
}

impl<E: Exported> plugin::Guest for E {
    fn describe() -> wit::Description {
        log_panics();
        let crate::Description { name, version, about } = E::description();
        wit::Description { name, version, about }
    }

    fn needs(config: String) -> Result<Vec<wit::Need>, String> {
        log_panics();
        match E::Sampler::needs(&Config::from_json(config)) {
            Ok(needs) => Ok(needs.into_iter().map(wit::Need::from).collect()),
            Err(Failure::Gone) => Err("gone".to_owned()),
            Err(Failure::Unavailable(why) | Failure::Denied(why) | Failure::Invalid(why)) => Err(why),
        }
    }

    fn init(config: String) -> Result<(), wit::Failure> {
        log_panics();
        Ok(E::with(|sampler| sampler.init(&Config::from_json(config)))?)
    }
}

impl<E: Exported> sampler::Guest for E {
    fn fields() -> Vec<wit::Field> {
        E::with(|sampler| sampler.fields()).into_iter().map(wit::Field::from).collect()
    }

    fn discover(tick: wit::Tick) -> Result<Vec<sampler::Instance>, wit::Failure> {
        let instances = E::with(|sampler| sampler.discover(&tick.into()))?;
        Ok(instances.into_iter().map(|Instance { id, labels }| sampler::Instance { id, labels }).collect())
    }

    fn sample(tick: wit::Tick, instances: Vec<String>) -> Result<sampler::Readings, wit::Failure> {
        let Readings { values, offsets_ms, failures } =
            E::with(|sampler| sampler.sample_all(&tick.into(), &instances))?;
        let failures = failures.into_iter().map(|(row, failure)| (row, failure.into())).collect();
        Ok(sampler::Readings { values, offsets_ms, failures })
    }
}

/// On this target a panic is a bare trap; the log is told first.
fn log_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| std::panic::set_hook(Box::new(|panic| log::error(panic.to_string()))));
}

impl From<Failure> for wit::Failure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Gone => Self::Gone,
            Failure::Unavailable(why) => Self::Unavailable(why),
            Failure::Denied(why) => Self::Denied(why),
            Failure::Invalid(why) => Self::Invalid(why),
        }
    }
}

impl From<Need> for wit::Need {
    fn from(need: Need) -> Self {
        match need {
            Need::Read(glob) => Self::Read(glob),
            Need::Http(origin) => Self::Http(origin),
            Need::Env(name) => Self::Env(name),
            Need::Dir(path) => Self::Dir(path),
        }
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

impl From<wit::Tick> for Tick {
    fn from(tick: wit::Tick) -> Self {
        let wit::Tick { at_ms, monotonic_ns, budget_ms, interval_ms } = tick;
        Self { at_ms, monotonic_ns, budget_ms, interval_ms }
    }
}
