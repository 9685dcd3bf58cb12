use super::*;
use crate::archive::simulated_disk::SimulatedDisk;

use crate::{InstanceId, Store, StoreLimits, StoredField};

fn frame(field: StoredField, capacity: u64) -> Frame {
    let cache = BlockCache::new(1 << 20);
    let shared = StoreResources { samples: capacity, cache, ..StoreResources::new(&StoreLimits::default(), false) };
    let (instance, schema) = (InstanceId::new("i").unwrap(), Schema::new("s", vec![field]));
    let owner = schema.sampler().clone();
    Frame::new(FrameKey { instance, schema, interval_ms: 1000, born: 0, owner }, Arc::new(shared))
}

fn seal_all(frame: &Frame) {
    while let Some(open) = frame.to_seal(i64::MAX) {
        assert!(frame.replace(frame.seal(&open).unwrap()));
    }
}

#[test]
fn a_full_ring_evicts_its_oldest_row() {
    let frame = frame(StoredField::gauge("x"), 3);
    for i in 0..5 {
        frame.push(i * 1000, &[i as f64]);
    }
    assert_eq!(frame.len(), 3);
    let query = Query { since_ms: 0, until_ms: 10_000, step_ms: 1000, ..Query::default() };
    assert_eq!(frame.buckets(&query).at_ms, [2000, 3000, 4000]);
}

#[test]
fn an_idle_open_block_is_sealed_early_and_a_later_row_begins_a_new_block() {
    let frame = frame(StoredField::counter("rate", 1.0), 10);
    for (at_ms, total) in [(0, 10.0), (1000, 12.0)] {
        frame.push(at_ms, &[total]);
    }
    assert!(frame.to_seal(61_000).is_none());
    let open = frame.to_seal(180_000).unwrap();
    assert!(open.until_ms > 180_000);
    assert!(frame.replace(frame.seal(&open).unwrap()));
    assert_eq!(frame.open_rows(), 0);
    frame.push(200_000, &[211.0]);
    assert_eq!(frame.latest().unwrap().values, [1.0]);
    assert_eq!(all(&frame).into_iter().map(|(at_ms, _)| at_ms).collect::<Vec<_>>(), [0, 1000, 200_000]);
}

#[test]
fn the_pace_is_the_interval_or_the_distance_of_the_newest_rows_up_to_ten_minutes() {
    let frame = frame(StoredField::gauge("a"), 100);
    let pace = |at_ms| {
        frame.push(at_ms, &[1.0]);
        frame.pace_ms()
    };
    assert_eq!([0, 1000, 61_000, 61_500, 8_000_000].map(pace), [1000, 1000, 60_000, 1000, 600_000]);
    while let Some(open) = frame.to_seal(9_000_000) {
        assert!(frame.replace(frame.seal(&open).unwrap()));
    }
    assert_eq!(frame.open_rows(), 0);
    assert_eq!(pace(8_030_000), 30_000, "the row before is in a sealed block");
}

#[test]
fn a_row_too_large_for_narrow_columns_widens_all_of_them_and_keeps_earlier_rows() {
    let fields: Vec<_> =
        (0..200).map(|nth| StoredField { precision: 1.0, ..StoredField::gauge(format!("f{nth}")) }).collect();
    let shared = StoreResources::new(&StoreLimits::default(), false);
    let (instance, schema) = (InstanceId::new("i").unwrap(), Schema::new("s", fields));
    let owner = schema.sampler().clone();
    let frame = Frame::new(FrameKey { instance, schema, interval_ms: 1000, born: 0, owner }, Arc::new(shared));
    assert!(frame.push(0, &[7.0; 200]) && frame.push(1000, &[1e12; 200]) && frame.push(2000, &[8.0; 200]));
    let query = Query { since_ms: 0, until_ms: 10_000, step_ms: 1000, ..Query::default() };
    let buckets = frame.buckets(&query);
    let values: Vec<f64> = buckets.cells.iter().map(|cell| cell.last).collect();
    assert_eq!(values, [[7.0; 200], [1e12; 200], [8.0; 200]].concat());
}

