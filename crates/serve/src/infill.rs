//! `POST /infill`: what stands between two pieces of a text, as llama-server's editor plug-ins ask for it.
//!
//! The model must be trained to fill in the middle. It then has tokens that say which piece is which, and reads
//! `<PRE>prefix<SUF>suffix<MID>`; other files stand before that.

use crate::body;
use crate::fields::{Fields, wrong};
use crate::native;
use crate::reply::ApiError;
use crate::server::App;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use herd_tokenizer::Tokenizer;
use serde_json::Value;
use std::sync::Arc;

/// Most files of one request.
const MAX_FILES: usize = 1024;
/// The tokens' names in the models that have them: Qwen and its like, StarCoder, Granite, Code Llama (two spellings),
/// DeepSeek.
const PREFIX: [&str; 6] =
    ["<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "▁<PRE>", "<PRE>", "<｜fim▁begin｜>"];
const SUFFIX: [&str; 6] =
    ["<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "▁<SUF>", "<SUF>", "<｜fim▁hole｜>"];
const MIDDLE: [&str; 6] =
    ["<|fim_middle|>", "<fim_middle>", "<fim-middle>", "▁<MID>", "<MID>", "<｜fim▁end｜>"];
const REPOSITORY: [&str; 4] = ["<|repo_name|>", "<|fim_repo|>", "<repo_name>", "<reponame>"];
const FILE: [&str; 2] = ["<|file_sep|>", "<file_sep>"];
/// What says that the middle is complete, besides the model's own end and the beginning of another file.
const END: [&str; 7] =
    ["▁<EOT>", "<EOT>", "<|endoftext|>", "<|fim_pad|>", "<fim_pad>", "<fim-pad>", "<|end_of_text|>"];

/// The tokens of a model that fills in the middle.
struct Marks {
    prefix: u32,
    suffix: u32,
    middle: u32,
    /// Before the name of a repository, and of a file.
    files: Option<(u32, u32)>,
    ends: Vec<u32>,
}

impl Marks {
    fn of(tokenizer: &Tokenizer) -> Result<Self, ApiError> {
        let find = |names: &[&str]| names.iter().find_map(|name| tokenizer.token(name));
        let missing = |part: &str| {
            let message = format!(
                "this model cannot fill in the middle of a text: its vocabulary has no token for the {part}"
            );
            ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_supported", message)
        };
        let files = find(&REPOSITORY).zip(find(&FILE));
        let ends = END.iter().filter_map(|name| tokenizer.token(name));
        Ok(Self {
            prefix: find(&PREFIX).ok_or_else(|| missing("prefix"))?,
            suffix: find(&SUFFIX).ok_or_else(|| missing("suffix"))?,
            middle: find(&MIDDLE).ok_or_else(|| missing("middle"))?,
            ends: ends.chain(files.into_iter().flat_map(|(repository, file)| [repository, file])).collect(),
            files,
        })
    }
}

/// `POST /infill`, with all options of `/completion`.
pub(crate) async fn infill(State(app): State<Arc<App>>, body: Body) -> Result<Response, ApiError> {
    let value = body::json(body, &app.limits).await?;
    let f = Fields::of(&value)?;
    let text = |name: &str| {
        let value = f.required(name)?;
        value.as_str().ok_or_else(|| wrong(name, value, "a string"))
    };
    let (before, after) = (text("input_prefix")?, text("input_suffix")?);
    let files = files(&f)?;
    let tokenizer = app.generator.tokenizer();
    let marks = Marks::of(tokenizer)?;
    let pieces = Pieces {
        files: other_files(tokenizer, &marks, &files),
        prefix: tokenizer.encode(before),
        suffix: tokenizer.encode(after),
        begun: tokenizer.encode(f.text("prompt")?.unwrap_or_default()),
    };
    let context = app.generator.context();
    let asked = f.get("n_predict").and_then(Value::as_u64).map_or(context, |n| n as usize);
    let prompt = pieces.prompt(&marks, tokenizer.begin(), context - asked.clamp(1, (context / 4).max(1)));
    let ends = marks.ends;
    native::answer(app, &value, vec![prompt], ends).await
}

/// Name and text of the other files that the request shows.
fn files<'a>(f: &Fields<'a>) -> Result<Vec<(&'a str, &'a str)>, ApiError> {
    let Some(value) = f.get("input_extra") else { return Ok(Vec::new()) };
    let expected = format!("a list of at most {MAX_FILES} objects with `text` and `filename`");
    let wrong = || wrong("input_extra", value, &expected);
    let file = |file: &'a Value| {
        let name = file.get("filename").map_or(Some("tmp"), Value::as_str);
        name.zip(file.get("text").and_then(Value::as_str)).ok_or_else(wrong)
    };
    value.as_array().filter(|list| list.len() <= MAX_FILES).ok_or_else(wrong)?.iter().map(file).collect()
}

