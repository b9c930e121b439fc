//! How much memory a training step takes at its peak, known before the first.

use super::Workload;
use crate::adamw::AdamWSettings;
use crate::moments::MomentType;
use crate::packing::MicroBatch;
use herd_tensor::Tape;
use std::collections::BTreeSet;
use std::fmt;

/// Bytes at the peak of a step, by what they are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Weights.
    pub weights: u64,
    /// Gradients; rows of the embedding that no token of the batch names take nothing. Those that are used up inside the
    /// backward pass are in `workspace`.
    pub gradients: u64,
    /// First and second moments, likewise.
    pub moments: u64,
    /// What the forward pass keeps for the backward pass.
    pub activations: u64,
    /// What operators need while they run, at the moment when activations and this are largest together.
    pub workspace: u64,
    /// The program itself.
    pub program: u64,
}

/// Operands of a matrix product in the order in which its kernels read them.
const PACKED: u64 = 14 << 20;

/// The right-hand side of them alone, where the left-hand side is short.
const PACKED_RIGHT: u64 = 8 << 20;

/// Products of at most this many rows pack a panel at a time.
const FEW_ROWS: usize = 288;

/// Program text, thread stacks, small things.
const PROGRAM: u64 = 16 << 20;

impl Plan {
    /// For a step over one micro-batch.
    pub fn of(workload: &Workload, micro: &MicroBatch, optimizer: &AdamWSettings) -> Self {
        let config = workload.config();
        let (n, d, f) = (micro.targets.len(), config.hidden_size, config.intermediate_size);
        let (heads, vocabulary) = (config.num_attention_heads, config.vocab_size);
        let (qkv, mixed) = (config.qkv_width(), heads * config.head_dim);
        let met = micro.batch.tokens.iter().collect::<BTreeSet<_>>().len();
        let parameters = config.parameters();
        // A tied embedding is the output matrix too, whose gradient knows no rows.
        let touched = if workload.tied { parameters } else { parameters - (vocabulary - met) * d };
        // Of a layer: the two states of the residual stream, their norms, queries to values, what attention gives with
        // its sums, gate and up.
        let inside = n * (d + 2 + qkv + mixed + heads + 2 * f);
        let layers = config.num_hidden_layers;
        let (kept, once) = match workload.recompute {
            true => (layers * n * d, inside),
            false => (layers * (inside + n * d), 0),
        };
        // The last state and its norm, whose place its gradient takes.
        let end = n * (2 * d + 1);
        let rows = Tape::loss_rows(n, vocabulary).min(n);
        let loss = rows * (vocabulary + d);
        let loss_packed = if rows > FEW_ROWS { PACKED_RIGHT } else { 0 };
        // At the feed-forward network: its activation or the gradient of that, the layer's output and the gradient of that.
        let walk = once + n * (f + 2 * d);
        // Used up inside the backward pass: that of the output matrix, and of a layer the largest at a time.
        let head = vocabulary * d;
        let largest = (2 * f * d).max(d * qkv);
        let (gradients, at_loss, at_walk) = match (optimizer.in_backward, workload.tied) {
            (false, _) => (touched, 0, 0),
            (true, false) => (met * d, head, largest),
            (true, true) => (head, 0, largest),
        };
        let bytes = |values: usize| 4 * values as u64;
        Self {
            weights: bytes(parameters),
            gradients: bytes(gradients),
            moments: match optimizer.moments {
                _ if !workload.optimizer => 0,
                MomentType::F32 => 2 * bytes(touched),
                MomentType::Bf16 => bytes(touched),
            },
            activations: bytes(kept + end),
            workspace: (bytes(loss + at_loss) + loss_packed).max(bytes(walk + at_walk) + PACKED),
            program: PROGRAM,
        }
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.weights + self.gradients + self.moments + self.activations + self.workspace + self.program
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        write!(
            out,
            "weights {:.0}, gradients {:.0}, moments {:.0}, activations {:.0}, workspace {:.0}, program {:.0}",
            mb(self.weights),
            mb(self.gradients),
            mb(self.moments),
            mb(self.activations),
            mb(self.workspace),
            mb(self.program)
        )
    }
}
