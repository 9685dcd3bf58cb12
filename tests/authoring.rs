use crate::harness::{Host, dropsonde, run, workspace};
use std::fs;

/// The README's sampler: its `Cargo.toml`, its `src/lib.rs`, and the configuration it is run with.
fn readme_sampler() -> [String; 3] {
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let section = readme.split("## Write your own sampler").nth(1).expect("the README says how to write a sampler");
    let block = |language: &str, nth: usize| {
        let begin = format!("```{language}\n");
        section.split(&begin).nth(nth).and_then(|rest| rest.split("```").next()).unwrap().to_owned()
    };
    [block("toml", 1), block("rust", 1), block("toml", 2)]
}

#[test]
fn the_readmes_sampler_builds_checks_runs_and_measures() {
    let folder = tempfile::tempdir().unwrap();
    let [manifest, code, config] = readme_sampler();
    assert!(code.lines().filter(|line| !line.trim().is_empty()).count() <= 15, "short enough to read at once");
    let sdk = workspace().join("guest-sdk");
    let manifest = manifest.replace("../dropsonde/guest-sdk", sdk.to_str().unwrap());
    let plugin = folder.path().join("load");
    fs::create_dir_all(plugin.join("src")).unwrap();
    fs::write(plugin.join("Cargo.toml"), manifest).unwrap();
    fs::write(plugin.join("src/lib.rs"), code).unwrap();
    // The versions this workspace was tested with, so that nothing has to be looked up.
    fs::copy(workspace().join("Cargo.lock"), plugin.join("Cargo.lock")).unwrap();

    let target = dropsonde_builder::Crate::at(&workspace().join("host")).unwrap().target_dir().to_owned();
    let mut build = dropsonde();
    // A place of its own that stays: a crate outside the workspace does not share what was built inside.
    build.env("CARGO_TARGET_DIR", target.join("authoring"));
    build.env("DROPSONDE_WASM_TOOLCHAIN", target.join("wasm-toolchain"));
    let (code, out, error) = run(build.args(["plugin", "build"]).arg(&plugin));
    assert!(code == 0 && out.contains("built in"), "{out}{error}");
    let component = plugin.join("load.wasm");

    let (code, out, error) = run(dropsonde().args(["plugin", "check"]).arg(&component));
    assert!(code == 0 && out.contains("dropsonde:plugin/files@0.1.0"), "{out}{error}");

    let arguments = ["plugin", "run", "--instance", "host", "--read", "/proc/loadavg"];
    let (code, out, error) = run(dropsonde().args(arguments).arg(&component));
    assert!(code == 0 && out.contains("load_avg_1m"), "{out}{error}");

    let config = format!("poll.interval = '100ms'\n{config}");
    let host = Host::start(&config, &[("load", &fs::read(&component).unwrap())]);
    let usage = host.until("/v1/instances/host/usage", |usage| {
        usage.status == 200 && usage.json()["load_avg_1m"].is_number() && usage.json()["memory_used_mb"].is_number()
    });
    assert!(usage.json()["load_avg_1m"].as_f64().unwrap() >= 0.0, "beside the bundled sampler's fields: {usage:?}");
}

#[test]
fn a_folder_without_a_crate_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, error) = run(dropsonde().args(["plugin", "build"]).arg(folder.path()));
    assert!(code == 1 && error.contains("Cargo.toml is missing"), "{error}");
}
