//! What Dropsonde does: it polls samplers and sources on a schedule, keeps what they measure, and tells who follows it. Knows
//! nothing of HTTP, of commands, or of a configuration file.
//!
//! Data flows one way: [`plugins`] and [`native`] samplers → `recorder` → store → [`hub`]; everything else reads.
//!
//! # Layout
//!
//! * [`Running`]: starts and stops everything. [`Engine`]: what its parts share, and what others ask of it.
//! * [`options`]: what an operator says.
//! * [`clock`]: time, and when to poll. `timeline`: when the clock was set.
//! * [`plugins`]: found, loaded, granted, polled, replaced; [`native`]: what the embedding program polls with.
//! * [`tracked`]: which instances there are and who polls them; `conflicts`: who says what is another's to say.
//! * `recorder`: what a sampler found and read, on its way to the store and the hub.
//! * [`history`]: what outlives the process. [`hub`]: live fan-out. [`json`]: samples as JSON.
//! * [`service`]: what a program does with samples. [`workload`]: what several instances are together.
//! * [`events`]: what applications tell; [`mod@snapshot`]: what sources say of them, in one document.
//! * [`mod@metrics`]: what is counted; [`exposition`]: all of it, and samples, for Prometheus.
//! * [`health`]: how the host is. [`front`]: who serves all this, and how that is. [`audit`]: who changed what.
//! * [`places`], [`shares`]: how much there may be of something, of one client and of one owner. [`memory`], [`descriptors`],
//!   [`room`]: what this process may have.
//! * [`unwritable`]: places where nothing can be written as they are.

pub mod audit;
pub mod clock;
mod conflicts;
pub mod descriptors;
mod engine;
pub mod events;
pub mod exposition;
pub mod front;
pub mod health;
pub mod history;
pub mod hub;
pub mod json;
pub mod memory;
pub mod metrics;
pub mod native;
pub mod options;
pub mod places;
pub mod plugins;
mod recorder;
pub mod room;
mod running;
pub mod service;
pub mod shares;
pub mod snapshot;
pub mod timeline;
pub mod tracked;
pub mod unwritable;
pub mod workload;

pub use engine::Engine;
pub use options::Options;
pub use running::{HISTORY, Parts, Running};
