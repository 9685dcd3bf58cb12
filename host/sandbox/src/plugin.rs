use crate::Sandbox;
use crate::cache::Cache;
use crate::contract::v0_1;
use crate::instance::Guest;
use crate::refusal::{self, Refused};
use crate::weight;
use std::fmt;
use std::sync::Arc;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};

/// What a plugin can be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Sampler,
    Source,
    Observer,
}

/// An interface a component imports or exports, under its full name.
pub type Interface = String;

/// What a component shows before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub roles: Vec<Role>,
    pub imports: Vec<Interface>,
    pub exports: Vec<Interface>,
    /// blake3 of its bytes, in hex.
    pub digest: String,
    /// In bytes.
    pub size: usize,
}

/// A compiled component, linked and looked over. Cheap to clone.
#[derive(Clone)]
pub struct Plugin {
    pub(crate) instance: InstancePre<Guest>,
    pub(crate) indices: v0_1::Indices,
    shape: Arc<Shape>,
}

// === impl Role ===

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sampler => "sampler",
            Self::Source => "source",
            Self::Observer => "observer",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Plugin ===

impl Plugin {
    pub(crate) fn load(sandbox: &Sandbox, bytes: &[u8], cache: Option<&Cache>) -> Result<Self, Refused> {
        refusal::check_preamble(bytes)?;
        let component = match cache {
            Some(cache) => cache.compiled(&sandbox.engine, bytes)?,
            None => {
                weight::check(bytes).map_err(Refused::Invalid)?;
                Component::new(&sandbox.engine, bytes).map_err(|error| Refused::Invalid(format!("{error:#}")))?
            }
        };
        let shape = Shape::of(&component, bytes);
        refusal::check_version(shape.exports.iter().map(String::as_str))?;
        if component.get_export_index(None, v0_1::PLUGIN).is_none() {
            return Err(Refused::NoPlugin(shape.exports));
        }
        if shape.roles.is_empty() {
            return Err(Refused::NoRole);
        }
        let instance = sandbox.linker.instantiate_pre(&component);
        let instance = instance.map_err(|error| Refused::Import(format!("{error:#}")))?;
        let indices = v0_1::Indices::new(&instance).map_err(|error| Refused::Export(format!("{error:#}")))?;
        Ok(Self { instance, indices, shape: Arc::new(shape) })
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn has(&self, role: Role) -> bool {
        self.shape.roles.contains(&role)
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("shape", &self.shape).finish_non_exhaustive()
    }
}

// === impl Shape ===

impl Shape {
    fn of(component: &Component, bytes: &[u8]) -> Self {
        let engine = component.engine();
        let kind = component.component_type();
        let is_interface = |item: &ComponentItem| !matches!(item, ComponentItem::Type(_));
        let imports = kind.imports(engine).filter(|(_, import)| is_interface(&import.ty));
        let imports = imports.map(|(name, _)| name.to_owned()).collect();
        let exports = kind.exports(engine).map(|(name, _)| name.to_owned()).collect();
        let known = [(v0_1::SAMPLER, Role::Sampler), (v0_1::SOURCE, Role::Source), (v0_1::OBSERVER, Role::Observer)];
        let exported = |name: &str| component.get_export_index(None, name).is_some();
        let roles = known.into_iter().filter(|(name, _)| exported(name)).map(|(_, role)| role).collect();
        Self { roles, imports, exports, digest: blake3::hash(bytes).to_hex().to_string(), size: bytes.len() }
    }
}
