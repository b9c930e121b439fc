//! Pages that are not one article: manuals, shops, listings, home pages, forums. What prune left in their main part is
//! kept, unless it is small print by its shape.

use super::About;
use super::blocks::{Block, Kind};
use super::chaff::drop_chaff;
use super::page_type::PageType;
use super::prune::Marks;
use super::select::{Sums, best_root, drop_bare_headings, range_of};
use crate::html::{Attr, Dom, NodeId, Tag};
use std::ops::Range;

/// Share of the characters that an element must hold to be the main part because it says so.
const MAIN_SHARE: f32 = 0.1;

/// Share of the characters below which what is left after the menus is not the page.
const INDEX_SHARE: f32 = 0.15;

/// Chooses the blocks of such a page.
pub fn select(dom: &Dom, marks: &Marks, blocks: &[Block], about: &About) -> Vec<bool> {
    let sums = Sums::new(blocks);
    let kind = about.page_type;
    let scope = main_part(dom, blocks, &sums).unwrap_or_else(|| match kind {
        PageType::Forum | PageType::Documentation => best_root(dom, marks, blocks, &sums),
        _ => 0,
    });
    let range = range_of(dom, blocks, scope);
    let mut keep = vec![false; blocks.len()];
    keep[range.clone()].fill(true);
    let all = keep.clone();
    drop_menus(dom, blocks, &sums, scope, kind, &mut keep);
    // A page that is nothing but an index is its links.
    let chars =
        |keep: &[bool]| blocks.iter().zip(keep).filter(|(_, k)| **k).map(|(b, _)| b.chars).sum::<u32>();
    if (chars(&keep) as f32) < chars(&all) as f32 * INDEX_SHARE {
        keep = all;
    }
    for n in range.clone() {
        keep[n] &= !is_label(&blocks[n], kind);
    }
    drop_chaff(dom, marks, blocks, about.stated, &mut keep);
    if matches!(kind, PageType::Product | PageType::Service | PageType::Forum) {
        drop_bare_headings(blocks, range.clone(), &mut keep);
    }
    keep_title(blocks, range, &mut keep);
    keep
}

/// Keeps the main heading, which may stand before the main part.
fn keep_title(blocks: &[Block], range: Range<usize>, keep: &mut [bool]) {
    let title = |n: &usize| blocks[*n].kind == Kind::Heading(1);
    if let Some(n) = range.clone().find(title).or_else(|| (0..range.start).rev().find(title)) {
        keep[n] = true;
    }
}

/// The one `main` (by tag or role) with much of the page's text.
fn main_part(dom: &Dom, blocks: &[Block], sums: &Sums) -> Option<NodeId> {
    let all = sums.chars(&(0..blocks.len()));
    let mut found = None;
    let mut id = 1;
    while (id as usize) < dom.nodes.len() {
        if dom.tag(id) == Tag::Main || dom.attr(id, Attr::Role) == Some("main") {
            if sums.chars(&range_of(dom, blocks, id)) >= all * MAIN_SHARE {
                found = Some(id);
            }
            id = dom.node(id).end;
        } else {
            id += 1;
        }
    }
    found
}

/// Drops groups of short links: menus, tags, pages of a listing.
fn drop_menus(dom: &Dom, blocks: &[Block], sums: &Sums, scope: NodeId, kind: PageType, keep: &mut [bool]) {
    let (least, size, density) = match kind {
        PageType::Listing => (4, 14.0, 0.9),
        PageType::Documentation => (5, 20.0, 0.9),
        PageType::Forum => (2, 60.0, 0.6),
        _ => (3, 22.0, 0.8),
    };
    let mut id = scope + 1;
    let end = dom.node(scope).end;
    while id < end {
        if matches!(
            dom.tag(id),
            Tag::Ul | Tag::Ol | Tag::Div | Tag::Section | Tag::P | Tag::Table | Tag::Other
        ) {
            let range = range_of(dom, blocks, id);
            if range.len() >= least
                && sums.link_density(&range) > density
                && sums.chars(&range) / (range.len() as f32) < size
            {
                keep[range].fill(false);
                id = dom.node(id).end;
                continue;
            }
        }
        id += 1;
    }
}

/// A short block that says nothing by itself: a sign, the text of a button.
fn is_label(block: &Block, kind: PageType) -> bool {
    match block.kind {
        Kind::Pre | Kind::Cell | Kind::Heading(_) => false,
        _ if block.chars < 2 => true,
        _ => match kind {
            PageType::Forum if block.doubtful && block.chars < 80 => true,
            PageType::Forum => block.chars < 6 || (block.link_density() > 0.6 && block.chars < 80),
            PageType::Service | PageType::Product => block.link_density() > 0.8 && block.chars < 20,
            _ => block.link_density() > 0.9 && block.chars < 8,
        },
    }
}
