//! Logits, and what is brought of them to the host: all, or the largest of each row where that is enough to draw from.

use super::batch::{Batch, Part};
use super::pass::{Scratch, int};
use super::{CardModel, CardPages, LOGIT_ROWS};
use crate::forward::Input;
use crate::sampling::{Row, Sampling, Shortlist};
use herd_tensor::cuda::{Arg, CardBuffer, CardError};

/// Tokens of a shortlist, and logits of which a block of `kernels/shortlist.cu` makes one.
const SHORT: usize = 128;
const SEGMENT: usize = 4096;

/// How a vocabulary is cut.
fn segments(vocab: usize) -> usize {
    vocab.div_ceil(SEGMENT)
}

/// What a sampling's logits are multiplied with.
fn inverse(sampling: &Sampling) -> f32 {
    if sampling.temperature == 0.0 { 1.0 } else { 1.0 / sampling.temperature }
}

/// Buffers for the shortlists of as many rows as there are logits of.
pub(super) struct ShortScratch {
    /// 1 / temperature of each row.
    inverse: CardBuffer,
    /// Of the segments, [rows, segments, SHORT].
    values: CardBuffer,
    ids: CardBuffer,
    /// What the host fetches: values and ids [rows, SHORT], then what `shortlist.cu` sums, [rows, segments, 3].
    found: CardBuffer,
}

impl ShortScratch {
    pub fn new(model: &CardModel, rows: usize) -> Result<Self, CardError> {
        let segments = segments(model.sizes.vocab);
        let buffer = |words: usize| CardBuffer::stale(&model.card, 4 * rows * words);
        Ok(Self {
            inverse: buffer(1)?,
            values: buffer(segments * SHORT)?,
            ids: buffer(segments * SHORT)?,
            found: buffer(2 * SHORT + 3 * segments)?,
        })
    }
}

impl CardModel {
    /// As [`crate::forward::forward`].
    pub(crate) fn logits(&self, pages: &mut CardPages, input: Input<'_>) -> Result<Vec<f32>, CardError> {
        let (batch, wanted) = (Batch::new(self, input), input.wanted);
        self.with_scratch(&batch, wanted.len().min(LOGIT_ROWS), |scratch| {
            self.blocks(scratch, pages, &batch)?;
            let mut logits = vec![0.0; wanted.len() * self.sizes.vocab];
            let rows = wanted.chunks(LOGIT_ROWS).zip(logits.chunks_mut(LOGIT_ROWS * self.sizes.vocab));
            for (wanted, logits) in rows {
                self.head_of(scratch, wanted)?;
                scratch.logits.read_part(0, logits)?;
            }
            Ok(logits)
        })
    }

    /// The same as rows to draw from, each by its sampling.
    pub(crate) fn rows(
        &self,
        pages: &mut CardPages,
        input: Input<'_>,
        samplings: &[&Sampling],
    ) -> Result<Vec<Row>, CardError> {
        let (mut batch, wanted) = (Batch::new(self, input), input.wanted);
        let is_step = self.is_step(&batch, wanted);
        if is_step {
            batch.temper(samplings.iter().map(|sampling| inverse(sampling)));
        }
        let is_short =
            |samplings: &[&Sampling]| samplings.iter().any(|sampling| Shortlist::may_serve(sampling));
        self.with_scratch(&batch, wanted.len().min(LOGIT_ROWS), |scratch| {
            let mut rows = Vec::with_capacity(wanted.len());
            if is_step {
                let short = is_short(samplings);
                self.step(scratch, pages, &batch, short)?;
                self.take(scratch, short, samplings, &mut rows)?;
                return Ok(rows);
            }
            self.blocks(scratch, pages, &batch)?;
            for (wanted, samplings) in wanted.chunks(LOGIT_ROWS).zip(samplings.chunks(LOGIT_ROWS)) {
                self.head_of(scratch, wanted)?;
                let short = is_short(samplings);
                if short {
                    let inverse: Vec<f32> = samplings.iter().map(|sampling| inverse(sampling)).collect();
                    scratch.short.inverse.overwrite_at(0, &inverse)?;
                    self.shorten(scratch, samplings.len(), (&scratch.short.inverse).into())?;
                }
                self.take(scratch, short, samplings, &mut rows)?;
            }
            Ok(rows)
        })
    }

