//! The README and the handbook: their links, configuration keys and configurations.

use crate::harness::{Host, dropsonde, run, verbs, workspace};
use dropsonde::config::{Config, ConfigChange};
use dropsonde_sandbox::Limits;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Longest README: a little more than one screen.
const README_LINES: usize = 150;

/// Longest page of the handbook.
const PAGE_LINES: usize = 200;

/// A row about a configuration key in the table of the handbook.
#[derive(Debug)]
struct ConfigurationRow {
    default: String,
    takes_restart: bool,
}

fn readme() -> PathBuf {
    workspace().join("README.md")
}

fn handbook() -> PathBuf {
    workspace().join("host/docs")
}

/// Returns the paths of the README and the handbook's pages.
fn pages() -> Vec<PathBuf> {
    let files = fs::read_dir(handbook()).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).chain([readme()]).collect()
}

/// Returns the lines outside of code blocks.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    page.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// Returns the code blocks of a language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let begin = format!("```{language}\n");
    let block = |rest: &str| rest.split("```").next().unwrap().to_owned();
    page.split(&begin).skip(1).map(block).collect()
}

/// Returns the targets of a page's links.
fn links(page: &str) -> Vec<String> {
    let targets = prose(page).flat_map(|line| line.split("](").skip(1));
    targets.map(|rest| rest.split(')').next().unwrap().to_owned()).collect()
}

/// Returns the anchors of a page's headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = prose(page).filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn every_link_leads_to_an_existing_file_and_heading() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').map_or((&*link, None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            let has_heading = |anchor| fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor));
            if !target.exists() || anchor.is_some_and(|anchor| !has_heading(anchor)) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_readme_is_short_and_links_every_page_and_each_page_begins_with_its_purpose() {
    let text = fs::read_to_string(readme()).unwrap();
    assert!(text.lines().count() <= README_LINES, "{} lines", text.lines().count());
    let named: BTreeSet<PathBuf> = links(&text).into_iter().map(|link| workspace().join(link)).collect();
    for page in pages().into_iter().filter(|page| *page != readme()) {
        assert!(named.contains(&page), "{} is not in the README", page.display());
        let text = fs::read_to_string(&page).unwrap();
        let mut lines = text.lines().filter(|line| !line.is_empty());
        assert!(lines.next().unwrap().starts_with("# ") && lines.next().unwrap().starts_with("This page "), "{page:?}");
        assert!(text.lines().count() <= PAGE_LINES, "{page:?}: {} lines", text.lines().count());
    }
}

/// Returns the error of `serve --check` about a configuration.
fn check_error(folder: &Path, config: &str) -> String {
    let file = folder.join("dropsonde.toml");
    fs::write(&file, config).unwrap();
    let (code, _, error) = run(dropsonde().args(["serve", "--check", "--config"]).arg(&file));
    assert_eq!(code, 1, "{config}: {error}");
    error
}

