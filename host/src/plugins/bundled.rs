//! Plugins that come with the binary: built from plugins/ by the build script.

/// A component inside the binary. Its digest is the binary's, so it is granted what it says it needs.
#[derive(Debug, Clone, Copy)]
pub struct Bundled {
    pub name: &'static str,
    pub component: &'static [u8],
}

/// By name. A file of the same name in the plugins folder takes a bundled plugin's place, but not its grants.
pub const BUNDLED: &[Bundled] = &[
    Bundled { name: "appstats", component: include_bytes!(concat!(env!("OUT_DIR"), "/appstats.wasm")) },
    Bundled { name: "procfs", component: include_bytes!(concat!(env!("OUT_DIR"), "/procfs.wasm")) },
];
