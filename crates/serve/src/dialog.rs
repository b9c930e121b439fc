//! The messages of a request, in the form that chat templates know.

use crate::fields::{Fields, wrong};
use crate::reply::ApiError;
use crate::tools::{Dialect, Toolbox};
use herd_tokenizer::Tokenizer;
use herd_tokenizer::chat::{ChatTokens, Dialog, encode_rich_dialog};
use serde_json::{Map, Value, json};

/// Most messages of one dialog.
const MAX_MESSAGES: usize = 4096;

/// Reads `messages` and `chat_template_kwargs` and adds the tools.
pub(crate) fn dialog(f: &Fields<'_>, tools: Option<&Toolbox>, dialect: Dialect) -> Result<Dialog, ApiError> {
    let value = f.required("messages")?;
    let expected = format!("a list of 1 to {MAX_MESSAGES} messages");
    let list = value.as_array().filter(|l| (1..=MAX_MESSAGES).contains(&l.len()));
    let list = list.ok_or_else(|| wrong("messages", value, &expected))?;
    let messages: Result<Vec<Value>, _> = list.iter().enumerate().map(|(i, m)| message(i, m)).collect();
    let mut messages = messages?;
    if !dialect.native {
        messages = messages.into_iter().map(plain).collect();
    } else if dialect.single {
        messages = one_call_a_message(messages);
    }
    if let Some(tools) = tools.filter(|_| !dialect.native) {
        let instructions = tools.instructions();
        match messages.first_mut().filter(|m| m["role"] == "system") {
            Some(system) => {
                let text = system["content"].as_str().unwrap_or_default();
                system["content"] = format!("{text}\n\n{instructions}").into();
            }
            None => messages.insert(0, json!({ "role": "system", "content": instructions })),
        }
    }
    let variables = match f.get("chat_template_kwargs") {
        None => Map::new(),
        Some(Value::Object(variables)) => variables.clone(),
        Some(other) => return Err(wrong("chat_template_kwargs", other, "an object")),
    };
    let tools = tools.filter(|_| dialect.native).map(|t| t.json.clone());
    Ok(Dialog { messages, tools, add_generation_prompt: true, variables })
}

/// Takes the last message out if it is an answer that is to go on (`continue_final_message`, as vLLM names it).
pub(crate) fn take_begun(f: &Fields<'_>, dialog: &mut Dialog) -> Result<String, ApiError> {
    if !f.flag("continue_final_message")? {
        return Ok(String::new());
    }
    match dialog.messages.pop_if(|last| last["role"] == "assistant" && last["tool_calls"].is_null()) {
        Some(last) => Ok(last["content"].as_str().unwrap_or_default().to_string()),
        None => {
            let message = "`continue_final_message` needs a last message of the assistant, without calls";
            Err(ApiError::invalid(Some("continue_final_message"), message))
        }
    }
}

/// The tokens of a dialog and of what its last answer began with. Takes a while for a long one.
pub(crate) async fn encode(
    tokenizer: &Tokenizer,
    dialog: Dialog,
    begun: String,
) -> Result<Vec<u32>, ApiError> {
    let tokenizer = tokenizer.clone();
    let refused = |problem: &str| ApiError::invalid(Some("messages"), problem);
    let work = move || {
        let mut encoded = encode_rich_dialog(&tokenizer, &dialog)?;
        tokenizer.encode_into(&begun, &mut encoded.tokens);
        Ok::<_, herd_tokenizer::Error>(encoded)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(ChatTokens { tokens, .. })) => Ok(tokens),
        Ok(Err(error)) => Err(refused(&error.to_string())),
        Err(_) => Err(refused("the chat template failed on this dialog")),
    }
}

