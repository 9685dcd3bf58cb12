//! The versions of the WIT package, one module each, which translates the version's types. Nothing outside this folder
//! knows a version: another one is a module, a variant of [`Indices`] and [`Exports`], and a line in each function
//! here.

mod v0_1;

use crate::instance::Guest;
use crate::plugin::Role;
use crate::{CallError, Description, Event, Field, Instance, Need, Readings, Stats, Tick};
use wasmtime::component::{self, Component, InstancePre, Linker};
use wasmtime::{Result, Store};

/// The WIT package that all plugins use.
pub(crate) const PACKAGE: &str = "dropsonde:plugin/";

/// The versions that this host supports, as `major.minor`.
pub(crate) const SPOKEN: [&str; 1] = ["0.1"];

/// The positions of a component's functions: looked up once, and used for each instance of it.
#[derive(Clone)]
pub(crate) enum Indices {
    V0_1(v0_1::Indices),
}

/// The functions of one live instance.
pub(crate) enum Exports {
    V0_1(v0_1::Exports),
}

/// The result of a call. The outer error means that the instance has ended; the inner result is the plugin's answer.
pub(crate) type Answer<T> = Result<std::result::Result<T, CallError>>;

/// Gives components the host's functions, in all versions.
pub(crate) fn link(linker: &mut Linker<Guest>) -> Result<()> {
    v0_1::link(linker)
}

/// Returns whether a component exports what each plugin has.
pub(crate) fn is_plugin(component: &Component) -> bool {
    exports(component, v0_1::PLUGIN)
}

pub(crate) fn roles(component: &Component) -> Vec<Role> {
    let known = [(v0_1::SAMPLER, Role::Sampler), (v0_1::SOURCE, Role::Source), (v0_1::OBSERVER, Role::Observer)];
    known.into_iter().filter(|(name, _)| exports(component, name)).map(|(_, role)| role).collect()
}

fn exports(component: &Component, name: &str) -> bool {
    component.get_export_index(None, name).is_some()
}

impl Indices {
    pub(crate) fn new(instance: &InstancePre<Guest>) -> Result<Self> {
        v0_1::Indices::new(instance).map(Self::V0_1)
    }

    pub(crate) fn load(&self, store: &mut Store<Guest>, instance: &component::Instance) -> Result<Exports> {
        match self {
            Self::V0_1(indices) => indices.load(store, instance).map(Exports::V0_1),
        }
    }
}

impl Exports {
    pub(crate) async fn describe(&self, store: &mut Store<Guest>) -> Result<Description> {
        match self {
            Self::V0_1(exports) => exports.describe(store).await,
        }
    }

    pub(crate) async fn needs(&self, store: &mut Store<Guest>, config: &str) -> Answer<Vec<Need>> {
        match self {
            Self::V0_1(exports) => exports.needs(store, config).await,
        }
    }

    pub(crate) async fn init(&self, store: &mut Store<Guest>, config: &str) -> Answer<()> {
        match self {
            Self::V0_1(exports) => exports.init(store, config).await,
        }
    }

    pub(crate) async fn fields(&self, store: &mut Store<Guest>) -> Answer<Vec<Field>> {
        match self {
            Self::V0_1(exports) => exports.fields(store).await,
        }
    }

    pub(crate) async fn discover(&self, store: &mut Store<Guest>, tick: Tick) -> Answer<Vec<Instance>> {
        match self {
            Self::V0_1(exports) => exports.discover(store, tick).await,
        }
    }

    pub(crate) async fn sample(&self, store: &mut Store<Guest>, tick: Tick, instances: &[String]) -> Answer<Readings> {
        match self {
            Self::V0_1(exports) => exports.sample(store, tick, instances).await,
        }
    }

    pub(crate) async fn collect(&self, store: &mut Store<Guest>, tick: Tick) -> Answer<Stats> {
        match self {
            Self::V0_1(exports) => exports.collect(store, tick).await,
        }
    }

    pub(crate) async fn observe(&self, store: &mut Store<Guest>, tick: Tick, events: Vec<Event>) -> Answer<()> {
        match self {
            Self::V0_1(exports) => exports.observe(store, tick, events).await,
        }
    }
}
