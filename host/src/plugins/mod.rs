//! The plugins of a running host: where they come from, what state they are in, what they are granted.

mod bundled;
mod find;
mod page;
mod run;
mod schema;
mod state_file;
mod status;

pub use bundled::{BUNDLED, Bundled};
pub use find::{Component, FindError, Origin, check_folder, find};
pub use page::PluginPage;
pub use run::run;
pub use schema::{BadFields, Fields, Metric};
pub use status::{PluginState, Status};

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

/// The lines an operator adds to the configuration to grant what is needed.
pub fn grants_toml(plugin: &str, needs: &[Need]) -> String {
    let of_kind = |key: &str, pick: fn(&Need) -> Option<&String>| {
        let quoted: Vec<_> = needs.iter().filter_map(pick).map(|need| toml_string(&schema::plain(need))).collect();
        (!quoted.is_empty()).then(|| format!("{key} = [{}]\n", quoted.join(", ")))
    };
    let lines = [
        of_kind("read", |need| if let Need::Read(glob) = need { Some(glob) } else { None }),
        of_kind("http", |need| if let Need::Http(origin) = need { Some(origin) } else { None }),
        of_kind("env", |need| if let Need::Env(name) = need { Some(name) } else { None }),
        of_kind("dirs", |need| if let Need::Dir(path) = need { Some(path) } else { None }),
    ];
    format!("[plugins.{}.grants]\n{}", toml_key(plugin), lines.into_iter().flatten().collect::<String>())
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
        let needs = [Need::Read("/proc/stat".to_owned()), Need::Read("/a\"b\\".to_owned())];
        let toml = grants_toml("my plugin", &needs);
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
