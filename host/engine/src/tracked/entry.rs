//! One instance: who wants it polled, and whether it is.

use super::{API, CONFIGURATION, PluginName, State};
use dropsonde_model::Labels;
use dropsonde_model::names::is_reserved;
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of an instance's name and labels that one place is enough for. Its note on disk takes less than eight times as many.
const PLACE: usize = 512;

/// All that is known of an instance.
#[derive(Debug)]
pub(super) struct Entry {
    /// Tells it from those of the same name that were untracked before it.
    pub(super) generation: u64,
    /// Who discovered or named it first: a plugin, [`super::API`] or [`super::CONFIGURATION`]. Nobody else replaces what it
    /// says. A plugin stays the owner while it is away, and after the instance has ended.
    pub(super) owner: PluginName,
    /// The owner is a plugin that an operator removed: the instance is whose it is next who finds it.
    pub(super) is_released: bool,
    /// A plugin found it first at this start, in its first discovery: another whose name comes before has it if it finds it
    /// in its own first discovery.
    pub(super) is_contested: bool,
    /// The owner comes with the binary, or with the program.
    pub(super) is_of_built_in: bool,
    /// How many places it takes.
    pub(super) places: u64,
    /// Who discovered it, and the labels it gave.
    pub(super) discovered_by: BTreeMap<PluginName, Labels>,
    /// What the last of those said, since none is left: what it was is known by that.
    pub(super) last_labels: Labels,
    /// The operator's word.
    pub(super) configured: Option<Wish>,
    /// That of a program.
    pub(super) asked: Option<Wish>,
    pub(super) is_paused: bool,
    /// When it was found to have ended.
    pub(super) ended_ms: Option<i64>,
    /// All of them.
    pub(super) labels: Labels,
}

/// What someone who tracks an instance says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) labels: Labels,
    /// None: the default ones.
    pub(super) samplers: Option<Vec<String>>,
    /// Who answered that there is no such thing, and is not asked again.
    gone: BTreeSet<PluginName>,
}

// === impl Entry ===

impl Entry {
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

    /// Who decides what it is: the operator and programs, or a plugin.
    pub(super) fn is_of_a_plugin(&self) -> bool {
        !is_reserved(&self.owner)
    }

    /// Whether the operator or a program says that a sampler is to read it.
    pub(super) fn is_asked_of(&self, plugin: &str, default: &[String]) -> bool {
        self.wishes_for(plugin).any(|wish| wish.is_for(plugin, default))
    }

    /// Whether the operator or a program lets a sampler read it, also one that said before that it is gone.
    pub(super) fn is_open_to(&self, plugin: &str, default: &[String]) -> bool {
        self.wishes_for(plugin).any(|wish| wish.names(plugin, default))
    }

    /// What is wished of a sampler. Samplers that are not the owner read a plugin's instance only where a wish names them:
    /// `*` says nothing of whose it is.
    fn wishes_for(&self, plugin: &str) -> impl Iterator<Item = &Wish> {
        let is_named = move |wish: &Wish| wish.samplers.iter().flatten().any(|name| name == plugin);
        self.wishes().filter(move |wish| !self.is_of_a_plugin() || *self.owner == *plugin || is_named(wish))
    }

    /// Whether its owner reads it now, or says what it is.
    pub(super) fn has_its_owner(&self, default: &[String]) -> bool {
        !self.is_of_a_plugin() || self.is_polled_by(&self.owner, default)
    }

    /// Passes it on where its owner has no claim to it any more: the operator does not name it, or removed the plugin. The
    /// operator comes first of those who say that it is there, then a program.
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

    /// Places that it takes now.
    pub(super) fn needed_places(&self, id: &str) -> u64 {
        // All that is noted of it, also labels that another's hide.
        let asked = self
            .asked
            .iter()
            .map(|wish| wish.labels.bytes() + wish.samplers.iter().flatten().map(String::len).sum::<usize>());
        let said = self.discovered_by.values().map(Labels::bytes).chain(asked).sum::<usize>();
        1 + ((id.len() + self.labels.bytes().max(said)) / PLACE) as u64
    }

