//! Last pass: the chosen blocks as plain text. White space collapses except in `pre`; table rows become lines with
//! tabs between cells; formulas keep their LaTeX; no markdown markers.

use super::blocks::{Block, Kind};
use super::math;
use super::prune::{Marks, is_math_script};
use crate::html::{Attr, Dom, NodeId, Tag};

/// The text of the kept blocks.
pub fn render(dom: &Dom, marks: &Marks, blocks: &[Block], keep: &[bool]) -> String {
    let mut out = String::new();
    let mut last_row: Option<NodeId> = None;
    let mut line = String::new();
    for (block, _) in blocks.iter().zip(keep).filter(|(_, keep)| **keep) {
        line.clear();
        inline(dom, marks, block, &mut line);
        let text = if block.kind == Kind::Pre { line.trim_matches('\n').trim_end() } else { line.trim() };
        if text.is_empty() {
            continue;
        }
        let row = if block.kind == Kind::Cell { row_of(dom, block.container) } else { None };
        let same_row = row.is_some() && row == last_row;
        if !out.is_empty() {
            out.push(if same_row { '\t' } else { '\n' });
        }
        out.push_str(text);
        last_row = row;
    }
    out
}

fn row_of(dom: &Dom, id: NodeId) -> Option<NodeId> {
    std::iter::once(id).chain(dom.ancestors(id)).find(|n| dom.tag(*n) == Tag::Tr)
}

/// Appends the inline content of a block.
fn inline(dom: &Dom, marks: &Marks, block: &Block, out: &mut String) {
    let pre = block.kind == Kind::Pre;
    let mut id = block.first;
    while id < block.end {
        let node = dom.node(id);
        if marks.removed[id as usize] {
            id = node.end;
            continue;
        }
        match node.tag {
            Tag::Text if pre => out.push_str(dom.text(id)),
            Tag::Text => collapse(dom.text(id), out),
            Tag::Br => out.push('\n'),
            Tag::Wbr => {}
            Tag::Img => {
                if let Some(formula) = math::image(dom, id) {
                    collapse(formula, out);
                }
            }
            Tag::Math => {
                math::mathml(dom, id, out);
                id = node.end;
                continue;
            }
            Tag::Script if is_math_script(dom, id) => {
                math::script(dom, id, out);
                id = node.end;
                continue;
            }
            _ => {}
        }
        id += 1;
    }
    if !pre {
        tidy_lines(out);
    }
}

/// Appends `text` with each run of white space as one space, none at the start of a line.
pub fn collapse(text: &str, out: &mut String) {
    let mut space = out.is_empty() || out.ends_with([' ', '\n']);
    for word_or_space in text.split_inclusive(|c: char| c.is_whitespace() || c == '\u{a0}') {
        let word = word_or_space.trim_end_matches(|c: char| c.is_whitespace() || c == '\u{a0}');
        if !word.is_empty() {
            out.extend(word.chars().filter(|c| !is_invisible(*c)));
            space = false;
        }
        if word.len() < word_or_space.len() && !space {
            out.push(' ');
            space = true;
        }
    }
}

/// Soft hyphens, zero-width spaces, byte order marks and control characters. Joiners stay: scripts need them.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}' | '\u{2060}' | '\u{feff}') || (c.is_control() && c != '\n' && c != '\t')
}

/// Removes the spaces around the line breaks that `<br>` made.
fn tidy_lines(out: &mut String) {
    if !out.contains('\n') {
        return;
    }
    let lines: Vec<&str> = out.split('\n').map(str::trim).filter(|l| !l.is_empty()).collect();
    *out = lines.join("\n");
}

/// An attribute's text on one line.
pub fn one_line(text: &str) -> String {
    let mut out = String::new();
    collapse(text, &mut out);
    out.truncate(out.trim_end().len());
    out
}

/// The text that stands for an image, if there is any.
pub fn alt<'d>(dom: &'d Dom, id: NodeId) -> Option<&'d str> {
    dom.attr(id, Attr::Alt).map(str::trim).filter(|alt| !alt.is_empty())
}
