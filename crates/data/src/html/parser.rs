//! Tokens and tree in one loop over the source.

use super::dom::{Attr, Dom, Node, NodeId, Span};
use super::entity;
use super::tag::Tag;

/// Elements open at once; deeper ones become siblings at this depth (as Blink does at 512).
const MAX_DEPTH: usize = 512;
/// Nodes of a page; the rest of a larger one is left out.
const MAX_NODES: usize = 4_000_000;
/// Tags known by name; the size of the table of open counts.
const TAGS: usize = 256;

/// Parses a page. Any input gives a tree; its size in memory is bounded by the source's.
///
/// Sources of 4 GiB and more are cut there; pages are bounded far below that by the caller.
pub fn parse(source: &str) -> Dom<'_> {
    let mut limit = source.len().min(u32::MAX as usize / 2);
    while !source.is_char_boundary(limit) {
        limit -= 1;
    }
    let mut parser = Parser {
        bytes: &source.as_bytes()[..limit],
        dom: Dom::new(source),
        open: vec![0],
        counts: [0; TAGS],
        in_head: false,
        saw_body: false,
        comments_end: true,
    };
    parser.run();
    while parser.open.len() > 1 {
        parser.pop();
    }
    let last = parser.dom.nodes.len() as NodeId;
    parser.dom.nodes[0].end = last;
    parser.dom
}

struct Parser<'a> {
    bytes: &'a [u8],
    dom: Dom<'a>,
    /// Elements that are open, outermost first.
    open: Vec<NodeId>,
    /// How many elements of each tag are open; spares searches for end tags that close nothing.
    counts: [u32; TAGS],
    in_head: bool,
    saw_body: bool,
    /// Whether a comment was found to have no end, so that none after it has one either.
    comments_end: bool,
}

impl<'a> Parser<'a> {
    fn run(&mut self) {
        let mut at = 0;
        while at < self.bytes.len() && self.dom.nodes.len() < MAX_NODES {
            let next = find(self.bytes, at, b'<').unwrap_or(self.bytes.len());
            if next > at {
                self.text(at, next);
            }
            if next == self.bytes.len() {
                break;
            }
            at = self.markup(next);
        }
    }

    /// Handles the `<` at `at`; returns where to go on.
    fn markup(&mut self, at: usize) -> usize {
        match self.bytes.get(at + 1) {
            Some(b'/') if self.bytes.get(at + 2).is_some_and(|b| b.is_ascii_alphabetic()) => self.end_tag(at),
            Some(b'!') => self.declaration(at),
            Some(b'?' | b'/') => self.after(at + 1, b'>'),
            Some(b) if b.is_ascii_alphabetic() => self.start_tag(at),
            _ => {
                self.text(at, at + 1);
                at + 1
            }
        }
    }

    fn after(&self, at: usize, byte: u8) -> usize {
        find(self.bytes, at, byte).map_or(self.bytes.len(), |n| n + 1)
    }

    fn declaration(&mut self, at: usize) -> usize {
        let rest = &self.bytes[at..];
        if rest.starts_with(b"<!--") {
            if rest[4..].starts_with(b">") {
                return at + 5;
            }
            let end = if self.comments_end { find_sequence(self.bytes, at + 4, b"-->") } else { None };
            self.comments_end = end.is_some();
            // An unclosed comment would swallow the page; browsers do that, extraction ends it at the next `>`.
            return end.map_or_else(|| self.after(at, b'>'), |n| n + 3);
        }
        if rest.starts_with(b"<![CDATA[")
            && (self.counts[Tag::Math as usize] > 0 || self.counts[Tag::Svg as usize] > 0)
        {
            let end = find_sequence(self.bytes, at + 9, b"]]>").unwrap_or(self.bytes.len());
            self.push_text(Span { start: at as u32 + 9, len: (end - at - 9) as u32, decoded: false });
            return (end + 3).min(self.bytes.len());
        }
        self.after(at, b'>')
    }

    fn text(&mut self, start: usize, end: usize) {
        let span = self.span(start, end, false);
        if self.in_head && !self.dom.slice(span).trim_ascii().is_empty() {
            self.leave_head();
        }
        self.push_text(span);
    }

    fn push_text(&mut self, text: Span) {
        if text.len > 0 {
            self.append(Tag::Text, (0, 0), text);
        }
    }

    /// The stretch `start..end` of the source, decoded if it holds references.
    fn span(&mut self, start: usize, end: usize, in_attribute: bool) -> Span {
        if find(&self.bytes[..end], start, b'&').is_none() {
            return Span { start: start as u32, len: (end - start) as u32, decoded: false };
        }
        let begin = self.dom.decoded.len();
        entity::decode(&self.dom.source[start..end], in_attribute, &mut self.dom.decoded);
        Span { start: begin as u32, len: (self.dom.decoded.len() - begin) as u32, decoded: true }
    }

    fn append(&mut self, tag: Tag, attrs: (u32, u16), text: Span) -> NodeId {
        let id = self.dom.nodes.len() as NodeId;
        let parent = self.open.last().copied().unwrap_or(0);
        self.dom.nodes.push(Node { tag, parent, end: id + 1, depth: self.open.len() as u16, attrs, text });
        id
    }

