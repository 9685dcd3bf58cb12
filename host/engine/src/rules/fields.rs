//! Alerts of the configuration. Their conditions name fields of samples and of the snapshot; they are evaluated as
//! PromQL over the metrics of those fields.

use super::GroupId;
use super::files::LoadedGroup;
use crate::Engine;
use crate::options::AlertConfig;
use crate::plugins::{FieldMetric, Fields};
use crate::snapshot::NUMBERS;
use dropsonde_model::{Kind, Span, nearest};
use dropsonde_promql::{Expr, ExprKind, MatchOperator, Matcher, Modifiers, ParseOptions, Selector, parse};
use dropsonde_rules::{AlertingRule, Rule, RuleGroup, RuleKind, Template};
use glob::Pattern;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The name of the configuration, in place of a rule file.
pub(super) const FILE: &str = "configuration";

/// The name of the group of these alerts.
const GROUP: &str = "alerts";

/// Polls that a rate of a counter looks back over.
const POLLS: u32 = 4;

/// The alerts of the configuration.
#[derive(Debug, Clone, Default)]
pub(super) struct FieldAlerts(Vec<AlertConfig>);

/// A metric that holds a field.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FieldSource {
    metric: String,
    /// The factor from the metric's value to the field's.
    scale: f64,
    /// Whether the field is the rate of the metric.
    is_rate: bool,
    /// Whether the metric has the labels of an instance.
    has_instance: bool,
}

/// The metrics of all fields, by the fields' names.
pub(super) type FieldSources = BTreeMap<String, Vec<FieldSource>>;

impl FieldAlerts {
    pub(super) fn of(alerts: &[AlertConfig]) -> Self {
        Self(alerts.to_vec())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the alerts as a group, and which of them name a field that nothing has, a sentence each. `sources` has
    /// the fields that were known before: those of a plugin that is gone for a moment stay.
    pub(super) fn compile(&self, engine: &Engine, sources: &mut FieldSources) -> ((GroupId, LoadedGroup), Vec<String>) {
        let interval = engine.options.load().poll.interval.get();
        sources.extend(current_sources(engine));
        let mut unknown = Vec::new();
        let mut rules = Vec::new();
        for alert in &self.0 {
            let mut missing = BTreeSet::new();
            let when = parse(&alert.when, ParseOptions::default()).ok();
            let text = when.map(|when| translated(&when, alert, sources, interval, &mut missing)).unwrap_or_default();
            // Metrics can be named too.
            missing
                .retain(|name| engine.store.count_series(&[dropsonde_store::LabelMatcher::is("__name__", name)]) == 0);
            if let Some(name) = missing.first() {
                let known = nearest::nearest(name, sources.keys().map(String::as_str));
                let hint = known.map(|known| format!("; did you mean {known}?")).unwrap_or_default();
                unknown.push(format!("the alert {:?} cannot fire: nothing has a field {name}{hint}", alert.name));
            }
            rules.extend(rule(alert, &text));
        }
        // Rules by their names: readers expect firing ones in this order.
        rules.sort_by(|a, b| a.name().cmp(b.name()));
        let text: Vec<String> = rules.iter().map(|rule| format!("{}: {}", rule.name(), rule.expr)).collect();
        let file_hash = blake3::hash(format!("{:?} {text:?} {interval:?}", self.0).as_bytes());
        let interval_ms = i64::try_from(interval.as_millis().max(1000)).ok();
        let group = RuleGroup { name: GROUP.to_owned(), interval_ms, query_offset_ms: 0, limit: None, rules };
        ((GroupId { file: FILE.into(), name: GROUP.into() }, LoadedGroup { group, file_hash }), unknown)
    }
}

/// Returns the rule of an alert with its condition in PromQL.
fn rule(alert: &AlertConfig, when: &str) -> Option<Rule> {
    let milliseconds = |span: Option<Span>| span.map_or(0, Span::as_ms);
    let template = |text: &str| Template::parse(text).ok();
    let usual = format!("{}: it is {{{{ $value | printf \"%.4g\" }}}}", alert.when.replace("{{", "{ {"));
    let summary = template(alert.summary.as_deref().unwrap_or(&usual))?;
    let kind = RuleKind::Alerting(Box::new(AlertingRule {
        name: alert.name.clone(),
        for_ms: milliseconds(alert.for_time),
        keep_firing_for_ms: milliseconds(alert.keep_firing_for),
        labels: BTreeMap::from([("severity".to_owned(), template(alert.severity.as_str())?)]),
        annotations: BTreeMap::from([("summary".to_owned(), summary)]),
    }));
    Some(Rule { expr: parse(when, ParseOptions::default()).ok()?, kind })
}

/// Returns the metrics of all fields that there are.
fn current_sources(engine: &Engine) -> FieldSources {
    let mut sources = FieldSources::new();
    for number in NUMBERS {
        let metric = format!("dropsonde_snapshot_{}", number.metric);
        let source = FieldSource { metric, scale: 1.0, is_rate: false, has_instance: false };
        sources.entry(number.field.to_owned()).or_default().push(source);
    }
    for plugin in engine.plugins.list() {
        let Some(Fields { schema, metrics, .. }) = plugin.fields() else { continue };
        for (field, metric) in schema.fields().iter().zip(metrics.iter()) {
            let source = of_field(field.kind, metric);
            let known = sources.entry(field.name.to_string()).or_default();
            if !known.contains(&source) {
                known.push(source);
            }
        }
    }
    sources
}

fn of_field(kind: Kind, metric: &FieldMetric) -> FieldSource {
    let (scale, is_rate) = match kind {
        Kind::Counter { scale } => (scale, true),
        Kind::Gauge => (1.0 / metric.factor, false),
    };
    FieldSource { metric: metric.name.clone(), scale, is_rate, has_instance: true }
}

/// Writes a condition with the metrics of its fields. Adds the names that are no fields to `missing`.
fn translated(
    when: &Expr,
    alert: &AlertConfig,
    sources: &FieldSources,
    interval: Duration,
    missing: &mut BTreeSet<String>,
) -> String {
    let text = &alert.when;
    let mut places = Vec::new();
    selectors(when, &mut places);
    places.sort_by_key(|place| std::cmp::Reverse(place.at.start));
    let mut translated = text.clone();
    for place in places {
        let Some(replacement) = of_selector(place, text, alert, sources, interval, missing) else { continue };
        translated.replace_range(place.at.clone(), &replacement);
    }
    translated
}

/// Collects the selectors of an expression.
fn selectors<'a>(expr: &'a Expr, found: &mut Vec<&'a Expr>) {
    match &expr.kind {
        ExprKind::Selector { .. } | ExprKind::Range { .. } => found.push(expr),
        _ => expr.children().into_iter().for_each(|child| selectors(child, found)),
    }
}

