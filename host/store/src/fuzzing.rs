//! Entry points for fuzzers. Not part of the public interface.

use crate::archive::{self, AppendOnlyFile, Disk, ReadableFile};
use crate::codec::Chunk;
use crate::frame::StoreResources;
use crate::{Query, Schema, Store, StoreLimits, StoredField};
use std::io::{self, ErrorKind};
use std::sync::Arc;

/// Reads `bytes` as a chunk of a frame that has a field of each kind.
pub fn chunk(bytes: &[u8]) {
    let schema = schema();
    if let Ok(chunk) = Chunk::read(&schema, bytes) {
        for page in 0..chunk.pages.len() {
            if let Ok(rows) = chunk.rows(page) {
                assert!(rows.columns.iter().all(|column| column.len() == rows.len()));
                assert!(rows.at_ms.is_sorted());
            }
        }
    }
}

/// Opens a folder with one file. The first byte chooses the kind of file; the records get valid checksums.
pub fn file(bytes: &[u8]) {
    let Some((&kind, records)) = bytes.split_first() else { return };
    let name = ["log-0000000001", "new-0-0000000001", "seg-0-0000000001", "notes-0000000001"][usize::from(kind % 4)];
    let bytes = archive::with_checksums(records, ["L", "S", "S", "N"][usize::from(kind % 4)].as_bytes()[0]);
    let disk: Arc<dyn Disk> = Arc::new(OneFile { name, bytes: bytes.into() });
    let shared = Arc::new(StoreResources::new(&StoreLimits::default(), true));
    if let Ok((archive, frames, values, _)) = archive::restore(disk, &shared) {
        for frame in &frames {
            frame.latest();
            frame.buckets(&Query { since_ms: 0, until_ms: i64::MAX / 2, step_ms: 1 << 40, ..Query::default() });
        }
        let store = Store::restored(shared, frames, archive.next_born, values);
        let window = 0..i64::MAX / 2;
        let selection = store.select(&[], window.clone());
        for samples in selection.samples(window.clone()) {
            assert!(samples.at_ms.is_sorted_by(|a, b| a < b) && samples.at_ms.len() == samples.values.len());
        }
        selection.newest(window);
    }
}

/// Makes inputs for [`file()`] from real files, one of each kind.
#[cfg(test)]
pub(crate) fn files() -> Vec<Vec<u8>> {
    use crate::{GroupKey, InstanceId, Labels, MetricType};
    let folder = tempfile::tempdir().unwrap();
    let (store, mut keeper, _) = Store::open(folder.path(), &StoreLimits::default()).unwrap();
    let _ = store.note("key", Some(b"value".to_vec()));
    let frame = store.frame(&InstanceId::new("i").unwrap(), &schema(), 10_000);
    let instance = InstanceId::new("j").unwrap();
    let key = GroupKey { instance, group: "g".into(), owner: "o".into(), interval_ms: 10_000 };
    let mut group = store.series_group(key);
    let labels = ["x", "y"].map(|value| Labels::from([("__name__", "n"), ("l", value)]));
    for row in 0..3000 {
        frame.push(row * 10_000, &[row as f64 / 7.0, row as f64, f64::NAN]);
        let some = if row % 50 == 0 { 1 } else { 2 };
        let handle = |labels| (group.series(labels, MetricType::Counter).unwrap(), row as f64);
        let samples: Vec<_> = labels.iter().take(some).map(handle).collect();
        group.push(row * 10_000, &samples);
        if row % 100 == 0 {
            keeper.step(row * 10_000);
        }
    }
    let kinds = ["log-", "new-", "seg-", "notes-"].into_iter().enumerate();
    let seed = |(kind, prefix): (usize, &str)| {
        let files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
        let file = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix)).max().unwrap();
        let mut seed = vec![kind as u8];
        seed.extend(archive::without_checksums(&std::fs::read(file).unwrap()));
        seed
    };
    kinds.map(seed).collect()
}

pub(crate) fn schema() -> Schema {
    let gauge = StoredField { precision: 0.01, ..StoredField::gauge("a") };
    Schema::new("s", vec![gauge, StoredField::counter("b", 1.0), StoredField::gauge("c")])
}

#[derive(Debug)]
struct OneFile {
    name: &'static str,
    bytes: Arc<[u8]>,
}

impl Disk for OneFile {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(vec![self.name.to_owned()])
    }

    fn create(&self, _: &str) -> io::Result<Box<dyn AppendOnlyFile>> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn open(&self, _: &str) -> io::Result<Box<dyn ReadableFile>> {
        Ok(Box::new(FileBytes(self.bytes.clone())))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct FileBytes(Arc<[u8]>);

impl ReadableFile for FileBytes {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let end = from.checked_add(bytes.len()).ok_or(ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(self.0.get(from..end).ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}
