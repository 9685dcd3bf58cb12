//! Checks what may stand where in an expression.

use crate::ast::{Cardinality, Expr, ExprKind, Matching, MatchingLabels, ValueType};
use crate::error::ParseError;
use std::ops::Range;

/// Checks an expression and its parts. Returns the first mistake.
pub(super) fn check(text: &str, expr: &Expr) -> Result<(), ParseError> {
    let fail = |at: &Range<usize>, why: String| Err(ParseError::new(text, at.clone(), why));
    for child in expr.children() {
        check(text, child)?;
    }
    match &expr.kind {
        ExprKind::Call { function, arguments } => {
            let (name, (least, most)) = (function.name, function.argument_counts());
            if !(least..=most).contains(&arguments.len()) {
                let expected = match most {
                    _ if least == most => least.to_string(),
                    usize::MAX => format!("at least {least}"),
                    _ => format!("{least} to {most}"),
                };
                return fail(&expr.at, format!("`{name}` takes {expected} argument(s), but has {}", arguments.len()));
            }
            for (nth, argument) in arguments.iter().enumerate() {
                let wanted = function.arguments.get(nth).or(function.arguments.last());
                if wanted.is_some_and(|wanted| *wanted != argument.value_type()) {
                    let wanted = wanted.map_or("", |wanted| wanted.as_str());
                    return fail(&argument.at, format!("`{name}` takes {}", instead(wanted, argument)));
                }
            }
        }
        ExprKind::Aggregation { operator, parameter, expr: inner, .. } => {
            let name = operator.as_str();
            if inner.value_type() != ValueType::Vector {
                let wanted = instead(ValueType::Vector.as_str(), inner);
                return fail(&inner.at, format!("`{name}` aggregates {wanted}"));
            }
            if let Some((wanted, parameter)) = operator.parameter().zip(parameter.as_ref())
                && wanted != parameter.value_type()
            {
                let wanted = instead(wanted.as_str(), parameter);
                return fail(&parameter.at, format!("the parameter of `{name}` must be {wanted}"));
            }
        }
        ExprKind::Unary { expr: inner, .. } if !matches!(inner.value_type(), ValueType::Scalar | ValueType::Vector) => {
            let found = inner.value_type().as_str();
            return fail(&expr.at, format!("a sign cannot stand before a {found}"));
        }
        ExprKind::Subquery { expr: inner, .. } if inner.value_type() != ValueType::Vector => {
            let wanted = instead(ValueType::Vector.as_str(), inner);
            return fail(&expr.at, format!("a subquery must stand behind {wanted}"));
        }
        ExprKind::Binary { operator, is_bool, left, right, matching } => {
            let name = operator.as_str();
            let (left_type, right_type) = (left.value_type(), right.value_type());
            let place = operator_place(text, left, right);
            if *is_bool && !operator.is_comparison() {
                return fail(&place, "`bool` can stand only behind a comparison".to_owned());
            }
            for side in [left, right] {
                if !matches!(side.value_type(), ValueType::Scalar | ValueType::Vector) {
                    let wanted = instead("scalar or an instant vector", side);
                    return fail(&side.at, format!("each side of `{name}` must be {wanted}"));
                }
            }
            let are_scalars = left_type == ValueType::Scalar && right_type == ValueType::Scalar;
            if operator.is_comparison() && !is_bool && are_scalars {
                return fail(&place, format!("a comparison of scalars must be written `{name} bool`"));
            }
            let are_vectors = left_type == ValueType::Vector && right_type == ValueType::Vector;
            if operator.is_on_sets() && !are_vectors {
                return fail(&expr.at, format!("`{name}` works on instant vectors only, not on scalars"));
            }
            if let Err(why) = check_matching(matching, operator.is_on_sets(), are_vectors) {
                return fail(&place, why);
            }
        }
        _ => {}
    }
    Ok(())
}

fn check_matching(matching: &Matching, is_on_sets: bool, are_vectors: bool) -> Result<(), String> {
    let labels = match &matching.labels {
        MatchingLabels::On(labels) | MatchingLabels::Ignoring(labels) => labels,
    };
    let fills = matching.fill_left.is_some() || matching.fill_right.is_some();
    if !are_vectors && !labels.is_empty() {
        return Err("`on` and `ignoring` match instant vectors only, not scalars".to_owned());
    }
    if !are_vectors && fills {
        return Err("`fill` works between instant vectors only".to_owned());
    }
    if is_on_sets && fills {
        return Err("`fill` does not work with operators on sets".to_owned());
    }
    match &matching.cardinality {
        Cardinality::ManyToOne(_) | Cardinality::OneToMany(_) if is_on_sets => {
            Err("`group_left` and `group_right` do not work with operators on sets".to_owned())
        }
        Cardinality::ManyToOne(included) | Cardinality::OneToMany(included) => {
            let is_on = matches!(matching.labels, MatchingLabels::On(_));
            match included.iter().find(|label| is_on && labels.contains(label)) {
                Some(label) => Err(format!("the label `{label}` must not be both in `on` and in the group")),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Says what was expected, and what there is instead.
fn instead(wanted: &str, found: &Expr) -> String {
    let article = if wanted.starts_with('i') { "an" } else { "a" };
    let found = found.value_type().as_str();
    let its_article = if found.starts_with('i') { "an" } else { "a" };
    format!("{article} {wanted}, but this is {its_article} {found}")
}

/// Returns the place of the operator between two operands.
fn operator_place(text: &str, left: &Expr, right: &Expr) -> Range<usize> {
    let between = text.get(left.at.end..right.at.start).unwrap_or_default();
    let start = left.at.end + (between.len() - between.trim_start().len());
    start..start + between.trim().len()
}
