use crate::address_space::AddressSpace;
use crate::audit::Audit;
use crate::clock::Clock;
use crate::exposition::Exposition;
use crate::frontend::Frontend;
use crate::health::Vitals;
use crate::history::FlushTrigger;
use crate::horizon::Horizon;
use crate::hub::{FollowRequest, Hub, Member, Selection, TooManyStreams, Watch};
use crate::long_history::LongHistories;
use crate::metrics::HostMetrics;
use crate::options::{Options, StaticInstance};
use crate::plugins::Plugins;
use crate::remotes::Remotes;
use crate::rules::Rules;
use crate::series::FieldIndexes;
use crate::snapshot::Snapshots;
use crate::timeline::Timeline;
use crate::tracked::{Discoverer, Discovery, Lifecycle, NotTracked, PluginName, TrackRequest, TrackedInstances};
use crate::workload::{self, DeclaredFields};
use arc_swap::ArcSwap;
use dropsonde_model::Labels;
use dropsonde_model::names::is_reserved;
use dropsonde_store::{InstanceId, Pool, Store};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::Instant;
use tokio::sync::{Mutex, Notify};

/// The most lifecycle events that are applied under one lock of the instances.
const EVENTS_AT_ONCE: usize = 256;

/// The state that the parts of the host share. Data flows one way: plugins → store → hub; everything else reads.
#[derive(Debug)]
pub struct Engine {
    /// The options in force; a reload can replace them at any time.
    pub options: ArcSwap<Options>,
    pub clock: Clock,
    pub(crate) timeline: Timeline,
    pub store: Store,
    /// The bell of the history thread, once that thread runs.
    pub(crate) bell: OnceLock<Weak<FlushTrigger>>,
    pub tracked: TrackedInstances,
    pub hub: Hub,
    pub plugins: Plugins,
    pub metrics: HostMetrics,
    pub snapshots: Snapshots,
    /// Held while a request polls all sources at once; the time when such a poll last began.
    pub fresh: Mutex<Option<Instant>>,
    pub audit: Audit,
    pub vitals: Arc<Vitals>,
    pub exposition: Exposition,
    /// The fields of samples, by their metrics.
    pub(crate) fields: FieldIndexes,
    pub rules: Rules,
    pub remotes: Remotes,
    pub long_history: LongHistories,
    pub(crate) horizon: Horizon,
    /// The bytes of samples on `/metrics`, by sampler.
    pub(crate) exposed: Pool,
    /// The bytes of plugins' own metrics there, by plugin.
    pub(crate) exposed_own: Pool,
    /// The server of this engine, once there is one.
    pub(crate) front: OnceLock<Weak<dyn Frontend>>,
    /// Notified when history opens that could not be opened at the start.
    pub opened: Notify,
    /// The address space for plugins.
    pub(crate) rooms: AddressSpace,
    /// The memory that this process may use, in bytes.
    pub memory: usize,
    /// Held while the samples of workloads are computed and published.
    pub(crate) workloads: std::sync::Mutex<()>,
}

impl Engine {
    /// Sets the server of this engine.
    pub fn serve(&self, front: Weak<dyn Frontend>) {
        let _ = self.front.set(front);
        self.vitals.serve();
    }

    pub(crate) fn front(&self) -> Option<Arc<dyn Frontend>> {
        self.front.get().and_then(Weak::upgrade)
    }

    /// Tracks an instance that a program named. A repeated call changes nothing.
    pub fn track(&self, wanted: TrackRequest) -> Result<(), NotTracked> {
        wanted.check()?;
        let tracked = self.tracked.track(wanted, &|id| self.forget(id));
        self.hurry();
        Ok(tracked?)
    }

    /// Stops tracking an instance, discards its history and ends its streams. Discovery does not bring it back.
    pub fn untrack(&self, id: &InstanceId) {
        // Nobody can untrack the host's own instances.
        if !is_reserved(id.as_str()) {
            self.tracked.untrack(id, &|id| self.forget(id));
            self.hurry();
        }
    }

    /// Applies lifecycle events in order; applies none if one of them is invalid. Stops at the first event whose
    /// instance there is no room for. An error has the index of its event.
    pub fn apply(&self, events: &[Lifecycle]) -> Result<(), (usize, NotTracked)> {
        for (nth, event) in events.iter().enumerate() {
            event.check().map_err(|why| (nth, why))?;
        }
        // Polls go on between two chunks.
        for (nth, piece) in events.chunks(EVENTS_AT_ONCE).enumerate() {
            let done = self.tracked.apply(piece, &|id| self.forget(id));
            self.hurry();
            done.map_err(|(done, full)| (nth * EVENTS_AT_ONCE + done, full.into()))?;
        }
        Ok(())
    }

    /// Applies the instances, labels and default samplers of the options. Returns the number of instances that there is
    /// no room for.
    pub fn reconfigure_instances(&self, options: &Options) -> anyhow::Result<usize> {
        let mut named = BTreeMap::new();
        for StaticInstance { id, labels, samplers } in &options.instances {
            named.insert(InstanceId::new(id)?, (labels.clone(), samplers.clone()));
        }
        let (default, common) = (&options.poll.default_samplers, &options.labels);
        let refused = self.tracked.reconfigure(default, common, named, self.clock.now_ms(), &|id| self.forget(id));
        self.revoke_shares();
        for id in &refused {
            tracing::warn!(
                instance = %id,
                most = options.poll.max_instances(),
                "cannot track an instance of the configuration: instance limit reached; raise poll.max_instances"
            );
        }
        Ok(refused.len())
    }

