//! The plugins of a running host: where they come from, what state they are in, what they are granted.

mod batches;
mod bundled;
mod find;
mod ladder;
mod page;
mod poll;
mod run;
mod schema;
mod state_file;
mod status;

pub use bundled::{BUNDLED, Bundled};
pub use find::{Component, FindError, Origin, find};
pub use page::PluginPage;
pub use run::run;
pub use schema::{BadFields, Fields, Metric};
pub use status::{Order, PluginState, Status, Waiting};

pub(crate) use page::describe_need;
pub(crate) use schema::plain;

use crate::tracked::PluginName;
use dropsonde_sandbox::{Grants, Need};
use dropsonde_store::Schema;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// All plugins by name.
#[derive(Debug, Default)]
pub struct Plugins(RwLock<BTreeMap<PluginName, Arc<Status>>>);

impl Plugins {
    pub fn add(&self, status: Arc<Status>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(status.name.clone(), status);
    }

    pub fn get(&self, name: &str) -> Option<Arc<Status>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// By name.
    pub fn list(&self) -> Vec<Arc<Status>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// What a frame's columns are as metrics; none when its plugin now has other fields.
    pub fn fields_of(&self, schema: &Schema) -> Option<Fields> {
        self.get(schema.sampler())?.fields().filter(|fields| fields.schema == *schema)
    }
}

/// What a plugin needs and was not granted.
pub fn missing(needs: &[Need], grants: &Grants) -> Vec<Need> {
    needs.iter().filter(|need| !grants.cover(need)).cloned().collect()
}

/// The lines an operator adds to the configuration to grant what is needed.
pub fn grants_toml(plugin: &str, needs: &[Need]) -> String {
    let mut toml = format!("[plugins.{}.grants]\n", toml_key(plugin));
    for (key, kind) in [("read", "read"), ("http", "http"), ("env", "env"), ("dirs", "dir")] {
        let what: Vec<_> = needs.iter().filter(|need| need.kind() == kind).collect();
        let what: Vec<_> = what.into_iter().map(|need| toml_string(&schema::plain(need.what()))).collect();
        if !what.is_empty() {
            toml.push_str(&format!("{key} = [{}]\n", what.join(", ")));
        }
    }
    toml
}

fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn toml_key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if bare { name.to_owned() } else { toml_string(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_to_paste_parse_and_say_what_is_needed() {
        let needs = [Need::Read("/proc/stat".to_owned()), Need::Read("/a\"b\\".to_owned()), Need::Env("TZ".to_owned())];
        let toml = grants_toml("my plugin", &needs);
        let parsed: toml::Table = toml::from_str(&toml).unwrap();
        let read = &parsed["plugins"]["my plugin"]["grants"]["read"];
        assert_eq!(read.as_array().unwrap()[1].as_str(), Some("/a\"b\\"));
        assert_eq!(parsed["plugins"]["my plugin"]["grants"]["env"][0].as_str(), Some("TZ"));
    }
}
