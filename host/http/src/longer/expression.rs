use super::{missing, origin};
use crate::App;
use dropsonde_engine::long_history::{LongAnswer, LongHistory, LongQuery, LongSeries};
use dropsonde_engine::series::{INSTANCE, PromqlSource};
use dropsonde_model::Labels;
use dropsonde_model::labels::NAME;
use dropsonde_promql::{Expr, Matcher, ParseOptions, Points, Query, Settings, Times, Value, ValueType, parse};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The part of a query that another database has to answer.
#[derive(Debug)]
pub(crate) struct LongerQuery {
    database: Arc<dyn LongHistory>,
    question: LongQuery,
    /// The first time whose value this host can compute.
    own_from_ms: i64,
    /// The value of `instance` of this host.
    own: String,
}

/// The answer to such a part.
#[derive(Debug)]
pub(crate) struct LongerAnswer {
    query: LongerQuery,
    answer: LongAnswer,
}

impl LongerQuery {
    /// Returns the part that another database has to answer; none if there is no such part, or no such database. May
    /// visit all of history.
    pub(crate) fn of(app: &App, text: &str, times: Times, settings: Settings) -> Option<Self> {
        let database = app.engine.long_history.get()?;
        let options = ParseOptions { experimental: app.engine.options.load().query.experimental };
        // What cannot be read is explained later.
        let mut expr = parse(text, options).ok()?;
        if expr.value_type() != ValueType::Vector {
            return None;
        }
        let (start_ms, end_ms, step_ms) = match times {
            Times::At(at_ms) => (at_ms, at_ms, 1000),
            Times::Range { start_ms, end_ms, step_ms } => (start_ms, end_ms, step_ms),
        };
        let own = PromqlSource::new(&app.engine, usize::MAX).own(INSTANCE)?.to_owned();
        let own_from_ms = if is_elsewhere(&mut expr, &own) {
            i64::MAX
        } else {
            let reach = Query { expr: &expr, times, settings }.reach().ok()??;
            let begins_ms = app.engine.history_begins_ms();
            let reads_older = reach.fixed_ms.is_some_and(|at_ms| at_ms < begins_ms);
            if reads_older { i64::MAX } else { begins_ms.saturating_add(reach.back_ms) }
        };
        if start_ms >= own_from_ms {
            return None;
        }
        let before_ms = own_from_ms.saturating_sub(1).min(end_ms);
        let last_ms = start_ms.saturating_add(before_ms.saturating_sub(start_ms) / step_ms * step_ms);
        restrict(&mut expr, &own, database.labels());
        let question = LongQuery { query: expr.to_string(), start_ms, end_ms: last_ms, step_ms };
        Some(Self { database, question, own_from_ms: own_from_ms.min(last_ms.saturating_add(step_ms)), own })
    }

    /// Asks the database, which may take so long at most.
    pub(crate) async fn ask(self, longest: Duration) -> LongerAnswer {
        let asked = tokio::time::timeout(longest, self.database.ask(self.question.clone()));
        let answer = asked.await.unwrap_or_else(|_| Err("it did not answer in time".to_owned()));
        LongerAnswer { query: self, answer }
    }
}

/// A value that was joined, and what people should know of it.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) value: Value,
    pub(crate) warning: Option<String>,
    pub(crate) info: Option<String>,
}

impl LongerAnswer {
    /// Puts the answer before that of this host. Values that the database does not have are those of this host.
    pub(crate) fn join(self, own: Value) -> Joined {
        let LongerQuery { database, own_from_ms, own: name, .. } = &self.query;
        let older = match self.answer {
            Ok(older) => older,
            Err(why) => {
                let warning = Some(missing(database.name(), *own_from_ms, &why));
                return Joined { value: own, warning, info: None };
            }
        };
        let join = |own: Vec<Points>| joined(&older, own, database.labels(), name, *own_from_ms);
        let value = match own {
            Value::Vector(at_ms, own) => {
                let joined = join(own.into_iter().map(|(labels, value)| (labels, vec![(at_ms, value)])).collect());
                let newest = |(labels, points): Points| Some((labels, points.last()?.1));
                Value::Vector(at_ms, joined.into_iter().filter_map(newest).collect())
            }
            Value::Matrix(own) => Value::Matrix(join(own)),
            other => other,
        };
        Joined { value, warning: None, info: Some(origin(database.name(), *own_from_ms)) }
    }
}

/// Returns whether all series that an expression reads are those of other hosts.
fn is_elsewhere(expr: &mut Expr, own: &str) -> bool {
    let (mut selectors, mut of_others) = (0, 0);
    expr.change_selectors(&mut |selector| {
        selectors += 1;
        let is_of_other = |matcher: &Matcher| matcher.name == INSTANCE && !matcher.matches(own);
        of_others += usize::from(selector.matchers.iter().any(is_of_other));
    });
    selectors > 0 && selectors == of_others
}

