//! Reads YAML as far as lists of targets need it: lists, mappings and texts.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

/// The deepest list or mapping. A list of targets has four levels.
const DEEPEST: usize = 16;

/// Returns the first document. Every scalar is a text, but for an empty one, which is null.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let mut events = Parser::new_from_str(text);
    loop {
        match next(&mut events)? {
            Event::StreamEnd => return Ok(Value::Null),
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => {}
            event => return value(event, &mut events, 0),
        }
    }
}

fn next<'a>(events: &mut Parser<'a, saphyr_parser::StrInput<'a>>) -> Result<Event<'a>, String> {
    match events.next() {
        Some(Ok((event, _))) => Ok(event),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("it ends too early".to_owned()),
    }
}

fn value<'a>(
    event: Event<'a>,
    events: &mut Parser<'a, saphyr_parser::StrInput<'a>>,
    depth: usize,
) -> Result<Value, String> {
    if depth > DEEPEST {
        return Err(format!("it has more than {DEEPEST} levels"));
    }
    match event {
        Event::Scalar(text, ScalarStyle::Plain, ..) if text.is_empty() || text == "~" || text == "null" => {
            Ok(Value::Null)
        }
        Event::Scalar(text, ..) => Ok(Value::String(text.into_owned())),
        Event::SequenceStart(..) => {
            let mut list = Vec::new();
            loop {
                match next(events)? {
                    Event::SequenceEnd => return Ok(Value::Array(list)),
                    event => list.push(value(event, events, depth + 1)?),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut mapping = Map::new();
            loop {
                let key = match next(events)? {
                    Event::MappingEnd => return Ok(Value::Object(mapping)),
                    Event::Scalar(key, ..) => key.into_owned(),
                    _ => return Err("the key of a mapping is not a text".to_owned()),
                };
                let event = next(events)?;
                mapping.insert(key, value(event, events, depth + 1)?);
            }
        }
        Event::Alias(_) => Err("anchors and aliases are not understood".to_owned()),
        _ => Err("it is malformed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_mappings_and_texts_are_read() {
        let text = "---\n- targets: [a:1, \"b:2\"] # two\n  labels:\n    job: 'web'\n    port: 80\n    none:\n- targets:\n  - c\n";
        let expected = json!([
            { "targets": ["a:1", "b:2"], "labels": { "job": "web", "port": "80", "none": null } },
            { "targets": ["c"] }
        ]);
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(parse("# nothing\n"), Ok(Value::Null));
    }

    #[test]
    fn what_is_not_understood_is_an_error_and_never_a_panic() {
        for text in ["- &a b\n- *a", "[[[[[[[[[[[[[[[[[[[[", "- [", "? [a]\n: b", "a: b: c", &"[".repeat(100_000)] {
            assert!(parse(text).is_err(), "{}", &text[..text.len().min(20)]);
        }
    }
}
