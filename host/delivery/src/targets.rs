//! Where Alertmanagers are: in the configuration, and in files as Prometheus' `file_sd_configs` reads them.

use crate::options::{AccessConfig, DeliveryOptions, without_user};
use hyper::Uri;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;

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

/// Returns all Alertmanagers, each once, and what is wrong with their files, by file. May take long: a disk may answer
/// late.
pub(crate) fn targets(options: &DeliveryOptions) -> (Vec<Target>, BTreeMap<String, String>) {
    let of_url = |url: &str, access: &AccessConfig| {
        let url = format!("{}/api/v2/alerts", url.trim_end_matches('/'));
        let uri: Uri = url.parse().ok()?;
        let name = format!("alertmanager:{}", without_user(uri.authority()?.as_str()));
        Some(Target { name, url, access: access.clone() })
    };
    let mut targets: Vec<Target> =
        options.alertmanagers.iter().filter_map(|config| of_url(&config.url, &config.access)).collect();
    let mut failures = BTreeMap::new();
    for path in
        options.alertmanager_files.iter().flat_map(|pattern| glob::glob(pattern).into_iter().flatten().flatten())
    {
        let groups = match read(&path) {
            Ok(groups) => groups,
            Err(why) => {
                failures.insert(path.display().to_string(), why);
                continue;
            }
        };
        for group in groups {
            let label = |name: &str| group.labels.get(name).map(String::as_str);
            let (scheme, path) = (label("__scheme__").unwrap_or("http"), label("__alerts_path__").unwrap_or(""));
            let path = path.trim_end_matches("/api/v2/alerts");
            let urls = group.targets.iter().map(|target| format!("{scheme}://{target}{path}"));
            targets.extend(urls.filter_map(|url| of_url(&url, &AccessConfig::default())));
        }
    }
    let mut seen = Vec::new();
    targets.retain(|target| {
        let is_new = !seen.contains(&target.url);
        seen.push(target.url.clone());
        is_new
    });
    targets.truncate(MOST);
    (targets, failures)
}

fn read(path: &std::path::Path) -> Result<Vec<TargetGroup>, String> {
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
    use crate::options::AlertmanagerConfig;

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
        let options = DeliveryOptions {
            alertmanagers: vec![AlertmanagerConfig { url: "http://a:9093/".into(), access: AccessConfig::default() }],
            alertmanager_files: vec![folder.path().join("*").display().to_string()],
            ..DeliveryOptions::default()
        };
        let (found, failures) = targets(&options);
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
    }
}
