//! The application as a whole: what all sources say, in one document.
//!
//! # Layout
//!
//! * [`Aggregate`]: what several sources say together; [`Aggregator`]: the same of native ones.
//! * `sections`: what there is in it; `document`: the JSON of it.
//! * [`Snapshots`]: the sources of a running host; the document is made when one of them changes, not when it is asked for.
//! * `keep`: the task that has it go on in history.

mod aggregate;
mod document;
mod keep;
mod sections;
mod snapshots;

pub use aggregate::{Aggregate, Aggregator, Source, named};
pub use document::Document;
pub use keep::{instance, keep};
pub use sections::{NUMBERS, Number, json_of_source};
pub use snapshots::Snapshots;
