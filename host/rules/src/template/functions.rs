//! The functions of templates: those of Go, and those of Prometheus.

use super::printf;
use super::value::Value;
use super::{Surroundings, humanize};
use dropsonde_promql::quoted::quoted;
use jiff::SignedDuration;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use regex::Regex;
use std::cmp::Ordering;

/// Bytes of the largest regular expression of a template, compiled.
const LARGEST_REGEX: usize = 1 << 20;

const NAMES: [&str; 47] = [
    "and",
    "or",
    "not",
    "len",
    "index",
    "slice",
    "print",
    "printf",
    "println",
    "html",
    "js",
    "urlquery",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "query",
    "first",
    "label",
    "value",
    "strvalue",
    "args",
    "reReplaceAll",
    "safeHtml",
    "match",
    "title",
    "toUpper",
    "toLower",
    "graphLink",
    "tableLink",
    "sortByLabel",
    "stripPort",
    "stripDomain",
    "humanize",
    "humanize1024",
    "humanizeDuration",
    "humanizePercentage",
    "humanizeTimestamp",
    "toTime",
    "toDuration",
    "now",
    "pathPrefix",
    "externalURL",
    "parseDuration",
    "urlQueryEscape",
];

/// The characters that a query string need not escape.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');

/// A function with its arguments.
pub(super) struct Call<'a> {
    pub(super) name: &'a str,
    pub(super) arguments: Vec<Value>,
    pub(super) surroundings: &'a dyn Surroundings,
}

/// Returns the name of a function, if there is one.
pub(super) fn named(name: &str) -> Option<&'static str> {
    NAMES.into_iter().find(|known| *known == name)
}