    /// Applies a sampler's discovery: new instances begin, and instances that it no longer lists end.
    pub(crate) fn discovered(&self, sampler: &PluginName, found: Vec<(InstanceId, Labels)>, at_ms: i64) -> Discovery {
        let shares = self.options.load().plugin(sampler).share_instances;
        let status = self.plugins.get(sampler);
        let is_built_in = status.as_ref().is_some_and(|status| status.is_built_in());
        let is_initial = status.is_some_and(|status| status.take_first_discovery());
        let by = Discoverer { plugin: sampler.clone(), is_built_in, shares, is_initial };
        let discovery = self.tracked.discovered(&by, found, at_ms, &|id| self.forget(id));
        // The store may have another plugin's history of this name, if there was no place for that instance at the
        // start. It is not part of the new instance.
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

    /// Releases the instances of a plugin that an operator removed, so that others can own them. Returns whether it had
    /// any.
    pub(crate) fn release_instances(&self, plugin: &str) -> bool {
        let had_some = self.tracked.release(plugin);
        self.hurry();
        had_some
    }

    /// Adopts the notes of history that could not be opened at the start. The notes say who owns each instance; what
    /// another plugin recorded of it in the meantime is removed.
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

    /// Takes from plugins the instances of other owners that the configuration does not let them add to.
    pub(crate) fn revoke_shares(&self) {
        let options = self.options.load();
        let shares = |plugin: &str| options.plugin(plugin).share_instances;
        self.tracked.revoke_shares(&shares, self.clock.now_ms());
    }

    /// Returns the end of a window that is to end at `until_ms`, which is never in the future: samples that were
    /// recorded while the clock was ahead appear when their time has come. Samples from before the clock was set back
    /// stay visible.
    pub fn reach_ms(&self, until_ms: i64) -> i64 {
        let now_ms = self.clock.now_ms();
        let known_ms = self.store.trusted_ms().map_or(now_ms, |trusted_ms| trusted_ms.max(now_ms));
        until_ms.min(known_ms.saturating_add(1))
    }

    /// Forgets instances that ended before `before_ms` and have no history left.
    pub fn forget_ended_before(&self, before_ms: i64) {
        let has_gone = |id: &InstanceId| self.store.frames(id).iter().all(|frame| frame.is_empty());
        self.tracked.forget_ended_before(before_ms, &has_gone, &|id| self.forget(id));
    }

    /// Follows samples, starting with the latest. May read files.
    pub fn watch(&self, selection: Selection) -> Result<Watch, TooManyStreams> {
        let claim = self.hub.claim(None, None)?;
        Ok(self.follow(selection, None, |hub, follow| hub.watch(claim, follow)))
    }

    /// Calls `begin` with what a new reader of a selection gets: the latest samples, or those after the event `seen`,
    /// and all that come later. May read files.
    pub fn follow<T>(
        &self,
        selection: Selection,
        seen: Option<String>,
        begin: impl FnOnce(&Hub, FollowRequest) -> T,
    ) -> T {
        // What can take long comes before the lock below, under which nobody can change instances.
        let members = self.members(&selection);
        let latest = |member: &&Member| Some((member.id.clone(), (member.generation, self.store.latest(&member.id)?)));
        let (mut unheard, mut together) = (HashMap::new(), None);
        match &selection {
            Selection::Workload(_) => {
                let ids = || members.iter().map(|member| &member.id);
                let declared = DeclaredFields::of(&self.store, &self.plugins, ids());
                together = workload::latest(&self.store, &declared, ids());
            }
            _ => unheard = self.hub.unheard(&members).iter().filter_map(latest).collect(),
        }
        unheard.retain(|_, (_, sample)| !sample.values.is_empty());
        // No instance is untracked in the meantime, so the reader begins only with instances that exist.
        self.tracked.while_selected(&selection.clone(), |members| {
            let members = with_own(&selection, members);
            begin(&self.hub, FollowRequest { selection: selection.into(), seen, members, unheard, together })
        })
    }

    /// Returns the instances that a selection includes now.
    pub fn members(&self, selection: &Selection) -> Vec<Member> {
        with_own(selection, self.tracked.while_selected(selection, |members| members))
    }

    /// Publishes new samples of the workloads that have readers and whose instances have new samples.
    pub(crate) fn publish_workloads(&self) {
        // One thread at a time, so that newer samples are published later.
        let _one = self.workloads.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = self.hub.take_stale_workloads();
        if stale.is_empty() {
            return;
        }
        for (workload, ids) in self.tracked.of_workloads(&stale) {
            let declared = DeclaredFields::of(&self.store, &self.plugins, ids.iter());
            if let Some(sample) = workload::latest(&self.store, &declared, ids.iter()) {
                self.hub.publish_workload(&workload, sample);
            }
        }
    }

    /// Asks the history thread to hurry: a change that a caller is told about must be on disk within a flush interval.
    fn hurry(&self) {
        if let Some(bell) = self.bell.get().and_then(Weak::upgrade) {
            bell.ring();
        }
    }

    fn forget(&self, id: &InstanceId) {
        self.store.remove(id);
        self.store.remove_series(id, None);
        self.hub.close(id);
    }
}

/// Adds the host's own instance if it is selected, because it is not among the tracked ones.
fn with_own(selection: &Selection, mut members: Vec<Member>) -> Vec<Member> {
    if let Selection::One(id) = selection
        && is_reserved(id.as_str())
    {
        members.push(Member { id: id.clone(), generation: 0, labels: Labels::new() });
    }
    members
}
