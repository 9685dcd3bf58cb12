//! Keeps samples as history and answers range queries.
//!
//! ```
//! use dropsonde_store::{Align, StoredField, InstanceId, Limits, Query, Schema, Store};
//!
//! let store = Store::in_memory(&Limits::default());
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
//! # How it works
//!
//! ```text
//! push ──► open block: plain columns ──► sealed block: pcodec columns + a cell per column ──► merged blocks
//!               │ every flush                    │ in the next flush                             ▲ 6 h later, by four
//!               └──► log ───────────────────────►└──► new-… segment ───────────────────► seg-… segment
//! ```
//!
//! * A block spans a piece of time that begins at a multiple of itself since 1970 (10 s: 90 minutes, 540 rows) and nests
//!   with the [`ladder`] of steps: long windows are answered from cells, one per block and column. 15-minute cells serve
//!   the steps between, and rows are unpacked only at edges and for fine steps. Readings are rounded to their declared
//!   precision when they are pushed, and open and sealed blocks add up in the same order: sealing changes no bit.
//! * A frame knows its newest blocks each for itself, with their cells; of older ones that are in files only where they are, in
//!   some bytes a block. Blocks of 45 minutes and more it knows a week long.
//! * A query takes the view of a frame there is and holds no lock; a push takes its frame's lock, which only the keeper
//!   takes too, for a moment.
//! * A [`Keeper`] does the rest, step by step: it seals blocks whose time is over, spread over a minute; writes; lets go of
//!   what is too old or too much; merges. What is in no file yet it takes from the frames themselves, so that there is no
//!   queue to overflow: a disk that does not work costs nothing until the ring lets go of rows, which is counted.
//!
//! # What it takes
//!
//! On the generated corpus (50 instances × 7 fields × 60 480 samples at 10 s, declared precisions), 2 cores:
//!
//! | figure | got |
//! |---|---|
//! | on disk, all in | 0.8045 B a value: merged 0.7773, not merged yet 0.0151, log 0.0121 |
//! | written for it, log and merging included | 4.1 times that |
//! | in memory alone | 0.912 B a value |
//! | push of a row of seven; with its first sealing | 42 ns; 292 ns |
//! | a week of an instance, seven fields: on bucket edges; any edges | 8 µs; 12 µs |
//! | 24 hours, 1 hour; unpacked first | 9 µs, 15 µs; 550 µs, 16 µs |
//! | restart with 350 series; 80 000 | 1 ms; 0.3 s |
//! | series kept to two decimals; to the bit (15 real ones of one field each) | 1.245 B; 2.150 B a value |
//!
//! A week of 10 000 instances × 8 fields, archived: 3.3 GB on disk; 757 MiB of memory after a week without a restart, 510
//! after one, which takes 0.3 s: what files have of an instance is read when it is first asked for.
//!
//! # Odd values
//!
//! NaN and ±∞ are gaps; −0 is 0; subnormals are kept; whole numbers are exact up to 2⁵³, and beyond it doubles are kept to
//! the bit. A counter that goes down, or that was read at no later time, gives no rate.
//!
//! # Clocks
//!
//! A clock destroys no history. Rows keep the order they were written in. One that is not later than the last (the clock
//! was set back, or two readings have one time) begins a *generation*: times ascend within a generation, queries merge
//! those that went over the same time, and of two rows of one time the later written counts. The latest row is the one
//! written last, whatever its time.
//!
//! Rates go by a clock that nobody sets: each row of counters keeps how much later than its time it was read
//! ([`Frame::push_read`]). What is too old goes by a clock that has gone on steadily, not by one that has just jumped
//! (`keeper/trust.rs`), and what was measured while a board thought it was 1970 is as old as what it wrote next.
//!
//! # Layout
//!
//! * [`InstanceId`]: what is measured.
//! * [`Schema`], [`StoredField`], [`Kind`], [`Aggregation`]: what one sampler records; `quantum`: the step of its readings;
//!   `rates`: how totals become rates.
//! * `frame`: one sampler's rows for one instance, a ring: `open` blocks, sealed ones (`block`), the generations they
//!   belong to (`runs`), and what queries make of them (`buckets`).
//! * `rows`, `cell`: a block's rows, plain, and what they add up to; `codec`: their compressed form; `cache`: blocks that
//!   were unpacked.
//! * [`ladder`]: which steps queries use, where buckets begin, what blocks span.
//! * [`Query`], [`Points`], [`Sample`]: questions and answers.
//! * [`Store`]: frames by instance; merges the frames of one.
//! * [`Keeper`]: who does what a push does not wait for; [`ClockJump`]: what it remembers of a clock that was set.
//! * `archive`: history in files; [`inspect`]: the same, looked into from outside.

mod archive;
mod cache;
mod cell;
mod codec;
mod frame;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
#[allow(clippy::indexing_slicing, reason = "of its own tables")]
pub mod fuzzing;
mod jumps;
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
mod store;

pub mod inspect;
pub mod ladder;

pub use archive::{Flushed, Restored, TooLarge};
pub use dropsonde_model::{Aggregation, InstanceId, InvalidInstanceId, Kind};
pub use frame::{Frame, Row};
pub use jumps::ClockJump;
pub use keeper::{ArchiveStatus, Failing, Keeper, OpenError, Step};
pub use pool::{Account, Full, Pool};
pub use query::{Align, Column, Points, Query, Sample};
pub use schema::{Schema, StoredField};
pub use store::{Limits, Opened, Store, Usage};

pub(crate) use ladder::Layout;
