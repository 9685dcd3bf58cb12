use super::*;
use crate::archive::simulated_disk::SimulatedDisk;
use crate::{InstanceId, Query, Schema, StoredField};

const MIN: i64 = 60_000;
const H: i64 = 60 * MIN;
const DAY: i64 = 24 * H;

fn id(n: usize) -> InstanceId {
    InstanceId::new(format!("i{n}")).unwrap()
}

fn schema() -> Schema {
    Schema::new("s", vec![StoredField::gauge("x")])
}

fn limits() -> StoreLimits {
    StoreLimits { samples: 100_000, ..StoreLimits::default() }
}

/// Returns values that no codec can compress.
fn noise(at_ms: i64) -> f64 {
    let mixed = (at_ms as u64 ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ mixed >> 31).wrapping_mul(0x94d0_49bb_1331_11eb) >> 40) as f64 / 7.0
}

/// Pushes a row of each instance every ten seconds from one time to another, with a step every five minutes.
fn record(store: &Store, keeper: &mut Keeper, instances: usize, from_ms: i64, until_ms: i64) {
    let frames: Vec<_> = (0..instances).map(|n| store.frame(&id(n), &schema(), 10_000)).collect();
    for at_ms in (from_ms..until_ms).step_by(10_000) {
        frames.iter().for_each(|frame| _ = frame.push(at_ms, &[noise(at_ms)]));
        if at_ms % (5 * MIN) == 0 {
            keeper.step(at_ms);
        }
    }
}

fn rows(store: &Store, instance: usize) -> Vec<i64> {
    let query = Query { since_ms: 0, until_ms: i64::MAX / 2, step_ms: 10_000, ..Query::default() };
    store.range(&id(instance), &query).at_ms
}

#[test]
fn a_full_disk_loses_no_rows_and_they_are_written_when_there_is_room_again() {
    let sim = SimulatedDisk::new(1);
    let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits()).unwrap();
    record(&store, &mut keeper, 3, 0, 3 * H);
    sim.fail(true);
    record(&store, &mut keeper, 3, 3 * H, 9 * H);
    let status = store.archive();
    let failing = status.failing.unwrap();
    assert_eq!((failing.reason, failing.since_ms), ("full", 3 * H));
    assert!(status.failed["full"] > 1 && status.unstored_rows >= 3 * 6 * 360 - 100, "{}", status.unstored_rows);
    assert_eq!(rows(&store, 0).len(), 9 * 360, "memory has all rows");
    sim.fail(false);
    record(&store, &mut keeper, 3, 9 * H, 10 * H);
    keeper.step(10 * H);
    let status = store.archive();
    assert_eq!((status.failing, status.unstored_rows, status.lost_rows), (None, 0, 0));
    let (again, ..) = Store::on(Arc::new(sim), &limits()).unwrap();
    for instance in 0..3 {
        assert_eq!(rows(&again, instance), rows(&store, instance));
    }
}

#[test]
fn rows_evicted_before_they_are_written_are_counted_as_lost() {
    let sim = SimulatedDisk::new(1);
    let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &StoreLimits { samples: 1000, ..limits() }).unwrap();
    sim.fail(true);
    record(&store, &mut keeper, 1, 0, 9 * H);
    // Whole blocks are evicted, when the next one is sealed.
    let (kept, lost) = (rows(&store, 0).len() as u64, store.archive().lost_rows);
    assert!((1000..=1000 + 2 * 540).contains(&kept), "{kept}");
    assert_eq!(kept + lost, 9 * 360);
}

#[test]
fn rows_in_files_are_limited_by_age_and_not_by_number() {
    let sim = SimulatedDisk::new(1);
    let limits = StoreLimits { samples: 10, age_ms: DAY, ..limits() };
    let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
    record(&store, &mut keeper, 1, 0, 18 * H);
    let all: Vec<i64> = (0..18 * H).step_by(10_000).collect();
    keeper.step(18 * H);
    assert!(rows(&store, 0) == all && store.archive().lost_rows == 0);
    let (again, ..) = Store::on(Arc::new(sim), &limits).unwrap();
    assert!(rows(&again, 0) == all, "also after a restart");
    record(&store, &mut keeper, 1, 18 * H, 2 * DAY);
    assert!((360 * 24..=360 * 26).contains(&rows(&store, 0).len()));
}

