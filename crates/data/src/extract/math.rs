//! Formulas: LaTeX where a page has it (annotations, MathJax scripts, image `alt`), MathML read as linear text else.

use super::render::{alt, collapse};
use crate::html::{Attr, Dom, NodeId, Tag};

/// The formula that an image shows, given as its `alt` text.
pub fn image<'d>(dom: &'d Dom, id: NodeId) -> Option<&'d str> {
    let alt = alt(dom, id)?;
    let class = dom.attr(id, Attr::Class).unwrap_or("");
    let named = ["math", "latex", "tex", "equation", "formula"]
        .iter()
        .any(|w| class.to_ascii_lowercase().contains(w));
    let source = dom.attr(id, Attr::Src).unwrap_or("");
    let drawn = ["/math/", "latex", "math/render", "mimetex", "codecogs"].iter().any(|w| source.contains(w));
    let command = alt.starts_with('$')
        || alt.starts_with("{\\displaystyle")
        || alt.contains("\\frac")
        || alt.contains("\\(");
    (named || drawn || command).then_some(alt)
}

/// Appends a MathJax script (`<script type="math/tex">`).
pub fn script(dom: &Dom, id: NodeId, out: &mut String) {
    let text = dom.text_content(id);
    let text = text.trim().trim_start_matches("% <![CDATA[").trim_end_matches("%]]>").trim();
    let display = dom.attr(id, Attr::Type).is_some_and(|t| t.contains("display"));
    let (open, close) = if display { ("\\[", "\\]") } else { ("\\(", "\\)") };
    out.push_str(open);
    collapse(text, out);
    out.truncate(out.trim_end().len());
    out.push_str(close);
}

/// Appends a `<math>` element: its TeX annotation if it has one, else its content with `^`, `_`, `/` and `sqrt`.
pub fn mathml(dom: &Dom, id: NodeId, out: &mut String) {
    for n in dom.descendants(id) {
        let tex =
            dom.tag(n) == Tag::Annotation && dom.attr(n, Attr::Encoding).is_some_and(|e| e.contains("tex"));
        if tex {
            collapse(&dom.text_content(n), out);
            return;
        }
    }
    linear(dom, id, out);
}

/// What is to be written next while a formula is read.
enum Step {
    Visit(NodeId),
    Write(&'static str),
}

fn linear(dom: &Dom, root: NodeId, out: &mut String) {
    let mut steps = vec![Step::Visit(root)];
    while let Some(step) = steps.pop() {
        match step {
            Step::Write(text) => out.push_str(text),
            Step::Visit(id) if dom.tag(id) == Tag::Text => {
                out.extend(dom.text(id).split_whitespace());
            }
            Step::Visit(id) => {
                let parts = between(dom.tag(id));
                let children: Vec<NodeId> = dom
                    .children(id)
                    .filter(|c| !matches!(dom.tag(*c), Tag::Annotation | Tag::AnnotationXml))
                    .filter(|c| dom.tag(*c) != Tag::Text || !dom.text(*c).trim().is_empty())
                    .collect();
                steps.push(Step::Write(parts.after));
                for (n, child) in children.iter().enumerate().rev() {
                    let grouped = parts.groups && dom.node(*child).end > *child + 2;
                    steps.extend(grouped.then_some(Step::Write(")")));
                    steps.push(Step::Visit(*child));
                    steps.extend(grouped.then_some(Step::Write("(")));
                    if n > 0 {
                        let separator = parts.separators.get(n - 1).or(parts.separators.last()).copied();
                        steps.push(Step::Write(separator.unwrap_or("")));
                    }
                }
                steps.push(Step::Write(parts.before));
            }
        }
    }
}

struct Parts {
    before: &'static str,
    separators: &'static [&'static str],
    after: &'static str,
    groups: bool,
}

fn between(tag: Tag) -> Parts {
    let parts = |before, separators, after, groups| Parts { before, separators, after, groups };
    match tag {
        Tag::Mfrac => parts("", &["/"], "", true),
        Tag::Msup | Tag::Mover => parts("", &["^"], "", true),
        Tag::Msub | Tag::Munder => parts("", &["_"], "", true),
        Tag::Msubsup | Tag::Munderover => parts("", &["_", "^"], "", true),
        Tag::Msqrt => parts("sqrt(", &[], ")", false),
        Tag::Mroot => parts("root(", &[", "], ")", false),
        Tag::Mtr => parts("", &[", "], "", false),
        Tag::Mtable => parts("[", &["; "], "]", false),
        Tag::Mtext => parts(" ", &[], " ", false),
        _ => parts("", &[], "", false),
    }
}

#[cfg(test)]
mod tests {
    use crate::html::parse;

    fn read(html: &str) -> String {
        let dom = parse(html);
        let math = (0..dom.nodes.len() as u32).find(|n| dom.tag(*n) == super::Tag::Math).unwrap();
        let mut out = String::new();
        super::mathml(&dom, math, &mut out);
        out
    }

    #[test]
    fn mathml_becomes_linear_text() {
        let html = "<math><mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mn>2</mn></mfrac><mo>=</mo><msup><mi>x</mi><mn>2</mn></msup></math>";
        assert_eq!(read(html), "(a+b)/2=x^2");
        assert_eq!(
            read("<math><msubsup><mo>∫</mo><mn>0</mn><mn>1</mn></msubsup><msqrt><mi>y</mi></msqrt></math>"),
            "∫_0^1sqrt(y)"
        );
    }

    #[test]
    fn an_annotation_is_preferred() {
        let html = r"<math><semantics><mrow><mi>x</mi></mrow><annotation encoding='application/x-tex'>\frac{1}{x}</annotation></semantics></math>";
        assert_eq!(read(html), r"\frac{1}{x}");
    }
}
