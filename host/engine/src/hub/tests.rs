use super::watch::StreamItem;
use super::*;
use std::collections::{BTreeSet, HashMap};

fn lost() -> IntCounter {
    IntCounter::new("lost", "Lost.").unwrap()
}

/// Returns a hub with a buffer of two events and at most three streams.
fn hub() -> Hub {
    Hub::new(0xb007, 0, 2, 3, lost())
}

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

fn labels(workload: &str) -> Labels {
    Labels::from([("workload", workload)])
}

fn sample(at_ms: i64) -> Sample {
    Sample { at_ms, values: vec![("x".into(), 1.5)] }
}

fn publish(hub: &Hub, text: &str, at_ms: i64) {
    hub.publish(&id(text), &Arc::default(), sample(at_ms));
}

/// A reader and the form in which it gets samples.
struct TestReader {
    watch: Watch,
    form: StreamForm,
}

impl TestReader {
    fn new(hub: &Hub, follow: FollowRequest) -> Self {
        let form = follow.selection.form();
        Self { watch: hub.watch(hub.claim(None, None).unwrap(), follow), form }
    }
}

fn watch(hub: &Hub, selection: Selection, seen: Option<&str>) -> TestReader {
    let members = ["a", "b"].map(|text| Member { id: id(text), generation: 1, labels: Labels::new() });
    let members = members.into_iter().filter(|member| selection.includes(&member.id, &member.labels)).collect();
    let seen = seen.map(str::to_owned);
    let follow = FollowRequest { selection: selection.into(), seen, members, unheard: HashMap::new(), together: None };
    TestReader::new(hub, follow)
}

fn one(text: &str) -> Selection {
    Selection::One(id(text))
}

fn several() -> Selection {
    Selection::Several(BTreeSet::from([id("a"), id("b")]))
}

/// Returns everything that can be read now, as it is sent.
fn read(reading: &mut TestReader) -> Vec<String> {
    let text = |bytes: bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let mut read = Vec::new();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    while let std::task::Poll::Ready(told) = reading.watch.poll_next(&mut context) {
        match told {
            Some(StreamItem::Initial(InitialEvent::Reset(reset))) => read.push(text(reset.text())),
            Some(StreamItem::Initial(InitialEvent::Event(event)) | StreamItem::New(WatchItem::Event(event))) => {
                read.push(text(event.encoded(reading.form).text()));
            }
            Some(StreamItem::New(WatchItem::Lagged(lost))) => read.push(format!("lagged {lost}")),
            None => {
                read.push("over".to_owned());
                break;
            }
        }
    }
    read
}

/// Returns the sequences of everything that can be read now.
fn sequences(reading: &mut TestReader) -> Vec<u64> {
    sequences_of(&read(reading))
}

fn sequences_of(read: &[String]) -> Vec<u64> {
    let sequence = |event: &String| event.split("id: b007-").nth(1)?.split('\n').next()?.parse().ok();
    read.iter().filter_map(sequence).collect()
}

#[test]
fn a_new_reader_gets_the_latest_sample_first_and_event_ids_ascend() {
    let hub = hub();
    publish(&hub, "a", 0);
    let mut reader = watch(&hub, one("a"), None);
    publish(&hub, "a", 1000);
    publish(&hub, "b", 1000);
    let read = read(&mut reader);
    assert_eq!(read[0], "event: usage\nid: b007-1\ndata: {\"at\":\"1970-01-01T00:00:00Z\",\"x\":1.5}\n\n");
    assert!(read.len() == 2 && read[1].contains("id: b007-2\n"), "{read:?}");
}

#[test]
fn a_slow_reader_loses_the_newest_events_and_gets_their_number_while_other_readers_lose_none() {
    let hub = hub();
    let (mut slow, mut quick) = (watch(&hub, one("a"), None), watch(&hub, one("a"), None));
    for at in 0..5 {
        publish(&hub, "a", at);
        assert_eq!(sequences(&mut quick).len(), 1);
    }
    assert_eq!(sequences(&mut slow), [1, 2]);
    publish(&hub, "a", 9);
    let after = read(&mut slow);
    assert!(after[0] == "lagged 3" && after[1].contains("id: b007-6\n"), "{after:?}");
    assert_eq!(hub.0.lost.get(), 3);
}

