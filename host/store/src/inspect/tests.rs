use super::*;
use crate::{Aggregation, Keeper, Query, Store, StoredField};
use std::fs;

const BEGIN_MS: i64 = 1_700_000_000_000;
const INTERVAL_MS: i64 = 10_000;
const HOURS: i64 = 20;
const H: i64 = 3_600_000;

fn instances() -> [InstanceId; 2] {
    ["a", "b"].map(|id| InstanceId::new(id).unwrap())
}

fn schema() -> Schema {
    let gauge = StoredField { precision: 0.01, ..StoredField::gauge("level") };
    let gaps = StoredField { aggregation: Aggregation::Last, ..StoredField::gauge("gaps") };
    Schema::new("s", vec![gauge, StoredField::counter("rate", 2.0), gaps])
}

/// Returns the readings of row number `nth`.
fn row(nth: i64) -> [f64; 3] {
    let x = nth as f64;
    let total = if nth % 1000 < 500 { x * 3.0 } else { (nth % 1000) as f64 };
    [((x / 50.0).sin() * 1e4).round() / 100.0, total, if nth % 7 == 0 { f64::NAN } else { x * 0.1 }]
}

fn rows() -> i64 {
    HOURS * H / INTERVAL_MS
}

fn at_ms(nth: i64) -> i64 {
    BEGIN_MS + nth * INTERVAL_MS
}

/// Makes an archive with hours of rows, most of them merged, the last in a log. It stays open.
fn archive(folder: &Path) -> (Store, Keeper) {
    let (store, mut keeper, _) = Store::open(folder, &StoreLimits::default()).unwrap();
    for nth in 0..rows() {
        for instance in instances() {
            store.frame(&instance, &schema(), INTERVAL_MS).push(at_ms(nth), &row(nth));
        }
        if nth % 60 == 0 {
            store.note(&format!("note {nth}"), Some(vec![nth as u8; 20])).unwrap();
            keeper.step(at_ms(nth));
        }
    }
    keeper.step(at_ms(rows()));
    (store, keeper)
}

fn closed(folder: &Path) {
    let (_, keeper) = archive(folder);
    keeper.close(at_ms(rows()));
}

