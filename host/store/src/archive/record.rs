//! A file is a sequence of records, each with its own checksum. The first record names the kind of file and the version
//! of the format:
//!
//! ```text
//! record:  length of the payload (24 bits) · kind (8 bits) · CRC-32 of those and the payload (32 bits) · payload
//! ```
//!
//! A reader skips a record whose checksum is wrong, and finds the next valid record.

use super::disk::ReadableFile;
use crate::codec::{ByteReader, CorruptData, put_u64};
use std::io;

/// Bytes of a record before its payload.
pub(crate) const HEAD: usize = 8;

/// The longest payload in bytes.
pub(crate) const MOST: usize = (1 << 24) - 1;

/// The version of the format, the same for all kinds of files. Version 1 has no labelled series.
const VERSION: u64 = 2;
const MAGIC: &[u8; 9] = b"dropsonde";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum RecordKind {
    File = 1,
    Schema = 2,
    Frame = 3,
    Rows = 4,
    Chunk = 5,
    Index = 6,
    End = 7,
    Note = 8,
    LabelledFrame = 9,
}

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FileKind {
    Log = b'L',
    Segment = b'S',
    Notes = b'N',
}

/// A part of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FilePart<'a> {
    Record {
        offset: usize,
        kind: RecordKind,
        payload: &'a [u8],
    },
    /// Bytes that are not a valid record.
    Corrupt {
        offset: usize,
        length: usize,
    },
    /// Invalid bytes up to the end, as a writer leaves them that was killed.
    Torn {
        offset: usize,
    },
}

/// The records of a file's bytes.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl RecordKind {
    fn of(byte: u8) -> Option<Self> {
        use RecordKind::*;
        [File, Schema, Frame, Rows, Chunk, Index, End, Note, LabelledFrame].into_iter().find(|&kind| kind as u8 == byte)
    }
}

/// The error of a value that is too large for one record, with its size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes are too many for one record of history; the limit is {MOST}")]
pub struct RecordTooLarge(pub usize);

impl From<RecordTooLarge> for io::Error {
    fn from(error: RecordTooLarge) -> Self {
        Self::new(io::ErrorKind::InvalidInput, error)
    }
}

/// Appends a record whose payload `fill` writes. Appends nothing if the payload is too large.
pub(crate) fn put(out: &mut Vec<u8>, kind: RecordKind, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), RecordTooLarge> {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD]);
    fill(out);
    let length = out.len() - start - HEAD;
    if length > MOST {
        out.truncate(start);
        return Err(RecordTooLarge(length));
    }
    let head = (length as u32 | u32::from(kind as u8) << 24).to_le_bytes();
    let sum = checksum(head, out.get(start + HEAD..).unwrap_or_default()).to_le_bytes();
    if let Some(place) = out.get_mut(start..start + HEAD) {
        place.copy_from_slice(&[head, sum].concat());
    }
    Ok(())
}

/// Appends the first record of a file. `replaces` has the numbers of files whose contents are in this file too.
pub(crate) fn put_file_head(out: &mut Vec<u8>, kind: FileKind, replaces: &[u64]) -> Result<(), RecordTooLarge> {
    put(out, RecordKind::File, |out| {
        out.extend_from_slice(MAGIC);
        out.push(kind as u8);
        put_u64(out, VERSION);
        put_u64(out, replaces.len() as u64);
        replaces.iter().for_each(|&number| put_u64(out, number));
    })
}

/// The contents of a file's first record.
pub(crate) enum FileHead {
    Known {
        replaces: Vec<u64>,
    },
    /// Written by a later version.
    Newer,
}

pub(crate) fn file_head(payload: &[u8], kind: FileKind) -> Result<FileHead, CorruptData> {
    let mut reader = ByteReader(payload);
    if reader.take(MAGIC.len())? != MAGIC || reader.u8()? != kind as u8 {
        return Err(CorruptData);
    }
    if reader.u64()? > VERSION {
        return Ok(FileHead::Newer);
    }
    let count = reader.up_to(payload.len())?;
    Ok(FileHead::Known { replaces: (0..count).map(|_| reader.u64()).collect::<Result<_, _>>()? })
}

/// Returns the payload of a record that fills `bytes` exactly.
pub(crate) fn whole(bytes: &[u8], kind: RecordKind) -> Result<&[u8], CorruptData> {
    match record_at(bytes, 0) {
        Some((found, payload)) if found == kind && payload.len() + HEAD == bytes.len() => Ok(payload),
        _ => Err(CorruptData),
    }
}

pub(crate) fn read_all(file: &dyn ReadableFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

fn checksum(head: [u8; 4], payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&head);
    sum.update(payload);
    sum.finalize()
}

fn record_at(bytes: &[u8], at: usize) -> Option<(RecordKind, &[u8])> {
    let head: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    let sum: [u8; 4] = bytes.get(at + 4..at + HEAD)?.try_into().ok()?;
    let [a, b, c, kind] = head;
    let kind = RecordKind::of(kind)?;
    let length = u32::from_le_bytes([a, b, c, 0]) as usize;
    let payload = bytes.get(at + HEAD..at + HEAD + length)?;
    (checksum(head, payload) == u32::from_le_bytes(sum)).then_some((kind, payload))
}

