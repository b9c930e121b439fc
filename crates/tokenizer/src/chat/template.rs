use super::python;
use crate::Error;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value as Json};

/// What a chat template is given.
#[derive(Debug, Clone, Default)]
pub struct Dialog {
    /// Messages with `role` and `content`, perhaps `tool_calls`, in the format of OpenAI and Transformers.
    pub messages: Vec<Json>,
    /// Descriptions of tools that the model may call.
    pub tools: Option<Vec<Json>>,
    /// Whether to end with the header of the next answer.
    pub add_generation_prompt: bool,
    /// Further variables, such as `date_string`, `builtin_tools` or `tools_in_user_message`.
    pub variables: Map<String, Json>,
}

/// A compiled chat template, rendered with the conventions of Transformers: `trim_blocks`, `lstrip_blocks`,
/// `raise_exception`, `strftime_now`, and JSON as Python writes it.
pub struct ChatTemplate(Environment<'static>);

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// A syntax error, with its line.
    pub fn new(source: &str) -> Result<Self, Error> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(wrong)?);
        env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        env.add_function("strftime_now", |format: String| super::date::strftime_now(&format));
        env.add_filter("tojson", python::tojson);
        env.set_formatter(python::format);
        // Python's `str.strip` takes four separators that Unicode does not call white space.
        env.add_filter("trim", |text: String| {
            let blank = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
            text.trim_matches(blank).to_string()
        });
        env.set_unknown_method_callback(python::method);
        env.add_template_owned(NAME, without_generation_tags(source)).map_err(wrong)?;
        Ok(Self(env))
    }

    /// The text of a dialog.
    ///
    /// # Errors
    /// The template refuses the dialog (`raise_exception`) or uses something unknown.
    pub fn render(&self, dialog: &Dialog) -> Result<String, Error> {
        let mut context = dialog.variables.clone();
        context.insert("messages".into(), Json::Array(dialog.messages.clone()));
        context.insert("tools".into(), dialog.tools.clone().map_or(Json::Null, Json::Array));
        context.insert("documents".into(), Json::Null);
        context.insert("add_generation_prompt".into(), dialog.add_generation_prompt.into());
        context.entry("bos_token").or_insert_with(|| "<|begin_of_text|>".into());
        context.entry("eos_token").or_insert_with(|| "<|eot_id|>".into());
        let template = self.0.get_template(NAME).map_err(wrong)?;
        template.render(Value::from(Serde(context))).map_err(wrong)
    }
}

/// Transformers marks what the model says with `{% generation %}`, which changes nothing in the text: here a block
/// that is always there.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let inside = at + 2;
        let Some(end) = rest[inside..].find("%}").map(|length| inside + length) else { break };
        let tag = &rest[inside..end];
        let name = tag.trim_matches(['-', '+']).trim();
        let tag = match name {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_string(),
        };
        out.push_str(&rest[..inside]);
        out.push_str(&tag);
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

fn wrong(error: minijinja::Error) -> Error {
    let place = error.line().map(|line| format!("line {line}: ")).unwrap_or_default();
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    Error::Template(format!("{place}{what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_a_tag_that_share_a_sign_are_no_tag() {
        assert!(ChatTemplate::new("{% if true %}a{%} b{% endif %}").is_err());
        let open = "{%} {% generation";
        assert_eq!(without_generation_tags(open), open);
    }
}
