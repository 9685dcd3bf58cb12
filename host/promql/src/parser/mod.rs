//! The grammar of expressions.
//!
//! * `operators`: operators, with the words that say how their sides match.
//! * `modifiers`: ranges in brackets, `@` and `offset`. `duration`: the lengths of time in them.
//! * `selector`: conditions in braces. `types`: checks the types of the parts of an expression.

mod duration;
mod modifiers;
mod operators;
mod selector;
mod types;

pub use selector::{parse_selector, parse_selectors};

use crate::ast::{AggregationOperator, BinaryOperator, Cardinality, Expr, ExprKind, Grouping, Matching, Modifiers};
use crate::error::ParseError;
use crate::functions::{self, UNSUPPORTED};
use crate::number;
use crate::text::Text;

/// How deep an expression may be nested, each operator in a row counted as a level.
const DEEPEST: usize = 256;

/// What the parser accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ParseOptions {
    /// Whether functions, aggregations and modifiers are known that Prometheus has behind a flag.
    pub experimental: bool,
}

/// Reads an expression and checks the types of its parts.
pub fn parse(text: &str, options: ParseOptions) -> Result<Expr, ParseError> {
    let mut parser = Parser { text: Text::new(text), options, depth: 0 };
    parser.text.skip_blanks();
    if parser.text.rest().is_empty() {
        return Err(parser.text.error(parser.text.at..parser.text.at, "there is no expression"));
    }
    let expr = parser.expression(0)?;
    if !parser.text.rest().is_empty() {
        return Err(parser.text.expected("an operator or the end of the expression"));
    }
    types::check(text, &expr)?;
    Ok(expr)
}

struct Parser<'a> {
    text: Text<'a>,
    options: ParseOptions,
    depth: usize,
}

/// Words that cannot be the name of a metric.
const RESERVED: [&str; 6] = ["bool", "on", "ignoring", "group_left", "group_right", "atan2"];

/// Words that are the name of a label only in quotes.
const NO_LABELS: [&str; 3] = ["inf", "nan", "without"];

