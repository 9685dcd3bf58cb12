//! Durable history: the thread that lets a store's keeper do its work, and a small history of hosts for programs that
//! need nothing else.
//!
//! ```
//! use dropsonde_engine::history::{HistoryRange, HostHistory};
//! use dropsonde_store::{StoredField, InstanceId, StoreLimits};
//!
//! let folder = tempfile::tempdir()?;
//! let fields = vec![StoredField::gauge("requests_sec"), StoredField::gauge("p99_ms")];
//! let history = HostHistory::open(folder.path(), fields, 60_000, &StoreLimits::default())?;
//! let host = InstanceId::new("example.org")?;
//! history.record(&host, 1_700_000_000_000, &[12.5, 8.0])?;
//! let samples = history.query(&host, HistoryRange::Hour, 1_700_000_060_000);
//! assert_eq!(samples.column("p99_ms").map(|column| column.values.clone()), Some(vec![8.0]));
//! assert_eq!(history.hosts(), [host]);
//! history.close();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod flusher;
mod host_history;
mod range;

pub use flusher::{FlushHooks, FlushTrigger, Flusher};
pub use host_history::{HostHistory, NotRecorded};
pub use range::HistoryRange;
