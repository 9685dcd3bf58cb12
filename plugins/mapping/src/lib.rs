//! Turns expositions into the fields of a sampler, for the plugins `scrape` and `textfile`.
//!
//! * [`MappingConfig`], [`Mapping`]: which fields an exposition becomes. [`all_fields`]: the fields of several
//!   mappings.
//! * [`Scrape`]: reads one exposition, piece by piece. [`ScrapedSeries`]: computes the values of the fields, from one
//!   exposition to the next.
//! * [`whole`]: compiles a regular expression that matches only whole values, as in Prometheus.

mod fields;
mod histogram;
mod selector;
mod series;

pub use fields::{MappedField, Mapping, MappingConfig, all_fields};
pub use selector::whole;
pub use series::{Scrape, ScrapedSeries};
