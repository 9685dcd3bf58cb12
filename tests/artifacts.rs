//! Plugins in registries: pushed, pulled, taken by a host, signed. The registry is Debian's docker-registry.

use crate::harness::{Host, Server, dropsonde, run, tool, verbs, verbs_version};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// Runs `dropsonde plugin …` in a folder. Returns the exit code, and all that it printed.
fn plugin(folder: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = dropsonde();
    command.env("DOCKER_CONFIG", folder).arg("plugin").args(arguments).current_dir(folder);
    let (code, out, error) = run(&mut command);
    (code, out + &error)
}

fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let (code, said) = plugin(folder, arguments);
    assert_eq!(code, 0, "{arguments:?}: {said}");
    said
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A folder with the guest as `verbs.wasm`.
fn folder_with_verbs() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("verbs.wasm"), verbs()).unwrap();
    folder
}

/// Pushes `verbs.wasm`, and returns the reference with the digest.
fn push(folder: &Path, registry: &Server, tag: &str) -> String {
    let reference = format!("{}/plugins/verbs:{tag}", registry.address);
    let said = succeed(folder, &["push", "verbs.wasm", &reference]);
    let pinned = said.split_whitespace().next().unwrap().to_owned();
    assert!(pinned.starts_with(&format!("{reference}@sha256:")), "{said}");
    pinned
}

#[test]
fn what_is_pushed_is_pulled_by_tag_and_by_digest_and_other_tools_read_it() {
    let (registry, folder) = (Server::registry(), folder_with_verbs());
    let pinned = push(folder.path(), &registry, "1");
    let tagged = pinned.split('@').next().unwrap();
    for reference in [tagged, &pinned] {
        let said = succeed(folder.path(), &["pull", reference, "--out", "pulled.wasm"]);
        assert!(said.contains("needs ") && said.contains(&format!("from = \"{pinned}\"")), "{said}");
        assert_eq!(fs::read(folder.path().join("pulled.wasm")).unwrap(), verbs());
    }
    // A second version is compared with the file that it replaces.
    fs::write(folder.path().join("verbs.wasm"), verbs_version(2)).unwrap();
    push(folder.path(), &registry, "2");
    let said = succeed(folder.path(), &["pull", &tagged.replace(":1", ":2"), "--out", "pulled.wasm"]);
    assert!(said.contains("against pulled"), "{said}");

    let mut inspect = tool("skopeo");
    inspect.args(["inspect", "--raw", "--tls-verify=false", &format!("docker://{tagged}")]);
    let (code, manifest, error) = run(&mut inspect);
    assert_eq!(code, 0, "{error}");
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["config"]["mediaType"], "application/vnd.wasm.config.v0+json");
    assert_eq!(manifest["layers"][0]["mediaType"], "application/wasm");
    assert_eq!(manifest["layers"][0]["digest"], format!("sha256:{}", sha256(verbs())));
}

#[test]
fn a_pull_says_what_is_wrong_and_leaves_the_file_as_it_was() {
    let (registry, folder) = (Server::registry(), folder_with_verbs());
    let pinned = push(folder.path(), &registry, "1");
    let here = registry.address.to_string();
    let (tagged, _) = pinned.split_once('@').unwrap();
    let other = format!("sha256:{}", "0".repeat(64));
    fs::write(folder.path().join("pulled.wasm"), "kept").unwrap();
    let wrong_sha256 = "0".repeat(64);
    for (arguments, why) in [
        (vec!["redis:1"], "the registry is missing"),
        (vec![&*format!("{here}/plugins/other:1")], "no such artifact"),
        (vec![&*format!("{tagged}@{other}")], "no such artifact"),
        (vec![tagged, "--sha256", &wrong_sha256], "--sha256 wants"),
        (vec![tagged, "--key", "nonsense"], "neither a public key"),
    ] {
        let arguments = [&["pull", "--out", "pulled.wasm"], &arguments[..]].concat();
        let (code, said) = plugin(folder.path(), &arguments);
        assert!(code != 0 && said.contains(why), "{arguments:?}: {said}");
        assert_eq!(fs::read_to_string(folder.path().join("pulled.wasm")).unwrap(), "kept");
    }
    fs::write(folder.path().join("text.wasm"), "no component").unwrap();
    let (code, said) = plugin(folder.path(), &["push", "text.wasm", &format!("{here}/plugins/text:1")]);
    assert!(code == 1 && said.contains("text.wasm"), "what no host would load is not pushed: {said}");
}

