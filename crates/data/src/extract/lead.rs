//! The lead of an article: the paragraph or two between its title and its body, often in a header or a box of its own.

use super::blocks::{Block, Kind};
use super::chaff::{block_text, letters};
use super::prune::Marks;
use super::select::range_of;
use crate::html::{Dom, NodeId, Tag};

/// How far before the text it may stand, in blocks.
const REACH: usize = 14;
/// Letters at the start that make a block and the page's description the same text.
const SAME_START: usize = 40;

/// Keeps the lead of the text that begins with the first kept block.
pub fn keep_lead(dom: &Dom, marks: &Marks, blocks: &[Block], description: &str, keep: &mut [bool]) {
    let Some(first) = keep.iter().position(|k| *k) else { return };
    let scope = scope(dom, blocks[first].container);
    let start = range_of(dom, blocks, scope).start.max(first.saturating_sub(REACH));
    let title = (start..first).rev().find(|n| blocks[*n].kind == Kind::Heading(1));
    let mut stated = String::new();
    letters(description, &mut stated);
    let (mut raw, mut plain) = (String::new(), String::new());
    for n in start..first {
        let block = &blocks[n];
        if block.chars < 30
            || block.link_density() > 0.3
            || matches!(block.kind, Kind::Heading(_) | Kind::Cell)
        {
            continue;
        }
        raw.clear();
        plain.clear();
        block_text(dom, marks, block, &mut raw);
        letters(&raw, &mut plain);
        let described = same_start(&plain, &stated);
        let prose = block.chars >= 60 && block.ends_sentence && !block.doubtful && block.links <= 1;
        let after_title = title.is_some_and(|t| n > t);
        keep[n] = described || (block.lead && block.chars >= 40) || (after_title && prose);
    }
}

fn same_start(text: &str, stated: &str) -> bool {
    let prefix = |t: &str| t.char_indices().nth(SAME_START).map(|(at, _)| at);
    match (prefix(text), prefix(stated)) {
        (Some(a), Some(b)) => text[..a] == stated[..b],
        _ => false,
    }
}

/// The element that holds an article with its title: the nearest `article` or `main` with an `h1`, else the nearest of
/// any name, else the outermost `article` or `main`.
fn scope(dom: &Dom, id: NodeId) -> NodeId {
    let titled = |n: &NodeId| dom.descendants(*n).any(|d| dom.tag(d) == Tag::H1);
    let named = |n: &NodeId| matches!(dom.tag(*n), Tag::Article | Tag::Main);
    (dom.ancestors(id).filter(named).take(4).find(titled))
        .or_else(|| dom.ancestors(id).filter(named).last())
        .or_else(|| dom.ancestors(id).take(8).find(titled))
        .unwrap_or(0)
}
