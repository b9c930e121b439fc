//! Second pass: the page as a sequence of blocks, each a stretch of inline content inside one block element.

use super::prune::{Marks, is_math_script, visible_chars};
use super::words::Roles;
use crate::html::{Attr, Dom, NodeId, Tag};

/// Greatest share of the page's text in an element whose doubtful name counts.
const DOUBTFUL_SHARE: f32 = 0.12;

/// A paragraph, heading, list item's line, table cell, ...
#[derive(Debug, Clone)]
pub struct Block {
    /// The block element that directly holds it.
    pub container: NodeId,
    /// Its nodes: `first..end`, all inside `container`; blocks inside it are excluded by their own ranges.
    pub first: NodeId,
    /// One past its last node.
    pub end: NodeId,
    /// Visible characters.
    pub chars: u32,
    /// Of these, inside links.
    pub link_chars: u32,
    /// Links.
    pub links: u16,
    /// Commas and sentence ends, of any script.
    pub marks: u16,
    /// Whether it ends as a sentence does.
    pub ends_sentence: bool,
    /// The kind of element around it.
    pub kind: Kind,
    /// Whether an element around it, below the root, has a doubtful class name.
    pub doubtful: bool,
    /// Whether it is inside a header or a teaser: part of the text only as its lead.
    pub apart: bool,
    /// Whether an element around it is named as a lead.
    pub lead: bool,
}

/// What holds a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Running text.
    Text,
    /// `h1` to `h6`, with the level.
    Heading(u8),
    /// A list item or a definition.
    Item,
    /// A table cell.
    Cell,
    /// Preformatted text.
    Pre,
}

impl Block {
    /// Share of its characters inside links.
    pub fn link_density(&self) -> f32 {
        self.link_chars as f32 / self.chars.max(1) as f32
    }
}

/// Cuts a page into blocks, leaving out what `marks` removed.
pub fn segment(dom: &Dom, marks: &Marks) -> Vec<Block> {
    let mut cutter = Cutter {
        dom,
        blocks: Vec::new(),
        open: vec![Level::default()],
        current: None,
        link_end: 0,
        apart_end: 0,
        lead_end: 0,
    };
    let mut id: NodeId = 1;
    let count = dom.nodes.len() as NodeId;
    while id < count {
        cutter.close_before(id);
        if marks.removed[id as usize] {
            id = dom.node(id).end;
            continue;
        }
        // A doubtful name on an element that holds much of the page says nothing about its text.
        let doubtful = marks.roles[id as usize].has(Roles::DOUBTFUL)
            && !marks.roles[id as usize].has(Roles::BODY)
            && marks.share(dom, id) < DOUBTFUL_SHARE;
        cutter.apart_end =
            if marks.apart[id as usize] { cutter.apart_end.max(dom.node(id).end) } else { cutter.apart_end };
        if marks.roles[id as usize].has(Roles::LEAD) && marks.share(dom, id) < DOUBTFUL_SHARE {
            cutter.lead_end = cutter.lead_end.max(dom.node(id).end);
        }
        id = cutter.visit(id, doubtful);
    }
    cutter.finish();
    cutter.blocks
}

#[derive(Clone, Copy)]
struct Level {
    id: NodeId,
    kind: Kind,
    doubtful: bool,
}

impl Default for Level {
    fn default() -> Self {
        Self { id: 0, kind: Kind::Text, doubtful: false }
    }
}

struct Cutter<'a, 'd> {
    dom: &'d Dom<'a>,
    blocks: Vec<Block>,
    /// Block elements around the current node.
    open: Vec<Level>,
    current: Option<Block>,
    /// Nodes before this are inside a link.
    link_end: NodeId,
    /// Nodes before this are in a header or a teaser.
    apart_end: NodeId,
    /// Nodes before this are in an element named as a lead.
    lead_end: NodeId,
}

impl Cutter<'_, '_> {
    fn level(&self) -> Level {
        self.open.last().copied().unwrap_or_default()
    }

    /// Leaves the block elements that end before `id`.
    fn close_before(&mut self, id: NodeId) {
        while self.open.len() > 1 && self.dom.node(self.level().id).end <= id {
            self.finish();
            self.open.pop();
        }
    }

    fn finish(&mut self) {
        if let Some(block) = self.current.take()
            && block.chars > 0
        {
            self.blocks.push(block);
        }
    }