#[test]
fn a_host_pulls_what_its_configuration_pins_and_starts_without_the_registry_then() {
    let (registry, folder) = (Server::registry(), folder_with_verbs());
    let pinned = push(folder.path(), &registry, "1");
    let config = format!("poll.interval = '200ms'\n[plugins.verbs]\nfrom = '{pinned}'\nconfig.discover = ['ok']\n");
    let host = Host::start(&config, &[]);
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    assert_eq!(host.plugin("verbs")["digest"], sha256(verbs()));
    drop(registry);
    let host = host.restart();
    host.until("/v1/plugins/verbs", |page| page.json()["calls"].as_u64() > Some(0));
    assert!(!host.log().contains("cannot be pulled"), "{}", host.log());
}

#[test]
fn a_reload_with_another_pin_pulls_the_newer_version() {
    let (registry, folder) = (Server::registry(), folder_with_verbs());
    let first = push(folder.path(), &registry, "1");
    fs::write(folder.path().join("verbs.wasm"), verbs_version(2)).unwrap();
    let second = push(folder.path(), &registry, "2");
    let config = |from: &str, component: &[u8]| {
        let sha256 = sha256(component);
        format!(
            "poll.interval = '200ms'\n[plugins.verbs]\nfrom = '{from}'\nsha256 = '{sha256}'\nconfig.discover = ['ok']\n"
        )
    };
    let host = Host::start(&config(&first, verbs()), &[]);
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    host.configure(&config(&second, &verbs_version(2)));
    let reload = host.send_as_admin("POST", "/v1/reload", b"");
    assert!(reload.status == 200 && reload.body.contains("it is being pulled"), "{reload:?}");
    let newer = sha256(&verbs_version(2));
    host.until("/v1/plugins/verbs", |page| {
        page.json()["digest"] == newer.as_str() && page.json()["state"] == "running"
    });
}

#[test]
fn a_tag_alone_is_refused_unless_it_is_trusted_and_a_reload_pulls_too() {
    let (registry, folder) = (Server::registry(), folder_with_verbs());
    let pinned = push(folder.path(), &registry, "1");
    let tagged = pinned.split('@').next().unwrap();
    let section = format!("poll.interval = '200ms'\n[plugins.verbs]\nfrom = '{tagged}'\nconfig.discover = ['ok']\n");
    let host = Host::start("", &[]);
    host.configure(&section);
    let refused = host.send_as_admin("POST", "/v1/reload", b"");
    assert!(refused.body.contains("plugins.verbs.from") && refused.body.contains("--trust-tag"), "{refused:?}");
    // The sha256 of the component pins it as well.
    host.configure(&format!("{section}sha256 = '{}'\n", sha256(verbs())).replace("config.discover = ['ok']\n", ""));
    assert_eq!(host.send_as_admin("POST", "/v1/reload", b"").status, 200);
    host.until("/v1/plugins/verbs", |page| page.status == 200 && page.json()["state"] == "running");

    let mut trusting = dropsonde();
    trusting.args(["serve", "--trust-tag"]);
    let host = Host::start_as(trusting, &section, &[]);
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
}

