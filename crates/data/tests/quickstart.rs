//! The quickstart's crawl from end to end: every rule fires, and for the documents it was made for.

use herd_data::documents::{self, Document, Domain};
use herd_data::rejects::{self, Reject};
use herd_data::{Resources, Settings, Summary, run};
use herd_run::Context;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

struct Done {
    summary: Summary,
    documents: Vec<Document>,
    rejects: Vec<Reject>,
}

fn quickstart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/quickstart")
}

fn settings() -> Settings {
    Settings {
        input: vec![quickstart().join("crawl/*.warc.gz").display().to_string()],
        blocked_domains: vec![quickstart().join("blocked-domains.txt")],
        ..Settings::default()
    }
}

fn curate(out: &Path) -> Done {
    let summary = run(&settings(), out, &Resources::default(), &Context::quiet()).unwrap();
    let documents =
        documents::read(&out.join("documents.parquet")).unwrap().collect::<Result<_, _>>().unwrap();
    let rejects = rejects::read(&out.join("rejects.parquet")).unwrap().collect::<Result<_, _>>().unwrap();
    Done { summary, documents, rejects }
}

fn done() -> &'static Done {
    static DONE: OnceLock<Done> = OnceLock::new();
    DONE.get_or_init(|| {
        let out = tempfile::tempdir().unwrap();
        let done = curate(out.path());
        println!("{}\n{:#?}\n{:#?}", done.summary.funnel, done.summary.domains, done.summary.languages);
        if let Some(keep) = std::env::var_os("HERD_KEEP") {
            std::fs::create_dir_all(&keep).unwrap();
            for file in ["documents.parquet", "rejects.parquet", "summary.json"] {
                std::fs::copy(out.path().join(file), Path::new(&keep).join(file)).unwrap();
            }
        }
        done
    })
}

fn rejected(rule: &str, part_of_url: &str) -> usize {
    done().rejects.iter().filter(|r| r.reason.rule == rule && r.url.contains(part_of_url)).count()
}

#[test]
fn the_yield_and_the_mix_are_as_planned() {
    let summary = &done().summary;
    assert!((7_000_000..13_000_000).contains(&summary.bytes), "{} bytes", summary.bytes);
    let share = |domain: &str| summary.domains[domain].bytes as f64 / summary.bytes as f64;
    assert!((0.5..0.8).contains(&share("general")), "general {}", share("general"));
    assert!((0.08..0.25).contains(&share("code")), "code {}", share("code"));
    assert!((0.03..0.2).contains(&share("mathematics")), "mathematics {}", share("mathematics"));
    assert!((0.08..0.25).contains(&share("multilingual")), "multilingual {}", share("multilingual"));
    for language in ["en", "de", "fr", "es", "it", "pt", "ru", "ja", "zh", "hi"] {
        assert!(summary.languages[language].documents >= 3, "{language}");
    }
}

#[test]
fn the_account_adds_up() {
    let done = done();
    let funnel = &done.summary.funnel;
    assert_eq!(funnel.steps[0].documents_in, done.summary.responses);
    for steps in funnel.steps.windows(2) {
        assert_eq!(steps[0].documents_out, steps[1].documents_in, "{} -> {}", steps[0].step, steps[1].step);
    }
    let dropped: u64 = funnel.steps.iter().flat_map(|s| s.dropped.values()).sum();
    assert_eq!(dropped, done.rejects.len() as u64);
    assert_eq!(funnel.documents_out(), done.documents.len() as u64);
    assert!(done.summary.damage.is_empty(), "{:?}", done.summary.damage);
}

