//! Third pass: which element holds the main text, and which of its blocks belong to it.

use super::About;
use super::blocks::{Block, Kind};
use super::broad;
use super::chaff::drop_chaff;
use super::guided::narrow;
use super::lead::keep_lead;
use super::page_type::PageType;
use super::prune::Marks;
use super::words::Roles;
use crate::html::{Attr, Dom, NodeId, Tag};
use std::ops::Range;

/// Smallest share of the best sum that a nested element may have to be taken in place of what surrounds it.
const KEEP_SHARE: f32 = 0.90;
/// The same for an element that says by its name that it is the text.
const NAMED_SHARE: f32 = 0.50;
/// The hint from which an element counts as named so.
const NAMED_HINT: f32 = 1.25;

/// How much a block speaks for the element that holds it: characters of prose count for, links and scraps against.
fn value(block: &Block) -> f32 {
    if block.apart {
        return 0.0;
    }
    let plain = (block.chars - block.link_chars) as f32;
    let density = block.link_density();
    let prose = plain >= 80.0 || (plain >= 25.0 && (block.ends_sentence || block.marks >= 2));
    let worth = match block.kind {
        Kind::Pre => plain * (1.0 - density),
        Kind::Heading(_) => return 0.0,
        _ if prose && density < 0.6 => plain * (1.0 - density),
        _ if density > 0.5 => return -(8.0 + (block.link_chars as f32).min(60.0)),
        _ if block.links == 0 => return -1.0,
        _ => return -4.0,
    };
    let kind = match block.kind {
        Kind::Item | Kind::Cell => 0.7,
        _ => 1.0,
    };
    worth * kind * if block.doubtful { 0.3 } else { 1.0 }
}

/// Sums over blocks, for any element in constant time.
pub struct Sums {
    values: Vec<f32>,
    chars: Vec<f32>,
    links: Vec<f32>,
}

impl Sums {
    pub fn new(blocks: &[Block]) -> Self {
        let running = |of: &dyn Fn(&Block) -> f32| {
            let mut sums = vec![0.0];
            let mut sum = 0.0;
            for block in blocks {
                sum += of(block);
                sums.push(sum);
            }
            sums
        };
        Self {
            values: running(&value),
            chars: running(&|b| b.chars as f32),
            links: running(&|b| b.link_chars as f32),
        }
    }

    pub fn value(&self, range: &Range<usize>) -> f32 {
        self.values[range.end] - self.values[range.start]
    }

    pub fn link_density(&self, range: &Range<usize>) -> f32 {
        (self.links[range.end] - self.links[range.start]) / self.chars(range).max(1.0)
    }

    pub fn chars(&self, range: &Range<usize>) -> f32 {
        self.chars[range.end] - self.chars[range.start]
    }
}

/// Indices of the blocks below an element.
pub fn range_of(dom: &Dom, blocks: &[Block], id: NodeId) -> Range<usize> {
    let end = dom.node(id).end;
    blocks.partition_point(|b| b.first < id)..blocks.partition_point(|b| b.first < end)
}

/// Chooses the main text: for each block whether it is in.
pub fn select(dom: &Dom, marks: &Marks, blocks: &[Block], about: &About) -> Vec<bool> {
    if !matches!(about.page_type, PageType::Article | PageType::Other) {
        return broad::select(dom, marks, blocks, about);
    }
    let sums = Sums::new(blocks);
    let root = root(dom, marks, blocks, &sums);
    let range = range_of(dom, blocks, root);
    let mut keep = vec![false; blocks.len()];
    keep[range.clone()].fill(true);
    drop_link_groups(dom, blocks, &sums, root, &mut keep);
    for n in range.clone() {
        keep[n] &= !blocks[n].apart && !is_scrap(dom, &blocks[n]);
    }
    drop_chaff(dom, marks, blocks, about.stated, &mut keep);
    trim_ends(dom, blocks, range.clone(), &mut keep);
    if let Some(body) = &about.stated.body {
        narrow(dom, marks, blocks, body, &mut keep);
    }
    drop_bare_headings(blocks, range, &mut keep);
    keep_lead(dom, marks, blocks, &about.metadata.description, &mut keep);
    drop_title(dom, blocks, &mut keep, &about.metadata.title);
    keep
}

