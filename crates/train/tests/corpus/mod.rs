//! A small real corpus for tests: the sources of this crate, cut into documents of two domains.

use herd_tokenizer::shard::{DomainShards, FileStats, ShardIndex, TokenShardWriter};
use herd_tokenizer::{Tokenizer, train};
use std::path::{Path, PathBuf};

/// Trains a tokenizer and writes shards into `folder`; returns the folders `tokenizer` and `shards`.
pub fn build(folder: &Path, vocab_size: usize) -> (PathBuf, PathBuf) {
    let (prose, code) = documents();
    let texts: Vec<&String> = prose.iter().chain(&code).collect();
    let settings = train::Settings { vocab_size, ..train::Settings::default() };
    let tokenizer = train::train(&texts, &settings).unwrap();
    let (tokenizer_folder, shards) = (folder.join("tokenizer"), folder.join("shards"));
    tokenizer.save(&tokenizer_folder).unwrap();
    let domains = [("code", &code), ("general", &prose)].map(|(name, documents)| {
        let (held_out, train) = documents.split_at(documents.len() / 10);
        DomainShards {
            name: name.to_string(),
            train: shard(&shards, &format!("{name}.train.tok"), &tokenizer, train),
            held_out: shard(&shards, &format!("{name}.held_out.tok"), &tokenizer, held_out),
        }
    });
    let vocab_size = tokenizer.vocab_size();
    let index = ShardIndex { vocab_size, tokenizer_hash: String::new(), domains: domains.to_vec() };
    index.save(&shards).unwrap();
    (tokenizer_folder, shards)
}

fn shard(folder: &Path, name: &str, tokenizer: &Tokenizer, documents: &[String]) -> FileStats {
    std::fs::create_dir_all(folder).unwrap();
    let mut writer = TokenShardWriter::create(folder.join(name), tokenizer.vocab_size()).unwrap();
    let special = tokenizer.specials();
    for text in documents {
        let tokens = [&[special.bos][..], &tokenizer.encode(text), &[special.end_of_text]].concat();
        writer.push(&tokens, text.len() as u64).unwrap();
    }
    writer.finish().unwrap()
}

/// Comments and code of every source file, a document per screenful.
fn documents() -> (Vec<String>, Vec<String>) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files: Vec<PathBuf> = [source.clone(), source.join("pretrain")]
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()))
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    let (mut prose, mut code) = (Vec::new(), Vec::new());
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        let (comments, lines): (Vec<&str>, Vec<&str>) =
            text.lines().filter(|line| !line.is_empty()).partition(|line| line.trim().starts_with("//"));
        let comments: Vec<&str> =
            comments.iter().map(|line| line.trim().trim_matches(['/', '!', ' '])).collect();
        prose.extend(comments.chunks(12).map(|lines| lines.join("\n")));
        code.extend(lines.chunks(20).map(|lines| lines.join("\n")));
    }
    (prose, code)
}
