//! Plugins as artifacts in OCI registries, in the format for WebAssembly that `wkg` and others read.
//!
//! ```no_run
//! # async fn pull() -> anyhow::Result<()> {
//! use dropsonde_registry::{Credentials, Reference, Registry};
//!
//! let reference: Reference = "registry.example/plugins/redis:1".parse()?;
//! let registry = Registry::new(&reference, Credentials::of_user())?;
//! let found = registry.find(&reference).await?;
//! let component = registry.pull(&found).await?;
//! println!("{} has {} bytes", found.pinned, component.len());
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! * `reference`: names of artifacts. `credentials`: who asks.
//! * `client`: requests to one registry, with its tokens, redirects and limits.
//! * `artifact`: manifests. `registry`: pulls and pushes.

mod artifact;
mod client;
mod credentials;
mod reference;
mod registry;

pub use artifact::About;
pub use credentials::Credentials;
pub use reference::{BadReference, Digest, Reference};
pub use registry::{Found, Registry};
