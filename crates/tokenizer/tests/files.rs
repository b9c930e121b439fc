//! Tokenizer files that are not what they should be: the error names the file and the place.

use herd_tokenizer::Tokenizer;
use herd_tokenizer::train::Settings;
use serde_json::{Value, json};
use std::fs;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tokenizer.json");

fn refused(content: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    fs::write(&path, content).unwrap();
    let message = Tokenizer::load(&path).err().expect("must be refused").to_string();
    assert!(message.contains("tokenizer.json: "), "{message}");
    message
}

#[test]
fn a_broken_tokenizer_json_is_refused_with_the_place() {
    let good: Value = serde_json::from_slice(&fs::read(GOLDEN).unwrap()).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        refused(value.to_string().as_bytes())
    };
    type Change<'a> = (&'a str, &'a dyn Fn(&mut Value));
    let cases: [Change; 12] = [
        ("model.type", &|v| v["model"]["type"] = json!("Unigram")),
        ("normalizer", &|v| v["normalizer"] = json!({"type": "NFC"})),
        ("normalizer: {\"type\"", &|v| {
            v["model"]["byte_fallback"] = json!(true);
            v["normalizer"] = json!({"type": "Prepend", "prepend": "#"});
        }),
        ("look-around", &|v| v["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(r"\w+(?=x)")),
        ("possessive", &|v| v["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(r"\w++|.")),
        ("\"Removed\"", &|v| v["pre_tokenizer"]["pretokenizers"][0]["behavior"] = json!("Removed")),
        ("\"BertPreTokenizer\" is not", &|v| v["pre_tokenizer"] = json!({"type": "BertPreTokenizer"})),
        ("ByteLevel with add_prefix_space", &|v| {
            v["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = json!(true);
        }),
        ("model.merges[3]", &|v| v["model"]["merges"][3] = json!(["zq", "qz"])),
        ("model.vocab: \"!\" has id 90000", &|v| v["model"]["vocab"]["!"] = json!(90000)),
        ("two tokens have the id 7", &|v| v["model"]["vocab"]["!"] = json!(7)),
        ("added_tokens: \"<|eot_id|>\" has id 99999", &|v| v["added_tokens"][9]["id"] = json!(99999)),
    ];
    for (expected, change) in cases {
        let message = with(change);
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn a_truncated_file_or_another_kind_of_file_is_refused() {
    let bytes = fs::read(GOLDEN).unwrap();
    for length in [0, 1, 100, bytes.len() / 2, bytes.len() - 3] {
        refused(&bytes[..length]);
    }
    assert!(refused(b"IQ== 0\nIg== 5\n").contains("line 2"));
    assert!(refused(b"IQ== 0\nnot base64! 1\n").contains("line 2"));
    assert!(refused(b"IQ== 0\n").contains("byte 0x00"));
    let missing = Tokenizer::load("/nowhere/tokenizer.json").err().unwrap().to_string();
    assert!(missing.contains("/nowhere/tokenizer.json") && missing.contains("check the path"), "{missing}");
}

#[test]
fn impossible_settings_are_refused_by_their_key() {
    let problem = |settings: Settings| settings.validate().unwrap_err();
    let small = problem(Settings { vocab_size: 511, ..Settings::default() });
    assert_eq!(small.key, "vocab_size");
    assert!(small.problem.contains("512"), "{small}");
    assert_eq!(problem(Settings { vocab_size: usize::MAX, ..Settings::default() }).key, "vocab_size");
    assert_eq!(problem(Settings { min_frequency: 0, ..Settings::default() }).key, "min_frequency");
    assert!(Settings { vocab_size: 512, ..Settings::default() }.validate().is_ok());
    let unknown = serde_json::from_value::<Settings>(json!({"chat_template": "chatml"})).unwrap_err();
    assert!(unknown.to_string().contains("llama3.1"), "{unknown}");
}
