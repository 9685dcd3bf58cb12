//! Owners of instances: an instance keeps its owner while that is away, and after it has ended.

use crate::harness::{Host, Response, verbs, verbs_version};
use serde_json::{Value, json};

/// `zzz` has other fields than `aaa`: the fields of a sample show which of them recorded it.
const BOTH: &str = "poll.interval = '100ms'\npoll.discover_interval = '1s'\n\
                    [plugins.aaa.config]\ndiscover = ['x']\nfields = ['of_aaa', 'aaa_per_sec']\n\
                    [plugins.zzz.config]\ndiscover = ['x']\nfields = ['of_zzz', 'zzz_per_sec']\n";

fn has_sample_of(field: &'static str) -> impl Fn(&Response) -> bool {
    move |usage| usage.status == 200 && usage.json()[field].is_number()
}

fn is_ended(instance: &Response) -> bool {
    instance.status == 200 && instance.json()["state"] == "ended"
}

/// Waits for a conflict on a plugin's page, and returns the first.
fn first_conflict(host: &Host, plugin: &str) -> Value {
    let page = host.until(&format!("/v1/plugins/{plugin}"), |page| {
        page.status == 200 && page.json()["conflicts"].as_array().is_some_and(|conflicts| !conflicts.is_empty())
    });
    page.json()["conflicts"][0].clone()
}

/// Returns whether the instance's history has a sample that `zzz` recorded.
fn has_history_of_zzz(host: &Host) -> bool {
    host.get("/v1/instances/x/usage/range?range=10m&resolution=100ms").body.contains("of_zzz")
}

#[test]
fn an_ended_instance_keeps_its_owner_while_the_owners_file_is_missing_and_across_restarts() {
    let host = Host::start(BOTH, &[("aaa", verbs())]);
    host.until("/v1/instances/x/usage", has_sample_of("of_aaa"));
    std::fs::remove_file(host.plugin_file("aaa")).unwrap();
    host.until("/v1/instances/x", is_ended);
    host.drop_in("zzz", verbs());
    assert_zzz_is_refused(&host);
    let host = host.restart();
    assert_zzz_is_refused(&host);
    host.drop_in("aaa", verbs());
    host.until("/v1/instances/x", |instance| instance.json()["state"] == "tracked");
    host.until("/v1/instances/x/usage", has_sample_of("of_aaa"));
    let conflict = first_conflict(&host, "aaa");
    assert_eq!((&conflict["instance"], &conflict["with"]), (&json!("x"), &json!("zzz")), "on the owner's page, too");
    assert!(!has_history_of_zzz(&host));
}

/// Checks that `zzz` has a conflict while `aaa` is away, and that `/health` says how to hand the instance over.
fn assert_zzz_is_refused(host: &Host) {
    let conflict = first_conflict(host, "zzz");
    assert_eq!((&conflict["instance"], &conflict["with"]), (&json!("x"), &json!("aaa")));
    let health = host.until("/health", |health| health.json()["status"] == "degraded").json();
    let reason = health["reasons"].to_string();
    for word in ["x (owner: aaa)", "DELETE", "plugins.zzz.share_instances = true", "`samplers` of [[instances]]"] {
        assert!(reason.contains(word), "{word}: {reason}");
    }
    assert!(is_ended(&host.get("/v1/instances/x")));
    assert!(!has_history_of_zzz(host));
}

#[test]
fn at_a_start_the_first_plugin_by_name_owns_a_contested_instance_even_if_it_is_up_last() {
    // `zzz` is compiled by then, and up at once.
    let host = Host::start("", &[("zzz", verbs())]);
    host.until("/v1/plugins/zzz", |page| page.json()["state"] == "running");
    host.configure(BOTH);
    std::fs::write(host.plugin_file("aaa"), verbs_version(2)).unwrap();
    let host = host.restart();
    host.until("/v1/instances/x/usage", has_sample_of("of_aaa"));
    assert_eq!(first_conflict(&host, "zzz")["with"], "aaa");
    host.until("/v1/instances/x", |instance| instance.json()["samplers"] == json!(["aaa"]));
    assert!(!has_history_of_zzz(&host));
    assert!(host.log().contains("x (owner: aaa)"), "{}", host.log());
}

#[test]
fn removing_the_owner_plugin_hands_its_ended_instance_to_another_plugin() {
    let host = Host::start(BOTH, &[("aaa", verbs())]);
    host.until("/v1/instances/x/usage", has_sample_of("of_aaa"));
    assert_eq!(host.send_as_admin("DELETE", "/v1/plugins/aaa", &[]).status, 204);
    host.drop_in("zzz", verbs());
    host.until("/v1/instances/x/usage", has_sample_of("of_zzz"));
    assert_eq!(host.plugin("zzz")["conflicts"], json!([]));
}

#[test]
fn each_documented_way_hands_over_an_instance_whose_owners_file_is_gone() {
    let ways: [fn(&Host); 4] = [
        |host| assert_eq!(host.send_as_admin("DELETE", "/v1/plugins/aaa", &[]).status, 204),
        |host| {
            assert_eq!(host.send_as_writer("DELETE", "/v1/instances/x", "").status, 204);
            assert_eq!(host.send_as_writer("PUT", "/v1/instances/x", r#"{"samplers":["zzz"]}"#).status, 200);
        },
        |host| host.reconfigure(&format!("{BOTH}[plugins.zzz]\nshare_instances = true\n")),
        |host| host.reconfigure(&format!("{BOTH}[[instances]]\nid = 'x'\nsamplers = ['zzz']\n")),
    ];
    for hand_over in ways {
        let host = Host::start(BOTH, &[("aaa", verbs()), ("zzz", verbs())]);
        host.until("/v1/instances/x/usage", has_sample_of("of_aaa"));
        std::fs::remove_file(host.plugin_file("aaa")).unwrap();
        host.until("/v1/instances/x", is_ended);
        assert_eq!(first_conflict(&host, "zzz")["with"], "aaa");
        hand_over(&host);
        host.until("/v1/instances/x/usage", has_sample_of("of_zzz"));
        host.until("/health", |health| health.json()["status"] == "healthy");
    }
}

#[test]
fn history_that_exceeded_max_instances_at_a_start_is_not_given_to_a_new_owner() {
    let procfs = format!("[plugins.procfs]\nsha256 = '{:064}'\n", 0);
    let host = Host::start(&format!("{BOTH}{procfs}"), &[("aaa", verbs())]);
    host.until("/v1/instances/x/usage", has_sample_of("of_aaa"));
    assert_eq!(host.send_as_writer("PUT", "/v1/instances/a", r#"{"samplers":[]}"#).status, 200);
    assert_eq!(host.send_as_writer("PUT", "/v1/instances/b", r#"{"samplers":[]}"#).status, 200);
    std::fs::remove_file(host.plugin_file("aaa")).unwrap();
    host.until("/v1/instances/x", is_ended);
    host.drop_in("zzz", verbs());
    // Two places in all: programs have both.
    host.configure(&format!("poll.max_instances = 1\n{BOTH}{procfs}"));
    let host = host.restart();
    host.until_logged("more instances were tracked than poll.max_instances allows now");
    for id in ["a", "b"] {
        assert_eq!(host.send_as_writer("DELETE", &format!("/v1/instances/{id}"), "").status, 204);
    }
    host.until("/v1/instances/x/usage", has_sample_of("of_zzz"));
    assert!(!host.get("/v1/instances/x/usage/range?range=10m&resolution=100ms").body.contains("of_aaa"));
}
