//! The words that all parts of Dropsonde share, and the rules for them.
//!
//! * [`InstanceId`]: what is measured. [`Labels`]: what tells instances apart.
//! * [`Field`], [`Kind`]: what is read of it. [`Aggregation`]: how readings of a longer time become one.
//! * [`names`]: what a plugin may be called, and what belongs to the host.
//! * [`Right`]: what a token allows.
//! * [`text`]: characters that would harm whoever reads them.
//! * [`Size`], [`Span`], [`time::time_ms`]: sizes, durations and times as people write them.
//! * [`InvalidValue`]: an operator chose a value that cannot be.
//! * [`nearest`]: what a misspelt word was meant to be.

mod aggregation;
mod field;
mod instance_id;
mod invalid_value;
pub mod labels;
pub mod names;
pub mod nearest;
mod right;
mod size;
pub mod text;
pub mod time;

pub use aggregation::Aggregation;
pub use field::{Field, Kind};
pub use instance_id::{InstanceId, InvalidInstanceId};
pub use invalid_value::InvalidValue;
pub use labels::Labels;
pub use right::Right;
pub use size::Size;
pub use time::Span;
