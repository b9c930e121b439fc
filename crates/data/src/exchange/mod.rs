//! How the tasks of a stage give each other rows: each task writes one file, sorted by the rows' key and cut into row
//! groups at fixed keys; a later task merges the rows of a range of keys out of all files. So a row travels from the
//! task that made it to the one that needs it with two sequential passes over disk and no connection between machines,
//! as in MapReduce (Dean and Ghemawat 2004).
//!
//! A key is a hash where rows are to be spread evenly, or a number of a document where they are to go to the task that
//! has that document. Files are Parquet, compressed by zstd, and readable with any tool.

mod merge;
pub(crate) mod record;
mod writer;

pub use merge::{Groups, merge};
pub use record::Record;
pub(crate) use record::record;
pub use writer::{Limits, Writer};

use std::ops::RangeInclusive;

/// The keys of hashes that the task `k` of `n` reads.
pub fn hash_range(k: usize, n: usize) -> RangeInclusive<u64> {
    let border = |k: usize| ((k as u128) << 64).div_ceil(n as u128);
    border(k) as u64..=(border(k + 1) - 1) as u64
}

/// The keys that are numbers of documents in the split `k`.
pub fn split_range(k: usize) -> RangeInclusive<u64> {
    let first = (k as u64) << 32;
    first..=first | u64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash;
    use crate::storage::Folder;

    record! {
        /// A row.
        Row {
            /// Key.
            key: u64,
            name: String,
            count: u32,
        } absorb(this, later) {
            if (this.key, &this.name) == (later.key, &later.name) {
                this.count += later.count;
                return true;
            }
            false
        }
    }

    fn rows(seed: u64) -> Vec<Row> {
        (0..20_000u64)
            .map(|n| {
                let number = hash::mix(seed * 1_000_000 + n) % 6000;
                Row { key: hash::mix(number), name: format!("row {number} \u{1f980}"), count: 1 }
            })
            .collect()
    }

    fn write(folder: &Folder, name: &str, rows: Vec<Row>, memory: usize) {
        let limits = Limits { memory, borders: 7 };
        let mut writer = Writer::new(folder, limits).unwrap();
        rows.into_iter().try_for_each(|row| writer.push(row)).unwrap();
        writer.finish(name).unwrap();
    }

    fn read(folder: &Folder, names: &[&str], part: (usize, usize), memory: usize) -> Vec<Row> {
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        merge(folder, &names, hash_range(part.0, part.1), memory).unwrap().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn rows_arrive_once_sorted_and_summed_whatever_the_memory() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path()).unwrap();
        let mut expected: std::collections::BTreeMap<(u64, String), u32> = Default::default();
        for seed in 0..3 {
            for row in rows(seed) {
                *expected.entry((row.key, row.name)).or_default() += 1;
            }
            write(&folder, &format!("much-{seed}"), rows(seed), 1 << 30);
            write(&folder, &format!("little-{seed}"), rows(seed), 50_000);
            let bytes = |kind: &str| std::fs::read(folder.path(&format!("{kind}-{seed}"))).unwrap();
            assert!(bytes("much") == bytes("little"), "spilling changes the file");
        }
        let names = ["little-0", "little-1", "little-2"];
        for parts in [1, 3, 7, 20] {
            for memory in [1, 1 << 30] {
                let all: Vec<Row> =
                    (0..parts).flat_map(|k| read(&folder, &names, (k, parts), memory)).collect();
                let got: Vec<_> = all.into_iter().map(|r| ((r.key, r.name), r.count)).collect();
                assert!(
                    got.iter().eq(expected
                        .clone()
                        .iter()
                        .map(|(k, c)| (k.clone(), *c))
                        .collect::<Vec<_>>()
                        .iter())
                );
            }
        }
        let left: Vec<_> = folder.names().unwrap().into_iter().filter(|n| n.contains("scratch")).collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn ranges_cover_all_keys_once() {
        for n in [1, 2, 3, 7, 1000] {
            let mut next = 0u128;
            for k in 0..n {
                let range = hash_range(k, n);
                assert_eq!(*range.start() as u128, next);
                next = *range.end() as u128 + 1;
            }
            assert_eq!(next, 1 << 64);
        }
        assert_eq!(split_range(1), 1 << 32..=(2 << 32) - 1);
    }

    #[test]
    fn a_reader_of_one_range_reads_little_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path()).unwrap();
        write(&folder, "rows", rows(1), 1 << 30);
        let blob = folder.open("rows").unwrap();
        let ranges = merge::group_ranges(blob.into()).unwrap();
        assert_eq!(ranges.len(), 7, "a row group for each seventh of the keys");
        for (k, (first, last)) in ranges.iter().enumerate() {
            assert!(hash_range(k, 7).contains(first) && hash_range(k, 7).contains(last));
        }
    }

    record! {
        /// A row for a document.
        Note by document {
            /// The document.
            document: u64,
            text: String,
        }
    }

    #[test]
    fn row_groups_of_rows_by_document_end_with_splits() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path()).unwrap();
        let limits = Limits { memory: 1 << 30, borders: 3 };
        let mut writer = Writer::new(&folder, limits).unwrap();
        let rows = |split: usize| (0..40u64).map(move |row| (split as u64) << 32 | row);
        for document in (0..200).rev().flat_map(rows) {
            writer.push(Note { document, text: "x".repeat(100) }).unwrap();
        }
        writer.finish("notes").unwrap();
        let groups = merge::group_ranges(folder.open("notes").unwrap().into()).unwrap();
        // 8,000 rows of 132 bytes, 64 KB a group.
        assert!((10..=17).contains(&groups.len()), "{}", groups.len());
        for pair in groups.windows(2) {
            assert!(pair[0].1 >> 32 < pair[1].0 >> 32, "a split is in one group: {pair:?}");
        }
        let read: Vec<Note> = merge(&folder, &["notes".into()], split_range(77), 1 << 20)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(read.iter().map(|note| note.document).eq(rows(77)));
    }
}
