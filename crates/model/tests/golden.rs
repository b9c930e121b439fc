//! The model against PyTorch and Transformers: files in `golden/`, made by `golden/make_golden.py`.

use herd_model::{Batch, Llama, weights};
use herd_tensor::{Grads, Segments, Tape};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MODELS: [&str; 4] = ["gqa4", "mha-tied", "odd-heads", "llama31-rope"];
const VOCAB: u32 = 97;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn numbers(file: &SafeTensors, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).unwrap().data().to_vec();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Largest difference relative to the largest expected magnitude.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-6f32, |m, x| m.max(x.abs()));
    found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale
}

#[test]
fn logits_equal_those_of_transformers() {
    for name in MODELS {
        let (llama, params) = weights::load(&folder(name)).unwrap();
        let bytes = std::fs::read(folder(name).join("expected.safetensors")).unwrap();
        let expected = numbers(&SafeTensors::deserialize(&bytes).unwrap(), "logits");
        let tokens = (0..40).map(|i| i * 7 % VOCAB).collect();
        let mut tape = Tape::no_grad(&params);
        let hidden = llama.hidden(&mut tape, &Batch::sequence(tokens));
        let logits = tape.linear(&hidden, llama.head());
        let off = distance(logits.value().as_slice(), &expected);
        assert!(off < 1e-5, "{name}: logits differ by {off}");
    }
}

#[test]
fn loss_and_gradients_of_packed_documents_equal_those_of_pytorch() {
    let lengths = [5usize, 1, 11, 7];
    let n: u32 = 24;
    for name in MODELS {
        let (llama, params) = weights::load(&folder(name)).unwrap();
        let bytes = std::fs::read(folder(name).join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let batch = Batch {
            tokens: (0..n).map(|i| (i * 13 + 5) % VOCAB).collect(),
            positions: lengths.iter().flat_map(|&l| 0..l as u32).collect(),
            segments: Arc::new(Segments::documents(&lengths)),
        };
        let targets: Vec<u32> = (0..n).map(|i| (i * 29 + 3) % VOCAB).collect();
        let mut tape = Tape::new(&params);
        let hidden = llama.hidden(&mut tape, &batch);
        let loss =
            tape.linear_cross_entropy(&hidden, llama.head(), &targets, &vec![1.0 / n as f32; n as usize]);
        let off = distance(loss.value().as_slice(), &numbers(&file, "loss"));
        assert!(off < 1e-5, "{name}: loss differs by {off}");

        let mut grads = Grads::new(&params);
        tape.backward(&loss, &mut grads);
        // Gradients have the layout of the parameters, so writing them as weights gives them Hugging Face's names.
        let mut as_weights = params.clone();
        as_weights.flat_mut().copy_from_slice(grads.flat());
        let dir = tempfile::tempdir().unwrap();
        weights::save(dir.path(), &llama, &as_weights).unwrap();
        let written = std::fs::read(dir.path().join("model.safetensors")).unwrap();
        let written = SafeTensors::deserialize(&written).unwrap();
        for tensor in written.names() {
            let off = distance(&numbers(&written, tensor), &numbers(&file, &format!("grad.{tensor}")));
            assert!(off < 2e-5, "{name}: gradient of {tensor} differs by {off}");
        }
    }
}

#[test]
fn what_is_read_is_written_back_as_transformers_wrote_it() {
    for name in MODELS {
        let (llama, params) = weights::load(&folder(name)).unwrap();
        let dir = tempfile::tempdir().unwrap();
        weights::save(dir.path(), &llama, &params).unwrap();
        let (ours, theirs) = (
            std::fs::read(dir.path().join("model.safetensors")).unwrap(),
            std::fs::read(folder(name).join("model.safetensors")).unwrap(),
        );
        let (ours, theirs) =
            (SafeTensors::deserialize(&ours).unwrap(), SafeTensors::deserialize(&theirs).unwrap());
        let mut names = (ours.names(), theirs.names());
        names.0.sort();
        names.1.sort();
        assert_eq!(names.0, names.1, "{name}");
        for tensor in names.0 {
            assert_eq!(
                ours.tensor(tensor).unwrap().data(),
                theirs.tensor(tensor).unwrap().data(),
                "{name}: {tensor}"
            );
        }
        let (again, _) = weights::load(dir.path()).unwrap();
        assert_eq!(again.config, llama.config, "{name}");
    }
}

/// Loads a copy of a golden model after `damage` was done to it and returns the error's text.
fn error_after(damage: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(folder("gqa4").join(file), dir.path().join(file)).unwrap();
    }
    damage(dir.path());
    weights::load(dir.path()).map(|(llama, _): (Llama, _)| llama.config).unwrap_err().to_string()
}

#[test]
fn damaged_folders_are_refused_with_file_and_cause() {
    let edit = |from: &'static str, to: &'static str| {
        move |dir: &Path| {
            let path = dir.join("config.json");
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.contains(from), "{from} is not in {text}");
            std::fs::write(&path, text.replace(from, to)).unwrap();
        }
    };
    let cases: [(&str, String); 6] = [
        ("model.safetensors", error_after(|d| std::fs::remove_file(d.join("model.safetensors")).unwrap())),
        ("not a complete safetensors file", {
            error_after(|d| {
                let bytes = std::fs::read(d.join("model.safetensors")).unwrap();
                std::fs::write(d.join("model.safetensors"), &bytes[..bytes.len() - 100]).unwrap();
            })
        }),
        ("has shape [97, 32]", error_after(edit("\"vocab_size\": 97", "\"vocab_size\": 98"))),
        ("`model.layers.2.input_layernorm.weight` is missing", {
            error_after(edit("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"))
        }),
        ("`model.layers.1.input_layernorm.weight` is not part", {
            error_after(edit("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"))
        }),
        (
            "only \"llama\" is supported",
            error_after(edit("\"model_type\": \"llama\"", "\"model_type\": \"gpt2\"")),
        ),
    ];
    for (expected, error) in cases {
        assert!(error.contains(expected), "`{error}` does not say `{expected}`");
    }
}