    /// Brings of `scratch.logits` to the host what the samplings need.
    fn take(
        &self,
        scratch: &Scratch,
        short: bool,
        samplings: &[&Sampling],
        rows: &mut Vec<Row>,
    ) -> Result<(), CardError> {
        let short = match short {
            true => self.shortlists(scratch, samplings)?,
            false => vec![None; samplings.len()],
        };
        for (i, (short, sampling)) in short.into_iter().zip(samplings).enumerate() {
            let enough = |short: &Shortlist| Shortlist::may_serve(sampling) && short.serves(sampling);
            rows.push(match short.filter(enough) {
                Some(short) => Row::Short(short),
                None => {
                    let mut logits = vec![0.0; self.sizes.vocab];
                    scratch.logits.read_part(4 * i * self.sizes.vocab, &mut logits)?;
                    Row::Whole(logits)
                }
            });
        }
        Ok(())
    }

    /// Tells the card of a batch and computes all blocks.
    pub(super) fn blocks(
        &self,
        scratch: &Scratch,
        pages: &mut CardPages,
        batch: &Batch,
    ) -> Result<(), CardError> {
        let pool = pages.ready(self)?;
        scratch.words.overwrite_at(0, &batch.words)?;
        self.layers(scratch, pool, batch)
    }

    /// Logits of the wanted rows.
    fn head_of(&self, scratch: &Scratch, wanted: &[usize]) -> Result<(), CardError> {
        let rows: Vec<u32> = wanted.iter().map(|row| *row as u32).collect();
        scratch.wanted.overwrite_at(0, &rows)?;
        self.head(scratch, wanted.len(), Some(&scratch.wanted))
    }

    /// Where a batch has its temperatures.
    pub(super) fn inverse_of(scratch: &Scratch, batch: &Batch) -> Arg {
        (scratch.words.address() + batch.at(Part::Inverse)).into()
    }

    /// Looks for the largest of the first `n` rows of `scratch.logits`, and sums them up with these temperatures.
    pub(super) fn shorten(&self, scratch: &Scratch, n: usize, inverse: Arg) -> Result<(), CardError> {
        let (segments, s) = (segments(self.sizes.vocab), &scratch.short);
        let (values, ids) = (s.found.address(), s.found.address() + 4 * (n * SHORT) as u64);
        let sums = ids + 4 * (n * SHORT) as u64;
        let none = Arg::from(0u64);
        let [first, second] = match segments {
            1 => [Arg::from(values), ids.into()],
            _ => [(&s.values).into(), (&s.ids).into()],
        };
        let sizes = [self.sizes.vocab, SEGMENT, SHORT].map(int);
        let arguments = [(&scratch.logits).into(), none, inverse, first, second, sums.into()];
        self.launch("shortlist", (segments, n), &[&arguments[..], &sizes].concat())?;
        if segments > 1 {
            let count = segments * SHORT;
            let arguments = [first, second, none, values.into(), ids.into(), none];
            self.launch("shortlist", (1, n), &[&arguments[..], &[count, count, SHORT].map(int)].concat())?;
        }
        Ok(())
    }

    /// What [`CardModel::shorten`] found; `None` for a row with numbers that are not finite.
    fn shortlists(
        &self,
        scratch: &Scratch,
        samplings: &[&Sampling],
    ) -> Result<Vec<Option<Shortlist>>, CardError> {
        let (n, segments) = (samplings.len(), segments(self.sizes.vocab));
        let mut words = vec![0u32; n * (2 * SHORT + 3 * segments)];
        scratch.short.found.read_part(0, &mut words)?;
        let (values, rest) = words.split_at(n * SHORT);
        let (ids, sums) = rest.split_at(n * SHORT);
        let shortlist = |i: usize| {
            let sums: Vec<[f32; 3]> = sums[3 * segments * i..][..3 * segments]
                .as_chunks()
                .0
                .iter()
                .map(|sums: &[u32; 3]| sums.map(f32::from_bits))
                .collect();
            if sums.iter().any(|sums| sums[2] > 0.0) {
                return None;
            }
            let top = sums.iter().fold(f32::NEG_INFINITY, |top, sums| top.max(sums[0]));
            let scaled = |high: f32| (f64::from(high - top) * f64::from(inverse(samplings[i]))).exp();
            let total = sums.iter().map(|[high, sum, _]| scaled(*high) * f64::from(*sum)).sum();
            let own = SHORT * i..SHORT * i + SHORT.min(self.sizes.vocab);
            let values = values[own.clone()].iter().map(|bits| f32::from_bits(*bits));
            Some(Shortlist::new(ids[own].iter().copied().zip(values).collect(), total))
        };
        Ok((0..n).map(shortlist).collect())
    }
}