fn message(index: usize, message: &Value) -> Result<Value, ApiError> {
    let field = |name: &str| format!("messages[{index}].{name}");
    let role = match message["role"].as_str() {
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant" | "tool" | "ipython")) => role,
        _ => {
            let expected = "one of system, developer, user, assistant, tool";
            return Err(wrong(&field("role"), &message["role"], expected));
        }
    };
    let calls = match &message["tool_calls"] {
        Value::Null => Vec::new(),
        Value::Array(list) if role == "assistant" => {
            let each = list.iter().enumerate();
            each.map(|(c, v)| call(&field(&format!("tool_calls[{c}]")), v)).collect::<Result<_, _>>()?
        }
        other => {
            return Err(wrong(&field("tool_calls"), other, "a list of calls, in a message of the assistant"));
        }
    };
    let content = match &message["content"] {
        Value::Null if !calls.is_empty() => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let mut all = String::new();
            for (p, part) in parts.iter().enumerate() {
                let name = field(&format!("content[{p}]"));
                match (part["type"].as_str(), part["text"].as_str(), part["refusal"].as_str()) {
                    (Some("text"), Some(text), _) => all.push_str(text),
                    (Some("refusal"), _, Some(text)) if role == "assistant" => all.push_str(text),
                    _ => {
                        return Err(wrong(&name, part, "a part of type text; this model reads nothing else"));
                    }
                }
            }
            all
        }
        other => return Err(wrong(&field("content"), other, "a string or a list of text parts")),
    };
    let mut out = json!({ "role": role, "content": content });
    if !calls.is_empty() {
        out["tool_calls"] = calls.into();
    }
    for name in ["tool_call_id", "name"] {
        if let Value::String(text) = &message[name] {
            out[name] = text.as_str().into();
        }
    }
    Ok(out)
}

/// A call in the history. Templates write its arguments as JSON, so they are given as a value, not as a string.
fn call(field: &str, value: &Value) -> Result<Value, ApiError> {
    let function = &value["function"];
    let name = function["name"].as_str();
    let name = name.ok_or_else(|| wrong(&format!("{field}.function.name"), &function["name"], "a string"))?;
    let arguments = match &function["arguments"] {
        Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| text.as_str().into()),
        Value::Null => json!({}),
        other => other.clone(),
    };
    let id = value["id"].as_str().unwrap_or("call");
    Ok(json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } }))
}

/// For a template that knows no calls: what was called and what came back, as text.
fn plain(message: Value) -> Value {
    let text = message["content"].as_str().unwrap_or_default();
    match (&message["role"], &message["tool_calls"]) {
        (_, Value::Array(calls)) => {
            let calls: Vec<String> = (calls.iter().map(|c| &c["function"]))
                .map(|f| format!("{{\"name\": {}, \"parameters\": {}}}", f["name"], f["arguments"]))
                .collect();
            let calls = calls.join("; ");
            let content = if text.is_empty() { calls } else { format!("{text}\n{calls}") };
            json!({ "role": "assistant", "content": content })
        }
        (role, _) if role == "tool" || role == "ipython" => {
            let of = message["name"].as_str().map_or(String::new(), |name| format!(" of {name}"));
            json!({ "role": "user", "content": format!("The result{of}:\n{text}") })
        }
        _ => message,
    }
}

/// For a template that takes one call a message: a message with several becomes several, each followed by its result.
fn one_call_a_message(messages: Vec<Value>) -> Vec<Value> {
    let mut out = Vec::with_capacity(messages.len());
    let mut rest = messages.into_iter().peekable();
    while let Some(mut message) = rest.next() {
        let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
        if calls.len() < 2 {
            out.push(message);
            continue;
        }
        let mut results = Vec::new();
        while let Some(result) = rest.next_if(|m| m["role"] == "tool" || m["role"] == "ipython") {
            results.push(result);
        }
        for call in calls {
            let mut single = message.clone();
            // What was said before the calls is said once.
            message["content"] = "".into();
            let id = call["id"].clone();
            single["tool_calls"] = json!([call]);
            out.push(single);
            let mine = results.iter().position(|r| r["tool_call_id"] == id);
            if let Some(at) =
                mine.or((!results.is_empty() && results[0]["tool_call_id"].is_null()).then_some(0))
            {
                out.push(results.remove(at));
            }
        }
        out.extend(results);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_calls_become_messages_with_their_results() {
        let call =
            |id: &str| json!({ "id": id, "type": "function", "function": { "name": "f", "arguments": {} } });
        let messages = vec![
            json!({ "role": "assistant", "content": "wait", "tool_calls": [call("a"), call("b")] }),
            json!({ "role": "tool", "content": "2", "tool_call_id": "b" }),
            json!({ "role": "tool", "content": "1", "tool_call_id": "a" }),
            json!({ "role": "user", "content": "and?" }),
        ];
        let out = one_call_a_message(messages);
        let said: Vec<&str> = out.iter().map(|m| m["content"].as_str().unwrap()).collect();
        assert_eq!(said, ["wait", "1", "", "2", "and?"]);
        assert!(out.iter().all(|m| m["tool_calls"].as_array().is_none_or(|c| c.len() == 1)));
    }
}
