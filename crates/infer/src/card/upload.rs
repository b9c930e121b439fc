//! Weights from files to a card.

use super::feed_forward::layers_in_e4m3;
use super::pass::int;
use super::{CardLayer, CardModel, FfnMatrix};
use crate::weights::{Matrix, Weights};
use half::bf16;
use herd_tensor::cuda::{Card, CardBuffer, CardError, DType, E4m3Products};
use rayon::prelude::*;
use std::sync::Mutex;

/// Numbers that are converted at a time.
const PIECE: usize = 4 << 20;

/// What a model is computed in: f32 if its weights or the settings say so, else bf16; which also goes with weights in e4m3.
pub(super) fn dtype(weights: &Weights, e4m3: bool) -> DType {
    let short = e4m3 || weights.layers.iter().any(|layer| !layer.qkv.is_f32());
    if short && !weights.exact { DType::Bf16 } else { DType::F32 }
}

/// The whole model. There is memory for it.
pub(super) fn model(
    card: Card,
    weights: &Weights,
    dtype: DType,
    e4m3: Option<E4m3Products>,
) -> Result<CardModel, CardError> {
    let matrix = |matrix: &Matrix| matrix_on(&card, matrix, dtype);
    let vector = |values: &[f32]| CardBuffer::from_host(&card, values);
    let bias = |values: &[f32]| (!values.is_empty()).then(|| vector(values)).transpose();
    let short = if e4m3.is_some() { layers_in_e4m3(weights.sizes.layers) } else { 0..0 };
    let layer = |(index, layer): (usize, &crate::weights::Layer)| {
        let ffn = |of: &Matrix| match short.contains(&index) {
            true => quantised(&card, of),
            false => Ok(FfnMatrix { values: matrix(of)?, scales: None }),
        };
        Ok(CardLayer {
            attn_norm: vector(&layer.attn_norm)?,
            qkv: matrix(&layer.qkv)?,
            qkv_bias: bias(&layer.qkv_bias)?,
            output: matrix(&layer.output)?,
            output_bias: bias(&layer.output_bias)?,
            ffn_norm: vector(&layer.ffn_norm)?,
            gate_up: ffn(&layer.gate_up)?,
            down: ffn(&layer.down)?,
        })
    };
    Ok(CardModel {
        dtype,
        sizes: weights.sizes,
        embed: matrix(&weights.embed)?,
        layers: weights.layers.iter().enumerate().map(layer).collect::<Result<_, CardError>>()?,
        norm: vector(&weights.norm)?,
        host_norm: weights.norm.clone(),
        head: weights.has_own_head().then(|| matrix(&weights.head)).transpose()?,
        rope: weights.rope.clone(),
        e4m3,
        converted: converted(weights, dtype),
        scratch: Mutex::default(),
        card,
    })
}

/// What the matrices of the blocks are in the file, if that is not what the card has.
fn converted(weights: &Weights, dtype: DType) -> Option<&'static str> {
    let parts = weights.layers.iter().flat_map(|l| [&l.qkv, &l.output, &l.gate_up, &l.down]);
    let mut parts = parts.flat_map(Matrix::parts);
    parts.find_map(|part| match (part, dtype) {
        (Matrix::Planes(_), _) => Some("quantised ones, which takes as much memory as a file in 16 bits"),
        (Matrix::Halves { brain: false, .. }, DType::Bf16) => Some("f16"),
        (Matrix::Halves { .. }, DType::F32) => Some("16 bits"),
        (Matrix::F32 { .. }, DType::Bf16) => Some("f32"),
        _ => None,
    })
}

/// A matrix in the type of activations.
fn matrix_on(card: &Card, matrix: &Matrix, dtype: DType) -> Result<CardBuffer, CardError> {
    let (rows, columns) = (matrix.rows(), matrix.columns());
    let buffer = CardBuffer::stale(card, rows * columns * dtype.size())?;
    let mut at = 0;
    for part in matrix.parts() {
        match (part, dtype) {
            (Matrix::Halves { source, brain: true, .. }, DType::Bf16) => {
                buffer.overwrite_at(at, source.halves())?
            }
            (Matrix::F32 { source, range, .. }, DType::F32) => {
                buffer.overwrite_at(at, &source.floats()[range.clone()])?;
            }
            _ => convert(&buffer, at, part, dtype)?,
        }
        at += part.rows() * columns * dtype.size();
    }
    Ok(buffer)
}

/// Rows of `part` as numbers of another type, to byte `at` of the buffer.
fn convert(buffer: &CardBuffer, at: usize, part: &Matrix, dtype: DType) -> Result<(), CardError> {
    let (rows, columns) = (part.rows(), part.columns());
    let at_once = (PIECE / columns).max(1);
    for first in (0..rows).step_by(at_once) {
        let count = at_once.min(rows - first);
        let floats = floats(part, first, count);
        let at = at + first * columns * dtype.size();
        match dtype {
            DType::F32 => buffer.overwrite_at(at, &floats)?,
            DType::Bf16 => {
                let rounded: Vec<u16> = floats.par_iter().map(|x| bf16::from_f32(*x).to_bits()).collect();
                buffer.overwrite_at(at, &rounded)?;
            }
        }
    }
    Ok(())
}

/// Rows of `part`.
fn floats(part: &Matrix, first: usize, count: usize) -> Vec<f32> {
    let mut floats = vec![0f32; count * part.columns()];
    let rows = floats.par_chunks_mut(part.columns()).enumerate();
    rows.for_each(|(i, row)| part.copy_row(first + i, row));
    floats
}

/// A matrix in e4m3, each row with a scale without bound; rounded by the card, once, from what the file holds.
fn quantised(card: &Card, matrix: &Matrix) -> Result<FfnMatrix, CardError> {
    let (rows, columns) = (matrix.rows(), matrix.columns());
    let [values, scales] = [rows * columns, 4 * rows].map(|bytes| CardBuffer::stale(card, bytes));
    let (values, scales) = (values?, scales?);
    let at_once = (PIECE / columns).max(1);
    let piece = CardBuffer::stale(card, 4 * at_once.min(rows) * columns)?;
    let mut at = 0;
    for part in matrix.parts() {
        for first in (0..part.rows()).step_by(at_once) {
            let count = at_once.min(part.rows() - first);
            let numbers = first * columns..(first + count) * columns;
            let kernel = match part {
                Matrix::Halves { source, brain: true, .. } => {
                    piece.overwrite_at(0, &source.halves()[numbers])?;
                    "quantise_rows"
                }
                Matrix::F32 { source, range, .. } => {
                    piece.overwrite_at(0, &source.floats()[range.clone()][numbers])?;
                    "quantise_rows_f32"
                }
                _ => {
                    piece.overwrite_at(0, &floats(part, first, count))?;
                    "quantise_rows_f32"
                }
            };
            let to = [values.address() + (at * columns) as u64, scales.address() + 4 * at as u64];
            let [codes, of_rows] = to.map(Into::into);
            let arguments = [(&piece).into(), codes, of_rows, int(columns), f32::INFINITY.into()];
            card.launch(DType::Bf16, kernel, (count, 1), &arguments)?;
            at += count;
        }
    }
    Ok(FfnMatrix { values, scales: Some(scales) })
}
