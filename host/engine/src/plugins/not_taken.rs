use super::{BadFields, plain};
use crate::room::NoRoom;
use dropsonde_sandbox::{BadGrant, CallError, Refused};
use std::io;

/// Why a component does not become, or replace, a running plugin.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    #[error("cannot read it: {0}")]
    Unreadable(io::Error),
    /// It is another than the operator's configuration names.
    #[error("its sha256 is {found}, and plugins.{plugin}.sha256 in the configuration wants {wanted}")]
    Pinned { plugin: String, found: String, wanted: String },
    #[error("{}", plain(&.0.to_string()))]
    Refused(Refused),
    /// The plugin's own word.
    #[error("its configuration cannot work: {}", plain(.0))]
    Invalid(String),
    #[error("it names {0} needs; at most {most} are taken", most = super::prepare::MOST_NEEDS)]
    TooManyNeeds(usize),
    #[error(transparent)]
    Grants(BadGrant),
    #[error("its fields are not taken: {0}")]
    Fields(BadFields),
    /// Its first instance could not be made; another time it might.
    #[error("it does not start: {}", plain(&.0.to_string()))]
    Start(CallError),
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// It came through the API, and cannot be put into the plugins folder.
    #[error("cannot keep it: {0}")]
    NotKept(io::Error),
    #[error("there is no plugins folder to put it into: give one with --plugins, or a data directory")]
    NoFolder,
    #[error("a newer version came while this one waited for its turn to be compiled")]
    Outdated,
    #[error("its file in the plugins folder changed while this was looked into; the file counts")]
    Superseded,
}
