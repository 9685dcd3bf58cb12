//! The types and rules that all parts of Dropsonde share.
//!
//! * [`InstanceId`]: names of instances. [`Labels`]: labels of instances.
//! * [`Field`], [`Kind`]: the values of a sample. [`MetricType`]: the type of a metric. [`Aggregation`]: how several readings are combined into one point.
//! * [`names`]: the rules for plugin names, and the names that belong to the host.
//! * [`Right`]: the rights that a token gives.
//! * [`text`]: removes characters that could harm a reader or a terminal.
//! * [`Size`], [`Span`], [`time::time_ms`]: sizes, durations and times as people write them.
//! * [`InvalidValue`]: an invalid value in the operator's configuration.
//! * [`nearest`]: suggests a known word for a misspelt one.

mod aggregation;
mod field;
mod instance_id;
mod invalid_value;
pub mod labels;
mod metric_type;
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
pub use metric_type::MetricType;
pub use right::Right;
pub use size::Size;
pub use time::Span;