fn whole(folder: &Path) -> VerifyReport {
    verify(folder, |_, _| {}).unwrap()
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

fn one_of(folder: &Path, kind: &str) -> (String, Vec<u8>) {
    let found = files(folder).into_iter().find(|(name, _)| name.starts_with(kind));
    found.unwrap_or_else(|| panic!("a file {kind}"))
}

fn all_rows(export: &Export) -> Vec<(InstanceId, FrameRow)> {
    let mut all = Vec::new();
    for frame in &export.frames {
        let mut take = |row: &FrameRow| {
            all.push((frame.instance().clone(), row.clone()));
            Ok::<_, ()>(())
        };
        assert_eq!(frame.rows(&mut take), Ok(0));
    }
    all
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn stats_and_verify_count_every_written_row() {
    let folder = tempfile::tempdir().unwrap();
    closed(folder.path());
    let stats = stats(folder.path()).unwrap();
    let all = 2 * rows() as u64;
    assert_eq!((stats.instances, stats.frames, stats.rows, stats.values), (2, 2, all, 3 * all));
    assert_eq!((stats.oldest_ms, stats.newest_ms), (Some(BEGIN_MS), Some(at_ms(rows() - 1))));
    assert_eq!((stats.in_use, stats.damaged), (false, 0));
    for files in [stats.log, stats.fresh, stats.settled, stats.notes] {
        assert!(files.files > 0 && files.bytes > 0, "{stats:?}");
    }
    assert!((0.1..4.0).contains(&stats.bytes_per_value().unwrap()), "{stats:?}");

    let mut last = (0, 0);
    let verified = verify(folder.path(), |done, of| last = (done, of)).unwrap();
    assert!(verified.is_whole() && verified.torn.is_empty() && verified.newer.is_empty(), "{verified:?}");
    assert_eq!(last, (stats.bytes(), stats.bytes()));
    assert_eq!(verified.bytes, stats.bytes());
    assert!(verified.blocks >= stats.blocks && verified.rows >= all, "{verified:?}");
}

#[test]
fn verify_finds_a_flipped_bit_and_names_its_file() {
    let folder = tempfile::tempdir().unwrap();
    closed(folder.path());
    for kind in ["log-", "new-", "seg-", "notes-"] {
        let (name, bytes) = one_of(folder.path(), kind);
        for at in [bytes.len() / 3, bytes.len() / 2] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            fs::write(folder.path().join(&name), flipped).unwrap();
            let verified = whole(folder.path());
            let first = verified.damaged.first().unwrap_or_else(|| panic!("{name} at {at}: {verified:?}"));
            assert!(first.offset <= at as u64, "{first:?}");
            assert!(verified.damaged.iter().all(|found| found.file == name), "{verified:?}");
        }
        fs::write(folder.path().join(&name), bytes).unwrap();
    }
    assert!(whole(folder.path()).is_whole());
}

#[test]
fn verify_reports_a_truncated_log_as_torn_and_a_truncated_settled_file_as_damaged() {
    let folder = tempfile::tempdir().unwrap();
    closed(folder.path());
    for (kind, torn, damaged) in [("log-", true, false), ("new-", true, false), ("seg-", false, true)] {
        let (name, bytes) = one_of(folder.path(), kind);
        fs::write(folder.path().join(&name), &bytes[..bytes.len() - 3]).unwrap();
        let verified = whole(folder.path());
        let names = |found: &[FileDefect]| found.iter().any(|found| found.file == name);
        assert_eq!((names(&verified.torn), names(&verified.damaged)), (torn, damaged), "{verified:?}");
        assert_eq!(verified.is_whole(), !damaged);
        fs::write(folder.path().join(&name), bytes).unwrap();
    }
}

#[test]
fn export_has_exactly_the_pushed_rows() {
    let folder = tempfile::tempdir().unwrap();
    let (store, keeper) = archive(folder.path());
    let query = Query { since_ms: 0, until_ms: i64::MAX / 2, step_ms: 1, ..Query::default() };
    let queried = store.range(&instances()[0], &query);
    keeper.close(at_ms(rows()));
    let exported = all_rows(&export(folder.path(), &ExportFilter::default()).unwrap());
    assert_eq!(exported.len() as i64, 2 * rows());
    for (nth, (instance, exported)) in exported.iter().enumerate() {
        let nth = nth as i64;
        let [level, total, gaps] = row(nth % rows());
        assert_eq!(*instance, instances()[(nth / rows()) as usize]);
        assert_eq!(exported.at_ms, at_ms(nth % rows()));
        assert_eq!(bits(&exported.totals), bits(&[f64::NAN, total, f64::NAN]));
        assert_eq!(bits(&[exported.values[0], exported.values[2]]), bits(&[level, gaps]), "{nth}");
    }
    let first = &exported[..rows() as usize];
    assert_eq!(queried.at_ms, first.iter().map(|(_, row)| row.at_ms).collect::<Vec<_>>());
    let rates: Vec<f64> = first.iter().map(|(_, row)| row.values[1]).collect();
    assert_eq!(bits(&queried.column("rate").unwrap().values), bits(&rates));
}

#[test]
fn readings_of_one_field_are_exported_as_stored_without_gaps() {
    let folder = tempfile::tempdir().unwrap();
    closed(folder.path());
    let export = export(folder.path(), &ExportFilter::default()).unwrap();
    for field in 0..3 {
        let pushed = (0..rows()).map(|nth| (at_ms(nth), row(nth)[field])).filter(|(_, reading)| !reading.is_nan());
        let mut exported = Vec::new();
        let take = |at, reading: f64| {
            exported.push((at, reading));
            Ok::<_, ()>(())
        };
        assert_eq!(export.frames[1].readings(field, take), Ok(0));
        assert_eq!(exported, pushed.collect::<Vec<_>>());
    }
}

#[test]
fn an_export_filter_selects_instances_and_times() {
    let folder = tempfile::tempdir().unwrap();
    closed(folder.path());
    let [_, b] = instances();
    let filter = ExportFilter { instances: vec![b.clone()], since_ms: at_ms(100), until_ms: at_ms(5000) };
    let rows = all_rows(&export(folder.path(), &filter).unwrap());
    assert!(rows.iter().all(|(instance, _)| *instance == b));
    let at: Vec<i64> = rows.iter().map(|(_, row)| row.at_ms).collect();
    assert_eq!(at, (100..5000).map(at_ms).collect::<Vec<_>>());
}

#[test]
fn history_of_a_running_host_is_read_without_changing_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut keeper) = archive(folder.path());
    fs::write(folder.path().join("tmp-0000000099"), "being merged").unwrap();
    let before = files(folder.path());
    assert!(stats(folder.path()).unwrap().in_use);
    assert!(whole(folder.path()).is_whole());
    let export = export(folder.path(), &ExportFilter::default()).unwrap();
    assert_eq!(files(folder.path()), before);
    // Open files stay readable when they are merged and deleted.
    for nth in rows()..rows() + 12 * H / INTERVAL_MS {
        store.frame(&instances()[0], &schema(), INTERVAL_MS).push(at_ms(nth), &row(nth));
        if nth % 60 == 0 {
            keeper.step(at_ms(nth));
        }
    }
    let gone = before.iter().filter(|(name, _)| !folder.path().join(name).exists()).count();
    assert!(gone > 0, "some were merged");
    assert_eq!(all_rows(&export).len() as i64, 2 * rows());
    drop(keeper);
    assert!(!stats(folder.path()).unwrap().in_use);
}

