//! FP8 in e4m3 (a sign, 4 bits of exponent, 3 of mantissa, 448 at most), rows with a scale each: what a card can do with it.
//! The numbers themselves are `kernels/e4m3.cu`'s.
//!
//! cuBLASLt multiplies operands in e4m3 from Ada (8.9) on. It scales rows and columns itself on Hopper (9.0) alone, from version
//! 12.9; elsewhere what follows a product has to. Which of it is so, and right, is tried out on the card with one small product.

use super::{Card, CardBuffer, CardError, DType, Element, Kind, Library, Mat, Product, Scales};
use half::bf16;

/// The capability from which on cards have products in e4m3, as in `sm_89`.
const LEAST_CAPABILITY: u32 = 89;
/// A small product: `m`, `n`, `k`.
const SIZES: (usize, usize, usize) = (64, 128, 256);

/// How a card's library multiplies rows in e4m3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum E4m3Products {
    /// With scales, into bf16, or onto sums in f32.
    ScaledAndAdded,
    /// With scales, into bf16.
    Scaled,
    /// Into bf16; the scales are left to the caller.
    Unscaled,
}

impl E4m3Products {
    /// Whether [`Product::scales`] may be set.
    pub fn scales(self) -> bool {
        self != E4m3Products::Unscaled
    }

    /// Whether a scaled product may be added to f32.
    pub fn adds(self) -> bool {
        self == E4m3Products::ScaledAndAdded
    }
}

/// The number that a code stands for; NaN for 0x7f and 0xff.
pub fn decode_e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
    let magnitude = match exponent {
        0 => mantissa * 2f32.powi(-6),
        15 if code & 7 == 7 => f32::NAN,
        _ => (1.0 + mantissa) * 2f32.powi(exponent - 7),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

impl Card {
    /// How this card's cuBLASLt multiplies rows in e4m3.
    ///
    /// # Errors
    /// Why it does not, and what to do, as text; or a card that failed.
    pub fn e4m3_products(&self) -> Result<Result<E4m3Products, String>, CardError> {
        let (name, architecture) = (self.name(), self.architecture());
        let capability: u32 = architecture.trim_start_matches("sm_").parse().unwrap_or(0);
        if capability < LEAST_CAPABILITY {
            return Ok(Err(format!(
                "fp8 needs a card of compute capability 8.9 or later (Ada, Hopper, Blackwell), and {name} is {architecture}"
            )));
        }
        let [scaled, added, unscaled] = [
            (true, DType::Bf16, E4m3Products::Scaled),
            (true, DType::F32, E4m3Products::ScaledAndAdded),
            (false, DType::Bf16, E4m3Products::Unscaled),
        ];
        let refused = match self.attempt(scaled.0, scaled.1)? {
            Ok(()) if self.attempt(added.0, added.1)?.is_ok() => return Ok(Ok(added.2)),
            Ok(()) => return Ok(Ok(scaled.2)),
            Err(refused) => refused,
        };
        if self.attempt(unscaled.0, unscaled.1)?.is_ok() {
            return Ok(Ok(unscaled.2));
        }
        let library = Library::open(Kind::CublasLt).ok().and_then(|library| library.version());
        let library = library.map_or("cuBLASLt".into(), |version| format!("cuBLASLt {version}"));
        Ok(Err(format!(
            "{library} does not multiply numbers in e4m3 on {name} ({architecture}): {refused}; \
             `pip install -U nvidia-cublas` brings one that does, from 12.9 on"
        )))
    }

    /// Tries a small product, with scales or without; in f32 it is added to what is there.
    fn attempt(&self, scaled: bool, out: DType) -> Result<Result<(), String>, CardError> {
        let (m, n, k) = SIZES;
        // Every code but NaN, in an order without period; scales all of their own.
        let code = |i: usize| ((i * 37 + i * i / 11 + i * i * i % 7) % 127 + 128 * (i % 2)) as u8;
        let codes = |from: usize, count: usize| (from..from + count).map(code).collect::<Vec<u8>>();
        let (a, b) = (codes(0, m * k), codes(m * k, n * k));
        let factors = |count: usize, step: f32| (0..count).map(|i| step * (1 + i) as f32).collect::<Vec<_>>();
        let [rows, columns] = [factors(m, 0.01), factors(n, 0.003)];
        let before: Vec<f32> = (0..m * n).map(|i| i as f32 - 100.0).collect();
        let [on_a, on_b] = [CardBuffer::from_host(self, &a)?, CardBuffer::from_host(self, &b)?];
        let [on_rows, on_columns] =
            [CardBuffer::from_host(self, &rows)?, CardBuffer::from_host(self, &columns)?];
        let is_f32 = out == DType::F32;
        let result = match is_f32 {
            true => CardBuffer::from_host(self, &before)?,
            false => CardBuffer::from_host(self, &vec![0x7fffu16; m * n])?,
        };
        let asked = self.product(&Product {
            sizes: SIZES,
            a: Mat::rows(on_a.address(), Element::E4m3, k),
            b: Mat::rows(on_b.address(), Element::E4m3, k).t(),
            out: Mat::rows(result.address(), out, n),
            add: is_f32.then_some(result.address()),
            scales: scaled.then_some(Scales { rows: on_rows.address(), columns: on_columns.address() }),
        });
        let mut found = vec![0f32; m * n];
        let read = asked.and_then(|()| match is_f32 {
            true => result.read(&mut found),
            false => {
                let mut halves = vec![0u16; m * n];
                result.read(&mut halves)?;
                found.iter_mut().zip(&halves).for_each(|(to, bits)| *to = bf16::from_bits(*bits).to_f32());
                Ok(())
            }
        });
        // A library that refuses; a card that fails afterwards fails the next time, too.
        if let Err(error) = read {
            self.synchronize()?;
            return Ok(Err(error.to_string()));
        }
        for (i, found) in found.iter().enumerate() {
            let (row, column) = (i / n, i % n);
            let terms = a[row * k..][..k].iter().zip(&b[column * k..][..k]);
            let terms = terms.map(|(a, b)| f64::from(decode_e4m3(*a)) * f64::from(decode_e4m3(*b)));
            let factor = if scaled { f64::from(rows[row]) * f64::from(columns[column]) } else { 1.0 };
            let (sum, size) =
                terms.fold((0.0, 0.0), |(sum, size), x| (sum + x * factor, size + x.abs() * factor));
            let sum = if is_f32 { sum + f64::from(before[i]) } else { sum };
            // Tensor cores keep 13 bits or more behind the leading one of the largest term.
            let off = (f64::from(*found) - sum).abs();
            if off.is_nan() || off > size / 2048.0 + sum.abs() / 128.0 {
                return Ok(Err(format!("a product of {sum:.3} came out as {found:.3}")));
            }
        }
        Ok(Ok(()))
    }
}
