//! How much there may be of something, in all and of one peer: connections, streams, turns, bytes of memory.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The last fourth of what there is goes to peers that have nothing yet, or less than a thirty-second of it.
const LEFT: usize = 4;
const LITTLE: usize = 32;

/// Peers that are remembered as refused.
const REMEMBERED: usize = 16;

/// Places that are taken, and those who wait for some.
#[derive(Debug, Default)]
pub struct Places(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    all: usize,
    by_peer: HashMap<PeerId, usize>,
    /// By peer: peers take turns, so that one that wants very much does not keep others waiting.
    waiting: VecDeque<(Option<PeerId>, VecDeque<Waiting>)>,
    refusals: u64,
    /// Those who were refused something last, so many at most.
    refused: Vec<Refused>,
}

/// A peer that wanted more than its share.
#[derive(Debug)]
struct Refused {
    peer: PeerId,
    times: u64,
    last: Instant,
}

#[derive(Debug)]
struct Waiting {
    count: usize,
    most: usize,
    share: Option<Share>,
    /// Closed when it waits no more.
    tell: oneshot::Sender<Place>,
}

/// Some of them. Free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    peer: Option<PeerId>,
    count: usize,
}

/// Whom places are counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerId {
    /// An address of IPv4, or the first of a /64 of IPv6.
    Ip(IpAddr),
    /// All who use a socket in the file system.
    Unix,
}

/// The most that one peer may have.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    pub peer: PeerId,
    pub most: usize,
}

/// The reason why there is no place: so many are all there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    All(usize),
    OfPeer(usize),
}

impl std::fmt::Display for PeerId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(ip) => write!(f, "{ip}"),
            Self::Unix => f.write_str("the Unix socket's"),
        }
    }
}

// === impl Places ===

impl Places {
    /// Takes one of `most`, if its peer has less than its share.
    pub fn take(self: &Arc<Self>, most: usize, share: Option<Share>) -> Result<Place, Full> {
        self.take_many(1, most, share)
    }

    /// Takes `count` of `most`, if its peer then has no more than its share.
    pub fn take_many(self: &Arc<Self>, count: usize, most: usize, share: Option<Share>) -> Result<Place, Full> {
        let added = self.lock().add(count, most, share);
        if let (Err(Full::OfPeer(_)), Some(Share { peer, .. })) = (added, share) {
            self.refuse(peer);
        }
        added?;
        Ok(self.place(count, share))
    }

    /// Counts that a peer was refused something.
    pub fn refuse(&self, peer: PeerId) {
        self.lock().refuse(peer);
    }

    /// Who was refused something within a time because it has its share, and how often so far.
    pub fn greedy(&self, within: Duration) -> Vec<(PeerId, u64)> {
        let state = self.lock();
        let of_late = state.refused.iter().filter(|refused| refused.last.elapsed() < within);
        of_late.map(|Refused { peer, times, .. }| (*peer, *times)).collect()
    }

    /// How often a peer was refused something because it has its share.
    pub fn refusals(&self) -> u64 {
        self.lock().refusals
    }

    /// Waits until `count` of `most` can be taken, as long as `patience` lasts. Those who wait are served one of each peer in
    /// turn.
    pub async fn wait(
        self: &Arc<Self>,
        count: usize,
        most: usize,
        share: Option<Share>,
        patience: Duration,
    ) -> Result<Place, Full> {
        let (tell, told) = oneshot::channel();
        self.lock().queue(Waiting { count, most, share, tell });
        self.serve();
        match tokio::time::timeout(patience, told).await {
            Ok(Ok(place)) => Ok(place),
            // It says why, unless there is one by now.
            _ => self.take_many(count, most, share),
        }
    }

    pub fn taken(&self) -> usize {
        self.lock().all
    }

    /// Gives those who wait what there is for them.
    fn serve(self: &Arc<Self>) {
        let served = self.lock().serve();
        for Waiting { count, share, tell, .. } in served {
            // Free again if it waits no more.
            let _ = tell.send(self.place(count, share));
        }
    }

