//! The main text of a web page (SPEC DATA-2): precise, and complete. Boilerplate goes; formulas, code and tables stay.
//!
//! Four passes over the nodes in document order, none of them recursive: [`prune`](prune::prune) what is never
//! content, [`segment`](blocks::segment) the rest into blocks, [`select`](select::select) the element with the largest
//! sum of prose minus links and the blocks of it that belong together, [`render`](render::render) them.

mod blocks;
mod math;
mod metadata;
mod prune;
mod render;
mod select;
mod words;

pub use metadata::Metadata;

use crate::html;
use prune::Strictness;

/// Below this many visible characters a result of the full rules is checked against milder ones.
const SHORT: u32 = 250;

/// A page's text and what it says about itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// Main text; lines end paragraphs. Empty if there is none.
    pub text: String,
    /// Title, date, language, canonical URL, licence.
    pub metadata: Metadata,
}

/// Extracts the main text of a page given as HTML. Never fails; time and memory are linear in the page's size.
pub fn extract(source: &str) -> Page {
    let dom = html::parse(source);
    let metadata = metadata::metadata(&dom);
    let text = main_text(&dom, &metadata);
    Page { text, metadata }
}

fn main_text(dom: &html::Dom, metadata: &Metadata) -> String {
    let strict = attempt(dom, metadata, Strictness::Full);
    if strict.1 >= SHORT {
        return strict.0;
    }
    // A short text is right for a short page; if milder rules find several times as much, they are.
    let mild = attempt(dom, metadata, Strictness::TagsOnly);
    if mild.1 > SHORT && mild.1 > strict.1 * 3 { mild.0 } else { strict.0 }
}

/// The text, and its visible characters.
fn attempt(dom: &html::Dom, metadata: &Metadata, strictness: Strictness) -> (String, u32) {
    let marks = prune::prune(dom, strictness);
    let blocks = blocks::segment(dom, &marks);
    let mut selection = select::select(dom, &marks, &blocks);
    select::drop_title(dom, &blocks, &mut selection, &metadata.title);
    let text = render::render(dom, &marks, &blocks, &selection.keep);
    let chars = prune::visible_chars(&text);
    (text, chars)
}