#[test]
fn with_trusted_keys_only_signed_plugins_run_wherever_they_come_from() {
    let (registry, folder) = (Server::registry(), folder_with_verbs());
    let at = |name: &str| folder.path().join(name);
    for name in ["team", "other"] {
        let keys = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
        fs::write(at(&format!("{name}.key")), keys.sk.to_box(None).unwrap().into_string()).unwrap();
        fs::write(at(&format!("{name}.pub")), keys.pk.to_box().unwrap().into_string()).unwrap();
    }
    let unsigned = push(folder.path(), &registry, "unsigned");
    let (code, said) = plugin(folder.path(), &["verify", "verbs.wasm", "--key", "team.pub"]);
    assert!(code == 1 && said.contains("verbs.wasm.minisig is missing"), "{said}");
    succeed(folder.path(), &["sign", "verbs.wasm", "--key", "team.key"]);
    succeed(folder.path(), &["verify", "verbs.wasm", "--key", "team.pub"]);
    let (code, said) = plugin(folder.path(), &["verify", "verbs.wasm", "--key", "other.pub"]);
    assert!(code == 1 && said.contains("not by one of the trusted keys"), "{said}");

    let signed = push(folder.path(), &registry, "signed");
    succeed(folder.path(), &["pull", &signed, "--out", "pulled.wasm", "--key", "team.pub"]);
    succeed(folder.path(), &["verify", "pulled.wasm", "--key", "team.pub"]);
    for (reference, key) in [(&unsigned, "team.pub"), (&signed, "other.pub")] {
        let (code, said) = plugin(folder.path(), &["pull", reference, "--key", key]);
        assert!(code == 1 && said.contains("signed") | said.contains("trusted keys"), "{said}");
    }

    let key = fs::read_to_string(at("team.pub")).unwrap().lines().last().unwrap().to_owned();
    let config = |from: &str| {
        format!(
            "poll.interval = '200ms'\ntrusted_keys = ['{key}']\n[plugins.verbs]\nfrom = '{from}'\nconfig.discover = ['ok']\n"
        )
    };
    let host = Host::start(&config(&unsigned), &[("dropped", verbs())]);
    host.until_logged("it is not signed, and trusted_keys is set");
    host.until("/v1/plugins/dropped", |page| page.body.contains("dropped.wasm.minisig is missing"));
    let upload = host.send_as_admin("PUT", "/v1/plugins/uploaded", verbs());
    assert!(upload.status == 422 && upload.body.contains("must be signed by a trusted key"), "{upload:?}");
    assert_eq!(host.get("/v1/instances/ok").status, 404);
    host.reconfigure(&config(&signed));
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
}

#[test]
fn a_signed_version_that_ran_well_is_put_back_when_a_newer_file_does_not_run() {
    let keys = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let key = keys.pk.to_base64();
    let sign = |component: &[u8]| minisign::sign(None, &keys.sk, component, None, None).unwrap().into_string();
    let config =
        format!("poll.interval = '200ms'\ntrusted_keys = ['{key}']\n[plugins.verbs.config]\ndiscover = ['ok']\n");
    let mut host = Host::start(&config, &[]);
    let put = |host: &Host, component: &[u8], signature: &str| {
        fs::write(host.plugin_file("verbs").with_extension("wasm.minisig"), signature).unwrap();
        host.drop_in("verbs", component);
    };
    put(&host, verbs(), &sign(verbs()));
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
    host.until("/v1/plugins/verbs", |page| page.json()["calls"].as_u64() > Some(3));
    assert_eq!(host.stop(), 0);
    // Signed by nobody who is trusted.
    put(&host, &verbs_version(2), &sign(b"another"));
    let host = host.start_again();
    let page = host.until("/v1/plugins/verbs", |page| page.json()["restored"] == true).json();
    assert_eq!(page["digest"], sha256(verbs()), "{page}");
    host.until("/v1/instances/ok/usage", |usage| usage.status == 200);
}

