//! The configuration in force as one TOML file: what a file and flags set, and the defaults of all other keys.

use super::reference::{self, ConfigKey};
use super::{Config, ConfigError, ConfigFile};
use dropsonde_model::Right;
use std::path::Path;
use toml::{Table, Value};

/// Stands for a value that may be a secret.
const SECRET: &str = "(not shown)";

/// Parts of the names of keys whose values may be secrets. Files with secrets are named by their paths, which are none.
const SECRETS: [&str; 6] = ["password", "token", "secret", "credential", "authorization", "headers"];

/// Returns what is in force with a configuration that was read from a file and then changed by flags.
pub(crate) fn text(file: Option<&ConfigFile>, config: &Config) -> Result<String, ConfigError> {
    let text = file.map(ConfigFile::text).transpose()?.unwrap_or_default();
    let path = || file.map_or_else(Default::default, |file| file.path().to_owned());
    let refused = |message: String| ConfigError::Syntax { path: path(), message };
    let mut table: Table = toml::from_str(&text).map_err(|error: toml::de::Error| refused(error.to_string()))?;
    for key in reference::keys() {
        add_default(&mut table, &key, key.path);
    }
    set(&mut table, "listen", config.listen.to_string().into());
    set(&mut table, "store.memory_only", config.store.memory_only.into());
    let paths = [
        ("data_dir", config.kept_dir()),
        ("plugins_dir", config.plugins_folder()),
        ("auth.read_token_file", config.http().token_file(Right::Read)),
        ("auth.write_token_file", config.http().token_file(Right::Write)),
        ("auth.admin_token_file", config.http().token_file(Right::Admin)),
    ];
    for (key, path) in paths {
        if let Some(path) = path {
            set(&mut table, key, text_of(&path).into());
        }
    }
    hide_secrets(&mut table);
    let mut text = match file {
        Some(file) if !text.is_empty() => format!("# From {}, flags and defaults.\n", file.path().display()),
        Some(file) => format!("# From flags and defaults; {} is missing or empty.\n", file.path().display()),
        None => "# From flags and defaults.\n".to_owned(),
    };
    text += &toml::to_string(&table).map_err(|error| refused(error.to_string()))?;
    Ok(text)
}

fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Sets a key that is not set to its default, in each table that it can be in. A table that is off unless it is there
/// is not added, and the limits of plugins depend on the plugin.
fn add_default(table: &mut Table, key: &ConfigKey, path: &str) {
    let Some(default) = key.default else { return };
    let Some((first, rest)) = path.split_once('.') else {
        let parsed: Result<Table, _> = toml::from_str(&format!("value = {default}"));
        if let (false, Some(value)) =
            (table.contains_key(path), parsed.ok().and_then(|mut parsed| parsed.remove("value")))
        {
            table.insert(path.to_owned(), value);
        }
        return;
    };
    let is_off = first == "plugins" || first == "read_through" || first.ends_with("[]");
    let first = first.trim_end_matches("[]");
    if !is_off && !table.contains_key(first) {
        table.insert(first.to_owned(), Table::new().into());
    }
    match table.get_mut(first) {
        Some(Value::Table(below)) if first != "plugins" => add_default(below, key, rest),
        Some(Value::Array(tables)) => {
            tables.iter_mut().filter_map(Value::as_table_mut).for_each(|below| add_default(below, key, rest));
        }
        _ => {}
    }
}

fn set(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(table.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            if let Value::Table(below) = table.entry(first).or_insert_with(|| Table::new().into()) {
                set(below, rest, value);
            }
        }
    }
}

fn hide_secrets(table: &mut Table) {
    for (key, value) in table.iter_mut() {
        let name = key.to_ascii_lowercase();
        match value {
            // Nobody but the plugin knows which of its values are secrets.
            Value::Table(plugins) if key == "plugins" => {
                let sections = plugins.iter_mut().filter_map(|(_, section)| section.get_mut("config"));
                sections.for_each(hide);
            }
            _ if name.ends_with("_file") => {}
            _ if SECRETS.iter().any(|secret| name.contains(secret)) => hide(value),
            // The path of a webhook can be one.
            Value::String(text) if name == "url" => *text = without_path(text),
            Value::Table(below) => hide_secrets(below),
            Value::Array(values) => values.iter_mut().filter_map(Value::as_table_mut).for_each(hide_secrets),
            _ => {}
        }
    }
}

/// Hides all texts in a value.
fn hide(value: &mut Value) {
    match value {
        Value::Table(table) => table.iter_mut().for_each(|(_, value)| hide(value)),
        Value::Array(values) => values.iter_mut().for_each(hide),
        Value::String(text) => *text = SECRET.to_owned(),
        _ => {}
    }
}

/// Returns the scheme and the host of a URL.
fn without_path(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return SECRET.to_owned() };
    let (authority, path) = rest.split_once(['/', '?', '#']).unwrap_or((rest, ""));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let rest = if path.is_empty() { String::new() } else { format!("/{SECRET}") };
    format!("{scheme}://{host}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_force(file: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dropsonde.toml");
        std::fs::write(&path, file).unwrap();
        let found = ConfigFile::find(Some(&path)).unwrap();
        text(Some(&found), &Config::read(&path).unwrap()).unwrap()
    }

    #[test]
    fn the_keys_of_the_file_and_the_defaults_of_the_others_are_shown_and_mean_the_same() {
        let file = "data_dir = '/d'\nstore.retention = '30d'\n[[remote_write]]\nurl = 'http://v/'\n";
        let shown = in_force(file);
        let now: Config = toml::from_str(&shown).unwrap();
        assert_eq!(now.store, toml::from_str::<Config>(file).unwrap().store);
        assert_eq!((now.remote_write.len(), now.data_dir), (1, Some("/d".into())));
        for line in [
            "retention = \"30d\"",
            "flush_interval = \"1s\"",
            "catch_up_rate = \"16MiB\"",
            "admin_token_file = \"/d/admin.token\"",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line} is not in\n{shown}");
        }
    }

    #[test]
    fn values_that_may_be_secrets_are_not_shown() {
        let shown = in_force(
            "data_dir = '/d'\n[[remote_write]]\nurl = 'https://u:s3cret@v/w'\nheaders = { X-Key = 's3cret' }\n\
             password_file = '/shown'\nusername = 'u'\n[plugins.p.config]\nredis.password = 's3cret'\nTOKENS = ['s3cret']\n",
        );
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("\"https://v/(not shown)\"") && shown.contains("\"/shown\""), "{shown}");
    }
}
