//! The `store` commands, with and without a running host.

use crate::harness::{Host, dropsonde, prometheus_tool, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Starts a host, and waits for its first samples.
fn host_with_history() -> Host {
    let host = Host::start("poll.interval = '100ms'\nstore.flush_interval = '50ms'\n", &[]);
    host.until("/v1/instances/host/usage", |usage| usage.status == 200 && usage.json()["cpu_percent"].is_number());
    host
}

fn stopped_host_with_history() -> Host {
    let mut host = host_with_history();
    assert_eq!(host.stop(), 0, "{}", host.log());
    host
}

fn run_store_command(data: &Path, args: &[&str]) -> (i32, String, String) {
    run(dropsonde().arg("store").args(args).arg("--data").arg(data))
}

fn json(out: &str) -> serde_json::Value {
    serde_json::from_str(out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

fn newest_log_file(data: &Path) -> PathBuf {
    let files = fs::read_dir(data.join("history")).unwrap().map(|entry| entry.unwrap());
    let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("log-"));
    logs.map(|file| file.path()).max().expect("a log")
}

#[test]
fn store_stats_reports_rows_and_bytes_with_and_without_a_running_host() {
    let mut host = host_with_history();
    let (code, out, error) = run_store_command(&host.data(), &["stats", "--json"]);
    assert!(code == 0 && json(&out)["in_use"] == true, "{out}{error}");
    assert_eq!(host.stop(), 0, "{}", host.log());
    let (code, out, error) = run_store_command(&host.data(), &["stats", "--json"]);
    let stats = json(&out);
    assert_eq!((code, error.as_str()), (0, ""));
    assert_eq!((&stats["in_use"], &stats["damaged"]), (&false.into(), &0.into()));
    for what in ["/instances", "/rows", "/files/log/bytes"] {
        assert!(stats.pointer(what).is_some_and(|count| count.as_u64() > Some(0)), "{what} in {stats}");
    }
    let (code, out, _) = run_store_command(&host.data(), &["stats"]);
    assert!(code == 0 && out.contains("rows") && out.contains("in use     no"), "{out}");
}

#[test]
fn store_verify_accepts_intact_history_and_names_a_damaged_file() {
    let host = stopped_host_with_history();
    let (code, out, error) = run_store_command(&host.data(), &["verify"]);
    assert!(code == 0 && out.starts_with("read ") && error.is_empty(), "{out}{error}");

    let log = newest_log_file(&host.data());
    let name = log.file_name().unwrap().to_str().unwrap();
    let whole = fs::read(&log).unwrap();
    let mut damaged = whole.clone();
    damaged[100] ^= 1;
    fs::write(&log, damaged).unwrap();
    let (code, out, error) = run_store_command(&host.data(), &["verify"]);
    let first = out.lines().next().unwrap();
    assert!(code == 1 && first.starts_with(&format!("{name}: ")) && first.contains("not a record"), "{out}{error}");
    assert!(error.starts_with("error: ") && error.contains("damaged place"), "{error}");
    let (code, out, _) = run_store_command(&host.data(), &["verify", "--json"]);
    assert_eq!((code, &json(&out)["whole"], &json(&out)["damaged"][0]["file"]), (1, &false.into(), &name.into()));

    fs::write(&log, &whole[..whole.len() - 2]).unwrap();
    let (code, out, error) = run_store_command(&host.data(), &["verify"]);
    assert!(code == 0 && out.contains(name) && out.contains("harmless"), "{out}{error}");
}

#[test]
fn a_csv_export_has_one_line_per_value() {
    let host = stopped_host_with_history();
    let (code, out, error) = run_store_command(&host.data(), &["export", "--instance", "host"]);
    assert_eq!((code, error.as_str()), (0, ""));
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some("at,instance,sampler,field,value"));
    for field in ["cpu_percent", "memory_used_mb"] {
        assert!(out.contains(&format!("Z,host,procfs,{field},")), "{field} in {out}");
    }
    for line in lines {
        let [at, "host", "procfs", _, value] = line.split(',').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert!(at.ends_with('Z') && value.parse::<f64>().is_ok(), "{line}");
    }
    let (code, out, _) = run_store_command(&host.data(), &["export", "--until", "2001-02-03T04:05:06Z"]);
    assert_eq!((code, out.as_str()), (0, "at,instance,sampler,field,value\n"));
    let (code, out, _) = run_store_command(&host.data(), &["export", "--since", "981173106"]);
    assert!(code == 0 && out.lines().count() > 10, "{out}");
}

#[test]
fn promtool_imports_an_openmetrics_export() {
    let host = stopped_host_with_history();
    let (code, out, error) = run_store_command(&host.data(), &["export", "--format", "openmetrics"]);
    assert_eq!((code, error.as_str()), (0, ""));
    for line in [
        "# TYPE dropsonde_sample_cpu_seconds counter\n# UNIT dropsonde_sample_cpu_seconds seconds\n\
         dropsonde_sample_cpu_seconds_total{",
        "\ndropsonde_sample_cpu_seconds_total{kind=\"host\",id=\"host\",sampler=\"procfs\"} ",
        "# TYPE dropsonde_sample_memory_used_bytes gauge\n# UNIT dropsonde_sample_memory_used_bytes bytes\n\
         dropsonde_sample_memory_used_bytes{",
    ] {
        assert!(out.contains(line), "{line} in {out}");
    }
    assert!(out.ends_with("\n# EOF\n"));
    let folder = tempfile::tempdir().unwrap();
    let (file, blocks) = (folder.path().join("export"), folder.path().join("blocks"));
    fs::write(&file, &out).unwrap();
    let import = ["tsdb", "create-blocks-from", "openmetrics"];
    let (code, _, error) = run(prometheus_tool("promtool").args(import).arg(&file).arg(&blocks));
    assert_eq!(code, 0, "promtool: `cargo dev setup` unpacks it: {error}");
    // What dumps looks for it.
    fs::create_dir(blocks.join("wal")).unwrap();
    let (code, dump, error) = run(prometheus_tool("promtool").args(["tsdb", "dump"]).arg(&blocks));
    let samples = out.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!((code, dump.lines().count()), (0, samples), "{error}");
}

#[test]
fn an_openmetrics_export_has_the_same_labels_as_the_metrics() {
    let mut host = Host::start("poll.interval = '100ms'\nlabels = { site = 'fra1' }\n", &[]);
    let series = "dropsonde_sample_load_1m{kind=\"host\",site=\"fra1\",id=\"host\",sampler=\"procfs\"} ";
    host.until("/metrics", |metrics| metrics.body.contains(series));
    assert_eq!(host.stop(), 0);
    let export = ["export", "--format", "openmetrics", "--instance", "host"];
    let (code, out, error) = run_store_command(&host.data(), &export);
    assert!(code == 0 && out.contains(&format!("\n{series}")), "{error}{out}");
    host.configure("poll.interval = '100ms'\nlabels = { site = 'ams2' }\n");
    let mut host = host.start_again();
    host.until("/ready", |ready| ready.status == 200);
    assert_eq!(host.stop(), 0);
    let (_, out, _) = run_store_command(&host.data(), &export);
    assert!(
        out.contains("\ndropsonde_sample_load_1m{kind=\"host\",site=\"ams2\",id=\"host\",sampler=\"procfs\"} "),
        "{out}"
    );
}

#[test]
fn store_commands_name_missing_folders_and_invalid_options() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["stats", "verify", "export"] {
        let (code, out, error) = run_store_command(folder.path(), &[command]);
        let says = error.contains(folder.path().to_str().unwrap()) && error.contains("--data");
        assert!(code == 1 && out.is_empty() && says, "{command}: {error}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
    let host = stopped_host_with_history();
    let (code, _, error) = run_store_command(&host.data(), &["export", "--instance", "nobody"]);
    assert!(code == 1 && error.contains("nobody"), "{error}");
    for wrong in [
        &["--since", "yesterday"][..],
        &["--since", "200", "--until", "100"],
        &["--instance", "a/b"],
        &["--format", "xml"],
    ] {
        let (code, out, error) = run_store_command(&host.data(), &[&["export"], wrong].concat());
        assert!(code == 2 && out.is_empty() && error.contains(wrong[0]), "{wrong:?}: {code} {error}");
    }
    let (code, ..) = run(dropsonde().arg("store"));
    assert_eq!(code, 2);
}

#[test]
fn store_commands_take_the_data_folder_from_the_configuration() {
    let host = stopped_host_with_history();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dropsonde.toml");
    fs::write(&file, format!("data_dir = {:?}\n", host.data().to_str().unwrap())).unwrap();
    let (code, out, error) = run(dropsonde().args(["store", "stats", "--config"]).arg(&file));
    assert!(code == 0 && out.contains(host.data().to_str().unwrap()), "{out}{error}");
}

#[test]
fn store_export_succeeds_when_its_output_pipe_is_closed() {
    let host = stopped_host_with_history();
    let command =
        format!("{} store export --data {} | head -c 1", env!("CARGO_BIN_EXE_dropsonde"), host.data().display());
    let (code, out, error) = run(Command::new("bash").args(["-o", "pipefail", "-c", &command]));
    assert_eq!((code, out.as_str(), error.as_str()), (0, "a", ""));
}
