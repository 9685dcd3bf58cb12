//! Keeps samples as history and answers range queries.
//!
//! ```
//! use dropsonde_store::{Align, Field, InstanceId, Limits, Query, Schema, Store};
//!
//! let store = Store::in_memory(&Limits::default());
//! let host = InstanceId::new("host").unwrap();
//! let schema = Schema::new("load", vec![Field::gauge("load_1m")]);
//! let frame = store.frame(&host, &schema, 10_000);
//! frame.push(1_000, &[0.5]);
//! frame.push(11_000, &[1.5]);
//!
//! let latest = store.latest(&host).unwrap();
//! assert_eq!((latest.at_ms, latest.get("load_1m")), (11_000, Some(1.5)));
//!
//! let query = Query { since_ms: 0, until_ms: 30_000, step_ms: 30_000, align: Align::Epoch, ..Query::default() };
//! let points = store.range(&host, &query);
//! assert_eq!(points.at_ms, [0]);
//! assert_eq!(points.column("load_1m").unwrap().values, [1.0]);
//! ```
//!
//! All times are milliseconds since 1970 UTC. A missing value is NaN, never zero.
//!
//! # Layout
//!
//! * [`InstanceId`]: what is measured.
//! * [`Schema`], [`Field`], [`Kind`], [`Aggregation`]: what one sampler records.
//! * `frame`: one sampler's rows for one instance, a ring.
//! * `cell`: what a column's rows in one bucket add up to.
//! * [`ladder`]: which steps queries use, and where buckets begin.
//! * [`Query`], [`Points`], [`Sample`]: questions and answers.
//! * [`Store`]: frames by instance; merges the frames of one.
//! * [`inspect`]: history in files, looked into from outside.

mod archive;
mod cache;
mod cell;
mod codec;
mod frame;
mod instance_id;
mod keeper;
mod quantum;
mod query;
#[cfg(test)]
mod reference;
mod rows;
mod schema;
mod store;

pub mod inspect;
pub mod ladder;

pub use archive::{Flushed, Restored};
pub use frame::{Frame, Row};
pub use instance_id::{InstanceId, InvalidInstanceId};
pub use keeper::{ArchiveStatus, Failing, Keeper, OpenError, Step};
pub use query::{Align, Column, Points, Query, Sample};
pub use schema::{Aggregation, Field, Kind, Schema};
pub use store::{Limits, Store, Usage};

pub(crate) use ladder::Layout;
