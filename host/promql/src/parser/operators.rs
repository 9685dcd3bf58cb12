//! Operators between two expressions: `+`, `and`, `== bool`, `/ on (job) group_left (team)`.

use super::Parser;
use crate::ast::{BinaryOperator, Cardinality, Matching, MatchingLabels};
use crate::error::ParseError;

impl Parser<'_> {
    /// Returns the operator that comes next, and its length.
    pub(super) fn operator(&self) -> Result<Option<(BinaryOperator, usize)>, ParseError> {
        use BinaryOperator as Op;
        let mut bytes = self.text.rest().bytes();
        let found = match (bytes.next(), bytes.next()) {
            (Some(b'+'), _) => (Op::Add, 1),
            (Some(b'-'), _) => (Op::Subtract, 1),
            (Some(b'*'), _) => (Op::Multiply, 1),
            (Some(b'/'), _) => (Op::Divide, 1),
            (Some(b'%'), _) => (Op::Modulo, 1),
            (Some(b'^'), _) => (Op::Power, 1),
            (Some(b'='), Some(b'=')) => (Op::Equal, 2),
            (Some(b'!'), Some(b'=')) => (Op::NotEqual, 2),
            (Some(b'>'), Some(b'=')) => (Op::GreaterOrEqual, 2),
            (Some(b'<'), Some(b'=')) => (Op::LessOrEqual, 2),
            (Some(b'<' | b'>'), Some(b'/')) => {
                let at = self.text.at..self.text.at + 2;
                return Err(self.text.error(at, "native histograms and their operators are not supported"));
            }
            (Some(b'>'), _) => (Op::Greater, 1),
            (Some(b'<'), _) => (Op::Less, 1),
            (Some(first), _) if first.is_ascii_alphabetic() => {
                let word = self.text.word(true);
                let operators = [Op::And, Op::Or, Op::Unless, Op::Atan2];
                match operators.into_iter().find(|operator| word.eq_ignore_ascii_case(operator.as_str())) {
                    Some(operator) => (operator, word.len()),
                    None => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        Ok(Some(found))
    }

    /// Reads what stands between an operator and its right side.
    pub(super) fn matching(&mut self) -> Result<(bool, Matching), ParseError> {
        let mut matching = Matching::default();
        let is_bool = self.text.take_keyword("bool");
        let is_on = self.text.take_keyword("on");
        if is_on || self.text.take_keyword("ignoring") {
            let labels = self.labels()?;
            matching.labels = if is_on { MatchingLabels::On(labels) } else { MatchingLabels::Ignoring(labels) };
            let is_left = self.text.take_keyword("group_left");
            if is_left || self.text.take_keyword("group_right") {
                let included = if self.text.peek() == Some(b'(') { self.labels()? } else { Vec::new() };
                matching.cardinality =
                    if is_left { Cardinality::ManyToOne(included) } else { Cardinality::OneToMany(included) };
            }
        }
        if self.take_fill("fill") {
            let value = self.fill_value()?;
            (matching.fill_left, matching.fill_right) = (Some(value), Some(value));
            return Ok((is_bool, matching));
        }
        loop {
            if matching.fill_left.is_none() && self.take_fill("fill_left") {
                matching.fill_left = Some(self.fill_value()?);
            } else if matching.fill_right.is_none() && self.take_fill("fill_right") {
                matching.fill_right = Some(self.fill_value()?);
            } else {
                return Ok((is_bool, matching));
            }
        }
    }

    /// Goes on behind a keyword that is one only if `(` follows: else it is the name of a metric.
    fn take_fill(&mut self, keyword: &str) -> bool {
        let mut ahead = self.text.clone();
        let is_there = ahead.take_keyword(keyword) && ahead.peek() == Some(b'(');
        if is_there {
            self.text = ahead;
        }
        is_there
    }

    fn fill_value(&mut self) -> Result<f64, ParseError> {
        if !self.options.experimental {
            let at = self.text.end..self.text.end;
            return Err(self.text.error(at, "`fill` is experimental, and experimental functions are off"));
        }
        self.text.expect("(", "`(`")?;
        let is_negative = self.text.take("-");
        if !is_negative {
            self.text.take("+");
        }
        let (value, _) = self.number()?;
        self.text.expect(")", "`)`")?;
        Ok(if is_negative { -value } else { value })
    }
}
