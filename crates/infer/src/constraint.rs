//! Answers that must have a form: a JSON schema, a regular expression or a grammar, followed token by token with
//! [`llguidance`]. The tokens that may come next are found while the model computes, not after it.

mod gbnf;

use crate::Error;
use gbnf::Translated;
use herd_tokenizer::Tokenizer;
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use toktrie::{SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

/// What an answer must look like.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// JSON that a schema describes (JSON Schema 2020-12, as far as llguidance knows it).
    JsonSchema(Value),
    /// A regular expression that the whole answer matches.
    Regex(String),
    /// A context-free grammar in llguidance's dialect of Lark.
    Lark(String),
    /// A context-free grammar as llama.cpp writes it.
    Gbnf(String),
}

impl Grammar {
    /// A grammar in either dialect: llama.cpp's has rules with `::=`, unless the text begins with `%llguidance`.
    pub fn of_text(text: &str) -> Self {
        let rule = |line: &str| {
            let name = line.split("::=").next().unwrap_or_default().trim();
            let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            name.len() < line.trim().len() && !name.is_empty() && name.chars().all(letter)
        };
        if !text.trim_start().starts_with("%llguidance") && text.lines().any(rule) {
            Self::Gbnf(text.into())
        } else {
            Self::Lark(text.into())
        }
    }
}

/// A compiled [`Grammar`]; cheap to clone. Two are equal if one is a clone of the other.
#[derive(Clone)]
pub struct Constraint(Arc<Mutex<Matcher>>);

impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constraint")
    }
}

/// Compiles grammars for one tokenizer. The vocabulary is brought into form at the first grammar.
pub(crate) struct Compiler {
    tokenizer: Tokenizer,
    end_tokens: Vec<u32>,
    factory: OnceLock<Result<ParserFactory, String>>,
}

impl Compiler {
    pub(crate) fn new(tokenizer: Tokenizer, end_tokens: Vec<u32>) -> Self {
        Self { tokenizer, end_tokens, factory: OnceLock::new() }
    }

    pub(crate) fn compile(&self, grammar: &Grammar) -> Result<Constraint, Error> {
        let wrong = |problem: String| Error::Grammar(first_line(&problem));
        let factory = self.factory.get_or_init(|| {
            let vocabulary: TokEnv = Arc::new(Vocabulary::new(&self.tokenizer, &self.end_tokens));
            let mut factory = ParserFactory::new_simple(&vocabulary).map_err(|e| e.to_string())?;
            factory.quiet().limits_mut().verbose_errors = false;
            Ok(factory)
        });
        let factory = factory.as_ref().map_err(|e| wrong(e.clone()))?;
        let grammar = match grammar {
            Grammar::JsonSchema(schema) => TopLevelGrammar::from_json_schema(bounded_schema(schema)),
            Grammar::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Grammar::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
            Grammar::Gbnf(text) => match gbnf::translate(text).map_err(wrong)? {
                Translated::Regex(regex) => TopLevelGrammar::from_regex(&regex),
                Translated::Lark(lark) => TopLevelGrammar::from_lark(lark),
            },
        };
        // The library reports bugs of its own as panics.
        let parser =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| factory.create_parser(grammar)))
                .map_err(|_| wrong("it is beyond what can be compiled".into()))?;
        let mut matcher = Matcher::new(parser);
        // A form that nothing can have shows at the first token.
        if let Err(problem) = matcher.compute_mask_or_eos() {
            return Err(wrong(problem.to_string()));
        }
        Ok(Constraint(Arc::new(Mutex::new(matcher))))
    }
}

/// A schema with room between the parts of the JSON for one space, or for one new line with its indentation: where
/// white space may go on for ever, weak models do.
pub fn bounded_schema(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(fields) = schema.as_object_mut() {
        fields.entry("x-guidance").or_insert_with(|| json!({ "whitespace_pattern": " |\\n[ \\t]{0,20}" }));
    }
    schema
}

/// The library shows the grammar below some messages; of a regular expression that is wrong it says in the last line why.
fn first_line(problem: &str) -> String {
    let first = problem.lines().next().unwrap_or_default();
    let last = problem.lines().last().unwrap_or_default().trim();
    let text = if first.ends_with(':') && last != first { &format!("{first} {last}") } else { first };
    if text.chars().count() <= 300 {
        text.to_string()
    } else {
        text.chars().take(300).chain(['…']).collect()
    }
}

