//! Changes the labels of series, and chooses series by them, as Prometheus' `write_relabel_configs`.

use dropsonde_model::{InvalidValue, Labels};
use regex::Regex;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A series without labels is none, and neither is one without this label.
const NAME: &str = "__name__";

/// A change of the labels of series, as Prometheus' `write_relabel_configs`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelabelConfig {
    #[serde(default)]
    pub action: Action,
    /// Labels whose values are joined to a text.
    #[serde(default)]
    pub source_labels: Vec<String>,
    #[serde(default = "separator")]
    pub separator: String,
    /// The expression that must match all of the text.
    #[serde(default = "everything")]
    pub regex: String,
    /// The label that gets a value.
    #[serde(default)]
    pub target_label: String,
    /// The value, in which `$1` stands for a group of `regex`.
    #[serde(default = "first_group")]
    pub replacement: String,
}

/// The kind of change that a [`RelabelConfig`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Sets `target_label` to `replacement` if the text matches.
    #[default]
    Replace,
    /// Keeps series whose text matches, and no others.
    Keep,
    /// Keeps series whose text does not match.
    Drop,
    /// Keeps labels whose names match, and no others.
    Labelkeep,
    /// Removes labels whose names match.
    Labeldrop,
    /// Gives the values of labels whose names match to the labels `replacement`.
    Labelmap,
    Lowercase,
    Uppercase,
}

/// Rules that are applied one after the other.
#[derive(Debug)]
pub(crate) struct Relabeling(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    config: RelabelConfig,
    pattern: Regex,
}

type Pairs = BTreeMap<String, String>;

fn separator() -> String {
    ";".to_owned()
}

fn everything() -> String {
    "(.*)".to_owned()
}

fn first_group() -> String {
    "$1".to_owned()
}

impl RelabelConfig {
    pub(super) fn check(&self, key: &str) -> Result<(), InvalidValue> {
        if let Err(error) = self.pattern() {
            let last = error.to_string().lines().last().unwrap_or_default().trim().to_owned();
            return InvalidValue::of(&format!("{key}.regex"), &format!("is no regular expression: {last}"));
        }
        match self.action {
            Action::Keep | Action::Drop if self.source_labels.is_empty() => {
                InvalidValue::of(&format!("{key}.source_labels"), "must be set: it would keep all series or none")
            }
            // A group of the expression may stand in it.
            Action::Replace if !is_label(&self.target_label) && !self.target_label.contains('$') => {
                InvalidValue::of(&format!("{key}.target_label"), "must be the name of a label")
            }
            Action::Lowercase | Action::Uppercase if !is_label(&self.target_label) => {
                InvalidValue::of(&format!("{key}.target_label"), "must be the name of a label")
            }
            _ => Ok(()),
        }
    }

    /// Returns the expression, which must match all of a text.
    pub(crate) fn pattern(&self) -> Result<Regex, regex::Error> {
        Regex::new(&format!("^(?s:{})$", self.regex))
    }
}

impl Relabeling {
    pub(crate) fn new(configs: &[RelabelConfig]) -> Result<Self, regex::Error> {
        let rule = |config: &RelabelConfig| Ok(Rule { pattern: config.pattern()?, config: config.clone() });
        configs.iter().map(rule).collect::<Result<_, _>>().map(Self)
    }

    /// Returns whether different series can get the same labels.
    pub(crate) fn can_merge(&self) -> bool {
        !self.0.is_empty()
    }

    /// Returns the labels that a series is sent with; none if it is not sent.
    pub(crate) fn apply(&self, labels: &Labels, external: &BTreeMap<String, String>) -> Option<Labels> {
        let is_added = |name: &str| labels.get(name).is_none();
        if self.0.is_empty() && !external.keys().any(|name| is_added(name)) {
            return Some(labels.clone());
        }
        let mut pairs: Pairs = labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        for (name, value) in external {
            pairs.entry(name.clone()).or_insert_with(|| value.clone());
        }
        if !self.0.iter().all(|rule| rule.apply(&mut pairs)) {
            return None;
        }
        // An empty value is that of a label that is not there.
        pairs.retain(|_, value| !value.is_empty());
        pairs.contains_key(NAME).then(|| pairs.into_iter().collect())
    }
}

