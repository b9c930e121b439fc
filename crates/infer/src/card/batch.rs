//! What the kernels are told of a batch: positions, places, lists of pages, in one upload.

use super::CardModel;
use crate::cache::PAGE;
use crate::forward::Input;
use herd_tensor::cuda::DType;

const _: () = assert!(PAGE == 16, "kernels/paged.cu has pages of 16 positions");

/// Spans of up to so many rows are computed row by row, their past shared among blocks; longer ones by tiles.
const SINGLE_ROWS: usize = 8;
/// Rows of a tile: `ROWS` of the kernels.
const TILE_ROWS: usize = 64;

/// Places that are not written.
const NOWHERE: u32 = u32::MAX;

/// A batch as numbers of 32 bits, part behind part. [`Batch::at`] tells where each begins.
pub(super) struct Batch {
    pub rows: usize,
    /// Rows that are computed one by one.
    pub singles: usize,
    pub tiles: usize,
    pub words: Vec<u32>,
    head_dim: usize,
}

/// A part of a [`Batch`].
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// Token of each row.
    Ids,
    /// Position of each row in its sequence.
    Positions,
    /// Where keys and values of each row go: 16 times the page, and the slot in it.
    Places,
    /// Where the list of pages of each row begins.
    Tables,
    /// The rows that are computed one by one.
    Singles,
    /// What the logits of each row are multiplied with for their sum: 1 / temperature, f32.
    Inverse,
    /// Cosines and sines of each row, f32.
    Angles,
    /// First row, rows, position of the first, and where the list of pages begins, of each tile.
    Tiles,
    /// Lists of pages of all sequences.
    Pages,
}

impl Batch {
    pub fn new(model: &CardModel, input: Input<'_>) -> Self {
        let Input { tokens, spans, .. } = input;
        let (n, head_dim) = (tokens.len(), model.sizes.head_dim);
        let tiled = model.dtype == DType::Bf16 && matches!(head_dim, 64 | 128);
        let (mut positions, mut places, mut tables) = (vec![NOWHERE; n], vec![NOWHERE; n], vec![0; n]);
        let (mut singles, mut tiles, mut pages) = (Vec::with_capacity(n), Vec::new(), Vec::new());
        let mut angles = vec![0; n * head_dim];
        for span in spans {
            let (table, count) = (pages.len() as u32, span.rows.len());
            pages.extend_from_slice(&span.pages[..(span.start + count).div_ceil(PAGE)]);
            for (row, position) in span.rows.clone().zip(span.start..) {
                positions[row] = position as u32;
                places[row] = span.pages[position / PAGE] * PAGE as u32 + (position % PAGE) as u32;
                tables[row] = table;
                let (cos, sin) = model.rope.row(position);
                let row = &mut angles[row * head_dim..(row + 1) * head_dim];
                row.iter_mut().zip(cos.iter().chain(sin)).for_each(|(to, angle)| *to = angle.to_bits());
            }
            if !tiled || count <= SINGLE_ROWS {
                singles.extend(span.rows.clone().map(|row| row as u32));
                continue;
            }
            for first in (0..count).step_by(TILE_ROWS) {
                let [row, rows, position] =
                    [span.rows.start + first, TILE_ROWS.min(count - first), span.start + first];
                tiles.extend([row as u32, rows as u32, position as u32, table]);
            }
        }
        let (single, tile) = (singles.len(), tiles.len() / 4);
        singles.resize(n, 0);
        let inverse = vec![1f32.to_bits(); n];
        let words =
            [tokens, &positions, &places, &tables, &singles, &inverse, &angles, &tiles, &pages].concat();
        Self { rows: n, singles: single, tiles: tile, words, head_dim }
    }

    /// Sets [`Part::Inverse`].
    pub fn temper(&mut self, inverse: impl Iterator<Item = f32>) {
        let start = self.at(Part::Inverse) as usize / 4;
        self.words[start..start + self.rows].iter_mut().zip(inverse).for_each(|(to, x)| *to = x.to_bits());
    }

    /// Where a part begins in bytes.
    pub fn at(&self, part: Part) -> u64 {
        let n = self.rows;
        let words = match part {
            Part::Ids => 0,
            Part::Positions => n,
            Part::Places => 2 * n,
            Part::Tables => 3 * n,
            Part::Singles => 4 * n,
            Part::Inverse => 5 * n,
            Part::Angles => 6 * n,
            Part::Tiles => 6 * n + n * self.head_dim,
            Part::Pages => 6 * n + n * self.head_dim + 4 * self.tiles,
        };
        4 * words as u64
    }
}