#[test]
fn every_rule_fires_on_what_was_made_for_it() {
    assert!(rejected("status", "-old.html") >= 10);
    assert_eq!(
        rejected("not HTML", ".pdf") + rejected("not HTML", ".png") + rejected("not HTML", ".json"),
        3
    );
    assert_eq!(rejected("binary", "help.office.example/logo"), 1);
    assert_eq!(rejected("blocked domain", "blocked-adverts.example"), 4);
    assert_eq!(rejected("uncertain language", "greetings.example"), 3);
    assert!(rejected("older capture", "") >= 80);
    assert!(rejected("near duplicate", "") >= 20);
    assert_eq!(rejected("repeated n-grams", "ci.builds.example"), 5);
    assert_eq!(rejected("dirty words", "cams-"), 4);
    assert_eq!(rejected("personal data", "www.people.example"), 4);
    assert_eq!(rejected("outlier tokens", "dump.example"), 4);
    assert!(rejected("too short", "") >= 1);
    for reject in &done().rejects {
        assert!(!reject.url.is_empty() && !reject.reason.rule.is_empty());
    }
}

#[test]
fn mirrored_articles_appear_once() {
    let name =
        |url: &str| url.rsplit('/').next().unwrap_or("").split(['?', '#']).next().unwrap_or("").to_string();
    let sources = ["debian-handbook.example/en-US/", "docs.kernel.example/"];
    let mirrored: Vec<String> =
        done().documents.iter().filter(|d| d.url.contains("mirror")).map(|d| name(&d.url)).collect();
    let originals = done().documents.iter().filter(|d| sources.iter().any(|s| d.url.contains(s)));
    let twice: Vec<String> =
        originals.map(|d| name(&d.url)).filter(|n| mirrored.contains(n) && n != "index.html").collect();
    assert!(twice.len() <= 2, "both copies stayed: {twice:?}");
    assert!(rejected("near duplicate", "") >= 30);
}

#[test]
fn texts_are_clean() {
    let find = |part: &str| {
        done().documents.iter().find(|d| d.url.contains(part)).unwrap_or_else(|| panic!("{part} is missing"))
    };
    let contact = &find("town-1.example").text;
    assert!(
        contact.contains("<EMAIL>")
            && contact.contains("<PHONE>")
            && contact.contains("<IBAN>")
            && contact.contains("<CARD>")
    );
    assert!(!contact.contains("example.com") && !contact.contains("cookies"), "{contact}");
    for document in &done().documents {
        for scrap in
            ["Accept all", "Privacy policy", "Search docs", "Recent post number", "enable JavaScript"]
        {
            assert!(!document.text.contains(scrap), "{}: {scrap}", document.url);
        }
        assert!(document.date.starts_with("2026-") && document.id.len() == 32);
    }
    // A chapter on encodings and the documentation of lossy paths show a broken character on purpose; nothing else may
    // hold one.
    let shown = ["basic-configuration", "src/std/path.rs"];
    let broken = done()
        .documents
        .iter()
        .filter(|d| d.text.contains('\u{fffd}') && !shown.iter().any(|part| d.url.contains(part)));
    assert_eq!(broken.map(|d| d.url.as_str()).collect::<Vec<_>>(), Vec::<&str>::new(), "a wrong encoding");
    let mathematics = done().documents.iter().filter(|d| d.domain == Domain::Mathematics);
    assert!(
        mathematics.filter(|d| d.text.contains("\\frac") || d.text.contains("\\int")).count() >= 5,
        "formulas were lost"
    );
    let code = done().documents.iter().filter(|d| d.domain == Domain::Code);
    assert!(code.filter(|d| d.text.contains("\n    ")).count() >= 20, "indentation was lost");
}

#[test]
fn the_same_bits_with_any_number_of_threads() {
    let out = tempfile::tempdir().unwrap();
    let mut hashes = Vec::new();
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let folder = out.path().join(threads.to_string());
        pool.install(|| run(&settings(), &folder, &Resources::default(), &Context::quiet())).unwrap();
        hashes.push(herd_run::hash::of_path(&folder).unwrap());
    }
    assert_eq!(hashes[0], hashes[1]);
    assert_eq!(hashes[0], hashes[2]);
}
