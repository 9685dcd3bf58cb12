//! Quotas in all and for one client: of connections, streams, turns, or bytes of memory.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The last quarter of all places is left to clients that have none yet, or less than a thirty-second of all.
const LEFT: usize = 4;
const LITTLE: usize = 32;

/// The most refused clients that are remembered.
const REMEMBERED: usize = 16;

/// Counts the places that are taken, and queues the requests that wait for some.
#[derive(Debug, Default)]
pub struct Quota(Mutex<QuotaState>);

#[derive(Debug, Default)]
struct QuotaState {
    all: usize,
    by_peer: HashMap<ClientId, usize>,
    /// Waiting requests by client. Clients take turns, so that one that wants very much does not keep others waiting.
    waiting: VecDeque<(Option<ClientId>, VecDeque<Waiter>)>,
    refusals: u64,
    /// The clients that were refused last, at most [`REMEMBERED`].
    refused: Vec<RefusedClient>,
    /// The clients that had most when a request last found no places left, and when that was.
    crowd: Option<(Instant, Crowd)>,
}

/// The clients that have most places while others find none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crowd {
    /// Each with its places, most first.
    pub holders: Vec<(ClientId, usize)>,
    /// How often a client was refused so far because nothing was left.
    pub refused: u64,
}

/// A client that wanted more than its share.
#[derive(Debug)]
struct RefusedClient {
    peer: ClientId,
    times: u64,
    last: Instant,
}

/// A request that waits for places.
#[derive(Debug)]
struct Waiter {
    count: usize,
    most: usize,
    share: Option<ClientShare>,
    /// Closed when the caller no longer waits.
    tell: oneshot::Sender<QuotaPermit>,
}

/// Places that somebody holds. Dropping it frees them.
#[derive(Debug)]
pub struct QuotaPermit {
    places: Arc<Quota>,
    peer: Option<ClientId>,
    count: usize,
}

/// A client whose places are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientId {
    /// An IPv4 address, or the first address of an IPv6 /64.
    Ip(IpAddr),
    /// All clients that use a Unix socket.
    Unix,
}

/// The share of one client.
#[derive(Debug, Clone, Copy)]
pub struct ClientShare {
    pub peer: ClientId,
    /// The most places it may have.
    pub most: usize,
}

/// The reason why a request gets no places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaError {
    /// All places are taken: this many.
    All(usize),
    /// The client may have no more places now than this many.
    OfPeer(usize),
}

impl std::fmt::Display for ClientId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Unix => f.write_str("on the Unix socket"),
        }
    }
}

// === impl Quota ===

impl Quota {
    /// Takes one of `most` places, if its client has less than its share.
    pub fn take(self: &Arc<Self>, most: usize, share: Option<ClientShare>) -> Result<QuotaPermit, QuotaError> {
        self.take_many(1, most, share).inspect_err(|why| self.note_lack(why))
    }

    /// Takes `count` of `most` places, if its client then has no more than its share.
    pub fn take_many(
        self: &Arc<Self>,
        count: usize,
        most: usize,
        share: Option<ClientShare>,
    ) -> Result<QuotaPermit, QuotaError> {
        let added = self.lock().add(count, most, share);
        if let (Err(QuotaError::OfPeer(_)), Some(ClientShare { peer, .. })) = (added, share) {
            self.refuse(peer);
        }
        added?;
        Ok(self.place(count, share))
    }

    /// Counts a refusal of a client.
    pub fn refuse(&self, peer: ClientId) {
        self.lock().refuse(peer);
    }

    /// Returns the clients that were refused within a time because they have their shares, with the number of refusals
    /// so far.
    pub fn greedy(&self, within: Duration) -> Vec<(ClientId, u64)> {
        let state = self.lock();
        let of_late = state.refused.iter().filter(|refused| refused.last.elapsed() < within);
        of_late.map(|RefusedClient { peer, times, .. }| (*peer, *times)).collect()
    }

    /// Returns the clients that had most when a request found no places left within a time.
    pub fn crowd(&self, within: Duration) -> Option<Crowd> {
        let state = self.lock();
        state.crowd.as_ref().filter(|(at, _)| at.elapsed() < within).map(|(_, crowd)| crowd.clone())
    }

    /// Returns the number of refusals because a client has its share.
    pub fn refusals(&self) -> u64 {
        self.lock().refusals
    }

    /// Waits until `count` of `most` places can be taken, for `patience` at most. Clients that wait take turns: each is
    /// served one request at a time.
    pub async fn wait(
        self: &Arc<Self>,
        count: usize,
        most: usize,
        share: Option<ClientShare>,
        patience: Duration,
    ) -> Result<QuotaPermit, QuotaError> {
        let (tell, told) = oneshot::channel();
        self.lock().queue(Waiter { count, most, share, tell });
        self.serve();
        match tokio::time::timeout(patience, told).await {
            Ok(Ok(place)) => Ok(place),
            // Returns the reason, unless there are places by now.
            _ => self.take_many(count, most, share).inspect_err(|why| self.note_lack(why)),
        }
    }

