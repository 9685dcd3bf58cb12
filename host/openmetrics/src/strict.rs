//! A parser as strict as the specifications of both formats: some scraper may refuse what this parser refuses.

use std::collections::{BTreeMap, BTreeSet};

pub type SampleLabels = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq)]
pub struct ParsedFamily {
    pub name: String,
    pub kind: String,
    pub help: String,
    /// Name, labels and value of each sample.
    pub samples: Vec<(String, SampleLabels, f64)>,
}

/// Parses Prometheus' text format 0.0.4.
pub fn text(exposition: &str) -> Result<Vec<ParsedFamily>, String> {
    families(exposition, false)
}

/// Parses OpenMetrics 1.0, without exemplars and timestamps.
pub fn openmetrics(exposition: &str) -> Result<Vec<ParsedFamily>, String> {
    families(exposition.strip_suffix("# EOF\n").ok_or("the text does not end with # EOF")?, true)
}

/// Returns the value of one series, in whichever family it is.
pub fn value(families: &[ParsedFamily], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let labels: SampleLabels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut samples = families.iter().flat_map(|family| &family.samples);
    samples.find(|(is, its, _)| is == name && *its == labels).map(|(_, _, value)| *value)
}

fn families(exposition: &str, is_open: bool) -> Result<Vec<ParsedFamily>, String> {
    if exposition.contains('\r') {
        return Err("the text contains a carriage return".to_owned());
    }
    let mut families: Vec<ParsedFamily> = Vec::new();
    let lines = exposition.strip_suffix('\n').ok_or("the last line has no newline")?;
    for line in lines.split('\n') {
        let wrong = |why: &str| Err(format!("{why}: {line:?}"));
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (Some(what), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else {
                return wrong("malformed comment");
            };
            if what == "HELP" {
                let help = unescaped(rest, is_open).ok_or(format!("help text is not escaped: {line:?}"))?;
                let (name, kind) = (name.to_owned(), String::new());
                families.push(ParsedFamily { name, kind, help, samples: Vec::new() });
                continue;
            }
            let family = families.last_mut().filter(|family| family.name == name && family.samples.is_empty());
            let Some(family) = family else { return wrong("the comment does not belong to the family before it") };
            match what {
                "TYPE" if family.kind.is_empty() => family.kind = rest.to_owned(),
                "UNIT" if is_open && !rest.is_empty() && name.ends_with(&format!("_{rest}")) => {}
                _ => return wrong("misplaced comment"),
            }
            continue;
        }
        let (name, labels, value) = sample(line).ok_or(format!("not a sample: {line:?}"))?;
        let Some(family) = families.last_mut() else { return wrong("sample without a family") };
        if !belongs(family, &name, &labels, is_open) {
            return wrong(&format!("the sample does not belong to the {} {}", family.kind, family.name));
        }
        family.samples.push((name, labels, value));
    }
    let mut seen = BTreeSet::new();
    for family in &families {
        check(family)?;
        // In OpenMetrics the name of a family must not equal the name of another family's samples either.
        for name in [family.name.clone()].into_iter().chain(parts(family, is_open)).collect::<BTreeSet<_>>() {
            if !seen.insert(name.clone()) {
                return Err(format!("duplicate name {name}"));
            }
        }
    }
    Ok(families)
}

/// Returns the names that samples of a family may have.
fn parts(family: &ParsedFamily, is_open: bool) -> Vec<String> {
    let suffixes: &[&str] = match family.kind.as_str() {
        "counter" if is_open => &["_total"],
        "histogram" => &["_bucket", "_sum", "_count"],
        "summary" => &["", "_sum", "_count"],
        _ => &[""],
    };
    suffixes.iter().map(|suffix| format!("{}{suffix}", family.name)).collect()
}

fn belongs(family: &ParsedFamily, name: &str, labels: &SampleLabels, is_open: bool) -> bool {
    let is_part = parts(family, is_open).iter().any(|part| part == name);
    let is_bucket = family.kind == "histogram" && name.ends_with("_bucket");
    let is_known = ["counter", "gauge", "histogram", "summary", "untyped", "unknown"].contains(&family.kind.as_str());
    is_part && is_known && labels.contains_key("le") == is_bucket
}

fn check(family: &ParsedFamily) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("{why}: {family:?}"));
    if family.samples.is_empty() {
        return wrong("family without samples");
    }
    if family.help.is_empty() {
        return wrong("family without help");
    }
    let mut seen = BTreeSet::new();
    let mut buckets: BTreeMap<SampleLabels, Vec<(f64, f64)>> = BTreeMap::new();
    for (name, labels, value) in &family.samples {
        if !seen.insert((name, labels)) {
            return wrong("duplicate series");
        }
        let is_count = family.kind == "counter" || name.ends_with("_bucket") || name.ends_with("_count");
        if is_count && family.kind != "gauge" && (value.is_nan() || *value < 0.0) {
            return wrong("a count is negative or not a number");
        }
        if let Some(le) = labels.get("le") {
            let mut others = labels.clone();
            others.remove("le");
            let bound = number(le).filter(|_| le.contains(['.', 'e', 'I'])).ok_or(format!("not a bound: {le:?}"))?;
            buckets.entry(others).or_default().push((bound, *value));
        }
    }
    for (labels, buckets) in &buckets {
        let count = value(std::slice::from_ref(family), &format!("{}_count", family.name), &pairs(labels));
        let last = buckets.last().copied();
        if !buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1) || last.map(|last| last.0) != Some(f64::INFINITY) {
            return wrong("buckets do not ascend to infinity");
        }
        if last.map(|last| last.1) != count {
            return wrong("the count differs from the last bucket");
        }
    }
    Ok(())
}

fn pairs(labels: &SampleLabels) -> Vec<(&str, &str)> {
    labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

fn sample(line: &str) -> Option<(String, SampleLabels, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at_checked(end)?;
    is_name(name, true).then_some(())?;
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (SampleLabels::new(), rest),
    };
    Some((name.to_owned(), labels, number(rest.strip_prefix(' ')?)?))
}

fn labels(mut rest: &str) -> Option<(SampleLabels, &str)> {
    let mut labels = SampleLabels::new();
    loop {
        let (key, after) = rest.split_once("=\"")?;
        is_name(key, false).then_some(())?;
        let mut escaped = false;
        let end = after.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        let (value, after) = after.split_at_checked(end)?;
        if labels.insert(key.to_owned(), unescaped(value, true)?).is_some() {
            return None;
        }
        rest = after.strip_prefix('"')?;
        match rest.strip_prefix('}') {
            Some(rest) => return Some((labels, rest)),
            None => rest = rest.strip_prefix(',')?,
        }
    }
}

fn unescaped(text: &str, quotes: bool) -> Option<String> {
    let mut unescaped = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => unescaped.push(match chars.next()? {
                'n' => '\n',
                '\\' => '\\',
                '"' if quotes => '"',
                _ => return None,
            }),
            '"' if quotes => return None,
            c => unescaped.push(c),
        }
    }
    Some(unescaped)
}

fn is_name(name: &str, colons: bool) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (colons && byte == b':');
    !name.is_empty() && name.bytes().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn number(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        // Rust parses more than the grammar allows, for example `inf`.
        text if text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)) => text.parse().ok(),
        _ => None,
    }
}
