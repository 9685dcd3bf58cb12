//! An exposition gives the same lines, or the same error, in whatever pieces it comes. The first byte chooses the format
//! and the length of the pieces.
#![no_main]

use dropsonde_openmetrics::ExpositionFormat;
use dropsonde_openmetrics::read::{ExpositionLine, ExpositionReader, ReadError, read};

/// Returns a line as text, with every label.
fn shown(line: ExpositionLine<'_>) -> String {
    match line {
        ExpositionLine::Sample(sample) => {
            let labels: Vec<_> = sample.labels.iter().collect();
            format!("{} {labels:?} {:?} {:?}", sample.name, sample.value.to_bits(), sample.at_ms)
        }
        other => format!("{other:?}"),
    }
}

fn in_pieces(bytes: &[u8], length: usize, format: ExpositionFormat) -> (Vec<String>, Result<(), ReadError>) {
    let (mut lines, mut reader) = (Vec::new(), ExpositionReader::new(format));
    let mut take = |line: ExpositionLine<'_>| lines.push(shown(line));
    let pushed = bytes.chunks(length).try_for_each(|piece| reader.push(piece, &mut take));
    let end = pushed.and_then(|()| reader.finish(&mut take));
    (lines, end)
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((first, exposition)) = bytes.split_first() else { return };
    let format = if first & 1 == 0 { ExpositionFormat::Text } else { ExpositionFormat::OpenMetrics };
    let mut lines = Vec::new();
    let end = read(exposition, format, &mut |line| lines.push(shown(line)));
    assert_eq!(in_pieces(exposition, 1 + usize::from(first >> 1), format), (lines, end));
});