/// What stands before the prefix: with tokens for it, the files of a repository whose last one is being written.
fn other_files(tokenizer: &Tokenizer, marks: &Marks, files: &[(&str, &str)]) -> Vec<u32> {
    let mut tokens = Vec::new();
    let Some((repository, file)) = marks.files else {
        files.iter().for_each(|(_, text)| tokenizer.encode_into(&format!("{text}\n"), &mut tokens));
        return tokens;
    };
    if !files.is_empty() {
        tokens.push(repository);
        tokenizer.encode_into("myproject\n", &mut tokens);
        for (name, text) in files {
            tokens.push(file);
            tokenizer.encode_into(&format!("{name}\n{text}\n"), &mut tokens);
        }
        tokens.push(file);
        tokenizer.encode_into("filename\n", &mut tokens);
    }
    tokens
}

/// The tokens of a request.
struct Pieces {
    files: Vec<u32>,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    /// What of the middle is there already.
    begun: Vec<u32>,
}

impl Pieces {
    /// The prompt, in at most `room` tokens if `begun` allows: first the beginning of the other files gives way, then what
    /// is farthest from the middle, the prefix keeping three quarters of the room.
    fn prompt(&self, marks: &Marks, begin: Option<u32>, room: usize) -> Vec<u32> {
        let room = room.saturating_sub(self.begun.len() + 3 + usize::from(begin.is_some()));
        let suffix = self.suffix.len().min((room / 4).max(room.saturating_sub(self.prefix.len())));
        let prefix = self.prefix.len().min(room - suffix);
        let files = self.files.len().min(room - suffix - prefix);
        let end_of = |tokens: &[u32], count: usize| tokens[tokens.len() - count..].to_vec();
        let mut prompt = Vec::from_iter(begin);
        prompt.extend(end_of(&self.files, files));
        prompt.push(marks.prefix);
        prompt.extend(end_of(&self.prefix, prefix));
        prompt.push(marks.suffix);
        prompt.extend(&self.suffix[..suffix]);
        prompt.push(marks.middle);
        prompt.extend(&self.begun);
        prompt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_from_the_middle_gives_way() {
        let marks = Marks { prefix: 90, suffix: 91, middle: 92, files: None, ends: Vec::new() };
        let run = |from: u32, count: u32| (from..from + count).collect::<Vec<_>>();
        let pieces = Pieces { files: run(40, 4), prefix: run(0, 8), suffix: run(20, 8), begun: vec![60] };
        let whole = pieces.prompt(&marks, Some(99), 100);
        assert_eq!(
            whole,
            [vec![99], run(40, 4), vec![90], run(0, 8), vec![91], run(20, 8), vec![92, 60]].concat()
        );
        // 5 tokens are needed in any case; the files go first.
        let cut = pieces.prompt(&marks, Some(99), 5 + 18);
        assert_eq!(
            cut,
            [vec![99], run(42, 2), vec![90], run(0, 8), vec![91], run(20, 8), vec![92, 60]].concat()
        );
        let cut = pieces.prompt(&marks, Some(99), 5 + 8);
        assert_eq!(cut, [vec![99, 90], run(2, 6), vec![91], run(20, 2), vec![92, 60]].concat());
        assert_eq!(pieces.prompt(&marks, None, 0), [90, 91, 92, 60]);
        let short = Pieces { prefix: run(0, 1), ..pieces };
        assert_eq!(short.prompt(&marks, None, 4 + 8), [vec![90, 0, 91], run(20, 7), vec![92, 60]].concat());
    }
}
