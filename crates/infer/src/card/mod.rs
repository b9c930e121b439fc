//! A model on an NVIDIA card: its weights, the forward pass and the pool of pages. Scheduling, the bookkeeping of the cache and
//! the drawing of tokens are the host's, the same code as without a card.
//!
//! Numbers: weights (but for those in FP8, `feed_forward`), keys, values and what products read in bf16 (f32 for a model in f32, or where
//! [`ActivationType::F32`](crate::ActivationType) asks for it); the residual stream, sums and logits in f32. The kernels are
//! in `tensor/src/cuda/kernels`: `few_rows.cu` for products of up to 8 rows, `paged*.cu` for everything that has to do with
//! pages; products of more rows are cuBLASLt's.
//!
//! A step in which every row is answered is captured in a CUDA graph when it comes for the second time (`decode`). What is drawn
//! from is mostly the few largest logits of each row (`logits`); the whole row comes to the host where they do not suffice.
//!
//! The same steps give the same bits. Unlike on the processor, other company in a batch may change the last bits of a row:
//! cuBLASLt chooses its order of sums by the number of rows.

mod batch;
mod decode;
mod feed_forward;
mod logits;
mod memory;
mod pass;
mod upload;

pub(crate) use feed_forward::e4m3_products;

use crate::cache::PageId;
use crate::forward::Input;
use crate::weights::{Sizes, Weights};
use crate::{Error, Settings};
use batch::Batch;
use herd_tensor::RopeTable;
use herd_tensor::cuda::{Arg, Card, CardBuffer, CardError, CardUsage, DType, E4m3Products};
use pass::{Scratch, Weight};
use std::sync::{Mutex, PoisonError};

/// Rows whose logits are computed and brought to the host at once.
const LOGIT_ROWS: usize = 256;

/// One block's weights, `[rows, columns]` in the model's type; norms and biases in f32.
struct CardLayer {
    attn_norm: CardBuffer,
    /// [(heads + 2 kv_heads) head_dim, hidden]: queries, keys, values.
    qkv: CardBuffer,
    qkv_bias: Option<CardBuffer>,
    /// [hidden, heads head_dim]
    output: CardBuffer,
    output_bias: Option<CardBuffer>,
    ffn_norm: CardBuffer,
    /// [2 ffn, hidden]: gate, then up.
    gate_up: FfnMatrix,
    /// [hidden, ffn]
    down: FfnMatrix,
}

/// A matrix of the feed-forward part: in the model's type, or in e4m3 with a scale for each row, f32 [rows].
struct FfnMatrix {
    values: CardBuffer,
    scales: Option<CardBuffer>,
}

impl FfnMatrix {
    /// As one in the model's type.
    fn weight(&self, rows: usize, columns: usize) -> Weight<'_> {
        Weight { values: &self.values, rows, columns }
    }

    /// For kernels: the values, and the scales if there are any.
    fn arguments(&self) -> Vec<Arg> {
        std::iter::once(&self.values).chain(&self.scales).map(Arg::from).collect()
    }
}

/// A model in a card's memory.
pub(crate) struct CardModel {
    card: Card,
    dtype: DType,
    pub sizes: Sizes,
    /// [vocab, hidden]
    embed: CardBuffer,
    layers: Vec<CardLayer>,
    norm: CardBuffer,
    /// The same on the host, for [`CardModel::hidden`].
    host_norm: Vec<f32>,
    /// [vocab, hidden]; `None` if it is `embed`.
    head: Option<CardBuffer>,
    rope: RopeTable,
    /// How rows in e4m3 are multiplied, if there are any.
    e4m3: Option<E4m3Products>,
    /// What the weights were, where they are kept in fewer bits or more than in the file.
    converted: Option<&'static str>,
    /// One pass at a time: its buffers stay where they are from one to the next.
    scratch: Mutex<Option<Scratch>>,
}

impl CardModel {
    /// Brings a model to a card, and says which settings suit them both.
    ///
    /// # Errors
    /// A model, or a cache, that the card has no memory for; a type of the cache that a card does not have.
    pub(crate) fn new(card: Card, weights: &Weights, settings: Settings) -> Result<(Self, Settings), Error> {
        let e4m3 = e4m3_products(Some(&card), &settings)?;
        if e4m3.is_some() {
            feed_forward::check_sizes(&weights.sizes)?;
        }
        let dtype = upload::dtype(weights, e4m3.is_some());
        let settings = memory::plan(&card, weights, dtype, settings)?;
        Ok((upload::model(card, weights, dtype, e4m3)?, settings))
    }

