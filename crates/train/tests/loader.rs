//! The sampler: nothing lost, nothing twice, no document crossed, the weights kept, the stream resumed.

use herd_run::Random;
use herd_tokenizer::shard::{TokenShard, TokenShardWriter};
use herd_train::loader::{Loader, Request, State, order};
use herd_train::packing::MicroBatch;
use std::collections::BTreeMap;
use std::path::Path;

/// A shard whose tokens are all different: `first`, `first + 1`, ... Lengths vary from 1 to `longest`.
fn shard(folder: &Path, name: &str, first: u32, documents: u64, longest: u64) -> (String, TokenShard) {
    let path = folder.join(format!("{name}.tok"));
    let mut writer = TokenShardWriter::create(&path, 1 << 20).unwrap();
    let mut next = first;
    for i in 0..documents {
        let length = 1 + Random::new(1, &[first.into()]).below(i, longest) as u32;
        writer.push(&(next..next + length).collect::<Vec<_>>(), 1).unwrap();
        next += length;
    }
    writer.finish().unwrap();
    (name.to_string(), TokenShard::open(&path).unwrap())
}

fn request(sequences: usize, sequence: usize, weights: &[f64]) -> Request {
    Request {
        sequences,
        sequence,
        sequences_per_micro_batch: 2,
        weights: weights.to_vec(),
        needle_share: 0.0,
    }
}

/// Checks a micro-batch against its own pieces and the shards (tokens that follow each other in a shard differ by 1).
fn check(micro: &MicroBatch, starts: &[BTreeMap<u64, u32>]) {
    let mut row = 0;
    for (piece, segment) in micro.pieces.iter().zip(micro.batch.segments.list()) {
        assert_eq!(segment.rows, row..row + piece.rows, "a segment is exactly one document's stretch");
        assert!(segment.prefix.is_empty(), "and sees nothing before it");
        let first = starts[piece.domain.unwrap()][&piece.document] + piece.offset as u32;
        for i in 0..piece.rows {
            assert_eq!(micro.batch.tokens[row + i], first + i as u32);
            assert_eq!(micro.targets[row + i], first + i as u32 + 1);
            assert_eq!(micro.batch.positions[row + i], i as u32);
        }
        row += piece.rows;
    }
    assert_eq!((row, micro.batch.segments.rows()), (micro.targets.len(), row));
}

fn starts(shard: &TokenShard, first: u32) -> BTreeMap<u64, u32> {
    (0..shard.documents() as u64)
        .map(|d| (d, first + shard.document_range(d as usize).start as u32))
        .collect()
}

#[test]
fn every_token_of_an_epoch_is_a_target_exactly_once() {
    let dir = tempfile::tempdir().unwrap();
    let (name, shard) = shard(dir.path(), "a", 0, 97, 300);
    let starts = vec![starts(&shard, 0)];
    let lengths: Vec<u64> = (0..97).map(|d| shard.document_range(d).count() as u64).collect();
    let mut loader = Loader::new(vec![(name, shard)], 3).unwrap();
    let mut seen: BTreeMap<u32, u64> = BTreeMap::new();
    let mut most_documents = 0;
    for step in 0..120 {
        let micros = loader.next(&request(7, 64, &[1.0]));
        for micro in &micros {
            check(micro, &starts);
            micro.targets.iter().for_each(|&t| *seen.entry(t).or_default() += 1);
        }
        let mut documents: Vec<u64> = micros.iter().flat_map(|m| &m.pieces).map(|p| p.document).collect();
        documents.sort();
        documents.dedup();
        most_documents = most_documents.max(documents.len());
        // What must have been seen: a document once for each time it was begun, less what is still open of it.
        let cursor = &loader.state().cursors[0];
        let mut begun = vec![cursor.epoch; 97];
        (0..cursor.next).for_each(|i| begun[order(97, 3, 0, cursor.epoch).at(i) as usize] += 1);
        for (document, &length) in lengths.iter().enumerate() {
            for offset in 1..length {
                let open = cursor
                    .lanes
                    .iter()
                    .flatten()
                    .filter(|o| o.document == document as u64 && o.offset < offset);
                let due = begun[document] - open.count() as u64;
                let token = starts[0][&(document as u64)] + offset as u32;
                assert_eq!(
                    seen.get(&token).copied().unwrap_or(0),
                    due,
                    "step {step}, {document} at {offset}"
                );
            }
            assert!(!seen.contains_key(&starts[0][&(document as u64)]), "nothing predicts a first token");
        }
    }
    assert!(loader.state().cursors[0].epoch >= 2, "the test spans epochs");
    assert!(most_documents > 7, "a step is not filled by one document");
}

fn three(dir: &Path, seed: u64) -> (Loader, Vec<BTreeMap<u64, u32>>) {
    let shards = [("a", 0, 50, 200), ("b", 100_000, 80, 40), ("c", 200_000, 9, 1000)];
    let opened: Vec<_> =
        shards.iter().map(|&(name, first, n, longest)| shard(dir, name, first, n, longest)).collect();
    let starts = opened.iter().zip(shards).map(|((_, s), (_, first, ..))| starts(s, first)).collect();
    (Loader::new(opened, seed).unwrap(), starts)
}

