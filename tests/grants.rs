//! Grants: plugins see only what the operator granted.

use crate::harness::{Host, Response, SocketServer, TestServer, dropsonde, verbs};
use serde_json::json;
use std::path::Path;
use std::process::Command;

/// Starts a host with plugins of the one guest, each with a section of its own.
fn host_with_sections(verb: &str, sections: &[(&str, String)]) -> Host {
    host_with_sections_as(dropsonde(), verb, sections)
}

fn host_with_sections_as(command: Command, verb: &str, sections: &[(&str, String)]) -> Host {
    let names: Vec<_> = sections.iter().map(|(name, _)| format!("'{name}'")).collect();
    let mut config = format!("poll.interval = '1s'\n[[instances]]\nid = '{verb}'\nsamplers = [{}]\n", names.join(", "));
    for (name, section) in sections {
        config.push_str(&format!("[plugins.{name}]\n{section}\n"));
    }
    let plugins: Vec<_> = sections.iter().map(|(name, _)| (*name, verbs())).collect();
    Host::start_as(command, &config, &plugins)
}

/// Waits for a plugin's value or failure, and returns it. Being late on a busy machine is neither.
fn outcome(host: &Host, plugin: &str) -> Result<f64, String> {
    let sampler = format!("sampler=\"{plugin}\"");
    let is_late = |reason: &str| reason.contains("no answer in time") || reason.contains("longer than its deadline");
    let mut outcome = None;
    host.until(&format!("/v1/plugins/{plugin}"), |page| {
        let failed = reason(page).filter(|reason| !is_late(reason));
        outcome = sample_value(&host.get("/metrics").body, &sampler).map(Ok).or(failed.map(Err));
        outcome.is_some()
    });
    outcome.unwrap()
}

/// Returns the reason of the last failure on a plugin's page.
fn reason(page: &Response) -> Option<String> {
    page.json()["last_failure"]["reason"].as_str().map(str::to_owned)
}

fn sample_value(metrics: &str, sampler: &str) -> Option<f64> {
    let line = metrics.lines().find(|line| line.starts_with("dropsonde_sample_value{") && line.contains(sampler))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn http_section(url: &str, grants: &[String]) -> String {
    let grants: Vec<_> = grants.iter().map(|grant| format!("'{grant}'")).collect();
    format!(
        "limits = {{ cpu = '1s', http_body = '256KiB' }}\nconfig = {{ get = '{url}' }}\ngrants = {{ http = [{}] }}",
        grants.join(", ")
    )
}

#[test]
fn http_requests_of_plugins_reach_only_granted_origins() {
    let (server, other) = (TestServer::start(), TestServer::start());
    let (granted, denied) = (server.origin(), other.origin());
    let port = server.address.port();
    let host = host_with_sections(
        "get",
        &[
            ("granted", http_section(&format!("{granted}/hello"), std::slice::from_ref(&granted))),
            ("missing", http_section(&format!("{granted}/no-such"), std::slice::from_ref(&granted))),
            ("other-port", http_section(&format!("{denied}/hello"), std::slice::from_ref(&granted))),
            ("other-name", http_section(&format!("http://localhost:{port}/hello"), std::slice::from_ref(&granted))),
            ("other-scheme", http_section(&format!("https://127.0.0.1:{port}/hello"), std::slice::from_ref(&granted))),
            ("nothing", http_section(&format!("{granted}/hello"), &[])),
            ("redirect", http_section(&format!("{granted}/redirect?{denied}/hello"), std::slice::from_ref(&granted))),
        ],
    );
    assert_eq!(outcome(&host, "granted"), Ok(200.005));
    assert_eq!(outcome(&host, "missing"), Ok(404.0));
    assert_eq!(outcome(&host, "redirect"), Ok(302.0), "an answer like any other");
    for name in ["other-port", "other-name", "other-scheme", "nothing"] {
        let reason = outcome(&host, name).unwrap_err();
        assert!(reason.starts_with("get: denied: "), "{name}: {reason}");
        assert!(reason.contains("is not granted; add http = [\"http"), "{name}: {reason}");
    }
    assert_eq!(host.plugin("other-port")["missing"], json!([format!("http {denied}")]));
    assert_eq!(host.plugin("granted")["grants"]["http"], json!([granted]));
}

#[test]
fn a_rule_limits_requests_to_its_methods_and_paths() {
    let server = TestServer::start();
    let origin = server.origin();
    let rule =
        |methods: &str, path: &str| format!("{{ origin = '{origin}', methods = [{methods}], paths = ['{path}'] }}");
    let section = |rule: &str| {
        format!("limits = {{ cpu = '1s' }}\nconfig = {{ get = '{origin}/hello' }}\ngrants = {{ http = [{rule}] }}")
    };
    let host = host_with_sections(
        "get",
        &[
            ("allowed", section(&rule("'GET'", "/hel*"))),
            ("as-text", section(&format!("'GET {origin} /hello'"))),
            ("other-path", section(&rule("'GET'", "/hello/**"))),
            ("other-method", section(&rule("'HEAD', 'POST'", "/**"))),
        ],
    );
    assert_eq!(outcome(&host, "allowed"), Ok(200.005));
    assert_eq!(outcome(&host, "as-text"), Ok(200.005));
    for name in ["other-path", "other-method"] {
        let expected = format!(
            "get: denied: GET {origin}/hello is not granted: the grants of {origin} have other methods and paths"
        );
        assert_eq!(outcome(&host, name), Err(expected), "{name}");
    }
    assert_eq!(host.plugin("as-text")["grants"]["http"], json!([format!("GET {origin} /hello")]));
}

#[test]
fn a_plugin_that_may_list_containers_cannot_start_one() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let server = SocketServer::start(&socket);
    let rule = format!(
        "{{ origin = 'unix:{}', as = 'docker', methods = ['GET'], paths = ['/v1.*/containers/**'] }}",
        socket.display()
    );
    let section = format!(
        "limits = {{ cpu = '1s', deadline = '20s' }}\nconfig = {{ raid = 'docker.unix' }}\ngrants = {{ http = [{rule}] }}"
    );
    let host = host_with_sections("raid", &[("raider", section)]);
    assert_eq!(outcome(&host, "raider"), Ok(200.0));
    for head in server.heads() {
        let line = head.lines().next().unwrap_or_default().replace("?all=true", "");
        assert_eq!(line, "GET /v1.41/containers/json HTTP/1.1", "{head}");
        let head = head.to_lowercase();
        assert!(!head.contains("upgrade") && !head.contains("override") && !head.contains("x-original"), "{head}");
    }
}

