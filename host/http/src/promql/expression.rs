//! Expressions as texts and as trees.

use super::failure::Failure;
use super::parameters::Parameters;
use super::success;
use crate::blocking::query;
use crate::peer::Peer;
use crate::{App, AppState, CallerExtension};
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use dropsonde_promql::functions::MoreArguments;
use dropsonde_promql::{
    Cardinality, Expr, ExprKind, FixedTime, Grouping, LengthKind, Matcher, MatchingLabels, Modifiers, ParseOptions,
    QueryError, Selector, ValueType, number, parse,
};
use serde_json::{Map, Value, json};

/// Answers with an expression, written so that it is easy to read.
pub(crate) async fn format_query(
    State(app): AppState,
    Extension(caller): CallerExtension,
    parameters: Parameters,
) -> Result<Response, Failure> {
    written(&app, &caller.peer, &parameters, |expr| expr.pretty().into()).await
}

/// Answers with the tree of an expression.
pub(crate) async fn parse_query(
    State(app): AppState,
    Extension(caller): CallerExtension,
    parameters: Parameters,
) -> Result<Response, Failure> {
    written(&app, &caller.peer, &parameters, tree).await
}

/// Parses the expression and writes it, off the server's threads: a long one takes a while.
async fn written(
    app: &App,
    peer: &Peer,
    parameters: &Parameters,
    write: fn(&Expr) -> Value,
) -> Result<Response, Failure> {
    let experimental = app.engine.options.load().query.experimental;
    let text = parameters.required("query")?.to_owned();
    let answer = query(app, peer, move || {
        let expr = parse(&text, ParseOptions { experimental }).map_err(QueryError::Parse)?;
        Ok::<_, QueryError>(success(&write(&expr), &[]))
    });
    Ok(answer.await??)
}

/// Returns the tree of an expression as Prometheus writes it.
fn tree(expr: &Expr) -> Value {
    match &expr.kind {
        ExprKind::Number { value, .. } => json!({ "type": "numberLiteral", "val": number::plain(*value) }),
        ExprKind::String { text, .. } => json!({ "type": "stringLiteral", "val": text }),
        ExprKind::Parentheses(inner) => json!({ "type": "parenExpr", "expr": tree(inner) }),
        ExprKind::Unary { is_negative, expr } => {
            json!({ "type": "unaryExpr", "op": if *is_negative { "-" } else { "+" }, "expr": tree(expr) })
        }
        ExprKind::Selector { selector, modifiers } => {
            Value::Object(with_modifiers(selected("vectorSelector", selector), modifiers))
        }
        ExprKind::Range { selector, range, modifiers } => {
            let mut node = with_modifiers(selected("matrixSelector", selector), modifiers);
            node.insert("range".into(), milliseconds(&range.kind).into());
            Value::Object(node)
        }
        ExprKind::Subquery { expr, range, step, modifiers } => {
            let step = step.as_ref().map_or(0, |step| milliseconds(&step.kind));
            let node = object([
                ("type", "subquery".into()),
                ("expr", tree(expr)),
                ("range", milliseconds(&range.kind).into()),
                ("step", step.into()),
            ]);
            Value::Object(with_modifiers(node, modifiers))
        }
        ExprKind::Call { function, arguments } => {
            let variadic = match function.more {
                MoreArguments::None => 0,
                MoreArguments::Optional => 1,
                MoreArguments::UpTo(more) => more as i64 + 1,
                MoreArguments::Any => -1,
            };
            let types: Vec<&str> = function.arguments.iter().map(|argument| type_name(*argument)).collect();
            let about = json!({
                "name": function.name, "argTypes": types, "variadic": variadic,
                "returnType": type_name(function.returns),
            });
            json!({ "type": "call", "func": about, "args": arguments.iter().map(tree).collect::<Vec<_>>() })
        }
        ExprKind::Aggregation { operator, grouping, parameter, expr } => {
            let (labels, is_without) = match grouping {
                Grouping::By(labels) => (labels, false),
                Grouping::Without(labels) => (labels, true),
            };
            json!({
                "type": "aggregation", "op": operator.as_str(), "expr": tree(expr),
                "param": parameter.as_ref().map(|parameter| tree(parameter)),
                "grouping": labels, "without": is_without,
            })
        }
        ExprKind::Binary { operator, is_bool, left, right, matching } => {
            let are_vectors = [left, right].iter().all(|side| side.value_type() == ValueType::Vector);
            let nothing = Vec::new();
            let (card, include) = match &matching.cardinality {
                Cardinality::OneToOne => ("one-to-one", &nothing),
                Cardinality::ManyToOne(labels) => ("many-to-one", labels),
                Cardinality::OneToMany(labels) => ("one-to-many", labels),
                Cardinality::ManyToMany => ("many-to-many", &nothing),
            };
            let (labels, is_on) = match &matching.labels {
                MatchingLabels::On(labels) => (labels, true),
                MatchingLabels::Ignoring(labels) => (labels, false),
            };
            let mut how = object([
                ("card", card.into()),
                ("labels", labels.clone().into()),
                ("on", is_on.into()),
                ("include", include.clone().into()),
            ]);
            if matching.fill_left.is_some() || matching.fill_right.is_some() {
                let values = json!({ "lhs": matching.fill_left, "rhs": matching.fill_right });
                how.insert("fillValues".into(), values);
            }
            json!({
                "type": "binaryExpr", "op": operator.as_str(), "lhs": tree(left), "rhs": tree(right),
                "matching": are_vectors.then_some(how), "bool": is_bool,
            })
        }
    }
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn selected(kind: &str, selector: &Selector) -> Map<String, Value> {
    // A name before the braces is the last matcher in Prometheus.
    let is_name = |matcher: &&Matcher| selector.name.is_some() && matcher.name == "__name__";
    let (named, others): (Vec<_>, Vec<_>) = selector.matchers.iter().partition(is_name);
    let matchers = others
        .into_iter()
        .chain(named)
        .map(|matcher| json!({ "name": matcher.name, "type": matcher.operator.as_str(), "value": matcher.value }));
    object([
        ("type", kind.into()),
        ("name", selector.name.as_deref().unwrap_or_default().into()),
        ("matchers", matchers.collect()),
    ])
}

fn with_modifiers(mut node: Map<String, Value>, modifiers: &Modifiers) -> Map<String, Value> {
    let offset_ms = modifiers.offset.as_ref().map_or(0, |offset| milliseconds(&offset.kind));
    let (at_ms, name) = match modifiers.time {
        Some(FixedTime::At(at_ms)) => (Some(at_ms), None),
        Some(FixedTime::Start) => (None, Some("start")),
        Some(FixedTime::End) => (None, Some("end")),
        None => (None, None),
    };
    node.extend(object([("offset", offset_ms.into()), ("timestamp", at_ms.into()), ("startOrEnd", name.into())]));
    node
}

/// Returns a length that is written as a number or a duration; 0 for one that depends on the query.
fn milliseconds(length: &LengthKind) -> i64 {
    match length {
        LengthKind::Seconds { value, .. } => (value * 1000.0).round() as i64,
        _ => 0,
    }
}

fn type_name(value_type: ValueType) -> &'static str {
    match value_type {
        ValueType::Scalar => "scalar",
        ValueType::String => "string",
        ValueType::Vector => "vector",
        ValueType::Matrix => "matrix",
    }
}
