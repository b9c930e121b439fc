//! Opens a model with its weights as they are in the file: floats in place, quantised ones repacked for the kernels, now
//! or later.

use super::blocks::BlockType;
use super::container::Container;
use super::{Piece, Place, config, locate, pieces, tensor};
use super::{floats, numbers};
use crate::Error;
use crate::kernels::planes::{BLOCK, Shape};
use crate::kernels::{Arena, LANES, PanelSource, Planes};
use crate::weights::{Layer, Matrix, Sizes, Weights};
use herd_model::{Llama, LlamaConfig};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// The weights of a model of architecture `llama`, without making floats of quantised ones.
///
/// # Errors
/// As for [`super::load`].
pub(super) fn weights(file: &Arc<Container>) -> Result<(LlamaConfig, Weights), Error> {
    let config = config(file)?;
    super::check_biases(file, &config)?;
    let mut planned = Vec::new();
    let mut bytes = 0;
    // All sizes are checked against the file before memory is taken for them.
    for piece in pieces(&config) {
        let (kind, _) = locate(file, &piece.name, piece.shape)?;
        let [rows, columns] = piece.shape;
        let room = Shape::of(kind).filter(|_| rows > 1).map_or(0, |shape| shape.matrix(rows, columns));
        // Rows of an embedding are read one by one: it is never packed, unless it is the output's matrix too.
        let kept = matches!(piece.place, Place::Embed) && !config.tie_word_embeddings;
        planned.push((piece, kind, if kept { Err(room) } else { Ok(bytes) }));
        bytes += if kept { 0 } else { room };
    }
    let arena = |bytes: usize| {
        let memory = |e: std::io::Error| file.problem(format!("no memory for {bytes} bytes of weights: {e}"));
        Arena::new(bytes).map(Arc::new).map_err(memory)
    };
    let packed = arena(bytes)?;
    let llama = Llama::new(config);
    let c = &llama.config;
    let mut parts: Vec<(Place, Matrix)> = Vec::new();
    let mut vectors: Vec<(Place, Vec<f32>)> = Vec::new();
    for (piece, kind, place) in planned {
        if piece.shape[0] == 1 {
            let mut vector = vec![0.0; piece.shape[1]];
            tensor(file, &piece.name, piece.shape, &mut vector)?;
            vectors.push((piece.place, vector));
            continue;
        }
        let matrix = match place {
            Ok(at) => matrix(file, &piece, kind, &packed, at)?,
            Err(room) => matrix(file, &piece, kind, &arena(room)?, 0)?,
        };
        parts.push((piece.place, matrix));
    }
    // Every parameter of the model has its pieces in `pieces`.
    let place = |place: Place| place.id(&llama);
    let mut stacked = |wanted: herd_tensor::ParamId| {
        let parts = parts.extract_if(.., |(p, _)| place(*p) == wanted).map(|(_, m)| m);
        Matrix::stacked(parts.collect())
    };
    let mut vector = |wanted: herd_tensor::ParamId| {
        vectors.extract_if(.., |(p, _)| place(*p) == wanted).flat_map(|(_, v)| v).collect::<Vec<f32>>()
    };
    let mut layers = Vec::with_capacity(llama.layers.len());
    for (i, layer) in llama.layers.iter().enumerate() {
        let (qkv_bias, output_bias) = super::biases(file, c, i)?;
        layers.push(Layer {
            attn_norm: vector(layer.attn_norm),
            qkv: stacked(layer.wqkv),
            qkv_bias,
            output: stacked(layer.wo),
            output_bias,
            ffn_norm: vector(layer.ffn_norm),
            gate_up: stacked(layer.w_gate_up),
            down: stacked(layer.w_down),
        });
    }
    let embed = stacked(llama.embed);
    let head = (!c.tie_word_embeddings).then(|| stacked(llama.head()));
    let mut weights = Weights::new(Sizes::of(c), embed, layers, vector(llama.norm), head, llama.rope.clone());
    weights.arena = Some(packed);
    Ok((llama.config, weights))
}

/// The rows of a quantised matrix where they lie in the file.
struct FileRows {
    file: Arc<Container>,
    /// Bytes of the file.
    range: Range<usize>,
    kind: BlockType,
    rows: usize,
    row_bytes: usize,
    /// Rows of a head if they are permuted.
    head: Option<usize>,
    /// Stands for rows that a last panel does not have.
    absent: Vec<u8>,
}

impl FileRows {
    /// The row of the file that becomes row `row`: query and key rows are put back into Hugging Face's order.
    fn source_row(&self, row: usize) -> usize {
        let Some(head) = self.head else { return row };
        let within = row % head;
        row - within + within % (head / 2) * 2 + within / (head / 2)
    }

