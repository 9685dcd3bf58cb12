//! Reads the descriptions of all keys from the handbook. Its tables are the only list of keys for people: `dropsonde config` prints
//! them, and packages ship them as the configuration to begin with.

use dropsonde_http::handbook::{self, HandbookPage};
use dropsonde_model::nearest::nearest;
use std::fmt::Write as _;

/// The pages that have tables of keys.
const PAGES: [&str; 5] = ["configuration", "alerts", "remote-write", "otlp", "longer-history"];

/// Longest line of a comment.
const WIDTH: usize = 100;

const PREAMBLE: &str = "\
# The keys of the configuration with their defaults. To change one, remove the # in front of it. A running host reads
# a changed file again. `dropsonde serve --check` finds mistakes, `dropsonde docs configuration` explains durations,
# sizes and paths.
";

/// A key of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigKey {
    /// The path of the key. `[]` stands for each table of a list, and `NAME` for the name of a plugin.
    pub path: &'static str,
    /// The default as it is written in TOML; none if the key is unset or required.
    pub default: Option<&'static str>,
    /// Whether the table that the key is in needs it.
    pub is_required: bool,
    /// Whether a change takes a restart of the host.
    pub takes_restart: bool,
    /// Its meaning, as plain text.
    pub meaning: String,
}

/// Returns all keys, in the order of the handbook, those outside of a table first.
pub fn keys() -> Vec<ConfigKey> {
    let pages = PAGES.iter().filter_map(|name| handbook::page(name));
    let mut keys: Vec<ConfigKey> =
        pages.flat_map(|page| page.text.lines().filter_map(move |line| key(page, line))).collect();
    keys.sort_by_key(|key| !key.table().is_empty());
    keys
}

/// Returns the keys that are meant by a name: that key, all keys of that table, or the keys that end so.
pub(crate) fn keys_of(name: &str) -> Result<Vec<ConfigKey>, String> {
    let all = keys();
    let is_meant = |key: &ConfigKey| {
        let below = key.path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        below || key.name() == name
    };
    let meant: Vec<_> = all.iter().filter(|key| is_meant(key)).cloned().collect();
    if !meant.is_empty() {
        return Ok(meant);
    }
    let near = nearest(name, all.iter().flat_map(|key| [key.path, key.name(), key.table()]));
    let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    Err(format!("the configuration has no key {name}{near} (`dropsonde config` lists all keys)"))
}

/// Returns the keys as a TOML file with comments, in which no key is set.
pub(crate) fn commented(keys: &[ConfigKey]) -> String {
    let mut text = PREAMBLE.to_owned();
    let mut before = "";
    for key in keys {
        let table = key.table();
        if table != before {
            let _ = write!(text, "\n{}\n", header(table, keys));
            before = table;
        }
        text.push('\n');
        let note = match (key.is_required, key.takes_restart) {
            (true, _) => " Required.",
            (_, true) => " A change takes a restart.",
            _ => "",
        };
        for line in wrapped(&format!("{}.{note}", key.meaning.trim_end_matches('.'))) {
            let _ = writeln!(text, "# {line}");
        }
        let _ = match key.default {
            Some(default) => writeln!(text, "#{} = {default}", key.name()),
            None => writeln!(text, "#{} =", key.name()),
        };
    }
    text
}

/// Returns the line that begins a table. It is a comment if the table must not be there empty.
fn header(table: &str, keys: &[ConfigKey]) -> String {
    let header = match table.strip_suffix("[]") {
        Some(list) => format!("[[{list}]]"),
        None => format!("[{table}]"),
    };
    let is_optional = table.contains("[]") || table.contains("NAME");
    let has_required = keys.iter().any(|key| key.table() == table && key.is_required);
    if is_optional || has_required { format!("#{header}") } else { header }
}

/// Reads a row of a table: key, default, whether a change takes a restart, meaning.
fn key(page: HandbookPage, line: &'static str) -> Option<ConfigKey> {
    let mut cells = line.strip_prefix("| `")?.trim_end_matches(" |").splitn(4, " | ");
    let path = cells.next()?.trim_end_matches('`');
    let default = cells.next()?.trim_matches('`');
    let takes_restart = match cells.next()? {
        "yes" => true,
        "no" => false,
        _ => return None,
    };
    let meaning = without_links(page, cells.next()?);
    let is_required = default == "required";
    let default = Some(default).filter(|default| !is_required && *default != "unset");
    Some(ConfigKey { path, default, is_required, takes_restart, meaning })
}

/// Replaces links to pages by the command that prints them.
fn without_links(page: HandbookPage, markdown: &str) -> String {
    let mut text = String::with_capacity(markdown.len());
    let mut rest = markdown;
    while let Some((before, (label, (target, after)))) = rest.split_once('[').and_then(|(before, link)| {
        let (label, link) = link.split_once("](")?;
        Some((before, (label, link.split_once(')')?)))
    }) {
        let name = target.split(['#', '.']).next().filter(|name| !name.is_empty()).unwrap_or(page.name);
        let _ = write!(text, "{before}{label} (`dropsonde docs {name}`)");
        rest = after;
    }
    text + rest
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

// === impl ConfigKey ===

impl ConfigKey {
    /// Returns the path of the table that the key is in; empty for keys outside of a table.
    pub fn table(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(table, _)| table)
    }

    /// Returns the name of the key in its table.
    pub fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_commented_file_sets_nothing_and_without_its_comment_signs_it_sets_the_defaults() {
        let text = commented(&keys());
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default());
        let mut is_optional = false;
        let mut set = String::new();
        for line in text.lines() {
            if line.starts_with("#[") || line.starts_with('[') {
                is_optional = line.starts_with('#');
            }
            let key = line.strip_prefix('#').filter(|key| !key.starts_with([' ', '[']) && !key.ends_with('='));
            set += key.filter(|_| !is_optional).unwrap_or(line);
            set.push('\n');
        }
        assert!(set.contains("\nretention = \"7d\"\n"), "{set}");
        assert_eq!(toml::from_str::<Config>(&set).unwrap(), Config::default());
    }

    #[test]
    fn links_become_commands_that_print_the_page() {
        let page = handbook::page("remote-write").unwrap();
        let text = without_links(page, "See [below](#relabel), [fair shares](fair-shares.md#disk) and a[b]");
        let said = "See below (`dropsonde docs remote-write`), fair shares (`dropsonde docs fair-shares`) and a[b]";
        assert_eq!(text, said);
    }

    #[test]
    fn a_name_means_a_key_a_table_or_the_end_of_a_path() {
        let paths = |name| keys_of(name).map(|keys| keys.into_iter().map(|key| key.path).collect::<Vec<_>>());
        assert_eq!(paths("store.retention").unwrap(), ["store.retention"]);
        assert_eq!(paths("retention").unwrap(), ["store.retention"]);
        assert!(paths("remote_write").unwrap().contains(&"remote_write[].url"));
        assert!(paths("store.retentoin").unwrap_err().contains("did you mean store.retention?"));
    }
}
