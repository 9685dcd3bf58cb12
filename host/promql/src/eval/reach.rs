//! How far back an expression reads.

use super::plan::{Moved, Node, NodeKind, plan};
use crate::query::{Query, Reach};
use crate::source::QueryError;

/// Returns how far back a query reads; none if it reads no series.
pub(crate) fn reach(query: &Query<'_>) -> Result<Option<Reach>, QueryError> {
    Ok(of(&plan(query)?, query.settings.lookback_ms))
}

fn of(node: &Node, lookback_ms: i64) -> Option<Reach> {
    let within = |inner: Option<Reach>, moved: &Moved, length_ms: i64| {
        let inner = inner?;
        let back_ms = inner.back_ms.saturating_add(moved.offset_ms).saturating_add(length_ms);
        Some(match moved.fixed_ms {
            Some(at_ms) => {
                Reach { back_ms: i64::MIN, fixed_ms: earlier(inner.fixed_ms, Some(at_ms.saturating_sub(back_ms))) }
            }
            None => Reach { back_ms, ..inner },
        })
    };
    let here = Some(Reach { back_ms: 0, fixed_ms: None });
    let all = |nodes: &mut dyn Iterator<Item = &Node>| {
        nodes.filter_map(|node| of(node, lookback_ms)).reduce(|one, other| Reach {
            back_ms: one.back_ms.max(other.back_ms),
            fixed_ms: earlier(one.fixed_ms, other.fixed_ms),
        })
    };
    match &node.kind {
        NodeKind::Number(_) | NodeKind::String { .. } => None,
        NodeKind::Newest(selection) => within(here, &selection.moved, lookback_ms),
        NodeKind::Window { selection, range_ms } => within(here, &selection.moved, *range_ms),
        // Its steps are multiples of their length: the first one can be nearly a step earlier.
        NodeKind::Subquery { inner, moved, range_ms, step_ms } => {
            within(of(inner, lookback_ms), moved, range_ms.saturating_add(*step_ms))
        }
        NodeKind::Negative(inner) | NodeKind::Once(inner) => of(inner, lookback_ms),
        NodeKind::Call { arguments, .. } => all(&mut arguments.iter()),
        NodeKind::Aggregation { parameter, inner, .. } => all(&mut parameter.iter().chain([inner]).map(|node| &**node)),
        NodeKind::Binary { left, right, .. } => all(&mut [left, right].into_iter().map(|node| &**node)),
    }
}

fn earlier(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ParseOptions, Settings, Times, parse};

    #[test]
    fn the_reach_of_an_expression_is_that_of_its_longest_part() {
        let of = |text: &str| {
            let expr = parse(text, ParseOptions::default()).unwrap();
            let times = Times::Range { start_ms: 1_000_000, end_ms: 2_000_000, step_ms: 1000 };
            let reach = reach(&Query { expr: &expr, times, settings: Settings::default() }).unwrap();
            reach.map(|reach| (reach.back_ms, reach.fixed_ms))
        };
        assert_eq!(of("1 + time()"), None);
        assert_eq!(of("up"), Some((300_000, None)));
        assert_eq!(of("up offset 1m - rate(x[10m])"), Some((600_000, None)));
        assert_eq!(of("max_over_time(rate(x[1m])[10m:30s] offset 1h)"), Some((4_290_000, None)));
        assert_eq!(of("up @ 500 + down"), Some((300_000, Some(200_000))));
        assert_eq!(of("x @ start() offset -1m"), Some((i64::MIN, Some(760_000))));
        assert_eq!(of("sum_over_time((x @ 900)[1h:1m] @ 400)"), Some((i64::MIN, Some(600_000))));
    }
}
