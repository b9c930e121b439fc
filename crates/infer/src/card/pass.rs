//! The forward pass: which kernels run, in which grids, on which buffers. Nothing waits for the card.

use super::batch::{Batch, Part};
use super::decode::Steps;
use super::logits::ShortScratch;
use super::{CardLayer, CardModel};
use crate::weights::Sizes;
use herd_tensor::cuda::{Arg, CardBuffer, CardError, DType, Grid, Mat, Product, THREADS};

/// Rows that `kernels/few_rows.cu` takes, and rows of the matrix that a block has.
const FEW: usize = 8;
pub(super) const FEW_ROWS: usize = 16;
/// Rows up to which those kernels normalise what they read: each of their blocks reads more for it.
const NORMALISED: usize = 2;
/// Rows that there is room for at least.
const LEAST_ROWS: usize = 16;
/// Columns up to which they do: what is normalised lies in shared memory.
const NORMALISED_COLUMNS: usize = 16_384;
/// Heads of a block of `kernels/paged_decode.cu`, its threads, and into how many parts it may cut a past.
const SHARING: usize = 4;
const DECODE_THREADS: usize = 128;
const MOST_SPLITS: usize = 64;

/// Buffers of a pass, for as many rows as any pass had.
pub(super) struct Scratch {
    rows: usize,
    logit_rows: usize,
    /// The [`Batch`].
    pub words: CardBuffer,
    /// Rows of the batch whose logits are wanted, [logit_rows].
    pub wanted: CardBuffer,
    /// The residual stream, f32 [n, hidden].
    pub x: CardBuffer,
    /// Sums of its squares, f32 [hidden / 16, 8], where rows are normalised by the products.
    squares: CardBuffer,
    /// What products read, [n, hidden].
    pub normed: CardBuffer,
    /// f32 [n, (heads + 2 kv_heads) head_dim]
    qkv: CardBuffer,
    /// [n, heads head_dim]
    q: CardBuffer,
    /// [n, heads head_dim]
    mixed: CardBuffer,
    /// [n, 2 ffn]
    pub gate_up: CardBuffer,
    /// [n, ffn]
    pub gated: CardBuffer,
    /// Of rows in e4m3, f32 [n].
    pub scales: CardBuffer,
    /// f32 [logit_rows, vocab]
    pub logits: CardBuffer,
    pub short: ShortScratch,
    /// Graphs with the addresses of these buffers.
    pub steps: Steps,
    /// Parts of a past that `paged_decode` puts together, and how many of them are done: always 0 between two kernels.
    partial: CardBuffer,
    counters: CardBuffer,
}

/// Bytes for each row of a batch, in the order of [`Scratch`] from `x` to `scales`.
fn row_bytes(s: &Sizes, dtype: DType) -> [usize; 8] {
    let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let act = dtype.size();
    [4 * s.hidden, act * s.hidden, 4 * (q + 2 * kv), act * q, act * q, act * 2 * s.ffn, act * s.ffn, 4]
}

/// Rows that are made room for where so many are needed; at least what [`padded`] says.
fn rows_for(n: usize) -> usize {
    n.next_power_of_two().max(LEAST_ROWS)
}

/// Bytes of the buffers, but for what does not grow with the model.
pub(super) fn scratch_bytes(s: &Sizes, dtype: DType, rows: usize, logit_rows: usize) -> usize {
    rows_for(rows) * row_bytes(s, dtype).iter().sum::<usize>() + 4 * logit_rows * s.vocab
}

impl Scratch {
    /// Buffers for this batch, and for all that those before were enough for.
    pub fn new(
        model: &CardModel,
        batch: &Batch,
        logit_rows: usize,
        old: Option<Self>,
    ) -> Result<Self, CardError> {
        let (s, card) = (&model.sizes, &model.card);
        let (before, logits_before) = old.as_ref().map_or((0, 0), |old| (old.rows, old.logit_rows));
        let words = old.as_ref().map_or(0, |old| old.words.bytes());
        drop(old);
        let rows = before.max(rows_for(batch.rows));
        let logit_rows = logits_before.max(rows_for(logit_rows));
        let words = words.max((4 * batch.words.len()).next_power_of_two());
        let parts = 2 * card.processors();
        let [x, normed, qkv, q, mixed, gate_up, gated, scales] =
            row_bytes(s, model.dtype).map(|bytes| CardBuffer::stale(card, rows * bytes));
        Ok(Self {
            rows,
            logit_rows,
            words: CardBuffer::stale(card, words)?,
            wanted: CardBuffer::stale(card, 4 * logit_rows)?,
            x: x?,
            squares: CardBuffer::stale(card, 4 * s.hidden.div_ceil(FEW_ROWS) * FEW)?,
            normed: normed?,
            qkv: qkv?,
            q: q?,
            mixed: mixed?,
            gate_up: gate_up?,
            gated: gated?,
            scales: scales?,
            logits: CardBuffer::stale(card, 4 * logit_rows * s.vocab)?,
            short: ShortScratch::new(model, logit_rows)?,
            steps: Steps::default(),
            partial: CardBuffer::stale(card, 4 * parts * SHARING * (s.head_dim + 2))?,
            counters: CardBuffer::zeroed(card, 4 * parts)?,
        })
    }

