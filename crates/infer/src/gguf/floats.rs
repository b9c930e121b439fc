//! Matrices of floats: where they lie in the file, if they can be used so.

use super::{BlockType, Container, Error, Piece, unpermute};
use crate::weights::{FloatSource, HalfSource, Matrix, first};
use half::{bf16, f16};
use std::ops::Range;
use std::sync::Arc;

/// The matrix over the bytes `range` of the file. It is copied, in its own type, if its rows must be put in order or its
/// address is odd for it.
pub(super) fn matrix(
    file: &Arc<Container>,
    piece: &Piece,
    kind: BlockType,
    range: Range<usize>,
) -> Result<Matrix, Error> {
    let [rows, columns] = piece.shape;
    let address = file.all()[range.clone()].as_ptr().addr();
    let size = kind.block().1;
    let as_it_lies = piece.heads.is_none() && address.is_multiple_of(size) && cfg!(target_endian = "little");
    let mapped = Mapped { file: file.clone(), range: range.clone() };
    let bytes = &file.all()[range];
    let wrong =
        |at: usize| file.problem(format!("tensor `{}` holds NaN or infinity at element {at}", piece.name));
    if kind == BlockType::F32 {
        let source: Arc<dyn FloatSource> = match as_it_lies {
            true => Arc::new(mapped),
            false => {
                let read = |four: &[u8; 4]| f32::from_le_bytes(*four);
                let mut floats: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(read).collect();
                piece.heads.inspect(|heads| unpermute(&mut floats, *heads, columns));
                Arc::new(floats)
            }
        };
        let bad = first(source.floats(), |x| !x.is_finite());
        return bad
            .map_or(Ok(Matrix::F32 { source, range: 0..rows * columns, columns }), |at| Err(wrong(at)));
    }
    let source: Arc<dyn HalfSource> = match as_it_lies {
        true => Arc::new(mapped),
        false => {
            let read = |two: &[u8; 2]| u16::from_le_bytes(*two);
            let mut halves: Vec<u16> = bytes.as_chunks::<2>().0.iter().map(read).collect();
            piece.heads.inspect(|heads| unpermute(&mut halves, *heads, columns));
            Arc::new(halves)
        }
    };
    let brain = kind == BlockType::Bf16;
    let bad = match brain {
        true => first(source.halves(), |&bits| !bf16::from_bits(bits).is_finite()),
        false => first(source.halves(), |&bits| !f16::from_bits(bits).is_finite()),
    };
    bad.map_or(Ok(Matrix::Halves { source, brain, columns }), |at| Err(wrong(at)))
}

/// Numbers where they lie in the file, at an address that suits them.
struct Mapped {
    file: Arc<Container>,
    /// Bytes.
    range: Range<usize>,
}

impl FloatSource for Mapped {
    fn floats(&self) -> &[f32] {
        let bytes = &self.file.all()[self.range.clone()];
        // SAFETY: any bits are an f32, and the address is a multiple of 4 where this is made for floats.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 4) }
    }
}

impl HalfSource for Mapped {
    fn halves(&self) -> &[u16] {
        let bytes = &self.file.all()[self.range.clone()];
        // SAFETY: any bits are a u16, and the address is even where this is made for halves.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 2) }
    }
}
