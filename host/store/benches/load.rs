//! Fills a store with a week of many instances, with a simulated clock, and restarts it.
//!
//! ```text
//! cargo bench -p dropsonde-store --bench load                                   # 1 000 instances × 8 fields, archived
//! cargo bench -p dropsonde-store --bench load -- --instances 10000 --rows 60480 --memory-only
//! cargo bench -p dropsonde-store --bench load -- --folder DIR        # keeps DIR; only restarts it if it exists
//! ```

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "support/series.rs"]
#[allow(dead_code, reason = "each bench uses a part of the shared code")]
mod series;

use dropsonde_store::{Frame, InstanceId, Keeper, Query, Schema, Store, StoreLimits, StoredField};
use series::{Corpus, STEP_MS};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Rows of a week at ten seconds.
const WEEK: usize = 60_480;

/// The number of different patterns. Instances share them, each from a different offset.
const PATTERNS: usize = 40;

/// Ticks between two steps of the keeper. In the last [`LAST`] ticks, which a log may hold, there is a step every tick.
const STEP: usize = 5;
const LAST: usize = 1500;

fn main() {
    let (mut instances, mut rows) = (1000, WEEK);
    let mut memory_only = false;
    let mut folder: Option<PathBuf> = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match &*argument {
            "--instances" => instances = arguments.next().expect("a number").parse().expect("a number"),
            "--rows" => rows = arguments.next().expect("a number").parse().expect("a number"),
            "--folder" => folder = Some(arguments.next().expect("a folder").into()),
            "--memory-only" => memory_only = true,
            _ => {}
        }
    }
    let corpus = Corpus::made(PATTERNS, rows);
    println!("{instances} instances × 8 fields × {rows} rows; {} with the series alone", memory());
    let values = (instances * 8 * rows) as f64;
    let limits = StoreLimits::default();
    if memory_only {
        let store = Store::in_memory(&limits);
        let keeper = Keeper::in_memory(store.clone(), &limits);
        fill(&store, keeper, &corpus, instances);
        println!("{:.3} B a value by its own account, {}", in_memory(&store) / values, memory());
        query(&store, &corpus, instances);
        return;
    }
    let temporary = tempfile::tempdir_in(".").unwrap();
    let folder = folder.unwrap_or_else(|| temporary.path().join("history"));
    if folder.exists() {
        restart(&folder, &corpus, instances);
        return;
    }
    let (store, keeper, _) = Store::open(&folder, &limits).unwrap();
    fill(&store, keeper, &corpus, instances);
    let disk = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>();
    println!("{:.4} B a value on disk, {:.0} MB; {}", disk as f64 / values, disk as f64 / 1e6, memory());
    query(&store, &corpus, instances);
    println!("{:.3} B a value in memory by its own account; {}", in_memory(&store) / values, memory());
    drop(store);
    restart(&folder, &corpus, instances);
}

fn restart(folder: &Path, corpus: &Corpus, instances: usize) {
    let start = Instant::now();
    let (store, _keeper, restored) = Store::open(folder, &StoreLimits::default()).unwrap();
    println!("restart: {:.1?}, {} frames, {} rows in logs", start.elapsed(), restored.frames, restored.logged_rows);
    query(&store, corpus, instances);
    println!("first query answered {:.1?} after the start; {}", start.elapsed(), memory());
}

fn fill(store: &Store, mut keeper: Keeper, corpus: &Corpus, instances: usize) {
    let start = Instant::now();
    let mut fields: Vec<StoredField> = corpus.schema().fields().to_vec();
    fields.push(StoredField { precision: 1.0, ..StoredField::counter("bytes_per_sec", 1.0) });
    let schema = Schema::new("load", fields);
    let frames: Vec<Arc<Frame>> = (0..instances).map(|i| store.frame(&id(i), &schema, STEP_MS)).collect();
    let mut row = vec![0.0; 8];
    for tick in 0..corpus.rows {
        for (i, frame) in frames.iter().enumerate() {
            corpus.row(i % PATTERNS, (tick + i * 97) % corpus.rows, &mut row[..7]);
            row[7] = (tick * (i + 1000) * 37) as f64;
            frame.push(corpus.at_ms(tick), &row);
        }
        if tick % STEP == 0 || tick + LAST >= corpus.rows {
            keeper.step(corpus.at_ms(tick));
        }
        if tick % 8640 == 8639 {
            println!("day {}: {:.0?}, {}", tick / 8640 + 1, start.elapsed(), memory());
        }
    }
    keeper.close(corpus.at_ms(corpus.rows - 1));
}

fn query(store: &Store, corpus: &Corpus, instances: usize) {
    let end = corpus.at_ms(corpus.rows);
    let query = Query { since_ms: end - 3_600_000, until_ms: end, step_ms: 30_000, ..Query::default() };
    let start = Instant::now();
    let points = store.range(&id(instances / 2), &query);
    println!("1 h of one instance: {} points in {:.1?}", points.at_ms.len(), start.elapsed());
}

fn in_memory(store: &Store) -> f64 {
    let usage = store.usage();
    (usage.block_bytes + usage.cell_bytes) as f64
}

fn id(instance: usize) -> InstanceId {
    InstanceId::new(format!("i{instance:05}")).unwrap()
}

/// Returns the resident memory as the kernel reports it, now and at its peak.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let megabytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? / 1024.0)
    };
    let show = |key| megabytes(key).map_or_else(|| "?".to_owned(), |mb| format!("{mb:.0} MiB"));
    format!("RSS {}, at most {}", show("VmRSS:"), show("VmHWM:"))
}
