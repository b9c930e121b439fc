//! First pass: what is never content, by tag, role, visibility and class name. Each rule has a bound on the share of
//! the page's text that it may remove, so that an odd name on the element that holds everything does no harm.

use super::page_type::PageType;
use super::words::{Roles, roles};
use crate::html::{Attr, Dom, NodeId, Tag};

/// What is known of each node before anything is decided.
pub struct Marks {
    /// Characters of visible text before each node, and in total at the end; white space not counted.
    chars_before: Vec<u32>,
    /// The same for characters inside links.
    links_before: Vec<u32>,
    /// Nodes that are out, with all that is below them.
    pub removed: Vec<bool>,
    /// Nodes that hold at most the lead of the text: headers, teasers.
    pub apart: Vec<bool>,
    /// Nodes before this are in an `article` or a `main`, while the page is walked.
    article_end: NodeId,
    /// Roles by class and id.
    pub roles: Vec<Roles>,
}

impl Marks {
    /// Visible characters below a node.
    pub fn chars(&self, dom: &Dom, id: NodeId) -> u32 {
        self.chars_before[dom.node(id).end as usize] - self.chars_before[id as usize]
    }

    /// Share of the visible characters below a node that are in links.
    fn link_density(&self, dom: &Dom, id: NodeId) -> f32 {
        let links = self.links_before[dom.node(id).end as usize] - self.links_before[id as usize];
        links as f32 / self.chars(dom, id).max(1) as f32
    }

    /// Share of the page's visible characters below a node.
    pub fn share(&self, dom: &Dom, id: NodeId) -> f32 {
        let total = self.chars_before.last().copied().unwrap_or(0).max(1);
        self.chars(dom, id) as f32 / total as f32
    }
}

/// Most nodes of a card; more are no card, and the bound keeps time linear.
const MAX_CARD: NodeId = 500;

/// How much pruning removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// Tags, roles and class names.
    Full,
    /// Only what no reader sees: scripts, forms' controls, hidden elements, navigation by its tag.
    TagsOnly,
}

/// Characters that are no white space; continuation bytes of UTF-8 are not counted.
pub fn visible_chars(text: &str) -> u32 {
    text.bytes().map(|b| (b > b' ' && b & 0xC0 != 0x80) as u32).sum()
}

fn never_seen(tag: Tag) -> bool {
    use Tag::*;
    matches!(
        tag,
        Style
            | Template
            | Noscript
            | Iframe
            | Noframes
            | Embed
            | Svg
            | Canvas
            | Audio
            | Video
            | Map
            | Head
            | Button
            | Select
            | Input
            | Textarea
            | Dialog
            | Progress
            | Title
            | Rp
            | Annotation
            | AnnotationXml
            | Option
            | Area
            | Picture
            | Object
    )
}

/// Whether a script holds a formula (MathJax keeps LaTeX there).
pub fn is_math_script(dom: &Dom, id: NodeId) -> bool {
    dom.tag(id) == Tag::Script
        && dom.attr(id, Attr::Type).is_some_and(|t| t.trim_start().starts_with("math/"))
}

/// Marks what is out.
pub fn prune(dom: &Dom, strictness: Strictness, kind: PageType) -> Marks {
    let count = dom.nodes.len();
    let (chars_before, links_before) = weigh(dom);
    let mut marks = Marks {
        chars_before,
        links_before,
        removed: vec![false; count],
        apart: vec![false; count],
        article_end: 0,
        roles: vec![Roles::default(); count],
    };
    let mut id: NodeId = 1;
    while (id as usize) < count {
        if dom.tag(id) != Tag::Text {
            if dom.has_attrs(id) {
                let class = dom.attr(id, Attr::Class);
                // The ids of sections are made of their headings, which may hold any word.
                let sluggish = kind == PageType::Documentation
                    || dom.tag(id) == Tag::Section
                    || dom.tag(id).is_heading();
                let name = if sluggish { None } else { dom.attr(id, Attr::Id) };
                marks.roles[id as usize] = roles(class.unwrap_or(""), name.unwrap_or(""));
            }
            if is_out(dom, &marks, id, strictness, kind) {
                marks.removed[id as usize] = true;
                id = dom.node(id).end;
                continue;
            }
            if matches!(dom.tag(id), Tag::Main | Tag::Article) {
                marks.article_end = marks.article_end.max(dom.node(id).end);
            }
            marks.apart[id as usize] = strictness == Strictness::Full && is_apart(dom, &marks, id);
        }
        id += 1;
    }
    marks
}

/// Visible characters before each node, and those of them inside links.
fn weigh(dom: &Dom) -> (Vec<u32>, Vec<u32>) {
    let (mut before, mut links_before) =
        (Vec::with_capacity(dom.nodes.len() + 1), Vec::with_capacity(dom.nodes.len() + 1));
    let (mut sum, mut links, mut skip_until, mut link_until) = (0, 0, 0, 0);
    for (id, node) in dom.nodes.iter().enumerate() {
        before.push(sum);
        links_before.push(links);
        if id < skip_until {
            continue;
        }
        if node.tag == Tag::Text {
            let chars = visible_chars(dom.text(id as NodeId));
            sum += chars;
            links += if id < link_until { chars } else { 0 };
        } else if node.tag == Tag::A {
            link_until = link_until.max(node.end as usize);
        } else if never_seen(node.tag) || node.tag == Tag::Script {
            skip_until = node.end as usize;
        }
    }
    before.push(sum);
    links_before.push(links);
    (before, links_before)
}