    /// Notes who has most, if a request is refused because nothing is left.
    fn note_lack(&self, why: &QuotaError) {
        if let QuotaError::All(_) = why {
            self.lock().refuse_for_lack();
        }
    }

    /// Returns the number of places that are taken.
    pub fn taken(&self) -> usize {
        self.lock().all
    }

    /// Gives free places to waiting requests.
    fn serve(self: &Arc<Self>) {
        let served = self.lock().serve();
        for Waiter { count, share, tell, .. } in served {
            // If the caller no longer waits, the places are dropped, and so free again.
            let _ = tell.send(self.place(count, share));
        }
    }

    fn place(self: &Arc<Self>, count: usize, share: Option<ClientShare>) -> QuotaPermit {
        QuotaPermit { places: self.clone(), peer: share.map(|share| share.peer), count }
    }

    fn lock(&self) -> MutexGuard<'_, QuotaState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl QuotaState ===

impl QuotaState {
    fn add(&mut self, count: usize, most: usize, share: Option<ClientShare>) -> Result<(), QuotaError> {
        let is_over = |taken: usize, most: usize| taken.checked_add(count).is_none_or(|taken| taken > most);
        let own = share.map_or(0, |share| self.by_peer.get(&share.peer).copied().unwrap_or_default());
        if let Some(share) = share.filter(|share| is_over(own, share.most)) {
            return Err(QuotaError::OfPeer(share.most));
        }
        if is_over(self.all, most) {
            return Err(QuotaError::All(most));
        }
        // However many clients have their shares, others still find places.
        if own > 0 && is_over(own, most / LITTLE) && is_over(self.all, most - most / LEFT) {
            return Err(QuotaError::OfPeer(own));
        }
        if let Some(ClientShare { peer, .. }) = share {
            *self.by_peer.entry(peer).or_default() += count;
        }
        self.all += count;
        Ok(())
    }

    fn refuse(&mut self, peer: ClientId) {
        self.refusals += 1;
        let now = Instant::now();
        if let Some(known) = self.refused.iter_mut().find(|known| known.peer == peer) {
            (known.times, known.last) = (known.times + 1, now);
            return;
        }
        if self.refused.len() >= REMEMBERED {
            self.refused.sort_unstable_by_key(|refused| std::cmp::Reverse(refused.last));
            self.refused.pop();
        }
        self.refused.push(RefusedClient { peer, times: 1, last: now });
    }

    fn refuse_for_lack(&mut self) {
        /// The most clients that are named.
        const NAMED: usize = 3;
        /// Refusals can be many, and clients too.
        const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
        if let Some((at, crowd)) = &mut self.crowd
            && at.elapsed() < LOOKED_AT_EVERY
        {
            crowd.refused += 1;
            return;
        }
        let refused = self.crowd.as_ref().map_or(0, |(_, crowd)| crowd.refused) + 1;
        let mut holders: Vec<_> = self.by_peer.iter().map(|(peer, taken)| (*peer, *taken)).collect();
        holders.sort_unstable_by_key(|(_, taken)| std::cmp::Reverse(*taken));
        holders.truncate(NAMED);
        self.crowd = Some((Instant::now(), Crowd { holders, refused }));
    }

    fn free(&mut self, count: usize, peer: Option<ClientId>) {
        self.all = self.all.saturating_sub(count);
        if let Some(Entry::Occupied(mut taken)) = peer.map(|peer| self.by_peer.entry(peer)) {
            *taken.get_mut() = taken.get().saturating_sub(count);
            if *taken.get() == 0 {
                taken.remove();
            }
        }
    }

    fn queue(&mut self, waiting: Waiter) {
        let peer = waiting.share.map(|share| share.peer);
        match self.waiting.iter_mut().find(|(other, _)| *other == peer) {
            Some((_, queue)) => {
                forget_closed(queue);
                queue.push_back(waiting);
            }
            None => self.waiting.push_back((peer, VecDeque::from([waiting]))),
        }
    }

    /// Takes places for waiting requests, and returns the requests that got theirs. Clients that have their share are
    /// passed over. If there are not enough places for a request, all others wait for it, so that large requests are
    /// served, too.
    fn serve(&mut self) -> Vec<Waiter> {
        let mut served = Vec::new();
        let mut passed = 0;
        while passed < self.waiting.len() {
            let Some((peer, mut queue)) = self.waiting.pop_front() else { break };
            forget_closed(&mut queue);
            let Some(Waiter { count, most, share, .. }) = queue.front() else { continue };
            match self.add(*count, *most, *share) {
                Ok(()) => {
                    served.extend(queue.pop_front());
                    passed = 0;
                }
                Err(QuotaError::OfPeer(_)) => passed += 1,
                Err(QuotaError::All(_)) => {
                    self.waiting.push_front((peer, queue));
                    break;
                }
            }
            if !queue.is_empty() {
                self.waiting.push_back((peer, queue));
            }
        }
        served
    }
}

/// Drops requests whose callers no longer wait. Looks only at the front, because the first to come are the first to
/// give up.
fn forget_closed(queue: &mut VecDeque<Waiter>) {
    while queue.pop_front_if(|waiting| waiting.tell.is_closed()).is_some() {}
}

// === impl QuotaPermit ===

impl QuotaPermit {
    /// Changes the number of places to `count`: gives some back, or takes more of `most`, if the client then has no
    /// more than `share`.
    pub fn resize(&mut self, count: usize, most: usize, share: usize) -> Result<(), QuotaError> {
        if let Some(less) = self.count.checked_sub(count) {
            self.give_back(less);
            return Ok(());
        }
        let share = self.peer.map(|peer| ClientShare { peer, most: share });
        self.places.lock().add(count - self.count, most, share)?;
        self.count = count;
        Ok(())
    }

