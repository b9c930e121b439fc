//! A parsed page: nodes in document order, so that a subtree is a range and bottom-up sums are one backward loop.

use super::tag::Tag;

/// Index of a node in [`Dom::nodes`].
pub type NodeId = u32;

/// No node.
pub const NONE: NodeId = u32::MAX;

/// The attributes that extraction reads; all others are skipped while parsing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Attr {
    Alt,
    AriaHidden,
    Charset,
    Class,
    Content,
    Datetime,
    Display,
    Encoding,
    Hidden,
    Href,
    HttpEquiv,
    Id,
    Itemprop,
    Itemtype,
    Lang,
    Name,
    Property,
    Rel,
    Role,
    Src,
    Style,
    Title,
    Type,
}

impl Attr {
    /// The attribute of a lower-case name, if extraction reads it.
    pub fn from_name(name: &[u8]) -> Option<Attr> {
        Some(match name {
            b"alt" => Attr::Alt,
            b"aria-hidden" => Attr::AriaHidden,
            b"charset" => Attr::Charset,
            b"class" => Attr::Class,
            b"content" => Attr::Content,
            b"datetime" => Attr::Datetime,
            b"display" => Attr::Display,
            b"encoding" => Attr::Encoding,
            b"hidden" => Attr::Hidden,
            b"href" => Attr::Href,
            b"http-equiv" => Attr::HttpEquiv,
            b"id" => Attr::Id,
            b"itemprop" => Attr::Itemprop,
            b"itemtype" => Attr::Itemtype,
            b"lang" | b"xml:lang" => Attr::Lang,
            b"name" => Attr::Name,
            b"property" => Attr::Property,
            b"rel" => Attr::Rel,
            b"role" => Attr::Role,
            b"src" => Attr::Src,
            b"style" => Attr::Style,
            b"title" => Attr::Title,
            b"type" => Attr::Type,
            _ => return None,
        })
    }
}

/// A stretch of the source, or of the buffer of strings that had to be decoded.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span {
    pub start: u32,
    pub len: u32,
    pub decoded: bool,
}

/// An element or a stretch of text.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// Element name, or [`Tag::Text`].
    pub tag: Tag,
    /// The node that holds it; [`NONE`] for the document.
    pub parent: NodeId,
    /// One past its last descendant.
    pub end: NodeId,
    /// Distance from the document.
    pub depth: u16,
    pub(super) attrs: (u32, u16),
    pub(super) text: Span,
}

/// A page in memory. Node 0 is the document.
pub struct Dom<'a> {
    pub(super) source: &'a str,
    pub(super) decoded: String,
    pub(super) attrs: Vec<(Attr, Span)>,
    /// All nodes in document order.
    pub nodes: Vec<Node>,
}

impl<'a> Dom<'a> {
    pub(super) fn new(source: &'a str) -> Self {
        let guess = source.len() / 32;
        let mut dom = Self {
            source,
            decoded: String::new(),
            attrs: Vec::with_capacity(guess / 2),
            nodes: Vec::with_capacity(guess),
        };
        dom.nodes.push(Node {
            tag: Tag::Document,
            parent: NONE,
            end: 1,
            depth: 0,
            attrs: (0, 0),
            text: Span::default(),
        });
        dom
    }

    pub(super) fn slice(&self, span: Span) -> &str {
        let range = span.start as usize..(span.start + span.len) as usize;
        if span.decoded { &self.decoded[range] } else { &self.source[range] }
    }

    /// The node of an index.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    /// Name of an element.
    pub fn tag(&self, id: NodeId) -> Tag {
        self.node(id).tag
    }

    /// The characters of a text node; empty for elements.
    pub fn text(&self, id: NodeId) -> &str {
        self.slice(self.node(id).text)
    }

    /// The value of an attribute; the first if it is given twice.
    pub fn attr(&self, id: NodeId, name: Attr) -> Option<&str> {
        let (start, count) = self.node(id).attrs;
        let attrs = &self.attrs[start as usize..start as usize + count as usize];
        attrs.iter().find(|(attr, _)| *attr == name).map(|(_, span)| self.slice(*span))
    }

    /// Whether an element has any of the attributes that are kept.
    pub fn has_attrs(&self, id: NodeId) -> bool {
        self.node(id).attrs.1 > 0
    }

    /// Indices of all nodes below one, in document order.
    pub fn descendants(&self, id: NodeId) -> std::ops::Range<NodeId> {
        id + 1..self.node(id).end
    }

    /// The children of a node, in order.
    pub fn children(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let end = self.node(id).end;
        let mut next = id + 1;
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let child = next;
            next = self.node(child).end;
            Some(child)
        })
    }

    /// The nodes that hold a node, the nearest first.
    pub fn ancestors(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let mut current = id;
        std::iter::from_fn(move || {
            current = self.node(current).parent;
            (current != NONE).then_some(current)
        })
    }

    /// All text below a node, joined as it stands.
    pub fn text_content(&self, id: NodeId) -> String {
        let mut out = String::new();
        for n in id..self.node(id).end {
            out.push_str(self.text(n));
        }
        out
    }
}
