//! Requests to one plugin, which wait for its updater.

use super::updater::{LoadRequest, LoadRequestKind};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The most requests that wait, an upload included.
const MOST_WAITING: usize = 2;

/// The waiting requests. At most one upload waits, the newest, because uploads wait in memory.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    waiting: Mutex<VecDeque<LoadRequest>>,
    came: Notify,
}

/// The result of posting a request.
#[derive(Debug)]
pub(super) enum PostOutcome {
    Waits,
    /// The request waits in place of this older upload.
    Replaced(LoadRequest),
    /// The mailbox is full, and this request does not wait.
    Full(LoadRequest),
}

impl Mailbox {
    pub(super) fn post(&self, ask: LoadRequest) -> PostOutcome {
        let mut waiting = self.lock();
        let older = waiting.iter().position(|other| ask.is_upload() && other.is_upload());
        let older = older.and_then(|nth| waiting.remove(nth));
        if older.is_none() && waiting.len() >= MOST_WAITING {
            return PostOutcome::Full(ask);
        }
        waiting.push_back(ask);
        drop(waiting);
        self.came.notify_waiters();
        older.map_or(PostOutcome::Waits, PostOutcome::Replaced)
    }

    /// Waits for a request and takes it. If the wait is cancelled, nothing is lost.
    pub(super) async fn take(&self) -> LoadRequest {
        self.until(VecDeque::pop_front).await
    }

    /// Waits until an upload is in the mailbox.
    pub(super) async fn has_upload(&self) {
        self.until(|waiting| waiting.iter().any(LoadRequest::is_upload).then_some(())).await;
    }

    async fn until<T>(&self, wanted: impl Fn(&mut VecDeque<LoadRequest>) -> Option<T>) -> T {
        loop {
            let mut came = std::pin::pin!(self.came.notified());
            // From here on, a new request wakes this task.
            came.as_mut().enable();
            if let Some(found) = wanted(&mut self.lock()) {
                return found;
            }
            came.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<LoadRequest>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoadRequest {
    pub(super) fn is_upload(&self) -> bool {
        matches!(self.what, LoadRequestKind::Upload(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::Actor;
    use std::time::Duration;
    use tokio::sync::oneshot;

    fn ask(what: LoadRequestKind) -> LoadRequest {
        LoadRequest { what, by: Actor::Host, answer: oneshot::channel().0 }
    }

    fn upload(bytes: &'static str) -> LoadRequest {
        ask(LoadRequestKind::Upload(bytes.into()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_newer_upload_replaces_a_waiting_one_and_the_mailbox_is_bounded() {
        let mailbox = Mailbox::default();
        assert!(matches!(mailbox.post(upload("old")), PostOutcome::Waits));
        assert!(matches!(mailbox.post(ask(LoadRequestKind::Again)), PostOutcome::Waits));
        assert!(matches!(mailbox.post(ask(LoadRequestKind::Again)), PostOutcome::Full(_)));
        let PostOutcome::Replaced(LoadRequest { what: LoadRequestKind::Upload(bytes), .. }) =
            mailbox.post(upload("new"))
        else {
            panic!("the older one waits, too");
        };
        assert_eq!(bytes, "old");
        mailbox.has_upload().await;
        assert!(matches!(mailbox.take().await.what, LoadRequestKind::Again));
        assert!(matches!(mailbox.take().await.what, LoadRequestKind::Upload(bytes) if bytes == "new"));
        let none = tokio::time::timeout(Duration::from_secs(1), mailbox.take()).await;
        assert!(none.is_err(), "each is taken once");
    }
}