#[test]
fn a_request_with_a_header_and_a_large_body_arrives_whole() {
    let server = TestServer::start();
    let section = format!(
        "limits = {{ cpu = '1s' }}\nconfig = {{ post = '{0}/echo' }}\ngrants = {{ http = ['POST {0} /echo'] }}",
        server.origin()
    );
    let host = host_with_sections("post", &[("poster", section)]);
    assert_eq!(outcome(&host, "poster"), Ok(300_000.0), "the bytes of the body");
}

#[test]
fn https_requests_of_plugins_fail_unless_this_machine_trusts_the_certificate() {
    let ((trusted, certificate), (stranger, _)) = (TestServer::start_secure(), TestServer::start_secure());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusted.pem");
    std::fs::write(&file, certificate).unwrap();
    let section = |server: &TestServer, name: &str| {
        let origin = format!("https://{name}:{}", server.address.port());
        http_section(&format!("{origin}/"), &[origin])
    };
    let sections = [
        ("trusted", section(&trusted, "127.0.0.1")),
        ("by-name", section(&trusted, "localhost")),
        ("stranger", section(&stranger, "127.0.0.1")),
        ("plain", section(&TestServer::start(), "127.0.0.1")),
    ];
    let mut command = dropsonde();
    command.env("SSL_CERT_FILE", &file);
    let host = host_with_sections_as(command, "get", &sections);
    assert_eq!(outcome(&host, "trusted"), Ok(200.006));
    assert_eq!(outcome(&host, "by-name"), Ok(200.006));
    for name in ["stranger", "plain"] {
        let reason = outcome(&host, name).unwrap_err();
        assert!(reason.contains("TLS failed"), "{name}: {reason}");
    }
}

#[test]
fn a_name_that_resolves_to_loopback_is_denied_unless_that_network_is_granted() {
    let server = TestServer::start();
    // No literal address to us, and the resolver makes 127.0.0.1 of it: as a rebound name would.
    let inside = format!("http://127.1:{}", server.address.port());
    let host = host_with_sections(
        "get",
        &[
            ("rebound", http_section(&format!("{inside}/hello"), std::slice::from_ref(&inside))),
            ("granted", http_section(&format!("{inside}/hello"), &[inside.clone(), "127.0.0.0/8".to_owned()])),
        ],
    );
    let reason = outcome(&host, "rebound").unwrap_err();
    let expected = format!(
        "get: denied: {inside} is granted, but its name resolves to 127.0.0.1, which is not on the internet; add its \
         network, such as http = [\"127.0.0.1/32\"]"
    );
    assert_eq!(reason, expected);
    assert_eq!(outcome(&host, "granted"), Ok(200.005));
}

