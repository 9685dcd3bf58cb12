use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::{Config, RESERVED};
use crate::exposition::Exposition;
use crate::health::Vitals;
use crate::hub::{Follow, Hub, Member, Selection, TooManyStreams, Watch};
use crate::labels::Labels;
use crate::metrics::HostMetrics;
use crate::plugins::Plugins;
use crate::snapshot::Snapshots;
use crate::tokens::Tokens;
use crate::tracked::{Lifecycle, PluginName, TooMany, Tracked, Wanted};
use crate::workload;
use dropsonde_store::{InstanceId, Store};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Mutex;

/// Lifecycle events that are done before anybody else may look at the instances.
const EVENTS_AT_ONCE: usize = 256;

/// What the parts of the host share. Data flows one way: plugins → store → hub; everyone else reads.
#[derive(Debug)]
pub struct Core {
    pub config: Config,
    pub clock: Clock,
    pub store: Store,
    pub tracked: Tracked,
    pub hub: Hub,
    pub plugins: Plugins,
    pub metrics: HostMetrics,
    pub tokens: Tokens,
    pub snapshots: Snapshots,
    /// Held while all sources are asked at once; when that last began.
    pub fresh: Mutex<Option<Instant>>,
    pub audit: Audit,
    pub vitals: Arc<Vitals>,
    pub exposition: Exposition,
}

impl Core {
    /// Tracks an instance a program named. Doing it again changes nothing more.
    pub fn track(&self, wanted: Wanted) -> Result<(), TooMany> {
        self.tracked.track(wanted, &|id| self.forget(id))
    }

    /// Discards an instance's history and ends its streams. Discovery does not bring it back.
    pub fn untrack(&self, id: &InstanceId) {
        self.tracked.untrack(id, &|id| self.forget(id));
    }

    /// Does what became of instances, in order. Where there is no room for one it ends: how many were done.
    pub fn apply(&self, events: &[Lifecycle]) -> Result<(), (usize, TooMany)> {
        // Polls go on between two pieces.
        for (nth, piece) in events.chunks(EVENTS_AT_ONCE).enumerate() {
            let done = self.tracked.apply(piece, &|id| self.forget(id));
            done.map_err(|(done, full)| (nth * EVENTS_AT_ONCE + done, full))?;
        }
        Ok(())
    }

    /// Takes over what a sampler finds now; how many were refused, as there are too many.
    pub fn discovered(&self, sampler: &PluginName, found: Vec<(InstanceId, Labels)>, at_ms: i64) -> u64 {
        self.tracked.discovered(sampler, found, at_ms, &|id| self.forget(id))
    }

    /// Forgets what ended before a time.
    pub fn forget_ended_before(&self, before_ms: i64) {
        self.tracked.forget_ended_before(before_ms, &|id| self.forget(id));
    }

    /// Follows samples, from the latest on; or, for who gives the id of the last event it saw, from behind that.
    pub fn watch(&self, selection: Selection, seen: Option<String>) -> Result<Watch, TooManyStreams> {
        let claim = self.hub.claim()?;
        Ok(self.follow(selection, seen, |hub, follow| hub.watch(claim, follow)))
    }

    /// What a new reader of a selection has to be given, for whoever gives it.
    pub(crate) fn follow<T>(
        &self,
        selection: Selection,
        seen: Option<String>,
        begin: impl FnOnce(&Hub, Follow<'_>) -> T,
    ) -> T {
        // Nothing is untracked meanwhile: what a reader begins with is of what there is.
        self.tracked.while_selected(&selection.clone(), |mut members| {
            // The host's own is not among those that are tracked.
            if let Selection::One(id) = &selection
                && id.as_str().starts_with(RESERVED)
            {
                members.push(Member { id: id.clone(), labels: Arc::default() });
            }
            let latest = |id: &InstanceId| self.store.latest(id);
            let together = |members: &[Member]| workload::latest(&self.store, members.iter().map(|member| &member.id));
            begin(&self.hub, Follow { selection, seen, members, latest: &latest, together: &together })
        })
    }

    /// Tells who follows workloads what they are now, if samples of their instances came.
    pub(crate) fn publish_workloads(&self) {
        for workload in self.hub.take_stale_workloads() {
            let sample = self.tracked.while_selected(&Selection::Workload(workload.clone()), |members| {
                workload::latest(&self.store, members.iter().map(|member| &member.id))
            });
            if let Some(sample) = sample {
                self.hub.publish_workload(&workload, sample);
            }
        }
    }

    fn forget(&self, id: &InstanceId) {
        self.store.remove(id);
        self.hub.close(id);
    }
}