    fn push(&mut self, tag: Tag, attrs: (u32, u16)) {
        let id = self.append(tag, attrs, Span::default());
        if self.open.len() < MAX_DEPTH {
            self.open.push(id);
            self.counts[tag as usize] += 1;
        }
    }

    fn pop(&mut self) {
        if self.open.len() > 1
            && let Some(id) = self.open.pop()
        {
            let end = self.dom.nodes.len() as NodeId;
            let node = &mut self.dom.nodes[id as usize];
            node.end = end;
            self.counts[node.tag as usize] -= 1;
        }
    }

    fn current(&self) -> Tag {
        self.open.last().map_or(Tag::Document, |id| self.dom.tag(*id))
    }

    fn leave_head(&mut self) {
        while self.counts[Tag::Head as usize] > 0 {
            self.pop();
        }
        self.in_head = false;
    }

    /// Closes the nearest open element for which `is` holds, unless `stop` holds for one above it.
    fn close(&mut self, is: impl Fn(Tag) -> bool, stop: impl Fn(Tag) -> bool) {
        for depth in (1..self.open.len()).rev() {
            let tag = self.dom.tag(self.open[depth]);
            if is(tag) {
                while self.open.len() > depth {
                    self.pop();
                }
                return;
            }
            if stop(tag) {
                return;
            }
        }
    }

    /// End tags that a start tag implies.
    fn imply_ends(&mut self, tag: Tag) {
        use Tag::*;
        if tag.closes_paragraph() && self.counts[P as usize] > 0 {
            self.close(|t| t == P, |t| t.is_scope() || t == Button);
        }
        match tag {
            Li => self.close(|t| t == Li, |t| matches!(t, Ul | Ol | Menu) || t.is_scope()),
            Dd | Dt => self.close(|t| matches!(t, Dd | Dt), |t| t == Dl || t.is_scope()),
            Option | Optgroup => self.close(|t| t == Option, |t| t == Select || t.is_scope()),
            Td | Th => self.close(|t| matches!(t, Td | Th), |t| matches!(t, Tr | Table | Template)),
            Tr => self.close(
                |t| matches!(t, Tr | Caption),
                |t| matches!(t, Tbody | Thead | Tfoot | Table | Template),
            ),
            Tbody | Thead | Tfoot => self
                .close(|t| matches!(t, Tbody | Thead | Tfoot | Caption), |t| matches!(t, Table | Template)),
            _ if tag.is_heading() && self.current().is_heading() => self.pop(),
            A if self.counts[A as usize] > 0 => self.close(|t| t == A, |t| !t.is_formatting()),
            _ => {}
        }
    }

    fn start_tag(&mut self, at: usize) -> usize {
        let (tag, name_end) = self.name(at + 1);
        let first = self.dom.attrs.len();
        let (end, self_closing) = self.attributes(name_end);
        let attrs = (first as u32, (self.dom.attrs.len() - first).min(u16::MAX as usize) as u16);
        match tag {
            Tag::Html => {
                if self.dom.nodes[0].attrs.1 == 0 {
                    self.dom.nodes[0].attrs = attrs;
                }
                return end;
            }
            Tag::Body if self.saw_body => return end,
            Tag::Head if self.saw_body || self.in_head => return end,
            _ => {}
        }
        if self.in_head && !tag.is_metadata() {
            self.leave_head();
        }
        self.in_head |= tag == Tag::Head;
        self.saw_body |= tag == Tag::Body;
        self.imply_ends(tag);
        if tag.is_void() {
            self.append(tag, attrs, Span::default());
            return end;
        }
        if tag.is_raw_text() && self.counts[Tag::Svg as usize] == 0 {
            let bytes = self.bytes;
            return self.raw_text(tag, attrs, &bytes[at + 1..name_end], end);
        }
        if self_closing
            && (self.counts[Tag::Svg as usize] > 0 || self.counts[Tag::Math as usize] > 0 || tag == Tag::Svg)
        {
            self.append(tag, attrs, Span::default());
            return end;
        }
        self.push(tag, attrs);
        end
    }

    /// Adds a raw text element with its characters; `content` is where they start.
    fn raw_text(&mut self, tag: Tag, attrs: (u32, u16), name: &[u8], content: usize) -> usize {
        let mut from = content;
        let close = loop {
            let Some(n) = find(self.bytes, from, b'<') else { break self.bytes.len() };
            let after = &self.bytes[n + 1..];
            if after.first() == Some(&b'/')
                && after.get(1..1 + name.len()).is_some_and(|close| close.eq_ignore_ascii_case(name))
            {
                break n;
            }
            from = n + 1;
        };
        let id = self.append(tag, attrs, Span::default());
        let decodes = matches!(tag, Tag::Title | Tag::Textarea);
        let text = match decodes {
            true => self.span(content, close, false),
            false => Span { start: content as u32, len: (close - content) as u32, decoded: false },
        };
        if text.len > 0 && self.open.len() < MAX_DEPTH {
            self.open.push(id);
            self.append(Tag::Text, (0, 0), text);
            self.open.pop();
        }
        self.dom.nodes[id as usize].end = self.dom.nodes.len() as NodeId;
        self.after(close, b'>')
    }

