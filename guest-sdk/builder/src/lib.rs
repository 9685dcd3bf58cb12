//! Creates new plugins, and builds plugins: from their sources to one `.wasm` component.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use dropsonde_builder::{Crate, Network, Toolchain};
//!
//! let plugin = Crate::at("my-plugin".as_ref())?;
//! let toolchain = Toolchain::find_or_fetch(plugin.target_dir())?;
//! let component = plugin.build(&toolchain, Network::Allowed)?;
//! std::fs::write("my-plugin.wasm", component)?;
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! * `toolchain`: finds or fetches a compiler for wasm.
//! * `debian`: unpacks Debian packages into a private folder, without root.
//! * `project`: a plugin's sources, in any language. `template`: new plugins.
//! * `plugin`: runs cargo for a plugin's crate. `script`: runs the tools for Python and JavaScript, with the
//!   `contract`.
//! * `component`: turns a core module into a component.
//! * `progress`: prints each step with its time.

mod component;
mod contract;
mod debian;
mod plugin;
mod progress;
mod project;
mod reuse;
mod script;
mod template;
mod toolchain;

pub use component::componentize;
pub use debian::unpack as unpack_debian_packages;
pub use plugin::{Crate, Network, remap_paths};
pub use progress::step;
pub use project::Project;
pub use script::Script;
pub use template::{Kind, Language, create};
pub use toolchain::{TARGET, Toolchain};
