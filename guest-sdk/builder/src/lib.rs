//! Creates new plugins, and builds plugins: from their sources to one `.wasm` component.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use dropsonde_builder::{Crate, Network, Toolchain};
//!
//! let plugin = Crate::at("my-plugin".as_ref())?;
//! let toolchain = Toolchain::find(plugin.target_dir()).expect("a compiler for wasm");
//! let component = plugin.build(&toolchain, Network::Allowed)?;
//! std::fs::write("my-plugin.wasm", component)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! * `toolchain`: finds a compiler for wasm.
//! * `project`: a plugin's sources, in any language. `template`: new plugins. `sdk`: the Rust SDK for them.
//! * `plugin`: runs cargo for a plugin's crate. `script`: runs the tools for Python and JavaScript, with the
//!   `contract`.
//! * `compiled`: runs compilers for C and Go, with `bindings`: the contract as code. The feature `bindings` has them.
//! * `component`: turns a core module into a component.
//! * `progress`: prints each step with its time.

/// Includes files as texts, with their names below a folder.
macro_rules! include_files {
    ($folder:literal: $($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!($folder, $name)))),*]
    };
}

#[cfg(feature = "bindings")]
mod bindings;
#[cfg(feature = "bindings")]
mod compiled;
mod component;
mod contract;
mod plugin;
mod progress;
mod project;
mod reuse;
mod script;
mod sdk;
mod template;
mod toolchain;

#[cfg(feature = "bindings")]
pub use compiled::Compiled;
pub use component::componentize;
pub use plugin::{Crate, Network, remap_paths};
pub use progress::{step, tell};
pub use project::Project;
pub use script::Script;
pub use template::{Kind, Language, create};
pub use toolchain::{TARGET, Toolchain};