pub(super) fn call(call: Call<'_>) -> Result<Value, String> {
    let Call { name, arguments, surroundings } = call;
    let text = |value: &Value| match value {
        Value::Text(text) => Ok(text.clone()),
        other => Err(format!("wrong type for value; expected string; got {}", other.type_name())),
    };
    // Functions of any number of arguments.
    match name {
        "print" => return Ok(Value::Text(print(&arguments))),
        "println" => {
            let texts: Vec<String> = arguments.iter().map(Value::text).collect();
            return Ok(Value::Text(texts.join(" ") + "\n"));
        }
        "printf" => {
            let Some((format, values)) = arguments.split_first() else {
                return Err("wrong number of args for printf: want at least 1 got 0".to_owned());
            };
            return Ok(Value::Text(printf::printf(&text(format)?, values)));
        }
        "html" => return Ok(Value::Text(html(&print(&arguments)))),
        "js" => return Ok(Value::Text(js(&print(&arguments)))),
        "urlquery" => return Ok(Value::Text(query_escaped(&print(&arguments)))),
        "args" => {
            let named = (0..).map(|nth| format!("arg{nth}")).zip(arguments);
            return Ok(Value::Map(named.collect()));
        }
        "index" => return index(&arguments),
        "slice" => return slice(&arguments),
        "eq" => {
            let Some((first, others)) = arguments.split_first().filter(|(_, others)| !others.is_empty()) else {
                return Err("missing argument for comparison".to_owned());
            };
            let mut is_equal = false;
            for other in others {
                is_equal |= compare(first, other)? == Some(Ordering::Equal);
            }
            return Ok(Value::Bool(is_equal));
        }
        _ => {}
    }
    let count = arguments.len();
    let wrong = |wanted: usize| format!("wrong number of args for {name}: want {wanted} got {count}");
    let ordered = |holds: fn(Ordering) -> bool| match &*arguments {
        [a, b] => Ok(Value::Bool(compare(a, b)?.is_some_and(holds))),
        _ => Err(wrong(2)),
    };
    let one = || match &*arguments {
        [only] => Ok(only),
        _ => Err(wrong(1)),
    };
    let texts = |wanted: usize| -> Result<Vec<String>, String> {
        if count != wanted {
            return Err(wrong(wanted));
        }
        arguments.iter().map(text).collect()
    };
    let none = |value: Value| if count == 0 { Ok(value) } else { Err(wrong(0)) };
    match name {
        "not" => Ok(Value::Bool(!one()?.is_true())),
        "len" => match one()? {
            Value::Text(text) => Ok(Value::Int(text.len() as i64)),
            Value::List(list) => Ok(Value::Int(list.len() as i64)),
            Value::Texts(texts) => Ok(Value::Int(texts.len() as i64)),
            Value::Map(map) => Ok(Value::Int(map.len() as i64)),
            other => Err(format!("len of type {}", other.type_name())),
        },
        "ne" => match &*arguments {
            [a, b] => Ok(Value::Bool(compare(a, b)? != Some(Ordering::Equal))),
            _ => Err(wrong(2)),
        },
        "lt" => ordered(Ordering::is_lt),
        "le" => ordered(Ordering::is_le),
        "gt" => ordered(Ordering::is_gt),
        "ge" => ordered(Ordering::is_ge),
        "query" => {
            let found = surroundings.query(&text(one()?)?)?;
            Ok(Value::List(found.into_iter().map(Value::of_sample).collect()))
        }
        "first" => match one()? {
            Value::List(list) => {
                list.first().cloned().ok_or_else(|| "first() called on vector with no elements".to_owned())
            }
            other => Err(format!("wrong type for value; expected template.queryResult; got {}", other.type_name())),
        },
        "label" => match &*arguments {
            [Value::Text(name), sample] => sample.field("Labels")?.field(name),
            [_, _] => Err("wrong type for value; expected string".to_owned()),
            _ => Err(wrong(2)),
        },
        "value" => one()?.field("Value"),
        "strvalue" => one()?.field("Labels")?.field("__value__"),
        "sortByLabel" => match &*arguments {
            [Value::Text(name), Value::List(list)] => {
                let mut sorted = list.clone();
                let key = |sample: &Value| {
                    sample.field("Labels").and_then(|labels| labels.field(name)).map(|label| label.text())
                };
                sorted.sort_by_cached_key(|sample| key(sample).unwrap_or_default());
                Ok(Value::List(sorted))
            }
            [_, _] => Err("wrong type for value; expected string and template.queryResult".to_owned()),
            _ => Err(wrong(2)),
        },
        "reReplaceAll" => {
            let texts = texts(3)?;
            let [pattern, replacement, text] = &*texts else { return Err(wrong(3)) };
            Ok(Value::Text(regex(pattern)?.replace_all(text, &**replacement).into_owned()))
        }
        "match" => {
            let texts = texts(2)?;
            let [pattern, text] = &*texts else { return Err(wrong(2)) };
            Ok(Value::Bool(regex(pattern)?.is_match(text)))
        }
        "safeHtml" => Ok(Value::Text(text(one()?)?)),
        "title" => Ok(Value::Text(title(&text(one()?)?))),
        "toUpper" => Ok(Value::Text(text(one()?)?.to_uppercase())),
        "toLower" => Ok(Value::Text(text(one()?)?.to_lowercase())),
        "graphLink" => Ok(Value::Text(format!("/graph?g0.expr={}&g0.tab=0", query_escaped(&text(one()?)?)))),
        "tableLink" => Ok(Value::Text(format!("/graph?g0.expr={}&g0.tab=1", query_escaped(&text(one()?)?)))),
        "stripPort" => Ok(Value::Text(without_port(&text(one()?)?))),
        "stripDomain" => Ok(Value::Text(without_domain(&text(one()?)?))),
        "humanize" => Ok(Value::Text(humanize::humanize(one()?.number()?))),
        "humanize1024" => Ok(Value::Text(humanize::humanize1024(one()?.number()?))),
        "humanizeDuration" => Ok(Value::Text(humanize::duration(one()?.number()?))),
        "humanizePercentage" => Ok(Value::Text(humanize::percentage(one()?.number()?))),
        "humanizeTimestamp" => Ok(Value::Text(humanize::timestamp(one()?.number()?)?)),
        "toTime" => Ok(Value::Time(humanize::time(one()?.number()?)?)),
        "toDuration" => {
            let seconds = one()?.number()?;
            let duration = SignedDuration::try_from_secs_f64(seconds);
            Ok(Value::Duration(duration.map_err(|_| format!("{seconds} seconds are no duration"))?))
        }
        "parseDuration" => {
            let written = text(one()?)?;
            let milliseconds = dropsonde_promql::number::parse_duration(&written)?;
            Ok(Value::Float(milliseconds as f64 / 1000.0))
        }
        "now" => none(Value::Float(surroundings.now_ms() as f64 / 1000.0)),
        "externalURL" => none(Value::Text(surroundings.external_url().to_owned())),
        "pathPrefix" => {
            let url = surroundings.external_url();
            let path = url
                .split_once("://")
                .map_or("", |(_, rest)| rest.find('/').and_then(|at| rest.get(at..)).unwrap_or(""));
            none(Value::Text(path.to_owned()))
        }
        "urlQueryEscape" => Ok(Value::Text(query_escaped(&text(one()?)?))),
        _ => Err("it is not defined".to_owned()),
    }
}

/// Writes values beside each other, with a space between two that are no texts.
fn print(values: &[Value]) -> String {
    let mut printed = String::new();
    let mut before: Option<&Value> = None;
    for value in values {
        let is_text = |value: &Value| matches!(value, Value::Text(_));
        if before.is_some_and(|before| !is_text(before) && !is_text(value)) {
            printed.push(' ');
        }
        printed.push_str(&value.text());
        before = Some(value);
    }
    printed
}

/// Compares two values of the same kind. NaN has no order.
fn compare(a: &Value, b: &Value) -> Result<Option<Ordering>, String> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Ok(Some(a.cmp(b))),
        (Value::Int(a), Value::Int(b)) => Ok(Some(a.cmp(b))),
        (Value::Float(a), Value::Float(b)) => Ok(a.partial_cmp(b)),
        (Value::Text(a), Value::Text(b)) => Ok(Some(a.cmp(b))),
        (Value::Duration(a), Value::Duration(b)) => Ok(Some(a.cmp(b))),
        (Value::Nothing, Value::Nothing) => Ok(Some(Ordering::Equal)),
        (Value::Nothing, _) | (_, Value::Nothing) => Ok(None),
        _ => Err("incompatible types for comparison".to_owned()),
    }
}