impl<'a> Records<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = FilePart<'a>;

    fn next(&mut self) -> Option<FilePart<'a>> {
        let offset = self.at;
        if offset >= self.bytes.len() {
            return None;
        }
        if let Some((kind, payload)) = record_at(self.bytes, offset) {
            self.at = offset + HEAD + payload.len();
            return Some(FilePart::Record { offset, kind, payload });
        }
        // Most likely the length is right. If not, the next record may be anywhere.
        let length = self.bytes.get(offset..offset + 3).map_or(0, |bytes| match *bytes {
            [a, b, c] => u32::from_le_bytes([a, b, c, 0]) as usize,
            _ => 0,
        });
        let likely = offset + HEAD + length;
        let found = if record_at(self.bytes, likely).is_some() {
            Some(likely)
        } else {
            (offset + 1..self.bytes.len()).find(|&at| record_at(self.bytes, at).is_some())
        };
        self.at = found.unwrap_or(self.bytes.len());
        Some(match found {
            Some(found) => FilePart::Corrupt { offset, length: found - offset },
            None if likely == self.bytes.len() => FilePart::Corrupt { offset, length: likely - offset },
            None => FilePart::Torn { offset },
        })
    }
}

/// Makes a file of bytes: a file head, then records. Each record is given as one byte for its kind, one for its length,
/// and that many bytes of payload.
#[cfg(any(test, fuzzing))]
#[allow(clippy::indexing_slicing, reason = "two bytes were split off")]
pub(crate) fn with_checksums(mut bytes: &[u8], kind: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let file = [FileKind::Log, FileKind::Segment, FileKind::Notes].into_iter().find(|file| *file as u8 == kind);
    // A few bytes always fit.
    let _ = put_file_head(&mut out, file.unwrap_or(FileKind::Log), &[]);
    while let Some(([kind, length], rest)) = bytes.split_at_checked(2).map(|(head, rest)| ([head[0], head[1]], rest)) {
        let (payload, rest) = rest.split_at(usize::from(length).min(rest.len()));
        match RecordKind::of(kind % 9) {
            Some(kind) => {
                let _ = put(&mut out, kind, |out| out.extend_from_slice(payload));
            }
            None => out.extend_from_slice(payload),
        }
        bytes = rest;
    }
    out
}

/// Does the reverse of [`with_checksums`], for records that are short enough.
#[cfg(test)]
pub(crate) fn without_checksums(bytes: &[u8]) -> Vec<u8> {
    let record = |item| match item {
        FilePart::Record { kind, payload, .. } if kind != RecordKind::File => {
            Some([&[kind as u8, u8::try_from(payload.len()).ok()?], payload].concat())
        }
        _ => None,
    };
    Records::of(bytes).filter_map(record).flatten().collect()
}

/// Returns the same file as if another version had written it: the next one if `ahead` is 1, the one before if it is
/// -1.
#[cfg(test)]
pub(crate) fn of_another_version(bytes: &[u8], ahead: i8) -> Vec<u8> {
    let Some(FilePart::Record { kind: RecordKind::File, payload, .. }) = Records::of(bytes).next() else {
        unreachable!()
    };
    let mut head = payload.to_vec();
    let version = &mut head[MAGIC.len() + 1];
    *version = version.checked_add_signed(ahead).unwrap();
    let mut out = Vec::new();
    put(&mut out, RecordKind::File, |out| out.extend_from_slice(&head)).unwrap();
    out.extend_from_slice(&bytes[HEAD + payload.len()..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(payloads: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let mut out = Vec::new();
        let starts = payloads.iter().map(|payload| {
            let start = out.len();
            put(&mut out, RecordKind::Rows, |out| out.extend_from_slice(payload)).unwrap();
            start
        });
        let starts = starts.collect();
        (out, starts)
    }

    fn found(bytes: &[u8]) -> Vec<&[u8]> {
        let payload = |item| match item {
            FilePart::Record { payload, .. } => Some(payload),
            _ => None,
        };
        Records::of(bytes).filter_map(payload).collect()
    }

    #[test]
    fn a_record_that_is_too_large_is_an_error_and_appends_nothing() {
        let (mut bytes, _) = file(&[b"before".to_vec()]);
        let before = bytes.clone();
        let put_some =
            |bytes: &mut Vec<u8>, length: usize| put(bytes, RecordKind::Note, |out| out.resize(out.len() + length, 7));
        assert_eq!(put_some(&mut bytes, MOST + 1), Err(RecordTooLarge(MOST + 1)));
        assert_eq!(bytes, before);
        assert_eq!(put_some(&mut bytes, MOST), Ok(()));
        assert_eq!(found(&bytes).last().map(|payload| payload.len()), Some(MOST));
    }

    proptest! {
        #[test]
        fn a_flipped_bit_loses_one_record(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20),
            place: prop::sample::Index,
            bit in 0u32..8,
        ) {
            let (mut bytes, starts) = file(&payloads);
            prop_assert_eq!(found(&bytes), payloads.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let at = place.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            let hit = starts.partition_point(|&start| start <= at) - 1;
            let rest: Vec<_> = payloads.iter().enumerate().filter(|(i, _)| *i != hit).map(|(_, p)| &p[..]).collect();
            prop_assert_eq!(found(&bytes), rest);
        }

        #[test]
        fn a_truncated_file_keeps_its_whole_records(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20),
            place: prop::sample::Index,
        ) {
            let (bytes, starts) = file(&payloads);
            let cut = place.index(bytes.len());
            let whole = starts.iter().skip(1).filter(|&&start| start <= cut).count();
            prop_assert_eq!(found(&bytes[..cut]).len(), whole);
        }

        #[test]
        fn reading_records_from_any_bytes_does_not_panic(bytes: Vec<u8>) {
            found(&bytes);
        }
    }
}
