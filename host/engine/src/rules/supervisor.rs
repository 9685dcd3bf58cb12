//! Starts and ends groups as files come and go.

use super::fields::{FieldAlerts, FieldSources};
use super::files::{self, LoadedGroup, LoadedRules, RuleFiles};
use super::group_task::GroupTask;
use super::{GroupId, Reload, RuleFileFailure};
use crate::Engine;
use dropsonde_rules::RunningGroup;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Release;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// The time between two looks at rule files, at the fields of plugins, and at what could not be read at the start.
const LOOK: Duration = Duration::from_secs(1);

/// Looks after which files are read although one of them keeps changing.
const MOST_LOOKS: u32 = 4;

/// The groups that run.
struct RunningGroups {
    engine: Arc<Engine>,
    stopping: watch::Receiver<bool>,
    permits: Arc<Semaphore>,
    groups: BTreeMap<GroupId, KnownGroup>,
    fields: FieldAlerts,
    /// The metrics of all fields that there were.
    sources: FieldSources,
    /// The rule files as they were when they were read, and at the last look.
    read: RuleFiles,
    seen: RuleFiles,
    /// Looks since they began to change.
    changing: u32,
    tasks: JoinSet<()>,
}

struct KnownGroup {
    file_hash: blake3::Hash,
    interval_ms: u128,
    task: Arc<GroupTask>,
}

/// Runs the rules of the options in force until the host stops.
pub(crate) async fn supervise(engine: Arc<Engine>, mut stopping: watch::Receiver<bool>) {
    let Some(mut asked) = engine.rules.asked.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut running = RunningGroups {
        permits: Arc::new(Semaphore::new(cores.div_ceil(2))),
        stopping: stopping.clone(),
        groups: BTreeMap::new(),
        fields: FieldAlerts::default(),
        sources: FieldSources::new(),
        read: RuleFiles::new(),
        seen: RuleFiles::new(),
        changing: 0,
        tasks: JoinSet::new(),
        engine,
    };
    running.reload().await;
    loop {
        let answer: Option<Reload> = tokio::select! {
            asked = asked.recv() => asked,
            () = tokio::time::sleep(LOOK) => None,
            _ = stopping.wait_for(|&stopping| stopping) => break,
        };
        match answer {
            Some(answer) => {
                let failures = running.reload().await;
                // Who asked may have gone.
                let _ = answer.send(failures);
            }
            None => {
                running.look_at_files().await;
                running.look_at_fields().await;
                running.read_late().await;
            }
        }
    }
    running.groups.values().for_each(|known| known.task.cancel());
    while running.tasks.join_next().await.is_some() {}
}

impl RunningGroups {
    /// Reads all files, and starts and ends groups. A file with a mistake keeps its groups.
    async fn reload(&mut self) -> Vec<RuleFileFailure> {
        let options = self.engine.options.load_full();
        let rules = options.rules.clone();
        // A disk may answer late.
        let loaded = tokio::task::spawn_blocking(move || (files::current(&rules), LoadedRules::read(&rules))).await;
        let Ok((read, LoadedRules { mut groups, failures })) = loaded else { return Vec::new() };
        (self.read, self.seen, self.changing) = (read.clone(), read, 0);
        for failure in &failures {
            tracing::error!(
                file = failure.file,
                error = failure.why,
                "cannot read a rule file; the rules that it had before, if any, stay"
            );
        }
        self.fields = FieldAlerts::of(&options.rules.alerts);
        groups.extend(self.of_fields().await);
        let failed: Vec<&str> = failures.iter().map(|failure| &*failure.file).collect();
        let gone: Vec<GroupId> = self
            .groups
            .keys()
            .filter(|id| !groups.contains_key(*id) && !failed.contains(&&*id.file))
            .cloned()
            .collect();
        for old in gone {
            let Some(known) = self.groups.remove(&old) else { continue };
            // A file that was renamed has the same groups under another name.
            let is_renamed = |(id, group): &(&GroupId, &LoadedGroup)| {
                id.name == old.name && !self.groups.contains_key(*id) && known.file_hash == group.file_hash
            };
            let new = groups.iter().find(is_renamed).map(|(id, group)| (id.clone(), group.clone()));
            let before = ended(known.task, Some(self.engine.clock.now_ms())).await;
            if let Some((id, group)) = new {
                self.start(id, group, before).await;
            }
            // Its alerts are never away in between.
            self.engine.rules.withdraw(&old);
            self.engine.metrics.rules.forget(&old.to_string());
        }
        for (id, group) in groups {
            self.put(id, group).await;
        }
        self.engine.rules.state.keep_only(|id| self.groups.contains_key(id) || failed.contains(&&*id.file));
        *self.engine.rules.failures.write().unwrap_or_else(PoisonError::into_inner) = failures.clone();
        self.engine.rules.is_loaded.store(true, Release);
        self.engine.rules.touch();
        failures
    }

