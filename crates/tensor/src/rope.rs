//! Rotary position embedding (arXiv 2104.09864) in the half-split layout of Hugging Face's Llama: value `j` of a head is
//! rotated with value `j + head_dim / 2` by the angle `position * theta^(-2j / head_dim)`.

use crate::cuda::{Cached, Card, CardBuffer, expect};
use std::sync::{Arc, OnceLock};

/// Positions whose angles are computed together. A context has up to 128K of them, of which most runs need few: a model
/// would take longer to open for them than for its weights.
const STRETCH: usize = 64;

/// Llama 3.1's change of the RoPE frequencies for contexts beyond the original one (SPEC MODEL-1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Scaling {
    /// Low frequencies are divided by this.
    pub factor: f64,
    /// Wavelengths above `original_context / low_freq_factor` are scaled fully.
    pub low_freq_factor: f64,
    /// Wavelengths below `original_context / high_freq_factor` are left alone.
    pub high_freq_factor: f64,
    /// Context length of the model before the change, in tokens.
    pub original_context: usize,
}

impl Llama3Scaling {
    fn apply(&self, frequency: f64) -> f64 {
        let wavelength = std::f64::consts::TAU / frequency;
        let context = self.original_context as f64;
        if wavelength < context / self.high_freq_factor {
            frequency
        } else if wavelength > context / self.low_freq_factor {
            frequency / self.factor
        } else {
            let smooth = (context / wavelength - self.low_freq_factor)
                / (self.high_freq_factor - self.low_freq_factor);
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}

#[derive(Debug)]
struct TableData {
    head_dim: usize,
    positions: usize,
    /// Angle of one position, for each pair of values.
    frequencies: Vec<f64>,
    /// Filled when one of their positions is first asked for: rows of cosines, then of sines, each `[head_dim / 2]`.
    stretches: Box<[OnceLock<Vec<f32>>]>,
    on_card: Cached<CardAngles>,
}

/// Cosines and sines of the first positions on a card, each f32 `[positions, head_dim / 2]`.
pub(crate) struct CardAngles {
    positions: usize,
    pub cos: CardBuffer,
    pub sin: CardBuffer,
}

/// Cosines and sines for every position up to a maximum, computed where they are needed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RopeTable {
    data: Arc<TableData>,
}

impl RopeTable {
    /// The table for `positions` positions (0 up to but not including `positions`). Panics if `head_dim` is odd.
    pub fn new(head_dim: usize, theta: f64, scaling: Option<Llama3Scaling>, positions: usize) -> Self {
        assert!(head_dim > 0 && head_dim.is_multiple_of(2), "rope: head_dim {head_dim} must be even");
        let half = head_dim / 2;
        let frequencies: Vec<f64> = (0..half)
            .map(|j| {
                let plain = theta.powf(-2.0 * j as f64 / head_dim as f64);
                scaling.map_or(plain, |s| s.apply(plain))
            })
            .collect();
        let stretches = (0..positions.div_ceil(STRETCH)).map(|_| OnceLock::new()).collect();
        let on_card = Cached::default();
        Self { data: Arc::new(TableData { head_dim, positions, frequencies, stretches, on_card }) }
    }

    /// Width of the heads it rotates.
    pub fn head_dim(&self) -> usize {
        self.data.head_dim
    }

    /// Number of positions it covers.
    pub fn positions(&self) -> usize {
        self.data.positions
    }

    /// Cosines and sines of one position, each `[head_dim / 2]`. Panics if it is beyond the table.
    pub fn row(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.data.head_dim / 2;
        let stretch =
            self.data.stretches[position / STRETCH].get_or_init(|| self.data.stretch(position / STRETCH));
        stretch[position % STRETCH * 2 * half..][..2 * half].split_at(half)
    }

    /// The rotation of a batch whose row `i` is at `positions[i]`. Panics if a position is beyond the table.
    pub fn at(&self, positions: &[u32]) -> Rope {
        if let Some((row, position)) =
            positions.iter().enumerate().find(|(_, p)| **p as usize >= self.data.positions)
        {
            panic!("rope: row {row} is at position {position}, the table ends at {}", self.data.positions);
        }
        Rope { table: self.clone(), positions: positions.into(), on_card: Cached::default() }
    }
}

impl TableData {
    fn stretch(&self, index: usize) -> Vec<f32> {
        let positions = index * STRETCH..((index + 1) * STRETCH).min(self.positions);
        let mut rows = vec![0.0; positions.len() * self.head_dim];
        for (position, row) in positions.zip(rows.chunks_exact_mut(self.head_dim)) {
            let (cos, sin) = row.split_at_mut(self.head_dim / 2);
            for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(&self.frequencies) {
                let (s, c) = (position as f64 * frequency).sin_cos();
                (*cos, *sin) = (c as f32, s as f32);
            }
        }
        rows
    }
}

/// A [`RopeTable`] with the positions of a batch's rows. Cheap to clone.
#[derive(Clone)]
pub struct Rope {
    table: RopeTable,
    positions: Arc<[u32]>,
    on_card: Cached<CardBuffer>,
}

impl Rope {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.positions.len()
    }

    /// Width of the heads it rotates.
    pub fn head_dim(&self) -> usize {
        self.table.head_dim()
    }

    /// Cosines and sines of batch row `row`, each `[head_dim / 2]`.
    pub fn row(&self, row: usize) -> (&[f32], &[f32]) {
        self.table.row(self.positions[row] as usize)
    }

    /// The table on a card, and u32 `[n]`, the positions of the rows in it. The table is uploaded when a position is met that
    /// it has not got there yet.
    pub(crate) fn on_card(&self, card: &Card) -> (Arc<CardAngles>, Arc<CardBuffer>) {
        let needed = self.positions.iter().max().map_or(0, |last| *last as usize + 1);
        let data = &self.table.data;
        let angles = data.on_card.get_if(
            card,
            |angles| angles.positions >= needed,
            || {
                let positions = needed.next_power_of_two().min(data.positions);
                let rows = (0..positions).map(|position| self.table.row(position));
                let (cos, sin): (Vec<&[f32]>, Vec<&[f32]>) = rows.unzip();
                let [cos, sin] = [cos, sin].map(|rows| expect(CardBuffer::from_host(card, &rows.concat())));
                CardAngles { positions, cos, sin }
            },
        );
        let positions = self.on_card.get_if(card, CardBuffer::is_current, || {
            expect(CardBuffer::input(card, &self.positions, self.positions.len()))
        });
        (angles, positions)
    }
}
