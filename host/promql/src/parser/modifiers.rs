//! Ranges and times behind an expression: `[5m]`, `[1h:1m]`, `@ end()`, `offset 5m`.

use super::{Parser, duration};
use crate::ast::{Expr, ExprKind, FixedTime, LengthKind, Modifiers};
use crate::error::ParseError;
use std::ops::Range;

impl Parser<'_> {
    /// Reads `@` and the time behind it.
    pub(super) fn fixed_time(&mut self, operand: &mut Expr) -> Result<(), ParseError> {
        let start = self.text.at;
        self.text.advance(1);
        let word = self.text.word(true).to_ascii_lowercase();
        let time = if matches!(&*word, "start" | "end") {
            self.text.advance(word.len());
            self.text.expect("(", "`(`")?;
            self.text.expect(")", "`)`")?;
            if word == "start" { FixedTime::Start } else { FixedTime::End }
        } else {
            let is_negative = self.text.take("-");
            if !is_negative {
                self.text.take("+");
            }
            if !matches!(self.text.peek(), Some(b'0'..=b'9' | b'.' | b'i' | b'I' | b'n' | b'N')) {
                return Err(self.text.expected("a time in seconds, `start()` or `end()`"));
            }
            let (seconds, _) = self.number()?;
            let milliseconds = (if is_negative { -seconds } else { seconds } * 1000.0).round();
            if seconds.abs() >= i64::MAX as f64 || seconds.is_nan() {
                return Err(self.text.error(start..self.text.end, "the time behind `@` is out of bounds"));
            }
            FixedTime::At(milliseconds as i64)
        };
        let at = start..self.text.end;
        let modifiers = self.modifiers_of(operand, &at, "`@`")?;
        if modifiers.time.is_some() {
            return Err(self.text.error(at, "`@` is given twice"));
        }
        modifiers.time = Some(time);
        operand.at.end = self.text.end;
        Ok(())
    }

    /// Reads `offset` and the length behind it.
    pub(super) fn offset(&mut self, operand: &mut Expr) -> Result<(), ParseError> {
        let start = self.text.at;
        self.text.advance("offset".len());
        let offset = duration::offset(&mut self.text)?;
        let at = start..self.text.end;
        let modifiers = self.modifiers_of(operand, &at, "`offset`")?;
        if modifiers.offset.as_ref().is_some_and(|offset| offset.kind != LengthKind::ZERO) {
            return Err(self.text.error(at, "`offset` is given twice"));
        }
        modifiers.offset = Some(offset);
        operand.at.end = self.text.end;
        Ok(())
    }

    fn modifiers_of<'e>(
        &self,
        operand: &'e mut Expr,
        at: &Range<usize>,
        what: &str,
    ) -> Result<&'e mut Modifiers, ParseError> {
        match &mut operand.kind {
            ExprKind::Selector { modifiers, .. }
            | ExprKind::Range { modifiers, .. }
            | ExprKind::Subquery { modifiers, .. } => Ok(modifiers),
            _ => Err(self.text.error(at.clone(), format!("{what} must stand behind a selector or a subquery"))),
        }
    }

    /// Reads `[5m]` or `[1h:1m]`.
    pub(super) fn brackets(&mut self, operand: Expr) -> Result<Expr, ParseError> {
        let (start, first) = (self.text.at, operand.at.start);
        self.text.advance(1);
        let range = duration::positive(&mut self.text)?;
        if self.text.take(":") {
            self.go_deeper()?;
            let step = if self.text.peek() == Some(b']') { None } else { Some(duration::positive(&mut self.text)?) };
            self.text.expect("]", "`]`")?;
            let expr = Box::new(operand);
            let kind = ExprKind::Subquery { expr, range, step, modifiers: Modifiers::default() };
            return Ok(Expr::new(kind, first..self.text.end));
        }
        self.text.expect("]", "`:` or `]`")?;
        let at = start..self.text.end;
        match operand.kind {
            ExprKind::Selector { selector, modifiers } if modifiers == Modifiers::default() => {
                let kind = ExprKind::Range { selector, range, modifiers };
                Ok(Expr::new(kind, first..self.text.end))
            }
            ExprKind::Selector { .. } => Err(self.text.error(at, "the range must stand before `offset` and `@`")),
            _ => Err(self.text.error(at, "a range must stand behind a selector; for other expressions write `[5m:]`")),
        }
    }
}