/// Follows one answer through a [`Constraint`].
pub(crate) struct Follower(Arc<Mutex<State>>);

struct State {
    matcher: Matcher,
    /// The tokens that may come next, once they are known.
    allowed: Option<SimpleVob>,
    end: u32,
}

impl Follower {
    pub(crate) fn new(constraint: &Constraint) -> Self {
        let matcher = locked(&constraint.0).deep_clone();
        let end = matcher.tok_env().map_or(0, |env| env.eos_token());
        let follower = Self(Arc::new(Mutex::new(State { matcher, allowed: None, end })));
        follower.look_ahead();
        follower
    }

    /// Takes away all logits but those of tokens that may come next.
    pub(crate) fn restrict(&self, logits: &mut [f32]) {
        let mut state = locked(&self.0);
        state.find();
        let Some(allowed) = &state.allowed else { return };
        for (word, logits) in allowed.as_slice().iter().zip(logits.chunks_mut(32)) {
            if *word != u32::MAX {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
        let known = allowed.as_slice().len() * 32;
        if let Some(beyond) = logits.get_mut(known..) {
            beyond.fill(f32::NEG_INFINITY);
        }
    }

    /// Takes the token that was drawn and begins to look for the next ones on another thread.
    pub(crate) fn advance(&self, token: u32) {
        let mut state = locked(&self.0);
        state.allowed = None;
        if !state.matcher.is_stopped() && state.matcher.consume_token(token).is_ok() {
            drop(state);
            self.look_ahead();
        }
    }

    fn look_ahead(&self) {
        let state = self.0.clone();
        rayon::spawn(move || locked(&state).find());
    }
}

impl State {
    /// Whoever comes first does the work: the thread that looks ahead, or the one that needs the answer.
    fn find(&mut self) {
        if self.allowed.is_none() {
            // After an error inside the library all that is left is to end.
            let only_end = || {
                let mut set = SimpleVob::alloc(self.end as usize + 1);
                set.allow_token(self.end);
                set
            };
            self.allowed = Some(self.matcher.compute_mask_or_eos().unwrap_or_else(|_| only_end()));
        }
    }
}

impl Clone for Follower {
    fn clone(&self) -> Self {
        let state = locked(&self.0);
        let (matcher, allowed) = (state.matcher.deep_clone(), state.allowed.clone());
        Self(Arc::new(Mutex::new(State { matcher, allowed, end: state.end })))
    }
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Follower")
    }
}

/// A matcher turns its own panics into errors, so a poisoned lock still guards a whole one.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// The tokenizer as llguidance sees it.
struct Vocabulary {
    trie: TokTrie,
    tokenizer: Tokenizer,
    canonical: bool,
}

impl Vocabulary {
    fn new(tokenizer: &Tokenizer, end_tokens: &[u32]) -> Self {
        let size = tokenizer.vocab_size() as u32;
        let words: Vec<Vec<u8>> = (0..size)
            .map(|token| {
                let bytes = tokenizer.token_bytes(token);
                match (tokenizer.is_special(token), bytes.first()) {
                    (true, _) => [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat(),
                    // Not part of any text.
                    (false, Some(&TokTrie::SPECIAL_TOKEN_MARKER)) => Vec::new(),
                    (false, _) => bytes.to_vec(),
                }
            })
            .collect();
        let known: Vec<u32> = end_tokens.iter().copied().filter(|&t| t < size).collect();
        let end = known.first().copied().unwrap_or(0);
        let trie = TokTrie::from(&TokRxInfo::new(size, end), &words).with_eos_tokens(&known);
        // Where encoding adds something of its own (a space in front), its tokens must not be forced.
        let sample = "{\"a\": [1, true]}";
        let canonical = tokenizer.decode_bytes(&tokenizer.encode(sample)) == sample.as_bytes();
        Self { trie, tokenizer: tokenizer.clone(), canonical }
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| self.tokenizer.encode(text))
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.canonical
    }
}