impl Parser<'_> {
    /// Reads operands and the operators between them, as long as these bind at least so strongly.
    fn expression(&mut self, strength: u8) -> Result<Expr, ParseError> {
        let depth = self.depth;
        self.go_deeper()?;
        let mut left = self.unary()?;
        while let Some((operator, length)) = self.operator()? {
            if operator.strength() < strength {
                break;
            }
            self.go_deeper()?;
            self.text.advance(length);
            let (is_bool, matching) = self.matching()?;
            // Powers bind to the right, all others to the left.
            let is_power = operator == BinaryOperator::Power;
            let right = self.expression(operator.strength() + u8::from(!is_power))?;
            let matching = match matching {
                Matching { cardinality: Cardinality::OneToOne, .. } if operator.is_on_sets() => {
                    Matching { cardinality: Cardinality::ManyToMany, ..matching }
                }
                other => other,
            };
            let at = left.at.start..right.at.end;
            let kind = ExprKind::Binary { operator, is_bool, left: Box::new(left), right: Box::new(right), matching };
            left = Expr::new(kind, at);
        }
        self.depth = depth;
        Ok(left)
    }

    fn go_deeper(&mut self) -> Result<(), ParseError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            let why =
                format!("the expression is nested more than {DEEPEST} levels deep, or has as many operators in a row");
            return Err(self.text.error(self.text.at..self.text.at, why));
        }
        Ok(())
    }

    fn unary(&mut self) -> Result<Expr, ParseError> {
        let start = self.text.at;
        let is_negative = self.text.peek() == Some(b'-');
        if !is_negative && self.text.peek() != Some(b'+') {
            return self.operand();
        }
        self.text.advance(1);
        // A sign binds as multiplication does: `-1^2` is -1, and `-1*2` is (-1)*2.
        let expr = self.expression(BinaryOperator::Power.strength())?;
        let at = start..expr.at.end;
        Ok(match expr.kind {
            ExprKind::Number { value, is_duration } => {
                Expr::new(ExprKind::Number { value: if is_negative { -value } else { value }, is_duration }, at)
            }
            _ => Expr::new(ExprKind::Unary { is_negative, expr: Box::new(expr) }, at),
        })
    }

    /// Reads an operand with the modifiers behind it.
    fn operand(&mut self) -> Result<Expr, ParseError> {
        let mut operand = self.primary()?;
        loop {
            match self.text.peek() {
                Some(b'[') => operand = self.brackets(operand)?,
                Some(b'@') => self.fixed_time(&mut operand)?,
                Some(b'o' | b'O') if self.text.word(true).eq_ignore_ascii_case("offset") => {
                    self.offset(&mut operand)?;
                }
                Some(b'a' | b's' | b'A' | b'S')
                    if ["anchored", "smoothed"].iter().any(|word| self.text.word(true).eq_ignore_ascii_case(word)) =>
                {
                    let at = self.text.at..self.text.at + self.text.word(true).len();
                    return Err(self.text.error(at, "the modifiers `anchored` and `smoothed` are not supported"));
                }
                _ => return Ok(operand),
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, ParseError> {
        let start = self.text.at;
        match self.text.peek() {
            Some(b'(') => {
                self.text.advance(1);
                let inside = self.expression(0)?;
                self.text.expect(")", "an operator or `)`")?;
                Ok(Expr::new(ExprKind::Parentheses(Box::new(inside)), start..self.text.end))
            }
            Some(b'0'..=b'9' | b'.') => {
                let (value, is_duration) = self.number()?;
                Ok(Expr::new(ExprKind::Number { value, is_duration }, start..self.text.end))
            }
            Some(b'"' | b'\'' | b'`') => {
                let (string, is_utf8) = self.text.any_string()?;
                let written = self.text.text.get(start..self.text.end).unwrap_or_default();
                let invalid = (!is_utf8).then(|| written.to_owned());
                Ok(Expr::new(ExprKind::String { text: string, invalid }, start..self.text.end))
            }
            Some(b'{') => self.selector(None),
            Some(b'a'..=b'z' | b'A'..=b'Z' | b'_' | b':') => self.named(),
            _ => Err(self.text.expected("an expression")),
        }
    }

    /// Reads what begins with a word: a number, an aggregation, a call or a selector.
    fn named(&mut self) -> Result<Expr, ParseError> {
        let start = self.text.at;
        let word = self.text.word(true);
        let lower = word.to_ascii_lowercase();
        if matches!(&*lower, "inf" | "nan") {
            self.text.advance(word.len());
            let value = number::parse(&lower).unwrap_or(f64::NAN);
            return Ok(Expr::new(ExprKind::Number { value, is_duration: false }, start..self.text.end));
        }
        let mut ahead = self.text.clone();
        ahead.advance(word.len());
        let is_call = ahead.peek() == Some(b'(');
        if let Some(operator) = AggregationOperator::ALL.into_iter().find(|operator| operator.as_str() == lower) {
            let next = ahead.word(true);
            if is_call || next.eq_ignore_ascii_case("by") || next.eq_ignore_ascii_case("without") {
                self.text = ahead;
                return self.aggregation(operator, start);
            }
        } else if is_call {
            return self.call(word);
        }
        if RESERVED.contains(&&*lower) {
            return Err(self.text.expected("an expression"));
        }
        self.text = ahead;
        let name = word.to_owned();
        if self.text.peek() == Some(b'{') {
            return self.selector(Some((name, start)));
        }
        let selector = crate::ast::Selector::named(name);
        let kind = ExprKind::Selector { selector, modifiers: Modifiers::default() };
        Ok(Expr::new(kind, start..self.text.end))
    }

    fn selector(&mut self, name: Option<(String, usize)>) -> Result<Expr, ParseError> {
        let start = name.as_ref().map_or(self.text.at, |(_, start)| *start);
        let selector = selector::in_braces(&mut self.text, name.map(|(name, _)| name), start)?;
        Ok(Expr::new(ExprKind::Selector { selector, modifiers: Modifiers::default() }, start..self.text.end))
    }

    fn call(&mut self, name: &str) -> Result<Expr, ParseError> {
        let start = self.text.at;
        let at_name = start..start + name.len();
        let Some(function) = functions::function(name) else {
            let why = match UNSUPPORTED.iter().find(|(known, _)| *known == name) {
                Some((_, what)) => format!("{what} is not supported, so there is no function `{name}`"),
                None => format!("there is no function `{name}`"),
            };
            return Err(self.text.error(at_name, why));
        };
        if function.is_experimental && !self.options.experimental {
            let why = format!("the function `{name}` is experimental, and experimental functions are off");
            return Err(self.text.error(at_name, why));
        }
        self.text.advance(name.len());
        let arguments = self.arguments()?;
        Ok(Expr::new(ExprKind::Call { function, arguments }, start..self.text.end))
    }

    fn arguments(&mut self) -> Result<Vec<Expr>, ParseError> {
        self.text.expect("(", "`(`")?;
        let mut arguments = Vec::new();
        if self.text.take(")") {
            return Ok(arguments);
        }
        loop {
            arguments.push(self.expression(0)?);
            if self.text.take(")") {
                return Ok(arguments);
            }
            self.text.expect(",", "`,` or `)`")?;
        }
    }

    fn aggregation(&mut self, operator: AggregationOperator, start: usize) -> Result<Expr, ParseError> {
        let mut grouping = self.grouping()?;
        let mut arguments = self.arguments()?;
        let mut end = self.text.end;
        if grouping.is_none() {
            grouping = self.grouping()?;
            if grouping.is_some() {
                end = self.text.end;
            }
        }
        let at = start..end;
        let name = operator.as_str();
        if operator.is_experimental() && !self.options.experimental {
            let why = format!("`{name}` is experimental, and experimental functions are off");
            return Err(self.text.error(at, why));
        }
        let expected = 1 + usize::from(operator.parameter().is_some());
        if arguments.len() != expected {
            let why = format!("`{name}` takes {expected} argument(s), but has {}", arguments.len());
            return Err(self.text.error(at, why));
        }
        let Some(expr) = arguments.pop() else { return Err(self.text.expected("an expression")) };
        let kind = ExprKind::Aggregation {
            operator,
            grouping: grouping.unwrap_or(Grouping::By(Vec::new())),
            parameter: arguments.pop().map(Box::new),
            expr: Box::new(expr),
        };
        Ok(Expr::new(kind, at))
    }

    fn grouping(&mut self) -> Result<Option<Grouping>, ParseError> {
        if self.text.take_keyword("by") {
            return self.labels().map(Grouping::By).map(Some);
        }
        if self.text.take_keyword("without") {
            return self.labels().map(Grouping::Without).map(Some);
        }
        Ok(None)
    }

    /// Reads a list of labels in parentheses.
    fn labels(&mut self) -> Result<Vec<String>, ParseError> {
        self.text.expect("(", "`(` and the names of labels")?;
        let mut labels = Vec::new();
        loop {
            if self.text.take(")") {
                return Ok(labels);
            }
            if self.text.begins_string() {
                let start = self.text.at;
                let label = self.text.string()?;
                if label.is_empty() {
                    return Err(self.text.error(start..self.text.end, "the name of a label is empty"));
                }
                labels.push(label);
            } else {
                let word = self.text.word(true);
                let is_reserved = NO_LABELS.iter().any(|reserved| word.eq_ignore_ascii_case(reserved));
                if word.is_empty() || is_reserved {
                    return Err(self.text.expected("the name of a label or `)`"));
                }
                labels.push(word.to_owned());
                self.text.advance(word.len());
            }
            if self.text.peek() != Some(b')') {
                self.text.expect(",", "`,` or `)`")?;
            }
        }
    }

    /// Reads a number or a duration. Returns it in seconds, and whether it is a duration.
    fn number(&mut self) -> Result<(f64, bool), ParseError> {
        duration::number(&mut self.text)
    }
}

#[cfg(test)]
mod tests;
