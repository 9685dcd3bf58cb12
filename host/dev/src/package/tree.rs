use anyhow::Result;
use flate2::{Compression, GzBuilder};
use std::collections::BTreeMap;
use std::io::Write as _;
use tar::{EntryType, Header};

/// Files and folders by their path, which has no leading `/`. Each folder comes before what is in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree(BTreeMap<String, Node>);

#[derive(Debug, Clone)]
struct Node {
    mode: u32,
    owner: u64,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Folder,
    File(Vec<u8>),
}

impl Tree {
    /// Adds a file, and the folders that lead to it.
    pub(super) fn add(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        self.put(path, Node { mode, owner: 0, content: Content::File(bytes.into()) });
    }

    /// Adds an empty folder of an owner.
    pub(super) fn add_folder(&mut self, path: &str, mode: u32, owner: u64) {
        self.put(path, Node { mode, owner, content: Content::Folder });
    }

    fn put(&mut self, path: &str, node: Node) {
        for (end, _) in path.match_indices('/') {
            let folder = || Node { mode: 0o755, owner: 0, content: Content::Folder };
            self.0.entry(path.split_at(end).0.to_owned()).or_insert_with(folder);
        }
        self.0.insert(path.to_owned(), node);
    }

    /// Returns the files with their contents.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().filter_map(|(path, node)| match &node.content {
            Content::File(bytes) => Some((path.as_str(), bytes.as_slice())),
            Content::Folder => None,
        })
    }

    /// Returns a tar. All paths begin with `prefix`, and all times are `time`, in seconds.
    pub(super) fn tar(&self, prefix: &str, time: u64) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, node) in &self.0 {
            let mut header = Header::new_gnu();
            header.set_mtime(time);
            header.set_uid(node.owner);
            header.set_gid(node.owner);
            header.set_mode(node.mode);
            let path = format!("{prefix}{path}");
            match &node.content {
                Content::Folder => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_size(0);
                    tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Content::File(bytes) => {
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, path, bytes.as_slice())?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }
}

/// Sizes from which the best compression takes too long for what it saves.
const LARGE: usize = 1 << 20;

/// Compresses by gzip, without a time or a name in the header.
pub(super) fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let level = if bytes.len() < LARGE { Compression::best() } else { Compression::default() };
    let mut gzip = GzBuilder::new().write(Vec::new(), level);
    gzip.write_all(bytes)?;
    Ok(gzip.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tar_has_each_folder_before_its_files_and_no_other_times_or_owners() {
        let mut tree = Tree::default();
        tree.add("usr/bin/x", 0o755, "binary");
        tree.add_folder("var/lib/x", 0o700, 7);
        let bytes = tree.tar("top/", 42).unwrap();
        let mut read = tar::Archive::new(bytes.as_slice());
        let entries = read.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!(header.mtime().unwrap(), 42);
            (entry.path().unwrap().display().to_string(), header.mode().unwrap(), header.uid().unwrap())
        });
        let of = |path: &str, mode, owner| (path.to_owned(), mode, owner);
        let expected = [
            of("top/usr/", 0o755, 0),
            of("top/usr/bin/", 0o755, 0),
            of("top/usr/bin/x", 0o755, 0),
            of("top/var/", 0o755, 0),
            of("top/var/lib/", 0o755, 0),
            of("top/var/lib/x/", 0o700, 7),
        ];
        assert_eq!(entries.collect::<Vec<_>>(), expected);
        assert_eq!(bytes, tree.tar("top/", 42).unwrap());
    }
}
