//! Pages that state their text in JSON-LD (`articleBody`): the blocks that it contains are the text.

use super::blocks::{Block, Kind};
use super::chaff::{block_text, letters};
use super::prune::Marks;
use crate::html::{Dom, Tag};

/// Fewest letters of a stated text that is trusted.
const MIN_BODY: usize = 400;
/// Share of it that the blocks must account for.
const MIN_MATCH: f32 = 0.85;
/// How much longer the text found by the rules may be; more means that the statement is only a beginning.
const MAX_EXCESS: f32 = 1.6;
/// Letters from which a block is looked up; shorter ones are found everywhere.
const MIN_BLOCK: usize = 20;
/// Longest stated text, in letters, and most letters that are searched: bounds the time.
const MAX_BODY: usize = 400_000;
const MAX_SEARCHED: usize = 32 << 20;

/// Narrows what the rules kept to what the page states, where both agree that they speak of the same text. Returns
/// whether it did.
pub fn narrow(dom: &Dom, marks: &Marks, blocks: &[Block], body: &str, keep: &mut [bool]) -> bool {
    let mut stated = String::new();
    letters(body, &mut stated);
    if !(MIN_BODY..MAX_BODY).contains(&stated.len()) {
        return false;
    }
    let mut matched = vec![false; blocks.len()];
    let (mut at, mut found, mut chosen, mut searched) = (0, 0, 0, 0);
    let (mut raw, mut plain) = (String::new(), String::new());
    for (n, block) in blocks.iter().enumerate() {
        raw.clear();
        plain.clear();
        block_text(dom, marks, block, &mut raw);
        letters(&raw, &mut plain);
        if keep[n] {
            chosen += plain.len();
        }
        if plain.len() < MIN_BLOCK || searched > MAX_SEARCHED {
            continue;
        }
        // Blocks mostly come in the order of the text.
        searched += stated.len() - at;
        let mut place = memchr::memmem::find(&stated.as_bytes()[at..], plain.as_bytes()).map(|p| at + p);
        if place.is_none() && at > 0 {
            searched += stated.len();
            place = memchr::memmem::find(stated.as_bytes(), plain.as_bytes());
        }
        if let Some(place) = place {
            matched[n] = true;
            at = place + plain.len();
            found += plain.len();
        }
    }
    let agrees =
        found as f32 >= stated.len() as f32 * MIN_MATCH && chosen as f32 <= stated.len() as f32 * MAX_EXCESS;
    let (Some(first), Some(last)) = (matched.iter().position(|m| *m), matched.iter().rposition(|m| *m))
    else {
        return false;
    };
    if !agrees || found as f32 > stated.len() as f32 * 1.3 {
        return false;
    }
    for (n, block) in blocks.iter().enumerate() {
        let inside = (first..=last).contains(&n);
        // Statements leave out headings, tables, code and quotations, and short lines cannot be looked up.
        let other = matches!(block.kind, Kind::Heading(_) | Kind::Cell | Kind::Pre | Kind::Item)
            || std::iter::once(block.container)
                .chain(dom.ancestors(block.container).take(2))
                .any(|id| dom.tag(id) == Tag::Blockquote);
        keep[n] = matched[n] || (keep[n] && inside && (other || block.chars < MIN_BLOCK as u32));
    }
    true
}
