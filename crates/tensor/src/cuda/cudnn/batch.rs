//! Segments as cuDNN takes them: sequences of equal length at equal distances, or packed ones with a list of their lengths.

use super::attention::Problem;
use super::graph::Role;
use super::plan::Places;
use crate::cuda::{Card, CardBuffer, CardError, expect};
use crate::{AttentionShape, Segments};
use std::sync::Arc;

/// The fewest sequences, and the fewest rows of the longest one, that a plan for packed sequences is made for. Both are
/// rounded up to powers of two, so that a few plans serve all batches of a run.
const LEAST: [usize; 2] = [8, 128];

/// Up to this version lengths that are not multiples of 128 need a list of lengths: 9.15.0.
const ANY_LENGTH_AFTER: usize = 91_500;

/// How sequences lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Even { batch: usize, length: usize },
    Packed { batch: usize, longest: usize },
}

impl Layout {
    /// `None` if cuDNN cannot take them: some see a shared prefix, or offsets would not fit 32 bits.
    pub fn of(segments: &Segments, shape: AttentionShape, version: usize) -> Option<Self> {
        let list = segments.list();
        let widest = segments.rows().checked_mul(shape.packed_width())?;
        if list.iter().any(|segment| !segment.prefix.is_empty()) || i32::try_from(widest).is_err() {
            return None;
        }
        let lengths = list.iter().map(|segment| segment.rows.len());
        let (longest, shortest) = (lengths.clone().max()?, lengths.min()?);
        let plain = longest > 1 && (longest.is_multiple_of(128) || version > ANY_LENGTH_AFTER);
        Some(match longest == shortest && plain {
            true => Layout::Even { batch: list.len(), length: longest },
            false => Layout::Packed {
                batch: list.len().next_power_of_two().max(LEAST[0]),
                longest: longest.next_power_of_two().max(LEAST[1]),
            },
        })
    }

    pub fn is_packed(self) -> bool {
        matches!(self, Layout::Packed { .. })
    }

    pub fn problem(self, shape: AttentionShape) -> Problem {
        let AttentionShape { heads, kv_heads, head_dim } = shape;
        let (Layout::Even { batch, length } | Layout::Packed { batch, longest: length }) = self;
        let (row, out_row) = (shape.packed_width(), heads * head_dim);
        Problem { batch, heads, kv_heads, length, head_dim, row, out_row, packed: self.is_packed() }
    }
}

/// Lengths and offsets of packed sequences, on a card.
pub(crate) struct CardBatch {
    shape: AttentionShape,
    values: CardBuffer,
    /// Bytes from one list to the next: lengths, then offsets in `qkv`, the output, statistics, keys' gradients.
    stride: u64,
}

impl CardBatch {
    fn new(card: &Card, segments: &Segments, shape: AttentionShape, batch: usize) -> Result<Self, CardError> {
        let ends: Vec<usize> = segments.list().iter().map(|segment| segment.rows.end).collect();
        let room = (batch + 1).next_multiple_of(64);
        let mut values = Vec::with_capacity(5 * room);
        values.extend(segments.list().iter().map(|segment| segment.rows.len() as i32));
        let out_row = shape.heads * shape.head_dim;
        for factor in [shape.packed_width(), out_row, shape.heads, shape.kv_heads * shape.head_dim] {
            values.resize(values.len().next_multiple_of(room), 0);
            let starts = std::iter::once(0).chain(ends.iter().copied());
            // Sequences of no rows begin at the end.
            let starts = starts.chain(std::iter::repeat(segments.rows())).take(batch + 1);
            values.extend(starts.map(|row| (row * factor) as i32));
        }
        values.resize(5 * room, 0);
        let stride = (room * size_of::<i32>()) as u64;
        Ok(Self { shape, values: CardBuffer::input(card, &values, values.len())?, stride })
    }

    pub(super) fn place(&self, places: &mut Places) {
        let list = |index: u64| self.values.address() + index * self.stride;
        places.set(Role::LengthsQ, list(0)).set(Role::LengthsK, list(0)).set(Role::OffsetsQkv, list(1));
        places.set(Role::OffsetsOut, list(2)).set(Role::OffsetsStats, list(3)).set(Role::OffsetsKv, list(4));
    }
}

impl Segments {
    /// Their lengths and offsets for heads of this shape, uploaded once, or once in each pass; `None` if they need no list.
    pub(super) fn batch_on(
        &self,
        card: &Card,
        shape: AttentionShape,
        layout: Layout,
    ) -> Option<Arc<CardBatch>> {
        let Layout::Packed { batch, .. } = layout else { return None };
        let is_it = |made: &CardBatch| made.shape == shape && made.values.is_current();
        Some(self.batch_on_card.get_if(card, is_it, || expect(CardBatch::new(card, self, shape, batch))))
    }
}

#[cfg(test)]
mod tests {
    use super::Layout;
    use crate::{AttentionShape, Segment, Segments};

    #[test]
    fn sequences_are_even_packed_or_not_for_cudnn() {
        let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 64 };
        let of = |segments: &Segments, version| Layout::of(segments, shape, version);
        let even = Segments::documents(&[200, 200]);
        assert_eq!(of(&even, 91_501), Some(Layout::Even { batch: 2, length: 200 }));
        // A version that takes other lengths than multiples of 128 only with a list.
        assert_eq!(of(&even, 91_500), Some(Layout::Packed { batch: 8, longest: 256 }));
        assert_eq!(of(&Segments::causal(256), 91_500), Some(Layout::Even { batch: 1, length: 256 }));
        let uneven = Segments::documents(&[3, 1000, 9, 1, 1, 1, 1, 1, 1]);
        assert_eq!(of(&uneven, 92_800), Some(Layout::Packed { batch: 16, longest: 1024 }));
        assert_eq!(of(&Segments::causal(1), 92_800), Some(Layout::Packed { batch: 8, longest: 128 }));
        let shared =
            Segments::new(vec![Segment { rows: 0..5, prefix: 0..0 }, Segment { rows: 5..9, prefix: 0..5 }]);
        assert_eq!(of(&shared, 92_800), None);
        assert_eq!(of(&Segments::causal(1 << 23), 92_800), None, "offsets beyond 32 bits");
    }
}
