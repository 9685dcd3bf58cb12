//! Writes whole numbers in few bytes, and reads them back from untrusted bytes.

/// The error for bytes that are not as they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("corrupt block")]
pub(crate) struct CorruptData;

/// The bytes that are left to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ByteReader<'a>(pub(crate) &'a [u8]);

pub(crate) fn put_u64(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_u64(out, zigzag(value));
}

pub(crate) fn put_f64(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_bits().to_le_bytes());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u64(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Maps small numbers of either sign to small unsigned numbers.
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

impl<'a> ByteReader<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CorruptData> {
        let (&first, rest) = self.0.split_first().ok_or(CorruptData)?;
        self.0 = rest;
        Ok(first)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CorruptData> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(CorruptData)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, CorruptData> {
        self.u64().map(unzigzag)
    }

    /// Reads a number of at most `most`. The bound limits the allocations that depend on the number.
    pub(crate) fn up_to(&mut self, most: usize) -> Result<usize, CorruptData> {
        usize::try_from(self.u64()?).ok().filter(|&value| value <= most).ok_or(CorruptData)
    }

    pub(crate) fn f64(&mut self) -> Result<f64, CorruptData> {
        let bytes = self.take(8)?.try_into().map_err(|_| CorruptData)?;
        Ok(f64::from_bits(u64::from_le_bytes(bytes)))
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], CorruptData> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(CorruptData)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Reads a length, then that many bytes.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], CorruptData> {
        let length = self.up_to(self.0.len())?;
        self.take(length)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, CorruptData> {
        std::str::from_utf8(self.bytes()?).map_err(|_| CorruptData)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn written_numbers_and_bytes_read_back_unchanged(a: u64, b: i64, c: f64, d: Vec<u8>) {
            let mut out = Vec::new();
            put_u64(&mut out, a);
            put_i64(&mut out, b);
            put_f64(&mut out, c);
            put_bytes(&mut out, &d);
            let mut reader = ByteReader(&out);
            prop_assert_eq!((reader.u64(), reader.i64()), (Ok(a), Ok(b)));
            prop_assert_eq!(reader.f64().map(f64::to_bits), Ok(c.to_bits()));
            prop_assert_eq!(reader.bytes(), Ok(&d[..]));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn reading_any_bytes_returns_a_value_or_an_error(bytes: Vec<u8>) {
            let _ = ByteReader(&bytes).u64();
            let _ = ByteReader(&bytes).text();
            prop_assert!(ByteReader(&bytes).up_to(10).is_ok_and(|n| n <= 10) || ByteReader(&bytes).up_to(10).is_err());
        }
    }
}
