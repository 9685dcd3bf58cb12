//! Tests how the configuration is found and shown, and `dropsonde doctor`.

use crate::harness::{Host, dropsonde, run, wait_until};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// Returns a command for the binary by a user who is not root, with all folders of a user below `home`.
fn as_user(home: &Path) -> Command {
    fs::set_permissions(home, PermissionsExt::from_mode(0o777)).unwrap();
    let binary = dropsonde();
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(binary.get_program());
        command
    } else {
        binary
    };
    command.env("XDG_CONFIG_HOME", home.join("config")).env("XDG_STATE_HOME", home.join("state"));
    command
}

#[test]
fn without_config_the_users_file_is_read_and_followed_from_when_it_appears() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("config/dropsonde/dropsonde.toml");
    let mut command = as_user(home.path());
    command.arg("serve");
    let host = Host::start_by(command);
    host.until_logged(&format!("configuration=\"defaults, until there is {}\"", file.display()));
    let data = home.path().join("state/dropsonde");
    host.until_logged(&format!("data=\"{}\"", data.display()));
    host.until_logged(&format!("admin_token=\"{}\"", data.join("admin.token").display()));
    let labels = || host.get("/v1/instances/host").json()["labels"]["site"].clone();
    host.until("/v1/instances/host", |instance| instance.status == 200);
    assert_eq!(labels(), Value::Null);

    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "labels = { site = 'fra1' }\n").unwrap();
    wait_until("the file that appeared is not read", || labels() == "fra1");
    let (code, shown, _) = run(as_user(home.path()).args(["serve", "--print-config"]));
    assert!(code == 0 && shown.contains(&format!("# From {}", file.display())), "{shown}");
    assert!(shown.contains("site = \"fra1\""), "{shown}");
    // Other commands read it too.
    fs::write(&file, "listen = '127.0.0.1:1'\n").unwrap();
    let (code, _, error) = run(as_user(home.path()).arg("instances"));
    assert!(code == 1 && error.contains("127.0.0.1:1"), "{error}");
}

#[test]
fn config_prints_every_key_as_a_file_that_sets_nothing_and_single_keys_by_name() {
    let folder = TempDir::new().unwrap();
    let (code, all, _) = run(dropsonde().arg("config"));
    assert!(code == 0 && all.contains("\n#retention = \"7d\"\n") && all.contains("\n#[[remote_write]]\n"), "{all}");
    let file = folder.path().join("dropsonde.toml");
    fs::write(&file, all).unwrap();
    let mut check = dropsonde();
    check.args(["serve", "--check", "--listen", "127.0.0.1:0", "--data"]).arg(folder.path().join("data"));
    let (code, out, error) = run(check.arg("--config").arg(file));
    assert_eq!(code, 0, "{out}{error}");

    let (_, one, _) = run(dropsonde().args(["config", "store.retention"]));
    assert!(one.contains("[store]") && one.contains("#retention = \"7d\"") && !one.contains("max_disk"), "{one}");
    let (_, json, _) = run(dropsonde().args(["config", "retention", "--json"]));
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json[0]["key"], &json[0]["restart"]), (&"store.retention".into(), &true.into()));
    let (code, _, error) = run(dropsonde().args(["config", "retentoin"]));
    assert!(code == 1 && error.contains("did you mean retention?"), "{error}");
}

#[test]
fn print_config_shows_the_file_flags_and_defaults_but_no_secret() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("dropsonde.toml");
    let text = "[store]\nretention = '30d'\n[[remote_write]]\nurl = 'http://v/w'\nheaders = { X-Key = 's3cret' }\n";
    fs::write(&file, text).unwrap();
    let mut print = dropsonde();
    print.args(["serve", "--print-config", "--listen", "127.0.0.1:9191", "--data", "/d", "--config"]);
    let (code, shown, error) = run(print.arg(&file));
    assert_eq!(code, 0, "{error}");
    let shown_now: toml::Table = shown.parse().unwrap();
    let at = |section: &str, key: &str| shown_now[section][key].as_str().unwrap().to_owned();
    assert_eq!((at("store", "retention"), at("store", "flush_interval")), ("30d".to_owned(), "1s".to_owned()));
    assert_eq!((&shown_now["listen"], &shown_now["data_dir"]), (&"127.0.0.1:9191".into(), &"/d".into()));
    assert_eq!(at("auth", "admin_token_file"), "/d/admin.token");
    assert!(!shown.contains("s3cret"), "{shown}");
}

#[test]
fn the_doctor_finds_nothing_wrong_with_a_healthy_host_and_names_what_is_wrong_with_another() {
    let host = Host::start("", &[]);
    host.until("/ready", |ready| ready.status == 200);
    let examine = |config: &Path, data: &Path| {
        let mut doctor = dropsonde();
        doctor.args(["doctor", "--json", "--url", &format!("http://{}", host.address), "--config"]).arg(config);
        let (code, out, error) = run(doctor.arg("--data").arg(data));
        let findings: Vec<Value> = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{error}"));
        (code, findings, error)
    };
    let of = |findings: &[Value], what: &str, outcome: &str| -> Vec<String> {
        let is_meant = |finding: &&Value| finding["what"] == what && finding["outcome"] == outcome;
        findings.iter().filter(is_meant).map(|finding| finding["text"].as_str().unwrap().to_owned()).collect()
    };
    let (code, findings, error) = examine(&host.folder().join("dropsonde.toml"), &host.data());
    assert_eq!(code, 0, "{findings:#?}{error}");
    assert_eq!(of(&findings, "host", "ok"), ["healthy"]);

    let broken = TempDir::new().unwrap();
    let file = broken.path().join("dropsonde.toml");
    let plugins = broken.path().join("data/plugins");
    fs::create_dir_all(&plugins).unwrap();
    fs::write(plugins.join("mine.wasm"), "no component").unwrap();
    fs::write(&file, "rules = ['missing.yml']\n[tls]\ncert = '/nowhere'\nkey = '/nowhere'\n[poll]\ninterval = '5s'\n")
        .unwrap();
    let (code, findings, error) = examine(&file, &broken.path().join("data"));
    assert!(code == 1 && error.contains("things are wrong"), "{error}");
    assert!(of(&findings, "certificates", "WRONG").concat().contains("/nowhere"), "{findings:#?}");
    assert!(of(&findings, "plugins", "WRONG").concat().contains("mine"), "{findings:#?}");
    fs::write(&file, "[pol]\n").unwrap();
    let (code, findings, _) = examine(&file, &broken.path().join("data"));
    assert!(code == 1 && of(&findings, "configuration", "WRONG").concat().contains("line 1"), "{findings:#?}");
}

#[test]
fn with_rootfs_plugins_measure_the_machine_whose_files_are_there() {
    let folder = TempDir::new().unwrap();
    let proc = folder.path().join("proc");
    fs::create_dir(&proc).unwrap();
    for name in ["stat", "loadavg", "uptime", "diskstats", "mounts"] {
        fs::copy(Path::new("/proc").join(name), proc.join(name)).unwrap();
    }
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let rest = memory.split_once('\n').unwrap().1;
    fs::write(proc.join("meminfo"), format!("MemTotal:       123456789 kB\n{rest}")).unwrap();
    let mut command = dropsonde();
    command.args(["serve", "--rootfs"]).arg(folder.path());
    let host = Host::start_as(command, "", &[]);
    let usage = host.until_usage("host", |usage| usage["memory_limit_mb"].is_number());
    assert_eq!(usage["memory_limit_mb"].as_f64().unwrap().round(), 120_563.0, "{usage}");
}
