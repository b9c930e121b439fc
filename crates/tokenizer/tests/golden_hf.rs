//! Equality with Hugging Face's `tokenizers`. The golden files were made by `golden/make_tokenizer_golden.py`.

use herd_tokenizer::Tokenizer;
use herd_tokenizer::train::{Settings, train};
use serde_json::Value;
use std::path::PathBuf;

const CORPUS: &str = include_str!("golden/corpus.txt");

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Same vocabulary, same merges in the same order, same everything else: what Herd trains and writes is what
/// Hugging Face trains and writes.
#[test]
fn training_gives_the_same_tokenizer_json() {
    let settings = Settings { vocab_size: 1600, min_frequency: 2, ..Settings::default() };
    let folder = tempfile::tempdir().unwrap();
    train(&[CORPUS], &settings).unwrap().save(folder.path()).unwrap();
    let ours = json(folder.path().join("tokenizer.json"));
    let theirs = json(golden("tokenizer.json"));
    let merges = |v: &Value| v["model"]["merges"].as_array().unwrap().clone();
    for (rank, (our, their)) in merges(&ours).iter().zip(&merges(&theirs)).enumerate() {
        assert_eq!(our, their, "merge {rank}");
    }
    for (key, theirs) in theirs.as_object().unwrap() {
        assert_eq!(&ours[key], theirs, "{key}");
    }
    assert_eq!(ours.as_object().unwrap().len(), theirs.as_object().unwrap().len());
}

#[test]
fn encoding_gives_the_same_ids() {
    let tokenizer = Tokenizer::load(golden("tokenizer.json")).unwrap();
    let golden = json(golden("encodings.json"));
    let rows = golden["encode"].as_array().unwrap();
    assert!(rows.len() > 400);
    for row in rows {
        let text = row[0].as_str().unwrap();
        let expected = ids(&row[1]);
        // Twice: the second time from the cache.
        assert_eq!(tokenizer.encode(text), expected, "{text:?}");
        assert_eq!(tokenizer.encode(text), expected, "{text:?} again");
        let with_special = row.get(2).map_or(expected, ids);
        assert_eq!(tokenizer.encode_with_special(text), with_special, "{text:?} with special tokens");
        assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text);
    }
}

#[test]
fn decoding_gives_the_same_text_also_where_it_is_not_utf_8() {
    let tokenizer = Tokenizer::load(golden("tokenizer.json")).unwrap();
    for row in json(golden("encodings.json"))["decode"].as_array().unwrap() {
        let ids = ids(&row[0]);
        assert_eq!(tokenizer.decode(&ids), row[1].as_str().unwrap(), "{ids:?}");
        let mut stream = tokenizer.stream();
        let mut text: String = ids.iter().filter_map(|&id| stream.push(id)).collect();
        text.extend(stream.finish());
        assert_eq!(text, row[1].as_str().unwrap(), "streamed {ids:?}");
    }
}
