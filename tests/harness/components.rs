//! Components that no toolchain makes, derived from one that a toolchain made.

/// Returns the component with a name replaced by another of the same length.
pub(crate) fn replace_text(component: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len(), "another length would make the length fields wrong");
    let mut renamed = component.to_vec();
    let mut at = 0;
    while let Some(found) = renamed[at..].windows(from.len()).position(|window| window == from.as_bytes()) {
        renamed[at + found..at + found + from.len()].copy_from_slice(to.as_bytes());
        at += found + from.len();
    }
    assert_ne!(renamed, component, "{from} is not in it");
    renamed
}

/// Returns the component with an exported function of its main module as that module's start function.
pub(crate) fn with_start_function(component: &[u8], export: &str) -> Vec<u8> {
    const CORE_MODULE: u8 = 1;
    let (head, rest) = component.split_at(8);
    let mut out = head.to_vec();
    let mut done = false;
    for (id, body) in sections(rest) {
        let start = (id == CORE_MODULE && !done).then(|| exported_function_index(body, export)).flatten();
        match start {
            Some(function) => {
                write_section(&mut out, id, &insert_start_section(body, function));
                done = true;
            }
            None => write_section(&mut out, id, body),
        }
    }
    assert!(done, "no module exports {export}");
    out
}

/// Returns the index of a function that a core module exports.
fn exported_function_index(module: &[u8], name: &str) -> Option<u64> {
    const EXPORT: u8 = 7;
    let (_, mut body) = sections(&module[8..]).into_iter().find(|(id, _)| *id == EXPORT)?;
    for _ in 0..read_leb128(&mut body) {
        let length = read_leb128(&mut body) as usize;
        let (found, rest) = body.split_at(length);
        body = &rest[1..];
        let index = read_leb128(&mut body);
        if rest[0] == 0 && found == name.as_bytes() {
            return Some(index);
        }
    }
    None
}

fn insert_start_section(module: &[u8], function: u64) -> Vec<u8> {
    const START: u8 = 8;
    let (head, rest) = module.split_at(8);
    let mut out = head.to_vec();
    let mut start = Some(function);
    for (id, body) in sections(rest) {
        // The start section is after exports and before elements; custom sections are anywhere.
        if id > START
            && let Some(function) = start.take()
        {
            let mut body = Vec::new();
            write_leb128(&mut body, function);
            write_section(&mut out, START, &body);
        }
        write_section(&mut out, id, body);
    }
    out
}

fn sections(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut sections = Vec::new();
    while let Some((&id, rest)) = bytes.split_first() {
        bytes = rest;
        let length = read_leb128(&mut bytes) as usize;
        let (body, rest) = bytes.split_at(length);
        sections.push((id, body));
        bytes = rest;
    }
    sections
}

fn read_leb128(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (&byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

fn write_section(out: &mut Vec<u8>, id: u8, body: &[u8]) {
    out.push(id);
    write_leb128(out, body.len() as u64);
    out.extend_from_slice(body);
}

fn write_leb128(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Returns a component with a small core module that is slow to compile: a function with many variables that are alive
/// in many branches.
pub(crate) fn slow_to_compile(branches: usize) -> Vec<u8> {
    use std::fmt::Write as _;
    const VARIABLES: usize = 300;
    let mut body = String::new();
    for nth in 0..branches {
        let (a, b, c) = (nth % VARIABLES, (nth * 7 + 1) % VARIABLES, (nth * 13 + 5) % VARIABLES);
        let _ = write!(
            body,
            "(local.set {a} (i64.add (local.get {b}) (i64.mul (local.get {c}) (i64.const {nth}))))\
             (br_if {} (i64.eqz (local.get {a})))",
            nth % 2
        );
    }
    let variables = "i64 ".repeat(VARIABLES);
    let text = format!("(component (core module (func (export \"f\") (local {variables}) (loop (block {body})))))");
    wat::parse_str(text).unwrap()
}
