//! The Debian package. It makes the user `dropsonde`, keeps a changed configuration on upgrades, and starts the service.

use super::contents::Contents;
use super::tree::{Tree, gzip};
use super::unit;
use anyhow::{Result, bail};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use md5::{Digest, Md5};
use std::fmt::Write as _;

const CONFIGURATION: &str = "etc/dropsonde/dropsonde.toml";

const SCRIPTS: [(&str, &str); 3] = [
    ("postinst", include_str!("../../deb/postinst")),
    ("prerm", include_str!("../../deb/prerm")),
    ("postrm", include_str!("../../deb/postrm")),
];

/// Returns Debian's name of the architecture that this program was compiled for.
pub(super) fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("there is no Debian package for {other}: only for x86_64 and aarch64"),
    }
}

pub(super) fn package(contents: &Contents) -> Result<Vec<u8>> {
    let mut data = Tree::default();
    data.add("usr/bin/dropsonde", 0o755, contents.binary.clone());
    data.add(CONFIGURATION, 0o644, contents.configuration.clone());
    data.add("lib/systemd/system/dropsonde.service", 0o644, unit::for_package()?);
    contents.add_shared(&mut data, "usr/share", gzip)?;
    let documents = "usr/share/doc/dropsonde";
    data.add(&format!("{documents}/copyright"), 0o644, COPYRIGHT);
    data.add(&format!("{documents}/changelog.gz"), 0o644, gzip(changelog(contents)?.as_bytes())?);
    data.add(&format!("{documents}/CHANGELOG.md.gz"), 0o644, gzip(&contents.changelog)?);

    let mut control = Tree::default();
    control.add("control", 0o644, description(contents, &data)?);
    control.add("conffiles", 0o644, format!("/{CONFIGURATION}\n"));
    control.add("md5sums", 0o644, checksums(&data)?);
    for (name, script) in SCRIPTS {
        control.add(name, 0o755, script);
    }
    let time = contents.time;
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", gzip(&control.tar("", time)?)?),
        ("data.tar.gz", gzip(&data.tar("", time)?)?),
    ];
    Ok(ar(&members, time))
}

fn description(contents: &Contents, data: &Tree) -> Result<String> {
    let kibibytes: usize = data.files().map(|(_, bytes)| bytes.len().div_ceil(1024)).sum();
    let (major, minor) = contents.glibc;
    Ok(format!(
        "Package: dropsonde\n\
         Version: {version}\n\
         Architecture: {architecture}\n\
         Maintainer: {maintainer}\n\
         Installed-Size: {kibibytes}\n\
         Depends: adduser, libc6 (>= {major}.{minor}), libgcc-s1\n\
         Recommends: ca-certificates\n\
         Section: admin\n\
         Priority: optional\n\
         Description: telemetry host with sandboxed plugins\n \
         Dropsonde polls WebAssembly plugins on its own schedule, keeps their readings\n \
         as history, and serves them as JSON, live streams, Prometheus metrics and\n \
         PromQL, with a dashboard and alerts. A plugin is one file, and reaches only\n \
         what the configuration grants.\n",
        version = contents.version,
        architecture = architecture()?,
        maintainer = maintainer(),
    ))
}

/// Returns who is named by DEBFULLNAME and DEBEMAIL, which Debian's own tools read too.
fn maintainer() -> String {
    let name = std::env::var("DEBFULLNAME").unwrap_or_else(|_| "Dropsonde maintainers".to_owned());
    let address = std::env::var("DEBEMAIL").unwrap_or_else(|_| "dropsonde@packages.invalid".to_owned());
    format!("{name} <{address}>")
}

fn changelog(contents: &Contents) -> Result<String> {
    let time = Timestamp::from_second(contents.time.try_into()?)?.to_zoned(jiff::tz::TimeZone::UTC);
    Ok(format!(
        "dropsonde ({}) unstable; urgency=medium\n\n  * CHANGELOG.md.gz lists the changes.\n\n -- {}  {}\n",
        contents.version,
        maintainer(),
        rfc2822::to_string(&time)?
    ))
}

/// Says who owns what, in Debian's format. The bill of materials beside it names the libraries in the binary.
const COPYRIGHT: &str = "\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: dropsonde
Comment: sbom.cdx.json beside this file names the libraries in the binary, and their licenses.

Files: *
Copyright: 2026 the Dropsonde contributors
License: Apache-2.0
 On Debian systems, the full text of the license is in
 /usr/share/common-licenses/Apache-2.0.
";

fn checksums(data: &Tree) -> Result<String> {
    let mut text = String::new();
    for (path, bytes) in data.files().filter(|(path, _)| *path != CONFIGURATION) {
        for byte in Md5::digest(bytes) {
            write!(text, "{byte:02x}")?;
        }
        writeln!(text, "  {path}")?;
    }
    Ok(text)
}

/// Returns an archive in the format of `ar`, with files of root.
fn ar(members: &[(&str, Vec<u8>)], time: u64) -> Vec<u8> {
    let mut ar = b"!<arch>\n".to_vec();
    for (name, bytes) in members {
        let size = bytes.len();
        ar.extend(format!("{name:<16}{time:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 100_644).bytes());
        ar.extend(bytes);
        if size % 2 == 1 {
            ar.push(b'\n');
        }
    }
    ar
}
