//! Our parser's text against html5ever's, the reference implementation of the standard.

use herd_data::html::{Tag, parse};
use html5ever::interface::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::tendril::{StrTendril, TendrilSink};
use html5ever::{Attribute, QualName, parse_document};
use std::borrow::Cow;
use std::cell::RefCell;

/// A tree that keeps only what the text of a page needs.
#[derive(Default)]
struct Reference {
    nodes: RefCell<Vec<Element>>,
}

struct Element {
    name: Option<QualName>,
    text: String,
    parent: Option<usize>,
    children: Vec<usize>,
}

impl Reference {
    fn add(&self, name: Option<QualName>, text: &str) -> usize {
        let mut nodes = self.nodes.borrow_mut();
        nodes.push(Element { name, text: text.to_string(), parent: None, children: Vec::new() });
        nodes.len() - 1
    }

    fn detach(&self, node: usize) {
        let mut nodes = self.nodes.borrow_mut();
        if let Some(parent) = nodes[node].parent.take() {
            nodes[parent].children.retain(|c| *c != node);
        }
    }

    fn insert(&self, parent: usize, at: usize, child: NodeOrText<usize>) {
        let node = match child {
            NodeOrText::AppendNode(node) => node,
            NodeOrText::AppendText(text) => self.add(None, &text),
        };
        self.detach(node);
        let mut nodes = self.nodes.borrow_mut();
        nodes[node].parent = Some(parent);
        let at = at.min(nodes[parent].children.len());
        nodes[parent].children.insert(at, node);
    }

    fn text(&self) -> String {
        let nodes = self.nodes.borrow();
        let (mut out, mut open) = (String::new(), vec![0]);
        while let Some(node) = open.pop() {
            let element = &nodes[node];
            let hidden = element
                .name
                .as_ref()
                .is_some_and(|n| matches!(&*n.local, "script" | "style" | "head" | "title"));
            if !hidden {
                out.push_str(&element.text);
                open.extend(element.children.iter().rev());
            }
        }
        out
    }
}

impl TreeSink for Reference {
    type Handle = usize;
    type Output = String;
    type ElemName<'a> = &'a QualName;

    fn finish(self) -> String {
        self.text()
    }
    fn parse_error(&self, _: Cow<'static, str>) {}
    fn get_document(&self) -> usize {
        if self.nodes.borrow().is_empty() {
            self.add(None, "");
        }
        0
    }
    fn elem_name<'a>(&'a self, target: &'a usize) -> &'a QualName {
        let name = self.nodes.borrow()[*target].name.clone();
        Box::leak(Box::new(name.expect("the parser asks elements only")))
    }
    fn create_element(&self, name: QualName, _: Vec<Attribute>, _: ElementFlags) -> usize {
        self.add(Some(name), "")
    }
    fn create_comment(&self, _: StrTendril) -> usize {
        self.add(None, "")
    }
    fn create_pi(&self, _: StrTendril, _: StrTendril) -> usize {
        self.add(None, "")
    }
    fn append(&self, parent: &usize, child: NodeOrText<usize>) {
        self.insert(*parent, usize::MAX, child);
    }
    fn append_based_on_parent_node(&self, element: &usize, previous: &usize, child: NodeOrText<usize>) {
        let has_parent = self.nodes.borrow()[*element].parent.is_some();
        if has_parent { self.append_before_sibling(element, child) } else { self.append(previous, child) }
    }
    fn append_doctype_to_document(&self, _: StrTendril, _: StrTendril, _: StrTendril) {}
    fn get_template_contents(&self, target: &usize) -> usize {
        *target
    }
    fn same_node(&self, x: &usize, y: &usize) -> bool {
        x == y
    }
    fn set_quirks_mode(&self, _: QuirksMode) {}
    fn append_before_sibling(&self, sibling: &usize, child: NodeOrText<usize>) {
        let (parent, at) = {
            let nodes = self.nodes.borrow();
            let parent = nodes[*sibling].parent.unwrap_or(0);
            (parent, nodes[parent].children.iter().position(|c| c == sibling).unwrap_or(usize::MAX))
        };
        self.insert(parent, at, child);
    }
    fn add_attrs_if_missing(&self, _: &usize, _: Vec<Attribute>) {}
    fn remove_from_parent(&self, target: &usize) {
        self.detach(*target);
    }
    fn reparent_children(&self, node: &usize, new_parent: &usize) {
        let children = std::mem::take(&mut self.nodes.borrow_mut()[*node].children);
        for child in children {
            self.nodes.borrow_mut()[child].parent = None;
            self.insert(*new_parent, usize::MAX, NodeOrText::AppendNode(child));
        }
    }
}

fn reference(html: &str) -> String {
    parse_document(Reference::default(), Default::default()).one(html)
}

fn ours(html: &str) -> String {
    let dom = parse(html);
    let (mut out, mut id) = (String::new(), 0);
    while (id as usize) < dom.nodes.len() {
        if matches!(dom.tag(id), Tag::Script | Tag::Style | Tag::Head | Tag::Title) {
            id = dom.node(id).end;
            continue;
        }
        out.push_str(dom.text(id));
        id += 1;
    }
    out
}

fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn small_cases_agree() {
    for html in [
        "<p>One<p>Two</div><b>Three<i>Four</b>Five</i>",
        "<ul><li>a<li>b<ul><li>c</ul><li>d</ul>e",
        "<table><tr><td>1<td>2<tr><td>3</table>4",
        "<title>T &amp; U</title><body>&lt;x&gt; &eacute; &notit; <textarea><b>&amp;</b></textarea>",
        "<script>if (a < b) { '</p>' }</script>after <style>p > a {}</style>",
        "text <!-- a comment > with -- signs --> more <!doctype x> <? pi ?> end",
        "<a href=x>one<a href=y>two</a> three",
        "<dl><dt>a<dd>b<dt>c<dd>d</dl><select><option>x<option>y</select>",
        "a < b and c <3 d </ e> <1>",
        "<h1>head<h2>next</h1>tail<pre>\n  keep\n</pre>",
        "<div><span>x</div>y</span>z</body></html>late",
    ] {
        assert_eq!(squeezed(&ours(html)), squeezed(&reference(html)), "{html}");
    }
}

#[test]
fn structure_is_in_document_order() {
    let dom = parse("<body><div class=a id='b'><p>x</p><p>y</p></div><p>z</p></body>");
    let div = (0..dom.nodes.len() as u32).find(|n| dom.tag(*n) == Tag::Div).unwrap();
    assert_eq!(dom.children(div).count(), 2);
    assert_eq!(dom.text_content(div), "xy");
    assert_eq!(dom.attr(div, herd_data::html::Attr::Id), Some("b"));
    assert!(dom.descendants(div).all(|n| dom.ancestors(n).any(|a| a == div)));
}
