//! The names of plugins in a configuration, and which of them are unknown.

use super::Options;
use dropsonde_model::nearest::nearest;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The name of a plugin in a configuration, and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NamedPlugin<'a> {
    plugin: &'a str,
    place: Mention<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mention<'a> {
    Section,
    DefaultSamplers,
    /// The samplers of the instance with this id.
    SamplersOf(&'a str),
}

/// A name in the configuration that no plugin has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownName {
    /// The part of the configuration with the name.
    pub part: String,
    /// The error in words.
    pub why: String,
}

impl Options {
    /// Returns the names that no known plugin has. It accepts names that `before` has too, because that configuration
    /// is in force and waits for those plugins.
    pub fn unknown_names(&self, known: &BTreeSet<String>, before: Option<&Self>) -> Vec<UnknownName> {
        let before: BTreeSet<&str> = before.into_iter().flat_map(|before| before.named()).map(|n| n.plugin).collect();
        let is_unknown = |named: &NamedPlugin<'_>| {
            // What is pulled comes later.
            let is_pulled = self.plugins.get(named.plugin).is_some_and(|section| section.from.is_some());
            !known.contains(named.plugin) && !before.contains(named.plugin) && !is_pulled
        };
        self.named().into_iter().filter(is_unknown).map(|named| self.unknown(named, known)).collect()
    }

    /// Returns the missing files of the plugins that the configuration names.
    pub fn awaited_files(&self) -> BTreeSet<PathBuf> {
        let Some(folder) = &self.plugins_dir else { return BTreeSet::new() };
        let named = self.named().into_iter().filter(|named| self.bundled(named.plugin).is_none());
        let files = named.map(|named| folder.join(format!("{}.wasm", named.plugin)));
        files.filter(|file| !file.exists()).collect()
    }

    fn named(&self) -> Vec<NamedPlugin<'_>> {
        let sections = self.plugins.keys().map(|plugin| NamedPlugin { plugin, place: Mention::Section });
        let default = self.poll.default_samplers.iter();
        let default = default.map(|plugin| NamedPlugin { plugin, place: Mention::DefaultSamplers });
        let of_instances = self.instances.iter().flat_map(|instance| {
            let samplers = instance.samplers.iter().flatten();
            samplers.map(|plugin| NamedPlugin { plugin, place: Mention::SamplersOf(&instance.id) })
        });
        sections.chain(default).chain(of_instances).filter(|named| named.plugin != "*").collect()
    }

    fn unknown(&self, NamedPlugin { plugin, place }: NamedPlugin<'_>, known: &BTreeSet<String>) -> UnknownName {
        let (part, key) = match place {
            Mention::Section => (format!("[plugins.{plugin}]"), format!("plugins.{plugin}")),
            Mention::DefaultSamplers => ("[poll]".to_owned(), "poll.default_samplers".to_owned()),
            Mention::SamplersOf(id) => ("[[instances]]".to_owned(), format!("the samplers of instance {id:?}")),
        };
        let file = match &self.plugins_dir {
            Some(folder) => format!(", and there is no {}", folder.join(format!("{plugin}.wasm")).display()),
            None => String::new(),
        };
        let meant = nearest(plugin, known.iter().map(String::as_str));
        let meant = meant.map(|meant| format!("; did you mean {meant:?}?")).unwrap_or_default();
        let known: Vec<_> = known.iter().map(String::as_str).collect();
        let known = known.join(", ");
        UnknownName { part, why: format!("{key}: no plugin is called {plugin:?}{file}{meant} (known: {known})") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{PluginConfig, PollConfig, StaticInstance};

    fn with_sections(plugins: &[&str]) -> Options {
        let sections = plugins.iter().map(|plugin| ((*plugin).to_owned(), PluginConfig::default()));
        Options { plugins: sections.collect(), ..Options::default() }
    }

    #[test]
    fn unknown_plugin_names_are_reported_with_a_suggestion_unless_the_configuration_before_has_them() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let instance =
            StaticInstance { id: "a".to_owned(), labels: Default::default(), samplers: Some(names(&["scrap"])) };
        let options = Options {
            plugins_dir: Some("/d/plugins".into()),
            poll: PollConfig { default_samplers: names(&["*", "nope"]), ..PollConfig::default() },
            instances: vec![instance],
            ..with_sections(&["procsf", "procfs"])
        };
        let known = BTreeSet::from(["procfs".to_owned(), "scrape".to_owned()]);
        let unknown = options.unknown_names(&known, None);
        let parts: Vec<_> = unknown.iter().map(|unknown| unknown.part.as_str()).collect();
        assert_eq!(parts, ["[plugins.procsf]", "[poll]", "[[instances]]"]);
        assert_eq!(
            unknown[0].why,
            "plugins.procsf: no plugin is called \"procsf\", and there is no /d/plugins/procsf.wasm; \
             did you mean \"procfs\"? (known: procfs, scrape)"
        );
        assert!(
            unknown[2].why.starts_with("the samplers of instance \"a\": ") && unknown[2].why.contains("\"scrape\"?")
        );
        let before = with_sections(&["nope", "procsf", "scrap"]);
        assert_eq!(options.unknown_names(&known, Some(&before)), []);
    }
}
