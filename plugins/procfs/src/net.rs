//! Parses /proc/net/dev and reads /sys/class/net: the bytes that entered and left this machine.

use crate::sysfs::{Folder, Known};
use dropsonde_guest::files;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const DEV: &str = "/proc/net/dev";

/// The files in /sys to read, as globs. /sys/class/net has symlinks to the real places of devices.
pub(crate) const NEEDED: [&str; 6] = [
    "/sys/class/net/*",
    "/sys/class/net/*/uevent",
    "/sys/class/net/*/master",
    "/sys/class/net/*/master/uevent",
    "/sys/devices/**/net/*",
    "/sys/devices/**/net/*/uevent",
];

/// Prefixes of the names that the kernel, drivers and distributions give to network cards.
const CARDS: [&str; 16] =
    ["eth", "en", "em", "wl", "ww", "wan", "lan", "usb", "ib", "sfp", "ath", "ra", "mlan", "rmnet", "bnep", "venet"];

/// Prefixes of interfaces whose packets also pass another interface: container ends, bridges, tunnels, VLANs, the
/// masters of bonded links (their slaves are counted). Also dummies, which lead nowhere.
const DOUBLES: [&str; 42] = [
    "lo",
    "veth",
    "docker",
    "podman",
    "br-",
    "virbr",
    "vmbr",
    "lxdbr",
    "lxcbr",
    "incusbr",
    "fwbr",
    "fwpr",
    "fwln",
    "vnet",
    "tap",
    "tun",
    "utun",
    "wg",
    "ppp",
    "tailscale",
    "zt",
    "ipsec",
    "gre",
    "sit",
    "tunl",
    "ip6tnl",
    "vxlan",
    "geneve",
    "cni",
    "flannel",
    "cali",
    "bond",
    "team",
    "vlan",
    "ifb",
    "dummy",
    "ovs",
    "macv",
    "ipvl",
    "vif",
    "hassio",
    "nlmon",
];

/// `DEVTYPE` of interfaces without hardware that do not lead out of the machine by themselves.
const STACKED: [&str; 15] = [
    "bridge",
    "bond",
    "team",
    "ppp",
    "wireguard",
    "vxlan",
    "geneve",
    "gre",
    "gretap",
    "vti",
    "ip6gre",
    "macsec",
    "bareudp",
    "ifb",
    "dummy",
];

/// Bytes since boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// The properties of an interface in /sys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Link {
    folder: Folder,
    /// `DEVTYPE` in `uevent`; empty for a plain card.
    devtype: String,
    /// The interface that it is a port of, if `upper_*` does not name it.
    master: Option<String>,
}

/// Parses the interfaces of a machine; `None` if the text names none.
pub(crate) fn parse(text: &str) -> Option<BTreeMap<&str, Traffic>> {
    let interfaces: BTreeMap<_, _> = text.lines().filter_map(interface).collect();
    (!interfaces.is_empty()).then_some(interfaces)
}

/// Parses one line: the name, a colon that may touch the first number, 8 columns received, 8 columns sent.
fn interface(line: &str) -> Option<(&str, Traffic)> {
    let (name, columns) = line.rsplit_once(':')?;
    let mut columns = columns.split_whitespace().map(str::parse);
    let received = columns.next()?.ok()?;
    let sent = columns.nth(7)?.ok()?;
    Some((name.trim(), Traffic { received, sent }))
}

/// Reads the properties of one interface from /sys.
pub(crate) fn ask(name: &str) -> Option<Link> {
    let path = format!("/sys/class/net/{name}");
    let folder = Folder::list(&path)?;
    let uevent = |path: &str| files::read_to_string(path).unwrap_or_default();
    let devtype = value(&uevent(&format!("{path}/uevent")), "DEVTYPE").unwrap_or_default();
    // The master is read only if no `upper_*` names it. It is a symlink to the master's folder; in a recording it may
    // be a file.
    let is_silent = folder.has("master") && folder.with_prefix("upper_").is_empty();
    let master = || {
        let in_folder = value(&uevent(&format!("{path}/master/uevent")), "INTERFACE");
        let in_file = || Some(uevent(&format!("{path}/master")).trim().rsplit('/').next()?.to_owned());
        in_folder.or_else(in_file)
    };
    let master = is_silent.then(master).flatten();
    Some(Link { folder, devtype, master })
}

/// Returns the value of a line like `DEVTYPE=bridge`.
fn value(uevent: &str, key: &str) -> Option<String> {
    uevent.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.trim().to_owned()))
}