#[test]
fn rows_in_memory_alone_are_limited_by_number() {
    let limits = StoreLimits { samples: 1000, age_ms: DAY, ..limits() };
    let store = Store::in_memory(&limits);
    let mut keeper = Keeper::in_memory(store.clone(), &limits);
    record(&store, &mut keeper, 1, 0, 9 * H);
    assert!(rows(&store, 0) == ((9 * H - 1000 * 10_000)..9 * H).step_by(10_000).collect::<Vec<_>>());
}

#[test]
fn expired_history_is_deleted_also_for_ended_instances_and_frees_its_disk_space() {
    let sim = SimulatedDisk::new(1);
    let limits = StoreLimits { age_ms: DAY, ..limits() };
    let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
    record(&store, &mut keeper, 5, 0, 6 * H);
    record(&store, &mut keeper, 1, 6 * H, 2 * DAY);
    let size = |prefix: &str| -> usize {
        sim.files().iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, size)| size).sum()
    };
    assert!(rows(&store, 4).is_empty() && !store.instances().contains(&id(4)));
    assert!(rows(&store, 0).len() <= 360 * 26 && rows(&store, 0).len() >= 360 * 24);
    assert!(sim.files().keys().all(|name| !name.contains("-0-")), "{:?}", sim.files());
    let day = size("");
    record(&store, &mut keeper, 1, 2 * DAY, 4 * DAY);
    assert!(size("") < day * 5 / 4, "{day} bytes become {}", size(""));
}

#[test]
fn beyond_the_disk_limit_the_oldest_history_is_evicted_first() {
    let sim = SimulatedDisk::new(1);
    let limits = StoreLimits { disk: 100_000, ..limits() };
    let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
    record(&store, &mut keeper, 5, 0, 3 * DAY);
    let bytes: usize = sim.files().values().sum();
    assert!(bytes < 130_000, "{bytes}");
    let rows = rows(&store, 0);
    assert!(rows[0] > DAY && *rows.last().unwrap() > 3 * DAY - MIN, "{} {}", rows[0], rows.len());
}

#[test]
fn a_disk_limit_below_the_newest_history_is_reported_as_exceeded() {
    let sim = SimulatedDisk::new(1);
    let limits = StoreLimits { disk: 6_000, ..limits() };
    let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
    record(&store, &mut keeper, 1, 0, H);
    assert!(!store.archive().beyond_limit);
    record(&store, &mut keeper, 8, H, 3 * H);
    let status = store.archive();
    assert!(status.beyond_limit && status.failing.is_none());
    assert_eq!(status.size, sim.files().values().sum::<usize>() as u64, "every file counts");
    assert_eq!(rows(&store, 0).len(), 3 * 360, "the newest history stays");
}

#[test]
fn a_removed_instance_stays_removed_after_a_restart_and_frees_its_disk_space() {
    let sim = SimulatedDisk::new(1);
    let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits()).unwrap();
    record(&store, &mut keeper, 8, 0, 7 * H);
    let before: usize = sim.files().values().sum();
    (1..8).for_each(|n| store.remove(&id(n)));
    keeper.step(7 * H);
    let (again, ..) = Store::on(Arc::new(sim.clone()), &limits()).unwrap();
    assert_eq!(again.instances(), [id(0)]);
    record(&store, &mut keeper, 1, 7 * H, 9 * H);
    let after: usize = sim.files().values().sum();
    assert!(after * 3 < before, "{before} bytes become {after}: {:?}", sim.files());
    assert_eq!(rows(&store, 0).len(), 9 * 360);
}

#[test]
fn a_removed_instance_that_records_again_has_only_its_new_rows() {
    let sim = SimulatedDisk::new(1);
    let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits()).unwrap();
    record(&store, &mut keeper, 1, 0, H);
    store.remove(&id(0));
    record(&store, &mut keeper, 1, H, 2 * H);
    keeper.close(2 * H);
    let (again, ..) = Store::on(Arc::new(sim), &limits()).unwrap();
    assert_eq!((rows(&again, 0).first(), rows(&again, 0).len()), (Some(&H), 360));
}

