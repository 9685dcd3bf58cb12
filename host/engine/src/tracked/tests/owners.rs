//! An instance belongs to one owner, and takes places of that owner's share.

use super::*;

fn labelled(text: &str, pairs: &[(&str, &str)]) -> Vec<(InstanceId, Labels)> {
    vec![(id(text), pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())]
}

#[test]
fn a_plugin_neither_polls_nor_labels_an_instance_that_another_plugin_found_first() {
    let (tracked, procfs, aaa) = (tracked(), PluginName::from("procfs"), PluginName::from("aaa"));
    tracked.discovered(&by(&procfs), labelled("host", &[("kind", "host")]), 0, &|_| {});
    let discovery = tracked.discovered(&by(&aaa), labelled("host", &[("kind", "fake"), ("more", "1")]), 1, &|_| {});
    assert_eq!(discovery.of_others, [(id("host"), procfs.clone())]);
    assert!(tracked.polled_by(&aaa).is_empty());
    let labels = tracked.get(&id("host")).unwrap().labels;
    assert_eq!((labels.get("kind"), labels.get("more")), (Some("host"), None));
    let sharing = Discoverer { shares: true, ..by(&aaa) };
    tracked.discovered(&sharing, labelled("host", &[("kind", "fake"), ("more", "1")]), 2, &|_| {});
    let labels = tracked.get(&id("host")).unwrap().labels;
    assert_eq!((labels.get("kind"), labels.get("more")), (Some("host"), Some("1")), "it adds, and replaces nothing");
    assert_eq!(tracked.polled_by(&aaa)[0].owner, procfs);
    tracked.discovered(&by(&aaa), labelled("host", &[("more", "1")]), 3, &|_| {});
    assert!(tracked.polled_by(&aaa).is_empty(), "it is allowed to no more");
    assert_eq!(tracked.get(&id("host")).unwrap().labels.get("more"), None);
}

#[test]
fn a_built_in_plugin_takes_over_instances_that_other_plugins_found_first() {
    let (tracked, procfs, aaa) = (tracked(), PluginName::from("procfs"), PluginName::from("aaa"));
    find(&tracked, &aaa, &["host"], 0);
    let read_before = tracked.polled_by(&aaa);
    let built_in = Discoverer { is_built_in: true, ..by(&procfs) };
    let discovery = tracked.discovered(&built_in, found(&["host"]), 1, &|_| {});
    assert_eq!(discovery.taken_over, [(id("host"), aaa.clone())]);
    assert_eq!((polled(&tracked, &procfs).len(), polled(&tracked, &aaa).len()), (1, 0));
    assert!(
        !tracked.while_polled(|is_polled| is_polled(&read_before[0])),
        "nothing that was read of it before comes in"
    );
    find(&tracked, &aaa, &["host"], 2);
    assert!(polled(&tracked, &aaa).is_empty());
    assert_eq!(tracked.discovered(&built_in, found(&["host"]), 3, &|_| {}).taken_over, []);
    // A plugin that may add to it does not change that a built-in plugin owns it.
    tracked.discovered(&Discoverer { shares: true, ..by(&aaa) }, found(&["host"]), 4, &|_| {});
    let other = Discoverer { is_built_in: true, ..by(&"other".into()) };
    assert_eq!(tracked.discovered(&other, found(&["host"]), 5, &|_| {}).of_others, [(id("host"), procfs)]);
}

#[test]
fn only_plugins_named_for_an_instance_add_to_one_of_a_built_in_plugin() {
    let (tracked, procfs, load, other) = (tracked(), "procfs".into(), "load".into(), "other".into());
    tracked.configure(&id("host"), Labels::new(), Some(vec!["load".to_owned()])).unwrap();
    let built_in = Discoverer { is_built_in: true, ..by(&procfs) };
    assert_eq!(tracked.discovered(&built_in, found(&["host"]), 0, &|_| {}).of_others, []);
    assert_eq!(tracked.discovered(&by(&load), found(&["host"]), 0, &|_| {}).of_others, []);
    assert_eq!(tracked.discovered(&by(&other), found(&["host"]), 0, &|_| {}).of_others, [(id("host"), procfs.clone())]);
    assert_eq!(
        (polled(&tracked, &procfs).len(), polled(&tracked, &load).len(), polled(&tracked, &other).len()),
        (1, 1, 0)
    );
    assert_eq!(tracked.polled_by(&load)[0].owner, procfs);
    // Without names all samplers are meant, but procfs owns the instance all the same.
    tracked.configure(&id("host"), Labels::new(), None).unwrap();
    assert!(polled(&tracked, &other).is_empty());
}

