//! Damaged tokenizer files: an error or a tokenizer that encodes and decodes, never a panic.

use herd_tokenizer::{GgufTokenizer, Tokenizer};
use serde_json::{Value, json};
use std::path::Path;

/// A number for a place and a purpose (splitmix64).
fn mixed(n: u64) -> u64 {
    let n = n.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    n ^ (n >> 31)
}

const TEXT: &str = "I'll pay  1234 €!\n\n <s>中文 [tool] \u{4}🙂\t";

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rules").join(name);
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file["tokenizer"].clone()
}

fn use_it(tokenizer: &Tokenizer) {
    let ids = tokenizer.encode_with_special(TEXT);
    tokenizer.decode(&ids);
    tokenizer.decode(&[0, 1, 7, u32::MAX, tokenizer.vocab_size() as u32]);
    let mut stream = tokenizer.stream();
    ids.iter().for_each(|&id| drop(stream.push(id)));
}

/// Every value of a JSON tree by its place.
fn places(value: &Value, path: String, out: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            // Of long lists a few are enough.
            for (key, value) in fields.iter().take(40) {
                places(value, format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), out);
            }
        }
        Value::Array(values) => {
            for (at, value) in values.iter().enumerate().take(12) {
                places(value, format!("{path}/{at}"), out);
            }
        }
        _ => {}
    }
    out.push(path);
}

#[test]
fn every_value_replaced_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokenizer.json");
    let strange = [
        json!(null),
        json!(u64::MAX),
        json!(-1),
        json!(""),
        json!([]),
        json!({}),
        json!("Sequence"),
        json!(true),
    ];
    let mut opened = 0;
    for name in ["smollm.json", "llama2.json", "qwen2.json"] {
        let whole = golden(name);
        let mut all = Vec::new();
        places(&whole, String::new(), &mut all);
        for (at, place) in all.iter().enumerate() {
            let mut changed = whole.clone();
            let Some(value) = changed.pointer_mut(place) else { continue };
            *value = strange[mixed(at as u64) as usize % strange.len()].clone();
            std::fs::write(&file, changed.to_string()).unwrap();
            match Tokenizer::load(&file) {
                Ok(tokenizer) => {
                    use_it(&tokenizer);
                    opened += 1;
                }
                Err(error) => assert!(error.to_string().contains("tokenizer.json"), "{place}: {error}"),
            }
        }
    }
    assert!(opened > 10, "{opened}");
}

#[test]
fn bytes_changed_and_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokenizer.json");
    let whole = golden("smollm.json").to_string().into_bytes();
    for n in 0..300u64 {
        let mut bytes = whole.clone();
        let at = mixed(n) as usize % bytes.len();
        match n % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << (n % 7),
            _ => bytes[at] = b"0\"[}9,"[n as usize % 6],
        }
        std::fs::write(&file, bytes).unwrap();
        if let Ok(tokenizer) = Tokenizer::load(&file) {
            use_it(&tokenizer);
        }
    }
}

#[test]
fn gguf_lists_that_contradict_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokenizer.json");
    for name in ["smollm.json", "llama2.json"] {
        std::fs::write(&file, golden(name).to_string()).unwrap();
        let whole = Tokenizer::load(&file).unwrap().to_gguf().unwrap();
        use_it(&Tokenizer::from_gguf(&whole).unwrap());
        type Change = fn(&mut GgufTokenizer<'_>, usize);
        let changes: [(&str, Change); 10] = [
            ("token_type", |g, _| g.types.truncate(5)),
            ("", |g, n| drop(g.tokens.remove(n % g.tokens.len()))),
            ("", |g, n| g.types[n] = n as i32),
            ("token_type", |g, n| g.types[n] = 99),
            ("", |g, n| g.tokens[n] = "".into()),
            ("", |g, n| g.merges.push(format!("x{n}").into())),
            ("", |g, _| g.scores.iter_mut().for_each(|s| *s = 0.0)),
            ("bos_token_id", |g, _| g.bos = Some(1 << 30)),
            ("tokenizer.ggml.model", |g, _| g.model = "bert".into()),
            ("", |g, _| g.tokens.clear()),
        ];
        for (expected, change) in changes {
            for n in [0, 3, 100, 300] {
                let mut changed = whole.clone();
                change(&mut changed, n);
                match Tokenizer::from_gguf(&changed) {
                    Ok(tokenizer) => {
                        assert_eq!(expected, "");
                        use_it(&tokenizer);
                    }
                    Err(error) => assert!(error.to_string().contains(expected), "{expected}: {error}"),
                }
            }
        }
    }
}
