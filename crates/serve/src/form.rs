//! The form that an answer must have: `response_format`, and the names that other servers have for the same thing.

use crate::fields::{Fields, wrong};
use crate::reply::ApiError;
use crate::server::App;
use crate::tools::{Dialect, Toolbox};
use herd_infer::{Constraint, Grammar, bounded_schema};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

/// Compiled grammars that are kept for the next request.
const KEPT: usize = 32;

/// A form and the field that asks for it.
pub(crate) struct Form {
    field: String,
    grammar: Grammar,
}

/// Grammars of the last requests with their compiled forms, the last used in front.
#[derive(Default)]
pub(crate) struct Compiled(Mutex<VecDeque<(Grammar, Constraint)>>);

impl Form {
    /// Reads the field that asks for a form; two of them are an error.
    pub(crate) fn read(f: &Fields<'_>) -> Result<Option<Self>, ApiError> {
        let mut forms = Vec::new();
        if let Some(format) = f.get("response_format") {
            forms.extend(response_format(format)?);
        }
        if let Some(outputs) = f.get("structured_outputs") {
            let inner = Fields::of(outputs).map_err(|_| {
                wrong("structured_outputs", outputs, "an object with json, regex, choice or grammar")
            })?;
            for name in ["json", "regex", "choice", "grammar"] {
                if let Some(value) = inner.get(name) {
                    forms.push(form(&format!("structured_outputs.{name}"), name, value)?);
                }
            }
        }
        for (name, kind) in [
            ("guided_json", "json"),
            ("guided_regex", "regex"),
            ("guided_choice", "choice"),
            ("guided_grammar", "grammar"),
            ("json_schema", "json"),
            ("grammar", "grammar"),
        ] {
            if let Some(value) = f.get(name).filter(|v| *v != "") {
                forms.push(form(name, kind, value)?);
            }
        }
        if let [first, second, ..] = forms.as_slice() {
            let message =
                format!("`{}` and `{}` both say what form the answer has", first.field, second.field);
            return Err(ApiError::invalid(Some(&second.field), message));
        }
        Ok(forms.pop())
    }

    /// The form of an answer that may also be, or must be, a call of a tool.
    pub(crate) fn with_tools(
        form: Option<Self>,
        tools: Option<&Toolbox>,
        dialect: Dialect,
        app: &App,
    ) -> Result<Option<Self>, ApiError> {
        let Some(tools) = tools else { return Ok(form) };
        if let Some(form) = &form
            && tools.forced()
        {
            let message =
                format!("`{}` cannot hold for an answer that `tool_choice` makes a call", form.field);
            return Err(ApiError::invalid(Some(&form.field), message));
        }
        let rules = || tools.rules(dialect, app.generator.tokenizer());
        if tools.forced() {
            let grammar = Grammar::Lark(format!("start: calls\n{}", rules()));
            return Ok(Some(Self { field: "tools".into(), grammar }));
        }
        let answer = match &form {
            None if !tools.held(dialect) => return Ok(None),
            None => "answer: TEXT\nTEXT: /([^{\\s](?s:.*))?/".to_string(),
            Some(Self { grammar: Grammar::JsonSchema(schema), .. }) => {
                format!("answer: %json {}", bounded_schema(schema))
            }
            // Who writes a grammar says all of what may come, calls included.
            Some(_) => return Ok(form),
        };
        let field = form.map_or("tools".to_string(), |form| form.field);
        let grammar = Grammar::Lark(format!("start: answer | calls\n{answer}\n{}", rules()));
        Ok(Some(Self { field, grammar }))
    }

    /// Compiles the form, on a thread that may take its time.
    pub(crate) async fn compile(self, app: &Arc<App>) -> Result<Constraint, ApiError> {
        let (app, field) = (app.clone(), self.field.clone());
        let work = tokio::task::spawn_blocking(move || app.compiled.get(&app, &self.grammar));
        let refused = |problem: String| {
            ApiError::invalid(Some(&field), format!("`{field}` cannot be used: {problem}"))
                .with_code("invalid_grammar")
        };
        match work.await {
            Ok(Ok(constraint)) => Ok(constraint),
            Ok(Err(error)) => Err(refused(error.to_string())),
            Err(_) => Err(refused("compiling it failed".into())),
        }
    }
}

impl Compiled {
    fn get(&self, app: &App, grammar: &Grammar) -> Result<Constraint, herd_infer::Error> {
        let lock = || self.0.lock().unwrap_or_else(|e| e.into_inner());
        {
            let mut kept = lock();
            if let Some(at) = kept.iter().position(|(g, _)| g == grammar)
                && let Some(found) = kept.remove(at)
            {
                let constraint = found.1.clone();
                kept.push_front(found);
                return Ok(constraint);
            }
        }
        let constraint = app.generator.compile(grammar)?;
        let mut kept = lock();
        kept.push_front((grammar.clone(), constraint.clone()));
        kept.truncate(KEPT);
        Ok(constraint)
    }
}

fn response_format(format: &Value) -> Result<Option<Form>, ApiError> {
    let field = "response_format";
    let named = |name: &str| format!("{field}.{name}");
    Ok(match format["type"].as_str() {
        Some("text") => None,
        Some("json_object") => {
            // llama.cpp takes a schema here too.
            let schema = Some(&format["schema"]).filter(|s| s.is_object());
            let schema = schema.cloned().unwrap_or_else(|| json!({ "type": "object" }));
            Some(Form { field: field.into(), grammar: Grammar::JsonSchema(schema) })
        }
        Some("json_schema") => {
            let schema = &format["json_schema"]["schema"];
            if !schema.is_object() && !schema.is_boolean() {
                return Err(wrong(&named("json_schema.schema"), schema, "a JSON schema (an object)"));
            }
            Some(form(field, "json", schema)?)
        }
        Some("regex") => Some(form(&named("regex"), "regex", &format["regex"])?),
        Some("grammar") => Some(form(&named("grammar"), "grammar", &format["grammar"])?),
        _ => {
            let expected = "one of text, json_object, json_schema, regex, grammar";
            return Err(wrong(&named("type"), &format["type"], expected));
        }
    })
}

fn form(field: &str, kind: &str, value: &Value) -> Result<Form, ApiError> {
    let text = || value.as_str().ok_or_else(|| wrong(field, value, "a string"));
    let grammar = match kind {
        "json" => Grammar::JsonSchema(match value {
            Value::String(text) => serde_json::from_str(text)
                .map_err(|_| wrong(field, value, "a JSON schema, as an object or as a string of JSON"))?,
            Value::Object(_) | Value::Bool(_) => value.clone(),
            other => return Err(wrong(field, other, "a JSON schema (an object)")),
        }),
        "regex" => Grammar::Regex(text()?.to_string()),
        "choice" => {
            let texts = value.as_array().filter(|list| !list.is_empty());
            let texts = texts.and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
            let texts = texts.ok_or_else(|| wrong(field, value, "a list of strings, at least one"))?;
            let quoted: Vec<String> = texts.iter().map(|t| Value::from(*t).to_string()).collect();
            Grammar::Lark(format!("start: {}", quoted.join(" | ")))
        }
        _ => Grammar::of_text(text()?),
    };
    Ok(Form { field: field.to_string(), grammar })
}