#[test]
fn a_missing_folder_is_an_error_and_an_empty_folder_has_no_history() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("history");
    assert_eq!(stats(&missing).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(verify(&missing, |_, _| {}).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(export(&missing, &ExportFilter::default()).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(stats(folder.path()).unwrap(), FolderStats::default());
    assert!(!missing.exists());
}

#[test]
fn rows_written_after_the_clock_was_set_back_are_exported_in_the_order_of_their_times() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut keeper, _) = Store::open(folder.path(), &StoreLimits::default()).unwrap();
    let host = InstanceId::new("host").unwrap();
    let frame = store.frame(&host, &Schema::new("s", vec![StoredField::gauge("x")]), 1000);
    for (at, x) in [(1000, 1.0), (2000, 2.0), (3000, 3.0), (2000, 9.0), (2500, 8.0)] {
        frame.push(at, &[x]);
    }
    keeper.step(3000);
    let export = export(folder.path(), &ExportFilter::default()).unwrap();
    let (mut rows, mut readings) = (Vec::new(), Vec::new());
    let mut row = |row: &crate::FrameRow| {
        rows.push((row.at_ms, row.values[0]));
        Ok::<_, ()>(())
    };
    export.frames[0].rows(&mut row).unwrap();
    let mut reading = |at, x| {
        readings.push((at, x));
        Ok::<_, ()>(())
    };
    export.frames[0].readings(0, &mut reading).unwrap();
    assert_eq!(rows, [(1000, 1.0), (2000, 9.0), (2500, 8.0), (3000, 3.0)]);
    assert_eq!(readings, rows);
    let stats = stats(folder.path()).unwrap();
    assert_eq!((stats.clock_set_back, stats.newest_ms, stats.rows), (1, Some(3000), 5));
}

/// Reads files of version 0.1.0 of 2026-11-27: 4000 rows ten seconds apart, then 200 more after the clock was set back
/// by a thousand seconds; then the host was killed.
#[test]
fn files_of_the_first_version_are_read_to_the_last_row() {
    let folder = tempfile::tempdir().unwrap();
    let old = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1");
    for file in std::fs::read_dir(old).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    assert!(verify(folder.path(), |_, _| {}).unwrap().is_whole());
    let (store, ..) = Store::open(folder.path(), &StoreLimits { samples: 100_000, ..StoreLimits::default() }).unwrap();
    let start = 1_700_000_000_000 / 21_600_000 * 21_600_000;
    let query = crate::Query { since_ms: 0, until_ms: i64::MAX / 2, step_ms: 10_000, ..crate::Query::default() };
    let points = store.range(&InstanceId::new("host").unwrap(), &query);
    let expected =
        (0..4100).map(|k| (start + k * 10_000, f64::from((if k < 3900 { k } else { k + 100 } % 100) as i32) / 4.0));
    let found = points.at_ms.iter().copied().zip(points.column("load").unwrap().values.iter().copied());
    assert!(found.eq(expected));
    let rates = &points.column("bytes_per_sec").unwrap().values;
    assert!(rates[0].is_nan() && rates[1..3900].iter().chain(&rates[3901..]).all(|rate| *rate == 10.0));
    assert_eq!(store.notes("a/"), [("a/note".to_owned(), b"kept".to_vec())]);
}