/// A factor for elements that say what they are.
fn hint(dom: &Dom, marks: &Marks, id: NodeId) -> f32 {
    let mut factor = match dom.tag(id) {
        Tag::Article => 1.15,
        Tag::Main => 1.1,
        _ => 1.0,
    };
    if dom.attr(id, Attr::Itemprop).is_some_and(|v| v.split_ascii_whitespace().any(|w| w == "articleBody")) {
        factor *= 1.3;
    }
    if dom.attr(id, Attr::Role) == Some("main") {
        factor *= 1.1;
    }
    let roles = marks.roles[id as usize];
    if roles.has(Roles::BODY) {
        factor *= 1.25;
    } else if roles.has(Roles::CONTENT) {
        factor *= 1.05;
    }
    factor
}

/// Elements that hold a text rather than a piece of it.
fn is_container(tag: Tag) -> bool {
    use Tag::*;
    matches!(
        tag,
        Document
            | Html
            | Body
            | Main
            | Article
            | Section
            | Div
            | Center
            | Td
            | Table
            | Form
            | Details
            | Header
            | Other
            | Fieldset
    )
}

/// An element with the sum of its blocks.
struct Candidate {
    id: NodeId,
    sum: f32,
    named: bool,
}

/// All that could hold the text, in document order.
fn candidates(dom: &Dom, marks: &Marks, blocks: &[Block], sums: &Sums) -> Vec<Candidate> {
    let mut seen = vec![false; dom.nodes.len()];
    let mut candidates = Vec::new();
    for block in blocks.iter().filter(|b| value(b) > 0.0) {
        for id in std::iter::once(block.container).chain(dom.ancestors(block.container)) {
            if std::mem::replace(&mut seen[id as usize], true) {
                break;
            }
            if is_container(dom.tag(id)) {
                let sum = sums.value(&range_of(dom, blocks, id));
                candidates.push(Candidate { id, sum, named: hint(dom, marks, id) >= NAMED_HINT });
            }
        }
    }
    candidates.sort_by_key(|c| c.id);
    candidates
}

/// The innermost element with the largest sum, whatever its name.
pub fn best_root(dom: &Dom, marks: &Marks, blocks: &[Block], sums: &Sums) -> NodeId {
    let candidates = candidates(dom, marks, blocks, sums);
    let best = candidates.iter().map(|c| c.sum).fold(0.0, f32::max);
    candidates.iter().rfind(|c| c.sum > 0.0 && c.sum >= best * 0.98).map_or(0, |c| c.id)
}

fn root(dom: &Dom, marks: &Marks, blocks: &[Block], sums: &Sums) -> NodeId {
    let candidates = candidates(dom, marks, blocks, sums);
    let best = candidates.iter().map(|c| c.sum).fold(0.0, f32::max);
    // The innermost element that still has nearly all of the largest sum.
    let chosen = candidates.iter().rfind(|c| c.sum > 0.0 && c.sum >= best * KEEP_SHARE).map_or(0, |c| c.id);
    let Some((named, sum)) = named_root(dom, &candidates, best) else { return chosen };
    if sum >= best * NAMED_SHARE { named } else { chosen }
}

/// The element that holds all that say by their names that they are the text, if there are any.
fn named_root(dom: &Dom, candidates: &[Candidate], best: f32) -> Option<(NodeId, f32)> {
    let mut outermost: Vec<&Candidate> = Vec::new();
    for candidate in candidates.iter().filter(|c| c.named && c.sum >= best * 0.08 && c.sum > 0.0) {
        let nested = outermost.iter().any(|o| candidate.id < dom.node(o.id).end);
        if !nested {
            outermost.push(candidate);
        }
    }
    // Of nested ones the innermost with nearly all of the outer one's sum: `article` around `entry-content`.
    let (first, last) = (outermost.first()?, outermost.last()?);
    if outermost.len() == 1 {
        let inner = candidates.iter().rfind(|c| {
            c.named && c.id >= first.id && c.id < dom.node(first.id).end && c.sum >= first.sum * KEEP_SHARE
        })?;
        return Some((inner.id, inner.sum));
    }
    let common = dom.ancestors(first.id).find(|n| dom.node(*n).end > last.id)?;
    let sum = candidates.iter().find(|c| c.id == common).map_or(0.0, |c| c.sum);
    Some((common, sum))
}