#[test]
fn many_frames_on_one_schedule_are_sealed_over_several_steps() {
    let store = Store::in_memory(&limits());
    let mut keeper = Keeper::in_memory(store.clone(), &limits());
    let frames: Vec<_> = (0..10_000).map(|n| store.frame(&id(n), &schema(), 10_000)).collect();
    for at_ms in [90 * MIN - 10_000, 90 * MIN] {
        frames.iter().for_each(|frame| _ = frame.push(at_ms, &[1.0]));
    }
    let sealed: Vec<usize> = (0..80).map(|second| keeper.step(90 * MIN + second * 1000).sealed).collect();
    assert_eq!(sealed.iter().sum::<usize>(), 10_000);
    assert!(sealed.iter().all(|&sealed| sealed <= 400), "{sealed:?}");
}

#[test]
fn a_clock_set_far_ahead_deletes_history_only_after_a_steady_day() {
    let limits = StoreLimits { age_ms: 2 * DAY, ..limits() };
    let store = Store::in_memory(&limits);
    let mut keeper = Keeper::in_memory(store.clone(), &limits);
    record(&store, &mut keeper, 1, 0, 6 * H);
    keeper.step(400 * DAY);
    keeper.step(6 * H + MIN);
    assert_eq!(rows(&store, 0).len(), 6 * 360);
    (0..23 * 60).for_each(|step| _ = keeper.step(400 * DAY + step * MIN));
    assert_eq!(rows(&store, 0).len(), 6 * 360);
    (23 * 60..=24 * 60).for_each(|step| _ = keeper.step(400 * DAY + step * MIN));
    assert!(rows(&store, 0).is_empty());
}

#[test]
fn rows_recorded_while_the_clock_said_1970_expire_with_the_rows_recorded_next() {
    let sim = SimulatedDisk::new(1);
    let limits = StoreLimits { age_ms: 2 * DAY, ..limits() };
    let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
    let now = 20_000 * DAY;
    record(&store, &mut keeper, 1, now, now + 3 * H);
    record(&store, &mut keeper, 1, 0, 3 * H);
    record(&store, &mut keeper, 1, now + 6 * H, now + DAY);
    keeper.step(now + DAY);
    let of_1970 = |store: &Store| rows(store, 0).into_iter().filter(|at_ms| *at_ms < DAY).count();
    assert_eq!((of_1970(&store), rows(&store, 0).len()), (3 * 360, (3 + 3 + 18) * 360));
    let (again, ..) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
    assert_eq!((of_1970(&again), rows(&again, 0).len()), (3 * 360, (3 + 3 + 18) * 360), "also after a restart");
    record(&store, &mut keeper, 1, now + DAY, now + 3 * DAY);
    assert_eq!(of_1970(&store), 0, "then the rows of 1970 are too old");
}

#[test]
fn beyond_the_disk_limit_the_first_written_history_is_evicted_first_whatever_its_clock_said() {
    let sim = SimulatedDisk::new(1);
    let limits = StoreLimits { disk: 100_000, ..limits() };
    let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
    let now = 20_000 * DAY;
    record(&store, &mut keeper, 5, now, now + DAY);
    record(&store, &mut keeper, 5, 0, 6 * H);
    record(&store, &mut keeper, 5, now + DAY, now + DAY + 6 * H);
    let kept = rows(&store, 0);
    assert!(kept.iter().filter(|at_ms| **at_ms < DAY).count() == 6 * 360, "{}", kept.len());
    assert!(kept.iter().all(|at_ms| *at_ms < DAY || *at_ms > now + 6 * H), "the first rows are evicted");
    assert!(sim.files().values().sum::<usize>() < 130_000);
}

#[test]
fn an_instance_whose_history_expired_keeps_all_its_new_rows() {
    let sim = SimulatedDisk::new(1);
    let limits = StoreLimits { age_ms: DAY, ..limits() };
    let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
    record(&store, &mut keeper, 1, 0, 2 * DAY);
    // The clock goes back once, then the instance records nothing until all its history is deleted.
    store.frame(&id(0), &schema(), 10_000).push(2 * DAY - H, &[1.0]);
    (2 * DAY..4 * DAY).step_by(H as usize / 2).for_each(|at_ms| _ = keeper.step(at_ms));
    assert!(store.frame(&id(0), &schema(), 10_000).is_empty());
    record(&store, &mut keeper, 1, 4 * DAY, 4 * DAY + 7 * H);
    assert_eq!(rows(&store, 0).len(), 7 * 360);
    assert!(keeper.close(4 * DAY + 7 * H));
    let (again, ..) = Store::on(Arc::new(sim), &limits).unwrap();
    assert_eq!(rows(&again, 0).len(), 7 * 360);
}

