use dropsonde_model::InvalidValue;
use minisign_verify::{PublicKey, Signature};
use std::path::{Path, PathBuf};

/// The public keys of those whose plugins are run. If there are none, plugins need no signature.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedKeys(Vec<String>);

/// The largest file with a signature, in bytes.
const LARGEST: u64 = 4096;

/// Why a component is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTrusted {
    #[error("it must be signed by a trusted key, and {} is missing or cannot be read: `dropsonde plugin sign` makes it", .0.display())]
    NoSignature(PathBuf),
    #[error("its signature is not understood")]
    Malformed,
    #[error(
        "its signature is not by one of the trusted keys: sign it again with `dropsonde plugin sign`, or trust the signer's key"
    )]
    OtherKey,
}

impl TrustedKeys {
    /// Takes keys as minisign prints them: one line of Base64.
    pub fn new(keys: Vec<String>) -> Self {
        Self(keys)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn check(&self) -> Result<(), InvalidValue> {
        match self.0.iter().find(|key| PublicKey::from_base64(key).is_err()) {
            None => Ok(()),
            Some(_) => {
                InvalidValue::of("trusted_keys", "must have public keys of minisign: the second line of its .pub file")
            }
        }
    }

    /// Returns the path of the signature of a file: `NAME.wasm.minisig`.
    pub fn signature_of(file: &Path) -> PathBuf {
        let mut path = file.as_os_str().to_owned();
        path.push(".minisig");
        path.into()
    }

    /// Fails unless the component in a file has a signature by one of the keys, or there are no keys.
    pub fn verify_file(&self, file: &Path, component: &[u8]) -> Result<(), NotTrusted> {
        if self.is_empty() {
            return Ok(());
        }
        let missing = || NotTrusted::NoSignature(Self::signature_of(file));
        self.verify(component, &Self::read_signature(file).ok_or_else(missing)?)
    }

    /// Reads the signature beside a file, if there is one of a usual size.
    pub fn read_signature(file: &Path) -> Option<String> {
        let path = Self::signature_of(file);
        let is_small = std::fs::metadata(&path).is_ok_and(|about| about.is_file() && about.len() <= LARGEST);
        is_small.then(|| std::fs::read_to_string(path).ok()).flatten()
    }

    /// Fails unless a signature, as minisign writes it, is by one of the keys.
    pub fn verify(&self, component: &[u8], signature: &str) -> Result<(), NotTrusted> {
        let signature = Signature::decode(signature).map_err(|_| NotTrusted::Malformed)?;
        let keys = self.0.iter().filter_map(|key| PublicKey::from_base64(key).ok());
        let is_by = |key: PublicKey| key.verify(component, &signature, false).is_ok();
        if keys.into_iter().any(is_by) { Ok(()) } else { Err(NotTrusted::OtherKey) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by `minisign -G -W` and `minisign -S`, of the text `component`.
    const KEY: &str = include_str!("trusted_keys/key.txt");
    const SIGNATURE: &str = include_str!("trusted_keys/component.minisig");

    #[test]
    fn a_component_is_trusted_with_a_signature_by_a_trusted_key_alone() {
        let trusted = TrustedKeys::new(vec![KEY.trim().to_owned()]);
        assert_eq!(trusted.check(), Ok(()));
        assert_eq!(trusted.verify(b"component", SIGNATURE), Ok(()));
        assert_eq!(trusted.verify(b"another", SIGNATURE), Err(NotTrusted::OtherKey));
        assert_eq!(trusted.verify(b"component", "nonsense"), Err(NotTrusted::Malformed));
        assert_eq!(TrustedKeys::default().verify(b"component", SIGNATURE), Err(NotTrusted::OtherKey));
        assert!(TrustedKeys::new(vec!["nonsense".to_owned()]).check().is_err());
    }

    #[test]
    fn a_file_needs_its_signature_beside_it_once_there_are_keys() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.wasm");
        let trusted = TrustedKeys::new(vec![KEY.trim().to_owned()]);
        assert_eq!(TrustedKeys::default().verify_file(&file, b"component"), Ok(()));
        let missing = trusted.verify_file(&file, b"component").unwrap_err();
        assert!(missing.to_string().contains("a.wasm.minisig"), "{missing}");
        std::fs::write(folder.path().join("a.wasm.minisig"), SIGNATURE).unwrap();
        assert_eq!(trusted.verify_file(&file, b"component"), Ok(()));
        assert_eq!(trusted.verify_file(&file, b"other"), Err(NotTrusted::OtherKey));
    }
}
