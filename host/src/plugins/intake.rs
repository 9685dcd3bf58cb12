//! Newer versions of a plugin: each is made ready beside what runs, and only then handed over.

use super::last_good::{LastGood, put};
use super::latest::Latest;
use super::prepare::{Bytes, Loaded, Started, load, off_thread, start};
use super::run::Keeper;
use super::status::{Refusal, Shared};
use super::supervisor::Denied;
use super::{Component, NotTaken, Origin, PluginState, find};
use crate::audit::{Action, Entry};
use crate::core::Core;
use dropsonde_sandbox::{Sandbox, Trial};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What a plugin is to become.
#[derive(Debug)]
pub(super) struct Newer {
    pub(super) component: Component,
    pub(super) how: How,
    /// For the audit log; none at the host's start.
    pub(super) by: Option<String>,
    /// Who wants to know what became of it.
    pub(super) answer: Option<oneshot::Sender<Result<(), Denied>>>,
}

/// How a newer version came.
#[derive(Debug)]
pub(super) enum How {
    /// Its file is there. What runs already is left alone.
    Found,
    /// It is to begin anew in any case.
    Again,
    /// With these bytes, which become its file once they are taken.
    Uploaded(bytes::Bytes),
}

/// A version that is ready to take over.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) loaded: Loaded,
    /// None: its first instance could not be made, and there is nothing to fall back to.
    pub(super) ready: Option<(Started, Trial)>,
    /// It ran well at another time, and the newer one does not work.
    pub(super) is_restored: bool,
}

/// Makes newer versions ready, one at a time.
pub(super) struct Intake<'a> {
    pub(super) core: &'a Core,
    pub(super) sandbox: &'a Arc<Sandbox>,
    pub(super) status: &'a Shared,
    pub(super) keeper: &'a Keeper,
    pub(super) good: Option<&'a LastGood>,
    pub(super) newer: &'a Latest<Newer>,
    pub(super) handover: &'a Latest<Candidate>,
}

/// A version that is not taken, as far as it came.
struct Rejected {
    why: NotTaken,
    digest: Option<String>,
    loaded: Option<Loaded>,
}

/// A plugin that is none: to be answered once it is gone.
#[derive(Debug)]
pub(super) struct Unwanted {
    why: NotTaken,
    answer: Option<oneshot::Sender<Result<(), Denied>>>,
}

impl Unwanted {
    pub(super) fn answer(self) {
        answer(self.answer, Err(self.why));
    }
}

/// Who asked may have gone.
fn answer(to: Option<oneshot::Sender<Result<(), Denied>>>, outcome: Result<(), NotTaken>) {
    if let Some(to) = to {
        let _ = to.send(outcome.map_err(Denied::NotTaken));
    }
}

