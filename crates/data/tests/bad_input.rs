//! Input that is damaged, empty or hostile: counted and reported with its place, and nothing else is lost.

use herd_data::extract::extract;
use herd_data::{Error, Resources, Settings, run};
use herd_run::Context;
use std::path::{Path, PathBuf};

fn crawl() -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples/quickstart/crawl/quickstart-00000.warc.gz");
    std::fs::read(file).unwrap()
}

/// Offsets of the gzip members: one for each record.
fn members(bytes: &[u8]) -> Vec<usize> {
    memchr::memmem::find_iter(bytes, b"\x1f\x8b\x08\x00\x00\x00\x00\x00").collect()
}

/// The first hundred records; small enough for a quick test.
fn some() -> Vec<u8> {
    let bytes = crawl();
    let end = members(&bytes)[100];
    bytes[..end].to_vec()
}

fn settings(file: &Path) -> Settings {
    Settings { input: vec![file.display().to_string()], ..Settings::default() }
}

fn write(folder: &Path, bytes: &[u8]) -> PathBuf {
    let file = folder.join("crawl.warc.gz");
    std::fs::write(&file, bytes).unwrap();
    file
}

#[test]
fn a_truncated_archive_gives_all_that_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = some();
    let whole = run(
        &settings(&write(folder.path(), &bytes)),
        &folder.path().join("whole"),
        &Resources::default(),
        &Context::quiet(),
    )
    .unwrap();
    assert!(whole.damage.is_empty());
    let last = *members(&bytes).last().unwrap();
    let cut = write(folder.path(), &bytes[..last + (bytes.len() - last) / 2]);
    let part =
        run(&settings(&cut), &folder.path().join("cut"), &Resources::default(), &Context::quiet()).unwrap();
    assert!(part.responses >= whole.responses - 1 && part.responses <= whole.responses);
    assert_eq!(part.damage.len(), 1, "{:?}", part.damage);
    assert_eq!((part.damage[0].file.as_str(), part.damage[0].offset), ("crawl.warc.gz", last as u64));
}

#[test]
fn a_corrupt_record_costs_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = some();
    let whole = run(
        &settings(&write(folder.path(), &bytes)),
        &folder.path().join("whole"),
        &Resources::default(),
        &Context::quiet(),
    )
    .unwrap();
    let starts = members(&bytes);
    let widest = (20..80).max_by_key(|n| starts[n + 1] - starts[*n]).unwrap();
    let middle = (starts[widest] + starts[widest + 1]) / 2;
    bytes[middle..middle + 40].fill(0xA5);
    let part = run(
        &settings(&write(folder.path(), &bytes)),
        &folder.path().join("part"),
        &Resources::default(),
        &Context::quiet(),
    )
    .unwrap();
    assert_eq!(part.responses, whole.responses - 1, "{:?}", part.damage);
    assert_eq!(part.damage.len(), 1, "{:?}", part.damage);
    assert_eq!(part.damage[0].offset, starts[widest] as u64);
}

#[test]
fn an_empty_or_foreign_file_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    for content in [
        &b"this is no archive, only some text that goes on for a while"[..],
        b"\x1f\x8b",
        b"WARC/1.0\r\n\r\n",
    ] {
        let file = write(folder.path(), content);
        let error =
            run(&settings(&file), &folder.path().join("out"), &Resources::default(), &Context::quiet())
                .unwrap_err();
        assert!(matches!(error, Error::EmptyCrawl { .. }), "{error}");
        assert!(!folder.path().join("out/documents.parquet").exists());
    }
}

#[test]
fn a_pattern_without_files_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { input: vec!["none/such-*.warc.gz".into()], ..Settings::default() };
    let error =
        run(&settings, folder.path(), &Resources::default(), &Context::quiet()).unwrap_err().to_string();
    assert!(error.contains("none/such-*.warc.gz") && error.contains("input"), "{error}");
}

#[test]
fn when_a_rule_drops_everything_the_error_shows_which() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings(&write(folder.path(), &some()));
    settings.min_chars = 100_000_000;
    let out = folder.path().join("out");
    let error = run(&settings, &out, &Resources::default(), &Context::quiet()).unwrap_err();
    let message = error.to_string();
    assert!(
        matches!(error, Error::NothingLeft { .. })
            && message.contains("too short")
            && message.contains("rejects.parquet"),
        "{message}"
    );
    assert!(out.join("rejects.parquet").exists() && out.join("funnel.json").exists());
}