/// Restricts an expression to the series of this host, where it does not say whose series it reads.
fn restrict(expr: &mut Expr, own: &str, labels: &BTreeMap<String, String>) {
    expr.change_selectors(&mut |selector| {
        if selector.matchers.iter().any(|matcher| matcher.name == INSTANCE) {
            return;
        }
        let of_host = labels.iter().map(|(name, value)| (&**name, &**value)).chain([(INSTANCE, own)]);
        for (name, value) in of_host {
            if selector.matchers.iter().all(|matcher| matcher.name != name) {
                selector.matchers.push(Matcher::equal(name, value));
            }
        }
    });
}

/// Returns labels without those that series have in the database alone.
fn without(labels: &Labels, added: &BTreeMap<String, String>) -> Labels {
    if added.is_empty() {
        return labels.clone();
    }
    Labels::from_sorted(labels.iter().filter(|(name, value)| added.get(*name).is_none_or(|added| added != value)))
}

/// Joins series: before `from_ms` their values are those of the database, where it has the series.
fn joined(
    older: &[LongSeries],
    own: Vec<Points>,
    added: &BTreeMap<String, String>,
    own_name: &str,
    from_ms: i64,
) -> Vec<Points> {
    let mut own: BTreeMap<Labels, Vec<(i64, f64)>> = own.into_iter().collect();
    for (labels, points) in older {
        let labels = without(labels, added);
        let known = |labels: &Labels| own.contains_key(labels);
        // Results of rules have this label there only. VictoriaMetrics keeps the names of some results.
        let lacks_host = |(name, value): &(&str, &str)| (*name, *value) != (INSTANCE, own_name);
        let of_rule = || Labels::from_sorted(labels.iter().filter(lacks_host));
        let nameless = || Labels::from_sorted(labels.iter().filter(|(name, _)| *name != NAME));
        let labels =
            [of_rule(), nameless()].into_iter().find(|other| !known(&labels) && known(other)).unwrap_or(labels);
        let all = own.entry(labels).or_default();
        let newer: Vec<(i64, f64)> = std::mem::take(all).into_iter().filter(|(at_ms, _)| *at_ms >= from_ms).collect();
        all.extend(points.iter().filter(|(at_ms, _)| *at_ms < from_ms).copied());
        all.extend(newer);
    }
    own.into_iter().filter(|(_, points)| !points.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expr(text: &str) -> Expr {
        parse(text, ParseOptions::default()).unwrap()
    }

    #[test]
    fn an_expression_is_asked_for_this_host_unless_it_names_another() {
        let labels = BTreeMap::from([("site".to_owned(), "fra1".to_owned())]);
        let of = |text: &str| {
            let mut expr = expr(text);
            restrict(&mut expr, "a:9090", &labels);
            expr.to_string()
        };
        assert_eq!(of("up"), r#"up{instance="a:9090",site="fra1"}"#);
        assert_eq!(
            of("sum by (id) (rate(x_total{id=~\"web.*\"}[5m] offset 1h)) / 2"),
            r#"sum by (id) (rate(x_total{id=~"web.*",instance="a:9090",site="fra1"}[5m] offset 1h)) / 2"#
        );
        assert_eq!(of(r#"up{instance=~".+"}"#), r#"up{instance=~".+"}"#);
    }

    #[test]
    fn series_of_other_hosts_are_elsewhere() {
        let of = |text: &str| is_elsewhere(&mut expr(text), "a");
        assert!(of(r#"up{instance="b"}"#) && of(r#"up{instance="b"} / down{instance!="a"}"#));
        assert!(!of("up") && !of(r#"up{instance="b"} / down"#) && !of(r#"up{instance=~"a|b"}"#) && !of("time()"));
    }

    #[test]
    fn values_of_the_database_come_before_those_of_this_host() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<Labels>();
        let added = BTreeMap::from([("site".to_owned(), "fra1".to_owned())]);
        let older = vec![
            (labels(&[("id", "1"), ("site", "fra1")]), vec![(0, 1.0), (10, 2.0), (20, 9.0)]),
            (labels(&[("instance", "a"), ("rule", "r")]), vec![(0, 5.0)]),
            (labels(&[("id", "gone")]), vec![(10, 7.0)]),
        ];
        let own = vec![
            (labels(&[("id", "1")]), vec![(10, 8.0), (20, 3.0)]),
            (labels(&[("rule", "r")]), vec![(20, 6.0)]),
            (labels(&[("id", "short")]), vec![(10, 4.0)]),
        ];
        let joined = joined(&older, own, &added, "a", 20);
        assert_eq!(
            joined,
            [
                (labels(&[("id", "1")]), vec![(0, 1.0), (10, 2.0), (20, 3.0)]),
                (labels(&[("id", "gone")]), vec![(10, 7.0)]),
                (labels(&[("id", "short")]), vec![(10, 4.0)]),
                (labels(&[("rule", "r")]), vec![(0, 5.0), (20, 6.0)]),
            ]
        );
    }
}
