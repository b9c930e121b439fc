//! Tools: what a request offers to the model, how the model is told, and the form of forced calls.

mod calls;
mod object;

pub(crate) use calls::{Calls, Piece};

use crate::fields::{Fields, wrong};
use crate::reply::ApiError;
use herd_infer::bounded_schema;
use herd_tokenizer::Tokenizer;
use serde_json::{Value, json};

/// Most tools of one request.
const MAX_TOOLS: usize = 256;
/// Most calls of one answer whose form is forced.
const MAX_CALLS: usize = 16;

/// A function that the model may call.
pub(crate) struct Tool {
    name: String,
    parameters: Value,
    strict: bool,
}

/// What the model is to do with the tools.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum ToolChoice {
    Auto,
    Required,
    /// The number of the tool.
    Named(usize),
}

/// The tools of a request.
pub(crate) struct Toolbox {
    tools: Vec<Tool>,
    /// As the chat template wants them.
    pub json: Vec<Value>,
    pub choice: ToolChoice,
    parallel: bool,
}

/// How a model writes calls, as its chat template tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dialect {
    /// `parameters` as Llama 3.1 says it, or `arguments` as most others.
    key: &'static str,
    /// Calls stand in `<tool_call>` tags.
    pub tags: bool,
    /// The template itself tells the model about tools, calls and results.
    pub native: bool,
    /// The template refuses more than one call in a message.
    pub single: bool,
}

impl Dialect {
    pub(crate) fn of(template: &str) -> Self {
        let tags = template.contains("<tool_call>");
        Self {
            key: if tags || template.contains("\"arguments\"") && !template.contains("\"parameters\"") {
                "arguments"
            } else {
                "parameters"
            },
            tags,
            native: template.contains("tools"),
            single: template.contains("tool_calls") && template.contains("length != 1"),
        }
    }
}