#[test]
fn http_responses_that_never_end_or_are_too_large_fail_with_a_reason() {
    let server = TestServer::start();
    let paths = ["silent", "drip", "endless", "headers", "nonsense"];
    let sections = paths.map(|path| (path, http_section(&format!("{}/{path}", server.origin()), &[server.origin()])));
    let mut sections: Vec<_> = sections.into();
    sections.push(("hello", http_section(&format!("{}/hello", server.origin()), &[server.origin()])));
    let host = host_with_sections("get", &sections);
    for (path, expected) in [
        ("silent", "no answer in time"),
        ("drip", "no answer in time"),
        ("endless", "the response is larger than the host accepts"),
        ("headers", "the response is not valid HTTP"),
        ("nonsense", "the response is not valid HTTP"),
    ] {
        host.until(&format!("/v1/plugins/{path}"), |page| {
            reason(page).is_some_and(|reason| reason.starts_with("get: unavailable: ") && reason.contains(expected))
        });
    }
    assert_eq!(outcome(&host, "hello"), Ok(200.005));
}

#[test]
fn an_environment_variable_is_visible_only_when_granted() {
    let section = |granted: &str| format!("config = {{ env = 'PATH' }}\ngrants = {{ env = [{granted}] }}");
    let host = host_with_sections("env", &[("granted", section("'PATH', 'NO_SUCH'")), ("not", section("'HOME'"))]);
    assert_eq!(outcome(&host, "granted"), Ok(std::env::var("PATH").unwrap().len() as f64));
    assert!(outcome(&host, "not").unwrap_err().contains("it is not there"));
    assert_eq!(host.plugin("not")["missing"], json!(["env PATH"]));
    assert!(!host.get("/v1/plugins").body.contains(&std::env::var("PATH").unwrap()), "its value is shown to nobody");
}

#[test]
fn files_outside_the_grant_are_denied_whichever_path_or_link_leads_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    std::fs::create_dir(root.join("granted")).unwrap();
    std::fs::write(root.join("granted/file"), "12345").unwrap();
    std::fs::write(root.join("secret"), "secret").unwrap();
    let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, root.join("granted").join(name)).unwrap();
    link(&root.join("secret"), "out");
    link(&root, "up");
    link(Path::new("/proc/self/root"), "root");
    link(Path::new("file"), "in");
    let secret = root.join("secret");
    let tricks = [
        ("out", "granted/out".to_owned()),
        ("up", "granted/up/secret".to_owned()),
        ("dots", "granted/../secret".to_owned()),
        ("root", format!("granted/root{}", secret.display())),
        ("slash", "granted/file/".to_owned()),
        ("beside", "secret".to_owned()),
    ];
    let section = |path: &str| {
        let path = root.join(path);
        format!("config = {{ read = '{}' }}\ngrants = {{ read = ['{}/granted/**'] }}", path.display(), root.display())
    };
    let mut sections: Vec<_> = tricks.iter().map(|(name, path)| (*name, section(path))).collect();
    sections.push(("file", section("granted/file")));
    sections.push(("inside", section("granted/in")));
    let proc = |path: &str| format!("config = {{ read = '{path}' }}\ngrants = {{ read = ['/proc/**'] }}");
    sections.push(("proc-root", proc("/proc/self/root/etc/hostname")));
    sections.push(("proc-cwd", proc("/proc/1/cwd/etc/hostname")));
    sections.push(("proc-fd", proc("/proc/self/fd/0")));
    let host = host_with_sections("read", &sections);
    assert_eq!(outcome(&host, "file"), Ok(5.0));
    assert_eq!(outcome(&host, "inside"), Ok(5.0));
    for name in ["out", "up", "dots", "root", "slash", "beside", "proc-root", "proc-cwd", "proc-fd"] {
        let reason = outcome(&host, name).unwrap_err();
        let refused = reason.contains("denied") || reason.contains("not of the kind");
        assert!(refused && reason.starts_with("read: "), "{name}: {reason}");
    }
}

#[test]
fn a_granted_directory_is_read_only_through_wasi_and_no_path_leads_out_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let granted = root.join("granted");
    std::fs::create_dir(&granted).unwrap();
    for name in ["file", "other"] {
        std::fs::write(granted.join(name), "12345").unwrap();
    }
    std::fs::write(root.join("secret"), "secret").unwrap();
    for (to, name) in [(root.join("secret"), "out"), (root.clone(), "up"), ("/proc/self/root".into(), "root")] {
        std::os::unix::fs::symlink(to, granted.join(name)).unwrap();
    }
    let section =
        |dirs: &str| format!("config = {{ walk = '{0}' }}\ngrants = {{ dirs = [{dirs}] }}", granted.display());
    let host = host_with_sections(
        "walk",
        &[("granted", section(&format!("'{}', '/no/such/folder'", granted.display()))), ("not", section(""))],
    );
    assert_eq!(outcome(&host, "granted"), Ok(2.0));
    assert_eq!(outcome(&host, "not"), Ok(0.0), "there are no folders at all");
    assert_eq!(host.plugin("not")["missing"], json!([format!("dir {}", granted.display())]));
    assert!(host.until_logged("cannot open a granted directory").contains("/no/such/folder"));
    assert!(granted.join("file").exists() && !granted.join("new").exists());
}
