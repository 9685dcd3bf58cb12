use crate::harness::{Host, dropsonde, run, verbs};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn sigterm_and_sigint_end_streams_and_stop_the_host_with_exit_code_0() {
    for signal in ["TERM", "INT"] {
        let mut host = Host::start("poll.interval = '100ms'\n", &[]);
        let mut stream = host.stream("/v1/instances/host/usage/stream");
        assert_eq!(stream.next_raw_event(), "retry: 3000\n\n");
        let start = Instant::now();
        host.signal(signal);
        while stream.next().is_some() {}
        assert_eq!(host.stop(), 0, "{}", host.log());
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn a_host_stops_within_seconds_during_an_endless_plugin_call() {
    let config = "[[instances]]\nid = 'spin'\nsamplers = ['verbs']\n[plugins.verbs]\ninterval = '3600s'\n\
                  limits = { cpu = '3600s', deadline = '3600s' }\n[poll]\ntimeout = '3600s'\n";
    let mut host = Host::start(config, &[("verbs", verbs())]);
    host.until("/v1/plugins/verbs", |page| page.json()["instances"] == 1);
    let start = Instant::now();
    assert_eq!(host.stop(), 0);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn saved_plugin_state_survives_a_restart() {
    let config = "poll.interval = '100ms'\n[[instances]]\nid = 'remember'\nsamplers = ['verbs']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    let value = |usage: &crate::harness::Response| usage.json()["value"].as_u64().unwrap_or(0);
    host.until("/v1/instances/remember/usage", |usage| value(usage) >= 3);
    let host = host.restart();
    let before = value(&host.get("/v1/instances/remember/usage"));
    assert!(before >= 3, "history is there at once");
    let next = host.until("/v1/instances/remember/usage", |usage| value(usage) != before);
    assert!(value(&next) > before, "{next:?}");
}

#[test]
fn saved_plugin_state_that_cannot_be_written_is_retried_until_it_can() {
    let host = Host::start("poll.interval = '100ms'\n", &[("verbs", verbs())]);
    host.until("/v1/plugins/verbs", |page| page.json()["state"] == "running");
    // Where the file should be there is a folder with something in it.
    let file = host.data().join("state/verbs");
    std::fs::create_dir_all(file.join("inside")).unwrap();
    // It saves the first time, and never again.
    assert_eq!(host.send_as_writer("PUT", "/v1/instances/once", r#"{"samplers":["verbs"]}"#).status, 200);
    host.until_logged("cannot write the plugin's state to disk; retrying");
    host.until("/v1/instances/once/usage", |usage| usage.status == 200);
    std::fs::remove_dir_all(&file).unwrap();
    host.until("/v1/plugins/verbs", |_| file.is_file());
    assert_eq!(std::fs::read(&file).unwrap(), [1]);
    let log = host.until_logged("works again");
    assert_eq!(log.lines().filter(|line| line.contains("state to disk; retrying")).count(), 1, "{log}");
}

#[test]
fn the_compile_cache_is_private_and_corrupt_entries_are_compiled_again() {
    use std::os::unix::fs::PermissionsExt;
    let host = Host::start_cold("", &[]);
    host.until("/ready", |ready| ready.status == 200);
    let folder = host.data().join("compiled");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let code: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cwasm"))
        .collect();
    let [code, _] = code.as_slice() else { panic!("two come with the binary, a file each: {code:?}") };
    assert_eq!(mode(code), 0o600);
    let mut bytes = std::fs::read(code).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(code, bytes).unwrap();
    let host = host.restart();
    host.until_logged("corrupt entry in the compile cache; compiling it again");
    host.until("/ready", |ready| ready.status == 200);
}

#[test]
fn a_memory_only_start_warns_when_history_is_shorter_than_retention() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dropsonde.toml");
    std::fs::write(&file, "poll.interval = '10s'\n[plugins.procfs]\ninterval = '1s'\n").unwrap();
    let mut host = dropsonde()
        .args(["serve", "--memory-only", "--listen", "127.0.0.1:0", "--config"])
        .arg(file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(host.stderr.take().unwrap()).lines().map_while(Result::ok);
    let said = lines.find(|line| line.contains("history in memory is shorter"));
    host.kill().unwrap();
    host.wait().unwrap();
    let said = said.expect("it is said");
    for part in ["interval=1s", "reach=16h 48m", "retention=7days", "store.retention_samples"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn memory_only_has_no_tokens_and_creates_no_files() {
    let home = tempfile::tempdir().unwrap();
    let mut child = dropsonde()
        .args(["serve", "--memory-only", "--listen", "127.0.0.1:0"])
        .env("HOME", home.path())
        .env("XDG_STATE_HOME", home.path())
        .current_dir(home.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap();
    let mut stream = crate::harness::stream(address, "/v1/instances/host/usage/stream", "");
    assert!(stream.next_sample()["memory_used_mb"].is_number(), "it compiled, and it samples");
    let refused = crate::harness::request(address, "PUT", "/v1/instances/x", "Authorization: Bearer x\r\n");
    assert!(refused.status == 403 && refused.body.contains("--memory-only"), "there is no token: {refused:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_start_with_an_unusable_setting_fails_and_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dropsonde.toml");
    let host = Host::start("", &[]);
    let with = |config: &str, args: &[&str]| {
        std::fs::write(&file, config).unwrap();
        run(dropsonde().args(["serve", "--memory-only", "--config"]).arg(&file).args(args))
    };
    let (code, _, error) = with("", &["--listen", &host.address]);
    assert!(code == 1 && error.contains("is taken") && error.contains("--listen"), "{error}");
    let (code, _, error) = with("listen = '127.0.0.1:0'\n[poll]\nintervall = '1s'\n", &["--check"]);
    assert!(code == 1 && error.contains("line 3") && error.contains("dropsonde.toml"), "{error}");
    let (code, out, _) = with("poll.interval = '1s'\n", &["--check", "--listen", "127.0.0.1:0"]);
    assert_eq!((code, out.as_str()), (0, "the configuration is fine\n"));
    let (code, _, error) = with("", &["--listen", "0.0.0.0:0"]);
    assert!(code == 1 && error.contains("loopback"), "{error}");
    let (code, _, error) = with("", &["--plugins", "/no/such/folder"]);
    assert!(code == 1 && error.contains("/no/such/folder"), "{error}");
    let (code, _, error) = run(dropsonde().args(["serve", "--listen", "nonsense"]));
    assert!(code == 2 && error.contains("--listen"), "{error}");
}