#[test]
fn a_configured_instance_is_polled_only_by_the_discoverers_that_it_names() {
    let (tracked, a, b) = (tracked(), PluginName::from("a"), PluginName::from("b"));
    tracked.configure(&id("web"), Labels::new(), Some(vec!["a".to_owned()])).unwrap();
    assert!(tracked.discovered(&by(&a), found(&["web"]), 0, &|_| {}).of_others.is_empty());
    assert_eq!(tracked.discovered(&by(&b), found(&["web"]), 0, &|_| {}).of_others, [(id("web"), CONFIGURATION.into())]);
    assert!(polled(&tracked, &b).is_empty());
    // A program that asks for all samplers does not change the owner.
    find(&tracked, &a, &["own"], 1);
    tracked.track(wanted("own"), &|_| {}).unwrap();
    assert_eq!(tracked.discovered(&by(&b), found(&["own"]), 1, &|_| {}).of_others, [(id("own"), a)]);
}

#[test]
fn only_its_owner_revives_an_ended_instance_until_the_owner_is_released() {
    let (tracked, a, b) = (tracked(), PluginName::from("a"), PluginName::from("b"));
    find(&tracked, &a, &["x"], 0);
    find(&tracked, &a, &[], 1);
    let of_others = |now_ms| tracked.discovered(&by(&b), found(&["x"]), now_ms, &|_| {}).of_others;
    assert_eq!(of_others(2), [(id("x"), a.clone())]);
    assert_eq!((polled(&tracked, &b).len(), state(&tracked, "x")), (0, Some(InstanceState::Ended)));
    find(&tracked, &a, &["x"], 3);
    assert_eq!((polled(&tracked, &a), state(&tracked, "x")), (vec!["x".to_owned()], Some(InstanceState::Tracked)));
    // After the operator removed the plugin, the next one that finds the instance owns it.
    find(&tracked, &a, &[], 4);
    assert!(tracked.release("a") && !tracked.release("nobody"));
    assert_eq!(of_others(5), []);
    assert_eq!(tracked.polled_by(&b)[0].owner, b);
    assert_eq!(tracked.discovered(&by(&a), found(&["x"]), 6, &|_| {}).of_others, [(id("x"), b)]);
}

#[test]
fn a_plugin_that_is_allowed_to_revive_an_ended_instance_does_not_become_its_owner() {
    let (tracked, a, b) = (tracked(), PluginName::from("a"), PluginName::from("b"));
    find(&tracked, &a, &["shared", "put", "named"], 0);
    find(&tracked, &a, &[], 1);
    tracked.discovered(&Discoverer { shares: true, ..by(&b) }, found(&["shared"]), 2, &|_| {});
    tracked.track(wanted("put"), &|_| {}).unwrap();
    assert_eq!(polled(&tracked, &b), ["shared"], "a wish for all samplers means the owner's");
    assert_eq!(polled(&tracked, &a), ["put"]);
    tracked.track(TrackRequest { samplers: Some(vec!["b".to_owned()]), ..wanted("put") }, &|_| {}).unwrap();
    tracked.configure(&id("named"), Labels::new(), Some(vec!["b".to_owned()])).unwrap();
    assert_eq!(polled(&tracked, &b), ["named", "put", "shared"]);
    assert!(tracked.polled_by(&b).iter().all(|polled| polled.owner == a && !polled.has_its_owner));
    find(&tracked, &a, &["shared"], 3);
    assert!(tracked.polled_by(&b).iter().any(|polled| polled.has_its_owner), "its owner is back");
    tracked.revoke_shares(&|_| false, 4);
    assert_eq!(polled(&tracked, &b), ["named", "put"], "it is allowed to no more");
}

