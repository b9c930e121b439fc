//! GGUF files against Transformers: `golden/`, made by `golden/make_gguf.py`.

mod tiny;

use herd_infer::{Generator, Settings, gguf};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[test]
fn a_file_of_many_types_gives_the_logits_of_transformers() {
    let (llama, params) = gguf::load(&golden("llama.gguf")).unwrap();
    let generator = Generator::new(llama, params, tiny::tokenizer(), Settings::default()).unwrap();
    let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 97).collect();
    let found = generator.logits(&tokens).unwrap();
    let expected = std::fs::read(golden("expected.bin")).unwrap();
    assert_eq!(found.len() * 4, expected.len());
    for (i, (found, expected)) in found.iter().zip(expected.chunks_exact(4)).enumerate() {
        let expected = f32::from_le_bytes(expected.try_into().unwrap());
        assert!((found - expected).abs() < 1e-3, "logit {i}: {found}, not {expected}");
    }
}

#[test]
fn a_broken_file_is_an_error_that_names_it() {
    let whole = std::fs::read(golden("llama.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.gguf");
    let fail = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        gguf::load(&path).err().map(|e| e.to_string())
    };
    for part in 0..40 {
        let error = fail(&whole[..whole.len() * part / 40]).unwrap();
        assert!(error.contains("broken.gguf: "), "{error}");
    }
    assert!(fail(b"PK\x03\x04 something else").unwrap().contains("not a GGUF file"));
    let replaced = |from: &str, to: &str| {
        let at = whole.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    assert!(
        fail(&replaced("blk.1.ffn_up.weight", "blk.9.ffn_up.weight"))
            .unwrap()
            .contains("`blk.1.ffn_up.weight`")
    );
    assert!(
        fail(&replaced("llama.block_count", "llama.block_cound")).unwrap().contains("`llama.block_count`")
    );
    // Damage anywhere in the tables never panics.
    for at in (0..2500).step_by(5) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        let _ = fail(&bytes);
    }
}