    /// Reads rule files again once one has changed, come or gone, and all have stayed the same for one look.
    async fn look_at_files(&mut self) {
        let options = self.engine.options.load_full();
        let Ok(now) = tokio::task::spawn_blocking(move || files::current(&options.rules)).await else { return };
        self.changing = if now == self.read { 0 } else { self.changing + 1 };
        if self.changing > 0 && (now == self.seen || self.changing > MOST_LOOKS) {
            tracing::info!("rule files have changed; reading them again");
            self.reload().await;
        } else {
            self.seen = now;
        }
    }

    /// Evaluates alerts of the configuration by what their fields are called now.
    async fn look_at_fields(&mut self) {
        if let Some((id, group)) = self.of_fields().await {
            self.put(id, group).await;
        }
    }

    /// Reads files that could not be read at the start.
    async fn read_late(&self) {
        let engine = self.engine.clone();
        let tasks: Vec<_> = self.groups.values().map(|known| known.task.clone()).collect();
        let read = tokio::task::spawn_blocking(move || {
            engine.rules.silences.read_late(engine.clock.now_ms());
            if engine.rules.state.read_late() {
                tasks.iter().for_each(|task| task.restore(&engine));
            }
        });
        // It fails only if it panicked.
        let _ = read.await;
    }

    async fn of_fields(&mut self) -> Option<(GroupId, LoadedGroup)> {
        if self.fields.is_empty() {
            self.engine.rules.unknown_fields.write().unwrap_or_else(PoisonError::into_inner).clear();
            return None;
        }
        let (engine, fields, mut sources) =
            (self.engine.clone(), self.fields.clone(), std::mem::take(&mut self.sources));
        let compiled = tokio::task::spawn_blocking(move || (fields.compile(&engine, &mut sources), sources));
        let ((group, unknown), sources) = compiled.await.ok()?;
        self.sources = sources;
        *self.engine.rules.unknown_fields.write().unwrap_or_else(PoisonError::into_inner) = unknown;
        Some(group)
    }

    /// Starts a group, in place of one of the same name. One that has not changed goes on.
    async fn put(&mut self, id: GroupId, loaded: LoadedGroup) {
        let LoadedGroup { group, file_hash } = loaded;
        let interval_ms = self.engine.options.load().rules.interval.get().as_millis();
        let known = self.groups.get(&id);
        if known.is_some_and(|known| known.file_hash == file_hash && known.interval_ms == interval_ms) {
            return;
        }
        let before = match self.groups.remove(&id) {
            Some(known) => ended(known.task, None).await,
            None => None,
        };
        self.start(id, LoadedGroup { group, file_hash }, before).await;
    }

    /// Starts a group that goes on with the alerts of another.
    async fn start(&mut self, id: GroupId, loaded: LoadedGroup, before: Option<RunningGroup>) {
        let LoadedGroup { group, file_hash } = loaded;
        let interval_ms = self.engine.options.load().rules.interval.get().as_millis();
        let (engine, own) = (self.engine.clone(), id.clone());
        let begun = tokio::task::spawn_blocking(move || {
            let task = Arc::new(GroupTask::new(&engine, own, group, before)?);
            task.announce(&engine);
            Ok::<_, dropsonde_store::InvalidInstanceId>(task)
        });
        let Ok(Ok(task)) = begun.await else { return };
        self.tasks.spawn(task.clone().run(self.engine.clone(), self.permits.clone(), self.stopping.clone()));
        // Tasks that have ended are not kept.
        while self.tasks.try_join_next().is_some() {}
        self.groups.insert(id, KnownGroup { file_hash, interval_ms, task });
    }
}

/// Ends a group, which may be in the middle of an evaluation. Returns its rules with their alerts.
async fn ended(task: Arc<GroupTask>, at_ms: Option<i64>) -> Option<RunningGroup> {
    // It fails only if it panicked.
    tokio::task::spawn_blocking(move || task.end(at_ms)).await.ok()
}
