//! Labelled series: values that are told apart by labels, which are not known beforehand.
//!
//! * [`SeriesGroup`]: adds samples of series that are read together. Their columns are in frames as those of samplers
//!   are, so blocks, files, retention and the limits on memory are the same.
//! * `packed_labels`: the label sets of a frame's columns, in memory and in files.
//! * `index`: finds series by their labels. `symbols`: the texts of labels, each once; `postings`: lists of series.
//! * [`LabelMatcher`]: a condition on one label. [`SeriesSelection`]: what a search found, and its samples;
//!   `ahead`: unpacks them on several threads.
//! * [`SeriesTail`]: follows series, and reads each of their samples once.
//!
//! A series ends where its frame has a row without its value, or when its frame has no row for three intervals.

mod ahead;
mod group;
mod index;
mod matcher;
mod packed_labels;
mod postings;
mod selection;
mod symbols;
mod tail;
#[cfg(test)]
mod tests;

pub(crate) use index::SeriesIndex;
pub(crate) use packed_labels::PackedLabels;

pub use group::{GroupKey, LabelsTooLong, SeriesGroup, SeriesHandle, TickReport};
pub use matcher::{LabelMatcher, LabelValues};
pub use selection::{
    FoundSeries, ReadingScale, STALE, SelectedSeries, SeriesColumn, SeriesSamples, SeriesSelection, VisitSeries,
    VisitedSeries, in_order, is_stale,
};
pub use tail::{SeriesTail, TailSamples};
