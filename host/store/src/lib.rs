//! Keeps samples as history and answers range queries.
//!
//! ```
//! use dropsonde_store::{Align, StoredField, InstanceId, StoreLimits, Query, Schema, Store};
//!
//! let store = Store::in_memory(&StoreLimits::default());
//! let host = InstanceId::new("host").unwrap();
//! let schema = Schema::new("load", vec![StoredField::gauge("load_1m")]);
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
//! * [`InstanceId`]: the thing that is measured.
//! * [`Schema`], [`StoredField`], [`Kind`], [`Aggregation`]: the fields that one sampler records; `quantum`: the step
//!   of a field's readings; `rates`: converts totals to rates.
//! * `frame`: one sampler's rows for one instance, as a ring: `open` blocks, sealed blocks (`block`), the generations
//!   they belong to (`generations`), and the buckets that queries make of them (`buckets`).
//! * `rows`, `cell`: a block's rows uncompressed, and their sums; `codec`: their compressed form; `cache`: unpacked
//!   blocks.
//! * `series`: labelled series ([`SeriesGroup`], [`LabelMatcher`], [`SeriesSelection`]), whose columns are in frames too.
//! * [`ladder`]: the steps that queries use, the starts of buckets, the spans of blocks.
//! * [`Query`], [`Points`], [`Sample`]: questions and answers.
//! * [`Store`]: frames by instance; `merged`: merges the points of an instance's frames; `pool`: memory and disk that
//!   several owners share.
//! * [`Keeper`]: the background work that a push does not wait for; [`ClockJump`]: one time the clock was set.
//! * `archive`: history in files; [`inspect`]: reads those files without a host.
//!
//! # How it works
//!
//! ```text
//! push ──► open block: plain columns ──► sealed block: pcodec columns + a cell per column ──► merged blocks
//!               │ every flush                    │ in the next flush                             ▲ 6 h later, by four
//!               └──► log ───────────────────────►└──► new-… segment ───────────────────► seg-… segment
//! ```
//!
//! * A block spans a fixed piece of time, aligned to 1970 (interval 10 s: 90 minutes, 540 rows). Blocks nest with the
//!   steps of the [`ladder`], so long windows are answered from cells, one per block and column. Cells of 15 minutes
//!   serve the steps between. Rows are unpacked only at the edges of a window and for fine steps. Readings are rounded
//!   to their declared precision when they are pushed, and open and sealed blocks are summed in the same order, so
//!   sealing changes no bit of an answer.
//! * A frame keeps its newest blocks as objects with their cells: 128 of them if a block spans 45 minutes or more
//!   (eight days at 90 minutes), else a few. Of older blocks in files it keeps only their places, in a few bytes per
//!   block.
//! * A query reads the frame's current view and holds no lock. A push takes its frame's lock; apart from pushes only
//!   the keeper takes it, for a moment.
//! * A [`Keeper`] does the rest, step by step: it seals blocks whose time is over, spread over a minute; it writes; it
//!   removes history that is too old or too large; it merges blocks. It takes unwritten rows from the frames
//!   themselves, so there is no queue that could overflow. A failing disk costs nothing until the ring drops rows that
//!   were not written, and those are counted.
//!
//! # Performance
//!
//! Measured on the generated corpus (50 instances × 7 fields × 60 480 samples at 10 s, declared precisions), with 2
//! cores:
//!
//! | figure | measured |
//! |---|---|
//! | bytes per value on disk, everything included | 0.8045: merged 0.7773, not merged yet 0.0151, log 0.0121 |
//! | bytes written in all, with log and merging | 4.1 times the bytes on disk |
//! | bytes per value in memory alone | 0.912 |
//! | push of a row of seven fields; the same with its share of sealing | 42 ns; 292 ns |
//! | a week of one instance, seven fields: edges on bucket boundaries; any edges | 8 µs; 12 µs |
//! | 24 hours, 1 hour; the same when blocks are unpacked first | 9 µs, 15 µs; 550 µs, 16 µs |
//! | restart with 350 series; with 80 000 | 1 ms; 0.3 s |
//! | bytes per value of series kept to two decimals; to the bit (15 real series of one field each) | 1.245; 2.150 |
//!
//! With 1 000 000 labelled series once a minute: the index takes 103 bytes per series beside the labels' texts, finding
//! the series of one instance 3 µs, adding a sample of each 20 ms of CPU time (400 ms when frames need their next piece of
//! memory), a restart 1.4 s, and everything 1.6 GB of memory.
//!
//! A week of 10 000 instances × 8 fields, archived, takes 3.3 GB on disk. It takes 757 MiB of memory after a week
//! without a restart and 510 MiB after a restart. The restart takes 0.3 s, because the store reads the files of an
//! instance when the instance is first used.
//!
//! # Odd values
//!
//! NaN and ±∞ are gaps. −0 becomes 0. Subnormals are kept. Whole numbers are exact up to 2⁵³; beyond it doubles are
//! kept to the bit. A counter gives no rate where its total goes down, or where it was read at no later time than
//! before.
//!
//! # Clocks
//!
//! A wrong clock destroys no history. Rows keep the order they were written in. A row that is not later than the last
//! one (the clock was set back, or two readings have the same time) begins a *generation*: times ascend within a
//! generation. Queries merge generations that cover the same time; of two rows with the same time they use the one
//! written later. The latest row is the one written last, whatever its time.
//!
//! Rates use a monotonic clock: each row of counters stores the delay between its time and its reading
//! ([`Frame::push_read`]). Retention uses a clock that has run steadily, not one that has just jumped
//! (`keeper/trusted_clock.rs`). Rows that were recorded while a board's clock showed 1970 count as being as old as the
//! rows written after them (`frame/write_times.rs`).

mod archive;
mod cache;
mod cell;
mod clock_jumps;
mod codec;
mod frame;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
#[allow(clippy::indexing_slicing, reason = "indexes only its own tables")]
pub mod fuzzing;
mod keeper;
mod merged;
mod pool;
mod quantum;
mod query;
mod rates;
#[cfg(test)]
mod reference;
mod rows;
mod schema;
mod series;
mod store;
mod windows;

pub mod inspect;
pub mod ladder;

pub use archive::{FlushStats, RecordTooLarge, RestoreReport};
pub use clock_jumps::ClockJump;
pub use dropsonde_model::{Aggregation, InstanceId, InvalidInstanceId, Kind, Labels, MetricType};
pub use frame::{Frame, FrameRow, STALE_INTERVALS};
pub use keeper::{ArchiveStatus, Keeper, KeeperStep, OpenError, WriteFailure};
pub use pool::{Account, Pool, ShareUsedUp};
pub use query::{Align, FieldPoints, Points, Query, Sample};
pub use schema::{Schema, StoredField};
pub use series::{
    FoundSeries, GroupKey, LabelMatcher, LabelValues, LabelsTooLong, ReadingScale, STALE, SelectedSeries, SeriesColumn,
    SeriesGroup, SeriesHandle, SeriesSamples, SeriesSelection, SeriesTail, TailSamples, TickReport, VisitSeries,
    VisitedSeries, in_order, is_stale,
};
pub use store::{OpenedFolder, Store, StoreLimits, StoreUsage};
pub use windows::Windows;

pub(crate) use ladder::Layout;
