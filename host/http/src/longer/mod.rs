//! History from before that of this host begins, and that of instances which live elsewhere: another database is asked
//! for it, and its answer is put before that of this host.
//!
//! `expression`: of queries in PromQL. [`LongerPoints`]: of the samples of instances.

mod expression;
mod points;

pub(crate) use expression::LongerQuery;
pub(crate) use points::LongerPoints;

use dropsonde_engine::json;

/// Says up to which time values come from a database.
fn origin(name: &str, until_ms: i64) -> String {
    format!("values before {} come from {name}", json::time(until_ms))
}

/// Says why values are missing that a database would have.
fn missing(name: &str, until_ms: i64, why: &str) -> String {
    format!("values before {} are missing: {name}: {why}", json::time(until_ms))
}