#[test]
fn a_rate_skips_gaps_and_survives_eviction_of_the_row_before_it() {
    let frame = frame(StoredField::counter("rate", 1.0), 2);
    for (at, total) in [(0, 10.0), (1000, f64::NAN), (2000, 14.0)] {
        frame.push(at, &[total]);
    }
    assert_eq!(frame.len(), 2, "the first total has left the ring");
    assert_eq!(frame.latest().unwrap().values, [2.0]);
    assert_eq!(frame.latest().unwrap().totals, [14.0]);
}

#[test]
fn a_counter_reset_gives_one_gap_and_rates_continue_after_it() {
    let frame = frame(StoredField::counter("rate", 1.0), 10);
    let rates = [(0, 10.0), (1000, 20.0), (2000, 5.0), (3000, 6.0)].map(|(at, total)| {
        frame.push(at, &[total]);
        frame.latest().unwrap().values[0]
    });
    assert!(rates[0].is_nan() && rates[2].is_nan());
    assert_eq!((rates[1], rates[3]), (10.0, 1.0));
}

fn all(frame: &Frame) -> Vec<(i64, f64)> {
    let query = Query { since_ms: i64::MIN / 2, until_ms: i64::MAX / 2, step_ms: 1, ..Query::default() };
    let buckets = frame.buckets(&query);
    buckets.at_ms.into_iter().zip(buckets.cells.iter().map(|cell| cell.last)).collect()
}

#[test]
fn a_clock_set_back_loses_no_row_and_the_later_written_row_of_one_time_wins() {
    let frame = frame(StoredField::gauge("x"), 10);
    for (at, x) in [(1000, 1.0), (2000, 2.0), (3000, 3.0), (2000, 9.0), (2500, 8.0)] {
        frame.push(at, &[x]);
    }
    for sealed in [false, true] {
        assert_eq!(all(&frame), [(1000, 1.0), (2000, 9.0), (2500, 8.0), (3000, 3.0)], "sealed: {sealed}");
        assert_eq!((frame.len(), frame.latest().unwrap().at_ms), (5, 2500), "what was read last is the latest");
        seal_all(&frame);
    }
}

#[test]
fn overlapping_generations_are_merged_in_long_buckets() {
    let frame = frame(StoredField::gauge("x"), 10_000);
    (0..2000).for_each(|i| _ = frame.push(i * 1000, &[1.0]));
    (1500..3000).for_each(|i| _ = frame.push(i * 1000 + 500, &[2.0]));
    seal_all(&frame);
    let query = Query { since_ms: 0, until_ms: 3_000_000, step_ms: 600_000, ..Query::default() };
    let buckets = frame.buckets(&query);
    let counts: Vec<(u32, f64)> = buckets.cells.iter().map(|cell| (cell.count, cell.sum)).collect();
    assert_eq!(counts, [(600, 600.0), (600, 600.0), (900, 1200.0), (800, 1400.0), (600, 1200.0)]);
}

#[test]
fn a_clock_set_back_a_second_every_minute_loses_no_row() {
    let frame = frame(StoredField::gauge("x"), 10_000);
    let mut rows = std::collections::BTreeMap::new();
    for minute in 0..60 {
        for second in 0..60 {
            let at = minute * 59_000 + second * 1000;
            frame.push(at, &[minute as f64]);
            rows.insert(at, minute as f64);
        }
    }
    let rows: Vec<_> = rows.into_iter().collect();
    assert_eq!((all(&frame), frame.len()), (rows.clone(), 3600));
    seal_all(&frame);
    assert_eq!(all(&frame), rows);
}

#[test]
fn a_rate_is_right_across_a_clock_that_was_set_back() {
    let frame = frame(StoredField::counter("rate", 1.0), 10);
    frame.push_read(3_600_000, 0.0, &[5.0]);
    frame.push_read(1000, 3_600_000.0, &[15.0]);
    assert_eq!(frame.latest().unwrap().values, [10.0]);
    seal_all(&frame);
    assert_eq!(frame.latest().unwrap().values, [10.0], "the block knows the total before it");
}

