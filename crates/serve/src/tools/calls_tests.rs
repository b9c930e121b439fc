use super::*;

/// Feeds `text` in pieces of `size` characters; `<|python_tag|>` at its beginning is the special token. Returns the
/// content, the calls and whether content was shown after the first call began.
fn run(text: &str, size: usize, tags: bool, parallel: bool, cut: bool) -> (String, Vec<(String, String)>) {
    let mut calls = Calls::new(vec!["f".into(), "get".into()], tags, parallel);
    let mut out = Vec::new();
    let rest = text.strip_prefix("<|python_tag|>").inspect(|_| calls.special("<|python_tag|>", &mut out));
    let letters: Vec<char> = rest.unwrap_or(text).chars().collect();
    for part in letters.chunks(size) {
        calls.push(&part.iter().collect::<String>(), &mut out);
    }
    calls.finish(cut, &mut out);
    let (mut content, mut found) = (String::new(), Vec::<(String, String)>::new());
    for piece in out {
        match piece {
            Piece::Content(text) => content.push_str(&text),
            Piece::Call { index, id, name } => {
                assert!(index == found.len() && id.starts_with("call_"));
                found.push((name, String::new()));
            }
            Piece::Arguments { index, text } => {
                assert_eq!(index + 1, found.len());
                found[index].1.push_str(&text);
            }
        }
    }
    (content, found)
}

fn each_size(text: &str, tags: bool, content: &str, calls: &[(&str, &str)]) {
    for size in [1, 2, 3, 5, 1000] {
        let (said, found) = run(text, size, tags, true, false);
        let found: Vec<(&str, &str)> = found.iter().map(|(n, a)| (n.as_str(), a.as_str())).collect();
        assert_eq!((said.as_str(), found.as_slice()), (content, calls), "{text} by {size}");
    }
}

#[test]
fn calls_as_llama_writes_them() {
    let one = r#"{"name": "f", "parameters": {"a": 1}}"#;
    each_size(one, false, "", &[("f", r#"{"a": 1}"#)]);
    each_size(&format!("\n\n {one}\n"), false, "", &[("f", r#"{"a": 1}"#)]);
    each_size(&format!("<|python_tag|>{one}"), false, "", &[("f", r#"{"a": 1}"#)]);
    let two = r#"{"name": "get", "parameters": {}}"#;
    for text in [
        format!("{one}; {two}"),
        format!("{one}\n{two}"),
        format!("[{one}, {two}]"),
        format!(" [ {one},{two} ]"),
    ] {
        each_size(&text, false, "", &[("f", r#"{"a": 1}"#), ("get", "{}")]);
    }
    each_size(r#"{"type": "function", "name": "f"}"#, false, "", &[("f", "{}")]);
    each_size(r#"{"function": {"name": "f", "arguments": {"x": 2}}}"#, false, "", &[("f", r#"{"x":2}"#)]);
}

#[test]
fn built_in_calls_and_code_after_the_python_tag() {
    let search = r#"<|python_tag|>brave_search.call(query="the \"sun\", today", count=3)"#;
    each_size(search, false, "", &[("brave_search", r#"{"query":"the \"sun\", today","count":3}"#)]);
    let code = "<|python_tag|>import math\nprint(\"x\\n\", math.pi)";
    for size in [1, 4, 1000] {
        let (said, found) = run(code, size, false, true, false);
        assert_eq!((said.as_str(), found[0].0.as_str()), ("", "code_interpreter"));
        let arguments: serde_json::Value = serde_json::from_str(&found[0].1).unwrap();
        assert_eq!(arguments["code"], "import math\nprint(\"x\\n\", math.pi)");
    }
}

#[test]
fn calls_in_tags_may_follow_text() {
    let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"<\"}}\n</tool_call>";
    each_size(&format!("Let me look.\n{call}\n{call}"), true, "Let me look.", &[("f", r#"{"a": "<"}"#); 2]);
    each_size(call, true, "", &[("f", r#"{"a": "<"}"#)]);
    each_size("a <tool> b <b>", true, "a <tool> b <b>", &[]);
    each_size("<tool_cal", true, "<tool_cal", &[]);
}

#[test]
fn text_that_only_looks_like_a_call_stays_text() {
    for text in [
        "Hello {\"name\": \"f\", \"parameters\": {}}",
        "{\"name\": \"unknown\", \"parameters\": {}}",
        "{\"answer\": 42}",
        "{not json}",
        "{}",
        "[1, 2]",
        "[see here]",
        "{\"name\": \"f",
        "  two spaces",
        "",
    ] {
        each_size(text, false, text, &[]);
        each_size(text, true, text, &[]);
    }
}

#[test]
fn half_a_call_is_never_shown_as_text() {
    let call = "{\"name\": \"f\", \"parameters\": {\"a\": [1, 2]}}";
    for end in 1..call.len() {
        for size in [1, 7] {
            let (said, found) = run(&call[..end], size, false, true, true);
            assert_eq!(said, "", "{}", &call[..end]);
            assert!(found.is_empty() || "{\"a\": [1, 2]}".starts_with(&found[0].1));
        }
    }
}

#[test]
fn one_call_is_enough_if_only_one_is_wanted() {
    let call = "{\"name\": \"f\", \"parameters\": {}}";
    let (said, found) = run(&format!("{call}; {call} and more"), 3, false, false, false);
    assert_eq!((said.as_str(), found.len()), ("", 1));
}
