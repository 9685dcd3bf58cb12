use super::guests::workspace;
use std::process::Command;

/// A program of Debian's package, unpacked by `cargo dev setup`, or from the PATH.
pub(crate) fn prometheus_tool(name: &str) -> Command {
    let unpacked = workspace().join("target/prometheus/usr/bin").join(name);
    Command::new(if unpacked.exists() { unpacked } else { name.into() })
}
