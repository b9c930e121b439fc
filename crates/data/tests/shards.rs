//! Documents to tokenizer to shards, on files.

use herd_data::documents::{self, Document, Domain};
use herd_data::{shards, tokenizer_stage};
use herd_run::{Context, hash};
use herd_tokenizer::shard::{ShardIndex, TokenShard};
use herd_tokenizer::{Tokenizer, train};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Documents made of the licence, cut into paragraphs.
fn corpus(path: &Path) -> Vec<Document> {
    let text = include_str!("../../../LICENSE");
    let paragraphs = text.split("\n\n").enumerate();
    let documents: Vec<_> = paragraphs
        .flat_map(|(n, paragraph)| {
            (0..8).map(move |copy| Document {
                id: hash::of_bytes(format!("{n} {copy}").as_bytes())[..32].to_string(),
                url: format!("https://a.example/{n}/{copy}"),
                date: "2026-02-01T00:00:00Z".into(),
                title: String::new(),
                language: "en".into(),
                language_score: 1.0,
                // mathematics gets two documents only
                domain: if n == 0 && copy < 2 {
                    Domain::Mathematics
                } else {
                    [Domain::Code, Domain::General][n % 2]
                },
                license: None,
                author: None,
                canonical: None,
                cluster: None,
                page_type: herd_data::extract::PageType::Article,
                source: "a.warc.gz".into(),
                text: format!("{copy} naïve 東京\n{paragraph}"),
                values: Default::default(),
            })
        })
        .collect();
    documents::write(path, documents.clone()).unwrap();
    documents
}

const MEMORY: u64 = 1 << 30;

fn settings() -> train::Settings {
    train::Settings { vocab_size: 700, ..Default::default() }
}

#[test]
fn every_document_is_in_exactly_one_shard_with_its_text() {
    let dir = tempfile::tempdir().unwrap();
    let [parquet, tok, out] = ["documents.parquet", "tokenizer", "shards"].map(|n| dir.path().join(n));
    let written = corpus(&parquet);
    let ctx = Context::quiet();
    let trained = tokenizer_stage::run(&settings(), &parquet, &tok, MEMORY, &ctx).unwrap();
    assert_eq!((trained.vocab_size, trained.documents), (700, written.len() as u64));
    let summary =
        shards::run(&shards::Settings { held_out: 0.1, ..Default::default() }, &parquet, &tok, &out, &ctx)
            .unwrap();
    assert_eq!(summary.documents, written.len() as u64);

    let tokenizer = Tokenizer::load(&tok).unwrap();
    let index = ShardIndex::load(&out).unwrap();
    assert_eq!(index.tokenizer_hash, hash::of_file(&tok.join("tokenizer.json")).unwrap());
    let names: Vec<_> = index.domains.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["code", "general", "mathematics"]);
    let mut texts = BTreeSet::new();
    for stats in index.domains.iter().flat_map(|d| [&d.train, &d.held_out]) {
        assert!(stats.documents > 0, "{}", stats.file);
        let shard = TokenShard::open(out.join(&stats.file)).unwrap();
        shard.verify().unwrap();
        assert_eq!((shard.tokens(), shard.documents() as u64), (stats.tokens, stats.documents));
        for i in 0..shard.documents() {
            let document = shard.document(i);
            let (first, last) = (document.ids[0], document.ids[document.ids.len() - 1]);
            assert_eq!((first, last), (tokenizer.specials().bos, tokenizer.specials().end_of_text));
            let text = tokenizer.decode(&document.ids[1..document.ids.len() - 1]);
            assert_eq!(text.len() as u64, document.bytes);
            assert!(texts.insert(text));
        }
    }
    assert_eq!(texts, written.into_iter().map(|d| d.text).collect());
    let held: u64 = summary.domains.iter().map(|d| d.held_out_documents).sum();
    let share = held as f64 / summary.documents as f64;
    assert!((0.05..0.16).contains(&share), "{share}");
}

#[test]
fn the_bits_do_not_depend_on_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let parquet = dir.path().join("documents.parquet");
    corpus(&parquet);
    let hashes = [1, 3].map(|threads| {
        let [tok, out] = ["tok", "out"].map(|n| dir.path().join(format!("{n}{threads}")));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            tokenizer_stage::run(&settings(), &parquet, &tok, MEMORY, &Context::quiet()).unwrap();
            shards::run(&Default::default(), &parquet, &tok, &out, &Context::quiet()).unwrap();
        });
        (hash::of_path(&tok).unwrap(), hash::of_path(&out).unwrap())
    });
    assert_eq!(hashes[0], hashes[1]);
}

