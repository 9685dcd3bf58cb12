use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Work that several callers share. A caller that comes while the work is under way gets its result; a later caller has
/// the work done again.
#[derive(Debug)]
pub(super) struct SingleFlight<K, V> {
    under_way: Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>,
}

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self { under_way: Arc::default() }
    }
}

impl<K: Copy + Eq + Hash + Send + 'static, V: Clone + Send + Sync + 'static> SingleFlight<K, V> {
    /// Returns the result of the work for a key, and starts the work unless it is under way. None: the work failed. The
    /// work goes on even when nobody waits for it any more.
    pub(super) async fn join<F>(&self, key: K, work: impl FnOnce() -> F) -> Option<V>
    where
        F: Future<Output = Option<V>> + Send + 'static,
    {
        let mut done = self.done(key, work);
        // The channel closes without a value when the work failed or panicked.
        done.wait_for(Option::is_some).await.ok()?.clone()
    }

    fn done<F>(&self, key: K, work: impl FnOnce() -> F) -> watch::Receiver<Option<V>>
    where
        F: Future<Output = Option<V>> + Send + 'static,
    {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = under_way.get(&key).filter(|done| done.has_changed().is_ok()) {
            return done.clone();
        }
        let (tell, done) = watch::channel(None);
        under_way.insert(key, done.clone());
        let (work, all) = (work(), self.under_way.clone());
        tokio::spawn(async move {
            let value = work.await;
            all.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            if value.is_some() {
                tell.send_replace(value);
            }
        });
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn concurrent_callers_share_one_result_and_later_callers_get_a_new_one() {
        let flights = SingleFlight::default();
        let (times, go) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let work = || {
            let (times, go) = (times.clone(), go.clone());
            async move {
                go.notified().await;
                Some(times.fetch_add(1, Relaxed) + 1)
            }
        };
        let together =
            async { tokio::join!(flights.join("k", work), flights.join("k", work), flights.join("k", work)) };
        let let_go = async { go.notify_one() };
        assert_eq!(tokio::join!(together, let_go).0, (Some(1), Some(1), Some(1)));
        go.notify_one();
        assert_eq!(flights.join("k", work).await, Some(2));
        assert!(flights.under_way.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn work_that_failed_or_panicked_is_done_again_for_the_next_caller() {
        let flights = SingleFlight::<_, u32>::default();
        assert_eq!(flights.join("k", || async { None }).await, None);
        assert_eq!(flights.join("k", || async { panic!("told to") }).await, None);
        assert_eq!(flights.join("k", || async { Some(1) }).await, Some(1));
    }
}
