//! JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it, which is what chat templates were made with.

use serde_json::Value;

/// The arguments of `json.dumps` that matter.
#[derive(Default)]
pub(super) struct Style {
    /// Spaces per level on lines of their own.
    pub indent: Option<usize>,
    /// What stands between items, and between a key and its value.
    pub separators: Option<(String, String)>,
    /// Whether keys are in alphabetical order.
    pub sort_keys: bool,
}

/// `value` as JSON; without a style on one line with `", "` and `": "`.
pub(super) fn dumps(value: &Value, style: &Style) -> String {
    let mut out = String::new();
    write(value, style, 0, &mut out);
    out
}

fn write(value: &Value, style: &Style, level: usize, out: &mut String) {
    match value {
        Value::Array(values) => {
            let items = values.iter().map(|v| (None, v));
            container('[', ']', items, style, level, out);
        }
        Value::Object(fields) => {
            let mut items: Vec<_> = fields.iter().map(|(key, v)| (Some(key), v)).collect();
            if style.sort_keys {
                items.sort_by_key(|(key, _)| *key);
            }
            container('{', '}', items.into_iter(), style, level, out);
        }
        Value::String(text) => string(text, out),
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn container<'v>(
    open: char,
    close: char,
    items: impl ExactSizeIterator<Item = (Option<&'v String>, &'v Value)>,
    style: &Style,
    level: usize,
    out: &mut String,
) {
    out.push(open);
    let empty = items.len() == 0;
    let new_line = |level: usize, out: &mut String| {
        if let Some(indent) = style.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * level));
        }
    };
    let (item, colon) = match &style.separators {
        Some((item, colon)) => (item.as_str(), colon.as_str()),
        None => (if style.indent.is_some() { "," } else { ", " }, ": "),
    };
    for (at, (key, value)) in items.enumerate() {
        if at > 0 {
            out.push_str(item);
        }
        new_line(level + 1, out);
        if let Some(key) = key {
            string(key, out);
            out.push_str(colon);
        }
        write(value, style, level + 1, out);
    }
    if !empty {
        new_line(level, out);
    }
    out.push(close);
}

fn string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn as_python_writes_it() {
        let value = json!({"b": [1, 2.5, null, true], "a": "é\"\n\u{1}", "e": [], "o": {}});
        // python3 -c 'import json; print(json.dumps({...}, ensure_ascii=False))', and with indent=2
        assert_eq!(
            dumps(&value, &Style::default()),
            r#"{"b": [1, 2.5, null, true], "a": "é\"\n\u0001", "e": [], "o": {}}"#
        );
        assert_eq!(
            dumps(&value, &Style { indent: Some(2), ..Style::default() }),
            "{\n  \"b\": [\n    1,\n    2.5,\n    null,\n    true\n  ],\n  \"a\": \"é\\\"\\n\\u0001\",\n  \"e\": [],\n  \"o\": {}\n}"
        );
    }
}
