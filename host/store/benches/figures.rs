//! Measures the store: density, push, range.
//!
//! ```text
//! cargo bench -p dropsonde-store --bench figures                  # generated series
//! cargo bench -p dropsonde-store --bench figures -- corpus.bin    # f64 columns by instance, field; corpus.bin.json
//! cargo bench -p dropsonde-store --bench figures -- FOLDER        # only the density of FOLDER/*.csv: time,value
//! ```
//!
//! Times are medians over frames and repetitions. Compare them only within one run.

#![allow(clippy::print_stdout, reason = "a benchmark prints its figures")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "support/series.rs"]
mod series;

use dropsonde_store::{Align, InstanceId, Query, Schema, Store, StoreLimits, StoredField};
use series::{Corpus, STEP_MS};
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

fn main() {
    let path = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    if let Some(folder) = path.as_deref().map(Path::new).filter(|path| path.is_dir()) {
        let files = series::csv_files(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for (name, precision) in [("to two decimals", 0.01), ("to the bit", 0.0)] {
            let values: usize = files.iter().map(Vec::len).sum();
            println!("{values} values kept {name}: {:.4} B a value on disk, all in", density(&files, precision));
        }
        return;
    }
    let corpus = match path {
        Some(path) => Corpus::read(path.as_ref()).unwrap_or_else(|error| panic!("{path}: {error}")),
        None => Corpus::made(20, 60_480),
    };
    println!("{} instances × {} fields × {} rows", corpus.instances(), corpus.schema().fields().len(), corpus.rows);
    in_memory(&corpus);
    archived(&corpus);
}

fn in_memory(corpus: &Corpus) {
    let store =
        Store::in_memory(&StoreLimits { samples: corpus.rows, block_cache: 256 << 20, ..StoreLimits::default() });
    let Filled { pushes, worst, between } = fill(&store, corpus, |now_ms| {
        store.seal(now_ms, usize::MAX);
    });
    let rows = (corpus.rows * corpus.instances()) as u32;
    println!("push                     {:>10.1?} a row, worst {worst:.1?}", pushes / rows);
    println!("push, sealing amortised  {:>10.1?} a row", (pushes + between) / rows);
    let usage = store.usage();
    let values = corpus.values() as f64;
    println!(
        "blocks in memory         {:>10.4} B a value, {:.4} with cells",
        usage.block_bytes as f64 / values,
        (usage.block_bytes + usage.cell_bytes) as f64 / values
    );
    ranges("in memory", &store, corpus);
}

fn archived(corpus: &Corpus) {
    let folder = tempfile::tempdir().unwrap();
    let limits = StoreLimits { samples: corpus.rows, ..StoreLimits::default() };
    let (store, mut keeper, _) = Store::open(folder.path(), &limits).unwrap();
    let written_before = written();
    let mut ticks = 0;
    let Filled { pushes, worst, between } = fill(&store, corpus, |now_ms| {
        ticks += 1;
        // Flush every five minutes. A real host flushes every second; here that would measure the disk.
        if ticks % 30 == 0 {
            keeper.step(now_ms);
        }
    });
    let end_ms = corpus.at_ms(corpus.rows - 1);
    keeper.step(end_ms);
    let (values, rows) = (corpus.values() as f64, (corpus.rows * corpus.instances()) as u32);
    println!(
        "push, archived           {:>10.1?} a row, worst {worst:.1?}; keeping {:.1?} a row",
        pushes / rows,
        between / rows
    );
    let of = |prefix: &str| size(folder.path(), prefix) as f64;
    println!(
        "on disk                  {:>10.4} B a value: settled {:.4}, fresh {:.4}, log {:.4}; written {:.1} times that",
        of("") / values,
        of("seg-") / values,
        of("new-") / values,
        of("log-") / values,
        (written() - written_before) as f64 / of(""),
    );
    keeper.close(end_ms);
    drop(store);
    let start = Instant::now();
    let (store, _keeper, restored) = Store::open(folder.path(), &limits).unwrap();
    let opened = start.elapsed();
    let query = Query { since_ms: end_ms - 3_600_000, until_ms: end_ms + 1, step_ms: 30_000, ..Query::default() };
    let points = store.range(&id(0), &query).at_ms.len();
    println!(
        "restart                  {opened:>10.1?} for {} series, {} rows in logs; first query after {:.1?} ({points} points)",
        corpus.instances() * corpus.schema().fields().len(),
        restored.logged_rows,
        start.elapsed(),
    );
    ranges("archived", &store, corpus);
}

/// Returns the bytes per value of series that have ended and are merged. Rows are taken as ten seconds apart.
fn density(files: &[Vec<f64>], precision: f64) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let limits = StoreLimits { samples: usize::MAX, ..StoreLimits::default() };
    let (store, mut keeper, _) = Store::open(folder.path(), &limits).unwrap();
    let schema = Schema::new("bench", vec![StoredField { precision, ..StoredField::gauge("value") }]);
    let longest = files.iter().map(Vec::len).max().unwrap_or(0) as i64;
    for tick in 0..longest + 10_000 {
        for (i, values) in files.iter().enumerate() {
            if let Some(&value) = values.get(tick as usize) {
                store.frame(&id(i), &schema, STEP_MS).push(tick * STEP_MS, &[value]);
            }
        }
        if tick % 30 == 0 {
            keeper.step(tick * STEP_MS);
        }
    }
    size(folder.path(), "") as f64 / files.iter().map(Vec::len).sum::<usize>() as f64
}