    /// Whether it is enough for a batch.
    pub fn holds(&self, batch: &Batch, logit_rows: usize) -> bool {
        batch.rows <= self.rows
            && logit_rows <= self.logit_rows
            && 4 * batch.words.len() <= self.words.bytes()
    }
}

/// Rows of a product by cuBLASLt: rounded up, so that there are few shapes, for each of which algorithms are measured once.
/// What comes of the rows beyond the batch's is not looked at.
pub(super) fn padded(n: usize) -> usize {
    n.next_multiple_of(if n <= 128 { LEAST_ROWS } else { 64 })
}

/// A size as kernels take it; models are far smaller than what this cannot hold.
pub(super) fn int(size: usize) -> Arg {
    (size as i32).into()
}

/// A matrix [rows, columns] of weights in the model's type.
pub(super) struct Weight<'a> {
    pub values: &'a CardBuffer,
    pub rows: usize,
    pub columns: usize,
}

impl CardModel {
    pub(super) fn launch(
        &self,
        kernel: &'static str,
        grid: impl Into<Grid>,
        arguments: &[Arg],
    ) -> Result<(), CardError> {
        self.card.launch(self.dtype, kernel, grid, arguments)
    }

    /// A thread for each of `count` values.
    pub(super) fn each(
        &self,
        kernel: &'static str,
        count: usize,
        arguments: &[Arg],
    ) -> Result<(), CardError> {
        self.launch(kernel, (count.div_ceil(THREADS), 1), arguments)
    }

    /// Whether rows are few enough for the kernels of `few_rows.cu`, which load 16 bytes at a time.
    pub(super) fn are_few(&self, n: usize, columns: usize) -> bool {
        n <= FEW && (columns * self.dtype.size()).is_multiple_of(16)
    }

    /// `out [n, rows] = x [n, columns] w^T`, or added to it.
    pub(super) fn product(
        &self,
        n: usize,
        x: &CardBuffer,
        w: &Weight<'_>,
        out: (&CardBuffer, DType),
        add: bool,
    ) -> Result<(), CardError> {
        let out = Mat::rows(out.0.address(), out.1, w.rows);
        self.card.product(&Product {
            sizes: (padded(n), w.rows, w.columns),
            a: Mat::rows(x.address(), self.dtype, w.columns),
            b: Mat::rows(w.values.address(), self.dtype, w.columns).t(),
            out,
            add: add.then_some(out.address),
            scales: None,
        })
    }

    /// All blocks: the residual stream of the batch's rows is in `scratch.x` afterwards, keys and values are in their pages.
    /// What the batch says must be in `scratch.words`.
    pub(super) fn layers(
        &self,
        scratch: &Scratch,
        pool: &CardBuffer,
        batch: &Batch,
    ) -> Result<(), CardError> {
        let (s, n) = (&self.sizes, batch.rows);
        let ids = scratch.words.address() + batch.at(Part::Ids);
        let squares = self.squares(scratch, n);
        let arguments = [(&self.embed).into(), ids.into(), (&scratch.x).into(), squares, int(s.hidden)];
        self.launch("embed_rows", (s.hidden.div_ceil(THREADS), n), &arguments)?;
        for (index, layer) in self.layers.iter().enumerate() {
            self.qkv(scratch, pool, batch, index, layer)?;
            self.attend(scratch, pool, batch, index)?;
            let output = Weight { values: &layer.output, rows: s.hidden, columns: s.heads * s.head_dim };
            self.add_product(scratch, n, &scratch.mixed, &output, layer.output_bias.as_ref())?;
            self.feed_forward(scratch, n, layer)?;
        }
        Ok(())
    }