    fn give_back(&mut self, count: usize) {
        self.count -= count;
        let mut state = self.places.lock();
        state.free(count, self.peer);
        let has_waiting = !state.waiting.is_empty();
        drop(state);
        if has_waiting {
            self.places.serve();
        }
    }
}

impl Drop for QuotaPermit {
    fn drop(&mut self) {
        self.give_back(self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    fn share(ip: &str, most: usize) -> Option<ClientShare> {
        Some(ClientShare { peer: ClientId::Ip(ip.parse().unwrap()), most })
    }

    fn is_empty(places: &Quota) -> bool {
        let state = places.lock();
        state.all == 0 && state.by_peer.is_empty() && state.waiting.is_empty()
    }

    #[test]
    fn the_last_quarter_of_places_is_left_to_clients_that_have_few() {
        let places = Arc::new(Quota::default());
        let greedy: Vec<_> = (0..5).map(|nth| share(&format!("10.0.0.{nth}"), 16)).collect();
        let mut held = Vec::new();
        for _ in 0..16 {
            held.extend(greedy.iter().filter_map(|share| places.take(64, *share).ok()));
        }
        assert_eq!(places.taken(), 48);
        let modest = share("10.0.1.1", 16);
        held.extend([places.take(64, modest).unwrap(), places.take(64, modest).unwrap()]);
        assert_eq!(places.take(64, modest).unwrap_err(), QuotaError::OfPeer(2));
        assert_eq!(places.greedy(LONG).len(), 6, "all of them are named");
    }

    #[test]
    fn a_client_with_its_full_share_is_refused_while_others_get_places() {
        let places = Arc::new(Quota::default());
        let (one, other) = (share("10.0.0.1", 2), share("10.0.0.2", 2));
        let take = |share| places.take(3, share);
        let first = take(one).unwrap();
        let second = take(one).unwrap();
        assert_eq!(take(one).unwrap_err(), QuotaError::OfPeer(2));
        let third = take(other).unwrap();
        assert_eq!(take(None).unwrap_err(), QuotaError::All(3));
        drop(first);
        assert_eq!(places.taken(), 2);
        assert!(take(one).is_ok());
        drop((second, third));
        assert!(is_empty(&places), "nothing is kept of those that are gone");
    }

    #[test]
    fn a_permit_can_be_resized_within_its_clients_share() {
        let places = Arc::new(Quota::default());
        let mut place = places.take_many(4, 10, share("10.0.0.1", 6)).unwrap();
        assert_eq!(place.resize(7, 10, 6), Err(QuotaError::OfPeer(6)));
        assert_eq!(place.resize(6, 5, 6), Err(QuotaError::All(5)));
        place.resize(6, 10, 6).unwrap();
        assert_eq!((places.taken(), place.count), (6, 6));
        place.resize(1, 10, 6).unwrap();
        assert_eq!(places.taken(), 1);
        drop(place);
        assert!(is_empty(&places));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_clients_are_served_in_turn() {
        let places = Arc::new(Quota::default());
        let held = places.take(1, None).unwrap();
        let wait = |ip| {
            let places = places.clone();
            tokio::spawn(async move { places.wait(1, 1, share(ip, 1), LONG).await })
        };
        let greedy = [wait("10.0.0.1"), wait("10.0.0.1")];
        let modest = wait("10.0.0.2");
        tokio::task::yield_now().await;
        drop(held);
        let [first, second] = greedy;
        drop(first.await.unwrap().unwrap());
        drop(modest.await.unwrap().unwrap());
        drop(second.await.unwrap().unwrap());
        assert!(is_empty(&places));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_times_out_returns_the_reason_and_leaves_no_waiter() {
        let places = Arc::new(Quota::default());
        let one = share("10.0.0.1", 1);
        let held = places.take(2, one).unwrap();
        assert_eq!(places.wait(1, 2, one, LONG).await.unwrap_err(), QuotaError::OfPeer(1));
        let other = places.wait(1, 2, share("10.0.0.2", 1), LONG).await.unwrap();
        assert_eq!(places.wait(1, 2, share("10.0.0.3", 1), LONG).await.unwrap_err(), QuotaError::All(2));
        drop((held, other));
        assert!(is_empty(&places));
    }
}
