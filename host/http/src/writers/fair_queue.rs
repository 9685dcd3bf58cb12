//! The order of writes: clients take turns, and so do the readers of each client.

use dropsonde_engine::hub::{AwakeBodies, MOST_UNREAD};
use dropsonde_engine::quota::ClientId;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// An owner of turns. A client has turns for its own sockets, and others for streams that the HTTP server carries, as
/// those may have to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TurnOwner {
    pub(super) peer: Option<ClientId>,
    pub(super) is_carried: bool,
}

/// Readers that wait for their turn, by client.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    clients: HashMap<TurnOwner, OwnerQueue>,
    /// Clients with waiting readers, in the order of their turns.
    waiting: VecDeque<TurnOwner>,
}

#[derive(Debug, Default)]
struct OwnerQueue {
    readers: usize,
    /// Waiting readers, by token and serial number. Some may have left.
    ready: VecDeque<(usize, u64)>,
    /// The number of readers that take nothing.
    blocked: usize,
    /// How often its readers have lost events since the last `take_unread`.
    lost: usize,
    /// Response bodies that were woken.
    awake: Arc<AwakeBodies>,
    /// Whether it has waiting readers, but no turn until fewer of its bodies are awake.
    is_held: bool,
}

impl FairQueue {
    /// Adds a reader of a client. Returns the client's bodies that were woken.
    pub(super) fn join(&mut self, client: TurnOwner) -> Arc<AwakeBodies> {
        let own = self.clients.entry(client).or_default();
        own.readers += 1;
        own.awake.clone()
    }

    pub(super) fn leave(&mut self, client: TurnOwner) {
        if let Some(own) = self.clients.get_mut(&client) {
            own.readers = own.readers.saturating_sub(1);
            if own.readers == 0 {
                self.clients.remove(&client);
            }
        }
    }

    /// Has a reader wait for its turn.
    pub(super) fn queue(&mut self, client: TurnOwner, token: usize, serial: u64) {
        let Some(own) = self.clients.get_mut(&client) else { return };
        if own.ready.is_empty() {
            self.waiting.push_back(client);
        }
        own.ready.push_back((token, serial));
    }

    /// Gives a client its turns again, if it had to wait for its bodies.
    pub(super) fn resume(&mut self, client: TurnOwner) {
        if let Some(own) = self.clients.get_mut(&client)
            && std::mem::take(&mut own.is_held)
        {
            self.waiting.push_back(client);
        }
    }

    /// Returns the reader whose turn it is. The next turn is another client's, if another has waiting readers.
    pub(super) fn next(&mut self) -> Option<(usize, u64)> {
        loop {
            let client = self.waiting.pop_front()?;
            let Some(own) = self.clients.get_mut(&client) else { continue };
            if own.awake.is_full() {
                own.is_held = true;
                continue;
            }
            let next = own.ready.pop_front();
            if !own.ready.is_empty() {
                self.waiting.push_back(client);
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

    /// Counts one more reader of a client that takes nothing, or one fewer.
    pub(super) fn block(&mut self, client: TurnOwner, is_blocked: bool) {
        if let Some(own) = self.clients.get_mut(&client) {
            own.blocked = if is_blocked { own.blocked + 1 } else { own.blocked.saturating_sub(1) };
        }
    }

    /// Counts that a reader of a client has lost events.
    pub(super) fn lost(&mut self, client: TurnOwner) {
        if let Some(own) = self.clients.get_mut(&client) {
            own.lost += 1;
        }
    }

    /// Returns the clients with many streams that are not read, or not as fast as events come.
    pub(super) fn take_unread(&mut self) -> Vec<ClientId> {
        let mut unread = HashMap::new();
        for (client, own) in &mut self.clients {
            let count = own.blocked.max(std::mem::take(&mut own.lost));
            if let Some(peer) = client.peer.filter(|_| count > 0) {
                *unread.entry(peer).or_insert(0) += count;
            }
        }
        unread.into_iter().filter(|(_, count)| *count > MOST_UNREAD).map(|(peer, _)| peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn a_client_with_one_reader_gets_as_many_turns_as_one_with_many() {
        let mut turns = FairQueue::default();
        let peers = [1, 2].map(|bits| Some(ClientId::Ip(Ipv4Addr::from_bits(bits).into())));
        let [greedy, modest] = peers.map(|peer| TurnOwner { peer, is_carried: false });
        (0..100).for_each(|_| drop(turns.join(greedy)));
        turns.join(modest);
        (0..100).for_each(|token| turns.queue(greedy, token, 0));
        turns.queue(modest, 100, 0);
        let order: Vec<_> = std::iter::from_fn(|| turns.next()).map(|(token, _)| token).collect();
        assert_eq!((&order[..3], order.len()), (&[0, 100, 1][..], 101));
        assert!(turns.is_empty());
    }

    #[test]
    fn a_client_is_reported_as_unread_while_too_many_of_its_streams_are_blocked_or_lose_events() {
        let mut turns = FairQueue::default();
        let [peer, carried] = [false, true].map(|is_carried| TurnOwner { peer: Some(ClientId::Unix), is_carried });
        (0..=MOST_UNREAD).for_each(|_| drop(turns.join(peer)));
        turns.join(carried);
        (1..MOST_UNREAD).for_each(|_| turns.block(peer, true));
        turns.block(carried, true);
        assert_eq!(turns.take_unread(), []);
        turns.block(peer, true);
        assert_eq!((turns.take_unread(), turns.take_unread()), (vec![ClientId::Unix], vec![ClientId::Unix]));
        turns.block(peer, false);
        assert_eq!(turns.take_unread(), []);
        (0..=MOST_UNREAD).for_each(|_| turns.lost(peer));
        assert_eq!((turns.take_unread(), turns.take_unread()), (vec![ClientId::Unix], vec![]));
    }
}
