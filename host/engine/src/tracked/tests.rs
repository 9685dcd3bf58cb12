mod owners;

use super::*;
use std::cell::RefCell;

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

fn tracked() -> TrackedInstances {
    let common = Labels::from([("site".to_owned(), "fra1".to_owned())]);
    TrackedInstances::new(vec!["*".to_owned()], common, 3)
}

fn wanted(text: &str) -> TrackRequest {
    TrackRequest { id: id(text), labels: Labels::new(), samplers: None }
}

fn found(ids: &[&str]) -> Vec<(InstanceId, Labels)> {
    ids.iter().map(|text| (id(text), Labels::new())).collect()
}

fn polled(tracked: &TrackedInstances, plugin: &PluginName) -> Vec<String> {
    tracked.polled_by(plugin).iter().map(|polled| polled.id.to_string()).collect()
}

/// The instances that were forgotten.
#[derive(Default)]
struct ForgottenIds(RefCell<Vec<String>>);

impl ForgottenIds {
    fn note(&self, id: &InstanceId) {
        self.0.borrow_mut().push(id.to_string());
    }
}

fn by(plugin: &PluginName) -> Discoverer {
    Discoverer { plugin: plugin.clone(), is_built_in: false, shares: false, is_initial: false }
}

/// Discovers instances, and returns how many were refused.
fn find(tracked: &TrackedInstances, plugin: &PluginName, ids: &[&str], now_ms: i64) -> u64 {
    tracked.discovered(&by(plugin), found(ids), now_ms, &|_| {}).refused
}

fn state(tracked: &TrackedInstances, text: &str) -> Option<InstanceState> {
    tracked.get(&id(text)).map(|tracking| tracking.state)
}

fn event(what: LifecycleChange, text: &str) -> Vec<Lifecycle> {
    vec![Lifecycle { what, instance: id(text), labels: None }]
}

fn gone(tracked: &TrackedInstances, plugin: &PluginName, text: &str, now_ms: i64) {
    let polled = tracked.polled_by(plugin).into_iter().find(|polled| polled.id == id(text)).unwrap();
    tracked.gone(plugin, &polled, now_ms);
}

#[test]
fn a_discovered_instance_is_polled_by_its_discoverer_alone() {
    let (tracked, a, b) = (tracked(), "a".into(), "b".into());
    find(&tracked, &a, &["host"], 0);
    assert_eq!(polled(&tracked, &a), ["host"]);
    assert!(tracked.polled_by(&b).is_empty());
    assert_eq!(tracked.list()[0].labels.get("site"), Some("fra1"));
}