#[test]
fn of_plugins_that_find_an_instance_in_their_first_discovery_the_first_by_name_becomes_its_owner() {
    let initial = |plugin: &PluginName| Discoverer { is_initial: true, ..by(plugin) };
    for order in [["a", "b"], ["b", "a"]] {
        let tracked = tracked();
        let [first, second] = order.map(PluginName::from);
        tracked.discovered(&initial(&first), found(&["x"]), 0, &|_| {});
        let Discovery { of_others, taken_over, .. } = tracked.discovered(&initial(&second), found(&["x"]), 1, &|_| {});
        let (a, b) = (PluginName::from("a"), PluginName::from("b"));
        let expected = if order == ["a", "b"] {
            (vec![(id("x"), a.clone())], vec![])
        } else {
            (vec![], vec![(id("x"), b.clone())])
        };
        assert_eq!((of_others, taken_over), expected);
        assert_eq!((tracked.polled_by(&a)[0].owner.clone(), tracked.polled_by(&b).len()), (a, 0));
    }
    // A later plugin takes nothing over, nor does a first discovery take over an instance of a later one.
    let (tracked, a, b) = (tracked(), PluginName::from("a"), PluginName::from("b"));
    tracked.discovered(&initial(&b), found(&["x"]), 0, &|_| {});
    assert_eq!(tracked.discovered(&by(&a), found(&["x"]), 1, &|_| {}).of_others, [(id("x"), b.clone())]);
    find(&tracked, &b, &["x", "y"], 2);
    assert_eq!(tracked.discovered(&initial(&a), found(&["y"]), 3, &|_| {}).of_others, [(id("y"), b)]);
}

#[test]
fn a_plugin_that_finds_new_instances_every_time_displaces_only_its_own_ended_ones() {
    let tracked = TrackedInstances::new(vec!["*".to_owned()], Labels::new(), 80);
    let (churning, modest) = (PluginName::from("churning"), PluginName::from("modest"));
    find(&tracked, &modest, &["kept", "ended"], 0);
    find(&tracked, &modest, &["kept"], 1);
    for round in 0..20 {
        let ids: Vec<String> = (0..40).map(|nth| format!("{round}-{nth}")).collect();
        let refused = find(&tracked, &churning, &ids.iter().map(String::as_str).collect::<Vec<_>>(), round);
        assert_eq!(refused, 0, "its own make room");
    }
    assert_eq!(
        (state(&tracked, "kept"), state(&tracked, "ended")),
        (Some(InstanceState::Tracked), Some(InstanceState::Ended))
    );
    assert_eq!(find(&tracked, &modest, &["kept", "new"], 30), 0);
    assert!(tracked.track(wanted("asked"), &|_| {}).is_ok());
    assert!(tracked.places().account("churning").used <= 80);
    assert!(tracked.places().account("churning").refused > 0, "and that is counted");
    let many: Vec<String> = (0..200).map(|nth| nth.to_string()).collect();
    let refused = find(&tracked, &churning, &many.iter().map(String::as_str).collect::<Vec<_>>(), 31);
    assert!(refused >= 120, "{refused}");
    assert_eq!(find(&tracked, &modest, &["kept", "new", "newer"], 32), 0, "a share is left");
}

#[test]
fn large_labels_take_more_than_one_place() {
    let tracked = TrackedInstances::new(Vec::new(), Labels::new(), 100);
    let long = "x".repeat(250);
    tracked.discovered(
        &by(&"a".into()),
        labelled("x", &[("a", &long), ("b", &long), ("c", &long), ("d", &long)]),
        0,
        &|_| {},
    );
    assert_eq!(tracked.places().account("a").used, 2);
    find(&tracked, &"a".into(), &["x"], 1);
    assert_eq!(tracked.places().account("a").used, 1);
    tracked.untrack(&id("x"), &|_| {});
    assert_eq!(tracked.places().account("a").used, 0);
}