    fn end_tag(&mut self, at: usize) -> usize {
        let (tag, name_end) = self.name(at + 2);
        let end = self.after(name_end, b'>');
        match tag {
            Tag::Html | Tag::Body => {}
            Tag::Head => self.leave_head(),
            Tag::Br => {
                self.append(Tag::Br, (0, 0), Span::default());
            }
            _ if self.counts[tag as usize] == 0 => {}
            _ if tag.is_heading() => self.close(|t| t.is_heading(), |t| t.is_scope()),
            Tag::Table => self.close(|t| t == Tag::Table, |t| t == Tag::Template),
            Tag::Td | Tag::Th | Tag::Tr | Tag::Tbody | Tag::Thead | Tag::Tfoot | Tag::Caption => {
                self.close(|t| t == tag, |t| matches!(t, Tag::Table | Tag::Template))
            }
            Tag::Svg | Tag::Math | Tag::Template | Tag::Object => self.close(|t| t == tag, |_| false),
            // A formatting end tag does not close the blocks between.
            _ if tag.is_formatting() || tag == Tag::Other => {
                self.close(|t| t == tag, |t| t.is_scope() || !(t.is_formatting() || t == Tag::Other))
            }
            Tag::Li => self.close(|t| t == Tag::Li, |t| matches!(t, Tag::Ul | Tag::Ol) || t.is_scope()),
            Tag::P => self.close(|t| t == Tag::P, |t| t.is_scope() || t == Tag::Button),
            _ => self.close(|t| t == tag, |t| t.is_scope()),
        }
        end
    }

    /// The name that starts at `at`, and where it ends.
    fn name(&self, at: usize) -> (Tag, usize) {
        let length = self.bytes[at..]
            .iter()
            .take_while(|b| !matches!(b, b'>' | b'/') && !b.is_ascii_whitespace())
            .count();
        let name = &self.bytes[at..at + length];
        let mut lower = [0; 16];
        let tag = match lower.get_mut(..length) {
            Some(lower) => {
                lower.copy_from_slice(name);
                lower.make_ascii_lowercase();
                Tag::from_name(lower)
            }
            None => Tag::Other,
        };
        (tag, at + length)
    }

    /// Reads attributes up to the `>` of a tag; returns what follows it, and whether it ends with `/>`.
    fn attributes(&mut self, mut at: usize) -> (usize, bool) {
        let bytes = self.bytes;
        let first = self.dom.attrs.len();
        loop {
            while bytes.get(at).is_some_and(|b| b.is_ascii_whitespace() || *b == b'/') {
                at += 1;
            }
            match bytes.get(at) {
                None => return (bytes.len(), false),
                Some(b'>') => return (at + 1, at > 0 && bytes[at - 1] == b'/'),
                Some(_) => {}
            }
            let start = at;
            at += 1; // a `=` here begins a name
            while bytes.get(at).is_some_and(|b| !matches!(b, b'=' | b'>' | b'/') && !b.is_ascii_whitespace())
            {
                at += 1;
            }
            let name = &bytes[start..at];
            let mut look = at;
            while bytes.get(look).is_some_and(|b| b.is_ascii_whitespace()) {
                look += 1;
            }
            let (value_start, value_end) = if bytes.get(look) == Some(&b'=') {
                at = look + 1;
                while bytes.get(at).is_some_and(|b| b.is_ascii_whitespace()) {
                    at += 1;
                }
                let (from, to, next) = value(bytes, at);
                at = next;
                (from, to)
            } else {
                (start, start)
            };
            let mut lower = [0; 12];
            if let Some(lower) = lower.get_mut(..name.len()) {
                lower.copy_from_slice(name);
                lower.make_ascii_lowercase();
                if let Some(attr) = Attr::from_name(lower)
                    && !self.dom.attrs[first..].iter().any(|(known, _)| *known == attr)
                {
                    let span = self.span(value_start, value_end, true);
                    self.dom.attrs.push((attr, span));
                }
            }
        }
    }
}

/// An attribute's value that starts at `at`: its start, its end, and where to go on.
fn value(bytes: &[u8], at: usize) -> (usize, usize, usize) {
    match bytes.get(at) {
        Some(&quote @ (b'"' | b'\'')) => {
            let end = find(bytes, at + 1, quote).unwrap_or(bytes.len());
            (at + 1, end, (end + 1).min(bytes.len()))
        }
        _ => {
            let length = bytes[at..].iter().take_while(|b| **b != b'>' && !b.is_ascii_whitespace()).count();
            (at, at + length, at + length)
        }
    }
}

fn find(bytes: &[u8], from: usize, byte: u8) -> Option<usize> {
    memchr::memchr(byte, bytes.get(from..)?).map(|n| from + n)
}

fn find_sequence(bytes: &[u8], from: usize, sequence: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes.get(from..)?, sequence).map(|n| from + n)
}
