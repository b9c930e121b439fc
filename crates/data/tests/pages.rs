//! Pages of every kind, written for these tests in the manner of common programs: what is kept, what goes, and what
//! the page says about itself.

use herd_data::extract::{Page, PageType, extract};
use herd_data::page_file::extract_file;
use std::path::{Path, PathBuf};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pages").join(name)
}

fn page(name: &str) -> Page {
    extract_file(&path(name), "").unwrap().page
}

#[track_caller]
fn check(page: &Page, kind: PageType, kept: &[&str], dropped: &[&str]) {
    assert_eq!(page.page_type, kind, "{}", page.text);
    for text in kept {
        assert!(page.text.contains(text), "'{text}' is missing:\n{}", page.text);
    }
    for text in dropped {
        assert!(!page.text.contains(text), "'{text}' is left:\n{}", page.text);
    }
}

#[test]
fn an_article_keeps_its_lead_and_nothing_around_it() {
    let page = page("article.html");
    assert_eq!(
        page.text.lines().collect::<Vec<_>>(),
        [
            "The path along the river was closed after the flood of 2021; walkers are back.",
            "The boards had rotted through long before the water came, says the council, and the flood only finished them. Repairs took two winters.",
            "Since Saturday the path is open again from the mill to the weir. Dogs must be kept on a lead, and cyclists are asked to dismount at the narrow parts.",
        ]
    );
    let says = page.metadata;
    assert_eq!(says.title, "River path reopens after two years");
    assert_eq!(
        (says.date.as_deref(), says.author.as_deref(), says.language.as_deref(), says.canonical.as_deref()),
        (
            Some("2023-05-14"),
            Some("Ina Moss"),
            Some("en"),
            Some("https://courier.example/2023/05/14/river-path")
        )
    );
    assert_eq!(page.page_type, PageType::Article);
}

#[test]
fn a_stated_body_decides_between_blocks() {
    let paragraphs: Vec<String> = (0..6)
        .map(|n| format!("Paragraph {n} of the story tells what happened on day {n}, at length and in order, so that it can be found."))
        .collect();
    let stranger =
        "A paragraph of another story that stands in the same box and looks exactly like the rest of it.";
    let html = format!(
        r#"<script type="application/ld+json">{{"@type":"NewsArticle","articleBody":"{}"}}</script><div class="story"><p>{}</p><p>{stranger}</p><p>{}</p></div>"#,
        paragraphs.join(" "),
        paragraphs[..3].join("</p><p>"),
        paragraphs[3..].join("</p><p>"),
    );
    assert_eq!(extract(&html, "").text, paragraphs.join("\n"));
}

#[test]
fn a_page_that_scripts_fill_gives_the_text_it_states() {
    let body = "<p>First &amp; foremost, the text of this page is only in its statement.</p>".repeat(12);
    let html = format!(
        r#"<script type="application/ld+json">{{"@type":"Article","articleBody":"{body}"}}</script><div id="app">Loading</div>"#
    );
    let text = extract(&html, "").text;
    assert_eq!(text.lines().count(), 12, "{text}");
    assert!(text.starts_with("First & foremost, the text"), "{text}");
}

#[test]
fn a_forum_keeps_every_message_and_no_profiles() {
    let kept = ["skips on the two smallest cogs", "Both. A worn cassette", "Check the hanger first, please."];
    check(
        &page("forum.html"),
        PageType::Forum,
        &kept,
        &["Joined", "3401", "Ride more", "Post Reply", "Powered by"],
    );
}

#[test]
fn questions_keep_answers_comments_and_code() {
    let kept = [
        "How do I reverse a string?",
        "fn main() {\n    let s = \"abc\";\n    // ?\n}",
        "Do you mean grapheme clusters",
        "let r: String",
        "With the crate unicode-segmentation",
    ];
    check(
        &page("questions.html"),
        PageType::Forum,
        &kept,
        &["Your Answer", "How to split", "1,204", "site design"],
    );
}

#[test]
fn a_product_keeps_its_features_and_table() {
    let kept = ["Trail Lamp 900", "$59.90", "Weighs 92 g", "The beam is wide", "Battery\t1,600 mAh"];
    check(
        &page("product.html"),
        PageType::Product,
        &kept,
        &["Add to cart", "Spare strap", "Imprint", "Sale"],
    );
}