/// Returns what takes the place of a selector; none if it stays.
fn of_selector(
    place: &Expr,
    text: &str,
    alert: &AlertConfig,
    sources: &FieldSources,
    interval: Duration,
    missing: &mut BTreeSet<String>,
) -> Option<String> {
    let (ExprKind::Selector { selector, .. } | ExprKind::Range { selector, .. }) = &place.kind else { return None };
    let name = selector.name.as_deref()?;
    let Some(known) = sources.get(name) else {
        missing.insert(name.to_owned());
        return None;
    };
    let written = text.get(place.at.clone())?;
    // A range or a modifier stands behind the selector.
    let bare = |selector: Selector| {
        let kind = ExprKind::Selector { selector, modifiers: Modifiers::default() };
        Expr { kind, at: place.at.clone() }.to_string()
    };
    let step_ms = interval.as_millis();
    let (range, modifier) = match &place.kind {
        ExprKind::Range { .. } => {
            let (_, behind) = written.rsplit_once('[')?;
            let (range, modifier) = behind.split_once(']')?;
            (Some(range), modifier)
        }
        // The name comes first, then the matchers in braces, then modifiers.
        _ => (
            None,
            written.rsplit_once('}').map_or_else(|| written.trim_start().strip_prefix(name), |(_, rest)| Some(rest))?,
        ),
    };
    let each = known.iter().map(|source| {
        let named = bare(source.selector(selector, alert));
        let modifier = if range.is_some() { "" } else { modifier };
        let value = if source.is_rate {
            format!("rate({named}[{}ms]{modifier})", step_ms * u128::from(POLLS))
        } else {
            format!("{named}{modifier}")
        };
        source.scaled(value)
    });
    let all = format!("({})", each.collect::<Vec<_>>().join(" or "));
    Some(match range {
        Some(range) => format!("{all}[{range}:{step_ms}ms]{modifier}"),
        None => all,
    })
}

impl FieldSource {
    /// Returns a selector of the metric, narrowed to the instances of an alert.
    fn selector(&self, given: &Selector, alert: &AlertConfig) -> Selector {
        let mut matchers: Vec<Matcher> =
            given.matchers.iter().filter(|matcher| matcher.name != "__name__").cloned().collect();
        matchers.insert(0, Matcher::equal("__name__", self.metric.clone()));
        if self.has_instance {
            let glob = alert.instance.as_deref();
            matchers.extend(glob.and_then(|glob| Matcher::new("id", MatchOperator::Regex, regex_of(glob)).ok()));
            matchers.extend(alert.labels.iter().map(|(name, value)| Matcher::equal(name, value)));
        }
        Selector { name: Some(self.metric.clone()), matchers }
    }

    fn scaled(&self, value: String) -> String {
        let inverse = 1.0 / self.scale;
        if self.scale == 1.0 {
            value
        } else if self.scale < 1.0 && (inverse - inverse.round()).abs() < 1e-6 * inverse {
            format!("{value} / {}", inverse.round())
        } else {
            format!("{value} * {}", self.scale)
        }
    }
}

