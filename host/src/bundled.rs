//! The plugins that are part of the binary. The build script builds them from `plugins/`.

use dropsonde_engine::plugins::BundledPlugin;

/// Returns the bundled plugin with this name.
pub(crate) fn bundled(name: &str) -> Option<BundledPlugin> {
    BUNDLED.iter().copied().find(|bundled| bundled.name == name)
}

/// The bundled plugins, in order of their names. A file of the same name in the plugins folder takes a bundled plugin's
/// place, but not its grants.
pub(crate) const BUNDLED: &[BundledPlugin] = &[
    BundledPlugin { name: "appstats", component: include_bytes!(concat!(env!("OUT_DIR"), "/appstats.wasm")) },
    BundledPlugin { name: "procfs", component: include_bytes!(concat!(env!("OUT_DIR"), "/procfs.wasm")) },
];
