use crate::audit::Audit;
use crate::clock::Clock;
use crate::exposition::Exposition;
use crate::front::Front;
use crate::health::Vitals;
use crate::history::Bell;
use crate::hub::{Follow, Hub, Member, Selection, TooManyStreams, Watch};
use crate::metrics::HostMetrics;
use crate::options::{Options, StaticInstance};
use crate::plugins::Plugins;
use crate::room::Rooms;
use crate::snapshot::Snapshots;
use crate::timeline::Timeline;
use crate::tracked::{Discoverer, Discovery, Lifecycle, NotTracked, PluginName, Tracked, Wanted};
use crate::workload::{self, Declared};
use arc_swap::ArcSwap;
use dropsonde_model::Labels;
use dropsonde_model::names::is_reserved;
use dropsonde_store::{InstanceId, Pool, Store};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::Instant;
use tokio::sync::{Mutex, Notify};

/// Lifecycle events that are done before anybody else may look at the instances.
const EVENTS_AT_ONCE: usize = 256;

/// What the parts of the host share. Data flows one way: plugins → store → hub; everyone else reads.
#[derive(Debug)]
pub struct Engine {
    /// What is in force: it may be another at any time.
    pub options: ArcSwap<Options>,
    pub clock: Clock,
    pub(crate) timeline: Timeline,
    pub store: Store,
    /// Of the thread that keeps history, once it runs.
    pub(crate) bell: OnceLock<Weak<Bell>>,
    pub tracked: Tracked,
    pub hub: Hub,
    pub plugins: Plugins,
    pub metrics: HostMetrics,
    pub snapshots: Snapshots,
    /// Held while all sources are asked at once; when that last began.
    pub fresh: Mutex<Option<Instant>>,
    pub audit: Audit,
    pub vitals: Arc<Vitals>,
    pub exposition: Exposition,
    /// Bytes of samples on `/metrics`, by sampler.
    pub(crate) exposed: Pool,
    /// Who serves all this, once somebody does.
    pub(crate) front: OnceLock<Weak<dyn Front>>,
    /// Told when history was opened that could not be opened at the start.
    pub opened: Notify,
    /// Address space for plugins.
    pub(crate) rooms: Rooms,
    /// Bytes of memory this process may have.
    pub memory: usize,
    /// Held while workloads are added up.
    pub(crate) workloads: std::sync::Mutex<()>,
}

impl Engine {
    /// From now on this one serves it.
    pub fn serve(&self, front: Weak<dyn Front>) {
        let _ = self.front.set(front);
        self.vitals.serve();
    }

    pub(crate) fn front(&self) -> Option<Arc<dyn Front>> {
        self.front.get().and_then(Weak::upgrade)
    }

    /// Tracks an instance a program named. Doing it again changes nothing more.
    pub fn track(&self, wanted: Wanted) -> Result<(), NotTracked> {
        wanted.check()?;
        let tracked = self.tracked.track(wanted, &|id| self.forget(id));
        self.hurry();
        Ok(tracked?)
    }

    /// Discards an instance's history and ends its streams. Discovery does not bring it back.
    pub fn untrack(&self, id: &InstanceId) {
        // The host's own are nobody else's to untrack.
        if !is_reserved(id.as_str()) {
            self.tracked.untrack(id, &|id| self.forget(id));
            self.hurry();
        }
    }

    /// Does what became of instances, in order, unless one of the events cannot be meant. Where there is no room for an
    /// instance it ends: which event that was.
    pub fn apply(&self, events: &[Lifecycle]) -> Result<(), (usize, NotTracked)> {
        for (nth, event) in events.iter().enumerate() {
            event.check().map_err(|why| (nth, why))?;
        }
        // Polls go on between two pieces.
        for (nth, piece) in events.chunks(EVENTS_AT_ONCE).enumerate() {
            let done = self.tracked.apply(piece, &|id| self.forget(id));
            self.hurry();
            done.map_err(|(done, full)| (nth * EVENTS_AT_ONCE + done, full.into()))?;
        }
        Ok(())
    }

    /// Has the operator's instances, labels and default samplers be as they are said now. Returns how many of the instances
    /// there is no room for.
    pub fn reconfigure_instances(&self, options: &Options) -> anyhow::Result<usize> {
        let mut named = BTreeMap::new();
        for StaticInstance { id, labels, samplers } in &options.instances {
            named.insert(InstanceId::new(id)?, (labels.clone(), samplers.clone()));
        }
        let (default, common) = (&options.poll.default_samplers, &options.labels);
        let refused = self.tracked.reconfigure(default, common, named, self.clock.now_ms(), &|id| self.forget(id));
        self.revoke_shares();
        for id in &refused {
            tracing::warn!(instance = %id, most = options.poll.max_instances, "it is not tracked: there are too many");
        }
        Ok(refused.len())
    }

    /// Takes over what a sampler finds now.
    pub(crate) fn discovered(&self, sampler: &PluginName, found: Vec<(InstanceId, Labels)>, at_ms: i64) -> Discovery {
        let shares = self.options.load().plugin(sampler).share_instances;
        let status = self.plugins.get(sampler);
        let is_built_in = status.as_ref().is_some_and(|status| status.is_built_in());
        let is_initial = status.is_some_and(|status| status.take_first_discovery());
        let by = Discoverer { plugin: sampler.clone(), is_built_in, shares, is_initial };
        let discovery = self.tracked.discovered(&by, found, at_ms, &|id| self.forget(id));
        // History of an instance that there was no place for at the start: it is no part of another's of its name.
        for id in &discovery.begun {
            let frames = self.store.frames(id);
            let of_others = frames.iter().map(|frame| frame.schema().sampler()).filter(|other| *other != sampler);
            of_others.for_each(|other| self.store.remove_of(id, other));
        }
        for (id, before) in &discovery.taken_over {
            self.store.remove_of(id, before);
            if let Some(status) = self.plugins.get(before) {
                status.update(|known| known.conflicts.lose(id.clone(), sampler.clone()));
            }
        }
        let losers: BTreeSet<_> = discovery.taken_over.iter().map(|(_, before)| before).collect();
        for plugin in losers {
            let why = self.plugins.get(plugin).and_then(|status| status.conflicts(|lost| lost.of_others(plugin)));
            tracing::warn!(plugin = &**plugin, "{}", why.unwrap_or_default());
        }
        discovery
    }

