//! The tar for any Linux with a glibc that is new enough. It is unpacked into /usr/local or another prefix.

use super::contents::Contents;
use super::tree::{Tree, gzip};
use super::unit;
use anyhow::Result;

pub(super) fn package(contents: &Contents) -> Result<Vec<u8>> {
    let mut tree = Tree::default();
    tree.add("bin/dropsonde", 0o755, contents.binary.clone());
    contents.add_shared(&mut tree, "share", |text| Ok(text.to_vec()))?;
    tree.add("lib/systemd/system/dropsonde.service", 0o644, unit::for_archive());
    let documents = "share/doc/dropsonde";
    tree.add(&format!("{documents}/dropsonde.toml"), 0o644, contents.configuration.clone());
    tree.add(&format!("{documents}/LICENSE"), 0o644, contents.license.clone());
    tree.add(&format!("{documents}/INSTALL"), 0o644, install(contents));
    gzip(&tree.tar(&format!("dropsonde-{}/", contents.version), contents.time)?)
}

fn install(contents: &Contents) -> String {
    let (major, minor) = contents.glibc;
    format!(
        "Dropsonde {version} for Linux ({machine}) with glibc {major}.{minor} or newer.\n\n\
         To try it out:\n\n\
         \x20   bin/dropsonde serve --demo\n\n\
         To install it as a service:\n\n\
         \x20   cp -r bin lib share /usr/local/\n\
         \x20   install -D -m 644 share/doc/dropsonde/dropsonde.toml /etc/dropsonde/dropsonde.toml\n\
         \x20   systemctl daemon-reload && systemctl enable --now dropsonde\n\n\
         To remove it, delete the same files, /etc/dropsonde and /var/lib/dropsonde.\n",
        version = contents.version,
        machine = std::env::consts::ARCH,
    )
}
