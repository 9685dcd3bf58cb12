//! The plugin's configuration: `[plugins.scrape.config]`.

use crate::keep::Keep;
use crate::presets::preset;
use crate::relabel::{RelabelConfig, RelabelRule};
use dropsonde_guest::{Failure, Need};
use mapping::{Mapping, MappingConfig};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use targets::{PRIVATE_NETWORKS, RequestConfig, RequestSettings, Url, path_glob};

/// The time between two scrapes of a reverse proxy, as its history was always kept.
const PROXY_INTERVAL: Duration = Duration::from_secs(60);

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ScrapeConfig {
    targets: Vec<TargetConfig>,
    /// Files that list targets, as Prometheus reads them.
    file_sd: Vec<FileDiscoveryConfig>,
    /// Servers that list targets, as Prometheus asks them.
    http_sd: Vec<HttpDiscoveryConfig>,
    /// Mappings that targets name.
    mappings: BTreeMap<String, MappingConfig>,
}

#[derive(Debug, Deserialize)]
struct TargetConfig {
    id: String,
    url: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(flatten)]
    how: HowConfig,
}

#[derive(Debug, Deserialize)]
struct FileDiscoveryConfig {
    /// Globs.
    files: Vec<String>,
    #[serde(flatten)]
    discovered: DiscoveredConfig,
}

#[derive(Debug, Deserialize)]
struct HttpDiscoveryConfig {
    url: String,
    /// How the list is asked for; the targets have settings of their own.
    #[serde(default)]
    list: RequestConfig,
    #[serde(flatten)]
    discovered: DiscoveredConfig,
}

/// How targets that are discovered are scraped.
#[derive(Debug, Deserialize)]
struct DiscoveredConfig {
    /// The path of metrics, unless a target has the label `__metrics_path__`.
    #[serde(default = "metrics")]
    path: String,
    #[serde(default = "http")]
    scheme: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    relabel: Vec<RelabelConfig>,
    #[serde(flatten)]
    how: HowConfig,
}

/// How a target is scraped.
#[derive(Debug, Clone, Default, Deserialize)]
struct HowConfig {
    preset: Option<String>,
    /// Fields, or the name of one of `mappings`. Fields beside a preset are added to it, or replace its own.
    mapping: Option<MappingChoice>,
    /// Which samples are kept as series.
    #[serde(default)]
    keep: Keep,
    /// Whether labels of samples win over those of the target.
    #[serde(default)]
    honor_labels: bool,
    #[serde(flatten)]
    request: RequestConfig,
}

#[derive(Debug, Clone)]
enum MappingChoice {
    Named(String),
    Inline(MappingConfig),
}

/// Unlike serde's own way for such a type, says what is wrong with the fields.
impl<'de> Deserialize<'de> for MappingChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(name) => Ok(Self::Named(name)),
            fields => MappingConfig::deserialize(fields).map(Self::Inline).map_err(D::Error::custom),
        }
    }
}

fn metrics() -> String {
    "/metrics".to_owned()
}

fn http() -> String {
    "http".to_owned()
}

/// The configuration, checked.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) targets: Vec<TargetSettings>,
    pub(crate) discoveries: Vec<Discovery>,
    /// All mappings in use.
    pub(crate) mappings: Vec<Rc<Mapping>>,
}

/// A target: where it is, and how it is scraped.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TargetSettings {
    pub(crate) id: String,
    pub(crate) url: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) how: ScrapeSettings,
}

/// Where targets are listed, and how they are scraped.
#[derive(Debug)]
pub(crate) struct Discovery {
    pub(crate) list: TargetList,
    pub(crate) path: String,
    pub(crate) scheme: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) relabel: Vec<RelabelRule>,
    pub(crate) how: ScrapeSettings,
}

#[derive(Debug, Clone)]
pub(crate) enum TargetList {
    /// Globs.
    Files(Vec<String>),
    /// The URL, and how it is asked.
    Url(String, RequestSettings),
}

/// How a target is scraped.
#[derive(Debug, Clone)]
pub(crate) struct ScrapeSettings {
    pub(crate) mapping: Rc<Mapping>,
    pub(crate) keep: Keep,
    pub(crate) honor_labels: bool,
    pub(crate) request: RequestSettings,
}

// === impl ScrapeConfig ===

