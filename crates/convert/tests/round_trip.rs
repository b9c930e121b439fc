//! Whole models through formats and back, and what is told of them.

use herd_convert::inspect::inspect;
use herd_convert::{Checkpoint, Format, Target, convert};
use herd_infer::gguf::BlockType;
use herd_infer::{ActivationType, Generator, Settings};
use herd_run::Context;
use std::path::{Path, PathBuf};

const NAMES: [&str; 6] = ["mha_tied", "gqa2_bias", "gqa4_llama3", "gqa8_wide", "odd_heads", "llama2"];

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../infer/tests/golden/checkpoints").join(name)
}

fn to(input: &Path, out: &Path, kind: Option<BlockType>) -> Result<(), herd_convert::Error> {
    let format =
        if out.extension().is_some_and(|e| e == "gguf") { Format::Gguf } else { Format::Safetensors };
    let target = Target { format, kind, shard_bytes: Target::SHARD_BYTES };
    convert(&Checkpoint::open(input)?, out, target, &Context::quiet()).map(drop)
}

fn logits(path: &Path) -> Vec<f32> {
    logits_with(path, ActivationType::Auto)
}

fn logits_with(path: &Path, activations: ActivationType) -> Vec<f32> {
    let tokens: Vec<u32> = (0..60).map(|i| i * 7 % 260).collect();
    let settings = Settings { activations, ..Settings::default() };
    let generator = Generator::open(path, settings).unwrap_or_else(|e| panic!("{e}"));
    generator.logits(&tokens).unwrap()
}

/// A checkpoint in bf16 with activations in f32 is the f32 checkpoint of the same numbers, bit for bit; with activations
/// in bf16 it stays within what rounding them to 8 bits of precision does.
#[test]
fn brain_floats_are_multiplied_with_floats_or_with_rounded_activations() {
    for name in NAMES {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["brain", "float", "brain.gguf"].map(|file| dir.path().join(file));
        let [brain, float, gguf] = &paths;
        to(&source(name), brain, Some(BlockType::Bf16)).unwrap();
        to(brain, float, Some(BlockType::F32)).unwrap();
        to(brain, gguf, None).unwrap();
        let exact = logits(float);
        assert!(logits_with(brain, ActivationType::F32) == exact, "{name}");
        let rounded = logits(brain);
        assert!(logits(gguf) == rounded, "{name} as GGUF");
        let norm =
            |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let off =
            norm(&mut rounded.iter().zip(&exact).map(|(a, b)| a - b)) / norm(&mut exact.iter().copied());
        assert!(off > 0.0 && off < 0.02, "{name}: {off}");
    }
}

/// Through GGUF and back: the same weights, configuration and tokenizer.
#[test]
fn floats_go_through_gguf_without_a_change() {
    for name in NAMES {
        let dir = tempfile::tempdir().unwrap();
        let (gguf, back) = (dir.path().join("model.gguf"), dir.path().join("back"));
        to(&source(name), &gguf, None).unwrap();
        to(&gguf, &back, None).unwrap();
        let (first, second) = (Checkpoint::open(&source(name)).unwrap(), Checkpoint::open(&back).unwrap());
        let (a, b) = (first.config().unwrap(), second.config().unwrap());
        assert_eq!(a.rope_scaling, b.rope_scaling, "{name}");
        assert_eq!((a.attention_bias, a.head_dim), (b.attention_bias, b.head_dim), "{name}");
        assert!((a.rms_norm_eps - b.rms_norm_eps).abs() < 1e-12, "{name}");
        let text = "A café, 3 tokens\n";
        assert_eq!(first.tokenizer().unwrap().encode(text), second.tokenizer().unwrap().encode(text));
        assert_eq!(logits(&gguf), logits(&source(name)), "{name} as GGUF");
        assert_eq!(logits(&back), logits(&source(name)), "{name} back from GGUF");
    }
}

