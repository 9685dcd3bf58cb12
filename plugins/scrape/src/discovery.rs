//! Service discovery: targets from files and from servers, in Prometheus' formats.

use crate::config::{Discovery, TargetList, TargetSettings};
use crate::relabel::TargetLabels;
use crate::yaml;
use dropsonde_guest::{Failure, files};
use serde::Deserialize;

/// Targets with common labels, as files and servers list them.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct TargetGroup {
    targets: Vec<String>,
    #[serde(default)]
    labels: TargetLabels,
}

// === impl Discovery ===

impl Discovery {
    /// Returns the targets that are listed now.
    pub(crate) fn targets(&self) -> Result<Vec<TargetSettings>, Failure> {
        Ok(self.groups()?.into_iter().flat_map(|group| self.of_group(&group)).collect())
    }

    fn groups(&self) -> Result<Vec<TargetGroup>, Failure> {
        match &self.list {
            TargetList::Url(url, settings) => {
                let response = settings.get(url).map_err(Failure::unavailable)?.send(settings.timeout)?;
                if response.status != 200 {
                    let why = format!("{url}: the server answered with status {}", response.status);
                    return Err(Failure::unavailable(why));
                }
                parse(url, &response.text(), false)
            }
            TargetList::Files(globs) => {
                let mut groups = Vec::new();
                for path in paths(globs)? {
                    let is_yaml = path.ends_with(".yml") || path.ends_with(".yaml");
                    groups.extend(parse(&path, &files::read_to_string(&path)?, is_yaml)?);
                }
                Ok(groups)
            }
        }
    }

    fn of_group(&self, group: &TargetGroup) -> Vec<TargetSettings> {
        let target = |address: &String| {
            let mut labels = group.labels.clone();
            labels.insert("__address__".to_owned(), address.clone());
            for (name, value) in [("__metrics_path__", &self.path), ("__scheme__", &self.scheme)] {
                labels.entry(name.to_owned()).or_insert_with(|| value.clone());
            }
            self.of_labels(labels)
        };
        group.targets.iter().filter_map(target).collect()
    }

    /// Returns the target that labels describe, after the rules. None if a rule drops it.
    fn of_labels(&self, mut labels: TargetLabels) -> Option<TargetSettings> {
        if !self.relabel.iter().all(|rule| rule.apply(&mut labels)) {
            return None;
        }
        let address = labels.remove("__address__")?;
        let path = labels.remove("__metrics_path__")?;
        let scheme = labels.remove("__scheme__")?;
        let parameters: Vec<String> = labels
            .iter()
            .filter_map(|(name, value)| Some(format!("{}={}", name.strip_prefix("__param_")?, encoded(value))))
            .collect();
        let query = if parameters.is_empty() { String::new() } else { format!("?{}", parameters.join("&")) };
        let slash = if path.starts_with('/') { "" } else { "/" };
        labels.retain(|name, _| !name.starts_with("__"));
        let id = labels.remove("id");
        let instance = labels.remove("instance");
        // The label `job` belongs to the Prometheus that scrapes this host.
        if let Some(job) = labels.remove("job") {
            labels.entry("workload".to_owned()).or_insert(job);
        }
        labels.extend(self.labels.clone());
        Some(TargetSettings {
            id: id.or(instance).unwrap_or_else(|| address.clone()),
            url: format!("{scheme}://{address}{slash}{path}{query}"),
            labels,
            how: self.how.clone(),
        })
    }
}

/// Parses a list of groups.
fn parse(place: &str, text: &str, is_yaml: bool) -> Result<Vec<TargetGroup>, Failure> {
    let groups = if is_yaml {
        yaml::parse(text).and_then(|list| serde_json::from_value(list).map_err(|error| error.to_string()))
    } else {
        serde_json::from_str(text).map_err(|error| error.to_string())
    };
    groups.map_err(|why| Failure::unavailable(format!("{place} is not a list of targets: {why}")))
}

/// Returns the files of globs, which may have `*` in their last segment.
fn paths(globs: &[String]) -> Result<Vec<String>, Failure> {
    let mut paths = Vec::new();
    for glob in globs {
        let Some((folder, name)) = glob.rsplit_once('/').filter(|(_, name)| name.contains('*')) else {
            paths.push(glob.clone());
            continue;
        };
        let entries = files::entries(if folder.is_empty() { "/" } else { folder })?;
        let names = entries.into_iter().map(|entry| entry.name).filter(|other| matches(name, other));
        paths.extend(names.map(|name| format!("{folder}/{name}")));
    }
    paths.sort_unstable();
    paths.dedup();
    Ok(paths)
}