    /// Bytes of one page of the cache.
    pub(crate) fn page_bytes(&self) -> usize {
        memory::page_bytes(&self.sizes, self.dtype)
    }

    /// A pool of `capacity` pages, which takes its memory when the first pass needs it.
    pub(crate) fn pages(&self, capacity: usize) -> CardPages {
        CardPages { capacity, pool: None, copies: Vec::new() }
    }

    /// Steps that are kept as CUDA graphs.
    pub(crate) fn graphs(&self) -> usize {
        let place = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        place.as_ref().map_or(0, |scratch| scratch.steps.captured())
    }

    /// What is used of the card's memory.
    pub(crate) fn usage(&self) -> CardUsage {
        self.card.usage()
    }

    /// The card, the type of numbers and the size of the weights, as text.
    pub(crate) fn describe(&self) -> String {
        let bytes = memory::weight_bytes(&self.sizes, self.dtype, self.head.is_some(), self.e4m3.is_some());
        let dtype = if self.dtype == DType::F32 { "f32" } else { "bf16" };
        let converted = self.converted.map_or(String::new(), |from| format!(" (from {from})"));
        let short = feed_forward::layers_in_e4m3(self.sizes.layers);
        let short = match self.e4m3 {
            Some(_) if short.is_empty() => ", none in fp8 (not of the first and last layer)".into(),
            Some(_) => format!(", of feed-forward layers {} to {} in fp8", short.start + 1, short.end),
            None => String::new(),
        };
        format!("{}: weights in {dtype}{converted}{short}, {:.1} GB", self.card.name(), bytes as f64 / 1e9)
    }

    /// As [`crate::forward::hidden`]; the final norm is the host's.
    pub(crate) fn hidden(&self, pages: &mut CardPages, input: Input<'_>) -> Result<Vec<f32>, CardError> {
        let (batch, d) = (Batch::new(self, input), self.sizes.hidden);
        let mut x = vec![0f32; input.tokens.len() * d];
        self.with_scratch(&batch, 0, |scratch| {
            self.blocks(scratch, pages, &batch)?;
            scratch.x.read_part(0, &mut x)
        })?;
        let mut normed = Vec::with_capacity(input.wanted.len() * d);
        for &row in input.wanted {
            let row = &x[row * d..(row + 1) * d];
            let square = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / d as f64;
            let scale = (square + f64::from(self.sizes.eps)).sqrt().recip() as f32;
            normed.extend(row.iter().zip(&self.host_norm).map(|(x, w)| x * scale * w));
        }
        Ok(normed)
    }

    /// Calls `work` with buffers for a batch, which no other pass uses meanwhile.
    fn with_scratch<T>(
        &self,
        batch: &Batch,
        logit_rows: usize,
        work: impl FnOnce(&mut Scratch) -> Result<T, CardError>,
    ) -> Result<T, CardError> {
        // What a panic leaves behind is overwritten by the next pass.
        let mut place = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = match place.take() {
            Some(scratch) if scratch.holds(batch, logit_rows) => scratch,
            old => Scratch::new(self, batch, logit_rows, old)?,
        };
        work(place.insert(fitting))
    }
}

/// The pool of pages in a card's memory: `[pages, layers, kv_heads, 2, 16, head_dim]`.
pub(crate) struct CardPages {
    capacity: usize,
    pool: Option<CardBuffer>,
    /// Pages to be copied before the next pass, in order: until then nothing is written to any page.
    copies: Vec<(PageId, PageId)>,
}

impl CardPages {
    pub(crate) fn copy(&mut self, from: PageId, to: PageId) {
        self.copies.push((from, to));
    }

    /// The pool, with everything copied that should be.
    fn ready(&mut self, model: &CardModel) -> Result<&CardBuffer, CardError> {
        let bytes = model.page_bytes();
        let pool = match self.pool.take() {
            Some(pool) => pool,
            None => CardBuffer::stale(&model.card, self.capacity * bytes)?,
        };
        for (from, to) in self.copies.drain(..) {
            pool.copy_within(from as usize * bytes, to as usize * bytes, bytes)?;
        }
        Ok(self.pool.insert(pool))
    }
}
