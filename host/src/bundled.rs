//! Plugins that come with the binary: built from plugins/ by the build script.

use dropsonde_engine::plugins::Bundled;

/// The bundled plugin of a name.
pub(crate) fn bundled(name: &str) -> Option<Bundled> {
    BUNDLED.iter().copied().find(|bundled| bundled.name == name)
}

/// By name. A file of the same name in the plugins folder takes a bundled plugin's place, but not its grants.
pub(crate) const BUNDLED: &[Bundled] = &[
    Bundled { name: "appstats", component: include_bytes!(concat!(env!("OUT_DIR"), "/appstats.wasm")) },
    Bundled { name: "procfs", component: include_bytes!(concat!(env!("OUT_DIR"), "/procfs.wasm")) },
];