    fn bytes(&self) -> &[u8] {
        &self.file.all()[self.range.clone()]
    }

    /// Whether all scales are finite.
    fn is_finite(&self) -> bool {
        const BLOCKS: usize = 4096;
        let (kind, size) = (self.kind, self.kind.block().1);
        let finite = |block: &[u8]| {
            let (scale, min) = numbers::level(kind, block);
            scale.is_finite() && min.is_finite()
        };
        self.bytes().par_chunks(size * BLOCKS).all(|blocks| blocks.chunks_exact(size).all(finite))
    }
}

impl PanelSource for FileRows {
    fn fill(&self, panel: usize, out: &mut [u8]) {
        let bytes = self.bytes();
        let mut rows = [self.absent.as_slice(); LANES];
        for (lane, row) in rows.iter_mut().zip(panel * LANES..self.rows) {
            *lane = &bytes[self.source_row(row) * self.row_bytes..][..self.row_bytes];
        }
        fill_panel(self.kind, &rows, out);
    }

    fn forget(&self) {
        self.file.forget(self.bytes());
    }
}

/// Puts 16 rows of blocks into their panel.
fn fill_panel(kind: BlockType, rows: &[&[u8]; LANES], panel: &mut [u8]) {
    // One copy of the code for each format.
    macro_rules! of_each {
        ($($format:ident)*) => {
            match kind {
                $(BlockType::$format => fill(BlockType::$format, rows, panel),)*
                BlockType::F32 | BlockType::F16 | BlockType::Bf16 => {}
            }
        };
    }
    of_each!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K)
}

#[inline(always)]
fn fill(kind: BlockType, rows: &[&[u8]; LANES], panel: &mut [u8]) {
    let Some(shape) = Shape::of(kind) else { return };
    let (weights, size) = kind.block();
    let (subs, blocks) = (weights / BLOCK, rows[0].len() / size);
    let (numbers, scales) = panel.split_at_mut(blocks * subs * shape.numbers());
    let numbers = numbers.chunks_exact_mut(subs * shape.numbers());
    let mut words = [[0; 8]; LANES];
    for (b, (numbers, record)) in numbers.zip(scales.chunks_exact_mut(shape.record())).enumerate() {
        let block = |lane: usize| &rows[lane][b * size..][..size];
        for lane in 0..LANES {
            let (scale, min) = numbers::level(kind, block(lane));
            record[lane * 2..][..2].copy_from_slice(&scale.to_le_bytes());
            if shape.min {
                record[2 * LANES + lane * 2..][..2].copy_from_slice(&min.to_le_bytes());
            }
        }
        for (sub, numbers) in numbers.chunks_exact_mut(shape.numbers()).enumerate() {
            for (lane, words) in words.iter_mut().enumerate() {
                *words = numbers::words(kind, block(lane), sub);
            }
            shape.put_words(&words, numbers);
            if !shape.two_levels {
                continue;
            }
            let factors = &mut record[shape.scale_head() + sub * shape.scale_factors()..];
            for half in 0..shape.scales {
                for lane in 0..LANES {
                    let (scale, min) = numbers::factors(kind, block(lane), 2 * sub + half);
                    factors[half * LANES + lane] = scale as u8;
                    if shape.min {
                        factors[(shape.scales + half) * LANES + lane] = min as u8;
                    }
                }
            }
        }
    }
}

/// A matrix over the rows or the floats of the file.
fn matrix(
    file: &Arc<Container>,
    piece: &Piece,
    kind: BlockType,
    arena: &Arc<Arena>,
    at: usize,
) -> Result<Matrix, Error> {
    let [rows, columns] = piece.shape;
    let (_, bytes) = locate(file, &piece.name, piece.shape)?;
    let start = bytes.as_ptr().addr() - file.all().as_ptr().addr();
    let range = start..start + bytes.len();
    if Shape::of(kind).is_some() {
        let row_bytes = bytes.len() / rows;
        let source = FileRows {
            file: file.clone(),
            range,
            kind,
            rows,
            row_bytes,
            head: piece.heads.map(|heads| rows / heads),
            absent: vec![0; row_bytes],
        };
        if !source.is_finite() {
            return Err(file.problem(format!("tensor `{}` has a scale that is NaN or infinite", piece.name)));
        }
        let planes = Planes::new(kind, (rows, columns), Box::new(source), arena, at);
        return planes.map(Matrix::Planes).ok_or_else(|| {
            file.problem(format!("tensor `{}`: rows of {columns} are not whole blocks", piece.name))
        });
    }
    floats::matrix(file, piece, kind, range)
}

#[cfg(test)]
mod tests;