/// Returns the keys of a section, as the error about an unknown key lists them; `None` when it is no section or takes
/// any key.
fn keys_in_section(folder: &Path, section: &str) -> Option<Vec<String>> {
    let header = match section {
        "" => String::new(),
        section if section.ends_with("[]") => format!("[[{}]]\n", section.trim_end_matches("[]")),
        section => format!("[{}]\n", section.replace("NAME", "procfs")),
    };
    // It is refused in the end whatever the section takes.
    let error = check_error(folder, &format!("{header}no-such-key = {{}}\n[[instances]]\nid = ''\n"));
    let expected = error.split_once("unknown field `no-such-key`, expected ")?.1;
    Some(expected.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

/// Returns every key that the binary accepts.
fn binary_keys() -> BTreeSet<String> {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = BTreeSet::new();
    let mut sections = vec![String::new()];
    while let Some(section) = sections.pop() {
        let Some(below) = keys_in_section(folder.path(), &section) else {
            keys.insert(section);
            continue;
        };
        sections.extend(below.into_iter().map(|key| match (&*section, &*key) {
            ("", "instances" | "alerts" | "remote_write" | "otlp") | ("alerting", "webhooks") => {
                format!("{section}.{key}[]").trim_start_matches('.').to_owned()
            }
            ("", "plugins") => "plugins.NAME".to_owned(),
            ("", key) => key.to_owned(),
            (section, key) => format!("{section}.{key}"),
        }));
    }
    keys
}

/// Returns the rows about keys of all pages that have some, by key.
fn documented_keys() -> BTreeMap<String, ConfigurationRow> {
    let page = ["configuration.md", "alerts.md", "remote-write.md", "otlp.md", "longer-history.md"]
        .map(|name| fs::read_to_string(handbook().join(name)).unwrap())
        .concat();
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows = prose(&page).filter(|line| line.starts_with("| `")).map(cells).filter(|cells| cells.len() == 4);
    let row = |cells: Vec<String>| {
        let takes_restart = match &*cells[2] {
            "yes" => true,
            "no" => false,
            other => panic!("{cells:?}: {other}"),
        };
        (
            cells[0].trim_matches('`').to_owned(),
            ConfigurationRow { default: cells[1].trim_matches('`').to_owned(), takes_restart },
        )
    };
    rows.map(row).collect()
}

/// The key that this table needs, and the table with nothing else.
const READ_THROUGH: &str = "read_through.url";
const READ_THROUGH_TABLE: &str = "read_through.url = 'http://h'\n";

/// Parses a configuration with one key, written as the page writes it.
fn config_with(key: &str, value: &str) -> Result<Config, toml::de::Error> {
    let required = |list: &str| match list {
        "instances" => vec![("id", "'a'")],
        "alerts" => vec![("name", "'a'"), ("when", "'b > 1'")],
        _ => vec![("url", "'http://h'")],
    };
    let line = match key.split_once("[].") {
        Some((list, key)) => {
            let others = required(list).into_iter().filter(|(name, _)| *name != key);
            let others: String = others.map(|(name, value)| format!("{name} = {value}\n")).collect();
            format!("[[{list}]]\n{others}{key} = {value}\n")
        }
        None => {
            let others = if key.starts_with("read_through.") && key != READ_THROUGH { READ_THROUGH_TABLE } else { "" };
            format!("{others}{} = {value}\n", key.replace("NAME", "a"))
        }
    };
    toml::from_str(&line)
}

#[test]
fn the_configuration_page_lists_exactly_the_keys_of_the_binary() {
    let documented: BTreeSet<String> = documented_keys().into_keys().collect();
    // A section that the page describes beside its keys.
    let keys: BTreeSet<String> = binary_keys().into_iter().chain(["plugins.NAME.grants".to_owned()]).collect();
    assert!(keys.len() > 70 && keys.contains("plugins.NAME.limits.retry_after"), "{keys:?}");
    let missing: Vec<_> = keys.difference(&documented).collect();
    let unknown: Vec<_> = documented.difference(&keys).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not on the page: {missing:?}; not in the binary: {unknown:?}");
}

#[test]
fn the_defaults_on_the_configuration_page_match_the_host() {
    for (key, ConfigurationRow { default, .. }) in documented_keys() {
        if matches!(&*default, "unset" | "required") {
            continue;
        }
        let said = config_with(&key, &default).unwrap_or_else(|error| panic!("{key} = {default}: {error}"));
        if key.starts_with("plugins.") {
            let (said, unsaid) = (said.engine().plugin("a"), Config::default().engine().plugin("a"));
            let limits = |of| Config::default().engine().limits(of, Limits::DEFAULT);
            assert_eq!(limits(&said), limits(&unsaid), "{key} = {default}");
            assert_eq!((said.failures(), said.failure_window()), (unsaid.failures(), unsaid.failure_window()), "{key}");
            assert_eq!(said.retry_after(), unsaid.retry_after(), "{key}");
            assert_eq!((said.share_instances, said.json()), (unsaid.share_instances, unsaid.json()), "{key}");
        } else if let Some((list, _)) = key.split_once("[].") {
            let (key_of_list, value) = match list {
                "instances" => ("id", "'a'"),
                "alerts" => ("name", "'a'"),
                _ => ("url", "'http://h'"),
            };
            let unsaid = config_with(&format!("{list}[].{key_of_list}"), value).ok();
            assert_eq!(Some(said), unsaid, "{key} = {default}");
        } else if key.starts_with("read_through.") {
            assert_eq!(Some(said), toml::from_str(READ_THROUGH_TABLE).ok(), "{key} = {default}");
        } else {
            assert_eq!(said, Config::default(), "{key} = {default}");
        }
    }
}

#[test]
fn the_configuration_page_marks_exactly_the_keys_that_need_a_restart() {
    let values = [
        "'7s'",
        "'3MiB'",
        "7",
        "0.5",
        "true",
        "false",
        "'/other'",
        "['x']",
        "'127.0.0.1:1'",
        "{ a = 'b' }",
        "'1.3'",
        "{ read = ['/x'] }",
        "'info'",
        "'slack'",
        "[{ days = ['sat'] }]",
        "[{ action = 'labeldrop' }]",
        "'2.0'",
        "'http://proxy:3128'",
    ];
    for (key, ConfigurationRow { takes_restart, .. }) in documented_keys() {
        let has_table = key.starts_with("read_through.") && key != READ_THROUGH;
        let before = if has_table { toml::from_str(READ_THROUGH_TABLE).unwrap() } else { Config::default() };
        let changed = values.iter().filter_map(|value| config_with(&key, value).ok()).find(|config| *config != before);
        let changed = changed.unwrap_or_else(|| panic!("{key}: no value changes it"));
        let needs_restart = ConfigChange::between(&before, changed).needs_restart;
        assert_eq!(!needs_restart.is_empty(), takes_restart, "{key}: {needs_restart:?}");
    }
}

#[test]
fn every_configuration_in_the_handbook_can_be_loaded() {
    let host = Host::start("", &[("load", verbs())]);
    let page = host.until("/v1/plugins/load", |page| page.status == 200 && page.json()["digest"].is_string());
    let digest = page.json()["digest"].as_str().unwrap().to_owned();
    let here = host.folder().display().to_string();
    let mut count = 0;
    for page in pages() {
        for block in blocks(&fs::read_to_string(&page).unwrap(), "toml") {
            // What is on the reader's machine: files, a component's digest and its settings.
            let pinned = block.lines().find_map(|line| line.strip_prefix("sha256 = \"")?.split('"').next());
            let config = pinned.map_or_else(|| block.clone(), |pinned| block.replace(pinned, &digest));
            let config = config.replace("/srv/data", &here).replace("{ path = \"/proc/loadavg\" }", "{ }");
            host.configure(&config);
            let reload = host.send_as_admin("POST", "/v1/reload", b"");
            assert!(reload.status == 200, "{}: {reload:?}\n{block}", page.display());
            count += 1;
        }
    }
    assert!(count > 10, "{count}");
}

#[test]
fn the_docs_command_and_the_docs_path_show_the_handbook() {
    let (code, list, _) = run(dropsonde().arg("docs"));
    assert!(code == 0 && list.lines().any(|line| line.starts_with("streams ")), "{list}");
    let (code, page, _) = run(dropsonde().args(["docs", "streams"]));
    assert_eq!((code, page), (0, fs::read_to_string(handbook().join("streams.md")).unwrap()));
    let (code, _, error) = run(dropsonde().args(["docs", "steams"]));
    assert!(code == 1 && error.contains("did you mean `dropsonde docs streams`?"), "{error}");

    let host = Host::start("", &[]);
    let list = host.get("/docs");
    assert!(list.status == 200 && list.body.contains("<a href=\"/docs/streams\">Streams</a>"), "{list:?}");
    let page = host.get("/docs/streams");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.body.contains("<h1 id=\"streams\">Streams</h1>"), "{page:?}");
    let missing = host.get("/docs/steams");
    assert!(missing.status == 404 && missing.body.contains("did you mean streams?"), "{missing:?}");
}