impl Intake<'_> {
    /// Ends when something was uploaded that is not taken, and there is no plugin without it.
    pub(super) async fn take_in(&self) -> Unwanted {
        // Of what was handed over last.
        let mut current: Option<String> = None;
        loop {
            let Newer { component, how, by, answer: to } = self.newer.take().await;
            let action = match (&how, &by) {
                (How::Uploaded(_), _) => Some(Action::Upload),
                (How::Again, _) => Some(Action::Reload),
                (How::Found, Some(_)) => Some(Action::Replace),
                (How::Found, None) => None,
            };
            // Without what was uploaded there is no such plugin.
            let is_new = matches!(how, How::Uploaded(_))
                && !self.status.has_current()
                && self.status.state() == PluginState::Loading;
            self.status.update(|known| known.is_preparing = true);
            let outcome = self.prepare(component, how, current.as_deref()).await;
            self.status.update(|known| known.is_preparing = false);
            let taken = match outcome {
                Ok(None) => {
                    self.status.update(|known| known.refused = None);
                    answer(to, Ok(()));
                    continue;
                }
                Ok(Some(candidate)) => {
                    self.status.update(|known| known.refused = None);
                    let digest = candidate.loaded.digest.clone();
                    self.hand_over(candidate);
                    current = Some(digest.clone());
                    Ok(digest)
                }
                Err(rejected) => Err(rejected),
            };
            if let (Some(action), Some(by)) = (action, by) {
                let (digest, refused) = match &taken {
                    Ok(digest) => (Some(digest.clone()), None),
                    Err(rejected) => (rejected.digest.clone(), Some(rejected.why.to_string())),
                };
                let plugin = self.status.name.to_string();
                self.core.audit.write(Entry { action, plugin, by, digest, refused });
            }
            let why = match taken {
                Ok(_) => Ok(()),
                Err(Rejected { why, digest, loaded }) => {
                    if is_new {
                        return Unwanted { why, answer: to };
                    }
                    let restored = self.refuse(&why, digest, loaded).await;
                    current = restored.or(current);
                    Err(why)
                }
            };
            answer(to, why);
        }
    }

    fn hand_over(&self, candidate: Candidate) {
        // An earlier one that has not been taken over yet never ran: its thread ends with it.
        drop(self.handover.put(candidate));
        self.status.update(|known| known.has_current = true);
    }

    /// None: it is what there is already.
    async fn prepare(
        &self,
        component: Component,
        how: How,
        current: Option<&str>,
    ) -> Result<Option<Candidate>, Rejected> {
        let at = |why| Rejected { why, digest: None, loaded: None };
        let uploaded = matches!(how, How::Uploaded(_));
        let is_again = matches!(how, How::Again);
        let bytes = match how {
            How::Uploaded(bytes) => off_thread(move || Bytes::of(bytes)).await.map_err(at)?,
            How::Found | How::Again => Bytes::read(&component).await.map_err(at)?,
        };
        let digest = bytes.digest.clone();
        if !is_again && current == Some(&*digest) && self.status.has_current() {
            return Ok(None);
        }
        if !self.status.has_current() {
            self.status.enter(PluginState::Compiling);
        }
        // Kept for its file, and for a start at which a later one does not work.
        let kept = bytes.clone();
        let loaded = load(self.core, self.sandbox, self.status, component.clone(), bytes).await;
        let loaded = loaded.map_err(|why| Rejected { why, digest: Some(digest.clone()), loaded: None })?;
        if !self.status.has_current() {
            self.status.enter(PluginState::Loading);
        }
        let trial = self.keeper.state().trial();
        let started = start(self.core, self.sandbox, self.status, &loaded, trial.state()).await;
        let started = started.map_err(|why| {
            let loaded = matches!(why, NotTaken::Start(_)).then(|| loaded.clone());
            Rejected { why, digest: Some(digest.clone()), loaded }
        })?;
        if let Origin::File(path) = &component.origin {
            let path = uploaded.then(|| path.clone());
            let kept = self.keep(path, kept).await;
            kept.map_err(|why| Rejected { why, digest: Some(digest), loaded: None })?;
        }
        Ok(Some(Candidate { loaded, ready: Some((started, trial)), is_restored: false }))
    }

    /// On disk: as the plugin's file, if it was uploaded, and to come back to.
    async fn keep(&self, path: Option<PathBuf>, bytes: Bytes) -> Result<(), NotTaken> {
        let (good, name) = (self.good.cloned(), self.status.name.clone());
        let kept = off_thread(move || {
            if let Some(Err(error)) = good.map(|good| good.try_out(&bytes)) {
                tracing::warn!(plugin = &*name, %error, "cannot keep a copy of it to come back to");
            }
            path.map_or(Ok(()), |path| put(&path, &bytes.bytes))
        });
        kept.await?.map_err(NotTaken::NotKept)
    }

    /// What runs goes on; where nothing does, what ran well before is brought back. Its digest, then.
    async fn refuse(&self, why: &NotTaken, digest: Option<String>, loaded: Option<Loaded>) -> Option<String> {
        let (core, status) = (self.core, self.status);
        let reason = why.to_string();
        let at_ms = core.clock.now_ms();
        core.metrics.errors.with_label_values(&[&*status.name, "load"]).inc();
        let refusal = Refusal { at_ms, digest: digest.clone(), reason: reason.clone() };
        status.update(|known| known.refused = Some(refusal));
        if self.status.has_current() {
            let backtrace = match why {
                NotTaken::Start(error) => error.backtrace().map(str::to_owned),
                _ => None,
            };
            status.failed_because(at_ms, format!("a newer version is not taken: {reason}"), backtrace);
            tracing::error!(plugin = &*status.name, "a newer version is not taken, what runs goes on: {reason}");
            return None;
        }
        if let Some(restored) = self.restore(digest.as_deref()).await {
            status.failed_because(at_ms, format!("a newer version is not taken: {reason}"), None);
            tracing::error!(
                plugin = &*status.name,
                "what ran before is back, as a newer version is not taken: {reason}"
            );
            let digest = restored.loaded.digest.clone();
            self.hand_over(restored);
            return Some(digest);
        }
        match loaded {
            // It may start another time: whoever runs it tries again.
            Some(loaded) => self.hand_over(Candidate { loaded, ready: None, is_restored: false }),
            None => {
                tracing::error!(plugin = &*status.name, "not running: {reason}");
                status.failed_because(at_ms, reason, None);
                status.enter(PluginState::Failed);
            }
        }
        digest
    }

    /// What last ran well, or what comes with the binary; none if that is what does not work.
    async fn restore(&self, broken: Option<&str>) -> Option<Candidate> {
        let (good, other_than) = (self.good.cloned(), broken.map(str::to_owned));
        let kept = off_thread(move || good?.get(other_than.as_deref())).await.ok()?;
        let (component, bytes) = match kept {
            Some((path, bytes)) => {
                (Component { name: self.status.name.to_string(), origin: Origin::File(path) }, bytes)
            }
            None => {
                let bundled = find::bundled(&self.status.name)?;
                let bytes = Bytes::read(&bundled).await.ok()?;
                (bundled, bytes)
            }
        };
        if Some(&*bytes.digest) == broken {
            return None;
        }
        let trial = self.keeper.state().trial();
        let loaded = load(self.core, self.sandbox, self.status, component, bytes).await;
        let started = match loaded {
            Ok(loaded) => {
                let started = start(self.core, self.sandbox, self.status, &loaded, trial.state()).await;
                started.map(|started| (loaded, started))
            }
            Err(why) => Err(why),
        };
        match started {
            Ok((loaded, started)) => {
                self.core.metrics.plugin_restores_succeeded.inc();
                Some(Candidate { loaded, ready: Some((started, trial)), is_restored: true })
            }
            Err(why) => {
                self.core.metrics.plugin_restores_failed.inc();
                tracing::error!(plugin = &*self.status.name, "what ran before does not run either: {why}");
                None
            }
        }
    }
}
