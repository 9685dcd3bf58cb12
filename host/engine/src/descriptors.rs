//! The limit of open files and sockets (`ulimit -n`), and its division among files, requests and streams.

use rustix::process::{Resource, getrlimit};

/// Descriptors reserved for files, mostly files of history; a quarter of the limit where that is less.
const FILES: usize = 1024;

/// Returns the most sockets that may be open at a time, whatever the configuration says.
pub fn sockets() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current;
    sockets_of(descriptors.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX))
}

fn sockets_of(descriptors: usize) -> usize {
    descriptors - (descriptors / 4).min(FILES)
}

/// Returns how many of `sockets` may be streams at a time. The rest is for requests.
pub fn streams(sockets: usize) -> usize {
    sockets - sockets / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_are_divided_among_files_streams_and_requests() {
        let sockets = sockets_of(1024);
        assert_eq!((sockets, streams(sockets), sockets - streams(sockets)), (768, 576, 192));
        assert_eq!(sockets_of(1 << 20), (1 << 20) - FILES);
    }
}