#[test]
fn proportions_follow_the_weights_and_their_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (mut loader, starts) = three(dir.path(), 1);
    let mut last = [0i64; 3];
    for weights in [[0.5, 0.3, 0.2], [0.1, 0.9, 0.0], [1.0 / 3.0; 3]] {
        for _ in 0..50 {
            loader.next(&request(5, 128, &weights)).iter().for_each(|micro| check(micro, &starts));
        }
        let rows: Vec<i64> = loader.state().cursors.iter().map(|c| c.rows as i64).collect();
        for (i, weight) in weights.iter().enumerate() {
            let (got, due) = ((rows[i] - last[i]) as f64, 50.0 * 640.0 * weight);
            // Within one sequence, at each end of the stretch.
            assert!((got - due).abs() <= 256.0, "{i}: {got} rows instead of {due}");
        }
        last.copy_from_slice(&rows);
    }
}

#[test]
fn a_loader_resumed_from_json_gives_the_same_stream() {
    let dir = tempfile::tempdir().unwrap();
    let shapes = |step: usize| match step {
        0..7 => request(3, 100, &[0.6, 0.3, 0.1]),
        _ => request(2, 333, &[0.2, 0.2, 0.6]),
    };
    let rows = |loader: &mut Loader, step| -> Vec<u32> {
        loader.next(&shapes(step)).into_iter().flat_map(|micro| micro.batch.tokens).collect()
    };
    let (mut straight, _) = three(dir.path(), 9);
    let stream: Vec<_> = (0..30).map(|step| rows(&mut straight, step)).collect();
    for stop in [1, 6, 7, 20] {
        let other = tempfile::tempdir().unwrap();
        let (mut loader, _) = three(other.path(), 9);
        (0..stop).for_each(|step| assert_eq!(rows(&mut loader, step), stream[step]));
        let text = serde_json::to_string(loader.state()).unwrap();
        let state: State = serde_json::from_str(&text).unwrap();
        let (mut resumed, _) = three(dir.path(), 9);
        assert!(resumed.restore(state));
        (stop..30)
            .for_each(|step| assert_eq!(rows(&mut resumed, step), stream[step], "step {step} after {stop}"));
    }
    let (mut other_seed, _) = three(dir.path(), 10);
    assert_ne!(rows(&mut other_seed, 0), stream[0]);
}

#[test]
fn a_step_has_exactly_the_rows_asked_for_and_a_document_continues_where_it_was_cut() {
    let dir = tempfile::tempdir().unwrap();
    let shard = shard(dir.path(), "long", 0, 40, 5000);
    let starts = vec![starts(&shard.1, 0)];
    let mut loader = Loader::new(vec![shard], 0).unwrap();
    let mut next: BTreeMap<u64, u64> = BTreeMap::new();
    for _ in 0..20 {
        let micros = loader.next(&request(3, 50, &[1.0]));
        assert_eq!(micros.iter().map(|m| m.targets.len()).collect::<Vec<_>>(), [100, 50]);
        for piece in micros.iter().flat_map(|m| &m.pieces) {
            assert!(piece.rows <= 50, "no stretch is longer than a sequence");
            let expected = next.entry(piece.document).or_default();
            assert_eq!(piece.offset, *expected);
            *expected += piece.rows as u64;
        }
        micros.iter().for_each(|m| check(m, &starts));
    }
}

#[test]
fn a_domain_that_is_read_up_leaves_its_share_to_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let (large, small) =
            (shard(dir.path(), "large", 0, 40, 500), shard(dir.path(), "small", 20_000, 10, 50));
        Loader::new(vec![large, small], 7).unwrap().with_max_epochs(Some(2.0))
    };
    let mut loader = open();
    let passes = loader.rows_per_pass();
    for _ in 0..12 {
        loader.next(&request(4, 50, &[0.5, 0.5]));
    }
    let half = loader.state().clone();
    for _ in 0..50 {
        loader.next(&request(4, 50, &[0.5, 0.5]));
    }
    let rows: Vec<u64> = loader.state().cursors.iter().map(|c| c.rows).collect();
    // Twice its rows, and at most a step's share more.
    assert!((2 * passes[1]..2 * passes[1] + 100).contains(&rows[1]), "{rows:?} {passes:?}");
    assert_eq!(rows[0] + rows[1], 62 * 200);
    let mut resumed = open();
    assert!(resumed.restore(half));
    for _ in 0..50 {
        resumed.next(&request(4, 50, &[0.5, 0.5]));
    }
    assert_eq!(resumed.state(), loader.state(), "a cap needs no state of its own");
}

#[test]
fn shards_without_a_usable_document_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Loader::new(vec![shard(dir.path(), "single", 0, 5, 1)], 0).is_none());
    assert!(Loader::new(Vec::new(), 0).is_none());
}
