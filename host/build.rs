//! Builds the bundled plugins from source, with whichever wasm-capable compiler the set-up left. Downloads nothing.

#![allow(clippy::print_stdout, reason = "a build script talks to Cargo there")]

use dropsonde_builder::{Crate, Network, Toolchain};
use std::error::Error;
use std::path::{Path, PathBuf};

const BUNDLED: [&str; 8] = ["appstats", "containers", "httpjson", "probe", "procfs", "scrape", "synthetic", "textfile"];

/// The files and folders that all plugins are built from.
const SHARED: [&str; 8] = [
    "Cargo.lock",
    "wit",
    "guest-sdk/src",
    "guest-sdk/Cargo.toml",
    "host/openmetrics/src",
    "host/openmetrics/Cargo.toml",
    "plugins/mapping",
    "plugins/targets",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the workspace is above host/")?;
    println!("cargo::rerun-if-env-changed=DROPSONDE_WASM_TOOLCHAIN");
    for part in SHARED {
        println!("cargo::rerun-if-changed={}", root.join(part).display());
    }
    if std::env::var_os("DOCS_RS").is_some() {
        for name in BUNDLED {
            std::fs::write(out.join(name).with_extension("wasm"), [])?;
        }
        return Ok(());
    }
    let mut plugins = Vec::new();
    for name in BUNDLED {
        let folder = root.join("plugins").join(name);
        for part in ["src", "Cargo.toml"] {
            println!("cargo::rerun-if-changed={}", folder.join(part).display());
        }
        plugins.push(Crate::at(&folder)?);
    }
    let target_dir = plugins.first().map(Crate::target_dir).ok_or("no plugin is bundled")?;
    let Some(toolchain) = Toolchain::find(target_dir) else {
        println!("cargo::error=no compiler for WebAssembly is set up; `cargo dev setup` sets one up");
        return Ok(());
    };
    println!("cargo::rerun-if-changed={}", toolchain.marker().display());
    match Crate::bundle(&plugins, &toolchain, Network::Forbidden) {
        Ok(components) => {
            for (name, bytes) in BUNDLED.iter().zip(components) {
                std::fs::write(out.join(name).with_extension("wasm"), bytes)?;
            }
        }
        Err(error) => {
            let why = format!("{error:#}").replace('\n', " ");
            println!(
                "cargo::error=the bundled plugins cannot be built ({why}); `cargo dev setup` fetches what they need"
            );
        }
    }
    Ok(())
}