    pub(super) fn state(&self) -> State {
        match self.ended_ms {
            _ if self.is_paused => State::Paused,
            Some(_) => State::Ended,
            None => State::Tracked,
        }
    }

    /// When it ended, if it is not merely paused.
    pub(super) fn over_ms(&self) -> Option<i64> {
        self.ended_ms.filter(|_| !self.is_paused)
    }

    pub(super) fn is_polled_by(&self, plugin: &str, default: &[String]) -> bool {
        self.state() == State::Tracked && (self.discovered_by.contains_key(plugin) || self.is_asked_of(plugin, default))
    }

    /// Those that are named; `*` is none.
    pub(super) fn named_samplers<'a>(&'a self, default: &'a [String]) -> impl Iterator<Item = &'a str> {
        let wished = self.wishes().flat_map(move |wish| wish.samplers(default)).map(String::as_str);
        self.discovered_by.keys().map(|plugin| &**plugin).chain(wished).filter(|name| *name != "*")
    }

    /// Who had discovered it does not any more, or says that it is gone. Whether that changed something.
    pub(super) fn leave(&mut self, plugin: &PluginName, is_gone: bool, default: &[String], now_ms: i64) -> bool {
        let left = self.discovered_by.remove(plugin);
        let mut changed = left.is_some();
        if let Some(labels) = left.filter(|_| self.discovered_by.is_empty()) {
            self.last_labels = labels;
            // An empty map may keep its memory, and very many instances have ended.
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

    /// The operator names it no more.
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

    /// What is asked once a platform says that it is there, perhaps with labels. Who polls it anyway does so alone.
    pub(super) fn asked_again(&self, labels: Option<&Labels>) -> Option<Wish> {
        let is_polled = self.configured.is_some() || !self.discovered_by.is_empty();
        match (&self.asked, labels) {
            (Some(before), labels) => {
                Some(Wish::new(labels.unwrap_or(&before.labels).clone(), before.samplers.clone()))
            }
            (None, None) if is_polled => None,
            (None, labels) => Some(Wish::new(labels.cloned().unwrap_or_default(), is_polled.then(Vec::new))),
        }
    }

    pub(super) fn has_heard_gone(&self, plugin: &str) -> bool {
        self.wishes().any(|wish| wish.gone.contains(plugin))
    }

    /// A plugin may know again what it said was gone.
    pub(super) fn ask_again(&mut self, plugin: &str) {
        for wish in self.configured.iter_mut().chain(&mut self.asked) {
            if wish.gone.remove(plugin) {
                self.ended_ms = None;
            }
        }
    }

    /// The operator's word is last, a program's before it; among plugins the owner's, then that of the first by name.
    pub(super) fn gather_labels(&mut self, common: &Labels) {
        let last = self.discovered_by.is_empty().then_some(&self.last_labels);
        let said = last.into_iter().chain(self.discovered_by.values().rev()).chain(self.discovered_by.get(&self.owner));
        let said = said.chain(self.asked.iter().map(|wish| &wish.labels));
        let said = said.chain(self.configured.iter().map(|wish| &wish.labels));
        self.labels = [common].into_iter().chain(said).flat_map(Labels::iter).collect();
    }

    fn wishes(&self) -> impl Iterator<Item = &Wish> {
        self.configured.iter().chain(&self.asked)
    }
}

// === impl Wish ===

impl Wish {
    pub(super) fn new(labels: Labels, samplers: Option<Vec<String>>) -> Self {
        Self { labels, samplers, gone: BTreeSet::new() }
    }

    /// Whatever was answered to it.
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

    /// Whether a sampler is left that has not said it is gone. `*` may always mean one that is yet to come.
    fn may_be_answered(&self, default: &[String]) -> bool {
        self.samplers(default).iter().any(|name| name == "*" || !self.gone.contains(name.as_str()))
    }
}
