//! How many there may be of something, in all and of one peer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places that are taken.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_peer: HashMap<IpAddr, usize>,
}

/// One of them. Free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    peer: Option<IpAddr>,
}

/// What one peer may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub(crate) peer: IpAddr,
    pub(crate) most: usize,
}

/// Why there is none: so many are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    All(usize),
    OfPeer(usize),
}

impl Places {
    /// One of `most`, if its peer has less than its share.
    pub(crate) fn take(self: &Arc<Self>, most: usize, share: Option<Share>) -> Result<Place, Full> {
        let mut taken = self.lock();
        if taken.all >= most {
            return Err(Full::All(most));
        }
        if let Some(Share { peer, most }) = share {
            let count = taken.by_peer.get(&peer).copied().unwrap_or_default();
            if count >= most {
                return Err(Full::OfPeer(most));
            }
            taken.by_peer.insert(peer, count + 1);
        }
        taken.all += 1;
        Ok(Place { places: self.clone(), peer: share.map(|share| share.peer) })
    }

    pub(crate) fn taken(&self) -> usize {
        self.lock().all
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        if let Some(Entry::Occupied(mut count)) = self.peer.map(|peer| taken.by_peer.entry(peer)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_has_its_share_leaves_places_to_others() {
        let places = Arc::new(Places::default());
        let share = |ip: &str| Some(Share { peer: ip.parse().unwrap(), most: 2 });
        let take = |share| places.take(3, share);
        let (one, other) = (share("10.0.0.1"), share("10.0.0.2"));
        let first = take(one).unwrap();
        let second = take(one).unwrap();
        assert_eq!(take(one).unwrap_err(), Full::OfPeer(2));
        let third = take(other).unwrap();
        assert_eq!(take(None).unwrap_err(), Full::All(3));
        drop(first);
        assert_eq!(places.taken(), 2);
        assert!(take(one).is_ok());
        drop((second, third));
        assert!(places.lock().by_peer.is_empty(), "nothing is kept of those that are gone");
    }
}
