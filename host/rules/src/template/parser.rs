//! Reads a template: its pieces become nodes, its actions pipelines.

use super::TemplateError;
use super::ast::{Command, Node, Operand, Pipeline, What};
use super::functions;
use super::lexer::{Piece, Word, pieces, words};
use super::value::Value;
use std::iter::Peekable;
use std::vec::IntoIter;

/// How deep blocks and parentheses may lie in each other.
const DEEPEST: usize = 64;

/// The variables that every template has.
const KNOWN: [&str; 5] = ["$", "$labels", "$value", "$externalLabels", "$externalURL"];

pub(super) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser {
        pieces: pieces(text)?.into_iter().peekable(),
        known: KNOWN.map(str::to_owned).to_vec(),
        depth: 0,
        ranges: 0,
    };
    let (nodes, end) = parser.block()?;
    match end {
        End::Text => Ok(nodes),
        End::Word(at, word, _) => Err(TemplateError::at(at, format!("unexpected {{{{{word}}}}}"))),
    }
}

struct Parser<'a> {
    pieces: Peekable<IntoIter<Piece<'a>>>,
    /// The variables that are known here.
    known: Vec<String>,
    depth: usize,
    /// The ranges around this place.
    ranges: usize,
}

/// The end of a block.
enum End {
    Text,
    /// `else` with what follows it, or `end`.
    Word(usize, String, Words),
}

type Words = Peekable<IntoIter<(usize, Word)>>;