#[test]
fn a_listing_keeps_its_things_and_no_filters() {
    let kept = ["Boots for day hikes", "Alpa Ridge Mid GTX waterproof boot", "Dolo Kids boot", "$249"];
    check(
        &page("listing.html"),
        PageType::Listing,
        &kept,
        &["Add to cart", "Brand", "Berg\n", "Main Street"],
    );
}

#[test]
fn a_service_page_keeps_all_its_sections() {
    let kept =
        ["Tax advice for freelancers", "on time, every time", "Send photos", "From 90 euros", "on a Sunday"];
    check(&page("service.html"), PageType::Service, &kept, &["cookies", "Privacy", "Team", "Book a call"]);
}

#[test]
fn documentation_keeps_code_tables_and_formulas() {
    let page = page("documentation.html");
    let kept = [
        "Parsing\nCall parse() first.\ndef f(x):\n    if x:\n        return 1\n",
        "Option\tMeaning\nstrict\tfail early",
        "foo.parse(text)\nParse a text.",
        r"\(\pi r^2\)",
    ];
    check(&page, PageType::Documentation, &kept, &["¶", "Table of Contents", "index", "\n2\n"]);
    assert_eq!(page.metadata.title, "Parsing");
}

#[test]
fn code_in_rows_of_a_table_keeps_its_indentation() {
    let html = "<main><p>The function is short enough to be shown whole here.</p><table><tr><td class='blob-num' data-line-number=1></td><td class='blob-code'>fn f() {</td></tr><tr><td class='blob-num line-number'>2</td><td class='blob-code'>    1</td></tr><tr><td class='blob-num'></td><td class='blob-code'>}</td></tr></table></main>";
    let text = extract(html, "https://docs.a.example/reference/f").text;
    assert!(text.ends_with("fn f() {\n    1\n}"), "{text}");
}

#[test]
fn files_may_be_gzipped_damaged_or_no_pages() {
    let folder = tempfile::tempdir().unwrap();
    let whole = page("article.html");
    let gzip = std::fs::read(path("article.html.gz")).unwrap();
    let file = folder.path().join("page.html.gz");
    std::fs::write(&file, &gzip).unwrap();
    let read = extract_file(&file, "").unwrap();
    assert_eq!((read.page, read.missing), (whole, None));
    std::fs::write(&file, &gzip[..gzip.len() - 150]).unwrap();
    let cut = extract_file(&file, "").unwrap();
    assert!(cut.page.text.starts_with("The path along the river"), "{}", cut.page.text);
    assert!(cut.missing.as_ref().is_some_and(|missing| missing.contains("gzip")), "{:?}", cut.missing);
    let mut long = b"<p>The first words of a page that has no end. ".to_vec();
    long.resize(50_000_001, b'x');
    std::fs::write(&file, &long).unwrap();
    let missing = extract_file(&file, "").unwrap().missing;
    assert!(missing.as_ref().is_some_and(|missing| missing.contains("50000000")), "{missing:?}");
    std::fs::write(&file, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").unwrap();
    let error = extract_file(&file, "").unwrap_err().to_string();
    assert!(error.contains("page.html.gz"), "{error}");
    assert!(extract_file(&folder.path().join("absent.html"), "").is_err());
}

#[test]
fn hostile_pages_end() {
    let sentence = "This is a sentence, long enough to count as text of the page.";
    let pages = [
        format!("{}<p>{sentence}", "<div class='teaser tooltip user-info lead'>".repeat(100_000)),
        format!("<main><h1>x</h1>{}<p>{sentence}", "<header class='byline date'>".repeat(100_000)),
        format!("{}{sentence}", "<pre class='line ln'>".repeat(100_000)),
        format!("<p>{sentence}{}", "<span class='tooltip'>a".repeat(100_000)),
        format!("<div {}>{sentence}</div>", (0..100_000).map(|n| format!("class=a{n} ")).collect::<String>()),
        format!("<div class='{}'>{sentence}</div>", "share-x ".repeat(500_000)),
        format!("<script type='application/ld+json'>{}</script><p>{sentence}", "[".repeat(500_000)),
        format!("{}<p>{sentence}", "<h1>".repeat(50_000) + &"<div><h1>a".repeat(50_000)),
        format!("<p>\0{sentence}\u{fffd}</p>").repeat(20_000),
    ];
    for page in pages {
        extract(&page, "");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.html");
    std::fs::write(
        &file,
        [b"<p>\xff\xfe bad \xc3( bytes, but still a text that is long enough. </p>".repeat(50), vec![0]]
            .concat(),
    )
    .unwrap();
    assert!(extract_file(&file, "").unwrap().page.text.contains("still a text"));
}
