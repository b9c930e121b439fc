//! One question to an endpoint that speaks OpenAI's chat completions, asked again if it fails in passing.

use super::Error;
use herd_run::Stop;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Where to ask.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The address that `/chat/completions` is added to, such as `http://127.0.0.1:8080/v1`.
    pub url: String,
    /// The model to ask.
    pub model: String,
    /// The key that is sent, if any.
    pub key: Option<String>,
    /// Times that a question is asked again.
    pub retries: u32,
    /// Most time that an answer may take.
    pub timeout: Duration,
    /// Longest answer, tokens.
    pub max_tokens: u32,
    /// Whether the answer is held to a JSON schema (`response_format`). Endpoints that do not know it need it off.
    pub schema: bool,
}

/// The endpoint refuses.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {problem}")]
pub struct EndpointError {
    /// Where was asked.
    pub url: String,
    /// What came back, and what to do.
    pub problem: String,
}

/// What came back.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The label; `None` if the model said none after all tries.
    pub label: Option<String>,
    /// What it said last, or what was wrong.
    pub said: String,
    pub requests: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

/// How one try ended.
enum Try {
    Said(String),
    /// Worth another try, after so long if the endpoint says it.
    Failed(String, Option<Duration>),
    Refused(String),
    /// The text does not fit into the model's context.
    TooLong(String),
}

/// Times that a text which is too long is cut in half.
const HALVINGS: u32 = 6;

impl Endpoint {
    fn address(&self) -> String {
        format!("{}/chat/completions", self.url.trim_end_matches('/'))
    }

    /// The first model that the endpoint at `url` lists.
    ///
    /// # Errors
    ///
    /// An endpoint that cannot be reached, refuses, or lists none.
    pub fn first_model(url: &str, key: Option<&str>) -> Result<String, EndpointError> {
        let address = format!("{}/models", url.trim_end_matches('/'));
        let error = |problem: String| EndpointError { url: address.clone(), problem };
        let mut request = ureq::get(&address);
        if let Some(key) = key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.call().map_err(|e| {
            error(format!("{e} (start it, for example with `herd serve MODEL`, or name another with --url)"))
        })?;
        let text = response.body_mut().read_to_string().map_err(|e| error(e.to_string()))?;
        let list: Value = serde_json::from_str(&text).map_err(|e| error(format!("no JSON: {e}")))?;
        let first = list["data"][0]["id"].as_str().map(str::to_string);
        first.ok_or_else(|| error("lists no model; name one with --model".into()))
    }

