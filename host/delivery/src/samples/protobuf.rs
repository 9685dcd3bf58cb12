//! Fields of protobuf messages, written one after the other: a request has thousands of labels that need not be copied
//! into messages first.

use bytes::BufMut as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

/// The bytes of a key with its number and wire type, of fields up to 15.
pub(super) const KEY: usize = 1;

/// Returns the length of a message within another, with its key and its own length.
pub(super) fn message_len(content: usize) -> usize {
    KEY + encoded_len_varint(content as u64) + content
}

pub(super) fn put_varint(number: u32, value: u64, into: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, into);
    encode_varint(value, into);
}

pub(super) fn put_fixed(number: u32, value: u64, into: &mut Vec<u8>) {
    encode_key(number, WireType::SixtyFourBit, into);
    into.put_u64_le(value);
}

pub(super) fn put_double(number: u32, value: f64, into: &mut Vec<u8>) {
    put_fixed(number, value.to_bits(), into);
}

/// Writes the key and the length of a message, whose content follows.
pub(super) fn begin_message(number: u32, content: usize, into: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, into);
    encode_varint(content as u64, into);
}

pub(super) fn put_message(number: u32, content: &[u8], into: &mut Vec<u8>) {
    begin_message(number, content.len(), into);
    into.extend_from_slice(content);
}

pub(super) fn put_text(number: u32, text: &str, into: &mut Vec<u8>) {
    put_message(number, text.as_bytes(), into);
}
