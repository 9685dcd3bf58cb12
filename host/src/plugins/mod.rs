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
    let granted = |need: &&Need| match need {
        Need::Read(glob) => grants.cover(glob),
        // Nothing of these can be granted yet.
        Need::Http(_) | Need::Env(_) | Need::Dir(_) => false,
    };
    needs.iter().filter(|need| !granted(need)).cloned().collect()
}

/// The lines an operator adds to the configuration to grant what is needed; what cannot be granted yet is a comment.
pub fn grants_toml(plugin: &str, needs: &[Need]) -> String {
    let read = needs.iter().filter_map(|need| if let Need::Read(glob) = need { Some(glob) } else { None });
    let read: Vec<_> = read.map(|glob| toml_string(&schema::plain(glob))).collect();
    let mut toml = format!("[plugins.{}.grants]\nread = [{}]\n", toml_key(plugin), read.join(", "));
    for need in needs.iter().filter(|need| !matches!(need, Need::Read(_))) {
        toml.push_str(&format!("# {}: this version of the host cannot grant it\n", page::describe_need(need)));
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
        assert!(toml.contains("\n# env TZ: "));
        let parsed: toml::Table = toml::from_str(&toml).unwrap();
        let read = &parsed["plugins"]["my plugin"]["grants"]["read"];
        assert_eq!(read.as_array().unwrap()[1].as_str(), Some("/a\"b\\"));
    }

    #[test]
    fn what_is_missing_is_what_no_grant_covers() {
        let grants = Grants::new(["/proc/stat", "/proc/*/status"]).unwrap();
        let need = |glob: &str| Need::Read(glob.to_owned());
        let needs = [need("/proc/stat"), need("/proc/1/status"), need("/proc/*/status"), need("/proc/*")];
        assert_eq!(missing(&needs, &grants), [need("/proc/*")]);
    }
}
