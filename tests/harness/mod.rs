//! A running host, a client that shows every byte, and the guests.

mod client;
mod guests;
mod host;

pub(crate) use client::{Response, Stream, request, stream};
pub(crate) use guests::{verbs, workspace};
pub(crate) use host::{Host, dropsonde, run};
