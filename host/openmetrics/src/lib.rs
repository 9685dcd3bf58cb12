//! The two text formats that Prometheus reads.
//!
//! * [`Format`]: one of the two formats. [`Text`]: writes families and their series. [`label`], [`label_text`],
//!   [`number`], [`fixed`]: write parts of a line.
//! * [`read`]: reads both formats from a stream, as lenient as Prometheus. Builds for WebAssembly.
//! * [`strict`]: a parser for both formats that accepts nothing beyond their specifications.

mod format;
pub mod read;
pub mod strict;
mod text;

pub use format::Format;
pub use text::{Kind, Text, fixed, label, label_text, number};
