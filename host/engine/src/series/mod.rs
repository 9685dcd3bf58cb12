//! Labelled series in history.
//!
//! * `exposition_group`: puts the text of an exposition into history, one sample per line.
//! * `registered`: does that with what the host and the plugins registered. `reported`: puts the series that samplers
//!   report into history.
//! * `find`: finds series by their labels, samples among them, which `field_index` has by name and instance.
//!   [`PromqlSource`]: passes them to queries in PromQL.
//!   [`long_fields`]: questions for fields to another database. [`exported`]: all series, as other servers get them. [`metadata`]: what is known of metrics.

mod export;
mod exposition_group;
mod field_index;
mod find;
pub mod long_fields;
mod metadata;
mod promql_source;
mod registered;
mod reported;

pub use export::{SeriesState, exported, exported_from};
pub(crate) use field_index::FieldIndexes;
pub use find::{count, label_names, label_values, select};
pub use metadata::{Metadata, metadata};
pub use promql_source::{INSTANCE, PromqlSource};
pub(crate) use registered::record_in_history;
pub(crate) use reported::SeriesRecorder;
