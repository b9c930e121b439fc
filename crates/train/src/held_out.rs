//! Loss on documents that were kept back: nats per token and bits per byte, per domain.

use crate::packing::{MicroBatch, Packer};
use herd_model::Llama;
use herd_run::{Context, Interrupted};
use herd_tensor::{Params, Tape};
use herd_tokenizer::shard::{ShardIndex, TokenShard};
use serde::{Deserialize, Serialize};
use std::f64::consts::LN_2;
use std::path::Path;

/// Loss of one domain, or of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainLoss {
    /// The domain's name.
    pub domain: String,
    /// Mean negative log-likelihood of a token, nats.
    pub loss: f64,
    /// The same per byte of text, in bits: comparable between tokenizers.
    pub bits_per_byte: f64,
    /// Tokens that were predicted.
    pub tokens: u64,
}

/// A fixed set of held-out documents, packed once.
pub struct HeldOut {
    domains: Vec<Domain>,
}

struct Domain {
    name: String,
    batches: Vec<MicroBatch>,
    tokens: u64,
    bytes: u64,
}

impl HeldOut {
    /// Opens the held-out shards that `index.json` in `folder` lists, taking whole documents of each domain until
    /// `tokens_per_domain` are reached, and cuts them into sequences of `sequence` tokens.
    pub fn open(
        folder: &Path,
        sequence: usize,
        tokens_per_domain: u64,
        micro_batch_tokens: usize,
    ) -> Result<Self, crate::loader::Error> {
        let index = ShardIndex::load(folder)?;
        let mut domains = Vec::new();
        for entry in index.domains.into_iter().filter(|entry| entry.held_out.documents > 0) {
            let shard = TokenShard::open(folder.join(&entry.held_out.file))?;
            let mut domain = Domain { name: entry.name, batches: Vec::new(), tokens: 0, bytes: 0 };
            let mut packer = Packer::default();
            let mut ids = Vec::new();
            for document in 0..shard.documents() {
                if domain.tokens >= tokens_per_domain {
                    break;
                }
                ids.clear();
                shard.read(shard.document_range(document), &mut ids);
                // Each sequence repeats the last token of the one before, so that every token has a predecessor.
                let last = ids.len().saturating_sub(1);
                for start in (0..last).step_by(sequence) {
                    let piece = &ids[start..(start + sequence).min(last) + 1];
                    if packer.rows() > 0 && packer.rows() + piece.len() - 1 > micro_batch_tokens {
                        domain.batches.push(packer.finish());
                    }
                    packer.push(None, document as u64, start as u64, piece);
                }
                domain.tokens += last as u64;
                domain.bytes += shard.document_bytes(document);
            }
            if packer.rows() > 0 {
                domain.batches.push(packer.finish());
            }
            if domain.tokens > 0 {
                domains.push(domain);
            }
        }
        Ok(Self { domains })
    }

    /// Whether there is nothing to evaluate on.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Loss per domain, in the index's order, then of all tokens together under the name `all`.
    pub fn evaluate(
        &self,
        llama: &Llama,
        params: &Params,
        ctx: &Context,
    ) -> Result<Vec<DomainLoss>, Interrupted> {
        let mut out = Vec::with_capacity(self.domains.len() + 1);
        let (mut sum, mut tokens, mut bytes) = (0.0, 0, 0);
        for domain in &self.domains {
            let mut nats = 0.0;
            for batch in &domain.batches {
                ctx.stop.check()?;
                nats += negative_log_likelihood(llama, params, batch);
            }
            out.push(DomainLoss::new(&domain.name, nats, domain.tokens, domain.bytes));
            sum += nats;
            tokens += domain.tokens;
            bytes += domain.bytes;
        }
        out.push(DomainLoss::new("all", sum, tokens, bytes));
        Ok(out)
    }
}

impl DomainLoss {
    fn new(domain: &str, nats: f64, tokens: u64, bytes: u64) -> Self {
        Self {
            domain: domain.to_string(),
            loss: nats / tokens.max(1) as f64,
            bits_per_byte: nats / LN_2 / bytes.max(1) as f64,
            tokens,
        }
    }
}

/// Sum over the rows of a batch, nats.
fn negative_log_likelihood(llama: &Llama, params: &Params, batch: &MicroBatch) -> f64 {
    let mut tape = Tape::no_grad(params);
    let hidden = llama.hidden(&mut tape, &batch.batch);
    let logprobs = tape.token_logprobs(&hidden, llama.head(), &batch.targets);
    -tape.value(&logprobs).to_host().as_slice().iter().map(|&x| f64::from(x)).sum::<f64>()
}
