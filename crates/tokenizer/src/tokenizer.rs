use crate::added::{AddedToken, AddedTokens};
use crate::bpe::{Bpe, Cache, MergeTable, Vocabulary};
use crate::chat::{ChatTemplate, LLAMA31_TEMPLATE};
use crate::large_pages::list_with_room;
use crate::parallel::{self, TokenParts};
use crate::sentence_piece::{SentencePiece, SpacePrefix};
use crate::special::Specials;
use crate::split::Split;
use crate::stream::TokenStream;
use crate::vocabulary::{Entry, EntryKind};
use crate::{Error, format};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::ThreadId;

/// A BPE tokenizer: byte-level as Llama 3's, or over characters as Llama 2's. Cheap to clone, shared between threads.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    model: Model,
    kinds: Vec<EntryKind>,
    added: AddedTokens,
    /// A space is put before texts that do not begin with one (byte-level only).
    prefix_space: bool,
    specials: Specials,
    bos: Option<u32>,
    eos: Option<u32>,
    begin: Option<u32>,
    chat_template: Option<String>,
    /// Compiled on first use, so that a tokenizer with a strange template still encodes text.
    compiled_template: OnceLock<ChatTemplate>,
    /// Caches not in use, and which thread has used each; a call takes one, so that nothing is locked per piece.
    caches: Mutex<Vec<(ThreadId, Cache)>>,
}

/// How pieces are found.
pub(crate) enum Model {
    /// Byte-level BPE.
    Bytes(Bpe),
    /// SentencePiece's BPE.
    Pieces(SentencePiece),
}

/// What a tokenizer is made of.
pub(crate) struct Parts {
    pub(crate) model: Model,
    pub(crate) kinds: Vec<EntryKind>,
    /// In ascending order of their ids.
    pub(crate) added: Vec<AddedToken>,
    pub(crate) prefix_space: bool,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
    /// Token that is put before a text.
    pub(crate) begin: Option<u32>,
    pub(crate) chat_template: Option<String>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` (a file, or the folder that holds it) or a tiktoken rank file such as Llama 3's
    /// `tokenizer.model`. A chat template is taken from `chat_template.jinja` or `tokenizer_config.json` beside it if
    /// there is one. Tokenizers inside GGUF files are read by [`Tokenizer::from_gguf`].
    ///
    /// # Errors
    /// A file that is missing, inconsistent, or has a rule that this program does not know; the message names the
    /// file and the field.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        format::load(path.as_ref())
    }

    /// Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` into `folder`, as Hugging
    /// Face's `tokenizers` and `transformers` read them.
    pub fn save(&self, folder: impl AsRef<Path>) -> Result<(), Error> {
        format::save(self, folder.as_ref())
    }

    /// Byte-level BPE with the rules of Llama 3 and special tokens that follow the text without a gap.
    pub(crate) fn llama3(
        tokens: Vec<Vec<u8>>,
        merges: impl FnOnce(&Vocabulary) -> Vec<crate::bpe::Merge>,
        special_names: Vec<String>,
        chat_template: Option<String>,
    ) -> Result<Self, Error> {
        let first = tokens.len() as u32;
        let mut entries: Vec<Entry> = tokens.into_iter().map(Entry::text).collect();
        entries.extend(special_names.iter().map(|name| Entry::new(name.as_bytes(), EntryKind::Special)));
        let vocabulary = Vocabulary::new(&entries)?;
        if let Some(byte) = (0..=u8::MAX).find(|&byte| vocabulary.id(&[byte]).is_none()) {
            return Err(Error::Vocabulary(format!(
                "no token for byte 0x{byte:02x}; a byte-level vocabulary has all 256"
            )));
        }
        let merges = merges(&vocabulary);
        let bpe = Bpe::new(vocabulary, merges, crate::bpe::Rules::llama3());
        let added: Vec<AddedToken> =
            (first..).zip(special_names).map(|(id, name)| AddedToken::special(id, name)).collect();
        let id = |name: &str| added.iter().find(|token| token.content == name).map(|token| token.id);
        let (bos, eos) = (id("<|begin_of_text|>"), id("<|eot_id|>"));
        Self::assemble(Parts {
            model: Model::Bytes(bpe),
            kinds: entries.iter().map(|entry| entry.kind).collect(),
            added,
            prefix_space: false,
            bos,
            eos,
            begin: bos,
            chat_template,
        })
    }

    pub(crate) fn assemble(parts: Parts) -> Result<Self, Error> {
        let Parts { model, kinds, added, prefix_space, bos, eos, begin, chat_template } = parts;
        let added = AddedTokens::new(added)?;
        let specials = Specials::find(|name| added.id(name), bos, eos);
        // What older files of Llama 3 lack is known; of other models it is not.
        let knows_headers = specials.start_header != Specials::NONE && specials.end_header != Specials::NONE;
        let chat_template = chat_template.or_else(|| knows_headers.then(|| LLAMA31_TEMPLATE.to_string()));
        let caches = Mutex::default();
        let compiled_template = OnceLock::new();
        Ok(Self(Arc::new(Inner {
            model,
            kinds,
            added,
            prefix_space,
            specials,
            bos,
            eos,
            begin,
            chat_template,
            compiled_template,
            caches,
        })))
    }

