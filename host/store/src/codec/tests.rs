use super::*;
use crate::fuzzing;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

fn rows() -> impl Strategy<Value = RawRows> {
    let value = prop_oneof![10 => -1e5..1e5f64, 3 => Just(7.0), 2 => Just(f64::NAN), 1 => any::<f64>()];
    let row = (prop_oneof![4 => Just(1000i64), 1 => 1i64..100_000], prop::array::uniform4(value));
    (prop::collection::vec(row, 1..80), any::<u32>(), 0i64..1 << 40).prop_map(|(rows, generation, start)| {
        let schema = fuzzing::schema();
        let mut at = start;
        let mut made = RawRows { generation, columns: vec![vec![]; 4], ..RawRows::default() };
        made.before = vec![None, Some(CounterTotal { read_ms: start as f64 - 5.0, total: 1.5 }), None];
        for (gap, values) in rows {
            at += gap;
            made.at_ms.push(at);
            for (index, value) in values.into_iter().enumerate() {
                made.columns[index].push(schema.quantum(index).keep(value));
            }
        }
        made
    })
}

/// Consecutive pages.
fn pages() -> impl Strategy<Value = Vec<RawRows>> {
    prop::collection::vec(rows(), 1..5)
}

fn packed(pages: &[RawRows], effort: Effort) -> Vec<u8> {
    let schema = fuzzing::schema();
    let layout = crate::Layout::of(1000);
    let cells: Vec<_> =
        pages.iter().map(|page| page.clone().into_values(&schema).parts(&schema, layout).whole(&schema)).collect();
    let cells: Vec<&[Cell]> = cells.iter().map(|cells| &cells[..]).collect();
    encode(&schema, &pages.iter().collect::<Vec<_>>(), &cells, effort)
}

fn bits(rows: &RawRows) -> Vec<Vec<u64>> {
    rows.columns.iter().map(|column| column.iter().map(|value| value.to_bits()).collect()).collect()
}

proptest! {
    #[test]
    fn unpacked_pages_equal_packed_pages_to_the_bit(pages in pages(), dense: bool) {
        let bytes = packed(&pages, if dense { Effort::Dense } else { Effort::Fast });
        let schema = fuzzing::schema();
        let chunk = Chunk::read(&schema, &bytes).unwrap();
        prop_assert_eq!(chunk.pages.len(), pages.len());
        for (index, page) in pages.iter().enumerate() {
            let read = chunk.rows(index).unwrap();
            prop_assert_eq!((&read.at_ms, &read.before, read.generation), (&page.at_ms, &page.before, page.generation));
            prop_assert_eq!(bits(&read), bits(page));
            let head = &chunk.pages[index];
            prop_assert_eq!((head.first_ms, Some(&head.last_ms)), (page.at_ms[0], page.at_ms.last()));
        }
    }

    #[test]
    fn corrupt_chunks_are_unpacked_or_rejected_without_a_panic(
        pages in pages(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut: prop::sample::Index,
    ) {
        let mut bytes = packed(&pages, Effort::Fast);
        for (at, with) in damage {
            let at = at.index(bytes.len());
            bytes[at] ^= with;
        }
        fuzzing::chunk(&bytes);
        fuzzing::chunk(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn opening_a_file_of_any_bytes_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzzing::file(&bytes);
    }
}

/// Checks the fuzzing seeds. Set `DROPSONDE_WRITE_SEEDS` to write new ones after a change of the format.
#[test]
fn fuzzing_seeds_are_valid_chunks() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    if std::env::var_os("DROPSONDE_WRITE_SEEDS").is_some() {
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        for seed in 0..12 {
            let pages = pages().new_tree(&mut runner).unwrap().current();
            let chunk = packed(&pages, if seed % 2 == 0 { Effort::Fast } else { Effort::Dense });
            std::fs::write(folder.join(format!("chunk/chunk-{seed}")), chunk).unwrap();
        }
        for (kind, file) in fuzzing::files().into_iter().enumerate() {
            std::fs::write(folder.join(format!("file/file-{kind}")), file).unwrap();
        }
    }
    let seeds: Vec<_> = std::fs::read_dir(folder.join("chunk")).unwrap().map(|seed| seed.unwrap().path()).collect();
    assert_eq!(seeds.len(), 12);
    for seed in seeds {
        let bytes = std::fs::read(&seed).unwrap();
        let schema = fuzzing::schema();
        let chunk = Chunk::read(&schema, &bytes)
            .unwrap_or_else(|_| panic!("{}: outdated seed; set DROPSONDE_WRITE_SEEDS and run again", seed.display()));
        assert!((0..chunk.pages.len()).all(|page| chunk.rows(page).is_ok()));
    }
}
