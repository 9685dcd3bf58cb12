//! Prepares newer versions of a plugin beside the running one, and hands each over only once it is ready.

use super::debounce::FileSignature;
use super::find::PluginLocation;
use super::handover_slot::Slot;
use super::last_good::LastGood;
use super::mailbox::Mailbox;
use super::prepare::{ComponentBytes, LoadedPlugin, StartedPlugin, load, off_thread, start};
use super::run::StateKeeper;
use super::status::{SharedStatus, VersionRefusal};
use super::supervisor::RequestError;
use super::{Component, ComponentOrigin, FailureKind, PluginState, RefusedVersion};
use crate::Engine;
use crate::audit::{Actor, AuditEntry, AuditedAction, PluginAction, PluginChange};
use crate::options::TrustedKeys;
use dropsonde_sandbox::replace::{PRIVATE, replace_file};
use dropsonde_sandbox::{Sandbox, Trial};
use std::sync::Arc;
use tokio::sync::{Mutex, Notify, oneshot, watch};

/// A request to one plugin through the API.
#[derive(Debug)]
pub(super) struct LoadRequest {
    pub(super) what: LoadRequestKind,
    /// The requester, for the audit log.
    pub(super) by: Actor,
    pub(super) answer: ReplySender,
}

/// The channel for an answer. The requester may be gone when the answer is sent.
pub(super) type ReplySender = oneshot::Sender<Result<(), RequestError>>;

#[derive(Debug)]
pub(super) enum LoadRequestKind {
    /// Load the plugin again, whichever version runs.
    Again,
    /// Replace the plugin's file by these bytes, once they are accepted.
    Upload(bytes::Bytes),
}

/// The requests and notices that reach a plugin's task.
#[derive(Debug)]
pub(super) struct TaskInput {
    pub(super) asks: Arc<Mailbox>,
    /// Notified when the plugin's file may have changed.
    pub(super) changed: Arc<Notify>,
    /// Whether the first notice counts as a change, which it does not at the host's start.
    pub(super) is_change: bool,
}

/// A version that is ready to take over.
#[derive(Debug)]
pub(super) struct CandidateVersion {
    pub(super) loaded: LoadedPlugin,
    /// The started version; `None` if its first instance could not be started and there is nothing to fall back to.
    pub(super) ready: Option<(StartedPlugin, Trial)>,
    /// Whether this is the last good version, restored because a newer one does not work.
    pub(super) is_restored: bool,
}

/// A version that took over and never ran well.
#[derive(Debug)]
pub(super) struct BrokenVersion {
    pub(super) digest: String,
    pub(super) why: String,
}

/// The refused upload of a new plugin. It is answered once the plugin is gone again.
#[derive(Debug)]
pub(super) struct RefusedUpload {
    why: RefusedVersion,
    answer: ReplySender,
}

/// Prepares newer versions, one at a time.
pub(super) struct Updater<'a> {
    pub(super) engine: &'a Engine,
    pub(super) sandbox: &'a Arc<Sandbox>,
    pub(super) status: &'a SharedStatus,
    pub(super) keeper: &'a StateKeeper,
    pub(super) place: &'a PluginLocation,
    pub(super) good: Option<&'a LastGood>,
    /// Held while the plugin's files are written.
    pub(super) writing: &'a Arc<Mutex<()>>,
    pub(super) broken: &'a Slot<BrokenVersion>,
    pub(super) handover: &'a Slot<CandidateVersion>,
}

/// A refused version, as far as it was prepared.
struct FailedPreparation {
    why: RefusedVersion,
    digest: Option<String>,
    loaded: Option<LoadedPlugin>,
}

/// The source of a version that is newer than one that waits for its turn to be compiled.
#[derive(Debug, PartialEq, Eq)]
enum NewerVersion {
    Upload,
    File,
}

/// Waits until a newer version comes while another one waits for its turn to be compiled. A compilation under way is
/// not interrupted.
async fn newer(asks: &Mailbox, changed: &Notify, mut waits: watch::Receiver<bool>) -> NewerVersion {
    loop {
        if waits.wait_for(|&waits| waits).await.is_err() {
            return std::future::pending().await;
        }
        tokio::select! {
            () = asks.has_upload() => return NewerVersion::Upload,
            () = changed.notified() => return NewerVersion::File,
            _ = waits.wait_for(|&waits| !waits) => {}
        }
    }
}

impl RefusedUpload {
    pub(super) fn answer(self) {
        let _ = self.answer.send(Err(RequestError::NotTaken(self.why)));
    }
}

