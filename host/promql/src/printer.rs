//! Writes expressions as Prometheus does.

use crate::ast::{
    BinaryOperator, Cardinality, Expr, ExprKind, FixedTime, Grouping, Length, LengthKind, Matching, MatchingLabels,
    Modifiers, Selector,
};
use crate::matcher::{MatchOperator, Matcher};
use crate::number;
use crate::quoted::quoted;
use dropsonde_model::labels::NAME;
use std::fmt::{self, Display, Formatter};

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Number { value, is_duration: true } => f.write_str(&number::duration(milliseconds(*value))),
            ExprKind::Number { value, .. } => f.write_str(&number::plain(*value)),
            ExprKind::String { invalid: Some(written), .. } => f.write_str(written),
            ExprKind::String { text, .. } => f.write_str(&quoted(text)),
            ExprKind::Selector { selector, modifiers } => write!(f, "{selector}{modifiers}"),
            ExprKind::Range { selector, range, modifiers } => write!(f, "{selector}[{range}]{modifiers}"),
            ExprKind::Subquery { expr, range, step, modifiers } => {
                write!(f, "{expr}[{range}:")?;
                if let Some(step) = step {
                    write!(f, "{step}")?;
                }
                write!(f, "]{modifiers}")
            }
            ExprKind::Call { function, arguments } => {
                write!(f, "{}(", function.name)?;
                separated(f, arguments.iter())?;
                f.write_str(")")
            }
            ExprKind::Aggregation { operator, grouping, parameter, expr } => {
                write!(f, "{}{grouping}(", operator.as_str())?;
                if let Some(parameter) = parameter {
                    write!(f, "{parameter}, ")?;
                }
                write!(f, "{expr})")
            }
            ExprKind::Unary { is_negative, expr } => write!(f, "{}{expr}", if *is_negative { '-' } else { '+' }),
            ExprKind::Binary { operator, is_bool, left, right, matching } => {
                let bool = if *is_bool { " bool" } else { "" };
                match base(*operator, left) {
                    Some(base) => f.write_str(base)?,
                    None => write!(f, "{left}")?,
                }
                write!(f, " {}{bool}{matching} {right}", operator.as_str())
            }
            ExprKind::Parentheses(expr) => write!(f, "({expr})"),
        }
    }
}

/// Returns how the base of a power is written if it is infinite: the sign of `+Inf` would be that of the whole power.
fn base(operator: BinaryOperator, left: &Expr) -> Option<&'static str> {
    let is_infinite = matches!(left.kind, ExprKind::Number { value: f64::INFINITY, .. });
    (operator == BinaryOperator::Power && is_infinite).then_some("Inf")
}

/// Longer expressions are written on several lines.
const LONGEST_LINE: usize = 100;

impl Expr {
    /// Writes an expression on several lines if it is long, each part indented by its depth.
    pub fn pretty(&self) -> String {
        self.indented(0)
    }

    fn indented(&self, depth: usize) -> String {
        let indent = "  ".repeat(depth);
        let line = self.to_string();
        if line.len() <= LONGEST_LINE {
            return indent + &line;
        }
        match &self.kind {
            ExprKind::Binary { operator, is_bool, left, right, matching } => {
                let bool = if *is_bool { " bool" } else { "" };
                let left = match base(*operator, left) {
                    Some(base) => format!("{indent}  {base}"),
                    None => left.indented(depth + 1),
                };
                let right = right.indented(depth + 1);
                format!("{left}\n{indent}{}{bool}{matching}\n{right}", operator.as_str())
            }
            ExprKind::Call { function, arguments } => {
                let arguments: Vec<String> = arguments.iter().map(|argument| argument.indented(depth + 1)).collect();
                format!("{indent}{}(\n{}\n{indent})", function.name, arguments.join(",\n"))
            }
            ExprKind::Aggregation { operator, grouping, parameter, expr } => {
                let inner = parameter.iter().chain([expr]).map(|part| part.indented(depth + 1)).collect::<Vec<_>>();
                format!("{indent}{}{}(\n{}\n{indent})", operator.as_str(), grouping, inner.join(",\n"))
            }
            ExprKind::Parentheses(inner) => format!("{indent}(\n{}\n{indent})", inner.indented(depth + 1)),
            ExprKind::Unary { is_negative, expr } => {
                let sign = if *is_negative { '-' } else { '+' };
                format!("{indent}{sign}{}", expr.indented(depth).trim_start())
            }
            ExprKind::Subquery { expr, .. } => {
                let behind = line.strip_prefix(&expr.to_string()).unwrap_or_default().to_owned();
                expr.indented(depth) + &behind
            }
            _ => indent + &line,
        }
    }
}