fn index(arguments: &[Value]) -> Result<Value, String> {
    let Some((first, keys)) = arguments.split_first() else {
        return Err("wrong number of args for index: want at least 1 got 0".to_owned());
    };
    let mut value = first.clone();
    for key in keys {
        value = match (&value, key) {
            (Value::List(list), Value::Int(nth)) => {
                let found = usize::try_from(*nth).ok().and_then(|nth| list.get(nth));
                found.cloned().ok_or_else(|| format!("index out of range: {nth}"))?
            }
            (Value::Text(text), Value::Int(nth)) => {
                let found = usize::try_from(*nth).ok().and_then(|nth| text.as_bytes().get(nth));
                found.map(|byte| Value::Int(i64::from(*byte))).ok_or_else(|| format!("index out of range: {nth}"))?
            }
            (Value::Texts(_) | Value::Map(_), Value::Text(name)) => value.field(name)?,
            (value, key) => return Err(format!("can't index {} with {}", value.type_name(), key.type_name())),
        };
    }
    Ok(value)
}

fn slice(arguments: &[Value]) -> Result<Value, String> {
    let Some((first, bounds)) = arguments.split_first() else {
        return Err("wrong number of args for slice: want at least 1 got 0".to_owned());
    };
    let bound = |nth: usize, usual: usize| match bounds.get(nth) {
        Some(Value::Int(at)) => usize::try_from(*at).map_err(|_| format!("index out of range: {at}")),
        Some(other) => Err(format!("cannot index slice/array with type {}", other.type_name())),
        None => Ok(usual),
    };
    let out_of_range = || "index out of range".to_owned();
    match first {
        Value::Text(text) => {
            let range = bound(0, 0)?..bound(1, text.len())?;
            text.get(range).map(|part| Value::Text(part.to_owned())).ok_or_else(out_of_range)
        }
        Value::List(list) => {
            let range = bound(0, 0)?..bound(1, list.len())?;
            list.get(range).map(|part| Value::List(part.to_vec())).ok_or_else(out_of_range)
        }
        other => Err(format!("can't slice item of type {}", other.type_name())),
    }
}

fn regex(pattern: &str) -> Result<Regex, String> {
    let built = regex::RegexBuilder::new(pattern).size_limit(LARGEST_REGEX).build();
    built.map_err(|_| format!("{} is not a regular expression", quoted(pattern)))
}

fn html(text: &str) -> String {
    let escaped = |c: char| match c {
        '&' => "&amp;".to_owned(),
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '"' => "&#34;".to_owned(),
        '\'' => "&#39;".to_owned(),
        '\0' => "\u{fffd}".to_owned(),
        other => other.to_string(),
    };
    text.chars().map(escaped).collect()
}

fn js(text: &str) -> String {
    let escaped = |c: char| match c {
        '\\' => "\\\\".to_owned(),
        '\'' => "\\'".to_owned(),
        '"' => "\\\"".to_owned(),
        '<' | '>' | '&' | '=' => format!("\\u{:04X}", u32::from(c)),
        c if u32::from(c) < 0x20 => format!("\\u{:04X}", u32::from(c)),
        other => other.to_string(),
    };
    text.chars().map(escaped).collect()
}

fn query_escaped(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string().replace(' ', "+")
}

/// Makes the first letter of each word large, as Go's `strings.Title` does.
fn title(text: &str) -> String {
    let is_separator = |c: char| {
        if c.is_ascii() { !c.is_ascii_alphanumeric() && c != '_' } else { !c.is_alphanumeric() && c.is_whitespace() }
    };
    let mut is_first = true;
    let mut titled = String::new();
    for c in text.chars() {
        if is_first {
            titled.extend(c.to_uppercase())
        } else {
            titled.push(c)
        }
        is_first = is_separator(c);
    }
    titled
}

/// Returns the host of `host:port`, also of `[::1]:80`; any other text as it is.
fn without_port(address: &str) -> String {
    let Some((host, port)) = address.rsplit_once(':') else { return address.to_owned() };
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(host) if !host.contains(['[', ']']) => host.to_owned(),
        None if !host.contains([':', '[', ']']) && !port.contains([']', '[']) => host.to_owned(),
        _ => address.to_owned(),
    }
}

/// Returns the first part of a host's name, with its port. Addresses stay.
fn without_domain(address: &str) -> String {
    let (host, port) = match without_port(address) {
        host if host == address => (host, None),
        host => (host, address.rsplit_once(':').map(|(_, port)| port)),
    };
    if host.parse::<std::net::IpAddr>().is_ok() {
        return address.to_owned();
    }
    let first = host.split('.').next().unwrap_or_default();
    match port {
        Some(port) => format!("{first}:{port}"),
        None => first.to_owned(),
    }
}
