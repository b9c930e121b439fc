//! What a page states in JSON-LD (`<script type="application/ld+json">`, schema.org): kinds, text, author, dates.

use super::prune::visible_chars;
use super::render::one_line;
use crate::html::{Attr, Dom, NodeId, Tag};
use serde_json::Value;

/// Longest script that is read.
const MAX_SCRIPT: usize = 1 << 20;
/// Most values that are looked at, over all scripts of a page.
const MAX_VALUES: usize = 50_000;

/// The statements that extraction uses.
#[derive(Debug, Default)]
pub struct Statements {
    /// `@type`s of the things described, as written.
    pub kinds: Vec<String>,
    /// `articleBody`, the longest.
    pub body: Option<String>,
    /// `headline`.
    pub headline: Option<String>,
    /// `datePublished`.
    pub published: Option<String>,
    /// Name of the `author`.
    pub author: Option<String>,
    /// `inLanguage`.
    pub language: Option<String>,
    /// Captions of images.
    pub captions: Vec<String>,
}

/// Reads all JSON-LD of a page. Broken JSON is passed over.
pub fn statements(dom: &Dom) -> Statements {
    let mut found = Statements::default();
    let mut budget = MAX_VALUES;
    for id in 0..dom.nodes.len() as NodeId {
        if dom.tag(id) != Tag::Script
            || !dom.attr(id, Attr::Type).is_some_and(|t| t.trim().eq_ignore_ascii_case("application/ld+json"))
        {
            continue;
        }
        let text = dom.text_content(id);
        if text.len() > MAX_SCRIPT {
            continue;
        }
        let value = serde_json::from_str(&text).or_else(|_| {
            // Line breaks inside strings are the commonest fault.
            serde_json::from_str::<Value>(&text.replace(|c: char| c.is_control(), " "))
        });
        if let Ok(value) = value {
            read(&value, &mut found, &mut budget);
        }
    }
    found
}

fn read(root: &Value, found: &mut Statements, budget: &mut usize) {
    let mut open = vec![(root, false)];
    while let Some((value, nested)) = open.pop() {
        if *budget == 0 {
            return;
        }
        *budget -= 1;
        match value {
            Value::Array(items) => open.extend(items.iter().rev().map(|item| (item, nested))),
            Value::Object(fields) => {
                if !nested {
                    kinds(fields.get("@type"), found);
                }
                for (name, value) in fields {
                    field(name, value, nested, found);
                }
                // Things that stand beside each other are in `@graph`; all else belongs to what surrounds it.
                for (name, value) in fields.iter().rev() {
                    if value.is_object() || value.is_array() {
                        open.push((value, nested || !matches!(name.as_str(), "@graph" | "mainEntity")));
                    }
                }
            }
            _ => {}
        }
    }
}

fn kinds(value: Option<&Value>, found: &mut Statements) {
    match value {
        Some(Value::String(kind)) => found.kinds.push(kind.clone()),
        Some(Value::Array(kinds)) => {
            found.kinds.extend(kinds.iter().filter_map(|k| k.as_str()).map(str::to_string))
        }
        _ => {}
    }
}

fn field(name: &str, value: &Value, nested: bool, found: &mut Statements) {
    let set = |slot: &mut Option<String>| {
        if slot.is_none() {
            *slot = value.as_str().map(one_line).filter(|text| !text.is_empty());
        }
    };
    match name {
        "articleBody" => {
            if let Some(text) = value.as_str()
                && found.body.as_ref().is_none_or(|known| visible_chars(known) < visible_chars(text))
            {
                found.body = Some(text.to_string());
            }
        }
        "caption" => found.captions.extend(value.as_str().map(str::to_string)),
        "headline" => set(&mut found.headline),
        "datePublished" if !nested => set(&mut found.published),
        "inLanguage" if !nested => set(&mut found.language),
        "author" if !nested && found.author.is_none() => found.author = author(value),
        _ => {}
    }
}

/// Names of one or several authors, given as text, as a thing with a name, or as a list of either.
fn author(value: &Value) -> Option<String> {
    let name = |value: &Value| {
        let name = value.as_str().or_else(|| value.get("name").and_then(Value::as_str))?;
        Some(one_line(name)).filter(|n| !n.is_empty() && !n.starts_with("http"))
    };
    match value {
        Value::Array(authors) => {
            let names: Vec<String> = authors.iter().take(20).filter_map(name).collect();
            (!names.is_empty()).then(|| names.join(", "))
        }
        _ => name(value),
    }
}

#[cfg(test)]
mod tests {
    use crate::html::parse;

    #[test]
    fn a_graph_is_read_and_broken_json_is_not() {
        let html = r#"<script type="application/ld+json">{"@graph":[{"@type":"WebSite","name":"S"},
            {"@type":["NewsArticle"],"headline":"H","datePublished":"2024-01-02T03:04:05Z",
             "author":[{"@type":"Person","name":"A"},{"name":"B"}],"articleBody":"Line one
            line two","image":{"caption":"C"}}]}</script>
            <script type="application/ld+json">{"@type":</script>"#;
        let dom = parse(html);
        let found = super::statements(&dom);
        assert_eq!(found.kinds, ["WebSite", "NewsArticle"]);
        assert_eq!(found.author.as_deref(), Some("A, B"));
        assert!(found.body.unwrap().contains("line two"));
        assert_eq!(found.captions, ["C"]);
        assert_eq!(found.published.as_deref(), Some("2024-01-02T03:04:05Z"));
    }
}