/// Returns the interfaces to count, so that each packet that enters or leaves the machine is counted once.
///
/// With /sys, a card is an interface that has a `device`; an interface that runs over a card has none. If one card is
/// above another (a switch chip and its ports, a virtual function and its synthetic twin), the upper one counts. In a
/// container no interface has a device; then those count that nothing runs over. Without /sys the name decides.
pub(crate) fn leading_out<'a>(names: &BTreeSet<&'a str>, known: &Known<Link>) -> BTreeSet<&'a str> {
    let (seen, unseen): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| known.get(name).is_some());
    let above = uppers(known);
    let is_card = |name: &str| known.get(name).is_some_and(Link::is_card) && !is_backend(name);
    let has_card_above = |name: &str| above.get(name).is_some_and(|uppers| uppers.iter().any(|upper| is_card(upper)));
    let has_switch_ports = known.iter().any(|(_, link)| link.devtype == "dsa");
    let is_switch = |name: &str| has_switch_ports && known.get(name).is_some_and(|link| link.folder.has("dsa"));
    let cards: BTreeSet<&str> =
        seen.iter().copied().filter(|name| is_card(name) && !has_card_above(name) && !is_switch(name)).collect();
    let by_name = by_name(&unseen);
    if !(cards.is_empty() && by_name.is_empty()) {
        return cards.into_iter().chain(by_name).collect();
    }
    let link = |name: &str| known.get(name).filter(|_| name != "lo");
    let is_plain = |name: &str| link(name).is_some_and(Link::is_plain) && !is_double(name);
    let plain: BTreeSet<&str> = seen.iter().copied().filter(|name| is_plain(name)).collect();
    if !plain.is_empty() {
        return plain;
    }
    // A network namespace from which only a tunnel leads out.
    seen.into_iter().filter(|name| link(name).is_some_and(|link| !link.is_over_others())).collect()
}

/// Returns the interfaces above each interface, as named by either of the two.
fn uppers(known: &Known<Link>) -> BTreeMap<String, BTreeSet<String>> {
    let mut above: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, link) in known.iter() {
        let own = above.entry(name.to_owned()).or_default();
        own.extend(link.folder.with_prefix("upper_"));
        own.extend(link.master.clone());
        for lower in link.folder.with_prefix("lower_") {
            above.entry(lower).or_default().insert(name.to_owned());
        }
    }
    above
}

/// Chooses interfaces by name, without /sys: those with the name of a card, or else all that are not known to be
/// something else.
fn by_name<'a>(names: &[&'a str]) -> BTreeSet<&'a str> {
    // eth0.100 is a VLAN on eth0, and eth0:1 is another address of eth0.
    let is_named_so = |name: &str| CARDS.iter().any(|card| name.starts_with(card)) || is_numbered(name, "p");
    let is_card = |name: &&str| is_named_so(name) && !name.contains(['.', ':']);
    // Ports of a switch chip that is connected to eth0.
    let has_ports = names.iter().any(|name| is_numbered(name, "lan"));
    let cards: BTreeSet<&str> =
        names.iter().copied().filter(|name| is_card(name) && !(has_ports && *name == "eth0")).collect();
    if !cards.is_empty() {
        return cards;
    }
    names.iter().copied().filter(|name| !is_double(name) && !name.contains(['.', ':'])).collect()
}

fn is_double(name: &str) -> bool {
    DOUBLES.iter().any(|prefix| name.starts_with(prefix)) || is_numbered(name, "br")
}