#[test]
fn labels_are_those_of_the_last_discovery_and_the_operators_take_precedence() {
    let (tracked, a) = (tracked(), "a".into());
    let labelled = |key: &str, value: &str| vec![(id("web"), Labels::from([(key.to_owned(), value.to_owned())]))];
    tracked.configure(&id("web"), Labels::from([("tier".to_owned(), "front".to_owned())]), None).unwrap();
    tracked.discovered(&by(&a), labelled("old", "1"), 0, &|_| {});
    tracked.discovered(&by(&a), labelled("tier", "back"), 1, &|_| {});
    let labels = tracked.get(&id("web")).unwrap().labels;
    let expected = [("site", "fra1"), ("tier", "front")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    assert_eq!(labels, Labels::from(expected));
}

#[test]
fn a_configured_instance_is_polled_by_the_samplers_it_names_else_by_the_default() {
    let (tracked, a, b) = (tracked(), "a".into(), "b".into());
    tracked.configure(&id("web"), Labels::new(), Some(vec!["b".to_owned()])).unwrap();
    tracked.configure(&id("any"), Labels::new(), None).unwrap();
    assert_eq!(polled(&tracked, &a), ["any"]);
    assert_eq!(polled(&tracked, &b), ["any", "web"]);
    gone(&tracked, &b, "any", 5);
    assert_eq!(polled(&tracked, &b), ["web"], "who says gone is not asked again");
    assert_eq!(state(&tracked, "any").unwrap(), InstanceState::Tracked, "others may know it");
    gone(&tracked, &b, "web", 5);
    assert_eq!(state(&tracked, "web").unwrap(), InstanceState::Ended);
}

#[test]
fn a_newer_version_of_a_plugin_that_reported_an_instance_gone_polls_it_again() {
    let (tracked, a) = (tracked(), "a".into());
    tracked.configure(&id("web"), Labels::new(), Some(vec!["a".to_owned()])).unwrap();
    gone(&tracked, &a, "web", 5);
    tracked.ask_again(&a);
    assert_eq!(polled(&tracked, &a), ["web"]);
    assert_eq!(state(&tracked, "web").unwrap(), InstanceState::Tracked);
}

#[test]
fn an_instance_ends_when_discovery_no_longer_lists_it_and_begins_again_when_it_does() {
    let (tracked, a) = (tracked(), "a".into());
    find(&tracked, &a, &["x", "y"], 0);
    find(&tracked, &a, &["y"], 7);
    assert_eq!(state(&tracked, "x").unwrap(), InstanceState::Ended);
    assert_eq!(polled(&tracked, &a), ["y"]);
    find(&tracked, &a, &["x", "y"], 9);
    assert_eq!(state(&tracked, "x").unwrap(), InstanceState::Tracked);
}

#[test]
fn an_instance_of_two_plugins_ends_when_both_report_it_gone() {
    let (tracked, a, b) = (tracked(), "a".into(), "b".into());
    find(&tracked, &a, &["x"], 0);
    tracked.discovered(&Discoverer { shares: true, ..by(&b) }, found(&["x"]), 0, &|_| {});
    gone(&tracked, &a, "x", 1);
    assert_eq!(state(&tracked, "x").unwrap(), InstanceState::Tracked);
    gone(&tracked, &b, "x", 2);
    assert_eq!(state(&tracked, "x").unwrap(), InstanceState::Ended);
}

#[test]
fn instances_beyond_the_limit_are_refused_and_ended_ones_make_room() {
    let (tracked, a) = (tracked(), "a".into());
    assert_eq!(find(&tracked, &a, &["1", "2", "3", "4"], 0), 1);
    let forgotten = ForgottenIds::default();
    let refused = tracked.discovered(&by(&a), found(&["5", "2", "3"]), 1, &|id| forgotten.note(id)).refused;
    assert_eq!((refused, forgotten.0.take()), (0, vec!["1".to_owned()]), "it ended and made room");
    let ids: Vec<_> = tracked.list().into_iter().map(|one| one.id.to_string()).collect();
    assert_eq!(ids, ["2", "3", "5"]);
    assert_eq!(tracked.track(wanted("6"), &|_| {}), Err(TooManyInstances(3)));
    let events = [event(LifecycleChange::Created, "2"), event(LifecycleChange::Created, "6")].concat();
    assert_eq!(tracked.apply(&events, &|_| {}), Err((1, TooManyInstances(3))));
}

#[test]
fn ended_instances_are_forgotten_after_the_retention_and_paused_ones_stay() {
    let (tracked, a) = (tracked(), "a".into());
    find(&tracked, &a, &["x", "y", "z"], 0);
    tracked.apply(&event(LifecycleChange::Suspended, "z"), &|_| {}).unwrap();
    find(&tracked, &a, &["y"], 100);
    let forgotten = ForgottenIds::default();
    tracked.forget_ended_before(100, &|_| true, &|id| forgotten.note(id));
    assert!(forgotten.0.borrow().is_empty());
    tracked.forget_ended_before(101, &|_| false, &|id| forgotten.note(id));
    tracked.forget_ended_before(101, &|_| true, &|id| forgotten.note(id));
    assert_eq!(forgotten.0.take(), ["x"]);
    assert_eq!((state(&tracked, "x"), state(&tracked, "z")), (None, Some(InstanceState::Paused)));
}

#[test]
fn lifecycle_events_are_idempotent_in_every_state() {
    use LifecycleChange::*;
    let a: PluginName = "a".into();
    let begin = |tracked: &TrackedInstances, from: Option<InstanceState>| match from {
        None => {}
        Some(InstanceState::Tracked) => drop(find(tracked, &a, &["x"], 0)),
        Some(InstanceState::Paused) => {
            find(tracked, &a, &["x"], 0);
            tracked.apply(&event(Stopped, "x"), &|_| {}).unwrap();
        }
        Some(InstanceState::Ended) => {
            find(tracked, &a, &["x"], 0);
            find(tracked, &a, &[], 1);
        }
    };
    for (from, what, then) in [
        (None, Created, Some(InstanceState::Tracked)),
        (None, Started, Some(InstanceState::Tracked)),
        (None, Unsuspended, Some(InstanceState::Tracked)),
        (None, Stopped, None),
        (None, Suspended, None),
        (None, Deleted, None),
        (Some(InstanceState::Tracked), Created, Some(InstanceState::Tracked)),
        (Some(InstanceState::Tracked), Started, Some(InstanceState::Tracked)),
        (Some(InstanceState::Tracked), Stopped, Some(InstanceState::Paused)),
        (Some(InstanceState::Tracked), Suspended, Some(InstanceState::Paused)),
        (Some(InstanceState::Tracked), Deleted, None),
        (Some(InstanceState::Paused), Created, Some(InstanceState::Tracked)),
        (Some(InstanceState::Paused), Started, Some(InstanceState::Tracked)),
        (Some(InstanceState::Paused), Unsuspended, Some(InstanceState::Tracked)),
        (Some(InstanceState::Paused), Stopped, Some(InstanceState::Paused)),
        (Some(InstanceState::Paused), Deleted, None),
        (Some(InstanceState::Ended), Created, Some(InstanceState::Tracked)),
        (Some(InstanceState::Ended), Stopped, Some(InstanceState::Paused)),
        (Some(InstanceState::Ended), Deleted, None),
    ] {
        let tracked = tracked();
        begin(&tracked, from);
        for _ in 0..2 {
            tracked.apply(&event(what, "x"), &|_| {}).unwrap();
            assert_eq!(state(&tracked, "x"), then, "{from:?} {what:?}");
            let is_polled = !polled(&tracked, &a).is_empty();
            assert_eq!(is_polled, then == Some(InstanceState::Tracked), "{from:?} {what:?}");
        }
    }
}

#[test]
fn discovery_does_not_bring_back_untracked_or_paused_instances() {
    let (tracked, a) = (tracked(), "a".into());
    find(&tracked, &a, &["x", "y"], 0);
    tracked.untrack(&id("x"), &|_| {});
    tracked.apply(&event(LifecycleChange::Stopped, "y"), &|_| {}).unwrap();
    assert_eq!(find(&tracked, &a, &["x", "y"], 1), 0, "they are not too many");
    assert!(polled(&tracked, &a).is_empty());
    tracked.track(wanted("x"), &|_| {}).unwrap();
    tracked.apply(&event(LifecycleChange::Started, "y"), &|_| {}).unwrap();
    assert_eq!(polled(&tracked, &a), ["x", "y"]);
    tracked
        .apply(&[event(LifecycleChange::Deleted, "x"), event(LifecycleChange::Created, "x")].concat(), &|_| {})
        .unwrap();
    assert_eq!(state(&tracked, "x"), Some(InstanceState::Tracked));
}

#[test]
fn readings_do_not_reach_a_later_instance_of_the_same_id_or_a_paused_one() {
    let (tracked, a) = (tracked(), "a".into());
    find(&tracked, &a, &["x", "y", "z"], 0);
    let before = tracked.polled_by(&a);
    tracked.untrack(&id("x"), &|_| {});
    tracked.track(wanted("x"), &|_| {}).unwrap();
    tracked.apply(&event(LifecycleChange::Stopped, "y"), &|_| {}).unwrap();
    let current = tracked.while_polled(|is_polled| before.iter().map(is_polled).collect::<Vec<_>>());
    assert_eq!(current, [false, false, true]);
    tracked.gone(&a, &before[0], 5);
    assert_eq!(state(&tracked, "x"), Some(InstanceState::Tracked), "it was another that is gone");
}

#[test]
fn an_event_with_labels_replaces_them_and_one_without_labels_keeps_them() {
    let tracked = tracked();
    let labels = Labels::from([("workload".to_owned(), "web".to_owned())]);
    let created = Lifecycle { what: LifecycleChange::Created, instance: id("x"), labels: Some(labels) };
    tracked.apply(&[created], &|_| {}).unwrap();
    tracked
        .apply(&[event(LifecycleChange::Stopped, "x"), event(LifecycleChange::Started, "x")].concat(), &|_| {})
        .unwrap();
    assert_eq!(tracked.get(&id("x")).unwrap().labels.get("workload"), Some("web"));
    tracked.track(wanted("x"), &|_| {}).unwrap();
    assert_eq!(tracked.get(&id("x")).unwrap().labels.get("workload"), None, "PUT says it all");
}

#[test]
fn a_start_event_for_a_polled_instance_adds_no_samplers() {
    let (tracked, a, b) = (tracked(), "a".into(), "b".into());
    find(&tracked, &a, &["found"], 0);
    tracked.configure(&id("named"), Labels::new(), Some(vec!["a".to_owned()])).unwrap();
    for text in ["found", "named"] {
        tracked
            .apply(&[event(LifecycleChange::Stopped, text), event(LifecycleChange::Started, text)].concat(), &|_| {})
            .unwrap();
    }
    assert_eq!((polled(&tracked, &a), polled(&tracked, &b)), (vec!["found".to_owned(), "named".to_owned()], vec![]));
    let labels = Labels::from([("k".to_owned(), "v".to_owned())]);
    let labelled = Lifecycle { what: LifecycleChange::Started, instance: id("found"), labels: Some(labels) };
    tracked.apply(&[labelled], &|_| {}).unwrap();
    assert_eq!((tracked.get(&id("found")).unwrap().labels.get("k"), polled(&tracked, &b).len()), (Some("v"), 0));
    find(&tracked, &a, &[], 1);
    assert_eq!(state(&tracked, "found"), Some(InstanceState::Ended), "nobody else was to poll it");
}

#[test]
fn configured_labels_and_samplers_apply_again_when_an_untracked_instance_is_created_again() {
    let (tracked, a, b) = (tracked(), "a".into(), "b".into());
    let labels = Labels::from([("tier".to_owned(), "front".to_owned())]);
    tracked.configure(&id("web"), labels, Some(vec!["a".to_owned()])).unwrap();
    tracked.untrack(&id("web"), &|_| {});
    tracked.apply(&event(LifecycleChange::Created, "web"), &|_| {}).unwrap();
    assert_eq!(tracked.get(&id("web")).unwrap().labels.get("tier"), Some("front"));
    assert_eq!((polled(&tracked, &a).len(), polled(&tracked, &b).len()), (1, 0));
}

#[test]
fn a_reloaded_configuration_applies_at_once_and_keeps_paused_and_untracked_instances_so() {
    let (tracked, plugin) = (tracked(), PluginName::from("p"));
    let say = |named: &[(&str, &str)], default: &str, now_ms| {
        let labels = |label: &str| Labels::from([("l".to_owned(), label.to_owned())]);
        let named = named.iter().map(|(one, label)| (id(one), (labels(label), None))).collect();
        tracked.reconfigure(&[default.to_owned()], &labels("common"), named, now_ms, &|_| {})
    };
    assert!(say(&[("a", "1"), ("b", "1")], "*", 0).is_empty());
    assert_eq!(polled(&tracked, &plugin), ["a", "b"]);
    assert_eq!(tracked.get(&id("a")).unwrap().labels.get("l"), Some("1"), "what is said of one wins");
    tracked.apply(&event(LifecycleChange::Stopped, "a"), &|_| {}).unwrap();
    tracked.untrack(&id("b"), &|_| {});
    say(&[("a", "2"), ("b", "1")], "p", 1);
    assert_eq!((state(&tracked, "a"), state(&tracked, "b")), (Some(InstanceState::Paused), None));
    assert_eq!(tracked.get(&id("a")).unwrap().labels.get("l"), Some("2"));
    say(&[("a", "2"), ("b", "2")], "p", 2);
    assert_eq!(state(&tracked, "b"), Some(InstanceState::Tracked), "it is named anew");
    assert_eq!(polled(&tracked, &plugin), ["b"]);
    say(&[("b", "2")], "q", 3);
    assert!(polled(&tracked, &plugin).is_empty(), "others are the default");
    say(&[], "q", 4);
    assert_eq!(state(&tracked, "b"), Some(InstanceState::Ended));
    let refused = say(&[("c", "1"), ("d", "1"), ("e", "1"), ("f", "1")], "q", 5);
    assert_eq!(refused, [id("e"), id("f")], "what is paused makes no room");
    assert_eq!(say(&[("c", "1"), ("d", "1"), ("e", "1")], "q", 6), [id("e")], "it is tried again");
}

#[test]
fn repeated_requests_do_not_change_the_revision() {
    let (tracked, a) = (tracked(), "a".into());
    find(&tracked, &a, &["x"], 0);
    tracked.track(wanted("y"), &|_| {}).unwrap();
    let before = tracked.revision();
    find(&tracked, &a, &["x"], 1);
    tracked.track(wanted("y"), &|_| {}).unwrap();
    tracked.apply(&event(LifecycleChange::Created, "y"), &|_| {}).unwrap();
    assert_eq!(tracked.revision(), before);
}

#[test]
fn a_bounded_number_of_untracked_instances_is_remembered_and_discovered_ones_longest() {
    let (tracked, a) = (tracked(), "a".into());
    find(&tracked, &a, &["found"], 0);
    for text in ["found", "1", "2", "3", "4", "5"] {
        tracked.untrack(&id(text), &|_| {});
    }
    // It turns out that discovery knows `4`.
    find(&tracked, &a, &["found", "4"], 0);
    (6..9).for_each(|nth| tracked.untrack(&id(&nth.to_string()), &|_| {}));
    find(&tracked, &a, &["found", "3", "4", "8"], 0);
    assert_eq!(polled(&tracked, &a), ["3"]);
}

#[test]
fn an_ended_instance_keeps_its_labels_through_a_restart() {
    let (store, a) = (dropsonde_store::Store::in_memory(&Default::default()), PluginName::from("a"));
    let labels = Labels::from([("workload".to_owned(), "web".to_owned())]);
    let before = TrackedInstances::new(Vec::new(), Labels::new(), 10);
    for (listed, workload) in [(vec![(id("x"), labels.clone()), (id("y"), labels)], "web"), (Vec::new(), "web")] {
        before.discovered(&by(&a), listed, 0, &|_| {});
        assert_eq!(before.get(&id("x")).unwrap().labels.get("workload"), Some(workload));
    }
    before.discovered(&by(&a), vec![(id("y"), Labels::from([("workload".to_owned(), "new".to_owned())]))], 1, &|_| {});
    before.note_changes(&store);
    let after = TrackedInstances::new(Vec::new(), Labels::new(), 10);
    after.restore(&store, &[], 9);
    for (text, workload) in [("x", "web"), ("y", "new")] {
        let tracking = after.get(&id(text)).unwrap();
        assert_eq!((tracking.state, tracking.labels.get("workload")), (InstanceState::Ended, Some(workload)));
    }
}

#[test]
fn tracked_paused_ended_and_untracked_instances_are_restored_after_a_restart() {
    let (store, a) = (dropsonde_store::Store::in_memory(&Default::default()), PluginName::from("a"));
    let before = TrackedInstances::new(vec!["*".to_owned()], Labels::new(), 10);
    find(&before, &a, &["found", "lost", "untracked"], 0);
    let labels = Labels::from([("workload".to_owned(), "web".to_owned())]);
    let asked = TrackRequest { id: id("asked"), labels: labels.clone(), samplers: Some(vec!["s".to_owned()]) };
    before.track(asked, &|_| {}).unwrap();
    before.apply(&event(LifecycleChange::Created, "paused"), &|_| {}).unwrap();
    before.apply(&event(LifecycleChange::Stopped, "paused"), &|_| {}).unwrap();
    before.untrack(&id("untracked"), &|_| {});
    before.untrack(&id("named"), &|_| {});
    find(&before, &a, &["found"], 7);
    before.note_changes(&store);

    let after = TrackedInstances::new(vec!["*".to_owned()], Labels::new(), 10);
    after.configure(&id("named"), Labels::new(), None).unwrap();
    after.restore(&store, &["a"], 9);
    let states: Vec<_> = after.list().into_iter().map(|one| (one.id.to_string(), one.state)).collect();
    let expected = [
        ("asked", InstanceState::Tracked),
        ("found", InstanceState::Tracked),
        ("lost", InstanceState::Ended),
        ("paused", InstanceState::Paused),
    ];
    assert_eq!(states, expected.map(|(id, state)| (id.to_owned(), state)));
    let asked = after.get(&id("asked")).unwrap();
    assert_eq!((&asked.labels, &asked.samplers[..]), (&labels, &["s".to_owned()][..]));
    find(&after, &a, &["untracked", "named", "found"], 10);
    assert_eq!(polled(&after, &a), ["found"], "what was untracked stays so");
}
