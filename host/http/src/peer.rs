//! The other end of a connection.

use dropsonde_engine::places::{PeerId, Share};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Who is connected. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(super) address: Address,
    /// The subject of the certificate it showed.
    pub(super) certificate: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Address {
    Tcp(SocketAddr),
    /// A process of this machine, of a user the kernel tells.
    Unix {
        uid: Option<u32>,
    },
}

impl Peer {
    /// Of a request that came by no connection: as any stranger.
    pub(super) fn unknown() -> Self {
        Self { address: Address::Tcp((Ipv6Addr::UNSPECIFIED, 0).into()), certificate: None }
    }

    /// Whether it came by a socket in the file system.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.address, Address::Unix { .. })
    }

    /// Whom it is counted as.
    pub(crate) fn id(&self) -> PeerId {
        self.address.id()
    }

    /// Returns how many of `all` of something it may have; none if it may have all of them. The operator chose `chosen`, which
    /// are more where something else limits them, too.
    pub(crate) fn share(&self, configured: Option<usize>, all: usize, chosen: usize) -> Option<Share> {
        self.address.share(configured, all, chosen)
    }
}

impl Address {
    /// Whom it is counted as: an address of IPv4, or a /64 of IPv6, which is what one subscriber is given; and all who use a
    /// socket in the file system as one.
    pub(super) fn id(self) -> PeerId {
        let Self::Tcp(address) = self else { return PeerId::Unix };
        match address.ip().to_canonical() {
            ip @ IpAddr::V4(_) => PeerId::Ip(ip),
            IpAddr::V6(ip) => PeerId::Ip(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into()),
        }
    }

    /// Returns the same.
    pub(super) fn share(self, configured: Option<usize>, all: usize, chosen: usize) -> Option<Share> {
        /// Another machine may have so many where nothing is configured: enough for the browsers behind one address. This
        /// machine may have three quarters of all if that is more.
        const USUAL: usize = 1000;
        // The configuration bounds addresses, not the Unix socket.
        let (is_own, configured) = match self {
            Self::Tcp(address) => (address.ip().to_canonical().is_loopback(), configured),
            Self::Unix { .. } => (true, None),
        };
        let most = match configured {
            Some(most) => Some(most),
            // The operator chose how few there are, and not that there is anyone else.
            None if is_own && all == chosen && all - all / 4 < USUAL => None,
            None if is_own => Some((all - all / 4).max(USUAL)),
            None => Some(USUAL),
        };
        Some(Share { peer: self.id(), most: most? })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { uid: Some(uid) } => write!(f, "unix:uid={uid}"),
            Self::Unix { uid: None } => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(text: &str, configured: Option<usize>) -> Option<(PeerId, usize)> {
        let share = Address::Tcp(text.parse().unwrap()).share(configured, 20_000, 20_000);
        share.map(|share| (share.peer, share.most))
    }

    #[test]
    fn a_peer_is_an_address_or_the_network_one_subscriber_has() {
        let peer = |text| share(text, Some(1)).unwrap().0;
        assert_eq!(peer("10.0.0.1:1"), peer("10.0.0.1:2"));
        assert_eq!(peer("10.0.0.1:1"), peer("[::ffff:10.0.0.1]:1"));
        assert_eq!(peer("[2001:db8::1]:1"), peer("[2001:db8::2:0:0:9]:1"));
        assert_ne!(peer("[2001:db8::1]:1"), peer("[2001:db8:0:1::1]:1"));
    }

    #[test]
    fn this_machine_has_more_than_others_where_nothing_is_said_and_not_all() {
        assert_eq!(share("10.0.0.1:1", None).unwrap().1, 1000);
        let own = |text| share(text, None).unwrap().1;
        assert_eq!((own("127.0.0.1:1"), own("[::1]:1")), (15_000, 15_000));
        let unix = Address::Unix { uid: None };
        assert_eq!(unix.share(Some(3), 20_000, 20_000).unwrap().most, 15_000);
        assert!(unix.share(None, 100, 100).is_none(), "of a few it may have all");
        assert!(unix.share(None, 100, 20_000).is_some(), "not if nobody chose that there are few");
        assert_eq!(share("127.0.0.1:1", Some(3)).unwrap().1, 3);
    }
}
