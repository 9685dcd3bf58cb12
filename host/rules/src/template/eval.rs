//! Computes the nodes of a template.

use super::ast::{Command, Node, Operand, Pipeline, What};
use super::functions::{self, Call};
use super::value::Value;
use super::{Surroundings, TemplateError, Variables};
use std::collections::BTreeMap;

/// Bytes of the longest text that a template may become.
const LONGEST: usize = 1 << 20;

/// Turns that all ranges of a template may take together.
const MOST_TURNS: usize = 100_000;

pub(super) fn expand(
    nodes: &[Node],
    variables: &Variables,
    surroundings: &dyn Surroundings,
) -> Result<String, TemplateError> {
    let Variables { labels, value, external_labels } = variables;
    let (labels, external_labels) = (Value::Texts(labels.clone()), Value::Texts(external_labels.clone()));
    let (value, external_url) = (Value::Float(*value), Value::Text(surroundings.external_url().to_owned()));
    let data = Value::Fields(BTreeMap::from([
        ("Labels", labels.clone()),
        ("ExternalLabels", external_labels.clone()),
        ("ExternalURL", external_url.clone()),
        ("Value", value.clone()),
    ]));
    let named = [
        ("$", data.clone()),
        ("$labels", labels),
        ("$externalLabels", external_labels),
        ("$externalURL", external_url),
        ("$value", value),
    ];
    let variables = named.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let mut expansion = Expansion { surroundings, variables, text: String::new(), turns: 0 };
    expansion.nodes(nodes, &data)?;
    Ok(expansion.text)
}

struct Expansion<'a> {
    surroundings: &'a dyn Surroundings,
    /// The variables of this place; a later one hides an earlier one of its name.
    variables: Vec<(String, Value)>,
    text: String,
    turns: usize,
}

/// How a block ended.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

impl Expansion<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.text.push_str(text);
                    Flow::On
                }
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.text.push_str(&value.text());
                    } else {
                        self.give(pipeline, vec![value]);
                    }
                    Flow::On
                }
                Node::If { branches, otherwise } => self.branches(branches, otherwise, dot, false)?,
                Node::With { branches, otherwise } => self.branches(branches, otherwise, dot, true)?,
                Node::Range { over, body, otherwise } => self.range(over, body, otherwise, dot)?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if self.text.len() > LONGEST {
                return Err(TemplateError::at(0, format!("the text is longer than {LONGEST} bytes")));
            }
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn branches(
        &mut self,
        branches: &[(Pipeline, Vec<Node>)],
        otherwise: &[Node],
        dot: &Value,
        sets_dot: bool,
    ) -> Result<Flow, TemplateError> {
        let known = self.variables.len();
        let mut chosen = None;
        for (pipeline, nodes) in branches {
            let value = self.pipeline(pipeline, dot)?;
            self.give(pipeline, vec![value.clone()]);
            if value.is_true() {
                chosen = Some((nodes, value));
                break;
            }
        }
        let flow = match chosen {
            Some((nodes, value)) if sets_dot => self.nodes(nodes, &value),
            Some((nodes, _)) => self.nodes(nodes, dot),
            None => self.nodes(otherwise, dot),
        };
        self.variables.truncate(known);
        flow
    }

    fn range(
        &mut self,
        over: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, TemplateError> {
        let known = self.variables.len();
        let value = self.pipeline(over, dot)?;
        let items: Vec<(Value, Value)> = match value {
            Value::List(list) => (0..).map(Value::Int).zip(list).collect(),
            Value::Texts(texts) => {
                texts.into_iter().map(|(name, text)| (Value::Text(name), Value::Text(text))).collect()
            }
            Value::Map(map) => map.into_iter().map(|(name, value)| (Value::Text(name), value)).collect(),
            Value::Int(count) if count <= MOST_TURNS as i64 => {
                (0..count).map(|nth| (Value::Int(nth), Value::Int(nth))).collect()
            }
            Value::Nothing => Vec::new(),
            other => {
                let why = format!("range can't iterate over {} of type {}", other.text(), other.type_name());
                return Err(TemplateError::at(over.at, why));
            }
        };
        if items.is_empty() {
            let flow = self.nodes(otherwise, dot);
            self.variables.truncate(known);
            return flow;
        }
        // Each turn has variables of its own.
        for (key, item) in items {
            self.turns += 1;
            if self.turns > MOST_TURNS {
                return Err(TemplateError::at(over.at, format!("its ranges take more than {MOST_TURNS} turns")));
            }
            let values = if over.variables.len() > 1 { vec![key, item.clone()] } else { vec![item.clone()] };
            self.give(over, values);
            let flow = self.nodes(body, &item)?;
            if over.declares || over.variables.is_empty() {
                self.variables.truncate(known);
            }
            if flow == Flow::Break {
                break;
            }
        }
        self.variables.truncate(known);
        Ok(Flow::On)
    }

    /// Gives values to the variables of a pipeline.
    fn give(&mut self, pipeline: &Pipeline, values: Vec<Value>) {
        for (name, value) in pipeline.variables.iter().zip(values) {
            let known = self.variables.iter_mut().rev().find(|(known, _)| !pipeline.declares && known == name);
            match known {
                Some((_, known)) => *known = value,
                None => self.variables.push((name.clone(), value)),
            }
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut value: Option<Value> = None;
        for command in &pipeline.commands {
            value = Some(self.command(command, value, dot)?);
        }
        Ok(value.unwrap_or(Value::Nothing))
    }

    fn command(&mut self, command: &Command, piped: Option<Value>, dot: &Value) -> Result<Value, TemplateError> {
        let Some((first, rest)) = command.operands.split_first() else { return Ok(Value::Nothing) };
        let What::Function(name) = first.what else {
            if !rest.is_empty() || piped.is_some() {
                return Err(TemplateError::at(command.at, "can't give argument to non-function"));
            }
            return self.operand(first, dot);
        };
        // `and` and `or` compute no more than they need.
        if matches!(name, "and" | "or") {
            let mut last = None;
            for operand in rest {
                let value = self.operand(operand, dot)?;
                if value.is_true() == (name == "or") {
                    return Ok(value);
                }
                last = Some(value);
            }
            let missing =
                || TemplateError::at(command.at, format!("wrong number of args for {name}: want at least 1 got 0"));
            return piped.or(last).ok_or_else(missing);
        }
        let mut arguments = rest.iter().map(|operand| self.operand(operand, dot)).collect::<Result<Vec<_>, _>>()?;
        arguments.extend(piped);
        let call = Call { name, arguments, surroundings: self.surroundings };
        functions::call(call).map_err(|why| TemplateError::at(command.at, format!("error calling {name}: {why}")))
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        let mut value = match &operand.what {
            What::Dot => dot.clone(),
            What::Variable(name) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                known.map(|(_, value)| value.clone()).unwrap_or(Value::Nothing)
            }
            What::Constant(value) => value.clone(),
            What::Pipeline(pipeline) => self.pipeline(pipeline, dot)?,
            What::Function(name) => {
                let call = Call { name, arguments: Vec::new(), surroundings: self.surroundings };
                functions::call(call)
                    .map_err(|why| TemplateError::at(operand.at, format!("error calling {name}: {why}")))?
            }
        };
        for field in &operand.fields {
            value = value.field(field).map_err(|why| TemplateError::at(operand.at, why))?;
        }
        Ok(value)
    }
}
