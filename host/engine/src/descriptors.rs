//! How many files and sockets this process may have open (`ulimit -n`), and what becomes of those.

use rustix::process::{Resource, getrlimit};

/// Descriptors that sockets leave to files, history's most of all; a quarter of them, where there are few.
const FILES: usize = 1024;

/// Sockets there may be at a time, whatever the configuration says.
pub fn sockets() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current;
    sockets_of(descriptors.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX))
}

fn sockets_of(descriptors: usize) -> usize {
    descriptors - (descriptors / 4).min(FILES)
}

/// Streams there may be at a time of so many sockets: the rest is for requests.
pub fn streams(sockets: usize) -> usize {
    sockets - sockets / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_streams_and_requests_each_have_some_of_few_descriptors() {
        let sockets = sockets_of(1024);
        assert_eq!((sockets, streams(sockets), sockets - streams(sockets)), (768, 576, 192));
        assert_eq!(sockets_of(1 << 20), (1 << 20) - FILES);
    }
}
