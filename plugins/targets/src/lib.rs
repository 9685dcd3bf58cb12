//! Targets of HTTP requests, for the plugins `scrape`, `probe` and `httpjson`.
//!
//! * [`Url`]: the parts of a URL, and the grants that requests to it need.
//! * [`RequestConfig`], [`RequestSettings`], [`grants`]: how often, how long and with which credentials a target is asked.
//! * [`Round`], [`Visit`]: the requests of one call, and what came of them.

mod request;
mod round;
mod url;

pub use request::{RequestConfig, RequestSettings, grants};
pub use round::{LastRequest, Round, Visit};
pub use url::{PRIVATE_NETWORKS, Url, path_glob};