#[test]
fn a_full_disk_collects_no_files_of_failed_writes() {
    let sim = SimulatedDisk::new(1);
    let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits()).unwrap();
    record(&store, &mut keeper, 3, 0, 3 * H);
    let before = sim.files().len();
    sim.set_room(Some(500));
    record(&store, &mut keeper, 3, 3 * H, 9 * H);
    assert!(store.archive().failing.is_some());
    assert!(sim.files().len() <= before + 3, "{:?}", sim.files());
    sim.set_room(None);
    record(&store, &mut keeper, 3, 9 * H, 10 * H);
    keeper.step(10 * H);
    assert_eq!((store.archive().failing, rows(&store, 2).len()), (None, 10 * 360));
    let (again, ..) = Store::on(Arc::new(sim), &limits()).unwrap();
    assert_eq!(rows(&again, 2).len(), 10 * 360);
}

#[test]
fn files_of_the_first_version_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut keeper, _) = Store::open(folder.path(), &limits()).unwrap();
    record(&store, &mut keeper, 2, 0, 14 * H);
    assert!(keeper.close(14 * H));
    let mut segments = 0;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        if !bytes.is_empty() {
            std::fs::write(&path, archive::of_another_version(&bytes, -1)).unwrap();
            segments += usize::from(path.to_str().unwrap().contains("seg-"));
        }
    }
    assert!(segments > 0, "merged files are among them");
    let expected = rows(&store, 1);
    drop(store);
    let (again, _, restored) = Store::open(folder.path(), &limits()).unwrap();
    assert_eq!((restored.damaged, restored.newer), (0, vec![]));
    assert_eq!(rows(&again, 1), expected);
}

#[test]
fn a_file_of_a_later_version_is_neither_changed_nor_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut keeper, _) = Store::open(folder.path(), &limits()).unwrap();
    record(&store, &mut keeper, 1, 0, H);
    keeper.close(H);
    drop(store);
    let log = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
    let log = log.filter(|path| path.to_str().unwrap().contains("log-")).max().unwrap();
    let newer = archive::of_another_version(&std::fs::read(&log).unwrap(), 1);
    std::fs::write(&log, &newer).unwrap();
    let (store, mut keeper, restored) = Store::open(folder.path(), &limits()).unwrap();
    assert_eq!(restored.newer, [log.file_name().unwrap().to_str().unwrap()]);
    record(&store, &mut keeper, 1, 2 * H, 3 * H);
    keeper.close(3 * H);
    assert_eq!(std::fs::read(&log).unwrap(), newer);
}

#[test]
fn a_sampler_that_used_up_its_memory_gets_no_new_instances_and_other_samplers_do() {
    let limits = StoreLimits { memory: 2 << 20, ..StoreLimits::default() };
    let store = Store::in_memory(&limits);
    let schema = |sampler: &str, fields: usize| {
        Schema::new(sampler, (0..fields).map(|nth| StoredField::gauge(format!("f{nth}"))).collect())
    };
    let (wide, small) = (schema("greedy", 64), schema("modest", 3));
    let frame = |schema: &Schema, nth: i64| store.frame(&InstanceId::new(format!("i{nth}")).unwrap(), schema, 10_000);
    let taken = |schema: &Schema, fields: usize| {
        (0..100).filter(|nth| frame(schema, *nth).push(10_000 + nth, &vec![1.0; fields])).count()
    };
    // 540 rows of 65 columns of 8 bytes are 0.3 MB per instance, of a limit of 1/2 MiB.
    assert_eq!(taken(&wide, 64), 1);
    assert_eq!(store.heads().account("greedy").refused, 99);
    assert_eq!(frame(&wide, 0).len(), 1);
    assert!(frame(&wide, 0).push(20_000, &[2.0; 64]), "a known instance goes on");
    assert!(taken(&small, 3) >= 4, "its neighbour has a share of its own");
    assert!(store.heads().used() <= 1 << 20);
}