impl Updater<'_> {
    /// Serves requests, and loads the plugin's file whenever it has changed. Returns if the upload of a new plugin is
    /// refused.
    pub(super) async fn run(&self, TaskInput { asks, changed, mut is_change }: TaskInput) -> RefusedUpload {
        // The digest of the version that was handed over last.
        let mut current: Option<String> = None;
        loop {
            let ask = tokio::select! {
                biased;
                ask = asks.take() => Some(ask),
                () = changed.notified() => None,
                broken = self.broken.take() => {
                    current = self.give_up(broken).await.or(current);
                    continue;
                }
            };
            let is_upload = ask.as_ref().is_some_and(LoadRequest::is_upload);
            // Without the upload there is no such plugin.
            let is_new = is_upload && !self.status.has_current() && self.status.state() == PluginState::Loading;
            let (what, answer, action) = match ask {
                Some(LoadRequest { what, by, answer }) => {
                    let action = if is_upload { PluginAction::Upload } else { PluginAction::Reload };
                    (Some(what), Some(answer), Some((action, by)))
                }
                None => {
                    let action = if self.status.has_current() { PluginAction::Replace } else { PluginAction::Add };
                    (None, None, is_change.then_some((action, Actor::Folder)))
                }
            };
            is_change = true;
            self.status.update(|known| known.is_preparing = true);
            let waits = watch::Sender::new(false);
            self.status.update(|known| known.turn = Some(waits.subscribe()));
            let outcome = tokio::select! {
                biased;
                outcome = self.prepare(what, current.as_deref(), &waits) => outcome,
                newer = newer(&asks, &changed, waits.subscribe()) => {
                    if newer == NewerVersion::File {
                        // The file is still to be read.
                        changed.notify_one();
                    }
                    Err(FailedPreparation { why: RefusedVersion::Outdated, digest: None, loaded: None })
                }
            };
            self.status.update(|known| (known.is_preparing, known.turn) = (false, None));
            let outcome = match outcome {
                // Nothing new.
                Ok(None) => continue,
                Ok(Some(candidate)) => {
                    self.status.forget_refused();
                    self.engine.plugins.refusals(&self.status.name).works(&self.status.name, FailureKind::Version);
                    let digest = candidate.loaded.digest.clone();
                    self.hand_over(candidate);
                    current = Some(digest);
                    Ok(())
                }
                Err(rejected) => Err(rejected),
            };
            if let Some((action, by)) = action {
                let (digest, refused) = match &outcome {
                    Ok(()) => (current.clone(), None),
                    Err(rejected) => (rejected.digest.clone(), Some(rejected.why.to_string())),
                };
                let plugin = self.status.name.to_string();
                let what = AuditedAction::Plugin(PluginChange { action, plugin, digest, refused });
                self.engine.audit.write(self.engine.clock.now_ms(), &AuditEntry { by, what });
            }
            let outcome = match (outcome, answer) {
                (Ok(()), answer) => (Ok(()), answer),
                // The newer version decides on the plugin's state.
                (Err(FailedPreparation { why: why @ RefusedVersion::Outdated, .. }), answer) => {
                    tracing::info!(plugin = &*self.status.name, reason = %why, "a version is refused");
                    self.show(PluginState::Loading);
                    (Err(why), answer)
                }
                (Err(FailedPreparation { why, .. }), Some(answer)) if is_new => return RefusedUpload { why, answer },
                (Err(FailedPreparation { why, digest, loaded }), answer) => {
                    current = self.refuse(&why, digest, loaded).await.or(current);
                    (Err(why), answer)
                }
            };
            if let (outcome, Some(answer)) = outcome {
                let _ = answer.send(outcome.map_err(RequestError::NotTaken));
            }
        }
    }

    fn hand_over(&self, candidate: CandidateVersion) {
        // An earlier candidate that has not taken over yet never ran: its thread ends when it is dropped.
        drop(self.handover.put(candidate));
        self.status.update(|known| known.has_current = true);
    }

    /// Prepares the requested version, or else the plugin's file. Returns `None` if there is nothing new.
    async fn prepare(
        &self,
        what: Option<LoadRequestKind>,
        current: Option<&str>,
        waits: &watch::Sender<bool>,
    ) -> Result<Option<CandidateVersion>, FailedPreparation> {
        let at = |why| FailedPreparation { why, digest: None, loaded: None };
        let is_found = what.is_none();
        let (component, bytes, replaces) = match what {
            Some(LoadRequestKind::Upload(bytes)) => {
                let place = self.place.clone();
                let looked =
                    off_thread(move || place.upload().map(|(file, now)| (file, now, ComponentBytes::of(bytes))));
                let (file, now, bytes) = looked.await.map_err(at)?.ok_or_else(|| at(RefusedVersion::NoFolder))?;
                let component = Component { name: self.place.name.clone(), origin: ComponentOrigin::File(file) };
                (component, bytes, Some(now))
            }
            Some(LoadRequestKind::Again) | None => {
                let place = self.place.clone();
                let read = off_thread(move || {
                    let component = place.component()?;
                    Some(component.bytes().map(|bytes| (component, ComponentBytes::of(bytes))))
                });
                match read.await.map_err(at)? {
                    // The file is gone by now; the plugin will be removed soon.
                    None => return Ok(None),
                    Some(read) => {
                        let (component, bytes) = read.map_err(|error| at(RefusedVersion::Unreadable(error)))?;
                        (component, bytes, None)
                    }
                }
            }
        };
        let digest = bytes.digest.clone();
        let is_current = current == Some(&*digest) && self.status.has_current();
        if is_found && is_current && self.status.runs_a(&component.origin) {
            self.status.forget_refused();
            self.status.update(|known| {
                // The restored version is the plugin's file again.
                known.is_restored = false;
                known.origin = component.origin;
            });
            return Ok(None);
        }
        self.show(PluginState::Compiling);
        let rejected = |why| FailedPreparation { why, digest: Some(digest.clone()), loaded: None };
        // Kept for the plugin's file, and for the copy to restore if a later version does not work.
        let kept = bytes.clone();
        let loaded = load(self.engine, self.sandbox, self.status, component.clone(), bytes, waits).await;
        let loaded = loaded.map_err(rejected)?;
        self.show(PluginState::Loading);
        let trial = self.keeper.state().trial();
        let mut room = None;
        let started = start(self.engine, self.sandbox, self.status, &loaded, trial.state(), &mut room).await;
        let started = started.map(|started| StartedPlugin { room, ..started }).map_err(|why| {
            let loaded = matches!(why, RefusedVersion::Start(_)).then(|| loaded.clone());
            FailedPreparation { why, digest: Some(digest.clone()), loaded }
        })?;
        if let ComponentOrigin::File(_) = &component.origin {
            self.keep(replaces, kept, current).await.map_err(rejected)?;
        }
        Ok(Some(CandidateVersion { loaded, ready: Some((started, trial)), is_restored: false }))
    }

    /// Enters a state, unless there is a current version: then the newer one changes nothing yet.
    fn show(&self, state: PluginState) {
        if !self.status.has_current() {
            self.status.enter(state);
        }
    }

    /// Writes a version to disk: as a copy to restore later, and an upload also as the plugin's file. `replaces` is the
    /// signature of that file when the upload came; the file must not have changed since.
    async fn keep(
        &self,
        replaces: Option<Option<FileSignature>>,
        bytes: ComponentBytes,
        current: Option<&str>,
    ) -> Result<(), RefusedVersion> {
        let (good, place, name) = (self.good.cloned(), self.place.clone(), self.status.name.clone());
        let current = current.map(str::to_owned);
        // The removal of the plugin waits for this lock.
        let writing = self.writing.clone().lock_owned().await;
        off_thread(move || {
            let _writing = writing;
            let signature = place.file().and_then(|file| TrustedKeys::read_signature(&file));
            let kept = good.map(|good| good.try_out(&bytes, signature.as_deref(), current.as_deref()));
            if let Some(Err(error)) = kept {
                tracing::warn!(plugin = &*name, %error, "cannot keep a copy of this version to restore later");
            }
            let Some(before) = replaces else { return Ok(()) };
            let Some((file, now)) = place.upload() else { return Err(RefusedVersion::NoFolder) };
            if now != before {
                return Err(RefusedVersion::Superseded);
            }
            replace_file(&file, &bytes.bytes, PRIVATE).map_err(RefusedVersion::NotKept)
        })
        .await?
    }

    /// Handles a refused version: the running version goes on; if none runs, the last good version is restored. Returns
    /// the digest of the version that counts as the last one handed over, if that is another now.
    async fn refuse(
        &self,
        why: &RefusedVersion,
        digest: Option<String>,
        loaded: Option<LoadedPlugin>,
    ) -> Option<String> {
        let (engine, status) = (self.engine, self.status);
        let (reason, refusals) = (why.to_string(), engine.plugins.refusals(&status.name));
        engine.metrics.core.errors(&status.name, "load", 1);
        let trap = match why {
            RefusedVersion::Start(error) => error.trap().cloned(),
            _ => None,
        };
        let refusal =
            VersionRefusal { at_ms: engine.clock.now_ms(), digest: digest.clone(), reason: reason.clone(), trap };
        if status.has_current() {
            status.refused(refusal);
            refusals.refused(&status.name, &reason, "a newer version is refused; the running version stays");
            return None;
        }
        if let Some(restored) = self.restore(digest.as_deref()).await {
            status.refused(refusal);
            refusals.refused(&status.name, &reason, "a newer version is refused; restoring the last good version");
            let digest = restored.loaded.digest.clone();
            self.hand_over(restored);
            return Some(digest);
        }
        status.update(|known| known.refused = Some(refusal));
        match loaded {
            // The version may start another time: the runner tries it again.
            Some(loaded) => self.hand_over(CandidateVersion { loaded, ready: None, is_restored: false }),
            None => {
                refusals.refused(&status.name, &reason, "not running");
                status.failed_because(engine.clock.now_ms(), reason);
                status.enter(PluginState::Failed);
            }
        }
        digest
    }

    /// Restores the last good version, if there is one, because a newer one took over and never ran well. Returns the
    /// digest of the restored version.
    async fn give_up(&self, BrokenVersion { digest, why }: BrokenVersion) -> Option<String> {
        let restored = self.restore(Some(&digest)).await?;
        tracing::error!(
            plugin = &*self.status.name,
            reason = why,
            "the newer version never ran well; restoring the last good version"
        );
        let at_ms = self.engine.clock.now_ms();
        let last = self.status.look(|known| known.last_failure.clone());
        let reason = match &last {
            Some(last) => format!("{why}; the last: {}", last.reason),
            None => why,
        };
        let (plugin, kept) = (self.status.name.to_string(), Some(restored.loaded.digest.clone()));
        let change = PluginChange { action: PluginAction::Restore, plugin, digest: kept, refused: None };
        self.engine.audit.write(at_ms, &AuditEntry { by: Actor::Host, what: AuditedAction::Plugin(change) });
        self.status.refused(VersionRefusal {
            at_ms,
            digest: Some(digest),
            reason,
            trap: last.and_then(|last| last.trap),
        });
        let digest = restored.loaded.digest.clone();
        self.hand_over(restored);
        Some(digest)
    }

    /// Prepares the version that last ran well, or else the bundled plugin. Returns `None` if there is none, or if the
    /// broken version has itself run well.
    async fn restore(&self, broken: Option<&str>) -> Option<CandidateVersion> {
        let (good, broken, bundled) = (self.good.cloned(), broken.map(str::to_owned), self.place.bundled);
        let name = self.place.name.clone();
        let found = off_thread(move || {
            let kept = match good {
                Some(good) if good.is_kept(broken.as_deref()) => return None,
                Some(good) => good.get(),
                None => None,
            };
            let (component, bytes) = match kept {
                Some((path, bytes)) => (Component { name, origin: ComponentOrigin::File(path) }, bytes),
                None => {
                    let bundled = Component::from(bundled?);
                    let bytes = ComponentBytes::of(bundled.bytes().ok()?);
                    (bundled, bytes)
                }
            };
            (Some(&bytes.digest) != broken.as_ref()).then_some((component, bytes))
        });
        let (component, bytes) = found.await.ok()??;
        let trial = self.keeper.state().trial();
        let loaded = load(self.engine, self.sandbox, self.status, component, bytes, &watch::Sender::new(false)).await;
        let started = match loaded {
            Ok(loaded) => {
                let mut room = None;
                let started = start(self.engine, self.sandbox, self.status, &loaded, trial.state(), &mut room).await;
                started.map(|started| (loaded, StartedPlugin { room, ..started }))
            }
            Err(why) => Err(why),
        };
        match started {
            Ok((loaded, started)) => {
                self.engine.metrics.plugin_restores_succeeded.inc();
                Some(CandidateVersion { loaded, ready: Some((started, trial)), is_restored: true })
            }
            Err(why) => {
                self.engine.metrics.plugin_restores_failed.inc();
                tracing::error!(
                    plugin = &*self.status.name, reason = %why,
                    "the last good version does not run either"
                );
                None
            }
        }
    }
}
