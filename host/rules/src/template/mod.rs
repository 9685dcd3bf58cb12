//! Templates of labels and annotations: those of Go's `text/template`, with the functions that Prometheus adds.
//!
//! * `lexer`, `parser`: a text becomes nodes (`ast`). `eval`: computes them. `value`: values, and how they are written.
//! * `functions`: the functions of Go and of Prometheus; `printf`: formatted values; `humanize`: numbers for people.

mod ast;
mod eval;
mod functions;
mod humanize;
mod lexer;
mod parser;
mod printf;
#[cfg(test)]
mod tests;
mod value;

use ast::Node;
use std::collections::BTreeMap;

/// A template, read and checked.
#[derive(Debug, Clone)]
pub struct Template {
    text: String,
    nodes: Vec<Node>,
}

/// A mistake in a template, or why it cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}, at byte {at}")]
pub struct TemplateError {
    /// The place in the template, in bytes.
    pub at: usize,
    pub why: String,
}

/// The values that a template is expanded with.
#[derive(Debug, Clone, Default)]
pub struct Variables {
    /// `$labels`.
    pub labels: BTreeMap<String, String>,
    /// `$value`.
    pub value: f64,
    /// `$externalLabels`.
    pub external_labels: BTreeMap<String, String>,
}

/// Answers what templates ask: for series, for the time, for the address of this host.
pub trait Surroundings {
    /// Returns the series that an expression finds now.
    fn query(&self, expression: &str) -> Result<Vec<Sample>, String>;

    /// The time of the evaluation, in milliseconds since 1970.
    fn now_ms(&self) -> i64;

    /// The address at which users reach this host: `$externalURL`.
    fn external_url(&self) -> &str;
}

/// A series that a query found.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Template {
    /// Reads a template. Unknown functions and variables are mistakes, too.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { text: text.to_owned(), nodes: parser::parse(text)? })
    }

    /// Returns the template as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the text with the values of its actions.
    pub fn expand(&self, variables: &Variables, surroundings: &dyn Surroundings) -> Result<String, TemplateError> {
        eval::expand(&self.nodes, variables, surroundings)
    }
}

impl TemplateError {
    fn at(at: usize, why: impl Into<String>) -> Self {
        Self { at, why: why.into() }
    }
}
