//! The two text formats that Prometheus reads.
//!
//! * [`ExpositionFormat`]: one of the two formats. [`ExpositionText`]: writes families and their series. [`label`],
//!   [`label_text`], [`series_text`], [`number`], [`fixed`]: write parts of a line. [`unit_of`]: the unit in a metric's
//!   name.
//! * [`read`]: reads both formats from a stream, as lenient as Prometheus. Builds for WebAssembly.
//! * [`strict`]: a parser for both formats that accepts nothing beyond their specifications.

mod format;
pub mod read;
pub mod strict;
mod text;

pub use format::ExpositionFormat;
pub use text::{ExpositionText, FamilyKind, fixed, label, label_text, number, series_text, unit_of};
