use crate::artifact::{About, Descriptor, MANIFEST, Manifest, SIGNATURE};
use crate::client::{Ask, Client};
use crate::credentials::Credentials;
use crate::reference::{Digest, Reference};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use hyper::{Method, StatusCode};

/// The largest manifest, in bytes.
const LARGEST_MANIFEST: usize = 1 << 20;

/// The largest component, in bytes: what a host reads.
const LARGEST_COMPONENT: u64 = 128 << 20;

/// One registry, with what it allows this user.
pub struct Registry(Client);

/// An artifact that was found, by its manifest.
#[derive(Debug, Clone)]
pub struct Found {
    /// The reference with the digest of the manifest: it names these bytes for ever.
    pub pinned: Reference,
    component: Descriptor,
}

impl Found {
    /// Returns the sha256 of the component.
    pub fn digest(&self) -> &Digest {
        &self.component.digest
    }

    /// Returns the signature of the component, as minisign writes it. Nobody has checked it yet.
    pub fn signature(&self) -> Option<&str> {
        self.component.annotations.get(SIGNATURE).map(String::as_str)
    }

    /// Fails if the configuration or an option, `by`, wants another sha256.
    pub fn check_sha256(&self, wanted: Option<&str>, by: &str) -> Result<()> {
        let found = self.digest().hex();
        match wanted.filter(|wanted| !wanted.eq_ignore_ascii_case(found)) {
            Some(wanted) => bail!("{}: its sha256 is {found}, and {by} wants {wanted}", self.pinned),
            None => Ok(()),
        }
    }
}

impl Registry {
    /// Makes a client of the registry that a reference names. A registry on this machine is asked without TLS.
    pub fn new(reference: &Reference, credentials: Credentials) -> Result<Self> {
        Ok(Self(Client::new(reference, &credentials)?))
    }

    /// Asks what a reference names now.
    pub async fn find(&self, reference: &Reference) -> Result<Found> {
        self.find_unnamed(reference).await.with_context(|| reference.to_string())
    }

    async fn find_unnamed(&self, reference: &Reference) -> Result<Found> {
        let path = format!("/v2/{}/manifests/{}", reference.repository, reference.version());
        let answer = self.0.ask(&Ask { accept: MANIFEST, ..get(&path, LARGEST_MANIFEST) }).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => bail!("the registry has no such artifact"),
            _ => bail!("the registry answers {}", answer.said()),
        }
        let manifest = Digest::of(&answer.body);
        if let Some(wanted) = &reference.digest {
            ensure!(*wanted == manifest, "the registry gives a manifest with the digest {manifest}");
        }
        let component = Manifest::component(&answer.body)?;
        let size = component.size;
        ensure!(size <= LARGEST_COMPONENT, "the component has {size} bytes; at most {LARGEST_COMPONENT} are pulled");
        Ok(Found { pinned: reference.pinned(manifest), component })
    }

    /// Pulls a component that was found, and checks its bytes against the digest in the manifest.
    pub async fn pull(&self, found: &Found) -> Result<Bytes> {
        self.pull_unnamed(found).await.with_context(|| found.pinned.to_string())
    }

    async fn pull_unnamed(&self, Found { pinned, component }: &Found) -> Result<Bytes> {
        let path = format!("/v2/{}/blobs/{}", pinned.repository, component.digest);
        let answer = self.0.ask(&get(&path, usize::try_from(component.size)?)).await?;
        ensure!(answer.status == StatusCode::OK, "the registry answers {} to the component", answer.said());
        let digest = Digest::of(&answer.body);
        ensure!(digest == component.digest, "the component has the digest {digest} instead of {}", component.digest);
        Ok(answer.body)
    }

    /// Pushes a component under the tag of a reference. Returns the reference with the digest of the manifest.
    pub async fn push(&self, reference: &Reference, component: Bytes, about: &About) -> Result<Reference> {
        ensure!(
            reference.digest.is_none(),
            "{reference}: what is pushed gets its digest from the registry; name a tag"
        );
        self.push_unnamed(reference, component, about).await.with_context(|| reference.to_string())
    }

    async fn push_unnamed(&self, reference: &Reference, component: Bytes, about: &About) -> Result<Reference> {
        let (manifest, config) = Manifest::describe(&component, about)?;
        self.upload(reference, component).await?;
        self.upload(reference, config.into()).await?;
        let manifest = Bytes::from(serde_json::to_vec(&manifest)?);
        let path = format!("/v2/{}/manifests/{}", reference.repository, reference.version());
        let ask = Ask { method: Method::PUT, content_type: MANIFEST, body: manifest.clone(), ..get(&path, 0) };
        let answer = self.0.ask(&ask).await?;
        ensure!(answer.status.is_success(), "the registry answers {} to the manifest", answer.said());
        Ok(reference.pinned(Digest::of(&manifest)))
    }

    /// Uploads a blob, unless the registry has it.
    async fn upload(&self, reference: &Reference, blob: Bytes) -> Result<()> {
        let digest = Digest::of(&blob);
        let path = format!("/v2/{}/blobs/{digest}", reference.repository);
        let there = self.0.ask(&Ask { method: Method::HEAD, ..get(&path, 0) }).await?;
        if there.status.is_success() {
            return Ok(());
        }
        let path = format!("/v2/{}/blobs/uploads/", reference.repository);
        let begun = self.0.ask(&Ask { method: Method::POST, ..get(&path, 0) }).await?;
        ensure!(begun.status == StatusCode::ACCEPTED, "the registry answers {} to an upload", begun.said());
        let to = self.0.location(&begun)?;
        let glue = if to.contains('?') { '&' } else { '?' };
        let to = format!("{to}{glue}digest={digest}");
        let ask = Ask { method: Method::PUT, content_type: "application/octet-stream", body: blob, ..get(&to, 0) };
        let done = self.0.ask(&ask).await?;
        ensure!(done.status.is_success(), "the registry answers {} to an upload", done.said());
        Ok(())
    }
}

fn get(path: &str, longest: usize) -> Ask<'_> {
    Ask { method: Method::GET, path, accept: "", content_type: "", body: Bytes::new(), longest }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}
