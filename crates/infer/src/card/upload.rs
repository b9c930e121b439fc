//! Weights from files to a card.

use super::{CardLayer, CardModel};
use crate::weights::{Matrix, Weights};
use half::bf16;
use herd_tensor::cuda::{Card, CardBuffer, CardError, DType};
use rayon::prelude::*;
use std::sync::Mutex;

/// Numbers that are converted at a time.
const PIECE: usize = 4 << 20;

/// What a model is computed in: f32 if its weights or the settings say so, else bf16.
pub(super) fn dtype(weights: &Weights) -> DType {
    let short = weights.layers.iter().any(|layer| !layer.qkv.is_f32());
    if short && !weights.exact { DType::Bf16 } else { DType::F32 }
}

/// The whole model. There is memory for it.
pub(super) fn model(card: Card, weights: &Weights, dtype: DType) -> Result<CardModel, CardError> {
    let matrix = |matrix: &Matrix| matrix_on(&card, matrix, dtype);
    let vector = |values: &[f32]| CardBuffer::from_host(&card, values);
    let bias = |values: &[f32]| (!values.is_empty()).then(|| vector(values)).transpose();
    let layer = |layer: &crate::weights::Layer| {
        Ok(CardLayer {
            attn_norm: vector(&layer.attn_norm)?,
            qkv: matrix(&layer.qkv)?,
            qkv_bias: bias(&layer.qkv_bias)?,
            output: matrix(&layer.output)?,
            output_bias: bias(&layer.output_bias)?,
            ffn_norm: vector(&layer.ffn_norm)?,
            gate_up: matrix(&layer.gate_up)?,
            down: matrix(&layer.down)?,
        })
    };
    Ok(CardModel {
        dtype,
        sizes: weights.sizes,
        embed: matrix(&weights.embed)?,
        layers: weights.layers.iter().map(layer).collect::<Result<_, CardError>>()?,
        norm: vector(&weights.norm)?,
        host_norm: weights.norm.clone(),
        head: weights.has_own_head().then(|| matrix(&weights.head)).transpose()?,
        rope: weights.rope.clone(),
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
        let mut floats = vec![0f32; count * columns];
        floats.par_chunks_mut(columns).enumerate().for_each(|(i, row)| part.copy_row(first + i, row));
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
