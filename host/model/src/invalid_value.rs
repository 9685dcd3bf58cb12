/// An invalid value in the operator's configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct InvalidValue {
    /// The configuration key, as in `store.retention`.
    pub key: String,
    pub why: String,
}

impl InvalidValue {
    /// Returns the error for a key.
    pub fn of<T>(key: &str, why: &str) -> Result<T, Self> {
        Err(Self { key: key.to_owned(), why: why.to_owned() })
    }
}