#[test]
fn a_sampler_beyond_its_share_of_sealed_memory_loses_its_oldest_blocks_and_others_lose_nothing() {
    let limits = StoreLimits { memory: 256 << 10, samples: 1_000_000, ..StoreLimits::default() };
    let store = Store::in_memory(&limits);
    let mut keeper = Keeper::in_memory(store.clone(), &limits);
    let frame = |id: &str, sampler: &str| {
        let schema = Schema::new(sampler, vec![StoredField { precision: 1.0, ..StoredField::gauge("x") }]);
        store.frame(&InstanceId::new(id).unwrap(), &schema, 10_000)
    };
    let (modest, greedy) = (frame("m", "modest"), frame("g", "greedy"));
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f64
    };
    for tick in 0..100_000 {
        greedy.push(tick * 10_000, &[noise()]);
        if tick % 5000 == 0 {
            modest.push(tick * 10_000, &[noise()]);
        }
        if tick % 500 == 0 {
            keeper.step(tick * 10_000);
        }
    }
    keeper.step(100_000 * 10_000);
    let (greedy_bytes, most) = (store.sealed().account("greedy").used, store.sealed().limit());
    assert!(greedy_bytes <= most && greedy_bytes > most / 2, "{greedy_bytes} of {most}");
    assert!(greedy.len() < 90_000);
    assert_eq!(greedy.latest_at_ms(), Some(99_999 * 10_000), "the newest stays");
    assert_eq!(modest.len(), 20, "all of it");
    store.remove(&InstanceId::new("g").unwrap());
    drop(greedy);
    keeper.step(100_001 * 10_000);
    assert_eq!((store.sealed().account("greedy").used, store.heads().account("greedy").used), (0, 0));
}

#[test]
fn beyond_the_disk_limit_the_largest_sampler_loses_its_oldest_files_and_others_lose_nothing() {
    let sim = SimulatedDisk::new(1);
    let limits = StoreLimits { disk: 4 << 20, ..limits() };
    let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
    let schema = |sampler: &str, fields: usize| {
        Schema::new(sampler, (0..fields).map(|nth| StoredField::gauge(format!("f{nth}"))).collect())
    };
    let modest = store.frame(&id(0), &schema("modest", 1), 1000);
    let greedy: Vec<_> = (1..9).map(|nth| store.frame(&id(nth), &schema("greedy", 40), 1000)).collect();
    let mut largest = 0;
    for second in 0..2 * 3600 {
        let at_ms = second * 1000;
        modest.push(at_ms, &[noise(at_ms)]);
        for (nth, frame) in greedy.iter().enumerate() {
            let readings: Vec<f64> = (0..40).map(|field| noise(at_ms * 41 + field + nth as i64 * 131).sin()).collect();
            frame.push(at_ms, &readings);
        }
        if second % 10 == 0 {
            keeper.step(at_ms);
            largest = largest.max(sim.files().values().sum::<usize>());
        }
    }
    assert!(largest < 6 << 20, "the log and the newest files count, too: {largest}");
    assert_eq!(modest.len(), 2 * 3600, "all of it");
    assert!(greedy[0].len() < 3600 * 3 / 2, "{}", greedy[0].len());
    assert!(store.disk().account("greedy").refused > 0 && store.log().account("greedy").refused > 0);
    assert_eq!((store.disk().account("modest").refused, store.log().account("modest").refused), (0, 0));
    drop(keeper);
    let (again, ..) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
    assert_eq!(again.frames(&id(0))[0].len(), 2 * 3600 - 9, "on disk, too, up to the last flush");
}

