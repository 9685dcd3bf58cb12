//! The words that all parts of Dropsonde share, and the rules for them.
//!
//! * [`InstanceId`]: what is measured. [`Labels`]: what tells instances apart.
//! * [`Aggregation`]: how readings of a longer time become one.
//! * [`names`]: what a plugin may be called, and what belongs to the host.
//! * [`Right`]: what a token allows.
//! * [`text`]: characters that would harm whoever reads them.

mod aggregation;
mod instance_id;
pub mod labels;
pub mod names;
mod right;
pub mod text;

pub use aggregation::Aggregation;
pub use instance_id::{InstanceId, InvalidInstanceId};
pub use labels::Labels;
pub use right::Right;