/// A registry that wants a token and sends blobs from another server. It notes the heads of all requests.
struct StrictRegistry {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

/// An answer of a server: status, further headers, body.
type Made = (u16, String, Vec<u8>);

fn serve(answer: impl Fn(&str) -> Made + Send + Sync + 'static) -> StrictRegistry {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let noted = heads.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let head = head_of(&stream);
            noted.lock().unwrap().push(head.clone());
            let (status, headers, body) = answer(&head);
            let head = format!(
                "HTTP/1.1 {status} Made\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let mut stream = &stream;
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    StrictRegistry { address, heads }
}

fn head_of(stream: &TcpStream) -> String {
    let lines = BufReader::new(stream.take(64 << 10)).lines().map_while(Result::ok);
    lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join("\n").to_lowercase()
}

#[test]
fn a_password_is_sent_for_a_token_to_the_registry_alone_and_never_where_it_redirects() {
    let component = verbs().to_vec();
    let blob = component.clone();
    let elsewhere = serve(move |_| (200, String::new(), blob.clone()));
    let foreign = serve(|_| (200, String::new(), br#"{"token":"foreign"}"#.to_vec()));
    let config = b"{}".to_vec();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.wasm.config.v0+json","digest":"sha256:{}","size":2}},
           "layers":[{{"mediaType":"application/wasm","digest":"sha256:{}","size":{}}}]}}"#,
        sha256(&config),
        sha256(&component),
        component.len()
    );
    let (storage, tokens) = (elsewhere.address, foreign.address);
    let own = Arc::new(Mutex::new(String::new()));
    let address = own.clone();
    let registry = serve(move |head| {
        let own = address.lock().unwrap().clone();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let challenge = |realm: &str| {
            (
                401,
                format!("WWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:a:pull\"\r\n"),
                vec![],
            )
        };
        if path.starts_with("/token") {
            let knows = head.contains("authorization: basic dxnlcjpzm2nyzxq=");
            return (if knows { 200 } else { 401 }, String::new(), br#"{"token":"given"}"#.to_vec());
        }
        if path.starts_with("/v2/foreign/") {
            return challenge(&format!("http://{tokens}/token"));
        }
        if !head.contains("authorization: bearer given") {
            return challenge(&format!("http://{own}/token"));
        }
        if path.contains("/blobs/") {
            return (307, format!("Location: http://{storage}/blob\r\n"), vec![]);
        }
        (200, String::new(), manifest.clone().into_bytes())
    });
    *own.lock().unwrap() = registry.address.to_string();
    let folder = TempDir::new().unwrap();
    // user:s3cret
    let docker = format!(r#"{{"auths":{{"{}":{{"auth":"dXNlcjpzM2NyZXQ="}}}}}}"#, registry.address);
    fs::write(folder.path().join("config.json"), docker).unwrap();
    succeed(folder.path(), &["pull", &format!("{}/plugins/verbs:1", registry.address)]);
    assert_eq!(fs::read(folder.path().join("verbs.wasm")).unwrap(), component);
    let asked = elsewhere.heads.lock().unwrap().join("\n");
    assert!(asked.contains("get /blob") && !asked.contains("authorization"), "{asked}");

    let (code, _) = plugin(folder.path(), &["pull", &format!("{}/foreign/verbs:1", registry.address)]);
    assert_eq!(code, 1);
    let asked = foreign.heads.lock().unwrap().join("\n");
    assert!(asked.contains("/token") && !asked.contains("authorization"), "{asked}");
}

#[test]
fn a_registry_that_gives_other_bytes_or_too_many_is_refused() {
    let digest = sha256(b"component");
    let manifest = |size: u64| {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"sha256:{digest}","size":2}},
               "layers":[{{"mediaType":"application/wasm","digest":"sha256:{digest}","size":{size}}}]}}"#
        )
    };
    let (small, huge) = (manifest(9), manifest(1 << 40));
    let registry = serve(move |head| {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let body = match &*path {
            path if path.contains("/loop/") => return (307, format!("Location: {path}\r\n"), vec![]),
            path if path.contains("/blobs/") => b"different".to_vec(),
            path if path.contains("/huge/") => huge.clone().into_bytes(),
            _ => small.clone().into_bytes(),
        };
        (200, String::new(), body)
    });
    let folder = TempDir::new().unwrap();
    let pinned = format!("{}/a/b:1@sha256:{digest}", registry.address);
    for (reference, why) in [
        (format!("{}/a/b:1", registry.address), "has the digest sha256:"),
        (pinned, "gives a manifest with the digest"),
        (format!("{}/huge/b:1", registry.address), "at most"),
        (format!("{}/loop/b:1", registry.address), "redirects more than"),
    ] {
        let (code, said) = plugin(folder.path(), &["pull", &reference]);
        assert!(code == 1 && said.contains(why), "{reference}: {said}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}