/// Returns whether a name matches a glob with `*`. Names that begin with a dot do not, as in a shell.
fn matches(glob: &str, name: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or_default();
    let last = parts.next_back().unwrap_or_default();
    let inside = name.strip_prefix(first).and_then(|rest| rest.strip_suffix(last));
    let Some(mut rest) = inside.filter(|_| !name.starts_with('.')) else { return false };
    parts.all(|part| match rest.split_once(part) {
        Some((_, behind)) => {
            rest = behind;
            true
        }
        None => false,
    })
}

/// Encodes a value for a query.
fn encoded(value: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let encode = |byte: u8| match is_plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    value.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ScrapeConfig;
    use std::collections::BTreeMap;

    fn discovery(json: &str) -> Discovery {
        let config: ScrapeConfig = serde_json::from_str(json).unwrap();
        config.settings().unwrap().discoveries.remove(0)
    }

    #[test]
    fn files_in_json_and_yaml_list_the_same_targets() {
        let json = r#"[{"targets": ["a:1", "b:2"], "labels": {"job": "web", "__meta_x": "y", "team": "a"}}]"#;
        let yaml =
            "- targets: ['a:1', \"b:2\"]\n  labels:\n    job: web # of Prometheus\n    __meta_x: y\n    team: a\n";
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.json"), json).unwrap();
        std::fs::write(folder.path().join("b.yml"), yaml).unwrap();
        std::fs::write(folder.path().join(".hidden.json"), "not json").unwrap();
        let of = |name: &str| {
            let files = folder.path().join(name);
            let config = format!(r#"{{"file_sd": [{{"files": [{files:?}], "labels": {{"env": "prod"}}}}]}}"#);
            let targets = discovery(&config).targets().unwrap();
            targets.into_iter().map(|target| (target.id, target.url, target.labels)).collect::<Vec<_>>()
        };
        let labels = BTreeMap::from(
            [("workload", "web"), ("team", "a"), ("env", "prod")]
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let target = |address: &str| (address.to_owned(), format!("http://{address}/metrics"), labels.clone());
        assert_eq!(of("*.json"), [target("a:1"), target("b:2")]);
        assert_eq!(of("b.yml"), of("*.json"));
        assert_eq!(of("*").len(), 4);
    }

    #[test]
    fn labels_that_discovery_sets_decide_where_and_how_to_scrape() {
        let discovery = discovery(
            r#"{"file_sd": [{"files": ["/x.json"], "path": "/m", "scheme": "https", "relabel": [
                {"source_labels": ["__meta_name"], "target_label": "instance"},
                {"source_labels": ["__meta_state"], "regex": "down", "action": "drop"}]}]}"#,
        );
        let groups = parse(
            "x",
            r#"[{"targets": ["a:1"], "labels": {"__metrics_path__": "probe", "__param_target": "b c", "__meta_name": "web"}},
                {"targets": ["b:1"], "labels": {"__scheme__": "http"}},
                {"targets": ["c:1"], "labels": {"__meta_state": "down"}}]"#,
            false,
        );
        let targets: Vec<_> = groups.unwrap().iter().flat_map(|group| discovery.of_group(group)).collect();
        let found: Vec<_> = targets.iter().map(|target| (target.id.as_str(), target.url.as_str())).collect();
        assert_eq!(found, [("web", "https://a:1/probe?target=b%20c"), ("b:1", "http://b:1/m")]);
        assert!(targets[0].labels.is_empty(), "{:?}", targets[0].labels);
    }

    #[test]
    fn a_list_with_a_mistake_is_named() {
        for (text, is_yaml) in [("[{]", false), ("{\"targets\": []}", false), ("- targets: [", true), ("a: b", true)] {
            let error = parse("/etc/x", text, is_yaml).unwrap_err();
            assert!(
                matches!(&error, Failure::Unavailable(why) if why.starts_with("/etc/x is not a list")),
                "{error:?}"
            );
        }
    }
}
