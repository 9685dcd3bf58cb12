//! Translates between the contract's generated types and the SDK's types.

use crate::{Config, Failure, Need, Tick, log};

pub mod observer;
pub mod sampler;
pub mod source;

// Each interface that a plugin may export has its own world. Put together, they are the worlds in wit/.
wit_bindgen::generate!({
    inline: "package dropsonde:sdk; world plugin-part {
        include dropsonde:plugin/host-imports@0.1.0;
        export dropsonde:plugin/plugin@0.1.0;
    }",
    world: "dropsonde:sdk/plugin-part",
    path: "../wit",
    generate_all,
    pub_export_macro: true,
    export_macro_name: "export_plugin_interface",
    default_bindings_module: "dropsonde_guest::glue",
});

use dropsonde::plugin::types as wit;
use exports::dropsonde::plugin::plugin;

/// The functions that `export_plugin!` implements.
pub trait Exported {
    type Plugin;

    fn description() -> crate::Description;
    fn needs(config: &Config) -> Result<Vec<Need>, Failure>;
    fn init(config: &Config) -> Result<(), Failure>;
    fn with<T>(call: impl FnOnce(&mut Self::Plugin) -> T) -> T;
}

impl<E: Exported> plugin::Guest for E {
    fn describe() -> wit::Description {
        log_panics();
        let crate::Description { name, version, about } = E::description();
        wit::Description { name, version, about }
    }

    fn needs(config: String) -> Result<Vec<wit::Need>, String> {
        log_panics();
        needs(E::needs(&Config::from_json(config)))
    }

    fn init(config: String) -> Result<(), wit::Failure> {
        log_panics();
        Ok(E::init(&Config::from_json(config))?)
    }
}

fn needs(needs: Result<Vec<Need>, Failure>) -> Result<Vec<wit::Need>, String> {
    match needs {
        Ok(needs) => Ok(needs.into_iter().map(wit::Need::from).collect()),
        Err(Failure::Gone) => Err("gone".to_owned()),
        Err(Failure::Unavailable(why) | Failure::Denied(why) | Failure::Invalid(why)) => Err(why),
    }
}

/// Writes panics to the log: on this target a panic is only a trap, without a message.
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

impl From<wit::Tick> for Tick {
    fn from(tick: wit::Tick) -> Self {
        let wit::Tick { at_ms, monotonic_ns, budget_ms, interval_ms } = tick;
        Self { at_ms, monotonic_ns, budget_ms, interval_ms }
    }
}
