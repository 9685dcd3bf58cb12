use crate::contract;
use crate::instance::Guest;
use crate::refusal::{self, Refused};
use crate::sandbox::{AROUND_MEMORY, GUEST_STACK};
use crate::worker_thread::{BLOCKING_THREADS, STACK};
use crate::{Limits, Sandbox};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};

/// A role of a plugin: the calls that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    Sampler,
    Source,
    Observer,
}

/// The full name of an interface that a component imports or exports.
pub type Interface = String;

/// Properties of a component that are known before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub roles: Vec<Role>,
    pub imports: Vec<Interface>,
    pub exports: Vec<Interface>,
    /// The size of the component, in bytes.
    pub size: usize,
}

/// A component that is compiled, linked and checked. Cheap to clone.
#[derive(Clone)]
pub struct Plugin(Arc<Loaded>);

pub(crate) struct Loaded {
    pub(crate) instance: InstancePre<Guest>,
    pub(crate) indices: contract::Indices,
    digest: blake3::Hash,
    shape: Shape,
    /// Bytes of mapped compiled code.
    code: usize,
}

/// The loaded components, by digest. Two plugins with the same component share one entry.
#[derive(Default)]
pub(crate) struct LoadedComponents(Mutex<HashMap<blake3::Hash, Weak<Loaded>>>);

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
    /// Loads a plugin. `compiled` returns the compiled component for its blake3 hash, or none; then there is no plugin
    /// yet.
    pub(crate) fn load(
        sandbox: &Sandbox,
        bytes: &[u8],
        compiled: impl FnOnce(&blake3::Hash) -> Result<Option<Component>, Refused>,
    ) -> Result<Option<Self>, Refused> {
        refusal::check_preamble(bytes)?;
        let digest = blake3::hash(bytes);
        if let Some(loaded) = sandbox.shared.get(&digest) {
            return Ok(Some(Self(loaded)));
        }
        let Some(component) = compiled(&digest)? else { return Ok(None) };
        let shape = Shape::of(&component, bytes.len());
        refusal::check_version(shape.exports.iter().map(String::as_str))?;
        if !contract::is_plugin(&component) {
            return Err(Refused::NoPlugin(shape.exports));
        }
        if shape.roles.is_empty() {
            return Err(Refused::NoRole);
        }
        let instance = sandbox.linker.instantiate_pre(&component);
        let instance = instance.map_err(|error| Refused::Import(format!("{error:#}")))?;
        let indices = contract::Indices::new(&instance).map_err(|error| Refused::Export(format!("{error:#}")))?;
        let image = component.image_range();
        let code = image.end.addr().saturating_sub(image.start.addr());
        Ok(Some(Self(sandbox.shared.put(Loaded { instance, indices, digest, shape, code }))))
    }

    pub(crate) fn loaded(&self) -> &Loaded {
        &self.0
    }

    pub fn shape(&self) -> &Shape {
        &self.0.shape
    }

    /// Returns the bytes of address space that the plugin takes while it runs: for its code, its memory and the stacks
    /// of its threads. A memory reserves at least the default limit, also if its own limit is lower.
    pub fn address_space(&self, limits: &Limits) -> u64 {
        let memory = limits.memory.max(Limits::default().memory) + AROUND_MEMORY;
        let stacks = GUEST_STACK + STACK * (1 + BLOCKING_THREADS);
        (self.0.code + memory + stacks) as u64
    }

    pub fn has(&self, role: Role) -> bool {
        self.0.shape.roles.contains(&role)
    }
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("shape", self.shape()).finish_non_exhaustive()
    }
}

// === impl LoadedComponents ===

impl LoadedComponents {
    fn get(&self, digest: &blake3::Hash) -> Option<Arc<Loaded>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(digest)?.upgrade()
    }

    /// Adds a loaded component. Returns this one, or the equal one that another thread added before.
    fn put(&self, loaded: Loaded) -> Arc<Loaded> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, known| known.strong_count() > 0);
        if let Some(known) = all.get(&loaded.digest).and_then(Weak::upgrade) {
            return known;
        }
        let loaded = Arc::new(loaded);
        all.insert(loaded.digest, Arc::downgrade(&loaded));
        loaded
    }
}

// === impl Shape ===

impl Shape {
    fn of(component: &Component, size: usize) -> Self {
        let engine = component.engine();
        let kind = component.component_type();
        let is_interface = |item: &ComponentItem| !matches!(item, ComponentItem::Type(_));
        let imports = kind.imports(engine).filter(|(_, import)| is_interface(&import.ty));
        let imports = imports.map(|(name, _)| name.to_owned()).collect();
        let exports = kind.exports(engine).map(|(name, _)| name.to_owned()).collect();
        Self { roles: contract::roles(component), imports, exports, size }
    }
}