#[test]
fn a_returning_reader_gets_the_events_it_missed_or_a_reset_if_they_are_no_longer_kept() {
    let hub = hub();
    (0..6).for_each(|at| publish(&hub, if at % 2 == 0 { "a" } else { "b" }, at * 1000));
    assert_eq!(sequences(&mut watch(&hub, one("a"), Some("b007-3"))), [5], "two of each are kept");
    assert_eq!(sequences(&mut watch(&hub, several(), Some("b007-3"))), [4, 5, 6]);
    assert!(read(&mut watch(&hub, one("a"), Some("b007-6"))).is_empty(), "nothing was missed");
    for (seen, from) in
        [("b007-1", "1970-01-01T00:00:00Z"), ("b007-7", "1970-01-01T00:00:00Z"), ("nonsense", "1970-01-01T00:00:00Z")]
    {
        let read = read(&mut watch(&hub, one("a"), Some(seen)));
        assert_eq!(read[0], format!("event: reset\ndata: {{\"from\":\"{from}\"}}\n\n"), "{seen}");
        assert!(read.len() == 2 && read[1].contains("id: b007-5\n"), "then the latest: {read:?}");
    }
}

#[test]
fn a_reset_after_a_restart_has_the_time_of_the_last_event_that_the_reader_saw() {
    let store = dropsonde_store::Store::in_memory(&Default::default());
    let before = hub();
    (0..60).for_each(|second| publish(&before, "a", second * 1000));
    before.note(&store);
    let after = Hub::new(0xb008, 60_000, 2, 3, lost());
    after.restore(&store);
    let from = |seen: &str| read(&mut watch(&after, one("a"), Some(seen)))[0].clone();
    for (seen, second) in [("b007-1", "00"), ("b007-30", "29"), ("b007-60", "59"), ("b007-99", "59")] {
        assert!(from(seen).contains(&format!("1970-01-01T00:00:{second}Z")), "{seen}: {}", from(seen));
    }
    assert!(from("1f4-9").contains("1970-01-01T00:00:00.5Z"), "an earlier start is known by when it was");
}

#[test]
fn two_starts_at_the_same_time_have_different_boot_numbers() {
    let store = dropsonde_store::Store::in_memory(&Default::default());
    assert_eq!(next_boot(&store, 0xb007), 0xb007);
    hub().note(&store);
    assert_eq!(next_boot(&store, 0xb007), 0xb008);
    assert_eq!(next_boot(&store, 5), 0xb008, "the clock was set back");
}

#[test]
fn a_returning_reader_of_a_silent_instance_gets_no_reset_however_many_events_others_published() {
    let hub = hub();
    publish(&hub, "a", 0);
    (1..20).for_each(|at| publish(&hub, "b", at));
    let mut reader = watch(&hub, one("a"), Some("b007-1"));
    assert!(read(&mut reader).is_empty());
    publish(&hub, "a", 20);
    assert_eq!(sequences(&mut reader), [21]);
    assert!(read(&mut watch(&hub, several(), Some("b007-1")))[0].starts_with("event: reset\n"), "b was not silent");
}

#[test]
fn a_returning_reader_gets_each_event_once_while_others_are_published() {
    let hub = Hub::new(0xb007, 0xb007, 1 << 20, 3, lost());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| (0..).take_while(|_| !stop.load(Relaxed)).for_each(|at| publish(&hub, "a", at)));
        let mut seen = 0;
        let mut reader = watch(&hub, one("a"), None);
        for round in 0..300 {
            let read = read(&mut reader);
            if read.first().is_some_and(|first| first.starts_with("event: reset\n")) {
                seen = 0;
            }
            for sequence in sequences_of(&read) {
                assert!(seen == 0 || sequence == seen + 1, "{sequence} after {seen}");
                seen = sequence;
            }
            if round % 3 == 0 && seen > 0 {
                drop(reader);
                reader = watch(&hub, one("a"), Some(&format!("b007-{seen}")));
            }
        }
        stop.store(true, Relaxed);
    });
}

#[test]
fn a_reader_can_follow_an_instance_before_its_first_sample_and_is_told_when_it_is_untracked() {
    let hub = hub();
    let (mut alone, mut both) = (watch(&hub, one("a"), None), watch(&hub, several(), None));
    publish(&hub, "a", 0);
    hub.close(&id("a"));
    publish(&hub, "b", 0);
    let untracked = "event: untracked\nid: b007-2\ndata: {\"instance\":\"a\"}\n\n";
    let read_alone = read(&mut alone);
    assert_eq!((read_alone.len(), &*read_alone[1], &*read_alone[2]), (3, untracked, "over"));
    let read_both = read(&mut both);
    assert_eq!((read_both.len(), &*read_both[1]), (3, untracked));
    assert!(read_both[2].contains("{\"instance\":\"b\",\"sample\":{\"at\":"), "{read_both:?}");
}