/// Returns the regular expression of a glob.
fn regex_of(glob: &str) -> String {
    // A configuration with an invalid glob is refused.
    debug_assert!(Pattern::new(glob).is_ok());
    let mut regex = String::new();
    let mut characters = glob.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            '[' => {
                regex.push('[');
                if characters.next_if_eq(&'!').is_some() {
                    regex.push('^');
                }
                let mut is_first = true;
                for c in characters.by_ref() {
                    match c {
                        ']' if !is_first => break,
                        '\\' | '[' | ']' | '^' | '&' | '~' => regex.extend(['\\', c]),
                        c => regex.push(c),
                    }
                    is_first = false;
                }
                regex.push(']');
            }
            c if c.is_ascii_alphanumeric() || !c.is_ascii() => regex.push(c),
            c => regex.extend(['\\', c]),
        }
    }
    regex
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> FieldSources {
        let gauge = |metric: &str, scale| FieldSource {
            metric: format!("dropsonde_sample_{metric}"),
            scale,
            is_rate: false,
            has_instance: true,
        };
        let rate = FieldSource { is_rate: true, ..gauge("cpu_seconds_total", 100.0) };
        let snapshot = FieldSource { has_instance: false, ..gauge("queue", 1.0) };
        FieldSources::from([
            ("memory_used_mb".to_owned(), vec![gauge("memory_used_bytes", 1.0 / 1_048_576.0)]),
            ("load".to_owned(), vec![gauge("load", 1.0)]),
            ("idle_percent".to_owned(), vec![gauge("idle_ratio", 100.0)]),
            ("cpu_percent".to_owned(), vec![rate]),
            ("depth".to_owned(), vec![gauge("depth", 1.0), gauge("depth_other", 1.0)]),
            ("queue".to_owned(), vec![snapshot]),
        ])
    }

    fn in_promql(alert: &str) -> String {
        let alert: AlertConfig = toml::from_str(&format!("name = 'a'\n{alert}")).unwrap();
        let when = parse(&alert.when, ParseOptions::default()).unwrap();
        let mut missing = BTreeSet::new();
        let text = translated(&when, &alert, &known(), Duration::from_secs(10), &mut missing);
        assert!(parse(&text, ParseOptions::default()).is_ok(), "{text}");
        format!("{text}{}", missing.into_iter().map(|name| format!(" !{name}")).collect::<String>())
    }

    #[test]
    fn fields_become_their_metrics_in_the_fields_own_units() {
        for (when, expected) in [
            ("when = 'load > 2'", "(dropsonde_sample_load) > 2"),
            ("when = 'memory_used_mb > 9'", "(dropsonde_sample_memory_used_bytes / 1048576) > 9"),
            ("when = 'idle_percent < 5'", "(dropsonde_sample_idle_ratio * 100) < 5"),
            ("when = 'cpu_percent > 90'", "(rate(dropsonde_sample_cpu_seconds_total[40000ms]) * 100) > 90"),
            ("when = 'depth > 1'", "(dropsonde_sample_depth or dropsonde_sample_depth_other) > 1"),
            ("when = 'other > load'", "other > (dropsonde_sample_load) !other"),
        ] {
            assert_eq!(in_promql(when), expected);
        }
    }

    #[test]
    fn ranges_and_modifiers_of_fields_stay() {
        for (when, expected) in [
            ("when = 'load offset 5m > 2'", "(dropsonde_sample_load offset 5m) > 2"),
            ("when = 'load{sampler=\"p\"} offset 5m > 2'", "(dropsonde_sample_load{sampler=\"p\"} offset 5m) > 2"),
            (
                "when = 'avg_over_time(idle_percent[5m] offset 1h) > 2'",
                "avg_over_time((dropsonde_sample_idle_ratio * 100)[5m:10000ms] offset 1h) > 2",
            ),
        ] {
            assert_eq!(in_promql(when), expected);
        }
    }

    #[test]
    fn an_alert_can_be_about_some_instances() {
        let alert = "when = 'load > queue'\ninstance = 'web-*.x'\nlabels = { team = 'a' }";
        let expected = "(dropsonde_sample_load{id=~\"web\\\\-.*\\\\.x\",team=\"a\"}) > (dropsonde_sample_queue)";
        assert_eq!(in_promql(alert), expected);
    }

    #[test]
    fn globs_match_the_same_as_regular_expressions() {
        for glob in ["web-*", "a?c", "[ab]x", "[!ab]x", "a.b", "a+b", "*"] {
            let regex = Matcher::new("id", MatchOperator::Regex, regex_of(glob)).unwrap();
            for text in ["web-1", "abc", "ax", "cx", "a.b", "axb", "a+b", ""] {
                assert_eq!(regex.matches(text), Pattern::new(glob).unwrap().matches(text), "{glob} {text}");
            }
        }
    }
}