    /// Logits of rows of the residual stream, into `scratch.logits`: of the first `n`, or of those that `rows` lists.
    pub(super) fn head(
        &self,
        scratch: &Scratch,
        n: usize,
        rows: Option<&CardBuffer>,
    ) -> Result<(), CardError> {
        let s = &self.sizes;
        let head = self.head.as_ref().unwrap_or(&self.embed);
        let head = Weight { values: head, rows: s.vocab, columns: s.hidden };
        let input = self.normed(scratch, n, rows, &self.norm)?;
        if self.are_few(n, s.hidden) {
            let last = [(&scratch.logits).into(), int(n), int(head.columns), int(head.rows)];
            let arguments = [&[head.values.into()][..], &input, &last].concat();
            return self.few("few_store", head.rows.div_ceil(FEW_ROWS), n, &arguments);
        }
        self.product(n, &scratch.normed, &head, (&scratch.logits, DType::F32), false)
    }

    /// A kernel of `few_rows.cu`, with room in shared memory for the rows of the stream that it normalises.
    pub(super) fn few(
        &self,
        kernel: &'static str,
        blocks: usize,
        n: usize,
        arguments: &[Arg],
    ) -> Result<(), CardError> {
        let shared = if self.is_normalised(n) { n * self.sizes.hidden * self.dtype.size() } else { 0 };
        self.launch(kernel, Grid { blocks: (blocks, 1), threads: THREADS, shared }, arguments)
    }

    /// Whether `n` rows are normalised by the kernels of `few_rows.cu`, all of which must apply then.
    fn is_normalised(&self, n: usize) -> bool {
        let s = &self.sizes;
        n <= NORMALISED
            && s.hidden <= NORMALISED_COLUMNS
            && [s.hidden, s.heads * s.head_dim, s.ffn].iter().all(|columns| self.are_few(n, *columns))
            && [s.hidden, s.head_dim].iter().all(|size| size.is_multiple_of(FEW_ROWS))
            && s.ffn.is_multiple_of(FEW_ROWS / 2)
    }

    /// Where the sums of the stream's squares go, if anybody wants them.
    pub(super) fn squares(&self, scratch: &Scratch, n: usize) -> Arg {
        if self.is_normalised(n) { (&scratch.squares).into() } else { 0u64.into() }
    }

    /// What the kernels of `few_rows.cu` are given for `rms_norm(x)` of all rows or of the given ones: the stream, or `normed`,
    /// which is computed first and is there for other products too.
    pub(super) fn normed(
        &self,
        scratch: &Scratch,
        n: usize,
        rows: Option<&CardBuffer>,
        weight: &CardBuffer,
    ) -> Result<[Arg; 5], CardError> {
        let (none, eps) = (Arg::from(0u64), Arg::from(self.sizes.eps));
        if rows.is_none() && self.is_normalised(n) {
            return Ok([none, (&scratch.x).into(), weight.into(), (&scratch.squares).into(), eps]);
        }
        let rows = rows.map_or(0, CardBuffer::address);
        let sizes = [int(self.sizes.hidden), self.sizes.eps.into()];
        let buffers = [(&scratch.x).into(), rows.into(), weight.into(), (&scratch.normed).into()];
        self.launch("norm_rows", (n, 1), &[&buffers[..], &sizes].concat())?;
        Ok([(&scratch.normed).into(), none, none, none, eps])
    }

    /// `x += from w^T + bias`.
    pub(super) fn add_product(
        &self,
        scratch: &Scratch,
        n: usize,
        from: &CardBuffer,
        w: &Weight<'_>,
        bias: Option<&CardBuffer>,
    ) -> Result<(), CardError> {
        if self.are_few(n, w.columns) {
            let bias = bias.map_or(0, CardBuffer::address);
            let squares = self.squares(scratch, n);
            let arguments = [w.values.into(), from.into(), bias.into(), (&scratch.x).into(), squares];
            let sizes = [int(n), int(w.columns), int(w.rows)];
            return self.few("few_add", w.rows.div_ceil(FEW_ROWS), n, &[&arguments[..], &sizes].concat());
        }
        self.product(n, from, w, (&scratch.x, DType::F32), true)?;
        let Some(bias) = bias else { return Ok(()) };
        let values = n * w.rows;
        self.each("add_bias", values, &[(&scratch.x).into(), bias.into(), values.into(), int(w.rows)])
    }

