//! /proc/net/dev: the bytes that entered and left this machine.

pub(crate) const DEV: &str = "/proc/net/dev";

/// Interfaces whose packets also pass another one: container ends, bridges, VLANs, the masters of bonded links
/// (their slaves are counted); and dummies, which lead nowhere.
const DOUBLES: [&str; 13] =
    ["veth", "docker", "br-", "virbr", "vnet", "cni", "flannel", "cali", "bond", "team", "vlan", "ifb", "dummy"];

/// Bytes since boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// The sum over the interfaces that lead out of the machine; `None` when the text names no interface at all.
pub(crate) fn parse(text: &str) -> Option<Traffic> {
    let mut interfaces = text.lines().filter_map(interface).peekable();
    interfaces.peek()?;
    Some(interfaces.filter(|(name, _)| leads_out(name)).fold(Traffic::default(), |sum, (_, traffic)| Traffic {
        received: sum.received.saturating_add(traffic.received),
        sent: sum.sent.saturating_add(traffic.sent),
    }))
}

/// One line: the name, a colon that may touch the first number, 8 columns received, 8 columns sent.
fn interface(line: &str) -> Option<(&str, Traffic)> {
    let (name, columns) = line.split_once(':')?;
    let mut columns = columns.split_whitespace().map(str::parse);
    let received = columns.next()?.ok()?;
    let sent = columns.nth(7)?.ok()?;
    Some((name.trim(), Traffic { received, sent }))
}

fn leads_out(name: &str) -> bool {
    let numbered_bridge = name.strip_prefix("br").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    // eth0.100 is a VLAN on eth0.
    let vlan = name.contains('.');
    name != "lo" && !numbered_bridge && !vlan && !DOUBLES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_glues_the_colon_to_the_number() {
        let traffic = parse(include_str!("../testdata/net-dev-glued")).unwrap();
        assert_eq!(traffic, Traffic { received: 3_456_922_112, sent: 1_204_583_112 });
    }

    #[test]
    fn packets_that_pass_two_interfaces_are_counted_once() {
        let traffic = parse(include_str!("../testdata/net-dev-containers")).unwrap();
        // eth0, wlan0 and wg0; not lo, bond0, bridges, container ends and the VLAN.
        assert_eq!(traffic, Traffic { received: 1_000 + 20 + 3, sent: 5_000 + 60 + 7 });
    }

    #[test]
    fn a_machine_with_only_a_loopback_moves_nothing() {
        assert_eq!(parse("    lo: 999 1 0 0 0 0 0 0 999 1 0 0 0 0 0 0\n"), Some(Traffic::default()));
    }

    #[test]
    fn text_without_interfaces_gives_nothing() {
        for text in ["", "Inter-| Receive\n face |bytes\n", "eth0:\n", "eth0: 1 2 3\n", "eth0: x 0 0 0 0 0 0 0 1\n"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