impl ScrapeConfig {
    /// Returns the grants that the configuration implies.
    pub(crate) fn needs(&self) -> Result<Vec<Need>, Failure> {
        let (mut http, mut files) = (Vec::new(), Vec::new());
        let mut has_names = !self.file_sd.is_empty() || !self.http_sd.is_empty();
        for target in &self.targets {
            let wrong = |why: String| Failure::invalid(format!("the target {}: {why}", target.id));
            let url = Url::parse(&target.url).map_err(wrong)?;
            http.push(url.rule("GET"));
            has_names |= url.has_name();
            files.extend(target.how.request.files());
        }
        for sd in &self.http_sd {
            let url = Url::parse(&sd.url).map_err(|why| Failure::invalid(format!("http_sd: {why}")))?;
            http.push(url.rule("GET"));
            files.extend(sd.list.files());
        }
        let discovered = self.file_sd.iter().map(|sd| &sd.discovered);
        for discovered in discovered.chain(self.http_sd.iter().map(|sd| &sd.discovered)) {
            http.push(discovered.rule());
            files.extend(discovered.how.request.files());
        }
        for glob in self.file_sd.iter().flat_map(|sd| &sd.files) {
            // A folder is listed to find the files in it.
            let folder = glob.rsplit_once('/').filter(|(_, name)| name.contains('*'));
            files.extend(folder.map(|(folder, _)| if folder.is_empty() { "/" } else { folder }.to_owned()));
            files.push(glob.clone());
        }
        if has_names {
            http.extend(PRIVATE_NETWORKS.map(str::to_owned));
        }
        http.dedup();
        Ok(http.into_iter().map(Need::Http).chain(files.into_iter().map(Need::Read)).collect())
    }

    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        let mut made = MadeMappings { named: &self.mappings, made: Vec::new() };
        let mut settings = Settings::default();
        for TargetConfig { id, url, labels, how } in &self.targets {
            let wrong = |why: String| Failure::invalid(format!("the target {id}: {why}"));
            Url::parse(url).map_err(wrong)?;
            if settings.targets.iter().any(|other| other.id == *id) {
                return Err(wrong("there are two targets of this id".to_owned()));
            }
            let how = how.settings(&mut made).map_err(wrong)?;
            settings.targets.push(TargetSettings { id: id.clone(), url: url.clone(), labels: labels.clone(), how });
        }
        let files = self.file_sd.iter().map(|sd| (TargetList::Files(sd.files.clone()), &sd.discovered));
        let mut lists: Vec<_> = files.collect();
        for sd in &self.http_sd {
            let wrong = |why: String| Failure::invalid(format!("http_sd {}: {why}", sd.url));
            let request = sd.list.settings().map_err(wrong)?;
            if request.interval.is_some() {
                return Err(wrong(
                    "a list is asked for every `poll.discover_interval`, not by `list.interval`".to_owned(),
                ));
            }
            lists.push((TargetList::Url(sd.url.clone(), request), &sd.discovered));
        }
        for (list, discovered) in lists {
            let wrong = |why: String| Failure::invalid(format!("{list}: {why}"));
            let relabel = discovered.relabel.iter().map(RelabelRule::new).collect::<Result<_, _>>().map_err(wrong)?;
            let how = discovered.how.settings(&mut made).map_err(wrong)?;
            settings.discoveries.push(Discovery {
                path: discovered.path.clone(),
                scheme: discovered.scheme.clone(),
                labels: discovered.labels.clone(),
                list,
                relabel,
                how,
            });
        }
        settings.mappings = made.made.into_iter().map(|(_, mapping)| mapping).collect();
        Ok(settings)
    }
}

// === impl DiscoveredConfig ===

impl DiscoveredConfig {
    /// Returns the rule that allows to scrape whatever is discovered.
    fn rule(&self) -> String {
        format!("GET {}://*:* {}", self.scheme, path_glob(&self.path))
    }
}

// === impl HowConfig ===

impl HowConfig {
    fn settings(&self, made: &mut MadeMappings<'_>) -> Result<ScrapeSettings, String> {
        let mut request = self.request.settings()?;
        if self.preset.as_deref() == Some("reverse-proxy") {
            request.interval.get_or_insert(PROXY_INTERVAL);
        }
        let (keep, honor_labels) = (self.keep.clone(), self.honor_labels);
        Ok(ScrapeSettings { mapping: made.get(self)?, keep, honor_labels, request })
    }
}

/// The mappings that were made so far: targets with the same fields share one.
struct MadeMappings<'a> {
    named: &'a BTreeMap<String, MappingConfig>,
    made: Vec<(MappingConfig, Rc<Mapping>)>,
}

