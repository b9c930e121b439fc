//! A small run folder: tokenizer, shards of two domains, an untrained model.

// Each test file uses a part of it.
#![allow(dead_code)]

use herd_model::{Llama, Settings as ModelSettings, weights};
use herd_tensor::Params;
use herd_tokenizer::Tokenizer;
use herd_tokenizer::shard::{DomainShards, ShardIndex, TokenShardWriter};
use herd_tokenizer::train;
use std::fmt::Write;
use std::path::{Path, PathBuf};

pub struct SmallRun {
    pub folder: tempfile::TempDir,
    pub tokenizer: Tokenizer,
    pub llama: Llama,
    pub params: Params,
}

impl SmallRun {
    pub fn model(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    pub fn shards(&self) -> PathBuf {
        self.folder.path().join("shards")
    }

    pub fn out(&self) -> PathBuf {
        self.folder.path().join("eval")
    }
}

/// Text `i` of a domain: sentences with some regularity, so that longer n-grams know more.
fn text(domain: &str, i: usize) -> String {
    let (subjects, verbs, objects) = match domain {
        "general" => (
            ["the kernel", "a package", "the system"],
            ["loads", "needs", "finds"],
            ["a module", "the disk", "memory"],
        ),
        _ => (
            ["das Paket", "der Kern", "ein Nutzer"],
            ["braucht", "findet", "öffnet"],
            ["die Datei", "das Netz", "den Größenwert"],
        ),
    };
    let mut text = String::new();
    for sentence in 0..6 + i % 7 {
        let pick = i * 7 + sentence * 5 + sentence * sentence;
        let (s, v, o) = (subjects[pick % 3], verbs[(pick / 3 + i) % 3], objects[(pick / 2) % 3]);
        let _ = write!(text, "{s} {v} {o} number {}. ", (pick * 13) % 97);
    }
    text
}

/// Writes shards and a model. `seed` 0 leaves the weights at zero, which makes every token equally likely.
pub fn make(seed: u64) -> SmallRun {
    let folder = tempfile::tempdir().unwrap();
    let domains = ["general", "multilingual"];
    let texts: Vec<String> = (0..60).flat_map(|i| domains.map(|d| text(d, i))).collect();
    let settings = train::Settings { vocab_size: 700, ..train::Settings::default() };
    let tokenizer = train::train(&texts, &settings).unwrap();
    let shards = folder.path().join("shards");
    std::fs::create_dir_all(&shards).unwrap();
    let write = |domain: &str, part: &str, range: std::ops::Range<usize>| {
        let path = shards.join(format!("{domain}.{part}.tok"));
        let mut writer = TokenShardWriter::create(path, tokenizer.vocab_size()).unwrap();
        for i in range {
            let text = text(domain, i);
            let specials = tokenizer.specials();
            let ids = [&[specials.bos][..], &tokenizer.encode(&text), &[specials.end_of_text]].concat();
            writer.push(&ids, text.len() as u64).unwrap();
        }
        writer.finish().unwrap()
    };
    let entries = domains.map(|name| DomainShards {
        name: name.to_string(),
        train: write(name, "train", 0..48),
        held_out: write(name, "held_out", 48..60),
    });
    let tokenizer_hash = "0".repeat(64);
    let index = ShardIndex { vocab_size: tokenizer.vocab_size(), tokenizer_hash, domains: entries.into() };
    index.save(&shards).unwrap();

    let shape = ModelSettings {
        layers: 2,
        model_dimension: 32,
        ffn_dimension: 48,
        attention_heads: 4,
        key_value_heads: 2,
        max_context: 192,
        init_std: 0.2,
        ..ModelSettings::default()
    };
    let specials = tokenizer.specials();
    let llama = Llama::new(shape.config(
        tokenizer.vocab_size(),
        specials.bos,
        vec![specials.end_of_text, specials.eot],
    ));
    let mut params = llama.params();
    if seed > 0 {
        params.initialize(seed);
    }
    let model = folder.path().join("model");
    weights::save(&model, &llama, &params).unwrap();
    tokenizer.save(&model).unwrap();
    SmallRun { folder, tokenizer, llama, params }
}

/// Writes lines to a file of the run folder and returns its path.
pub fn file(run: &Path, name: &str, lines: &[&str]) -> PathBuf {
    let path = run.join(name);
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}
