//! The plugins that are part of the binary. The build script builds them from `plugins/`.

use dropsonde_engine::plugins::BundledPlugin;
use dropsonde_sandbox::Limits;
use std::time::Duration;

/// Returns the bundled plugin with this name.
pub(crate) fn bundled(name: &str) -> Option<BundledPlugin> {
    BUNDLED.iter().copied().find(|bundled| bundled.name == name)
}

/// The limits of plugins that ask many servers in one call.
const NETWORK: Limits = Limits {
    memory: 256 << 20,
    cpu: Duration::from_secs(2),
    deadline: Duration::from_secs(10),
    http_body: 64 << 20,
    file_bytes: 256 << 20,
    ..Limits::DEFAULT
};

macro_rules! bundled {
    ($name:literal, is_default: $is_default:literal, $limits:expr) => {
        BundledPlugin {
            name: $name,
            component: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".wasm")),
            is_default: $is_default,
            limits: &$limits,
            backfill: None,
        }
    };
}

const APPSTATS: BundledPlugin = bundled!("appstats", is_default: true, Limits::DEFAULT);

const PROCFS: BundledPlugin = bundled!("procfs", is_default: true, Limits::DEFAULT);

/// A plugin that makes up series for `serve --demo`.
const SYNTHETIC: BundledPlugin = bundled!("synthetic", is_default: false, Limits::DEFAULT);

/// The bundled plugins, in order of their names. A file of the same name in the plugins folder takes a bundled plugin's
/// place, but neither its grants nor its limits.
pub(crate) const BUNDLED: &[BundledPlugin] = &[
    APPSTATS,
    bundled!("containers", is_default: false, NETWORK),
    bundled!("httpjson", is_default: false, NETWORK),
    bundled!("probe", is_default: false, NETWORK),
    PROCFS,
    bundled!("scrape", is_default: false, NETWORK),
    SYNTHETIC,
    bundled!("textfile", is_default: false, Limits::DEFAULT),
];

/// The plugins of `serve --demo`. History begins two hours before the start.
pub(crate) const DEMO: &[BundledPlugin] = &[
    APPSTATS,
    BundledPlugin { name: "flaky", ..SYNTHETIC },
    PROCFS,
    BundledPlugin { backfill: Some(Duration::from_secs(7200)), ..SYNTHETIC },
];