fn is_numbered(name: &str, what: &str) -> bool {
    name.strip_prefix(what).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Returns whether this is the host's end of a virtual machine's card in Xen. It has a `device`, but that is the guest.
fn is_backend(name: &str) -> bool {
    name.strip_prefix("vif")
        .and_then(|rest| rest.split_once('.'))
        .is_some_and(|(domain, _)| domain.parse::<u32>().is_ok())
}

// === impl Link ===

impl Link {
    /// Returns whether the interface has hardware. Ports of a switch and radios are also recognized by their type.
    fn is_card(&self) -> bool {
        self.folder.has("device") || matches!(self.devtype.as_str(), "dsa" | "wlan" | "wwan")
    }

    /// Returns whether the interface stands alone: it is not a port of another interface, and does not run over others.
    fn is_plain(&self) -> bool {
        !self.is_over_others() && !self.folder.has("tun_flags") && !STACKED.contains(&self.devtype.as_str())
    }

    fn is_over_others(&self) -> bool {
        let is_port = self.folder.has("master") || self.folder.has("brport");
        let is_master = self.folder.has("bridge") || self.folder.has("bonding");
        is_port || is_master || !self.folder.with_prefix("lower_").is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named<'a>(names: &[&'a str]) -> Vec<&'a str> {
        leading_out(&names.iter().copied().collect(), &Known::default()).into_iter().collect()
    }

    fn link(names: &[&str], devtype: &str) -> Link {
        Link { folder: Folder::of(names), devtype: devtype.to_owned(), master: None }
    }

    fn seen<'a>(links: &[(&'a str, Link)]) -> Vec<&'a str> {
        let names: BTreeSet<&str> = links.iter().map(|(name, _)| *name).collect();
        let mut known = Known::default();
        known.refresh(&names, |name| links.iter().find(|(other, _)| *other == name).map(|(_, link)| link.clone()));
        leading_out(&names, &known).into_iter().collect()
    }

    #[test]
    fn an_old_kernel_glues_the_colon_to_the_number() {
        let interfaces = parse(include_str!("../testdata/net-dev-glued")).unwrap();
        assert_eq!(interfaces["eth0"], Traffic { received: 3_456_922_112, sent: 1_204_583_112 });
    }

    #[test]
    fn text_without_interfaces_gives_nothing() {
        for text in ["", "Inter-| Receive\n face |bytes\n", "eth0:\n", "eth0: 1 2 3\n", "eth0: x 0 0 0 0 0 0 0 1\n"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn by_name_cards_count_and_neither_bridges_tunnels_nor_container_ends() {
        let interfaces = parse(include_str!("../testdata/net-dev-containers")).unwrap();
        assert_eq!(named(&interfaces.into_keys().collect::<Vec<_>>()), ["eth0", "wlan0"]);
        assert_eq!(named(&["lo", "hassio", "enp5s0", "vmbr0", "tap101i0", "eth0.100"]), ["enp5s0"]);
        assert_eq!(named(&["lo", "eth0", "wan", "lan1", "lan2", "pppoe-wan", "br-lan"]), ["lan1", "lan2", "wan"]);
        assert_eq!(named(&["lo", "p1p1", "wlan0", "br0"]), ["p1p1", "wlan0"]);
        assert_eq!(named(&["lo"]), [""; 0]);
        assert_eq!(named(&["lo", "myuplink", "docker0", "br0", "tun0"]), ["myuplink"], "a name nobody knows");
    }

    #[test]
    fn cards_count_and_what_runs_over_them_does_not_whatever_it_is_called() {
        let proxmox = [
            ("lo", link(&["uevent"], "")),
            ("enp5s0", link(&["device", "master", "upper_vmbr0"], "")),
            ("vmbr0", link(&["bridge", "lower_enp5s0"], "bridge")),
            ("eth7", link(&["tun_flags", "master"], "")),
            ("hassio", link(&["bridge"], "bridge")),
            ("wg0", link(&[], "wireguard")),
            ("lan.100", link(&["lower_enp5s0"], "vlan")),
            ("bond0", link(&["bonding", "lower_wlan0"], "bond")),
            ("wlan0", link(&["device", "wireless", "master"], "wlan")),
        ];
        assert_eq!(seen(&proxmox), ["enp5s0", "wlan0"]);
    }

    #[test]
    fn a_switch_counts_at_its_ports_not_at_the_chip() {
        let router = [
            ("eth0", link(&["device", "dsa", "upper_lan1", "upper_wan"], "")),
            ("lan1", link(&["device", "lower_eth0", "master"], "dsa")),
            ("wan", link(&["device", "lower_eth0"], "dsa")),
            ("br-lan", link(&["bridge", "lower_lan1"], "bridge")),
            ("pppoe-wan", link(&[], "ppp")),
        ];
        assert_eq!(seen(&router), ["lan1", "wan"]);
        let old = [("eth0", link(&["device", "dsa"], "")), ("lan1", link(&["device"], "dsa"))];
        assert_eq!(seen(&old), ["lan1"], "a kernel without upper_*");
    }

    #[test]
    fn a_virtual_function_under_its_synthetic_twin_counts_once() {
        let azure = [
            ("eth0", link(&["device", "lower_enP1s1"], "")),
            ("enP1s1", link(&["device", "master", "upper_eth0"], "")),
        ];
        assert_eq!(seen(&azure), ["eth0"]);
        let silent = Link { master: Some("eth0".to_owned()), ..link(&["device", "master"], "") };
        assert_eq!(seen(&[("eth0", link(&["device"], "")), ("enP1s1", silent)]), ["eth0"]);
    }

    #[test]
    fn a_guests_card_in_xen_is_no_card_of_the_machine() {
        let xen = [
            ("eth0", link(&["device", "master"], "")),
            ("vif1.0", link(&["device", "master"], "")),
            ("xenbr0", link(&["bridge"], "bridge")),
        ];
        assert_eq!(seen(&xen), ["eth0"]);
    }

    #[test]
    fn in_a_container_the_end_without_a_device_leads_out() {
        let docker = [
            ("lo", link(&[], "")),
            ("eth0", link(&["iflink"], "")),
            ("docker0", link(&["bridge"], "bridge")),
            ("veth1", link(&["master", "brport"], "")),
            ("tun0", link(&["tun_flags"], "")),
        ];
        assert_eq!(seen(&docker), ["eth0"]);
        assert_eq!(seen(&[("lo", link(&[], "")), ("wg0", link(&[], "wireguard"))]), ["wg0"], "nothing else leads out");
    }

    #[test]
    fn what_sysfs_does_not_have_is_judged_by_its_name() {
        let names = BTreeSet::from(["eth0", "eth1", "docker0"]);
        let mut known = Known::default();
        known.refresh(&names, |name| (name == "eth0").then(|| link(&["device"], "")));
        assert_eq!(leading_out(&names, &known).into_iter().collect::<Vec<_>>(), ["eth0", "eth1"]);
    }
}
