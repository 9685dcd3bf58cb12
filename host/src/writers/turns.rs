//! Whose turn it is to be written to: peers take turns, and so do the readers of each.

use crate::hub::MOST_UNREAD;
use crate::places::PeerId;
use std::collections::{HashMap, VecDeque};

/// Readers that wait for their turn, by peer.
#[derive(Debug, Default)]
pub(super) struct Turns {
    peers: HashMap<Option<PeerId>, Peer>,
    /// Those with readers that wait, in the order of their turns.
    waiting: VecDeque<Option<PeerId>>,
}

#[derive(Debug, Default)]
struct Peer {
    readers: usize,
    /// By token and serial number. Some may have left.
    ready: VecDeque<(usize, u64)>,
    /// Readers that take nothing.
    blocked: usize,
    /// How often one of its readers lost something, since it was last asked.
    lost: usize,
}

impl Turns {
    pub(super) fn join(&mut self, peer: Option<PeerId>) {
        self.peers.entry(peer).or_default().readers += 1;
    }

    pub(super) fn leave(&mut self, peer: Option<PeerId>) {
        if let Some(own) = self.peers.get_mut(&peer) {
            own.readers = own.readers.saturating_sub(1);
            if own.readers == 0 {
                self.peers.remove(&peer);
            }
        }
    }

    /// A reader waits for its turn.
    pub(super) fn queue(&mut self, peer: Option<PeerId>, token: usize, serial: u64) {
        let Some(own) = self.peers.get_mut(&peer) else { return };
        if own.ready.is_empty() {
            self.waiting.push_back(peer);
        }
        own.ready.push_back((token, serial));
    }

    /// Returns whose turn it is. The next is another peer's, if another has readers that wait.
    pub(super) fn next(&mut self) -> Option<(usize, u64)> {
        loop {
            let peer = self.waiting.pop_front()?;
            let Some(own) = self.peers.get_mut(&peer) else { continue };
            let next = own.ready.pop_front();
            if !own.ready.is_empty() {
                self.waiting.push_back(peer);
            } else if own.ready.capacity() > MOST_UNREAD {
                own.ready.shrink_to(MOST_UNREAD);
            }
            if next.is_some() {
                return next;
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// One reader more of a peer takes nothing, or one fewer.
    pub(super) fn block(&mut self, peer: Option<PeerId>, is_blocked: bool) {
        if let Some(own) = self.peers.get_mut(&peer) {
            own.blocked = if is_blocked { own.blocked + 1 } else { own.blocked.saturating_sub(1) };
        }
    }

    /// A reader of a peer lost something.
    pub(super) fn lost(&mut self, peer: Option<PeerId>) {
        if let Some(own) = self.peers.get_mut(&peer) {
            own.lost += 1;
        }
    }

    /// Returns peers with many streams that are not read, or not as fast as something comes.
    pub(super) fn take_unread(&mut self) -> Vec<PeerId> {
        let unread = self.peers.iter_mut().filter_map(|(peer, own)| {
            let lost = std::mem::take(&mut own.lost);
            peer.filter(|_| own.blocked.max(lost) > MOST_UNREAD)
        });
        unread.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_peer_with_one_reader_has_as_many_turns_as_one_with_many() {
        let mut turns = Turns::default();
        let [greedy, modest] = [1, 2].map(|bits| Some(PeerId::Ip(Ipv4Addr::from_bits(bits).into())));
        (0..100).for_each(|_| turns.join(greedy));
        turns.join(modest);
        (0..100).for_each(|token| turns.queue(greedy, token, 0));
        turns.queue(modest, 100, 0);
        let order: Vec<_> = std::iter::from_fn(|| turns.next()).map(|(token, _)| token).collect();
        assert_eq!((&order[..3], order.len()), (&[0, 100, 1][..], 101));
        assert!(turns.is_empty());
    }

    #[test]
    fn a_peer_is_named_while_it_reads_few_of_its_streams() {
        let mut turns = Turns::default();
        let peer = Some(PeerId::Unix);
        (0..=MOST_UNREAD).for_each(|_| turns.join(peer));
        (0..MOST_UNREAD).for_each(|_| turns.block(peer, true));
        assert_eq!(turns.take_unread(), []);
        turns.block(peer, true);
        assert_eq!((turns.take_unread(), turns.take_unread()), (vec![PeerId::Unix], vec![PeerId::Unix]));
        turns.block(peer, false);
        assert_eq!(turns.take_unread(), []);
        (0..=MOST_UNREAD).for_each(|_| turns.lost(peer));
        assert_eq!((turns.take_unread(), turns.take_unread()), (vec![PeerId::Unix], vec![]));
    }
}
