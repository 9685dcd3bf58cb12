//! The snapshot of the application as a whole: the statistics of all sources, in one document.
//!
//! # Layout
//!
//! * [`Aggregate`]: the statistics of several sources taken together; [`Aggregator`]: the same for native sources
//!   alone.
//! * `sections`: the sections and numbers of the snapshot; `document`: its JSON.
//! * [`Snapshots`]: the sources of a running host. It makes the document when a source reports, not when a client asks
//!   for it.
//! * `record`: the task that puts the snapshot's numbers into history.

mod aggregate;
mod document;
mod record;
mod sections;
mod snapshots;

pub use aggregate::{Aggregate, Aggregator, Source, named};
pub use document::Document;
pub use record::{instance, record_in_history};
pub use sections::{NUMBERS, SnapshotNumber, json_of_source};
pub use snapshots::Snapshots;
