//! The client at the other end of a connection.

use dropsonde_engine::quota::{ClientId, ClientShare};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// A connected client. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(super) address: PeerAddress,
    /// The subject of the certificate that the client showed.
    pub(super) certificate: Option<Arc<str>>,
}

/// The address of a client.
#[derive(Debug, Clone, Copy)]
pub(super) enum PeerAddress {
    Tcp(SocketAddr),
    /// A process of this machine. The kernel names its user.
    Unix {
        uid: Option<u32>,
    },
}

impl Peer {
    /// Returns the client of a request without a connection: a stranger.
    pub(super) fn unknown() -> Self {
        Self { address: PeerAddress::Tcp((Ipv6Addr::UNSPECIFIED, 0).into()), certificate: None }
    }

    /// Returns whether the client uses the Unix socket.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.address, PeerAddress::Unix { .. })
    }

    /// Returns the identity that limits count.
    pub(crate) fn id(&self) -> ClientId {
        self.address.id()
    }

    /// Returns the client's share of a pool of `all` places; none if the client may have all of them. `configured` is
    /// the limit of one client in the configuration. `chosen` is the configured size of the pool, which is larger than
    /// `all` if something else limits the pool, too.
    pub(crate) fn share(&self, configured: Option<usize>, all: usize, chosen: usize) -> Option<ClientShare> {
        self.address.share(configured, all, chosen)
    }
}

impl PeerAddress {
    /// Returns the identity that limits count: an IPv4 address, or an IPv6 /64, which is what one subscriber gets. All
    /// clients of the Unix socket count as one.
    pub(super) fn id(self) -> ClientId {
        let Self::Tcp(address) = self else { return ClientId::Unix };
        match address.ip().to_canonical() {
            ip @ IpAddr::V4(_) => ClientId::Ip(ip),
            IpAddr::V6(ip) => ClientId::Ip(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into()),
        }
    }

    /// Returns the client's share of a pool, as [`Peer::share`] does.
    pub(super) fn share(self, configured: Option<usize>, all: usize, chosen: usize) -> Option<ClientShare> {
        /// The share of another machine if none is configured: enough for the browsers behind one address. This
        /// machine's share is three quarters of the pool, if that is more.
        const USUAL: usize = 1000;
        // The configuration limits addresses, not the Unix socket.
        let (is_own, configured) = match self {
            Self::Tcp(address) => (address.ip().to_canonical().is_loopback(), configured),
            Self::Unix { .. } => (true, None),
        };
        let most = match configured {
            Some(most) => Some(most),
            // The operator chose a small pool, and no limit for one client: local clients may have all of it.
            None if is_own && all == chosen && all - all / 4 < USUAL => None,
            None if is_own => Some((all - all / 4).max(USUAL)),
            None => Some(USUAL),
        };
        Some(ClientShare { peer: self.id(), most: most? })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl fmt::Display for PeerAddress {
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

    fn share(text: &str, configured: Option<usize>) -> Option<(ClientId, usize)> {
        let share = PeerAddress::Tcp(text.parse().unwrap()).share(configured, 20_000, 20_000);
        share.map(|share| (share.peer, share.most))
    }

    #[test]
    fn addresses_of_one_ipv6_64_network_count_as_one_client() {
        let peer = |text| share(text, Some(1)).unwrap().0;
        assert_eq!(peer("10.0.0.1:1"), peer("10.0.0.1:2"));
        assert_eq!(peer("10.0.0.1:1"), peer("[::ffff:10.0.0.1]:1"));
        assert_eq!(peer("[2001:db8::1]:1"), peer("[2001:db8::2:0:0:9]:1"));
        assert_ne!(peer("[2001:db8::1]:1"), peer("[2001:db8:0:1::1]:1"));
    }

    #[test]
    fn without_a_configured_limit_local_clients_get_three_quarters_of_the_connections() {
        assert_eq!(share("10.0.0.1:1", None).unwrap().1, 1000);
        let own = |text| share(text, None).unwrap().1;
        assert_eq!((own("127.0.0.1:1"), own("[::1]:1")), (15_000, 15_000));
        let unix = PeerAddress::Unix { uid: None };
        assert_eq!(unix.share(Some(3), 20_000, 20_000).unwrap().most, 15_000);
        assert!(unix.share(None, 100, 100).is_none(), "of a few it may have all");
        assert!(unix.share(None, 100, 20_000).is_some(), "not if nobody chose that there are few");
        assert_eq!(share("127.0.0.1:1", Some(3)).unwrap().1, 3);
    }
}
