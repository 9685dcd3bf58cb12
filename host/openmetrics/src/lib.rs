//! The two text formats that Prometheus reads.
//!
//! * [`Format`]: which of them. [`Text`]: writes families and their series; [`label`], [`label_text`], [`number`], [`fixed`]: parts of a line.
//! * [`strict`]: reads both, and takes nothing that their specifications do not.

mod format;
pub mod strict;
mod text;

pub use format::Format;
pub use text::{Kind, Text, fixed, label, label_text, number};
