//! Chat templates against Transformers. The golden file was made by `golden/make_template_golden.py`.

use herd_tokenizer::chat::{ChatTemplate, Dialog};
use serde_json::Value;

#[test]
fn templates_give_the_text_of_transformers() {
    let rows: Vec<Value> = serde_json::from_str(include_str!("golden/templates.json")).unwrap();
    assert_eq!(rows.len(), 14);
    for row in rows {
        let source = row["template"].as_str().unwrap();
        let template = ChatTemplate::new(source).unwrap_or_else(|e| panic!("{e}: {source}"));
        let dialog = Dialog {
            messages: row["messages"].as_array().unwrap().clone(),
            tools: row["tools"].as_array().cloned(),
            add_generation_prompt: row["add_generation_prompt"].as_bool().unwrap(),
            variables: row["variables"].as_object().unwrap().clone(),
        };
        match (row["text"].as_str(), template.render(&dialog)) {
            (Some(expected), Ok(found)) => assert_eq!(found, expected, "{source}"),
            (None, Err(error)) => {
                // What a template says itself comes through.
                let raised = row["error"].as_str().unwrap();
                assert!(!raised.starts_with("Roles") || error.to_string().contains(raised), "{error}");
            }
            (expected, found) => panic!("expected {expected:?}, found {found:?}: {source}"),
        }
    }
}

#[test]
fn a_template_that_is_no_jinja_is_refused_with_its_line() {
    let message = ChatTemplate::new("a\n{% if %}").err().unwrap().to_string();
    assert!(message.contains("line 2"), "{message}");
    let endless = ChatTemplate::new("{% for x in range(1000000000) %}{{ x }}{% endfor %}").unwrap();
    assert!(endless.render(&Dialog::default()).is_err());
}
