//! The parts of a template.

use super::value::Value;

/// A part of a template, in the order of the text.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Text(String),
    /// The value of the pipeline is written, unless it is given to a variable.
    Action(Pipeline),
    /// The first branch whose pipeline is true, else the last one.
    If {
        branches: Vec<(Pipeline, Vec<Node>)>,
        otherwise: Vec<Node>,
    },
    /// The same, with the value of the pipeline as the dot.
    With {
        branches: Vec<(Pipeline, Vec<Node>)>,
        otherwise: Vec<Node>,
    },
    Range {
        over: Pipeline,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Break,
    Continue,
}

/// Commands, each of which gets the value of the one before as its last argument.
#[derive(Debug, Clone)]
pub(super) struct Pipeline {
    pub(super) at: usize,
    /// The variables that get the value: one, or two for the key and the value of a range.
    pub(super) variables: Vec<String>,
    /// Whether the variables are new.
    pub(super) declares: bool,
    pub(super) commands: Vec<Command>,
}

/// An operand with its arguments.
#[derive(Debug, Clone)]
pub(super) struct Command {
    pub(super) at: usize,
    pub(super) operands: Vec<Operand>,
}

#[derive(Debug, Clone)]
pub(super) struct Operand {
    pub(super) at: usize,
    pub(super) what: What,
    /// Names of fields, each one of the value before.
    pub(super) fields: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    Dot,
    Variable(String),
    Function(&'static str),
    Constant(Value),
    Pipeline(Box<Pipeline>),
}