    /// Takes in one node; returns the next to visit.
    fn visit(&mut self, id: NodeId, doubtful: bool) -> NodeId {
        let node = self.dom.node(id);
        match node.tag {
            Tag::Text => {
                let text = self.dom.text(id);
                self.add(id, text);
            }
            Tag::Math => {
                self.extend(id, node.end, self.dom.nodes[id as usize..node.end as usize].len() as u32);
                return node.end;
            }
            Tag::Script if is_math_script(self.dom, id) => {
                self.extend(id, node.end, visible_chars(&self.dom.text_content(id)));
                return node.end;
            }
            Tag::Img => self.extend(id, node.end, 0),
            // Two line breaks in a row make paragraphs, as in old pages.
            Tag::Br => {
                if self.level().kind != Kind::Pre && self.follows_break(id) {
                    self.finish();
                } else {
                    self.extend(id, node.end, 0);
                }
            }
            Tag::A => {
                self.link_end = self.link_end.max(node.end);
                self.extend(id, id + 1, 0);
                if let Some(block) = &mut self.current {
                    block.links = block.links.saturating_add(1);
                }
            }
            tag if tag.is_inline() => {}
            tag => self.enter(id, tag, doubtful),
        }
        id + 1
    }

    fn follows_break(&self, id: NodeId) -> bool {
        let mut before = id;
        while before > 1 {
            before -= 1;
            match self.dom.tag(before) {
                Tag::Br => return true,
                Tag::Text if visible_chars(self.dom.text(before)) == 0 => {}
                _ => return false,
            }
        }
        false
    }

    fn enter(&mut self, id: NodeId, tag: Tag, doubtful: bool) {
        self.finish();
        let outer = self.level();
        let kind = match tag {
            Tag::H1 => Kind::Heading(1),
            Tag::H2 => Kind::Heading(2),
            Tag::H3 => Kind::Heading(3),
            Tag::H4 => Kind::Heading(4),
            Tag::H5 => Kind::Heading(5),
            Tag::H6 => Kind::Heading(6),
            Tag::Pre | Tag::Xmp => Kind::Pre,
            // A line of code as a row of a table.
            Tag::Td if self.is_code_cell(id) => Kind::Pre,
            Tag::Li | Tag::Dd | Tag::Dt => Kind::Item,
            Tag::Td | Tag::Th => Kind::Cell,
            _ if outer.kind == Kind::Pre => Kind::Pre,
            _ if matches!(outer.kind, Kind::Item | Kind::Cell | Kind::Heading(_)) => outer.kind,
            _ => Kind::Text,
        };
        let doubtful = outer.doubtful || doubtful;
        if self.dom.node(id).end > id + 1 {
            self.open.push(Level { id, kind, doubtful });
        }
    }

    fn is_code_cell(&self, id: NodeId) -> bool {
        self.dom.attr(id, Attr::Class).is_some_and(|class| {
            class.split_ascii_whitespace().any(|name| name == "code" || name.ends_with("-code"))
        })
    }

    fn add(&mut self, id: NodeId, text: &str) {
        let (mut chars, mut marks) = (0u32, 0u16);
        let bytes = text.as_bytes();
        for (at, &b) in bytes.iter().enumerate() {
            chars += (b > b' ' && b & 0xC0 != 0x80) as u32;
            let mark = matches!(b, b',' | b'.' | b'!' | b'?' | b';' | b':')
                || (b >= 0xE0 && is_wide_mark(&bytes[at..]));
            marks = marks.saturating_add(mark as u16);
        }
        if chars == 0 && self.current.is_none() {
            return;
        }
        let in_link = id < self.link_end;
        self.extend(id, id + 1, chars);
        if let Some(block) = &mut self.current {
            block.marks = block.marks.saturating_add(marks);
            if in_link {
                block.link_chars += chars;
            }
            if chars > 0 {
                block.ends_sentence = ends_sentence(text);
            }
        }
    }

    fn extend(&mut self, first: NodeId, end: NodeId, chars: u32) {
        let level = self.level();
        let block = self.current.get_or_insert(Block {
            container: level.id,
            first,
            end,
            chars: 0,
            link_chars: 0,
            links: 0,
            marks: 0,
            ends_sentence: false,
            kind: level.kind,
            doubtful: level.doubtful,
            apart: first < self.apart_end,
            lead: first < self.lead_end,
        });
        block.end = end;
        block.chars += chars;
    }
}

/// A comma or a sentence end of Chinese, Japanese, Hindi, Thai full-width text at the start of `bytes`.
fn is_wide_mark(bytes: &[u8]) -> bool {
    const MARKS: [&str; 6] = ["、", "。", "，", "！", "？", "।"];
    MARKS.iter().any(|mark| bytes.starts_with(mark.as_bytes()))
}

fn ends_sentence(text: &str) -> bool {
    let end = text.trim_end().trim_end_matches(['"', '\'', '”', '’', '»', ')', '」', ']', '“']);
    end.ends_with(['.', '!', '?', ':', '…', '。', '！', '？', '।', ';', '؟', '۔'])
}