    /// Lets others have the instances of a plugin that an operator removed. Whether it had some.
    pub(crate) fn release_instances(&self, plugin: &str) -> bool {
        let had_some = self.tracked.release(plugin);
        self.hurry();
        had_some
    }

    /// Takes over what history says of instances that could be opened late. It says whose they are: what a stranger recorded
    /// of one meanwhile goes.
    pub(crate) fn adopt(&self, notes: Vec<(String, Vec<u8>)>) {
        let plugins = self.plugins.list();
        let names: Vec<&str> = plugins.iter().map(|status| &*status.name).collect();
        let forget = |id: &InstanceId| self.forget(id);
        for (id, stranger) in self.tracked.adopt(&self.store, notes, &names, self.clock.now_ms(), &forget) {
            self.store.remove_of(&id, &stranger);
        }
        self.revoke_shares();
        self.hurry();
    }

    /// Takes from plugins the instances of others that the configuration does not let them add to.
    pub(crate) fn revoke_shares(&self) {
        let options = self.options.load();
        let shares = |plugin: &str| options.plugin(plugin).share_instances;
        self.tracked.revoke_shares(&shares, self.clock.now_ms());
    }

    /// How far a window that ends at a time reaches: what a clock recorded that was ahead is there when its time has come.
    /// What was recorded before the clock went back is there all the same.
    pub fn reach_ms(&self, until_ms: i64) -> i64 {
        let now_ms = self.clock.now_ms();
        let known_ms = self.store.trusted_ms().map_or(now_ms, |trusted_ms| trusted_ms.max(now_ms));
        until_ms.min(known_ms.saturating_add(1))
    }

    /// Forgets what ended before a time and has no history any more.
    pub fn forget_ended_before(&self, before_ms: i64) {
        let has_gone = |id: &InstanceId| self.store.frames(id).iter().all(|frame| frame.is_empty());
        self.tracked.forget_ended_before(before_ms, &has_gone, &|id| self.forget(id));
    }

    /// Follows samples, from the latest on. May have to read files.
    pub fn watch(&self, selection: Selection) -> Result<Watch, TooManyStreams> {
        let claim = self.hub.claim(None, None)?;
        Ok(self.follow(selection, None, |hub, follow| hub.watch(claim, follow)))
    }

    /// What a new reader of a selection has to be given, for whoever gives it: from the latest on, or from behind the event
    /// it saw last. May have to read files.
    pub fn follow<T>(&self, selection: Selection, seen: Option<String>, begin: impl FnOnce(&Hub, Follow) -> T) -> T {
        // What may take its time comes before nobody may change anything.
        let members = self.members(&selection);
        let latest = |member: &&Member| Some((member.id.clone(), (member.generation, self.store.latest(&member.id)?)));
        let (mut unheard, mut together) = (HashMap::new(), None);
        match &selection {
            Selection::Workload(_) => {
                let ids = || members.iter().map(|member| &member.id);
                let declared = Declared::of(&self.store, &self.plugins, ids());
                together = workload::latest(&self.store, &declared, ids());
            }
            _ => unheard = self.hub.unheard(&members).iter().filter_map(latest).collect(),
        }
        unheard.retain(|_, (_, sample)| !sample.values.is_empty());
        // Nothing is untracked meanwhile: what a reader begins with is of what there is.
        self.tracked.while_selected(&selection.clone(), |members| {
            let members = with_own(&selection, members);
            begin(&self.hub, Follow { selection: selection.into(), seen, members, unheard, together })
        })
    }

    /// The instances a selection includes now.
    pub fn members(&self, selection: &Selection) -> Vec<Member> {
        with_own(selection, self.tracked.while_selected(selection, |members| members))
    }

    /// Tells who follows workloads what they are now, if samples of their instances came.
    pub(crate) fn publish_workloads(&self) {
        // One at a time: what is newer is told later.
        let _one = self.workloads.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = self.hub.take_stale_workloads();
        if stale.is_empty() {
            return;
        }
        self.tracked.while_of_workloads(&stale, |members| {
            for (workload, ids) in members {
                let declared = Declared::of(&self.store, &self.plugins, ids.iter().copied());
                if let Some(sample) = workload::latest(&self.store, &declared, ids.into_iter()) {
                    self.hub.publish_workload(workload, sample);
                }
            }
        });
    }

    /// What somebody is told now is to be on disk within a flush interval.
    fn hurry(&self) {
        if let Some(bell) = self.bell.get().and_then(Weak::upgrade) {
            bell.ring();
        }
    }

    fn forget(&self, id: &InstanceId) {
        self.store.remove(id);
        self.hub.close(id);
    }
}

/// The host's own are not among those that are tracked.
fn with_own(selection: &Selection, mut members: Vec<Member>) -> Vec<Member> {
    if let Selection::One(id) = selection
        && is_reserved(id.as_str())
    {
        members.push(Member { id: id.clone(), generation: 0, labels: Labels::new() });
    }
    members
}
