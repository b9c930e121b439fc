//! The main text of a web page (SPEC DATA-2): precise, and complete. Boilerplate goes; formulas, code and tables stay.
//!
//! Passes over the nodes in document order, none of them recursive: what the page [states](statements::statements) and
//! [what kind](page_type::page_type) it is; [`prune`](prune::prune) what is never content,
//! [`segment`](blocks::segment) the rest into blocks, [`select`](select::select) the element with the largest sum of
//! prose minus links and the blocks of it that belong together, [`render`](render::render) them.

mod blocks;
mod broad;
mod chaff;
mod dates;
mod guided;
mod lead;
mod math;
mod metadata;
mod page_type;
mod prune;
mod render;
mod select;
mod statements;
mod words;

pub use metadata::Metadata;
pub use page_type::PageType;

use crate::html;
use prune::Strictness;
use statements::Statements;

/// Below this many visible characters a result of the full rules is checked against milder ones.
const SHORT: u32 = 250;
/// Visible characters from which a stated text may stand for one that is not in the page.
const MIN_STATED: u32 = 500;
/// Below this many nothing was found.
const NEXT_TO_NOTHING: u32 = 60;
/// Visible characters from which one text makes a page an article if nothing else is known of it.
const LONG: u32 = 800;
/// Share of what the main part of a page of unknown kind holds, below which one text of it is not what it is about.
const SMALL_SHARE: f32 = 0.35;

/// A page's text and what it says about itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// Main text; lines end paragraphs. Empty if there is none.
    pub text: String,
    /// Title, date, author, language, canonical URL, licence.
    pub metadata: Metadata,
    /// What kind of page it is.
    pub page_type: PageType,
}

/// Extracts the main text of a page given as HTML; `url` is its address, empty if it is not known. Never fails; time
/// and memory are linear in the page's size.
pub fn extract(source: &str, url: &str) -> Page {
    let dom = html::parse(source);
    let stated = statements::statements(&dom);
    let (metadata, head) = metadata::metadata(&dom, &stated, url);
    let address = if url.is_empty() { metadata.canonical.as_deref().unwrap_or("") } else { url };
    let stated_type = page_type::page_type(&dom, &head, &stated, address);
    let about = About { metadata: &metadata, stated: &stated, page_type: stated_type };
    let (mut text, page_type) = main_text(&dom, &about);
    // Pages that scripts fill in hold their text only where they state it.
    if let Some(body) = &stated.body {
        let (found, given) = (prune::visible_chars(&text), prune::visible_chars(body));
        if given >= MIN_STATED && found < given / 3 {
            text = stated_text(body);
        }
    }
    Page { text, metadata, page_type }
}

/// A text stated in JSON-LD, which may hold markup, as lines.
fn stated_text(body: &str) -> String {
    let lines = body.lines().map(|line| {
        let dom = html::parse(line);
        let marks = prune::prune(&dom, Strictness::TagsOnly, PageType::Other);
        let blocks = blocks::segment(&dom, &marks);
        render::render(&dom, &marks, &blocks, &vec![true; blocks.len()])
    });
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// What is known of a page before its text is chosen.
struct About<'a> {
    metadata: &'a Metadata,
    stated: &'a Statements,
    page_type: PageType,
}

/// The text, and the kind of page if only the text tells it.
fn main_text(dom: &html::Dom, about: &About) -> (String, PageType) {
    let strict = attempt(dom, about, Strictness::Full);
    if about.page_type == PageType::Other {
        let broad = attempt(dom, &About { page_type: PageType::Service, ..*about }, Strictness::Full);
        if strict.chars < (broad.chars as f32 * SMALL_SHARE) as u32 {
            let kind = if broad.links > 0.5 { PageType::Listing } else { PageType::Service };
            return (broad.text, kind);
        }
    }
    let kind = match about.page_type {
        PageType::Other if strict.chars >= LONG => PageType::Article,
        kind => kind,
    };
    if strict.chars >= SHORT {
        return (strict.text, kind);
    }
    // A short text is right for a short page; if milder rules find several times as much, they are.
    let mild = attempt(dom, about, Strictness::TagsOnly);
    if mild.chars > SHORT && mild.chars > strict.chars * 3 {
        return (mild.text, kind);
    }
    if strict.chars < NEXT_TO_NOTHING {
        let broad = attempt(dom, &About { page_type: PageType::Service, ..*about }, Strictness::Full);
        return (if broad.chars > strict.chars * 3 { broad.text } else { strict.text }, kind);
    }
    (strict.text, kind)
}

/// What one set of rules finds.
struct Attempt {
    text: String,
    /// Visible characters.
    chars: u32,
    /// Share of the characters that are in links.
    links: f32,
}

fn attempt(dom: &html::Dom, about: &About, strictness: Strictness) -> Attempt {
    let marks = prune::prune(dom, strictness, about.page_type);
    let blocks = blocks::segment(dom, &marks);
    let keep = select::select(dom, &marks, &blocks, about);
    let text = render::render(dom, &marks, &blocks, &keep);
    let kept = || blocks.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(block, _)| block);
    let links =
        kept().map(|b| b.link_chars).sum::<u32>() as f32 / kept().map(|b| b.chars).sum::<u32>().max(1) as f32;
    let chars = prune::visible_chars(&text);
    Attempt { text, chars, links }
}
