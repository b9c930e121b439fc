//! The held-out documents that are measured: drawn by seed from each domain, the same for every model.

use crate::Error;
use crate::ngram::Documents;
use herd_run::Random;
use herd_tokenizer::Tokenizer;
use herd_tokenizer::shard::{ShardIndex, TokenShard};
use std::path::Path;

/// The token shards of a run.
pub struct Shards {
    /// Their index.
    pub index: ShardIndex,
    /// Per domain of the index: documents to train on.
    pub train: Vec<TokenShard>,
    /// Per domain of the index: documents kept back.
    pub held_out: Vec<TokenShard>,
}

/// A held-out document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldOut {
    /// Place of its domain in the index.
    pub domain: usize,
    /// Its number in the shard.
    pub number: usize,
    /// Its tokens; the first is `<|begin_of_text|>`.
    pub ids: Vec<u32>,
    /// Bytes of the text of those tokens.
    pub bytes: u64,
}

impl Shards {
    /// Opens all shards of a folder.
    ///
    /// # Errors
    /// A missing or corrupt file, or a tokenizer of another vocabulary.
    pub fn open(folder: &Path, tokenizer: &Tokenizer) -> Result<Self, Error> {
        let index = ShardIndex::load(folder)?;
        if index.vocab_size != tokenizer.vocab_size() {
            return Err(Error::Mismatch(format!(
                "{} holds ids of a vocabulary of {}, but the model's tokenizer has {}; evaluate with the shards made \
                 by the same tokenizer",
                folder.display(),
                index.vocab_size,
                tokenizer.vocab_size()
            )));
        }
        let open = |file: &str| TokenShard::open(folder.join(file));
        let train = index.domains.iter().map(|d| open(&d.train.file)).collect::<Result<_, _>>()?;
        let held_out = index.domains.iter().map(|d| open(&d.held_out.file)).collect::<Result<_, _>>()?;
        Ok(Self { index, train, held_out })
    }

    /// Documents of one domain in an order drawn by the seed, until they hold `tokens`; each is cut to its first
    /// `longest` tokens. Documents without a token after the first are left out: there is nothing to predict.
    pub fn draw(
        &self,
        domain: usize,
        tokens: usize,
        longest: usize,
        tokenizer: &Tokenizer,
        seed: u64,
    ) -> Vec<HeldOut> {
        let shard = &self.held_out[domain];
        let order = Random::new(seed, &[]).named(&self.index.domains[domain].name).order(shard.documents());
        let mut drawn = Vec::new();
        let mut total = 0;
        for number in order {
            if total >= tokens {
                break;
            }
            let document = shard.document(number);
            let (mut ids, mut bytes) = (document.ids, document.bytes);
            if ids.len() > longest {
                ids.truncate(longest);
                let text = ids.iter().filter(|&&id| !tokenizer.is_special(id));
                bytes = text.map(|&id| tokenizer.token_bytes(id).len() as u64).sum();
            }
            if ids.len() < 2 || bytes == 0 {
                continue;
            }
            total += ids.len();
            drawn.push(HeldOut { domain, number, ids, bytes });
        }
        drawn
    }
}

/// All training documents of all domains, one after the other.
pub struct TrainDocuments<'s>(pub &'s Shards);

impl TrainDocuments<'_> {
    fn find(&self, mut index: usize) -> Option<(&TokenShard, usize)> {
        self.0.train.iter().find_map(|shard| {
            if index < shard.documents() {
                return Some((shard, index));
            }
            index -= shard.documents();
            None
        })
    }
}

impl Documents for TrainDocuments<'_> {
    fn count(&self) -> usize {
        self.0.train.iter().map(TokenShard::documents).sum()
    }

    fn copy(&self, index: usize, ids: &mut Vec<u32>) {
        ids.clear();
        if let Some((shard, number)) = self.find(index) {
            shard.read(shard.document_range(number), ids);
        }
    }

    fn source(&self) -> String {
        match self.0.train.first().and_then(|shard| shard.path().parent()) {
            Some(folder) => format!("training shards in {}", folder.display()),
            None => "training shards".into(),
        }
    }
}