impl Rule {
    /// Changes labels. Returns whether the series is kept.
    fn apply(&self, pairs: &mut Pairs) -> bool {
        let Self { config, pattern } = self;
        let RelabelConfig { source_labels, separator, target_label, replacement, .. } = config;
        let value = |pairs: &Pairs, name: &String| pairs.get(name).cloned().unwrap_or_default();
        let text = |pairs: &Pairs| {
            let values: Vec<String> = source_labels.iter().map(|name| value(pairs, name)).collect();
            values.join(separator)
        };
        match config.action {
            Action::Keep => return pattern.is_match(&text(pairs)),
            Action::Drop => return !pattern.is_match(&text(pairs)),
            Action::Labelkeep => pairs.retain(|name, _| pattern.is_match(name)),
            Action::Labeldrop => pairs.retain(|name, _| !pattern.is_match(name)),
            Action::Lowercase => drop(pairs.insert(target_label.clone(), text(pairs).to_lowercase())),
            Action::Uppercase => drop(pairs.insert(target_label.clone(), text(pairs).to_uppercase())),
            Action::Labelmap => {
                let renamed = pairs.iter().filter(|(name, _)| pattern.is_match(name));
                let renamed =
                    renamed.map(|(name, value)| (pattern.replace(name, replacement).into_owned(), value.clone()));
                let renamed: Vec<_> = renamed.filter(|(name, _)| is_label(name)).collect();
                pairs.extend(renamed);
            }
            Action::Replace => {
                let text = text(pairs);
                let Some(groups) = pattern.captures(&text) else { return true };
                let (mut name, mut value) = (String::new(), String::new());
                groups.expand(target_label, &mut name);
                groups.expand(replacement, &mut value);
                if is_label(&name) {
                    pairs.insert(name, value);
                }
            }
        }
        true
    }
}

/// Returns whether a text is the name of a label.
pub(crate) fn is_label(name: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Applies rules to a series. Returns its labels as `name=value`.
    fn applied(rules: &str, labels: &[(&str, &str)]) -> Option<Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Written {
            relabel: Vec<RelabelConfig>,
        }
        let written: Written = toml::from_str(&format!("relabel = [{rules}]")).unwrap();
        let labels: Labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let external = BTreeMap::from([("site".to_owned(), "fra1".to_owned())]);
        let kept = Relabeling::new(&written.relabel).unwrap().apply(&labels, &external)?;
        Some(kept.iter().map(|(name, value)| format!("{name}={value}")).collect())
    }

    const SERIES: [(&str, &str); 3] = [("__name__", "up"), ("id", "web-1"), ("team", "Shop")];

    fn of(rules: &str) -> Option<Vec<String>> {
        applied(rules, &SERIES)
    }

    fn labels(all: [&str; 4]) -> Option<Vec<String>> {
        Some(all.map(str::to_owned).to_vec())
    }

    #[test]
    fn external_labels_are_added_and_do_not_replace_others() {
        assert_eq!(of(""), labels(["__name__=up", "id=web-1", "site=fra1", "team=Shop"]));
        let own = [("__name__", "up"), ("site", "ber2")];
        assert_eq!(applied("", &own), Some(vec!["__name__=up".to_owned(), "site=ber2".to_owned()]));
    }

    #[test]
    fn series_are_kept_and_dropped_by_all_of_their_text() {
        let keep =
            |regex: &str| of(&format!("{{ action = 'keep', source_labels = ['__name__', 'id'], regex = '{regex}' }}"));
        assert!(keep("up;web-.*").is_some());
        assert!(keep("up;web").is_none());
        assert!(of("{ action = 'drop', source_labels = ['id'], regex = 'web-1|web-2' }").is_none());
        assert!(of("{ action = 'drop', source_labels = ['id'], regex = 'web' }").is_some());
    }

    #[test]
    fn labels_are_replaced_removed_and_renamed() {
        let replaced =
            of("{ source_labels = ['id'], regex = '(.*)-(.*)', target_label = 'id', replacement = '${2}/$1' }");
        assert_eq!(replaced, labels(["__name__=up", "id=1/web", "site=fra1", "team=Shop"]));
        let lowered = of("{ action = 'lowercase', source_labels = ['team'], target_label = 'team' }");
        assert_eq!(lowered, labels(["__name__=up", "id=web-1", "site=fra1", "team=shop"]));
        let mapped = of("{ action = 'labelmap', regex = '(te)am' }, { action = 'labeldrop', regex = 'team' }");
        assert_eq!(mapped, labels(["__name__=up", "id=web-1", "site=fra1", "te=Shop"]));
        let emptied = of("{ target_label = 'id', replacement = '' }, { target_label = 'n', replacement = '1' }");
        assert_eq!(emptied, labels(["__name__=up", "n=1", "site=fra1", "team=Shop"]));
        assert_eq!(of("{ action = 'labelkeep', regex = 'id' }"), None, "a series has a name");
    }
}
