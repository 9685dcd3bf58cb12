//! Rule files, in the format of Prometheus.

use crate::template::Template;
use dropsonde_promql::number::parse_duration;
use dropsonde_promql::{Expr, ParseOptions, ValueType, parse};
use serde::Deserialize;
use serde_saphyr::{Location, Spanned};
use std::collections::BTreeMap;

/// A rule file.
#[derive(Debug, Clone, Default)]
pub struct RuleFile {
    pub groups: Vec<RuleGroup>,
}

/// Rules that are evaluated together, in their order.
#[derive(Debug, Clone, Default)]
pub struct RuleGroup {
    pub name: String,
    /// The time between two evaluations in milliseconds, unless it is the usual one.
    pub interval_ms: Option<i64>,
    /// The time by which queries look back from an evaluation, in milliseconds.
    pub query_offset_ms: i64,
    /// The most series of a recording rule, and alerts of an alerting rule. None: no limit.
    pub limit: Option<usize>,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
pub struct Rule {
    pub expr: Expr,
    pub kind: RuleKind,
}

#[derive(Debug, Clone)]
pub enum RuleKind {
    Recording {
        /// The name of the series that the rule makes.
        record: String,
        labels: BTreeMap<String, String>,
    },
    Alerting(Box<AlertingRule>),
}

/// A rule whose series are alerts.
#[derive(Debug, Clone)]
pub struct AlertingRule {
    pub name: String,
    /// The time for which its expression must hold before an alert fires, in milliseconds.
    pub for_ms: i64,
    /// The time for which an alert goes on firing after its expression held last, in milliseconds.
    pub keep_firing_for_ms: i64,
    pub labels: BTreeMap<String, Template>,
    pub annotations: BTreeMap<String, Template>,
}

/// A mistake in a rule file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {why}")]
pub struct RuleFileError {
    /// Counted from 1.
    pub line: u64,
    pub column: u64,
    pub why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    #[serde(default)]
    groups: Option<Vec<GroupText>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupText {
    name: Spanned<String>,
    interval: Option<Spanned<String>>,
    query_offset: Option<Spanned<String>>,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    labels: Option<BTreeMap<String, Spanned<String>>>,
    #[serde(default)]
    rules: Option<Vec<RuleText>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    record: Option<Spanned<String>>,
    alert: Option<Spanned<String>>,
    expr: Spanned<String>,
    #[serde(rename = "for")]
    for_time: Option<Spanned<String>>,
    keep_firing_for: Option<Spanned<String>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, Spanned<String>>>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, Spanned<String>>>,
}

impl Rule {
    /// Returns its name and its labels, as text.
    pub(crate) fn key(&self) -> String {
        let labels: Vec<(&str, &str)> = match &self.kind {
            RuleKind::Recording { labels, .. } => labels.iter().map(|(name, value)| (&**name, &**value)).collect(),
            RuleKind::Alerting(alerting) => {
                alerting.labels.iter().map(|(name, value)| (&**name, value.text())).collect()
            }
        };
        let labels: Vec<String> = labels.into_iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        format!("{}{{{}}}", self.name(), labels.join(","))
    }

    /// Returns the name of its series or alerts.
    pub fn name(&self) -> &str {
        match &self.kind {
            RuleKind::Recording { record, .. } => record,
            RuleKind::Alerting(alerting) => &alerting.name,
        }
    }
}

impl RuleFile {
    /// Reads a rule file. Returns its first mistake: of YAML, of the format, of an expression or of a template.
    pub fn parse(text: &str) -> Result<Self, RuleFileError> {
        let (file, mut mistakes) = Self::parse_all(text);
        if mistakes.is_empty() { Ok(file) } else { Err(mistakes.swap_remove(0)) }
    }