#[test]
fn the_latest_row_is_the_same_before_and_after_sealing() {
    let frame = frame(StoredField::counter("rate", 1.0), 10);
    frame.push(0, &[5.0]);
    frame.push(1000, &[7.0]);
    let before = frame.latest().unwrap();
    seal_all(&frame);
    assert_eq!((frame.latest().unwrap(), frame.latest_at_ms()), (before, Some(1000)));
    frame.push(2000, &[10.0]);
    assert_eq!(frame.latest().unwrap().values, [3.0], "its total is remembered");
}

#[test]
fn a_value_too_large_for_a_narrow_column_keeps_every_earlier_row() {
    let frame = frame(StoredField { precision: 0.01, ..StoredField::gauge("x") }, 100);
    let kept = [0.01, -3.2, f64::NAN, 9.9e9, f64::MAX, 9_007_199_254_740_993.0, -21_474_836.48];
    for (i, &x) in kept.iter().enumerate() {
        frame.push(i as i64, &[x]);
    }
    for sealed in [false, true] {
        let query = Query { since_ms: 0, until_ms: 10, step_ms: 1, ..Query::default() };
        let last: Vec<u64> = frame.buckets(&query).cells.iter().map(|cell| cell.last.to_bits()).collect();
        assert_eq!(last, kept.map(f64::to_bits), "sealed: {sealed}");
        seal_all(&frame);
    }
}

#[test]
fn an_idle_frame_gives_back_the_memory_reserved_for_further_rows() {
    let frame = frame(StoredField::gauge("x"), 1000);
    let taken = || frame.shared.heads.account("s").used;
    assert!(frame.push(0, &[1.0]));
    let full = taken();
    frame.give_back_if_idle(2000);
    assert_eq!(taken(), full, "the next row may come yet");
    frame.give_back_if_idle(60_000);
    assert!(taken() < full / 2, "{} of {full}", taken());
    assert!(frame.push(61_000, &[2.0]));
    assert_eq!(taken(), full, "it goes on");
    frame.give_back_if_idle(120_000);
    seal_all(&frame);
    frame.give_back_if_idle(121_000);
    assert_eq!(taken(), 0);
}

/// Makes a frame with a number of blocks in a file, of a minute and ten rows each.
fn in_a_file(blocks: i64) -> (Store, Arc<Frame>) {
    let (store, mut keeper, _) = Store::on(Arc::new(SimulatedDisk::new(1)), &StoreLimits::default()).unwrap();
    let schema = Schema::new("s", vec![StoredField::gauge("x")]);
    let frame = store.frame(&InstanceId::new("i").unwrap(), &schema, 100);
    for minute in 0..blocks {
        for row in 0..10 {
            frame.push(minute * 60_000 + row * 100, &[(minute * 10 + row) as f64]);
        }
        keeper.step((minute + 2) * 60_000);
    }
    (store, frame)
}

#[test]
fn packed_blocks_take_few_bytes_and_keep_every_row() {
    let (_store, frame) = in_a_file(100);
    let view = frame.view();
    let packed = || view.blocks.iter().filter(|blocks| blocks.len() > 1);
    let (blocks, bytes) = packed().fold((0, 0), |(blocks, bytes), packed| {
        let own = packed.memory().0 as usize - size_of_val(packed);
        (blocks + packed.len(), bytes + own)
    });
    assert!(blocks > 90 && bytes < 20 * blocks, "{blocks} blocks, {bytes} bytes");
    let mut row = 0;
    for block in view.blocks.iter().flat_map(Blocks::each) {
        assert_eq!((block.start_row, block.rows, block.first_ms), (row, 10, row as i64 / 10 * 60_000));
        row = block.end_row();
    }
    let expected: Vec<_> = (0..row as i64).map(|row| (row / 10 * 60_000 + row % 10 * 100, row as f64)).collect();
    assert!(row >= 980 && all(&frame)[..row as usize] == expected);
}

#[test]
fn discarding_a_corrupt_packed_block_keeps_its_neighbours() {
    let (_store, frame) = in_a_file(40);
    let damaged = frame.view().blocks[0].each().nth(3).unwrap().id;
    let before = all(&frame);
    frame.discard(damaged);
    let left: Vec<_> = before.into_iter().filter(|(at_ms, _)| at_ms / 60_000 != 3).collect();
    assert_eq!(all(&frame), left);
}
