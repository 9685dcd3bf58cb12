//! The Alertmanagers in the configuration, and those in files as Prometheus' `file_sd_configs` reads them.

use crate::access::{AccessConfig, without_user};
use crate::alerts::options::AlertingOptions;
use hyper::Uri;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The longest file of targets, in bytes.
const LONGEST: u64 = 4 << 20;

/// The most Alertmanagers.
const MOST: usize = 100;

/// An Alertmanager.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    /// Its name in metrics and logs.
    pub(crate) name: String,
    /// The URL that alerts are posted to.
    pub(crate) url: String,
    pub(crate) access: AccessConfig,
}

/// A group of targets in a file.
#[derive(Debug, Deserialize)]
struct TargetGroup {
    #[serde(default)]
    targets: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// The Alertmanagers that files listed last, by file.
pub(crate) type ListedTargets = BTreeMap<PathBuf, Vec<Target>>;

/// Returns all Alertmanagers, each once, and what is wrong with their files, by file. A file with a mistake keeps those
/// that it listed before. May take long: a disk may answer late.
pub(crate) fn targets(
    options: &AlertingOptions,
    listed: &mut ListedTargets,
) -> (Vec<Target>, BTreeMap<String, String>) {
    let files: BTreeSet<PathBuf> =
        options.alertmanager_files.iter().flat_map(|glob| glob::glob(glob).into_iter().flatten().flatten()).collect();
    listed.retain(|file, _| files.contains(file));
    let mut failures = BTreeMap::new();
    for file in files {
        match read(&file) {
            Ok(groups) => drop(listed.insert(file, groups.iter().flat_map(TargetGroup::targets).collect())),
            Err(why) => drop(failures.insert(file.display().to_string(), why)),
        }
    }
    let configured = options.alertmanagers.iter().filter_map(|config| Target::of(&config.url, &config.access));
    let mut seen = BTreeSet::new();
    let all = configured.chain(listed.values().flatten().cloned());
    (all.filter(|target| seen.insert(target.url.clone())).take(MOST).collect(), failures)
}

impl Target {
    /// `url`: that of the Alertmanager itself.
    fn of(url: &str, access: &AccessConfig) -> Option<Self> {
        let url = format!("{}/api/v2/alerts", url.trim_end_matches('/'));
        let uri: Uri = url.parse().ok()?;
        let name = format!("alertmanager:{}", without_user(uri.authority()?.as_str()));
        Some(Self { name, url, access: access.clone() })
    }
}

impl TargetGroup {
    fn targets(&self) -> impl Iterator<Item = Target> {
        let label = |name: &str| self.labels.get(name).map(String::as_str);
        let scheme = label("__scheme__").unwrap_or("http");
        let path = label("__alerts_path__").unwrap_or("").trim_end_matches("/api/v2/alerts");
        let of = move |target: &String| Target::of(&format!("{scheme}://{target}{path}"), &AccessConfig::default());
        self.targets.iter().filter_map(of)
    }
}

fn read(path: &Path) -> Result<Vec<TargetGroup>, String> {
    let about = fs::metadata(path).map_err(|error| dropsonde_model::text::os_error(&error))?;
    if !about.is_file() || about.len() > LONGEST {
        return Err(format!("it is no regular file of at most {LONGEST} bytes"));
    }
    let text = fs::read_to_string(path).map_err(|error| dropsonde_model::text::os_error(&error))?;
    // JSON is YAML, too.
    serde_saphyr::from_str(&text).map_err(|error: serde_saphyr::Error| {
        let text = error.without_snippet().to_string();
        text.lines().next().unwrap_or_default().to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alerts::options::AlertmanagerConfig;

    #[test]
    fn alertmanagers_come_from_the_configuration_and_from_files_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        file("a.json", r#"[{"targets": ["a:1", "b:2"], "labels": {"__scheme__": "https"}}]"#);
        file(
            "b.yml",
            "- targets: ['c:3']\n  labels: {__alerts_path__: /prefix/api/v2/alerts}\n- targets: ['a:9093']\n",
        );
        file("c.json", "[{");
        let options = AlertingOptions {
            alertmanagers: vec![AlertmanagerConfig { url: "http://a:9093/".into(), access: AccessConfig::default() }],
            alertmanager_files: vec![folder.path().join("*").display().to_string()],
            ..AlertingOptions::default()
        };
        let mut listed = ListedTargets::new();
        let (found, failures) = targets(&options, &mut listed);
        let found: Vec<_> = found.iter().map(|target| (&*target.name, &*target.url)).collect();
        assert_eq!(
            found,
            [
                ("alertmanager:a:9093", "http://a:9093/api/v2/alerts"),
                ("alertmanager:a:1", "https://a:1/api/v2/alerts"),
                ("alertmanager:b:2", "https://b:2/api/v2/alerts"),
                ("alertmanager:c:3", "http://c:3/prefix/api/v2/alerts"),
            ]
        );
        assert_eq!(failures.len(), 1);
        // A mistake in a file takes no Alertmanager away; the end of the file does.
        file("b.yml", "- targets: [");
        let (found, failures) = targets(&options, &mut listed);
        assert_eq!((found.len(), failures.len()), (4, 2));
        fs::remove_file(folder.path().join("b.yml")).unwrap();
        assert_eq!(targets(&options, &mut listed).0.len(), 3);
    }
}