    /// Connections that stay open between questions.
    pub(super) fn agent(&self) -> ureq::Agent {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(self.timeout))
            .http_status_as_error(false)
            .build();
        config.into()
    }

    /// The label of a text; of its beginning, if it is longer than the model's context.
    pub(super) fn ask(
        &self,
        agent: &ureq::Agent,
        criteria: &str,
        labels: &[String],
        text: &str,
        stop: &Stop,
    ) -> Result<Answer, Error> {
        let (mut text, mut halvings) = (text, 0);
        let mut body = self.body(criteria, labels, text).to_string();
        let mut answer = Answer::default();
        let mut round = 0;
        while round <= self.retries {
            answer.requests += 1;
            let wait = match self.try_once(agent, &body, &mut answer) {
                Try::Said(said) => {
                    answer.label = label_in(&said, labels);
                    answer.said = said;
                    if answer.label.is_some() {
                        return Ok(answer);
                    }
                    None
                }
                Try::Failed(problem, wait) => {
                    answer.said = problem;
                    Some(wait.unwrap_or(Duration::from_millis(500 << round.min(6))))
                }
                Try::TooLong(_) if halvings < HALVINGS && text.len() > 1 => {
                    halvings += 1;
                    text = &text[..text.floor_char_boundary(text.len() / 2)];
                    body = self.body(criteria, labels, text).to_string();
                    continue;
                }
                Try::Refused(problem) | Try::TooLong(problem) => {
                    return Err(EndpointError { url: self.address(), problem }.into());
                }
            };
            if round < self.retries {
                pause(wait.unwrap_or_default(), stop)?;
            }
            round += 1;
        }
        // A network that is down is no property of the document.
        if answer.completion_tokens == 0 {
            let problem = format!("{} (asked {} times)", answer.said, answer.requests);
            return Err(EndpointError { url: self.address(), problem }.into());
        }
        Ok(answer)
    }

    fn body(&self, criteria: &str, labels: &[String], text: &str) -> Value {
        let choices = format!("Answer with one of these labels: {}.", labels.join(", "));
        let messages = match criteria.contains("{text}") {
            true => json!([{ "role": "user", "content": criteria.replace("{text}", text) }]),
            false => json!([
                { "role": "system", "content": format!("{}\n\n{choices}", criteria.trim_end()) },
                { "role": "user", "content": text },
            ]),
        };
        let mut body = json!({
            "model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens,
        });
        if self.schema {
            body["response_format"] = json!({
                "type": "json_schema",
                "json_schema": { "name": "label", "strict": true, "schema": {
                    "type": "object",
                    "properties": { "label": { "type": "string", "enum": labels } },
                    "required": ["label"],
                    "additionalProperties": false,
                } },
            });
        }
        body
    }

    fn try_once(&self, agent: &ureq::Agent, body: &str, answer: &mut Answer) -> Try {
        let mut request = agent.post(self.address()).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = match request.send(body) {
            Ok(response) => response,
            Err(error) => return Try::Failed(error.to_string(), None),
        };
        let status = response.status().as_u16();
        let wait = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
        let text = match response.body_mut().read_to_string() {
            Ok(text) => text,
            Err(error) => return Try::Failed(error.to_string(), None),
        };
        let beginning: String = text.chars().take(300).collect();
        match status {
            200 => {}
            408 | 409 | 425 | 429 | 500..=599 => {
                let problem = format!("status {status}: {beginning}");
                return Try::Failed(problem, wait.map(Duration::from_secs));
            }
            401 | 403 => return Try::Refused(format!("status {status}: {beginning} (is the key right?)")),
            400 | 413 if beginning.contains("context_length") || beginning.contains("context length") => {
                return Try::TooLong(format!("status {status}: {beginning}"));
            }
            _ => return Try::Refused(format!("status {status}: {beginning}")),
        }
        let Ok(reply) = serde_json::from_str::<Value>(&text) else {
            return Try::Failed(format!("no JSON: {beginning}"), None);
        };
        answer.prompt_tokens += reply["usage"]["prompt_tokens"].as_u64().unwrap_or(0);
        // An endpoint that does not count has answered all the same.
        answer.completion_tokens += reply["usage"]["completion_tokens"].as_u64().unwrap_or(1);
        match reply["choices"][0]["message"]["content"].as_str() {
            Some(said) => Try::Said(said.to_string()),
            None => Try::Failed(format!("no message: {beginning}"), None),
        }
    }
}

/// Waits, but not for one who wants to stop.
fn pause(time: Duration, stop: &Stop) -> Result<(), Error> {
    let until = Instant::now() + time.min(Duration::from_secs(120));
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        stop.check()?;
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
    Ok(())
}

/// The label that an answer names: in its JSON, or the only one among its words.
fn label_in(said: &str, labels: &[String]) -> Option<String> {
    let json = said.find('{').zip(said.rfind('}')).filter(|(from, to)| from < to);
    let named = json.and_then(|(from, to)| {
        let value: Value = serde_json::from_str(&said[from..=to]).ok()?;
        value["label"].as_str().map(str::to_string)
    });
    if let Some(named) = named {
        return labels.iter().find(|label| label.eq_ignore_ascii_case(named.trim())).cloned();
    }
    let words = || said.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-');
    let mut there = labels.iter().filter(|label| words().any(|word| word.eq_ignore_ascii_case(label)));
    let first = there.next();
    first.filter(|_| there.next().is_none()).cloned()
}

#[cfg(test)]
mod tests {
    use super::label_in;

    #[test]
    fn labels_are_found_in_json_and_in_words_but_not_guessed() {
        let labels = ["good".to_string(), "bad".to_string()];
        let found = |said: &str| label_in(said, &labels);
        assert_eq!(found("{\"label\": \"good\"}").as_deref(), Some("good"));
        assert_eq!(found("Sure: ```json\n{\"label\":\"Bad\"}\n```").as_deref(), Some("bad"));
        assert_eq!(found("It is bad.").as_deref(), Some("bad"));
        assert_eq!(found("{\"label\": \"fine\"}"), None);
        assert_eq!(found("good or bad"), None);
        assert_eq!(found("goodness"), None);
        assert_eq!(found(""), None);
    }
}