#[test]
fn the_owner_of_an_instance_is_restored_after_a_restart() {
    let (store, a, b) =
        (dropsonde_store::Store::in_memory(&Default::default()), PluginName::from("a"), PluginName::from("b"));
    let before = TrackedInstances::new(Vec::new(), Labels::new(), 10);
    find(&before, &b, &["x"], 0);
    before.note_changes(&store);
    let after = TrackedInstances::new(Vec::new(), Labels::new(), 10);
    after.restore(&store, &["a", "b"], 9);
    assert_eq!(after.discovered(&by(&a), found(&["x"]), 10, &|_| {}).of_others, [(id("x"), b.clone())]);
    assert_eq!(after.places().account("b").used, 1);
    // At this start the file of `b` is missing.
    after.note_changes(&store);
    let without = TrackedInstances::new(Vec::new(), Labels::new(), 10);
    without.restore(&store, &["a"], 11);
    let initial = Discoverer { is_initial: true, ..by(&a) };
    assert_eq!(without.discovered(&initial, found(&["x"]), 12, &|_| {}).of_others, [(id("x"), b)]);
    assert_eq!(state(&without, "x"), Some(InstanceState::Ended));
}

#[test]
fn an_owner_noted_in_history_that_opens_late_gets_its_instance_back() {
    let (store, a, b) =
        (dropsonde_store::Store::in_memory(&Default::default()), PluginName::from("a"), PluginName::from("b"));
    let before = TrackedInstances::new(Vec::new(), Labels::new(), 10);
    find(&before, &b, &["x", "own"], 0);
    before.untrack(&id("untracked"), &|_| {});
    before.note_changes(&store);
    let (now, forgotten) = (TrackedInstances::new(Vec::new(), Labels::new(), 10), ForgottenIds::default());
    find(&now, &a, &["x", "untracked", "new"], 1);
    let strangers = now.adopt(&store, store.notes(""), &["a", "b"], 2, &|id| forgotten.note(id));
    assert_eq!((strangers, forgotten.0.take()), (vec![(id("x"), a.clone())], vec!["untracked".to_owned()]));
    now.revoke_shares(&|_| false, 3);
    assert_eq!((polled(&now, &a), polled(&now, &b)), (vec!["new".to_owned()], vec!["own".to_owned(), "x".to_owned()]));
    assert_eq!(now.discovered(&by(&a), found(&["x", "new"]), 4, &|_| {}).of_others, [(id("x"), b)]);
}

#[test]
fn the_notes_of_an_instance_take_less_than_four_kib_for_each_of_its_places() {
    let (store, a, b) =
        (dropsonde_store::Store::in_memory(&Default::default()), PluginName::from("a"), PluginName::from("b"));
    let labels = |letter: char| -> Labels {
        let pair = |nth| (format!("{letter}{nth:063}"), "\"".repeat(256));
        (0..32).map(pair).collect()
    };
    let small: Labels = (0..32).map(|nth| (format!("k{nth}"), String::new())).collect();
    let long = |nth: usize| format!("{nth}{}", "\"".repeat(255));
    let tracked = TrackedInstances::new(Vec::new(), Labels::new(), 10_000);
    tracked.discovered(&by(&a), vec![(id(&long(0)), labels('x')), (id(&long(1)), small)], 0, &|_| {});
    let sharing = Discoverer { shares: true, ..by(&b) };
    tracked.discovered(&sharing, vec![(id(&long(0)), labels('x'))], 0, &|_| {});
    let samplers = Some(vec!["s".repeat(64); 64]);
    tracked.track(TrackRequest { id: id(&long(0)), labels: labels('y'), samplers }, &|_| {}).unwrap();
    tracked.untrack(&id(&long(2)), &|_| {});
    tracked.note_changes(&store);
    let places = tracked.places().account("a").used;
    let noted: usize = store.notes("").iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(noted < (places as usize + 1) * 4096, "{noted} bytes, {places} places");
}
