//! The manifest of a WebAssembly artifact: one layer with the component, and a configuration that describes it.

use crate::reference::Digest;
use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.wasm.config.v0+json";
pub(crate) const COMPONENT: &str = "application/wasm";

/// The annotation of the layer that has the signature of the component, as minisign writes it.
pub(crate) const SIGNATURE: &str = "dropsonde.minisig";

/// The signature and the description with which a component is pushed.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The signature, as minisign writes it.
    pub signature: Option<String>,
    /// The interfaces that the component exports and imports.
    pub exports: Vec<String>,
    pub imports: Vec<String>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// Describes a component. Returns the manifest and the configuration.
    pub(crate) fn describe(component: &[u8], about: &About) -> Result<(Self, Vec<u8>)> {
        let config = json!({
            // Readers want a time. This one lets the same component have the same digest.
            "created": "1970-01-01T00:00:00Z",
            "author": null,
            "architecture": "wasm",
            "os": "wasip2",
            "layerDigests": [Digest::of(component)],
            "component": { "exports": about.exports, "imports": about.imports, "target": null },
        });
        let config = serde_json::to_vec(&config)?;
        let signature = about.signature.iter().map(|signature| (SIGNATURE.to_owned(), signature.clone()));
        let manifest = Self {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            config: Descriptor::of(CONFIG, &config),
            layers: vec![Descriptor { annotations: signature.collect(), ..Descriptor::of(COMPONENT, component) }],
            annotations: about.annotations.clone(),
        };
        Ok((manifest, config))
    }

    /// Parses a manifest, and returns the descriptor of its component.
    pub(crate) fn component(bytes: &[u8]) -> Result<Descriptor> {
        let manifest: Self = serde_json::from_slice(bytes).context("its manifest is not that of one artifact")?;
        ensure!(manifest.schema_version == 2, "its manifest has another version than 2");
        let mut components = manifest.layers.into_iter().filter(|layer| layer.media_type == COMPONENT);
        match (components.next(), components.next()) {
            (Some(component), None) => Ok(component),
            (Some(_), Some(_)) => bail!("it has several components"),
            (None, _) => bail!("it has no layer of the type {COMPONENT}: it is no WebAssembly, but perhaps an image"),
        }
    }
}

impl Descriptor {
    pub(crate) fn of(media_type: &str, bytes: &[u8]) -> Self {
        let (media_type, size) = (media_type.to_owned(), bytes.len() as u64);
        Self { media_type, digest: Digest::of(bytes), size, annotations: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_described_is_found_again_with_its_signature() {
        let (manifest, config) =
            Manifest::describe(b"\0asm", &About { signature: Some("signed".to_owned()), ..About::default() }).unwrap();
        assert_eq!(manifest.config.digest, Digest::of(&config));
        let component = Manifest::component(&serde_json::to_vec(&manifest).unwrap()).unwrap();
        assert_eq!((component.digest, component.size), (Digest::of(b"\0asm"), 4));
        assert_eq!(component.annotations[SIGNATURE], "signed");
    }

    #[test]
    fn a_manifest_that_wkg_wrote_is_understood() {
        // By `wkg oci push`, version 0.16.1.
        let component = Manifest::component(include_bytes!("wkg-manifest.json")).unwrap();
        assert_eq!((component.media_type.as_str(), component.size), (COMPONENT, 177_021));
    }

    #[test]
    fn an_image_an_index_and_nonsense_are_refused() {
        let refused = |text: &str| format!("{:#}", Manifest::component(text.as_bytes()).unwrap_err());
        let layer = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{}","size":1}}"#, Digest::of(b"x"));
        let manifest = |layers: &str| format!(r#"{{"schemaVersion":2,"config":{},"layers":[{layers}]}}"#, layer("c"));
        assert!(refused(&manifest(&layer("application/vnd.oci.image.layer.v1.tar"))).contains("no WebAssembly"));
        assert!(refused(&manifest(&format!("{0},{0}", layer(COMPONENT)))).contains("several"));
        assert!(refused(r#"{"schemaVersion":2,"manifests":[]}"#).contains("manifest"));
        assert!(refused("no JSON").contains("manifest"));
        let wrong = manifest(&layer(COMPONENT)).replace("sha256:", "md5:");
        assert!(refused(&wrong).contains("sha256"), "{}", refused(&wrong));
    }
}