    /// Finds now, on all threads of the current rayon pool, what is otherwise found when texts first need it: worth it
    /// before megabytes of text, not before a prompt. Tokens do not depend on it.
    pub fn prepare(&self) {
        if let Model::Bytes(bpe) = &self.0.model {
            bpe.prepare();
        }
    }

    /// The tokens of a plain text. Names of special tokens in it are text like any other.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = list_with_room(text.len() / 3);
        self.encode_into(text, &mut ids);
        ids
    }

    /// The tokens of text and their merges, if this is byte-level BPE with Llama 3's split rule whose special tokens come
    /// last.
    pub(crate) fn llama3_merges(&self) -> Option<Llama3Merges<'_>> {
        let Model::Bytes(bpe) = &self.0.model else { return None };
        let is_text = |kind: &EntryKind| *kind == EntryKind::Text;
        let count = self.0.kinds.iter().take_while(|kind| is_text(kind)).count();
        let regular =
            matches!(bpe.rules().split, Split::Llama3) && !self.0.kinds[count..].iter().any(is_text);
        let tokens = || (0..count as u32).map(|id| bpe.vocabulary().bytes(id).to_vec()).collect();
        regular.then(|| Llama3Merges { tokens: tokens(), merges: bpe.merges() })
    }

    /// The same as [`encode`](Self::encode), on all threads of the current rayon pool: the text is cut behind letters,
    /// where every rule that is known ends a piece. Other rules (an unusual pattern, SentencePiece) are one thread's work.
    pub fn encode_parallel(&self, text: &str) -> TokenParts {
        let is_cut = matches!(&self.0.model, Model::Bytes(bpe) if bpe.rules().split.cuts_after_letters());
        if !is_cut || rayon::current_num_threads() == 1 || self.0.added.has_plain() {
            return self.encode(text).into();
        }
        parallel::encode(text, |share| {
            self.with_cache(|cache| {
                share.take_all(|part, first, ids| self.encode_plain(part, first, cache, ids));
            });
        })
    }

    /// Appends the tokens of a plain text to `ids`; see [`encode`](Self::encode).
    pub fn encode_into(&self, text: &str, ids: &mut Vec<u32>) {
        self.encode_segments(text, false, ids);
    }

    /// The tokens of a text in which names of special tokens stand for those tokens, as Hugging Face reads it
    /// (without adding a begin-of-text token). Not for untrusted text.
    pub fn encode_with_special(&self, text: &str) -> Vec<u32> {
        let mut ids = list_with_room(text.len() / 3);
        self.encode_segments(text, true, &mut ids);
        ids
    }

    fn encode_segments(&self, text: &str, specials: bool, ids: &mut Vec<u32>) {
        self.with_cache(|cache| {
            self.0.added.for_each_segment(text, specials, |plain, first, token| {
                self.encode_plain(plain, first, cache, ids);
                ids.extend(token);
            });
        });
    }

    /// Calls `visit` with each stretch of text without added tokens, whether it begins the text, and the token after
    /// it, if any.
    pub(crate) fn for_each_segment(&self, text: &str, visit: impl FnMut(&str, bool, Option<u32>)) {
        self.0.added.for_each_segment(text, true, visit);
    }

    /// Where names of special tokens stand in a text.
    pub(crate) fn special_ranges(&self, text: &str) -> Vec<Range<usize>> {
        self.0.added.special_ranges(text)
    }

    /// Appends the tokens of a text in which no added token is looked for; `first` if it begins the whole text.
    pub(crate) fn encode_segment(&self, text: &str, first: bool, ids: &mut Vec<u32>) {
        self.with_cache(|cache| self.encode_plain(text, first, cache, ids));
    }

    fn encode_plain(&self, text: &str, first: bool, cache: &mut Cache, ids: &mut Vec<u32>) {
        match &self.0.model {
            Model::Bytes(bpe) if self.0.prefix_space && !text.is_empty() && !text.starts_with(' ') => {
                bpe.encode(&format!(" {text}"), cache, ids);
            }
            Model::Bytes(bpe) => bpe.encode(text, cache, ids),
            Model::Pieces(pieces) => pieces.encode(text, first, cache, ids),
        }
    }

    fn with_cache(&self, work: impl FnOnce(&mut Cache)) {
        // A poisoned lock still guards a valid list of caches: nothing panics between taking and returning one.
        let caches = || self.0.caches.lock().unwrap_or_else(|e| e.into_inner());
        let thread = std::thread::current().id();
        let taken = {
            let mut caches = caches();
            // The thread's own is still near its processor.
            let own = caches.iter().position(|(user, _)| *user == thread);
            own.map(|at| caches.swap_remove(at)).or_else(|| caches.pop())
        };
        let mut cache = taken.map(|(_, cache)| cache).unwrap_or_default();
        work(&mut cache);
        caches().push((thread, cache));
    }

    /// The text of some tokens. Bytes that are not UTF-8 become U+FFFD; special tokens appear by name; ids outside
    /// the vocabulary give nothing. The space that a SentencePiece vocabulary puts before a text is taken away.
    pub fn decode(&self, ids: &[u32]) -> String {
        let Model::Pieces(_) = self.0.model else {
            return String::from_utf8_lossy(&self.decode_bytes(ids)).into_owned();
        };
        let mut text = String::new();
        for run in ids.chunk_by(|a, b| self.is_byte(*a) && self.is_byte(*b)) {
            let bytes = self.decode_bytes(run);
            match std::str::from_utf8(&bytes) {
                Ok(valid) => text.push_str(valid),
                // Hugging Face gives up a whole run of bytes.
                Err(_) => text.extend(std::iter::repeat_n(char::REPLACEMENT_CHARACTER, run.len())),
            }
        }
        if self.strips_space() && text.starts_with(' ') {
            text.remove(0);
        }
        text
    }

    fn is_byte(&self, id: u32) -> bool {
        self.kind(id) == Some(EntryKind::Byte)
    }

    /// Whether decoding takes one space from the beginning of a text.
    pub(crate) fn strips_space(&self) -> bool {
        matches!(&self.0.model, Model::Pieces(pieces) if pieces.prefix() != SpacePrefix::Never)
    }

    /// The bytes of some tokens, all spaces included; see [`decode`](Self::decode).
    pub fn decode_bytes(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter().flat_map(|&id| self.token_bytes(id)).copied().collect()
    }

    /// The bytes of one token: the name of a special token, nothing for an id outside the vocabulary.
    #[inline]
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        match &self.0.model {
            Model::Bytes(bpe) => bpe.vocabulary().bytes(id),
            Model::Pieces(pieces) => pieces.output().get(id),
        }
    }

    /// A decoder for tokens that arrive one by one.
    pub fn stream(&self) -> TokenStream {
        TokenStream::new(self.clone())
    }

    /// Number of ids, special tokens included.
    pub fn vocab_size(&self) -> usize {
        self.0.kinds.len()
    }

    /// The id of a special token by name, such as `<|eot_id|>`.
    pub fn special(&self, name: &str) -> Option<u32> {
        self.0.added.id(name)
    }

    /// The id of a token, special or not, by what stands in the vocabulary.
    pub fn token(&self, name: &str) -> Option<u32> {
        let vocabulary = match &self.0.model {
            Model::Bytes(bpe) => bpe.vocabulary(),
            Model::Pieces(pieces) => pieces.pieces(),
        };
        self.special(name).or_else(|| vocabulary.id(name.as_bytes()))
    }

    /// The special tokens that have a meaning of their own.
    pub fn specials(&self) -> &Specials {
        &self.0.specials
    }

    /// What an id is for; `None` outside the vocabulary.
    pub fn kind(&self, id: u32) -> Option<EntryKind> {
        self.0.kinds.get(id as usize).copied()
    }

    /// Whether an id is a special token, or none of the vocabulary.
    #[inline]
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.kind(id), Some(EntryKind::Special) | None)
    }

    /// The token that this tokenizer puts before a text, if it puts one. [`encode`](Self::encode) leaves it to the
    /// caller, who knows whether a text begins.
    pub fn begin(&self) -> Option<u32> {
        self.0.begin
    }

    /// The token that the files call `bos_token`.
    pub fn bos(&self) -> Option<u32> {
        self.0.bos
    }

    /// The token that the files call `eos_token`.
    pub fn eos(&self) -> Option<u32> {
        self.0.eos
    }

    /// The Jinja chat template that the model is trained with; empty if there is none.
    pub fn chat_template(&self) -> &str {
        self.0.chat_template.as_deref().unwrap_or_default()
    }

    /// The chat template, compiled.
    ///
    /// # Errors
    /// There is no template, or it is not valid Jinja.
    pub fn compiled_template(&self) -> Result<&ChatTemplate, Error> {
        if let Some(template) = self.0.compiled_template.get() {
            return Ok(template);
        }
        let source = self.0.chat_template.as_deref().ok_or_else(|| {
            Error::Template(
                "this model has none (a base model?); complete text with it, or put a chat_template.jinja beside its \
                 tokenizer"
                    .into(),
            )
        })?;
        let template = ChatTemplate::new(source)?;
        Ok(self.0.compiled_template.get_or_init(|| template))
    }

    pub(crate) fn model(&self) -> &Model {
        &self.0.model
    }

    pub(crate) fn added(&self) -> &[AddedToken] {
        self.0.added.list()
    }

    pub(crate) fn prefix_space(&self) -> bool {
        self.0.prefix_space
    }
}

/// See [`Tokenizer::llama3_merges`].
pub(crate) struct Llama3Merges<'a> {
    /// By id.
    pub(crate) tokens: Vec<Vec<u8>>,
    pub(crate) merges: &'a MergeTable,
}
