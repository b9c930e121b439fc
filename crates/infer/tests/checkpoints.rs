//! Hugging Face folders against Transformers. The files were made by `golden/make_checkpoints.py`.

use herd_infer::{ActivationType, Generator, Settings};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

const NAMES: [&str; 6] = ["mha_tied", "gqa2_bias", "gqa4_llama3", "gqa8_wide", "odd_heads", "llama2"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints").join(name)
}

fn words(file: &SafeTensors, name: &str) -> Vec<[u8; 4]> {
    file.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec()
}

/// The prompt, and what Transformers gives: the positions and their logits.
fn expected(name: &str) -> (Vec<u32>, Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(folder(name).join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let whole = |name| words(&file, name).into_iter().map(u32::from_le_bytes).collect::<Vec<_>>();
    let positions = whole("positions").into_iter().map(|p| p as usize).collect();
    let logits = words(&file, "logits").into_iter().map(f32::from_le_bytes).collect();
    (whole("tokens"), positions, logits)
}

fn open(name: &str, batch_tokens: usize) -> Generator {
    // Transformers computed in f32, the one checkpoint in bf16 too.
    let settings = Settings { batch_tokens, activations: ActivationType::F32, ..Settings::default() };
    Generator::open(&folder(name), settings).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// In one pass, token by token through the cache, and in chunks.
#[test]
fn logits_of_a_prompt_of_300_tokens_are_those_of_transformers() {
    for name in NAMES {
        let (tokens, positions, expected) = expected(name);
        let mut first: Option<Vec<f32>> = None;
        for batch_tokens in [512, 1, 37] {
            let found = open(name, batch_tokens).logits(&tokens).unwrap();
            let vocab = found.len() / tokens.len();
            for (&position, expected) in positions.iter().zip(expected.chunks_exact(vocab)) {
                let found = &found[position * vocab..][..vocab];
                let off = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
                assert!(off < 1e-4, "{name}, {batch_tokens} at once, position {position}: off by {off}");
            }
            assert_eq!(*first.get_or_insert(found.clone()), found, "{name}: depends on the batch");
        }
    }
}

#[test]
fn damaged_folders_are_refused_with_file_and_cause() {
    type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
    let edit = |dir: &Path, from: &str, to: &str| {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
    };
    let cases: [Damage; 7] = [
        ("model.safetensors", &|d| std::fs::remove_file(d.join("model.safetensors")).unwrap()),
        ("tokenizer.json", &|d| std::fs::remove_file(d.join("tokenizer.json")).unwrap()),
        ("is missing; config.json asks for it", &|d| {
            edit(d, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3")
        }),
        ("is not part of a Llama", &|d| edit(d, "\"attention_bias\": true", "\"attention_bias\": false")),
        ("`mlp_bias` is true", &|d| edit(d, "\"mlp_bias\": false", "\"mlp_bias\": true")),
        ("has shape [260, 32]", &|d| edit(d, "\"vocab_size\": 260", "\"vocab_size\": 261")),
        ("`max_position_embeddings` is 900000000", &|d| {
            edit(d, "\"max_position_embeddings\": 512", "\"max_position_embeddings\": 900000000");
        }),
    ];
    for (expected, damage) in cases {
        let dir = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            std::fs::copy(folder("gqa2_bias").join(file), dir.path().join(file)).unwrap();
        }
        damage(dir.path());
        let message = Generator::open(dir.path(), Settings::default()).err().unwrap().to_string();
        assert!(message.contains(expected), "{expected}: {message}");
        assert!(message.contains(&dir.path().display().to_string()), "{message}");
    }
}
