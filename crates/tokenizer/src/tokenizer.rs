use crate::bpe::{Bpe, Cache};
use crate::chat::{ChatTemplate, LLAMA31_TEMPLATE};
use crate::special::Specials;
use crate::stream::TokenStream;
use crate::{Error, format};
use aho_corasick::{AhoCorasick, MatchKind};
use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

/// A byte-level BPE tokenizer with the Llama 3 split rule. Cheap to clone, shared between threads.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    bpe: Bpe,
    /// Names of the special tokens; their ids follow the BPE tokens without a gap.
    special_names: Vec<String>,
    specials: Specials,
    special_matcher: AhoCorasick,
    chat_template: String,
    /// Compiled on first use, so that a tokenizer with a strange template still encodes text.
    compiled_template: OnceLock<ChatTemplate>,
    /// Caches not in use; each call takes one, so that a thread keeps a warm cache without locking per piece.
    caches: Mutex<Vec<Cache>>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` (a file, or the folder that holds it) or a tiktoken rank file such as Llama 3's
    /// `tokenizer.model`. A chat template is taken from `tokenizer_config.json` beside it if there is one.
    ///
    /// # Errors
    /// A file that is missing, not a byte-level BPE with the Llama 3 split rule, or inconsistent; the message
    /// names the file and the field.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        format::load(path.as_ref())
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` into `folder`, as Hugging
    /// Face's `tokenizers` and `transformers` read them.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<(), Error> {
        format::save(self, folder.as_ref())
    }

    pub(crate) fn new(
        bpe: Bpe,
        special_names: Vec<String>,
        chat_template: Option<String>,
    ) -> Result<Self, Error> {
        let base = bpe.vocabulary().len() as u32;
        let find = |name: &str| special_names.iter().position(|n| n == name).map(|at| base + at as u32);
        let specials = Specials::find(find)
            .map_err(|name| Error::Vocabulary(format!("no special token {name}; Llama 3's are needed")))?;
        let special_matcher = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&special_names)
            .map_err(|e| Error::Vocabulary(format!("special tokens: {e}")))?;
        let chat_template = chat_template.unwrap_or_else(|| LLAMA31_TEMPLATE.to_string());
        let caches = Mutex::default();
        let compiled_template = OnceLock::new();
        let inner =
            Inner { bpe, special_names, specials, special_matcher, chat_template, compiled_template, caches };
        Ok(Self(Arc::new(inner)))
    }

    /// The tokens of a plain text. Names of special tokens in it are text like any other.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.encode_into(text, &mut ids);
        ids
    }

    /// Appends the tokens of a plain text to `ids`; see [`encode`](Self::encode).
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        self.with_cache(|cache| self.encode_plain(text, cache, ids));
    }

    /// The tokens of a text in which names of special tokens stand for those tokens, as Hugging Face reads it
    /// (without adding a begin-of-text token). Not for untrusted text.
    pub fn encode_with_special(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        self.with_cache(|cache| {
            self.for_each_segment(text, |plain, special| {
                self.encode_plain(plain, cache, &mut ids);
                ids.extend(special);
            });
        });
        ids
    }

    /// Calls `visit` with each stretch of text without special tokens and the special token after it, if any.
    pub(crate) fn for_each_segment(&self, text: &str, mut visit: impl FnMut(&str, Option<u32>)) {
        let mut done = 0;
        for found in self.0.special_matcher.find_iter(text) {
            visit(&text[done..found.start()], Some(self.first_special() + found.pattern().as_u32()));
            done = found.end();
        }
        visit(&text[done..], None);
    }

    /// Where names of special tokens stand in a text.
    pub(crate) fn special_ranges(&self, text: &str) -> Vec<Range<usize>> {
        self.0.special_matcher.find_iter(text).map(|found| found.range()).collect()
    }

    fn encode_plain(&self, text: &str, cache: &mut Cache, ids: &mut Vec<u32>) {
        self.0.bpe.encode(text, cache, ids);
    }

    fn with_cache(&self, work: impl FnOnce(&mut Cache)) {
        // A poisoned lock still guards a valid list of caches: nothing panics between taking and returning one.
        let caches = || self.0.caches.lock().unwrap_or_else(|e| e.into_inner());
        let mut cache = caches().pop().unwrap_or_default();
        work(&mut cache);
        caches().push(cache);
    }

    /// The text of some tokens. Bytes that are not UTF-8 become U+FFFD; special tokens appear by name; ids outside
    /// the vocabulary give nothing.
    pub fn decode(&self, ids: &[u32]) -> String {
        match String::from_utf8_lossy(&self.decode_bytes(ids)) {
            Cow::Borrowed(text) => text.to_string(),
            Cow::Owned(text) => text,
        }
    }

    /// The bytes of some tokens; see [`decode`](Self::decode).
    pub fn decode_bytes(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter().flat_map(|&id| self.token_bytes(id)).copied().collect()
    }

    /// The bytes of one token: the name of a special token, nothing for an id outside the vocabulary.
    #[inline]
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        match id.checked_sub(self.first_special()) {
            None => self.0.bpe.vocabulary().bytes(id),
            Some(at) => self.0.special_names.get(at as usize).map_or(&[], |name| name.as_bytes()),
        }
    }

    /// A decoder for tokens that arrive one by one.
    pub fn stream(&self) -> TokenStream {
        TokenStream::new(self.clone())
    }

    /// Number of ids: BPE tokens and special tokens.
    pub fn vocab_size(&self) -> usize {
        self.0.bpe.vocabulary().len() + self.0.special_names.len()
    }

    /// The id of a special token by name, such as `<|eot_id|>`.
    pub fn special(&self, name: &str) -> Option<u32> {
        let at = self.0.special_names.iter().position(|n| n == name)?;
        Some(self.first_special() + at as u32)
    }

    /// The special tokens that have a meaning of their own.
    pub fn specials(&self) -> &Specials {
        &self.0.specials
    }

    /// Whether an id is a special token.
    #[inline]
    pub fn is_special(&self, id: u32) -> bool {
        id >= self.first_special()
    }

    /// The first special id: BPE tokens are below it.
    #[inline]
    pub fn first_special(&self) -> u32 {
        self.0.bpe.vocabulary().len() as u32
    }

    /// The Jinja chat template that the model is trained with.
    pub fn chat_template(&self) -> &str {
        &self.0.chat_template
    }

    /// The chat template, compiled.
    ///
    /// # Errors
    /// The template is not valid Jinja.
    pub fn compiled_template(&self) -> Result<&ChatTemplate, Error> {
        if let Some(template) = self.0.compiled_template.get() {
            return Ok(template);
        }
        let template = ChatTemplate::new(&self.0.chat_template)?;
        Ok(self.0.compiled_template.get_or_init(|| template))
    }

    pub(crate) fn bpe(&self) -> &Bpe {
        &self.0.bpe
    }

    pub(crate) fn special_names(&self) -> &[String] {
        &self.0.special_names
    }
}