struct Filled {
    pushes: Duration,
    worst: Duration,
    /// The time spent between ticks.
    between: Duration,
}

/// Pushes all rows tick by tick, as a host does.
fn fill(store: &Store, corpus: &Corpus, mut after_tick: impl FnMut(i64)) -> Filled {
    let schema = corpus.schema();
    let frames: Vec<_> = (0..corpus.instances()).map(|i| store.frame(&id(i), &schema, STEP_MS)).collect();
    let mut filled = Filled { pushes: Duration::ZERO, worst: Duration::ZERO, between: Duration::ZERO };
    let mut rows = vec![vec![0.0; schema.fields().len()]; frames.len()];
    for tick in 0..corpus.rows {
        let at_ms = corpus.at_ms(tick);
        rows.iter_mut().enumerate().for_each(|(i, row)| corpus.row(i, tick, row));
        let start = Instant::now();
        let mut last = start;
        for (frame, row) in frames.iter().zip(&rows) {
            frame.push(at_ms, black_box(row));
            // Only in every eighth tick, so that reading the clock does not distort the figures.
            if tick % 8 == 0 {
                let now = Instant::now();
                filled.worst = filled.worst.max(now - last);
                last = now;
            }
        }
        let pushed = start.elapsed();
        filled.pushes += pushed;
        after_tick(at_ms);
        filled.between += start.elapsed() - pushed;
    }
    filled
}

/// Returns the size of the files whose names begin with `prefix`.
fn size(folder: &std::path::Path, prefix: &str) -> u64 {
    let files = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let files = files.filter(|file| file.file_name().to_string_lossy().starts_with(prefix));
    files.map(|file| file.metadata().unwrap().len()).sum()
}

/// Returns the bytes that this process has written so far.
fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}

fn ranges(where_: &str, store: &Store, corpus: &Corpus) {
    const H: i64 = 3_600_000;
    let end = corpus.at_ms(corpus.rows - 1) + 1;
    let snapped = |hours: i64, step_ms: i64| {
        let floor = |at: i64| at - at.rem_euclid(step_ms);
        Query { since_ms: floor(end - hours * H), until_ms: floor(end - 1) + step_ms, step_ms, ..Query::default() }
    };
    let exact = |hours: i64, step_ms: i64, align| {
        let since_ms = end - hours * H - 1234;
        Query { since_ms, until_ms: end - 777, step_ms, align, fields: None }
    };
    let min = 60_000;
    for (name, query) in [
        ("7 d snapped", snapped(168, 90 * min)),
        ("7 d exact edges", exact(168, 90 * min, Align::Epoch)),
        ("7 d from the window's start", exact(168, 90 * min, Align::Since)),
        ("24 h snapped", snapped(24, 15 * min)),
        ("24 h exact edges", exact(24, 15 * min, Align::Epoch)),
        ("6 h snapped", snapped(6, 3 * min)),
        ("1 h snapped", snapped(1, 30_000)),
    ] {
        let instances = corpus.instances().min(20);
        let ask = |i: usize| {
            let start = Instant::now();
            let points = black_box(store.range(&id(i), &query));
            (start.elapsed(), points.at_ms.len())
        };
        let cold: Vec<_> = (0..instances).map(ask).collect();
        let mut warm: Vec<_> = (0..instances * 50).map(|n| ask(n % instances)).collect();
        warm.sort();
        let mut cold_sorted = cold.clone();
        cold_sorted.sort();
        println!(
            "range, {where_}: {name:<28} {:>4} points {:>9.1?} warm, {:>9.1?} first time",
            warm[warm.len() / 2].1,
            warm[warm.len() / 2].0,
            cold_sorted[cold_sorted.len() / 2].0,
        );
    }
}

fn id(instance: usize) -> InstanceId {
    InstanceId::new(format!("i{instance:05}")).unwrap()
}