impl MadeMappings<'_> {
    fn get(&mut self, how: &HowConfig) -> Result<Rc<Mapping>, String> {
        let mut config = how.preset.as_deref().map_or(Ok(MappingConfig::new()), preset)?;
        match &how.mapping {
            None => {}
            Some(MappingChoice::Inline(fields)) => config.extend(fields.clone()),
            Some(MappingChoice::Named(name)) => {
                let named = self.named.get(name).ok_or_else(|| format!("no mapping is called {name:?}"))?;
                config.extend(named.clone());
            }
        }
        if let Some((_, made)) = self.made.iter().find(|(other, _)| *other == config) {
            return Ok(made.clone());
        }
        let made = Rc::new(Mapping::new(&config)?);
        self.made.push((config, made.clone()));
        Ok(made)
    }
}

// === impl ScrapeSettings ===

#[cfg(test)]
impl ScrapeSettings {
    /// Returns the settings of a target without fields.
    pub(crate) fn of_nothing() -> Self {
        let mapping = Rc::new(Mapping::new(&MappingConfig::new()).unwrap());
        let request = RequestConfig::default().settings().unwrap();
        Self { mapping, keep: Keep::Nothing, honor_labels: false, request }
    }
}

/// Mappings are shared: two targets with the same fields have the same `Rc`.
impl PartialEq for ScrapeSettings {
    fn eq(&self, other: &Self) -> bool {
        let Self { mapping, keep, honor_labels, request } = self;
        let is_kept_alike = (keep, honor_labels) == (&other.keep, &other.honor_labels);
        Rc::ptr_eq(mapping, &other.mapping) && is_kept_alike && *request == other.request
    }
}

// === impl TargetList ===

impl std::fmt::Display for TargetList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Files(globs) => write!(f, "file_sd {}", globs.join(", ")),
            Self::Url(url, _) => write!(f, "http_sd {url}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> ScrapeConfig {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_configuration_implies_its_grants_and_no_more() {
        let needs = |json: &str| config(json).needs().unwrap();
        let target = r#"{"targets": [{"id": "a", "url": "http://127.0.0.1:1/m?x=y", "bearer_file": "/etc/token"}]}"#;
        assert_eq!(needs(target), [Need::http("GET http://127.0.0.1:1 /m"), Need::read("/etc/token")]);
        let named = needs(r#"{"targets": [{"id": "a", "url": "http://web:1/m"}]}"#);
        assert_eq!(named.len(), 1 + PRIVATE_NETWORKS.len());
        let listed = needs(r#"{"file_sd": [{"files": ["/etc/t/*.json"], "path": "/x"}]}"#);
        assert!(listed.contains(&Need::http("GET http://*:* /x")) && listed.contains(&Need::read("/etc/t/*.json")));
        assert!(listed.contains(&Need::read("/etc/t")), "its names are listed");
        assert_eq!(needs("{}"), []);
    }

    #[test]
    fn targets_share_mappings_and_may_name_and_extend_them() {
        let settings = config(
            r#"{"mappings": {"mine": {"x": {"value": "x"}}},
                "targets": [{"id": "a", "url": "http://a", "mapping": "mine"},
                            {"id": "b", "url": "http://b", "mapping": {"x": {"value": "x"}}},
                            {"id": "c", "url": "http://c", "preset": "process", "mapping": "mine"}]}"#,
        )
        .settings()
        .unwrap();
        assert_eq!(settings.mappings.len(), 2);
        assert_eq!(settings.targets[0].how, settings.targets[1].how);
        let names = |nth: usize| settings.mappings[nth].fields.iter().map(|field| field.field.name.clone()).collect();
        let (first, second): (Vec<_>, Vec<_>) = (names(0), names(1));
        assert_eq!(first, ["x"]);
        assert!(second.contains(&"x".to_owned()) && second.contains(&"open_files".to_owned()), "{second:?}");
    }

    #[test]
    fn a_configuration_with_a_mistake_is_refused_with_the_mistake() {
        let target = |more: &str| format!(r#"{{"targets": [{{"id": "a", "url": "http://a"{more}}}]}}"#);
        for (json, why) in [
            (target(r#", "presets": "node""#), "the target a: there is no key `presets`"),
            (target(r#", "preset": "nodes""#), "there is no preset \"nodes\""),
            (target(r#", "mapping": "mine""#), "no mapping is called \"mine\""),
            (target(r#", "mapping": {"x": {"value": "{"}}"#), "the field x"),
            (target(r#"}, {"id": "a", "url": "http://b""#), "two targets of this id"),
            (r#"{"targets": [{"id": "a", "url": "a"}]}"#.to_owned(), "is not a URL"),
            (r#"{"file_sd": [{"files": ["/a"], "relabel": [{}]}]}"#.to_owned(), "file_sd /a: relabel"),
        ] {
            let Err(Failure::Invalid(error)) = config(&json).settings() else { panic!("{json}") };
            assert!(error.contains(why), "{json}: {error}");
        }
    }
}
