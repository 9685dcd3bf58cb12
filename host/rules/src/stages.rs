//! Divides the rules of a group into those that can be recorded together: they read nothing of one another.

use crate::alert::{ALERTS, ALERTS_FOR_STATE};
use crate::file::{Rule, RuleKind};
use dropsonde_model::labels::NAME;
use dropsonde_promql::{Expr, ExprKind, Matcher, Selector};
use std::collections::BTreeSet;
use std::ops::Range;

/// Divides rules into stages, in order. A rule reads what rules of earlier stages made, and nothing of its own stage.
pub(crate) fn stages(rules: &[Rule]) -> Vec<Range<usize>> {
    let mut stages = Vec::new();
    let mut begin = 0;
    let mut made = BTreeSet::new();
    for (nth, rule) in rules.iter().enumerate() {
        if reads_one_of(rule, &made) {
            stages.push(begin..nth);
            begin = nth;
            made.clear();
        }
        match &rule.kind {
            RuleKind::Recording { record, .. } => made.extend([record.as_str()]),
            RuleKind::Alerting(_) => made.extend([ALERTS, ALERTS_FOR_STATE]),
        }
    }
    if begin < rules.len() {
        stages.push(begin..rules.len());
    }
    stages
}

fn reads_one_of(rule: &Rule, made: &BTreeSet<&str>) -> bool {
    if made.is_empty() {
        return false;
    }
    // A template can ask for any series.
    let is_query = |template: &crate::Template| template.text().contains("query");
    let asks = match &rule.kind {
        RuleKind::Recording { .. } => false,
        RuleKind::Alerting(alerting) => alerting.labels.values().chain(alerting.annotations.values()).any(is_query),
    };
    asks || selects_one_of(&rule.expr, made)
}

fn selects_one_of(expr: &Expr, made: &BTreeSet<&str>) -> bool {
    match &expr.kind {
        ExprKind::Selector { selector, .. } | ExprKind::Range { selector, .. } => may_select(selector, made),
        _ => expr.children().into_iter().any(|child| selects_one_of(child, made)),
    }
}

fn may_select(selector: &Selector, made: &BTreeSet<&str>) -> bool {
    let of_name: Vec<&Matcher> = selector.matchers.iter().filter(|matcher| matcher.name == NAME).collect();
    match &of_name[..] {
        [one] if !one.is_negated() && selector.name.is_some() => made.contains(one.value.as_str()),
        _ => made.iter().any(|name| of_name.iter().all(|matcher| matcher.matches(name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RuleFile;

    /// Returns how many rules each stage has.
    fn of(rules: &str) -> Vec<usize> {
        let file = RuleFile::parse(&format!("groups:\n- name: g\n  rules:\n{rules}")).unwrap();
        stages(&file.groups[0].rules).iter().map(Range::len).collect()
    }

    #[test]
    fn rules_that_read_what_an_earlier_one_makes_are_in_a_later_stage() {
        assert_eq!(of("  - {record: a, expr: x}\n  - {record: b, expr: x}\n"), [2]);
        assert_eq!(of("  - {record: a, expr: x}\n  - {record: b, expr: 'sum(rate(a[5m]))'}\n"), [1, 1]);
        assert_eq!(of("  - {record: a, expr: b}\n  - {record: b, expr: x}\n  - {record: c, expr: b}\n"), [2, 1]);
        assert_eq!(of("  - {record: ab, expr: x}\n  - {record: c, expr: '{__name__=~\"a.*\"}'}\n"), [1, 1]);
        assert_eq!(of("  - {record: ab, expr: x}\n  - {record: c, expr: '{job=\"j\"}'}\n"), [1, 1]);
    }

    #[test]
    fn alerts_make_series_that_other_rules_can_read() {
        assert_eq!(of("  - {alert: A, expr: x}\n  - {alert: B, expr: y}\n"), [2]);
        assert_eq!(of("  - {alert: A, expr: x}\n  - {record: n, expr: count(ALERTS)}\n"), [1, 1]);
    }

    #[test]
    fn a_template_that_asks_for_series_may_read_all_of_them() {
        let asks = "  - {record: a, expr: x}\n  - {alert: B, expr: y, annotations: {n: '{{ query \"a\" }}'}}\n";
        assert_eq!(of(asks), [1, 1]);
    }
}