impl Toolbox {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`; none if the model is not to call anything.
    pub(crate) fn read(f: &Fields<'_>) -> Result<Option<Self>, ApiError> {
        let list = match f.get("tools") {
            None => &[][..],
            Some(Value::Array(list)) if list.len() <= MAX_TOOLS => list.as_slice(),
            Some(other) => {
                return Err(wrong("tools", other, &format!("a list of at most {MAX_TOOLS} tools")));
            }
        };
        let tools = list.iter().enumerate().map(|(i, t)| tool(i, t)).collect::<Result<Vec<Tool>, _>>()?;
        let parallel = f.get("parallel_tool_calls").is_none() || f.flag("parallel_tool_calls")?;
        let expected =
            "\"none\", \"auto\", \"required\", or {\"type\": \"function\", \"function\": {\"name\": ...}}";
        let choice = match f.get("tool_choice") {
            None => Some(ToolChoice::Auto),
            Some(value) => match (value.as_str(), value["function"]["name"].as_str()) {
                (Some("none"), _) => None,
                (Some("auto"), _) => Some(ToolChoice::Auto),
                (Some("required"), _) => Some(ToolChoice::Required),
                (None, Some(name)) => {
                    let unknown = || {
                        let message = format!("`tool_choice` names `{name}`, which is not in `tools`");
                        ApiError::invalid(Some("tool_choice"), message)
                    };
                    let found = tools.iter().position(|t| t.name == name);
                    Some(ToolChoice::Named(found.ok_or_else(unknown)?))
                }
                _ => return Err(wrong("tool_choice", value, expected)),
            },
        };
        if tools.is_empty() && matches!(choice, Some(ToolChoice::Required)) {
            let message = "`tool_choice` asks for a call, but `tools` is empty";
            return Err(ApiError::invalid(Some("tool_choice"), message));
        }
        let Some(choice) = choice.filter(|_| !tools.is_empty()) else { return Ok(None) };
        Ok(Some(Self { tools, json: list.to_vec(), choice, parallel }))
    }

    /// The finder of calls in one answer.
    pub(crate) fn calls(&self, dialect: Dialect) -> Calls {
        // A template that knows nothing of tools was told of plain JSON; such a model may use tags all the same.
        let tags = dialect.tags || !dialect.native;
        Calls::new(self.tools.iter().map(|t| t.name.clone()).collect(), tags, self.parallel)
    }

    /// Whether an answer must be a call.
    pub(crate) fn forced(&self) -> bool {
        self.choice != ToolChoice::Auto
    }

    /// Whether the form of calls is to be held: in an answer that must be a call, and in one that may be if a tool is
    /// `strict`.
    pub(crate) fn held(&self, dialect: Dialect) -> bool {
        self.forced() || !dialect.tags && self.tools.iter().any(|t| t.strict)
    }

    /// The rules of a Lark grammar for `calls`.
    pub(crate) fn rules(&self, dialect: Dialect, tokenizer: &Tokenizer) -> String {
        let wanted: Vec<usize> = match self.choice {
            ToolChoice::Named(only) => vec![only],
            _ => (0..self.tools.len()).collect(),
        };
        let most = if self.parallel && !matches!(self.choice, ToolChoice::Named(_)) { MAX_CALLS } else { 1 };
        let tag = |name: &str| match tokenizer.special(name) {
            Some(_) => name.to_string(),
            None => Value::from(name).to_string(),
        };
        let (open, close, between) = if dialect.tags {
            (
                format!("{} \"\\n\" ", tag("<tool_call>")),
                format!(" \"\\n\" {}", tag("</tool_call>")),
                "\"\\n\"",
            )
        } else {
            (String::new(), String::new(), "\"; \"")
        };
        let more = if most > 1 { format!(" ({between} call){{0,{}}}", most - 1) } else { String::new() };
        let mut rules = format!("calls: call{more}\n");
        let names: Vec<String> = wanted.iter().map(|i| format!("call_{i}")).collect();
        rules += &format!("call: {}\n", names.join(" | "));
        for &i in &wanted {
            let Tool { name, parameters, .. } = &self.tools[i];
            let head =
                Value::from(format!("{{\"name\": {}, \"{}\": ", Value::from(name.as_str()), dialect.key));
            rules += &format!("call_{i}: {open}{head} arguments_{i} \"}}\"{close}\n");
            rules += &format!("arguments_{i}: %json {}\n", bounded_schema(parameters));
        }
        rules
    }

    /// Tells a model about the tools whose template does not.
    pub(crate) fn instructions(&self) -> String {
        let mut text = String::from("You can call these functions:\n\n");
        for tool in &self.json {
            text += &format!("{}\n", tool["function"]);
        }
        text += "\nTo call one, answer with nothing but JSON of this form:\n{\"name\": \"FUNCTION\", \"parameters\": {\"NAME\": VALUE}}\n";
        text +=
            if self.parallel { "Separate several calls by \"; \"." } else { "Call at most one function." };
        text
    }
}

fn tool(index: usize, value: &Value) -> Result<Tool, ApiError> {
    let field = |name: &str| format!("tools[{index}].{name}");
    if value["type"] != "function" {
        return Err(wrong(&field("type"), &value["type"], "\"function\""));
    }
    let function = &value["function"];
    let name = function["name"].as_str().filter(|n| {
        (1..=64).contains(&n.len()) && n.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
    });
    let expected = "1 to 64 letters, digits, underscores, dots or dashes";
    let name = name.ok_or_else(|| wrong(&field("function.name"), &function["name"], expected))?;
    let parameters = match &function["parameters"] {
        Value::Null => json!({ "type": "object", "properties": {} }),
        object @ Value::Object(_) => object.clone(),
        other => return Err(wrong(&field("function.parameters"), other, "a JSON schema (an object)")),
    };
    Ok(Tool { name: name.to_string(), parameters, strict: function["strict"] == true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_tell_how_calls_are_written() {
        let llama = Dialect::of(herd_tokenizer::chat::LLAMA31_TEMPLATE);
        assert_eq!(llama, Dialect { key: "parameters", tags: false, native: true, single: true });
        let plain = Dialect::of(herd_tokenizer::chat::LLAMA3_TEMPLATE);
        assert_eq!((plain.native, plain.tags), (false, false));
        let hermes = Dialect::of("{% for tool in tools %}{{ tool | tojson }}{% endfor %}<tool_call>\n");
        assert_eq!(hermes, Dialect { key: "arguments", tags: true, native: true, single: false });
    }
}