#[test]
fn deleted_files_are_noticed_and_rows_in_memory_are_written_again() {
    let around = tempfile::tempdir().unwrap();
    let (data, folder) = (around.path().join("data"), around.path().join("data/history"));
    std::fs::create_dir(&data).unwrap();
    let (store, mut keeper, _) = Store::open(&folder, &limits()).unwrap();
    store.note("kept", Some(b"note".to_vec())).unwrap();
    record(&store, &mut keeper, 1, 0, 8 * MIN);
    let status = || store.archive();
    assert_eq!((status().vanished, status().vanished_at), (0, None));
    // The log and the notes are in the folder.
    std::fs::remove_dir_all(&folder).unwrap();
    keeper.step(8 * MIN);
    assert!(status().failing.is_none() && status().vanished_at.is_some(), "{:?}", status());
    // The parent folder is gone too: it may be on a disk that is not mounted.
    std::fs::rename(&data, around.path().join("unmounted")).unwrap();
    keeper.step(8 * MIN + 1000);
    assert_eq!(status().failing.unwrap().reason, "gone");
    record(&store, &mut keeper, 1, 8 * MIN, 9 * MIN);
    std::fs::create_dir(&data).unwrap();
    keeper.step(11 * MIN);
    assert!(status().failing.is_none(), "{:?}", status());
    let expected = rows(&store, 0);
    drop((store, keeper));
    let (again, ..) = Store::open(&folder, &limits()).unwrap();
    assert_eq!((rows(&again, 0), again.notes("kept").len()), (expected, 1));
}

#[test]
fn a_truncated_log_is_noticed_and_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, mut keeper, _) = Store::open(folder.path(), &limits()).unwrap();
    record(&store, &mut keeper, 1, 0, 4 * MIN);
    for length in [10, 0] {
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let path = file.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("log-") {
                std::fs::File::options().write(true).open(path).unwrap().set_len(length).unwrap();
            }
        }
        keeper.step(4 * MIN);
        assert!(store.archive().vanished_at.is_some());
    }
    record(&store, &mut keeper, 1, 4 * MIN, 5 * MIN);
    keeper.step(5 * MIN);
    let expected = rows(&store, 0);
    drop((store, keeper));
    let (again, ..) = Store::open(folder.path(), &limits()).unwrap();
    assert_eq!(rows(&again, 0), expected);
}

#[test]
fn a_deleted_segment_is_reported_until_its_blocks_expire() {
    let folder = tempfile::tempdir().unwrap();
    let limits = StoreLimits { age_ms: DAY, ..limits() };
    let (store, mut keeper, _) = Store::open(folder.path(), &limits).unwrap();
    record(&store, &mut keeper, 1, 0, 5 * H);
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("new-") {
            std::fs::remove_file(path).unwrap();
        }
    }
    keeper.step(5 * H);
    assert_eq!(store.archive().vanished, 1);
    assert_eq!(rows(&store, 0).len(), 5 * 360, "it can still be read");
    record(&store, &mut keeper, 1, 5 * H, 40 * H);
    assert_eq!(store.archive().vanished, 0);
}

#[test]
fn a_folder_opened_late_adds_its_history_to_rows_recorded_meanwhile() {
    let around = tempfile::tempdir().unwrap();
    let folder = around.path().join("history");
    let (store, mut keeper, _) = Store::open(&folder, &limits()).unwrap();
    store.note("old", Some(b"folder".to_vec())).unwrap();
    store.note("both", Some(b"folder".to_vec())).unwrap();
    record(&store, &mut keeper, 1, 0, 8 * MIN);
    assert!(keeper.close(8 * MIN));
    let before = rows(&store, 0);
    drop(store);

    let (store, mut keeper) = Store::open_later(&folder, &limits(), &ErrorKind::PermissionDenied.into(), 9 * MIN);
    assert_eq!(store.archive().failing.unwrap().reason, "denied");
    store.note("both", Some(b"memory".to_vec())).unwrap();
    record(&store, &mut keeper, 1, 9 * MIN, 10 * MIN);
    let own = 6;
    keeper.step(10 * MIN);
    assert!(store.archive().failing.is_none(), "{:?}", store.archive());
    let opened = store.take_opened().unwrap();
    assert_eq!(opened.restored.damaged, 0);
    assert!(opened.notes.contains(&("both".to_owned(), b"folder".to_vec())));
    assert!(store.take_opened().is_none());
    let all: usize = store.frames(&id(0)).iter().map(|frame| frame.len()).sum();
    assert_eq!(all, before.len() + own);
    assert!(keeper.close(10 * MIN));
    drop(store);
    let (again, ..) = Store::open(&folder, &limits()).unwrap();
    let all: usize = again.frames(&id(0)).iter().map(|frame| frame.len()).sum();
    assert_eq!(all, before.len() + own, "and all of it is on disk");
    let note = |key: &str| again.notes(key)[0].1.clone();
    assert_eq!((note("old"), note("both")), (b"folder".to_vec(), b"memory".to_vec()));
}