#[test]
fn events_of_an_untracked_instance_are_not_sent_to_later_readers() {
    let hub = Hub::new(0xb007, 0xb007, 100, 3, lost());
    let mut reader = watch(&hub, several(), None);
    publish(&hub, "a", 0);
    hub.close(&id("a"));
    publish(&hub, "a", 1);
    assert_eq!(sequences(&mut reader), [1, 2, 3]);
    drop(reader);
    assert_eq!(sequences(&mut watch(&hub, several(), Some("b007-0"))), [2, 3]);
    assert_eq!(sequences(&mut watch(&hub, one("a"), None)), [3]);
}

#[test]
fn a_reader_of_a_label_gets_samples_only_while_the_instance_has_the_label() {
    let hub = hub();
    let workload = |text: &str| Selection::Labels(BTreeSet::from([("workload".to_owned(), text.to_owned())]));
    let (mut web, mut all) =
        (watch(&hub, workload("web"), None), watch(&hub, Selection::Labels(BTreeSet::new()), None));
    for said in ["web", "batch", "web"] {
        hub.publish(&id("a"), &labels(said), sample(0));
    }
    publish(&hub, "dropsonde:snapshot", 0);
    assert_eq!(sequences(&mut web), [1, 3]);
    assert_eq!(sequences(&mut all), [1, 2, 3], "the host's own is none of them");
}

#[test]
fn a_workload_is_combined_only_while_it_has_readers_or_readers_can_return() {
    let hub = hub();
    hub.publish(&id("a"), &labels("web"), sample(0));
    assert!(hub.take_stale_workloads().is_empty(), "nobody follows it");
    let mut reader = watch(&hub, Selection::Workload("web".to_owned()), None);
    let tick = |at_ms| {
        hub.publish(&id("a"), &labels("web"), sample(at_ms));
        hub.take_stale_workloads().iter().for_each(|workload| hub.publish_workload(workload, sample(at_ms)));
    };
    tick(1);
    assert_eq!(sequences(&mut reader), [3]);
    drop(reader);
    tick(2);
    assert_eq!(sequences(&mut watch(&hub, Selection::Workload("web".to_owned()), Some("b007-3"))), [5]);
    (0..9).for_each(tick);
    assert!(hub.take_stale_workloads().is_empty() && hub.lock().channels.is_empty(), "nobody can come back any more");
}

#[test]
fn a_sample_from_before_the_start_comes_first_unless_it_is_of_another_generation() {
    let begin = |generation| {
        let hub = hub();
        let follow = FollowRequest {
            selection: one("a").into(),
            seen: None,
            members: vec![Member { id: id("a"), generation: 1, labels: Labels::new() }],
            unheard: HashMap::from([(id("a"), (generation, sample(7)))]),
            together: None,
        };
        let mut reader = TestReader::new(&hub, follow);
        publish(&hub, "a", 8);
        (sequences(&mut reader), sequences(&mut watch(&hub, one("a"), Some("b007-0"))))
    };
    assert_eq!(begin(1), (vec![1, 2], vec![1, 2]));
    assert_eq!(begin(2), (vec![1], vec![1]), "that was before it was untracked");
}

#[test]
fn initial_events_of_several_instances_come_in_the_order_they_were_published() {
    let hub = hub();
    publish(&hub, "b", 0);
    publish(&hub, "a", 0);
    publish(&hub, "b", 1);
    assert_eq!(sequences(&mut watch(&hub, several(), None)), [2, 3]);
}

#[test]
fn a_returning_reader_of_an_untracked_instance_gets_the_untracked_event_and_the_stream_ends() {
    let hub = Hub::new(0xb007, 0xb007, 100, 3, lost());
    publish(&hub, "a", 0);
    let reader = watch(&hub, one("a"), None);
    hub.close(&id("a"));
    drop(reader);
    publish(&hub, "a", 1);
    let read = read(&mut watch(&hub, one("a"), Some("b007-1")));
    assert!(read.len() == 2 && read[0].contains("event: untracked\nid: b007-2\n") && read[1] == "over", "{read:?}");
    assert_eq!(sequences(&mut watch(&hub, one("a"), Some("b007-2"))), [3], "then it comes back to the next");
}

#[test]
fn the_time_of_a_reset_is_no_later_than_any_missed_event() {
    let hub = hub();
    for at_ms in [0, 5000, 10_000, 8000, 11_000, 12_000, 13_000] {
        publish(&hub, "a", at_ms);
    }
    let from = |seen: &str| read(&mut watch(&hub, one("a"), Some(seen)))[0].clone();
    for (seen, latest) in [("b007-1", "00:00:00Z"), ("b007-2", "00:00:05Z"), ("b007-3", "00:00:08Z")] {
        assert!(from(seen).contains(&format!("1970-01-01T{latest}")), "{seen}: {}", from(seen));
    }
}

