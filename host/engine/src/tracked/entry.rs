//! One instance: its owner, the requests to poll it, its labels and its state.

use super::{API, CONFIGURATION, InstanceState, PluginName};
use dropsonde_model::Labels;
use dropsonde_model::names::is_reserved;
use std::collections::{BTreeMap, BTreeSet};

/// The bytes of an instance's id and labels for which one place is enough. The instance's note on disk takes less than
/// eight times as many.
const PLACE: usize = 512;

/// The state of an instance.
#[derive(Debug)]
pub(super) struct InstanceEntry {
    /// The number by which the instance differs from earlier ones of the same id, which were untracked.
    pub(super) generation: u64,
    /// The plugin, [`super::API`] or [`super::CONFIGURATION`], whichever discovered or named the instance first. Nobody
    /// else replaces what the owner reports. A plugin stays the owner while it is away, and after the instance has
    /// ended.
    pub(super) owner: PluginName,
    /// The owner is a plugin that an operator removed. The next plugin that finds the instance owns it.
    pub(super) is_released: bool,
    /// A plugin found the instance first at this start, in its first discovery. Another plugin whose name comes before
    /// takes it over if it finds it in its own first discovery.
    pub(super) is_contested: bool,
    /// The owner is a plugin that comes with the binary, or is part of the embedding program.
    pub(super) is_of_built_in: bool,
    /// The number of places that the instance takes.
    pub(super) places: u64,
    /// The plugins that discovered the instance, with the labels they gave.
    pub(super) discovered_by: BTreeMap<PluginName, Labels>,
    /// The labels that the last of those plugins gave, once none is left. They still describe the instance.
    pub(super) last_labels: Labels,
    /// The request of the operator.
    pub(super) configured: Option<PollRequest>,
    /// The request of a program.
    pub(super) asked: Option<PollRequest>,
    pub(super) is_paused: bool,
    /// The time at which the instance was found to have ended.
    pub(super) ended_ms: Option<i64>,
    /// All labels of the instance.
    pub(super) labels: Labels,
}

/// A request to track an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PollRequest {
    pub(super) labels: Labels,
    /// The samplers that are to poll it. None: the default samplers.
    pub(super) samplers: Option<Vec<String>>,
    /// The samplers that answered that it does not exist, and are not asked again.
    gone: BTreeSet<PluginName>,
}

// === impl InstanceEntry ===

impl InstanceEntry {
    pub(super) fn of(owner: PluginName, generation: u64) -> Self {
        Self {
            generation,
            owner,
            is_released: false,
            is_contested: false,
            is_of_built_in: false,
            places: 1,
            discovered_by: BTreeMap::new(),
            last_labels: Labels::new(),
            configured: None,
            asked: None,
            is_paused: false,
            ended_ms: None,
            labels: Labels::new(),
        }
    }

    /// Returns whether a plugin owns the instance, and not the operator or a program.
    pub(super) fn is_of_a_plugin(&self) -> bool {
        !is_reserved(&self.owner)
    }

    /// Returns whether the operator or a program wants a sampler to poll the instance.
    pub(super) fn is_asked_of(&self, plugin: &str, default: &[String]) -> bool {
        self.wishes_for(plugin).any(|wish| wish.is_for(plugin, default))
    }

    /// Returns whether the operator or a program lets a sampler poll the instance, also one that said before that it is
    /// gone.
    pub(super) fn is_open_to(&self, plugin: &str, default: &[String]) -> bool {
        self.wishes_for(plugin).any(|wish| wish.names(plugin, default))
    }

    /// Returns the requests that concern a sampler. A sampler that is not the owner polls a plugin's instance only if a
    /// request names the sampler: `*` does not give it a part in the instance.
    fn wishes_for(&self, plugin: &str) -> impl Iterator<Item = &PollRequest> {
        let is_named = move |wish: &PollRequest| wish.samplers.iter().flatten().any(|name| name == plugin);
        self.wishes().filter(move |wish| !self.is_of_a_plugin() || *self.owner == *plugin || is_named(wish))
    }

    /// Returns whether the owner polls the instance now, or is not a plugin.
    pub(super) fn has_its_owner(&self, default: &[String]) -> bool {
        !self.is_of_a_plugin() || self.is_polled_by(&self.owner, default)
    }

    /// Passes the instance on if its owner has no claim to it any more: the operator or the program no longer names it,
    /// or the operator removed the plugin. Of those that still report the instance, the operator comes first, then a
    /// program, then plugins.
    pub(super) fn pass_on(&mut self) {
        let is_claimed = match &*self.owner {
            CONFIGURATION => self.configured.is_some(),
            API => self.asked.is_some(),
            plugin => !self.is_released || self.discovered_by.contains_key(plugin),
        };
        if is_claimed {
            return;
        }
        let others = self.configured.iter().map(|_| CONFIGURATION.into());
        let mut others = others.chain(self.asked.iter().map(|_| API.into())).chain(self.discovered_by.keys().cloned());
        if let Some(owner) = others.next() {
            (self.owner, self.is_of_built_in, self.is_released) = (owner, false, false);
        }
    }

    /// Returns the number of places that the instance needs now.
    pub(super) fn needed_places(&self, id: &str) -> u64 {
        // Everything in the instance's note counts, also labels that others hide.
        let asked = self
            .asked
            .iter()
            .map(|wish| wish.labels.bytes() + wish.samplers.iter().flatten().map(String::len).sum::<usize>());
        let said = self.discovered_by.values().map(Labels::bytes).chain(asked).sum::<usize>();
        1 + ((id.len() + self.labels.bytes().max(said)) / PLACE) as u64
    }

