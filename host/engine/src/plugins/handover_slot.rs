use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// A slot for one value. A later value replaces an earlier one that was not taken, which [`Slot::put`] then returns.
#[derive(Debug)]
pub(super) struct Slot<T> {
    place: Mutex<Option<T>>,
    put: Notify,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { place: Mutex::default(), put: Notify::new() }
    }
}

impl<T> Slot<T> {
    pub(super) fn put(&self, thing: T) -> Option<T> {
        let earlier = self.lock().replace(thing);
        self.put.notify_one();
        earlier
    }

    /// Waits for a value and takes it. If the wait is cancelled, nothing is lost.
    pub(super) async fn take(&self) -> T {
        loop {
            if let Some(thing) = self.lock().take() {
                return thing;
            }
            self.put.notified().await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<T>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn put_returns_the_value_it_replaces_and_take_returns_the_latest_once() {
        let latest = Slot::default();
        assert_eq!(latest.put(1), None);
        assert_eq!(latest.put(2), Some(1));
        assert_eq!(latest.take().await, 2);
        let none = tokio::time::timeout(Duration::from_secs(1), latest.take()).await;
        assert!(none.is_err(), "it is taken once");
        latest.put(3);
        assert_eq!(latest.take().await, 3, "a wait that was given up took nothing");
    }
}
