//! The image for containers, as an OCI image layout: the binary, the libraries that it loads, and certificates to trust.
//! It runs as a user without rights.

use super::contents::Contents;
use super::sha256;
use super::tree::{Tree, gzip};
use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

/// The user of the processes in the container, and the owner of the data directory.
const USER: u64 = 65532;

/// Returns the files of the layout by their paths.
pub(super) fn package(contents: &Contents) -> Result<Vec<(String, Vec<u8>)>> {
    let mut layout = Layout::default();
    let layers = [system(contents), program(contents)];
    let (mut descriptors, mut digests) = (Vec::new(), Vec::new());
    for layer in &layers {
        let tar = layer.tar("", contents.time)?;
        digests.push(format!("sha256:{}", sha256(&tar)));
        descriptors.push(layout.blob("application/vnd.oci.image.layer.v1.tar+gzip", gzip(&tar)?));
    }
    let created = Timestamp::from_second(contents.time.try_into()?)?.to_string();
    let architecture = super::deb::architecture()?;
    let config = json!({
        "created": created,
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "Entrypoint": ["/usr/bin/dropsonde"],
            "Cmd": ["serve"],
            // The host then reads /etc/dropsonde/dropsonde.toml and writes to /var/lib/dropsonde.
            "Env": ["PATH=/usr/bin", "XDG_CONFIG_HOME=/etc", "XDG_STATE_HOME=/var/lib"],
            "ExposedPorts": { "9090/tcp": {} },
            "Volumes": { "/var/lib/dropsonde": {} },
            "StopSignal": "SIGTERM",
            "Labels": {
                "org.opencontainers.image.title": "dropsonde",
                "org.opencontainers.image.description": "A telemetry host with sandboxed plugins",
                "org.opencontainers.image.version": contents.version,
                "org.opencontainers.image.licenses": "Apache-2.0",
            },
        },
        "rootfs": { "type": "layers", "diff_ids": digests },
        "history": [
            { "created": created, "comment": "libraries and certificates" },
            { "created": created, "comment": "dropsonde" },
        ],
    });
    let config = layout.blob("application/vnd.oci.image.config.v1+json", serde_json::to_vec(&config)?);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": descriptors,
    });
    let mut manifest = layout.blob("application/vnd.oci.image.manifest.v1+json", serde_json::to_vec(&manifest)?);
    if let Some(manifest) = manifest.as_object_mut() {
        manifest.insert("platform".to_owned(), json!({ "architecture": architecture, "os": "linux" }));
        manifest.insert("annotations".to_owned(), json!({ "org.opencontainers.image.ref.name": contents.version }));
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    layout.0.push(("index.json".to_owned(), serde_json::to_vec(&index)?));
    layout.0.push(("oci-layout".to_owned(), serde_json::to_vec(&json!({ "imageLayoutVersion": "1.0.0" }))?));
    Ok(layout.0)
}

fn system(contents: &Contents) -> Tree {
    let mut tree = Tree::default();
    for (path, bytes) in &contents.libraries {
        tree.add(path, 0o755, bytes.clone());
    }
    tree.add("etc/ssl/certs/ca-certificates.crt", 0o644, certificates());
    let user = format!(
        "root:x:0:0:root:/:/sbin/nologin\ndropsonde:x:{USER}:{USER}:dropsonde:/var/lib/dropsonde:/sbin/nologin\n"
    );
    tree.add("etc/passwd", 0o644, user);
    tree.add("etc/group", 0o644, format!("root:x:0:\ndropsonde:x:{USER}:\n"));
    tree.add_folder("etc/dropsonde", 0o755, 0);
    tree.add_folder("tmp", 0o1777, 0);
    tree.add_folder("var/lib/dropsonde", 0o700, USER);
    tree
}

fn program(contents: &Contents) -> Tree {
    let mut tree = Tree::default();
    tree.add("usr/bin/dropsonde", 0o755, contents.binary.clone());
    tree.add("usr/share/doc/dropsonde/LICENSE", 0o644, contents.license.clone());
    tree.add("usr/share/doc/dropsonde/sbom.cdx.json", 0o644, contents.sbom.clone());
    tree
}

/// Returns Mozilla's certificates in PEM. Those of the machine may have some that are only its own.
fn certificates() -> String {
    let mut pem = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        let text = STANDARD.encode(certificate);
        pem += "-----BEGIN CERTIFICATE-----\n";
        for (nth, letter) in text.chars().enumerate() {
            if nth > 0 && nth % 64 == 0 {
                pem.push('\n');
            }
            pem.push(letter);
        }
        pem += "\n-----END CERTIFICATE-----\n";
    }
    pem
}

/// The files of a layout by their paths.
#[derive(Default)]
struct Layout(Vec<(String, Vec<u8>)>);

impl Layout {
    /// Adds a blob, and returns its descriptor.
    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = sha256(&bytes);
        let descriptor = json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() });
        self.0.push((format!("blobs/sha256/{digest}"), bytes));
        descriptor
    }
}