impl Display for Grouping {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Without(labels) => write!(f, " without ({}) ", Names(labels)),
            Self::By(labels) if !labels.is_empty() => write!(f, " by ({}) ", Names(labels)),
            Self::By(_) => Ok(()),
        }
    }
}

impl Display for Selector {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name.as_deref().unwrap_or_default())?;
        let is_name = |matcher: &&Matcher| {
            matcher.name == NAME
                && matcher.operator == MatchOperator::Equal
                && self.name.as_ref() == Some(&matcher.value)
        };
        let mut matchers: Vec<String> =
            self.matchers.iter().filter(|matcher| !is_name(matcher)).map(ToString::to_string).collect();
        if matchers.is_empty() {
            return if self.name.is_none() { f.write_str("{}") } else { Ok(()) };
        }
        matchers.sort();
        write!(f, "{{{}}}", matchers.join(","))
    }
}

impl Display for Matcher {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", Name(&self.name), self.operator.as_str(), quoted(&self.value))
    }
}

impl Display for Modifiers {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.time {
            Some(FixedTime::At(at_ms)) => write!(f, " @ {:.3}", at_ms as f64 / 1000.0)?,
            Some(FixedTime::Start) => f.write_str(" @ start()")?,
            Some(FixedTime::End) => f.write_str(" @ end()")?,
            None => {}
        }
        match &self.offset {
            Some(offset) if offset.kind != LengthKind::ZERO => write!(f, " offset {offset}"),
            _ => Ok(()),
        }
    }
}

/// A length alone is written as a duration; in a computation a number stays a number.
impl Display for Length {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.kind {
            LengthKind::Seconds { value, .. } => f.write_str(&number::duration(milliseconds(*value))),
            _ => write_part(f, self),
        }
    }
}

fn write_part(f: &mut Formatter<'_>, length: &Length) -> fmt::Result {
    let mut pair = |name: &str, left: &Length, right: &Length| {
        write!(f, "{name}(")?;
        write_part(f, left)?;
        f.write_str(", ")?;
        write_part(f, right)?;
        f.write_str(")")
    };
    match &length.kind {
        LengthKind::Seconds { value, is_duration: true } => f.write_str(&number::duration(milliseconds(*value))),
        LengthKind::Seconds { value, .. } => f.write_str(&number::plain(*value)),
        LengthKind::Step => f.write_str("step()"),
        LengthKind::Range => f.write_str("range()"),
        LengthKind::Negative(inside) => {
            f.write_str("-")?;
            write_part(f, inside)
        }
        LengthKind::Parentheses(inside) => {
            f.write_str("(")?;
            write_part(f, inside)?;
            f.write_str(")")
        }
        LengthKind::Binary(operator, left, right) => {
            write_part(f, left)?;
            write!(f, " {} ", operator.as_str())?;
            write_part(f, right)
        }
        LengthKind::Smaller(left, right) => pair("min_of", left, right),
        LengthKind::Larger(left, right) => pair("max_of", left, right),
    }
}

impl Display for Matching {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let group = match &self.cardinality {
            Cardinality::ManyToOne(labels) => Some(("left", labels)),
            Cardinality::OneToMany(labels) => Some(("right", labels)),
            Cardinality::OneToOne | Cardinality::ManyToMany => None,
        };
        match &self.labels {
            MatchingLabels::On(labels) => write!(f, " on ({})", Names(labels))?,
            MatchingLabels::Ignoring(labels) if !labels.is_empty() || group.is_some() => {
                write!(f, " ignoring ({})", Names(labels))?;
            }
            MatchingLabels::Ignoring(_) => {}
        }
        if let Some((side, labels)) = group {
            write!(f, " group_{side} ({})", Names(labels))?;
        }
        match (self.fill_left, self.fill_right) {
            (Some(left), Some(right)) if left == right => write!(f, " fill ({})", number::general(left, None)),
            (left, right) => {
                for (side, value) in [("left", left), ("right", right)] {
                    if let Some(value) = value {
                        write!(f, " fill_{side} ({})", number::general(value, None))?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Names of labels, in quotes where needed.
struct Names<'a>(&'a [String]);

struct Name<'a>(&'a str);

impl Display for Names<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        separated(f, self.0.iter().map(|name| Name(name)))
    }
}

impl Display for Name<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let is_plain = self.0.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && !self.0.starts_with(|c: char| c.is_ascii_digit());
        if is_plain { f.write_str(self.0) } else { f.write_str(&quoted(self.0)) }
    }
}

fn separated(f: &mut Formatter<'_>, items: impl Iterator<Item = impl Display>) -> fmt::Result {
    for (nth, item) in items.enumerate() {
        if nth > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

fn milliseconds(seconds: f64) -> i64 {
    // Nanoseconds are rounded, milliseconds cut: so 0.29 stays 290.
    (seconds * 1e9).round() as i64 / 1_000_000
}