/// Whether an element is the header of an article or a teaser, which may hold the lead.
fn is_apart(dom: &Dom, marks: &Marks, id: NodeId) -> bool {
    let roles = marks.roles[id as usize];
    if dom.tag(id) == Tag::Header {
        return marks.share(dom, id) < 0.3 && id < marks.article_end;
    }
    roles.has(Roles::TEASER)
        && !roles.has(Roles::BODY)
        && !dom.tag(id).is_inline()
        && marks.share(dom, id) < 0.4
}

fn is_out(dom: &Dom, marks: &Marks, id: NodeId, strictness: Strictness, kind: PageType) -> bool {
    let tag = dom.tag(id);
    if never_seen(tag) || (tag == Tag::Script && !is_math_script(dom, id)) {
        return true;
    }
    let share = || marks.share(dom, id);
    if tag == Tag::A && is_anchor_sign(dom, marks, id) {
        return true;
    }
    if hidden(dom, id) && share() < 0.5 {
        return true;
    }
    if matches!(tag, Tag::Nav | Tag::Menu | Tag::Search) && share() < 0.85 {
        return true;
    }
    if strictness == Strictness::TagsOnly {
        return false;
    }
    let by_tag = match tag {
        Tag::Aside => 0.4,
        Tag::Header if !is_apart(dom, marks, id) => 0.3,
        Tag::Footer => 0.3,
        Tag::Form => 0.3,
        Tag::Figcaption => 0.2,
        _ => 0.0,
    };
    if by_tag > 0.0 && share() < by_tag {
        return true;
    }
    if let Some(role) = dom.attr(id, Attr::Role)
        && is_boilerplate_role(role.trim())
        && share() < if role.trim() == "navigation" { 0.85 } else { 0.4 }
    {
        return true;
    }
    let roles = marks.roles[id as usize];
    if roles.has(Roles::BUTTON) && tag == Tag::A && marks.chars(dom, id) <= 40 {
        return true;
    }
    if roles.has(Roles::LINE_NUMBERS) && only_digits(dom, id) {
        return true;
    }
    if matches!(tag, Tag::Body | Tag::Main | Tag::Html | Tag::Blockquote) || roles == Roles::default() {
        return false;
    }
    if roles.has(Roles::HIDDEN) && share() < 0.3 {
        return true;
    }
    // A card that a word unfolds holds pictures or links; the word itself often has the same class.
    if roles.has(Roles::CARD) && tag != Tag::A && dom.node(id).end - id < MAX_CARD && share() < 0.1 {
        let boxed = |n: NodeId| dom.tag(n) == Tag::Img || !dom.tag(n).is_inline();
        let links = dom.descendants(id).filter(|n| dom.tag(*n) == Tag::A).count();
        // What holds the word and its card has the same class, too.
        let card = |n: NodeId| {
            dom.attr(n, Attr::Class).is_some_and(|class| super::words::roles(class, "").has(Roles::CARD))
        };
        let inner = dom.descendants(id).any(|n| dom.tag(n) != Tag::A && card(n));
        if !inner && (links > 1 || dom.descendants(id).any(boxed)) {
            return true;
        }
    }
    // Figcaptions by another name.
    if roles.has(Roles::CAPTION) && !roles.has(Roles::CONTENT) && !tag.is_inline() && share() < 0.2 {
        return true;
    }
    if kind == PageType::Forum {
        if roles.has(Roles::POSTER) && share() < 0.3 {
            return true;
        }
        if roles.has(Roles::COMMENTS) {
            return false;
        }
    }
    if roles.has(Roles::COMMENTS) && !tag.is_inline() && share() < 0.7 {
        return true;
    }
    let bound = match tag {
        Tag::Article => 0.2,
        _ if tag.is_inline() && tag != Tag::Other => 0.1,
        _ if roles.has(Roles::BODY) => 0.05,
        _ if roles.has(Roles::CONTENT) => 0.25,
        _ => 0.4,
    };
    // Manuals and long articles set remarks into boxes that are named as if they stood beside the text.
    let remark = marks.chars(dom, id) >= 200
        && marks.link_density(dom, id) < 0.2
        && (kind == PageType::Documentation || id < marks.article_end);
    roles.has(Roles::BOILERPLATE) && share() < bound && !remark
}

/// Whether all that is visible below an element are digits.
fn only_digits(dom: &Dom, id: NodeId) -> bool {
    dom.descendants(id)
        .all(|n| dom.text(n).bytes().all(|b| b.is_ascii_digit() || b.is_ascii_whitespace() || b == b'.'))
}

/// The signs that documentation sets behind headings to link to them or to the source.
fn is_anchor_sign(dom: &Dom, marks: &Marks, id: NodeId) -> bool {
    marks.chars(dom, id) <= 8
        && matches!(dom.text_content(id).trim(), "¶" | "#" | "§" | "🔗" | "[source]" | "[src]" | "[edit]")
}

fn hidden(dom: &Dom, id: NodeId) -> bool {
    if !dom.has_attrs(id) {
        return false;
    }
    dom.attr(id, Attr::Hidden).is_some()
        || dom.attr(id, Attr::AriaHidden).is_some_and(|v| v.trim() == "true")
        || dom.attr(id, Attr::Style).is_some_and(|style| {
            style.as_bytes().windows(7).any(|w| w.eq_ignore_ascii_case(b"display")) && {
                let compact: String = style.chars().filter(|c| !c.is_whitespace()).collect();
                compact.to_ascii_lowercase().contains("display:none")
            }
        })
}

fn is_boilerplate_role(role: &str) -> bool {
    matches!(
        role,
        "navigation"
            | "banner"
            | "contentinfo"
            | "complementary"
            | "search"
            | "menu"
            | "menubar"
            | "toolbar"
            | "dialog"
            | "alert"
            | "alertdialog"
            | "tablist"
            | "button"
            | "tooltip"
            | "listbox"
            | "combobox"
            | "form"
    )
}