#[test]
fn readers_beyond_the_limit_are_refused_and_dropped_readers_leave_no_channel() {
    let hub = hub();
    let mut readers: Vec<_> = (0..3).map(|_| watch(&hub, one("a"), None)).collect();
    assert_eq!(hub.claim(None, None).unwrap_err(), TooManyStreams::InAll(3));
    readers.pop();
    assert!(hub.claim(None, None).is_ok());
    drop(readers);
    assert_eq!((hub.open(), hub.lock().channels.is_empty()), (0, true));
}

#[test]
fn streams_end_when_the_hub_closes_also_those_that_begin_later() {
    let hub = hub();
    publish(&hub, "a", 0);
    let mut before = watch(&hub, one("a"), None);
    hub.close_all();
    let mut after = watch(&hub, one("a"), None);
    for reader in [&mut before, &mut after] {
        assert_eq!(read(reader).last().unwrap(), "over");
    }
}

/// Follows all instances, or those with a label. `members` have the labels of now.
fn watch_many(hub: &Hub, label: Option<&str>, members: &[(String, &str)], seen: Option<String>) -> TestReader {
    let pair = |workload: &str| ("workload".to_owned(), workload.to_owned());
    let selection = Selection::Labels(label.map(pair).into_iter().collect());
    let members =
        members.iter().map(|(text, workload)| Member { id: id(text), generation: 1, labels: labels(workload) });
    let members = members.filter(|member| selection.includes(&member.id, &member.labels)).collect();
    let follow = FollowRequest { selection: selection.into(), seen, members, unheard: HashMap::new(), together: None };
    TestReader::new(hub, follow)
}

/// Publishes a sample of each instance.
fn publish_all(hub: &Hub, members: &[(String, &str)], at_ms: i64) {
    members.iter().for_each(|(text, workload)| hub.publish(&id(text), &labels(workload), sample(at_ms)));
}

fn crowd(count: usize) -> Vec<(String, &'static str)> {
    (0..count).map(|nth| (format!("i-{nth:05}"), if nth % 3 == 0 { "web" } else { "batch" })).collect()
}

#[test]
fn a_reader_of_all_instances_gets_the_latest_event_of_each_in_order_while_others_are_published() {
    let (hub, members) = (Hub::new(0xb007, 0, 1, 9, lost()), crowd(10_000));
    publish_all(&hub, &members, 0);
    let mut all = watch_many(&hub, None, &members, None);
    let mut web = watch_many(&hub, Some("web"), &members, None);
    assert_eq!(sequences(&mut web).len(), 3334);
    // Some instances get a newer sample before it is their turn.
    publish_all(&hub, &members[5000..5100], 1);
    let told = sequences(&mut all);
    assert_eq!(told.len(), 10_000);
    assert!(told.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(told[9_900..], (10_001..=10_100).collect::<Vec<_>>());
}

#[test]
fn a_reader_of_a_label_first_gets_also_instances_that_got_the_label_after_their_last_sample() {
    let (hub, mut members) = (Hub::new(0xb007, 0, 1, 9, lost()), crowd(100));
    publish_all(&hub, &members, 0);
    members[50].1 = "web";
    let told = sequences(&mut watch_many(&hub, Some("web"), &members, None));
    assert_eq!(told.len(), 35);
    assert!(told.contains(&51) && told.is_sorted());
}

#[test]
fn a_reader_that_takes_nothing_keeps_few_initial_events_in_memory() {
    let (hub, members) = (Hub::new(0xb007, 0, 1, 9, lost()), crowd(3000));
    publish_all(&hub, &members, 0);
    let began_with: Vec<_> = hub.lock().in_order.values().map(Arc::downgrade).collect();
    let new = watch_many(&hub, None, &members, None);
    let back = watch_many(&hub, None, &members, Some("b007-1".to_owned()));
    // None of the first events is the latest of its instance any more.
    (1..4).for_each(|at_ms| publish_all(&hub, &members, at_ms));
    let kept = began_with.iter().filter(|event| event.upgrade().is_some()).count();
    assert!(kept <= 32, "{kept}");
    let mut back = back;
    let told = read(&mut back);
    assert!(told.iter().any(|event| event.starts_with("event: reset\n")), "what it missed is not there any more");
    drop(new);
}
