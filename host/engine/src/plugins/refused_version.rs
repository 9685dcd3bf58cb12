use super::{BadFields, plain};
use crate::address_space::NotEnoughAddressSpace;
use crate::options::NotTrusted;
use dropsonde_sandbox::{BadGrant, CallError, Refused};
use std::io;

/// Why the host refuses a component, which then neither becomes nor replaces a running plugin.
#[derive(Debug, thiserror::Error)]
pub enum RefusedVersion {
    #[error("cannot read it: {0}")]
    Unreadable(io::Error),
    /// The configuration pins another component.
    #[error("its sha256 is {found}, and plugins.{plugin}.sha256 in the configuration wants {wanted}")]
    Pinned { plugin: String, found: String, wanted: String },
    #[error(transparent)]
    NotTrusted(#[from] NotTrusted),
    #[error("{}", plain(&.0.to_string()))]
    Refused(Refused),
    /// The plugin itself says that its configuration cannot work.
    #[error("its configuration cannot work: {}", plain(.0))]
    Invalid(String),
    #[error("it names {0} needs; at most {most} are allowed", most = super::prepare::MOST_NEEDS)]
    TooManyNeeds(usize),
    #[error(transparent)]
    Grants(BadGrant),
    #[error("its fields are not taken: {0}")]
    Fields(BadFields),
    /// The first instance could not be started; a later attempt may succeed.
    #[error("it does not start: {}", plain(&.0.to_string()))]
    Start(CallError),
    #[error(transparent)]
    NoRoom(#[from] NotEnoughAddressSpace),
    /// The component was uploaded, and cannot be written to the plugins folder.
    #[error("cannot write it to the plugins folder: {0}")]
    NotKept(io::Error),
    #[error("there is no plugins folder to write it to; set one with --plugins, or set a data directory")]
    NoFolder,
    #[error("a newer version came while this one waited for its turn to be compiled")]
    Outdated,
    #[error("its file in the plugins folder changed while the upload was being checked; the host uses the file")]
    Superseded,
}