impl Parser<'_> {
    /// Reads up to the end of a block.
    fn block(&mut self) -> Result<(Vec<Node>, End), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let (at, action) = match piece {
                Piece::Text("") => continue,
                Piece::Text(text) => {
                    nodes.push(Node::Text(text.to_owned()));
                    continue;
                }
                Piece::Action(at, action) => (at, action),
            };
            let mut words = words(action, at)?.into_iter().peekable();
            let keyword = match words.peek() {
                Some((_, Word::Name(name))) => name.clone(),
                Some(_) => String::new(),
                None => return Err(TemplateError::at(at, "missing value for command")),
            };
            match &*keyword {
                "else" | "end" => {
                    words.next();
                    return Ok((nodes, End::Word(at, keyword, words)));
                }
                "if" => {
                    words.next();
                    let (branches, otherwise) = self.branches("if", at, words)?;
                    nodes.push(Node::If { branches, otherwise });
                }
                "with" => {
                    words.next();
                    let (branches, otherwise) = self.branches("with", at, words)?;
                    nodes.push(Node::With { branches, otherwise });
                }
                "range" => {
                    words.next();
                    nodes.push(self.range(at, words)?);
                }
                "break" | "continue" => {
                    words.next();
                    if self.ranges == 0 {
                        return Err(TemplateError::at(at, format!("{{{{{keyword}}}}} outside {{{{range}}}}")));
                    }
                    nothing_more(&mut words)?;
                    nodes.push(if keyword == "break" { Node::Break } else { Node::Continue });
                }
                "define" | "template" | "block" => {
                    return Err(TemplateError::at(at, format!("{{{{{keyword}}}}} is not supported in rules")));
                }
                _ => {
                    let pipeline = self.pipeline(at, &mut words, 1)?;
                    nothing_more(&mut words)?;
                    nodes.push(Node::Action(pipeline));
                }
            }
        }
        Ok((nodes, End::Text))
    }

    /// Reads a block whose variables end with it.
    fn inner_block(&mut self, at: usize) -> Result<(Vec<Node>, End), TemplateError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(TemplateError::at(at, "blocks lie too deep in each other"));
        }
        let known = self.known.len();
        let block = self.block();
        self.known.truncate(known);
        self.depth -= 1;
        block
    }

    /// Reads the branches of `if` or `with`, up to their end.
    #[expect(clippy::type_complexity, reason = "it is what the two nodes have")]
    fn branches(
        &mut self,
        keyword: &str,
        at: usize,
        mut words: Words,
    ) -> Result<(Vec<(Pipeline, Vec<Node>)>, Vec<Node>), TemplateError> {
        let known = self.known.len();
        let mut branches = Vec::new();
        let mut otherwise = Vec::new();
        loop {
            let pipeline = self.pipeline(at, &mut words, 1)?;
            nothing_more(&mut words)?;
            let (nodes, end) = self.inner_block(at)?;
            branches.push((pipeline, nodes));
            let End::Word(end_at, word, mut rest) = end else { return Err(unclosed(keyword, at)) };
            if word == "end" {
                nothing_more(&mut rest)?;
                break;
            }
            if rest.peek().is_some() {
                match rest.next() {
                    Some((_, Word::Name(name))) if name == keyword => {
                        words = rest;
                        continue;
                    }
                    _ => return Err(TemplateError::at(end_at, format!("expected {keyword} or nothing behind else"))),
                }
            }
            otherwise = self.last_block(keyword, at)?;
            break;
        }
        self.known.truncate(known);
        Ok((branches, otherwise))
    }

    /// Reads the block behind `else`, up to the end.
    fn last_block(&mut self, keyword: &str, at: usize) -> Result<Vec<Node>, TemplateError> {
        let (nodes, end) = self.inner_block(at)?;
        match end {
            End::Text => Err(unclosed(keyword, at)),
            End::Word(_, word, mut rest) if word == "end" => nothing_more(&mut rest).map(|()| nodes),
            End::Word(at, ..) => Err(TemplateError::at(at, "expected end; found else")),
        }
    }

    fn range(&mut self, at: usize, mut words: Words) -> Result<Node, TemplateError> {
        let known = self.known.len();
        let over = self.pipeline(at, &mut words, 2)?;
        nothing_more(&mut words)?;
        self.ranges += 1;
        let block = self.inner_block(at);
        self.ranges -= 1;
        let (body, end) = block?;
        let otherwise = match end {
            End::Text => return Err(unclosed("range", at)),
            End::Word(_, word, mut rest) => {
                nothing_more(&mut rest)?;
                if word == "end" { Vec::new() } else { self.last_block("range", at)? }
            }
        };
        self.known.truncate(known);
        Ok(Node::Range { over, body, otherwise })
    }

    /// Reads a pipeline, which may give its value to up to `most` variables.
    fn pipeline(&mut self, at: usize, words: &mut Words, most: usize) -> Result<Pipeline, TemplateError> {
        let mut pipeline = Pipeline { at, variables: Vec::new(), declares: false, commands: Vec::new() };
        let ahead: Vec<Word> = words.clone().take(4).map(|(_, word)| word).collect();
        let (names, sign) = match &*ahead {
            [Word::Variable(name), sign @ (Word::Declare | Word::Assign), ..] => (vec![name.clone()], Some(sign)),
            [Word::Variable(key), Word::Comma, Word::Variable(value), sign @ (Word::Declare | Word::Assign)]
                if most > 1 =>
            {
                (vec![key.clone(), value.clone()], Some(sign))
            }
            _ => (Vec::new(), None),
        };
        if let Some(sign) = sign {
            pipeline.declares = *sign == Word::Declare;
            if let Some(unknown) = names.iter().find(|name| !pipeline.declares && !self.known.contains(name)) {
                return Err(TemplateError::at(at, format!("undefined variable {unknown:?}")));
            }
            words.nth(names.len() * 2 - 1);
        }
        loop {
            pipeline.commands.push(self.command(at, words)?);
            if words.next_if(|(_, word)| *word == Word::Pipe).is_none() {
                break;
            }
        }
        if pipeline.declares {
            self.known.extend(names.iter().cloned());
        }
        pipeline.variables = names;
        Ok(pipeline)
    }

    fn command(&mut self, begin: usize, words: &mut Words) -> Result<Command, TemplateError> {
        let at = words.peek().map_or(begin, |(at, _)| *at);
        let mut operands: Vec<Operand> = Vec::new();
        while let Some((at, word)) = words.next_if(|(_, word)| !matches!(word, Word::Pipe | Word::Close)) {
            let mut fields = Vec::new();
            let what = match word {
                Word::Dot => What::Dot,
                Word::Field(name, is_joined) => {
                    if let Some(last) = operands.last_mut().filter(|_| is_joined) {
                        if matches!(last.what, What::Constant(_) | What::Function(_)) {
                            return Err(TemplateError::at(at, format!("unexpected .{name}")));
                        }
                        last.fields.push(name);
                        continue;
                    }
                    fields.push(name);
                    What::Dot
                }
                Word::Variable(name) => {
                    if !self.known.contains(&name) {
                        return Err(TemplateError::at(at, format!("undefined variable {name:?}")));
                    }
                    What::Variable(name)
                }
                Word::Constant(value) => What::Constant(value),
                Word::Name(name) => match &*name {
                    "true" => What::Constant(Value::Bool(true)),
                    "false" => What::Constant(Value::Bool(false)),
                    "nil" => What::Constant(Value::Nothing),
                    name => {
                        let known = functions::named(name);
                        let unknown = || TemplateError::at(at, format!("function {name:?} not defined"));
                        What::Function(known.ok_or_else(unknown)?)
                    }
                },
                Word::Open => {
                    self.depth += 1;
                    if self.depth > DEEPEST {
                        return Err(TemplateError::at(at, "parentheses lie too deep in each other"));
                    }
                    let inner = self.pipeline(at, words, 0)?;
                    self.depth -= 1;
                    if words.next_if(|(_, word)| *word == Word::Close).is_none() {
                        return Err(TemplateError::at(at, "unclosed left paren"));
                    }
                    What::Pipeline(Box::new(inner))
                }
                Word::Comma | Word::Declare | Word::Assign | Word::Pipe | Word::Close => {
                    return Err(TemplateError::at(at, "unexpected sign in an action"));
                }
            };
            operands.push(Operand { at, what, fields });
        }
        match operands.first() {
            None => Err(TemplateError::at(at, "missing value for command")),
            Some(Operand { what: What::Constant(Value::Nothing), .. }) => {
                Err(TemplateError::at(at, "nil is not a command"))
            }
            Some(_) => Ok(Command { at, operands }),
        }
    }
}

fn nothing_more(words: &mut Words) -> Result<(), TemplateError> {
    match words.next() {
        Some((at, _)) => Err(TemplateError::at(at, "unexpected words at the end of an action")),
        None => Ok(()),
    }
}

fn unclosed(keyword: &str, at: usize) -> TemplateError {
    TemplateError::at(at, format!("{{{{{keyword}}}}} has no {{{{end}}}}"))
}