    fn place(self: &Arc<Self>, count: usize, share: Option<Share>) -> Place {
        Place { places: self.clone(), peer: share.map(|share| share.peer), count }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn add(&mut self, count: usize, most: usize, share: Option<Share>) -> Result<(), Full> {
        let is_over = |taken: usize, most: usize| taken.checked_add(count).is_none_or(|taken| taken > most);
        let own = share.map_or(0, |share| self.by_peer.get(&share.peer).copied().unwrap_or_default());
        if let Some(share) = share.filter(|share| is_over(own, share.most)) {
            return Err(Full::OfPeer(share.most));
        }
        if is_over(self.all, most) {
            return Err(Full::All(most));
        }
        // However many have their shares, others find something.
        if own > 0 && is_over(own, most / LITTLE) && is_over(self.all, most - most / LEFT) {
            return Err(Full::OfPeer(own));
        }
        if let Some(Share { peer, .. }) = share {
            *self.by_peer.entry(peer).or_default() += count;
        }
        self.all += count;
        Ok(())
    }

    fn refuse(&mut self, peer: PeerId) {
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
        self.refused.push(Refused { peer, times: 1, last: now });
    }

    fn free(&mut self, count: usize, peer: Option<PeerId>) {
        self.all = self.all.saturating_sub(count);
        if let Some(Entry::Occupied(mut taken)) = peer.map(|peer| self.by_peer.entry(peer)) {
            *taken.get_mut() = taken.get().saturating_sub(count);
            if *taken.get() == 0 {
                taken.remove();
            }
        }
    }

    fn queue(&mut self, waiting: Waiting) {
        let peer = waiting.share.map(|share| share.peer);
        match self.waiting.iter_mut().find(|(other, _)| *other == peer) {
            Some((_, queue)) => {
                forget_closed(queue);
                queue.push_back(waiting);
            }
            None => self.waiting.push_back((peer, VecDeque::from([waiting]))),
        }
    }

    /// Takes places for those who wait, and returns who got theirs. Peers that have their share are passed over; all wait
    /// for one that there is not enough for, so that those who want much are served, too.
    fn serve(&mut self) -> Vec<Waiting> {
        let mut served = Vec::new();
        let mut passed = 0;
        while passed < self.waiting.len() {
            let Some((peer, mut queue)) = self.waiting.pop_front() else { break };
            forget_closed(&mut queue);
            let Some(Waiting { count, most, share, .. }) = queue.front() else { continue };
            match self.add(*count, *most, *share) {
                Ok(()) => {
                    served.extend(queue.pop_front());
                    passed = 0;
                }
                Err(Full::OfPeer(_)) => passed += 1,
                Err(Full::All(_)) => {
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

/// Of those who wait no more, the first came first.
fn forget_closed(queue: &mut VecDeque<Waiting>) {
    while queue.pop_front_if(|waiting| waiting.tell.is_closed()).is_some() {}
}

// === impl Place ===

impl Place {
    /// Has `count` from now on. It gives some back, or takes more, if its peer then has no more than `share` of `most`.
    pub fn resize(&mut self, count: usize, most: usize, share: usize) -> Result<(), Full> {
        if let Some(less) = self.count.checked_sub(count) {
            self.give_back(less);
            return Ok(());
        }
        let share = self.peer.map(|peer| Share { peer, most: share });
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

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back(self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    fn share(ip: &str, most: usize) -> Option<Share> {
        Some(Share { peer: PeerId::Ip(ip.parse().unwrap()), most })
    }

    fn is_empty(places: &Places) -> bool {
        let state = places.lock();
        state.all == 0 && state.by_peer.is_empty() && state.waiting.is_empty()
    }

    #[test]
    fn peers_that_have_their_shares_leave_a_fourth_to_those_that_have_little() {
        let places = Arc::new(Places::default());
        let greedy: Vec<_> = (0..5).map(|nth| share(&format!("10.0.0.{nth}"), 16)).collect();
        let mut held = Vec::new();
        for _ in 0..16 {
            held.extend(greedy.iter().filter_map(|share| places.take(64, *share).ok()));
        }
        assert_eq!(places.taken(), 48);
        let modest = share("10.0.1.1", 16);
        held.extend([places.take(64, modest).unwrap(), places.take(64, modest).unwrap()]);
        assert_eq!(places.take(64, modest).unwrap_err(), Full::OfPeer(2));
        assert_eq!(places.greedy(LONG).len(), 6, "all of them are named");
    }

    #[test]
    fn a_peer_that_has_its_share_leaves_places_to_others() {
        let places = Arc::new(Places::default());
        let (one, other) = (share("10.0.0.1", 2), share("10.0.0.2", 2));
        let take = |share| places.take(3, share);
        let first = take(one).unwrap();
        let second = take(one).unwrap();
        assert_eq!(take(one).unwrap_err(), Full::OfPeer(2));
        let third = take(other).unwrap();
        assert_eq!(take(None).unwrap_err(), Full::All(3));
        drop(first);
        assert_eq!(places.taken(), 2);
        assert!(take(one).is_ok());
        drop((second, third));
        assert!(is_empty(&places), "nothing is kept of those that are gone");
    }

    #[test]
    fn what_is_taken_grows_and_shrinks_within_a_share() {
        let places = Arc::new(Places::default());
        let mut place = places.take_many(4, 10, share("10.0.0.1", 6)).unwrap();
        assert_eq!(place.resize(7, 10, 6), Err(Full::OfPeer(6)));
        assert_eq!(place.resize(6, 5, 6), Err(Full::All(5)));
        place.resize(6, 10, 6).unwrap();
        assert_eq!((places.taken(), place.count), (6, 6));
        place.resize(1, 10, 6).unwrap();
        assert_eq!(places.taken(), 1);
        drop(place);
        assert!(is_empty(&places));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_peer_is_served_before_the_second_of_one_that_came_earlier() {
        let places = Arc::new(Places::default());
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
    async fn one_that_waits_in_vain_hears_why_and_leaves_nothing() {
        let places = Arc::new(Places::default());
        let one = share("10.0.0.1", 1);
        let held = places.take(2, one).unwrap();
        assert_eq!(places.wait(1, 2, one, LONG).await.unwrap_err(), Full::OfPeer(1));
        let other = places.wait(1, 2, share("10.0.0.2", 1), LONG).await.unwrap();
        assert_eq!(places.wait(1, 2, share("10.0.0.3", 1), LONG).await.unwrap_err(), Full::All(2));
        drop((held, other));
        assert!(is_empty(&places));
    }
}