/// Small files with an index: each within its size unless it holds one tensor, and together the same model.
#[test]
fn a_folder_of_several_files_is_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("shards");
    let most = 20_000;
    let target = Target { format: Format::Safetensors, kind: Some(BlockType::F32), shard_bytes: most };
    let summary =
        convert(&Checkpoint::open(&source("gqa4_llama3")).unwrap(), &out, target, &Context::quiet()).unwrap();
    assert!(!out.join("model.safetensors").exists());
    let index = std::fs::read_to_string(out.join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    assert_eq!(index["metadata"]["total_size"], summary.bytes);
    let places = index["weight_map"].as_object().unwrap();
    assert_eq!(places.len(), summary.tensors);
    let files: std::collections::BTreeSet<&str> = places.values().map(|v| v.as_str().unwrap()).collect();
    assert!(files.len() > 3);
    for (i, file) in files.iter().enumerate() {
        assert_eq!(*file, format!("model-{:05}-of-{:05}.safetensors", i + 1, files.len()));
        let tensors = places.values().filter(|v| v.as_str() == Some(file)).count();
        let size = std::fs::metadata(out.join(file)).unwrap().len();
        assert!(tensors == 1 || size < most + 4096, "{file}: {tensors} tensors in {size} bytes");
    }
    let source = logits_with(&source("gqa4_llama3"), ActivationType::F32);
    assert!(logits(&out) == source, "bf16 as f32 in several files");
}

#[test]
fn quantised_models_stay_near_the_original() {
    // Rows of 32 weights: what is asked for as blocks of 256 becomes the next larger blocks of 32.
    let original = logits(&source("llama2"));
    let size = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
    for (kind, most) in [
        (BlockType::Q8_0, 0.1),
        (BlockType::Q6K, 0.1),
        (BlockType::Q5_0, 0.5),
        (BlockType::Q4K, 0.5),
        (BlockType::Q4_0, 0.8),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("model.gguf");
        to(&source("llama2"), &out, Some(kind)).unwrap_or_else(|e| panic!("{e}"));
        let found = logits(&out);
        let off: Vec<f32> = found.iter().zip(&original).map(|(a, b)| a - b).collect();
        let off = size(&off) / size(&original);
        assert!(off > 0.0 && off < most, "{}: {off}", kind.name());
    }
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("folder");
    let message = to(&source("llama2"), &out, Some(BlockType::Q4K)).unwrap_err().to_string();
    assert!(message.contains("f32, f16 or bf16") && message.contains(".gguf"), "{message}");
    let copy = dir.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(source("llama2").join(file), copy.join(file)).unwrap();
    }
    let bytes = std::fs::read(copy.join("model.safetensors")).unwrap();
    let mut damaged = bytes.clone();
    let middle = bytes.len() - 1000;
    damaged[middle..middle + 4].fill(0xff);
    std::fs::write(copy.join("model.safetensors"), damaged).unwrap();
    let message = to(&copy, &dir.path().join("nan.gguf"), Some(BlockType::Q8_0)).unwrap_err().to_string();
    assert!(message.contains("NaN or infinity") && message.contains("copy"), "{message}");
    std::fs::remove_file(copy.join("tokenizer.json")).unwrap();
    let message = to(&copy, &dir.path().join("no.gguf"), None).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json"), "{message}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert_eq!(left, ["copy"], "nothing is left of what failed");
}

#[test]
fn a_checkpoint_is_told_in_numbers() {
    let report = inspect(&source("gqa4_llama3"), false).unwrap();
    assert_eq!(report.architecture.as_deref(), Some("llama"));
    let shape = report.shape.as_ref().unwrap();
    assert_eq!((shape.layers, shape.heads, shape.kv_heads, shape.head_dim), (2, 4, 1, 8));
    assert!(shape.rope_scaled && !shape.tied);
    let layer = 32 * (32 + 2 * 8 + 32 + 3 * 48) + 2 * 32;
    assert_eq!(report.parameters, 2 * 260 * 32 + 2 * layer + 32);
    assert_eq!(report.bytes, 2 * report.parameters);
    let q = report.kinds.iter().find(|k| k.name == "model.layers.*.self_attn.q_proj.weight").unwrap();
    assert_eq!((q.tensors, q.types.as_str()), (2, "BF16"));
    // Keys and values of 2 layers, 1 head of 8, over the whole context.
    let cache = report.cache.last().unwrap();
    assert_eq!((cache.context, cache.f32_bytes), (512, 2 * 2 * 8 * 4 * 512));
    let text = report.to_string();
    for part in ["gqa4_llama3", "BF16", "260 x 32", "512 tokens", "scaled as Llama 3.1's"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(inspect(&source("gqa4_llama3"), true).unwrap().tensors.len(), 21);
}
