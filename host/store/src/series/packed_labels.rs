//! The label sets of a frame's columns in few bytes: neighbours share the beginnings of their texts.

use crate::codec::{ByteReader, CorruptData, put_bytes, put_u64};
use dropsonde_model::{Labels, MetricType, labels};

/// The label set and the metric type of each column of a frame. In files it has the same form.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PackedLabels {
    columns: usize,
    bytes: Box<[u8]>,
}

impl PackedLabels {
    /// Packs the label sets of columns. If they are sorted, they take least.
    pub(crate) fn of<'a>(columns: impl Iterator<Item = (&'a Labels, MetricType)>) -> Self {
        let (mut count, mut bytes, mut before) = (0, Vec::new(), "");
        for (labels, metric_type) in columns {
            let text = labels.as_text();
            let shared = shared_start(before, text);
            let code = MetricType::ALL.iter().position(|known| *known == metric_type).unwrap_or_default();
            bytes.push(code as u8);
            put_u64(&mut bytes, shared as u64);
            put_bytes(&mut bytes, text.as_bytes().get(shared..).unwrap_or_default());
            before = text;
            count += 1;
        }
        Self { columns: count, bytes: bytes.into() }
    }

    /// Reads what [`PackedLabels::bytes`] returned, and checks it.
    pub(crate) fn read(columns: usize, bytes: &[u8]) -> Result<Self, CorruptData> {
        let packed = Self { columns, bytes: bytes.into() };
        let (mut read, mut are_labels) = (0, true);
        packed.try_each(|text, _| {
            read += 1;
            are_labels &= labels::is_text(text);
        })?;
        if read == columns && are_labels { Ok(packed) } else { Err(CorruptData) }
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the label set and the metric type of each column.
    pub(crate) fn unpacked(&self) -> Vec<(Labels, MetricType)> {
        let mut all = Vec::with_capacity(self.columns);
        self.each(|text, metric_type| all.push((Labels::from_text(text).unwrap_or_default(), metric_type)));
        all
    }

    /// Passes the label set of each column to `each`, as [`Labels::as_text`] returns it, and the metric type.
    pub(crate) fn each(&self, each: impl FnMut(&str, MetricType)) {
        // What was packed or checked can be read.
        let read = self.try_each(each);
        debug_assert!(read.is_ok());
    }

    fn try_each(&self, mut each: impl FnMut(&str, MetricType)) -> Result<(), CorruptData> {
        let mut reader = ByteReader(&self.bytes);
        let mut text = String::new();
        while !reader.is_empty() {
            let metric_type = *MetricType::ALL.get(usize::from(reader.u8()?)).ok_or(CorruptData)?;
            let shared = reader.up_to(text.len())?;
            if !text.is_char_boundary(shared) {
                return Err(CorruptData);
            }
            text.truncate(shared);
            text.push_str(reader.text()?);
            each(&text, metric_type);
        }
        Ok(())
    }
}

impl std::fmt::Debug for PackedLabels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.unpacked()).finish()
    }
}

/// Returns how many bytes two texts have in common at the start, up to the boundary of a character.
fn shared_start(a: &str, b: &str) -> usize {
    let shared = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    (0..=shared).rev().find(|&at| b.is_char_boundary(at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packed_label_sets_are_unpacked_unchanged(
            columns in vec((vec(("[a-cä]{0,3}", "[^\\x00]{0,4}"), 0..4), 0..5_usize), 0..20),
        ) {
            let columns: Vec<(Labels, MetricType)> = columns
                .into_iter()
                .map(|(pairs, code)| (pairs.into_iter().collect(), MetricType::ALL[code]))
                .collect();
            let packed = PackedLabels::of(columns.iter().map(|(labels, metric_type)| (labels, *metric_type)));
            prop_assert_eq!(packed.unpacked(), columns);
            prop_assert_eq!(&PackedLabels::read(packed.columns(), packed.bytes()).unwrap(), &packed);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..64), columns in 0..4_usize) {
            if let Ok(packed) = PackedLabels::read(columns, &bytes) {
                prop_assert_eq!(packed.unpacked().len(), columns);
            }
        }
    }

    #[test]
    fn neighbours_that_differ_in_one_value_take_few_bytes() {
        let of = |cpu: u32| Labels::from([("__name__", "node_cpu_seconds_total"), ("cpu", &cpu.to_string())]);
        let labels: Vec<Labels> = (10..99).map(of).collect();
        let packed = PackedLabels::of(labels.iter().map(|labels| (labels, MetricType::Counter)));
        assert!(packed.bytes().len() < 60 + 7 * labels.len(), "{} bytes", packed.bytes().len());
    }
}