    pub(super) fn state(&self) -> InstanceState {
        match self.ended_ms {
            _ if self.is_paused => InstanceState::Paused,
            Some(_) => InstanceState::Ended,
            None => InstanceState::Tracked,
        }
    }

    /// Returns when the instance ended, unless it is paused.
    pub(super) fn over_ms(&self) -> Option<i64> {
        self.ended_ms.filter(|_| !self.is_paused)
    }

    pub(super) fn is_polled_by(&self, plugin: &str, default: &[String]) -> bool {
        self.state() == InstanceState::Tracked
            && (self.discovered_by.contains_key(plugin) || self.is_asked_of(plugin, default))
    }

    /// Returns the plugins that discovered the instance, and the samplers that requests name, without `*`.
    pub(super) fn named_samplers<'a>(&'a self, default: &'a [String]) -> impl Iterator<Item = &'a str> {
        let wished = self.wishes().flat_map(move |wish| wish.samplers(default)).map(String::as_str);
        self.discovered_by.keys().map(|plugin| &**plugin).chain(wished).filter(|name| *name != "*")
    }

    /// Notes that a plugin no longer discovers the instance, or says that it is gone. Returns whether that changed
    /// something.
    pub(super) fn leave(&mut self, plugin: &PluginName, is_gone: bool, default: &[String], now_ms: i64) -> bool {
        let left = self.discovered_by.remove(plugin);
        let mut changed = left.is_some();
        if let Some(labels) = left.filter(|_| self.discovered_by.is_empty()) {
            self.last_labels = labels;
            // An empty map may keep its memory, and very many instances may have ended.
            self.discovered_by = BTreeMap::new();
        }
        if is_gone {
            for wish in self.configured.iter_mut().chain(&mut self.asked) {
                changed |= wish.is_for(plugin, default) && wish.gone.insert(plugin.clone());
            }
        }
        if changed {
            self.end_if_unwanted(default, now_ms);
        }
        changed
    }

    /// Removes the operator's request.
    pub(super) fn forget_configured(&mut self, default: &[String], now_ms: i64) {
        if let Some(wish) = self.configured.take().filter(|_| self.discovered_by.is_empty()) {
            self.last_labels = wish.labels;
        }
        self.end_if_unwanted(default, now_ms);
    }

    fn end_if_unwanted(&mut self, default: &[String], now_ms: i64) {
        let is_alive = !self.discovered_by.is_empty() || self.wishes().any(|wish| wish.may_be_answered(default));
        if !is_alive && self.ended_ms.is_none() {
            self.ended_ms = Some(now_ms);
        }
    }

    /// Returns the program's request after a platform reported that the instance is there, perhaps with labels. If
    /// plugins poll the instance anyway, no others do because of it.
    pub(super) fn asked_again(&self, labels: Option<&Labels>) -> Option<PollRequest> {
        let is_polled = self.configured.is_some() || !self.discovered_by.is_empty();
        match (&self.asked, labels) {
            (Some(before), labels) => {
                Some(PollRequest::new(labels.unwrap_or(&before.labels).clone(), before.samplers.clone()))
            }
            (None, None) if is_polled => None,
            (None, labels) => Some(PollRequest::new(labels.cloned().unwrap_or_default(), is_polled.then(Vec::new))),
        }
    }

    pub(super) fn has_heard_gone(&self, plugin: &str) -> bool {
        self.wishes().any(|wish| wish.gone.contains(plugin))
    }

    /// Lets a plugin that said that the instance is gone be asked again, because it may know the instance now.
    pub(super) fn ask_again(&mut self, plugin: &str) {
        for wish in self.configured.iter_mut().chain(&mut self.asked) {
            if wish.gone.remove(plugin) {
                self.ended_ms = None;
            }
        }
    }

    /// Gathers the labels of the instance. The operator's take precedence, then a program's, then the owner's, then
    /// those of the first plugin by name.
    pub(super) fn gather_labels(&mut self, common: &Labels) {
        let last = self.discovered_by.is_empty().then_some(&self.last_labels);
        let said = last.into_iter().chain(self.discovered_by.values().rev()).chain(self.discovered_by.get(&self.owner));
        let said = said.chain(self.asked.iter().map(|wish| &wish.labels));
        let said = said.chain(self.configured.iter().map(|wish| &wish.labels));
        self.labels = [common].into_iter().chain(said).flat_map(Labels::iter).collect();
    }

    fn wishes(&self) -> impl Iterator<Item = &PollRequest> {
        self.configured.iter().chain(&self.asked)
    }
}

// === impl PollRequest ===

impl PollRequest {
    pub(super) fn new(labels: Labels, samplers: Option<Vec<String>>) -> Self {
        Self { labels, samplers, gone: BTreeSet::new() }
    }

    /// Returns whether two requests are the same, whatever was answered to them.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        self.labels == other.labels && self.samplers == other.samplers
    }

    fn samplers<'a>(&'a self, default: &'a [String]) -> &'a [String] {
        self.samplers.as_deref().unwrap_or(default)
    }

    fn is_for(&self, plugin: &str, default: &[String]) -> bool {
        !self.gone.contains(plugin) && self.names(plugin, default)
    }

    fn names(&self, plugin: &str, default: &[String]) -> bool {
        self.samplers(default).iter().any(|name| name == "*" || name == plugin)
    }

    /// Returns whether a sampler is left that has not said that the instance is gone. `*` may always mean a sampler
    /// that is yet to come.
    fn may_be_answered(&self, default: &[String]) -> bool {
        self.samplers(default).iter().any(|name| name == "*" || !self.gone.contains(name.as_str()))
    }
}