#[test]
fn an_interrupted_run_continues_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings(&write(folder.path(), &some()));
    run(&settings, &folder.path().join("once"), &Resources::default(), &Context::quiet()).unwrap();
    let out = folder.path().join("twice");
    let context = Context::quiet();
    context.stop.request();
    assert!(matches!(
        run(&settings, &out, &Resources::default(), &context).unwrap_err(),
        Error::Interrupted(_)
    ));
    run(&settings, &out, &Resources::default(), &Context::quiet()).unwrap();
    let hash = |name: &str| herd_run::hash::of_path(&folder.path().join(name)).unwrap();
    assert_eq!(hash("once"), hash("twice"));
}

#[test]
fn hostile_pages_are_bounded() {
    let nested = "<div>".repeat(100_000)
        + "<p>The text at the bottom of a hundred thousand boxes is still found, and nothing overflows.</p>";
    assert!(extract(&nested, "").text.contains("at the bottom"));
    let unclosed = "<a href=x><b><i><table><tr><td>".repeat(20_000);
    extract(&unclosed, "");
    extract(&"<!--".repeat(200_000), "");
    extract(&"</p></div></x>".repeat(100_000), "");
    extract(&"<p a=\"".repeat(100_000), "");
    extract(&"&#".repeat(200_000), "");
    extract("\0\u{fffd}<p>\0</p>\u{202e}<", "");
    extract("", "");
}

#[test]
fn a_page_of_fifty_megabytes_is_read() {
    let paragraph =
        "<p>Every line of this very long page is like the others, with commas, and a full stop.</p>\n";
    let page = paragraph.repeat(50_000_000 / paragraph.len());
    let text = extract(&page, "").text;
    assert!(text.len() > 40_000_000, "{}", text.len());
}

/// A record whose body is gzip, as crawlers keep it.
fn gzipped_response(url: &str, gzip: &[u8]) -> Vec<u8> {
    let http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n\r\n";
    let mut record = format!(
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n\
         Content-Type: application/http; msgtype=response\r\nContent-Length: {}\r\n\r\n",
        http.len() + gzip.len()
    )
    .into_bytes();
    record.extend_from_slice(http);
    record.extend_from_slice(gzip);
    record.extend_from_slice(b"\r\n\r\n");
    record
}

/// Whole, cut off, with wrong sums at its end, and with wrong bytes so early that too little is left.
#[test]
fn damage_within_a_page_is_counted_with_its_place_and_what_comes_before_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pages");
    let gzip = std::fs::read(pages.join("article.html.gz")).unwrap();
    let flipped = |at: usize| {
        let mut bytes = gzip.clone();
        bytes[at..at + 8].iter_mut().for_each(|byte| *byte ^= 0xa5);
        bytes
    };
    let bodies = [gzip.clone(), gzip[..gzip.len() - 150].to_vec(), flipped(gzip.len() - 8), flipped(12)];
    let (mut archive, mut offsets) = (Vec::new(), Vec::new());
    for (number, body) in bodies.iter().enumerate() {
        offsets.push(archive.len() as u64);
        archive.extend(gzipped_response(&format!("https://example.org/{number}"), body));
    }
    let file = folder.path().join("crawl.warc");
    std::fs::write(&file, &archive).unwrap();
    let settings = settings(&file);
    let done = run(&settings, &folder.path().join("out"), &Resources::default(), &Context::quiet());
    let summary: herd_data::Summary =
        serde_json::from_slice(&std::fs::read(folder.path().join("out/summary.json")).unwrap()).unwrap();
    assert_eq!(done.unwrap(), summary);
    assert_eq!(summary.responses, 4);
    let places: Vec<u64> = summary.damage.iter().map(|damage| damage.offset).collect();
    assert_eq!(places, offsets[1..], "{:?}", summary.damage);
    for (number, damage) in summary.damage.iter().enumerate() {
        assert_eq!(damage.file, "crawl.warc");
        assert!(damage.problem.starts_with(&format!("the page https://example.org/{}", number + 1)));
        assert!(damage.problem.contains("gzip"), "{}", damage.problem);
    }
    assert_eq!(summary.funnel.dropped_by("undecodable"), 1, "{:?}", summary.damage);
}