#[test]
fn what_is_kept_back_depends_on_ids_alone() {
    let dir = tempfile::tempdir().unwrap();
    let [parquet, tok] = ["documents.parquet", "tokenizer"].map(|n| dir.path().join(n));
    let all = corpus(&parquet);
    tokenizer_stage::run(&settings(), &parquet, &tok, MEMORY, &Context::quiet()).unwrap();
    let tokenizer = Tokenizer::load(&tok).unwrap();
    let held_out = |documents: Vec<Document>, domain: &str, share: f64| -> BTreeSet<String> {
        documents::write(&parquet, documents).unwrap();
        let out = dir.path().join("shards");
        shards::run(
            &shards::Settings { held_out: share, ..Default::default() },
            &parquet,
            &tok,
            &out,
            &Context::quiet(),
        )
        .unwrap();
        let shard = TokenShard::open(out.join(format!("{domain}.held_out.tok"))).unwrap();
        (0..shard.documents()).map(|i| tokenizer.decode(&shard.document(i).ids)).collect()
    };
    let code = held_out(all.clone(), "code", 0.2);
    assert_eq!(held_out(all.iter().rev().cloned().collect(), "code", 0.2), code);
    // With half of the documents most choices stay; by chance a fifth would.
    let of_half = held_out(all[..all.len() / 2].to_vec(), "code", 0.2);
    let kept = of_half.intersection(&code).count();
    assert!(of_half.len() < code.len() && kept * 10 >= of_half.len() * 6, "{kept} of {}", of_half.len());
    // Of two documents one is kept back at any share but none, and one is left.
    for share in [1e-6, 0.5] {
        assert_eq!(held_out(all.clone(), "mathematics", share).len(), 1);
    }
    assert!(held_out(all, "mathematics", 0.0).is_empty());
}

#[test]
fn documents_are_sampled_up_and_down_by_domain_and_language() {
    let dir = tempfile::tempdir().unwrap();
    let [parquet, tok] = ["documents.parquet", "tokenizer"].map(|n| dir.path().join(n));
    let mut all = corpus(&parquet);
    all.iter_mut().step_by(3).for_each(|d| d.language = "de".into());
    documents::write(&parquet, all.clone()).unwrap();
    tokenizer_stage::run(&settings(), &parquet, &tok, MEMORY, &Context::quiet()).unwrap();
    let written = |sampling: Vec<shards::Sampling>| -> BTreeMap<String, usize> {
        let out = dir.path().join("shards");
        let settings = shards::Settings { held_out: 0.0, sampling };
        shards::run(&settings, &parquet, &tok, &out, &Context::quiet()).unwrap();
        let tokenizer = Tokenizer::load(&tok).unwrap();
        let mut counts = BTreeMap::new();
        for domain in ShardIndex::load(&out).unwrap().domains {
            let shard = TokenShard::open(out.join(&domain.train.file)).unwrap();
            for i in 0..shard.documents() {
                let ids = shard.document(i).ids;
                *counts.entry(tokenizer.decode(&ids[1..ids.len() - 1])).or_default() += 1;
            }
        }
        counts
    };
    let rule = |domain, language: Option<&str>, copies| shards::Sampling {
        domain,
        language: language.map(str::to_string),
        copies,
    };
    let plain = written(Vec::new());
    assert!(plain.len() == all.len() && plain.values().all(|n| *n == 1));
    let sampled = written(vec![rule(None, Some("de"), 2.5), rule(Some(Domain::Code), None, 0.4)]);
    let (mut german, mut code, mut code_kept) = (0.0, 0.0, 0.0);
    for document in &all {
        let copies = sampled.get(&document.text).copied().unwrap_or(0);
        match (document.language.as_str(), document.domain) {
            ("de", _) => {
                assert!((2..=3).contains(&copies));
                german += copies as f64;
            }
            (_, Domain::Code) => {
                assert!(copies <= 1);
                (code, code_kept) = (code + 1.0, code_kept + copies as f64);
            }
            _ => assert_eq!(copies, 1),
        }
    }
    let of_german = german / all.iter().filter(|d| d.language == "de").count() as f64;
    assert!((2.2..2.8).contains(&of_german), "{of_german}");
    assert!((0.15..0.65).contains(&(code_kept / code)), "{code_kept} of {code}");
    assert_eq!(written(vec![rule(None, Some("de"), 2.5), rule(Some(Domain::Code), None, 0.4)]), sampled);
}

#[test]
fn a_stop_leaves_nothing_half_made_and_an_empty_input_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let [parquet, tok, out] = ["documents.parquet", "tokenizer", "shards"].map(|n| dir.path().join(n));
    corpus(&parquet);
    tokenizer_stage::run(&settings(), &parquet, &tok, MEMORY, &Context::quiet()).unwrap();
    let ctx = Context::quiet();
    ctx.stop.request();
    let stopped = shards::run(&Default::default(), &parquet, &tok, &out, &ctx);
    assert!(matches!(stopped, Err(shards::Error::Interrupted(_))));
    assert!(!out.exists());
    documents::write(&parquet, []).unwrap();
    let empty = shards::run(&Default::default(), &parquet, &tok, &out, &Context::quiet()).unwrap_err();
    assert!(empty.to_string().contains("no documents"), "{empty}");
    assert!(!out.exists());
}
