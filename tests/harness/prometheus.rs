use super::guests::workspace;
use std::process::Command;

/// Returns the command for a program of Prometheus: from Debian's package that `cargo dev setup` unpacks, else from the
/// PATH.
pub(crate) fn prometheus_tool(name: &str) -> Command {
    let unpacked = workspace().join("target/prometheus/usr/bin").join(name);
    Command::new(if unpacked.exists() { unpacked } else { name.into() })
}
