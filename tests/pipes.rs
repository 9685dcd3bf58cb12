//! Commands whose output pipe is closed early, as by `dropsonde range host | head -1`.

use crate::harness::{Host, dropsonde, verbs};
use std::fs;
use std::io::pipe;
use std::process::{Command, Stdio};

/// Returns the writing end of a pipe whose reader has gone.
fn closed_pipe() -> Stdio {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Runs a command whose standard output is closed: it must succeed without an error message.
fn assert_succeeds_without_stdout(mut command: Command) {
    let ended = command.stdout(closed_pipe()).output().unwrap();
    let errors = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{command:?}: {errors}");
    assert!(!errors.contains("panicked") && !errors.contains("error:"), "{command:?}: {errors}");
}

/// Runs a command whose standard output and standard error are closed.
fn assert_succeeds_without_output(mut command: Command) {
    let ended = command.stdout(closed_pipe()).stderr(closed_pipe()).status().unwrap();
    assert_eq!(ended.code(), Some(0), "{command:?}");
}

#[test]
fn client_commands_succeed_when_their_output_pipe_is_closed() {
    let config =
        "poll.interval = '100ms'\nstore.flush_interval = '50ms'\n[[instances]]\nid = 'ok'\nsamplers = ['verbs']\n";
    let host = Host::start(config, &[("verbs", verbs())]);
    host.until("/v1/instances/host/usage", |usage| usage.status == 200 && usage.json()["cpu_percent"].is_number());
    host.until("/v1/plugins/verbs", |page| page.status == 200 && page.json()["state"] == "running");
    let data = host.data();
    let ask = |args: &str| {
        let mut command = dropsonde();
        command.args(args.split(' ')).args(["--url", &host.url(), "--data"]).arg(&data);
        command
    };
    for args in [
        "instances",
        "instances --json",
        "latest host",
        "latest host --json",
        "range host",
        "range host --json",
        "range host --field memory_used_mb",
        "watch host",
        "watch host --json",
        "plugin list",
        "plugin list --json",
        "plugin show verbs",
        "plugin show verbs --json",
        "plugin reload verbs",
    ] {
        assert_succeeds_without_stdout(ask(args));
        assert_succeeds_without_output(ask(args));
    }
    for args in ["stats", "stats --json", "verify", "verify --json", "export", "export --format openmetrics"] {
        let look = || {
            let mut command = dropsonde();
            command.arg("store").args(args.split(' ')).arg("--data").arg(&data);
            command
        };
        assert_succeeds_without_stdout(look());
        assert_succeeds_without_output(look());
    }
    // These can be done once.
    for args in ["plugin quarantine verbs", "plugin release verbs"] {
        assert_succeeds_without_stdout(ask(args));
    }
    for args in ["plugin quarantine verbs", "plugin release verbs", "plugin remove verbs"] {
        assert_succeeds_without_output(ask(args));
    }
    let again = ask("plugin remove verbs").stdout(closed_pipe()).stderr(closed_pipe()).status().unwrap();
    assert_eq!(again.code(), Some(1), "a failure is one, whether anybody hears of it or not");
}

#[test]
fn offline_commands_succeed_when_their_output_pipe_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("verbs.wasm"), verbs()).unwrap();
    let run = |args: &str| {
        let mut command = dropsonde();
        command.args(args.split(' ')).current_dir(&folder);
        command
    };
    let recorded = run("plugin run verbs.wasm --instance ok --grant-all --record tests/now").output().unwrap();
    assert!(recorded.status.success(), "{recorded:?}");
    let commands = [
        "--help",
        "--version",
        "help range",
        "plugin --help",
        "serve --check --memory-only",
        "plugin check verbs.wasm",
        "plugin check verbs.wasm --json",
        "plugin check verbs.wasm --against verbs.wasm",
        "plugin run verbs.wasm --instance ok --grant-all",
        "plugin run verbs.wasm --instance ok --grant-all --json",
        "plugin bench verbs.wasm --instance ok --seconds 1",
        "plugin bench verbs.wasm --instance ok --seconds 1 --json",
        "plugin test --file verbs.wasm",
    ];
    let new = ["rust", "python", "js"].map(|language| format!("plugin new {language}-N --lang {language}"));
    let commands: Vec<&str> = commands.into_iter().chain(new.iter().map(String::as_str)).collect();
    std::thread::scope(|scope| {
        for some in commands.chunks(5) {
            let run = &run;
            scope.spawn(move || {
                for args in some {
                    assert_succeeds_without_stdout(run(&args.replace("-N", "-1")));
                    assert_succeeds_without_output(run(&args.replace("-N", "-2")));
                }
            });
        }
    });
}

#[test]
fn a_host_keeps_serving_when_its_output_pipes_are_closed() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let url = format!("unix:{}", socket.display());
    let mut host = dropsonde()
        .args(["serve", "--memory-only", "--log-level", "trace", "--listen", &url])
        .stdout(closed_pipe())
        .stderr(closed_pipe())
        .spawn()
        .unwrap();
    // Each request is a line of its log.
    let mut answers = 0;
    while answers < 3 {
        assert!(host.try_wait().unwrap().is_none(), "it ended");
        let asked = dropsonde().args(["instances", "--url", &url]).output().unwrap();
        answers += u32::from(asked.status.success());
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    host.kill().unwrap();
    host.wait().unwrap();
}
