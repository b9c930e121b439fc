//! `herd bench card`: is a card right, before anybody asks whether it is fast. Operators and a training curve beside the
//! CPU's.

use super::workload::{LEARNING_RATE, Workload};
use crate::moments::MomentType;
use crate::place::{ComputeType, Device, Place};
use herd_tensor::cuda::{self, Card, DType, check};
use serde::Serialize;

/// A model small enough for the CPU whose heads are as wide as those of Llama 3.2 1B: a batch of packed documents.
const CURVE: Workload = Workload {
    name: "curve",
    title: "0.5M parameters, 160 tokens of documents",
    model_dimension: 128,
    layers: 2,
    heads: 2,
    kv_heads: 1,
    ffn_dimension: 256,
    vocabulary: 500,
    tokens: 160,
    sequence: 0,
    recompute: false,
    tied: false,
};

/// Steps of linear warm-up.
const WARMUP: f64 = 20.0;

/// One operator.
#[derive(Debug, Clone, Serialize)]
pub struct Operator {
    /// The operator and its case.
    pub name: String,
    /// `f32` or `bf16`.
    pub dtype: &'static str,
    /// Largest difference of a value from the CPU's, relative to the largest.
    pub value: f64,
    /// Likewise of the gradients.
    pub gradient: f64,
    /// What both may be.
    pub tolerance: f64,
    /// Whether they are.
    pub agrees: bool,
}

/// A training curve.
#[derive(Debug, Clone, Serialize)]
pub struct Curve {
    /// `f32` or `bf16`.
    pub dtype: &'static str,
    /// Loss of each step on the CPU, before its update.
    pub cpu: Vec<f64>,
    /// On the card.
    pub card: Vec<f64>,
    /// Largest relative difference.
    pub difference: f64,
    /// What it may be.
    pub tolerance: f64,
    /// Whether it is.
    pub agrees: bool,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The card's name.
    pub card: String,
    /// Every operator, in both types.
    pub operators: Vec<Operator>,
    /// Curves, in both types.
    pub curves: Vec<Curve>,
}

impl Report {
    /// Whether everything agrees.
    pub fn agrees(&self) -> bool {
        self.operators.iter().all(|o| o.agrees) && self.curves.iter().all(|c| c.agrees)
    }
}

/// Compares every operator, and `steps` training steps.
pub fn compare(device: Device, steps: usize) -> Result<Report, cuda::Error> {
    let cuda::Device::Cuda(number) = device.0 else {
        return Err(cuda::Error::Unfit(
            "the CPU is what a card is compared with: say `--device cuda`".into(),
        ));
    };
    let card = Card::open(number)?;
    let mut report = Report { card: card.name().into(), operators: Vec::new(), curves: Vec::new() };
    for (dtype, name) in [(DType::F32, "f32"), (DType::Bf16, "bf16")] {
        report.operators.extend(check::operators(card, dtype)?.into_iter().map(|c| Operator {
            agrees: c.agrees(),
            name: c.name,
            dtype: name,
            value: c.value,
            gradient: c.gradient,
            tolerance: c.tolerance,
        }));
    }
    for dtype in [ComputeType::F32, ComputeType::Bf16] {
        report.curves.push(curve(device, dtype, MomentType::F32, steps)?);
    }
    Ok(report)
}

/// The same steps on both. On the card a step is begun before the loss of the one before it is read.
pub fn curve(
    device: Device,
    dtype: ComputeType,
    moments: MomentType,
    steps: usize,
) -> Result<Curve, cuda::Error> {
    let place = Place { device, dtype: Some(dtype) };
    let (mut cpu, mut card) = (CURVE.trainer(moments), CURVE.trainer_on(place, moments)?);
    let nan = |loss: Result<_, _>| loss.map_or(f64::NAN, |outcome: crate::trainer::StepOutcome| outcome.loss);
    let (mut of_cpu, mut of_card, mut begun) = (Vec::new(), Vec::new(), None);
    // Five batches in turn, so that there is something to learn.
    let batches: Vec<_> = (0..5).map(|i| CURVE.micro_batch(i)).collect();
    for step in 0..steps {
        let batch = std::slice::from_ref(&batches[step % batches.len()]);
        // Without warm-up training is chaotic: the smallest difference would grow without bound.
        let lr = 3.0 * LEARNING_RATE * ((step + 1) as f64 / WARMUP).min(1.0);
        of_cpu.push(nan(cpu.step(batch, lr)));
        if let Some(before) = begun.replace(card.begin(batch, lr)) {
            of_card.push(nan(card.finish(before)));
        }
    }
    of_card.extend(begun.map(|last| nan(card.finish(last))));
    let relative = of_cpu.iter().zip(&of_card).map(|(cpu, card)| (card / cpu - 1.0).abs());
    let difference =
        relative.fold(0.0, |worst: f64, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) });
    let (tolerance, dtype) = match dtype {
        ComputeType::F32 => (1e-4, "f32"),
        ComputeType::Bf16 => (1e-2, "bf16"),
    };
    Ok(Curve { dtype, cpu: of_cpu, card: of_card, difference, tolerance, agrees: difference <= tolerance })
}
