//! Rows of a training batch: documents laid end to end, each seeing only itself (SPEC MODEL-2).

use herd_model::Batch;
use herd_tensor::Segments;
use std::sync::Arc;

/// A stretch of one document inside a micro-batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Index of the domain; `None` for a synthetic needle document.
    pub domain: Option<usize>,
    /// Number of the document in its domain's shard (or of the needle document).
    pub document: u64,
    /// First token of the stretch inside the document.
    pub offset: u64,
    /// Rows it takes.
    pub rows: usize,
}

/// Rows that go through the model together.
#[derive(Debug, Clone)]
pub struct MicroBatch {
    /// Tokens, positions from 0 in each piece, one segment per piece.
    pub batch: Batch,
    /// Next token of each row.
    pub targets: Vec<u32>,
    /// Where the rows come from, in order.
    pub pieces: Vec<Piece>,
}

impl MicroBatch {
    /// Mean over the rows of twice the visible positions: the `context` for which causal attention costs as much as
    /// it does with these documents.
    pub fn mean_context(&self) -> f64 {
        let squares: f64 = self.pieces.iter().map(|piece| (piece.rows * piece.rows) as f64).sum();
        squares / self.targets.len().max(1) as f64
    }
}

/// Collects pieces into a micro-batch.
#[derive(Debug, Default)]
pub struct Packer {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    positions: Vec<u32>,
    pieces: Vec<Piece>,
}

impl Packer {
    /// Rows collected so far.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Adds a stretch: `tokens` holds one token more than there are rows, as each row's target is the next token.
    pub fn push(&mut self, domain: Option<usize>, document: u64, offset: u64, tokens: &[u32]) {
        let rows = tokens.len().saturating_sub(1);
        if rows == 0 {
            return;
        }
        self.tokens.extend_from_slice(&tokens[..rows]);
        self.targets.extend_from_slice(&tokens[1..]);
        self.positions.extend(0..rows as u32);
        self.pieces.push(Piece { domain, document, offset, rows });
    }

    /// The micro-batch; the packer is empty again.
    pub fn finish(&mut self) -> MicroBatch {
        let packed = std::mem::take(self);
        let lengths: Vec<usize> = packed.pieces.iter().map(|piece| piece.rows).collect();
        MicroBatch {
            batch: Batch {
                tokens: packed.tokens,
                positions: packed.positions,
                segments: Arc::new(Segments::documents(&lengths)),
            },
            targets: packed.targets,
            pieces: packed.pieces,
        }
    }
}
