//! Token shards on disk.

use herd_tokenizer::shard::{TokenShard, TokenShardWriter};
use std::fs;
use std::path::Path;

fn write(path: &Path, vocab_size: usize, documents: &[Vec<u32>]) {
    let mut writer = TokenShardWriter::create(path, vocab_size).unwrap();
    for document in documents {
        writer.push(document, document.len() as u64 * 3).unwrap();
    }
    let stats = writer.finish().unwrap();
    assert_eq!(stats.tokens, documents.iter().map(|d| d.len() as u64).sum::<u64>());
}

#[test]
fn documents_come_back_at_both_widths() {
    let dir = tempfile::tempdir().unwrap();
    for vocab_size in [600, 1 << 16, (1 << 16) + 1, 128_256] {
        let path = dir.path().join(format!("{vocab_size}.tok"));
        let top = vocab_size as u32 - 1;
        let documents = vec![vec![1, 2, top], vec![], vec![top; 77], vec![0]];
        write(&path, vocab_size, &documents);
        let shard = TokenShard::open(&path).unwrap();
        shard.verify().unwrap();
        assert_eq!(shard.vocab_size(), vocab_size);
        assert_eq!(shard.document_ends(), [3, 3, 80, 81]);
        for (i, document) in documents.iter().enumerate() {
            assert_eq!(&shard.document(i).ids, document);
            assert_eq!(shard.document(i).bytes, document.len() as u64 * 3);
        }
        let mut window = vec![9];
        shard.read(2..4, &mut window);
        shard.read(79..1000, &mut window);
        assert_eq!(window, [9, top, top, top, 0]);
        assert!(shard.document(4).ids.is_empty());
    }
}

#[test]
fn an_empty_shard_is_a_shard() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty.tok");
    write(&path, 600, &[]);
    let shard = TokenShard::open(&path).unwrap();
    shard.verify().unwrap();
    assert_eq!((shard.tokens(), shard.documents()), (0, 0));
}

#[test]
fn a_file_cut_anywhere_or_with_a_changed_byte_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tok");
    write(&path, 600, &[vec![1, 2, 3], vec![4, 5]]);
    let bytes = fs::read(&path).unwrap();
    let damaged = dir.path().join("damaged.tok");
    let opens = |bytes: &[u8]| {
        fs::write(&damaged, bytes).unwrap();
        TokenShard::open(&damaged).and_then(|shard| shard.verify())
    };
    opens(&bytes).unwrap();
    for length in 0..bytes.len() {
        let message = opens(&bytes[..length]).unwrap_err().to_string();
        assert!(message.contains("damaged.tok"), "{message}");
    }
    // Bytes 26 to 31 are padding after the five tokens; nothing reads them.
    for at in (0..bytes.len()).filter(|at| !(26..32).contains(at)) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        let message = opens(&changed).unwrap_err().to_string();
        assert!(message.contains("damaged.tok"), "byte {at}: {message}");
    }
}

#[test]
fn an_unfinished_or_refused_shard_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = TokenShardWriter::create(dir.path().join("a.tok"), 600).unwrap();
    writer.push(&[1, 2], 4).unwrap();
    let error = writer.push(&[600], 1).unwrap_err().to_string();
    assert!(error.contains("600"), "{error}");
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