    /// Reads a rule file. Returns what could be read, and all mistakes, in the order of the file's groups; a mistake of
    /// YAML is the only one.
    pub fn parse_all(text: &str) -> (Self, Vec<RuleFileError>) {
        // An empty file has no groups.
        if text.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#')) {
            return (Self::default(), Vec::new());
        }
        let file: FileText = match serde_saphyr::from_str(text) {
            Ok(file) => file,
            Err(error) => return (Self::default(), vec![RuleFileError::of_yaml(error)]),
        };
        let (mut groups, mut mistakes): (Vec<RuleGroup>, Vec<RuleFileError>) = Default::default();
        for group in file.groups.unwrap_or_default() {
            let name = group.name.value.clone();
            let mut wrong = |why: String| mistakes.push(RuleFileError::at(group.name.referenced, why));
            if name.is_empty() {
                wrong("a group has no name".to_owned());
            } else if groups.iter().any(|known| known.name == name) {
                wrong(format!("there are two groups called {name:?}"));
            }
            groups.extend(group.read(&mut mistakes));
        }
        (Self { groups }, mistakes)
    }
}

impl GroupText {
    /// Reads a group without the rules that have mistakes; none if the group itself has one.
    fn read(self, mistakes: &mut Vec<RuleFileError>) -> Option<RuleGroup> {
        let mut noted = |result: Result<i64, RuleFileError>| result.map_err(|mistake| mistakes.push(mistake)).ok();
        let interval_ms = match &self.interval {
            Some(interval) => Some(noted(duration(interval))?),
            None => None,
        };
        let query_offset_ms = match &self.query_offset {
            Some(offset) => noted(duration(offset))?,
            None => 0,
        };
        let labels = self.labels.unwrap_or_default();
        for (name, value) in &labels {
            if let Err(mistake) = check_label(name, value.referenced) {
                mistakes.push(mistake);
                return None;
            }
        }
        let mut rules = Vec::new();
        for rule in self.rules.unwrap_or_default() {
            match rule.read(&labels) {
                Ok(rule) => rules.push(rule),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        Some(RuleGroup {
            name: self.name.value,
            interval_ms: interval_ms.filter(|interval_ms| *interval_ms > 0),
            query_offset_ms,
            limit: self.limit.filter(|limit| *limit > 0),
            rules,
        })
    }
}

impl RuleText {
    /// `labels` are those of the group; the rule's own win.
    fn read(self, labels: &BTreeMap<String, Spanned<String>>) -> Result<Rule, RuleFileError> {
        let begin = self.record.as_ref().or(self.alert.as_ref()).unwrap_or(&self.expr).referenced;
        let wrong = |why: &str| RuleFileError::at(begin, why.to_owned());
        let parsed = parse(&self.expr.value, ParseOptions::default());
        let expr = parsed.map_err(|error| RuleFileError::at(self.expr.referenced, format!("expr: {error}")))?;
        if !matches!(expr.value_type(), ValueType::Vector | ValueType::Scalar) {
            let why = "expr: a rule needs an instant vector or a scalar".to_owned();
            return Err(RuleFileError::at(self.expr.referenced, why));
        }
        let mut all = labels.clone();
        all.extend(self.labels.unwrap_or_default());
        all.iter().try_for_each(|(name, value)| check_label(name, value.referenced))?;
        let kind = match (self.record, self.alert) {
            (Some(_), Some(_)) => return Err(wrong("a rule has either record or alert, not both")),
            (None, None) => return Err(wrong("a rule has either record or alert")),
            (Some(record), None) => {
                if self.for_time.is_some() || self.keep_firing_for.is_some() || self.annotations.is_some() {
                    return Err(wrong("a recording rule has no for, no keep_firing_for and no annotations"));
                }
                if !is_metric_name(&record.value) {
                    return Err(wrong(&format!("{:?} is not a metric's name", record.value)));
                }
                let labels = all.into_iter().map(|(name, value)| (name, value.value)).collect();
                RuleKind::Recording { record: record.value, labels }
            }
            (None, Some(alert)) => {
                if alert.value.is_empty() {
                    return Err(wrong("an alert has no name"));
                }
                let annotations = self.annotations.unwrap_or_default();
                annotations.iter().try_for_each(|(name, text)| check_label(name, text.referenced))?;
                RuleKind::Alerting(Box::new(AlertingRule {
                    name: alert.value,
                    for_ms: self.for_time.as_ref().map(duration).transpose()?.unwrap_or(0),
                    keep_firing_for_ms: self.keep_firing_for.as_ref().map(duration).transpose()?.unwrap_or(0),
                    labels: templates(all)?,
                    annotations: templates(annotations)?,
                }))
            }
        };
        Ok(Rule { expr, kind })
    }
}

fn templates(texts: BTreeMap<String, Spanned<String>>) -> Result<BTreeMap<String, Template>, RuleFileError> {
    let template = |(name, text): (String, Spanned<String>)| {
        let read = Template::parse(&text.value);
        let wrong = |error| RuleFileError::at(text.referenced, format!("the template of {name}: {error}"));
        Ok((name.clone(), read.map_err(wrong)?))
    };
    texts.into_iter().map(template).collect()
}

fn duration(text: &Spanned<String>) -> Result<i64, RuleFileError> {
    if text.value == "0" {
        return Ok(0);
    }
    parse_duration(&text.value).map_err(|why| RuleFileError::at(text.referenced, why))
}

fn check_label(name: &str, at: Location) -> Result<(), RuleFileError> {
    let is_valid = name != "__name__"
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && is_metric_name(name)
        && !name.contains(':');
    if is_valid {
        Ok(())
    } else {
        Err(RuleFileError::at(at, format!("{name:?} is not the name of a label: letters of ASCII, digits and _")))
    }
}

fn is_metric_name(name: &str) -> bool {
    let is_in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    !name.is_empty() && name.chars().all(is_in_name) && !name.starts_with(|c: char| c.is_ascii_digit())
}

impl RuleFileError {
    fn at(at: Location, why: String) -> Self {
        Self { line: at.line(), column: at.column(), why }
    }

    fn of_yaml(error: serde_saphyr::Error) -> Self {
        let at = error.location();
        let text = error.without_snippet().to_string();
        let first = text.lines().next().unwrap_or_default();
        // The place is told apart, and the reader is no programmer.
        let first = first.rsplit_once(" at line ").map_or(first, |(why, _)| why);
        let hints = ["; use ", ", set DuplicateKeyPolicy"];
        let why = hints.iter().fold(first, |why, hint| why.split(hint).next().unwrap_or(why)).to_owned();
        Self { line: at.map_or(1, |at| at.line()), column: at.map_or(1, |at| at.column()), why }
    }
}