    /// Where a layer begins in a page, and numbers from one page to the next.
    fn page_layout(&self, layer: usize) -> [Arg; 2] {
        let stride = self.page_bytes() / self.dtype.size();
        [stride.into(), (stride / self.sizes.layers * layer).into()]
    }

    /// Queries to `q`, keys and values to the pages, of the normalised stream.
    fn qkv(
        &self,
        scratch: &Scratch,
        pool: &CardBuffer,
        batch: &Batch,
        index: usize,
        layer: &CardLayer,
    ) -> Result<(), CardError> {
        let (s, n) = (&self.sizes, batch.rows);
        let heads = s.heads + 2 * s.kv_heads;
        let part = |part| Arg::from(scratch.words.address() + batch.at(part));
        let bias = layer.qkv_bias.as_ref().map_or(0, CardBuffer::address).into();
        let [stride, at] = self.page_layout(index);
        let [angles, places] = [part(Part::Angles), part(Part::Places)];
        let ends = [bias, angles, places, (&scratch.q).into(), pool.into(), stride, at];
        let shape = [int(s.heads), int(s.kv_heads), int(s.head_dim)];
        let input = self.normed(scratch, n, None, &layer.attn_norm)?;
        if self.are_few(n, s.hidden) && s.head_dim.is_multiple_of(FEW_ROWS) {
            let sizes = [int(n), int(s.hidden)];
            let arguments = [&[(&layer.qkv).into()][..], &input, &ends, &sizes, &shape].concat();
            return self.few("few_qkv", heads * s.head_dim / FEW_ROWS, n, &arguments);
        }
        let w = Weight { values: &layer.qkv, rows: heads * s.head_dim, columns: s.hidden };
        self.product(n, &scratch.normed, &w, (&scratch.qkv, DType::F32), false)?;
        let pairs = n * heads * s.head_dim / 2;
        let arguments = [&[(&scratch.qkv).into()][..], &ends, &[pairs.into()], &shape].concat();
        self.each("put_rows", pairs, &arguments)
    }

    /// `mixed = attention(q)` over the pages.
    fn attend(
        &self,
        scratch: &Scratch,
        pool: &CardBuffer,
        batch: &Batch,
        index: usize,
    ) -> Result<(), CardError> {
        let s = &self.sizes;
        let part = |part| Arg::from(scratch.words.address() + batch.at(part));
        let [stride, at] = self.page_layout(index);
        let from = [(&scratch.q).into(), pool.into(), stride, at];
        let (pages, out) = (part(Part::Pages), Arg::from(&scratch.mixed));
        let [heads, kv_heads] = [int(s.heads), int(s.kv_heads)];
        let scale = Arg::from(1.0 / (s.head_dim as f32).sqrt());
        let of_singles = [part(Part::Singles), part(Part::Positions), part(Part::Tables), pages];
        let (decode, tiled) = match (self.dtype, s.head_dim) {
            (DType::Bf16, 64) => ("paged_decode_64", "paged_mma_64"),
            (DType::Bf16, 128) => ("paged_decode_128", "paged_mma_128"),
            _ => {
                let grid =
                    Grid { blocks: (s.heads, batch.singles), threads: THREADS, shared: 4 * s.head_dim };
                let last = [out, heads, kv_heads, int(s.head_dim), scale];
                return self.launch("paged_attention", grid, &[&from[..], &of_singles, &last].concat());
            }
        };
        let across = s.kv_heads * (s.heads / s.kv_heads).div_ceil(SHARING);
        // Two blocks for each multiprocessor, as far as there are pages for them: what is cut is never more than that.
        let splits = (2 * self.card.processors() / (across * batch.singles.max(1))).clamp(1, MOST_SPLITS);
        let grid = Grid { blocks: (across, batch.singles * splits), threads: DECODE_THREADS, shared: 0 };
        let last =
            [(&scratch.partial).into(), (&scratch.counters).into(), out, heads, kv_heads, int(splits), scale];
        self.launch(decode, grid, &[&from[..], &of_singles, &last].concat())?;
        let shared = 2 * 2 * 64 * (s.head_dim + 8);
        let grid = Grid { blocks: (s.heads, batch.tiles), threads: DECODE_THREADS, shared };
        self.launch(
            tiled,
            grid,
            &[&from[..], &[part(Part::Tiles), pages, out, heads, kv_heads, scale]].concat(),
        )
    }
}