/// Drops lists, tables and boxes inside the root that are mostly links.
fn drop_link_groups(dom: &Dom, blocks: &[Block], sums: &Sums, root: NodeId, keep: &mut [bool]) {
    let mut id = root + 1;
    let end = dom.node(root).end;
    while id < end {
        let tag = dom.tag(id);
        let group = matches!(
            tag,
            Tag::Ul
                | Tag::Ol
                | Tag::Dl
                | Tag::Table
                | Tag::Div
                | Tag::Section
                | Tag::Aside
                | Tag::P
                | Tag::Other
        );
        if group {
            let range = range_of(dom, blocks, id);
            let density = sums.link_density(&range);
            let size = sums.chars(&range) / range.len().max(1) as f32;
            let bound = if matches!(tag, Tag::Ul | Tag::Ol) { 0.45 } else { 0.55 };
            if range.len() > 1 && density > bound && size < 120.0 {
                keep[range].fill(false);
                id = dom.node(id).end;
                continue;
            }
        }
        id += 1;
    }
}

/// Whether a block inside the root is boilerplate by itself.
fn is_scrap(dom: &Dom, block: &Block) -> bool {
    let density = block.link_density();
    match block.kind {
        Kind::Pre => false,
        Kind::Heading(_) => density > 0.8 && block.chars > 60,
        Kind::Cell => density > 0.8,
        _ if block.doubtful => block.chars < 80 || density > 0.3,
        _ => {
            let linky = density > 0.66 && (block.chars < 160 || density > 0.9);
            let label = block.chars < 12 && !block.ends_sentence && block.kind == Kind::Text;
            linky || label || only_address(dom, block)
        }
    }
}

fn only_address(dom: &Dom, block: &Block) -> bool {
    dom.tag(block.container) == Tag::Address && block.chars < 120
}

/// Drops short blocks before the first and after the last block of prose.
fn trim_ends(dom: &Dom, blocks: &[Block], range: Range<usize>, keep: &mut [bool]) {
    let solid = |n: &usize| keep[*n] && value(&blocks[*n]) >= 25.0;
    let Some(first) = range.clone().find(solid) else { return };
    let last = range.clone().rev().find(solid).unwrap_or(first);
    let parent = |n: usize| dom.node(blocks[n].container).parent;
    // A short line beside the prose, such as a greeting, belongs to it; one in another box does not.
    let beside = |n: usize, solid: usize| {
        let block = &blocks[n];
        let plain = block.links == 0 && block.chars >= 12 && !block.doubtful;
        plain && block.kind == Kind::Text && parent(n) == parent(solid)
    };
    for n in range.start..first {
        keep[n] &= matches!(blocks[n].kind, Kind::Heading(_)) || beside(n, first);
    }
    for n in last + 1..range.end {
        keep[n] &= match blocks[n].kind {
            Kind::Pre | Kind::Item | Kind::Cell => true,
            Kind::Heading(_) => false,
            Kind::Text => beside(n, last),
        };
    }
}

/// Drops headings that no text of theirs follows.
pub fn drop_bare_headings(blocks: &[Block], range: Range<usize>, keep: &mut [bool]) {
    let mut text_below: Option<u8> = None; // level of the shallowest heading that the text below may belong to
    for n in range.rev() {
        match blocks[n].kind {
            Kind::Heading(level) if keep[n] => {
                keep[n] = text_below.is_some_and(|below| level < below);
                text_below = if keep[n] { Some(level) } else { text_below };
            }
            _ if keep[n] => text_below = Some(7),
            _ => {}
        }
    }
}

/// Drops a heading at the start that only repeats the title, which has its own column.
fn drop_title(dom: &Dom, blocks: &[Block], keep: &mut [bool], title: &str) {
    let Some(first) = keep.iter().position(|keep| *keep) else { return };
    let block = &blocks[first];
    if matches!(block.kind, Kind::Heading(1 | 2)) {
        let letters = |text: &str| {
            text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>()
        };
        let heading: String = (block.first..block.end).map(|n| dom.text(n)).collect();
        let (heading, title) = (letters(&heading), letters(title));
        if !title.is_empty() && (title.contains(&heading) || heading.contains(&title)) {
            keep[first] = false;
        }
    }
}
