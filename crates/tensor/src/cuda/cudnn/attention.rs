//! Attention as graphs of products and pointwise operations, which cuDNN recognises and runs as one kernel or a few: the
//! forward pass with the statistics of its softmax, and the backward pass (FlashAttention-2, arXiv 2307.08691).
//!
//! Causal, each sequence by itself. Sequences of equal length lie at equal distances. Others are packed one after the
//! other: each tensor has offsets, the batch a list of lengths, and sequences of no rows fill it up.

use super::graph::{Graph, Role, Sizes, Tensor};
use super::names::{Data, Pointwise, Reduce};
use crate::cuda::CardError;

/// What a graph is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    /// Sequences.
    pub batch: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// Rows of a sequence, or the most that one has if they are packed.
    pub length: usize,
    pub head_dim: usize,
    /// Values from one row to the next in `[q | k | v]`, and in the output.
    pub row: usize,
    pub out_row: usize,
    /// Whether sequences of different lengths are packed.
    pub packed: bool,
}

/// Which graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Way {
    Forward,
    /// Backward: each tile of keys adds to the gradient of queries, in f32 in memory. The order of these sums is that of the
    /// tiles if it is `ordered`, which takes an engine that can do so; else it is chance.
    Sums {
        ordered: bool,
    },
    /// Backward: the gradient of scores is written to memory (bf16 `[b, h, s, s]`) and multiplied from there, in order.
    Scores,
}

impl Problem {
    fn per_row(&self) -> ([usize; 4], [usize; 4]) {
        let Self { batch, heads, length, .. } = *self;
        ([batch, heads, length, 1], [heads * length, length, 1, 1])
    }

    fn per_score(&self) -> ([usize; 4], [usize; 4]) {
        let Self { batch, heads, length, .. } = *self;
        ([batch, heads, length, length], [heads * length * length, length * length, length, 1])
    }

    /// Dimensions and strides of `heads` heads in rows of `row` values.
    fn per_head(&self, heads: usize, row: usize) -> ([usize; 4], [usize; 4]) {
        ([self.batch, heads, self.length, self.head_dim], [self.length * row, self.head_dim, row, 1])
    }
}

fn transposed((dims, strides): ([usize; 4], [usize; 4])) -> ([usize; 4], [usize; 4]) {
    let swap = |[a, b, c, d]: [usize; 4]| [a, b, d, c];
    (swap(dims), swap(strides))
}

/// Builds one graph.
struct Builder<'a> {
    graph: &'a mut Graph,
    problem: Problem,
    lengths: Option<[Tensor; 2]>,
    /// Of `qkv`, the output, the statistics, and gradients of keys and values.
    offsets: [Option<Tensor>; 4],
}

impl<'a> Builder<'a> {
    fn new(graph: &'a mut Graph, problem: Problem) -> Result<Self, CardError> {
        let mut builder = Self { graph, problem, lengths: None, offsets: [None; 4] };
        if problem.packed {
            let mut list = |role, count| builder.graph.given(role, Data::I32, [count, 1, 1, 1], [1; 4], None);
            builder.lengths =
                Some([list(Role::LengthsQ, problem.batch)?, list(Role::LengthsK, problem.batch)?]);
            for (place, role) in
                [Role::OffsetsQkv, Role::OffsetsOut, Role::OffsetsStats].into_iter().enumerate()
            {
                builder.offsets[place] = Some(list(role, problem.batch + 1)?);
            }
        }
        Ok(builder)
    }

    fn queries(&mut self, role: Role) -> Result<Tensor, CardError> {
        let (dims, strides) = self.problem.per_head(self.problem.heads, self.problem.row);
        self.graph.given(role, Data::Bf16, dims, strides, self.offsets[0])
    }

    fn values(&mut self, role: Role, turned: bool) -> Result<Tensor, CardError> {
        let layout = self.problem.per_head(self.problem.kv_heads, self.problem.row);
        let (dims, strides) = if turned { transposed(layout) } else { layout };
        self.graph.given(role, Data::Bf16, dims, strides, self.offsets[0])
    }

    fn output(&mut self, role: Role) -> Result<Tensor, CardError> {
        let (dims, strides) = self.problem.per_head(self.problem.heads, self.problem.out_row);
        self.graph.given(role, Data::Bf16, dims, strides, self.offsets[1])
    }

    /// A number for each row and head, packed as rows are: `[t, h]` if sequences are packed, else `[b, h, s]`.
    fn statistics(&mut self, role: Role) -> Result<Tensor, CardError> {
        let (dims, mut strides) = self.problem.per_row();
        if self.problem.packed {
            strides = [strides[0], 1, self.problem.heads, 1];
        }
        self.graph.given(role, Data::F32, dims, strides, self.offsets[2])
    }

    /// The sequence lengths as sizes of a product: 0 of queries, 1 of keys.
    fn sizes(&self, which: [Option<usize>; 3]) -> Sizes {
        which.map(|side| self.lengths.and_then(|lengths| side.map(|side| lengths[side])))
    }

    /// Scores `[b, h, s, s]`, scaled.
    fn scores(&mut self, q: Tensor, keys: Tensor, scale: Tensor, zeros: bool) -> Result<Tensor, CardError> {
        let (dims, strides) = self.problem.per_score();
        let scores = self.graph.between(Data::F32, dims, strides, None)?;
        let sizes = self.sizes([Some(0), Some(1), None]);
        self.graph.product(q, keys, scores, sizes, zeros && self.problem.packed)?;
        self.graph.pointwise(Pointwise::Mul, scores, Some(scale), Data::F32)
    }

    /// Minus infinity beyond the ends of sequences.
    fn inside(&mut self, scores: Tensor, least: Tensor) -> Result<Tensor, CardError> {
        let Some(lengths) = self.lengths else { return Ok(scores) };
        let g = &mut *self.graph;
        let (row, column) = (g.index(scores, 2)?, g.index(scores, 3)?);
        let row = g.pointwise(Pointwise::Less, row, Some(lengths[0]), Data::Boolean)?;
        let column = g.pointwise(Pointwise::Less, column, Some(lengths[1]), Data::Boolean)?;
        let both = g.pointwise(Pointwise::And, row, Some(column), Data::Boolean)?;
        g.select(scores, least, both)
    }

    /// Minus infinity where a key comes after the query.
    fn causal(&mut self, scores: Tensor, least: Tensor) -> Result<Tensor, CardError> {
        let g = &mut *self.graph;
        let (row, column) = (g.index(scores, 2)?, g.index(scores, 3)?);
        let seen = g.pointwise(Pointwise::NotLess, row, Some(column), Data::Boolean)?;
        g.select(scores, least, seen)
    }

    fn forward(mut self) -> Result<(), CardError> {
        let [q, keys] = [self.queries(Role::Q)?, self.values(Role::K, true)?];
        let [values, out] = [self.values(Role::V, false)?, self.output(Role::Out)?];
        let stats = self.statistics(Role::Stats)?;
        let [scale, least] = [self.graph.number(Role::Scale)?, self.graph.number(Role::Least)?];
        let scores = self.scores(q, keys, scale, true)?;
        let scores = self.inside(scores, least)?;
        let scores = self.causal(scores, least)?;
        let g = &mut *self.graph;
        let (dims, strides) = self.problem.per_row();
        let top = g.between(Data::F32, dims, strides, None)?;
        g.reduce(Reduce::Max, scores, top)?;
        let scores = g.pointwise(Pointwise::Sub, scores, Some(top), Data::F32)?;
        let scores = g.pointwise(Pointwise::Exp, scores, None, Data::F32)?;
        let sum = g.between(Data::F32, dims, strides, None)?;
        g.reduce(Reduce::Add, scores, sum)?;
        let log = g.pointwise(Pointwise::Log, sum, None, Data::F32)?;
        g.pointwise_to(Pointwise::Add, top, Some(log), stats)?;
        let shares = g.pointwise(Pointwise::Div, scores, Some(sum), Data::Bf16)?;
        let sizes = self.sizes([Some(0), None, Some(1)]);
        self.graph.product(shares, values, out, sizes, false)?;
        Ok(())
    }

    /// `x^T y` over queries: the gradient of keys or values, summed over the query heads that share them.
    fn over_queries(&mut self, x: Tensor, y: Tensor, to: Role, heads: Role) -> Result<(), CardError> {
        let p = self.problem;
        let (dims, strides) = p.per_score();
        let turned = self.graph.between(Data::Bf16, dims, transposed((dims, strides)).1, None)?;
        self.graph.reshape(x, turned)?;
        let row = if p.packed { p.kv_heads * p.head_dim } else { p.row };
        let (dims, strides) = p.per_head(p.kv_heads, row);
        let sum = self.graph.given(to, Data::Bf16, dims, strides, self.offsets[3])?;
        let sizes = self.sizes([Some(1), None, Some(0)]);
        if p.heads == p.kv_heads {
            self.graph.product(turned, y, sum, sizes, false)?;
            return Ok(());
        }
        let group = p.heads / p.kv_heads;
        let apart = if p.packed {
            // cuDNN takes the offsets of the sum times the heads of a group.
            let strides = [strides[0] * group, strides[1], strides[2] * group, 1];
            let dims = [dims[0], p.heads, dims[2], dims[3]];
            self.graph.given(heads, Data::Bf16, dims, strides, self.offsets[3])?
        } else {
            let (s, hd) = (p.length, p.head_dim);
            let strides = [p.heads * s * hd, s * hd, hd, 1];
            self.graph.between(Data::Bf16, [p.batch, p.heads, s, hd], strides, None)?
        };
        self.graph.product(turned, y, apart, sizes, false)?;
        self.graph.reduce(Reduce::Add, apart, sum)?;
        Ok(())
    }

    fn backward(mut self, sums: bool) -> Result<(), CardError> {
        let p = self.problem;
        if p.packed {
            let count = [p.batch + 1, 1, 1, 1];
            self.offsets[3] = Some(self.graph.given(Role::OffsetsKv, Data::I32, count, [1; 4], None)?);
        }
        let [q, keys] = [self.queries(Role::Q)?, self.values(Role::K, true)?];
        let values = self.values(Role::V, true)?;
        let [out, d_out] = [self.output(Role::Out)?, self.output(Role::DOut)?];
        let [stats, delta] = [self.statistics(Role::Stats)?, self.statistics(Role::Delta)?];
        let [scale, least] = [self.graph.number(Role::Scale)?, self.graph.number(Role::Least)?];
        let one = self.graph.number(Role::One)?;

        let g = &mut *self.graph;
        let both = g.pointwise(Pointwise::Mul, d_out, Some(out), Data::F32)?;
        let (dims, strides) = p.per_row();
        let sum = g.between(Data::F32, dims, strides, None)?;
        g.reduce(Reduce::Add, both, sum)?;
        g.pointwise_to(Pointwise::Mul, sum, Some(one), delta)?;

        let scores = self.scores(q, keys, scale, false)?;
        let scores = self.inside(scores, least)?;
        let scores = self.graph.pointwise(Pointwise::Sub, scores, Some(stats), Data::F32)?;
        let scores = self.causal(scores, least)?;
        let shares = self.graph.pointwise(Pointwise::Exp, scores, None, Data::F32)?;
        self.over_queries(shares, d_out, Role::DV, Role::DVHeads)?;

        let (dims, strides) = p.per_score();
        let d_shares = self.graph.between(Data::F32, dims, strides, None)?;
        let sizes = self.sizes([Some(0), Some(1), None]);
        self.graph.product(d_out, values, d_shares, sizes, false)?;
        let g = &mut *self.graph;
        let d_scores = g.pointwise(Pointwise::Sub, d_shares, Some(delta), Data::F32)?;
        let d_scores = g.pointwise(Pointwise::Mul, d_scores, Some(shares), Data::F32)?;
        let d_scores = g.pointwise(Pointwise::Mul, d_scores, Some(scale), Data::F32)?;
        self.over_queries(d_scores, q, Role::DK, Role::DKHeads)?;

        let (dims, strides) = transposed((keys.dims, keys.strides));
        let upright = self.graph.between(Data::Bf16, dims, strides, self.offsets[0])?;
        self.graph.reshape(keys, upright)?;
        let (dims, strides) = p.per_head(p.heads, if p.packed { p.out_row } else { p.row });
        let d_q = self.graph.given(Role::DQ, Data::Bf16, dims, strides, self.offsets[1])?;
        let sizes = self.sizes([Some(0), None, Some(1)]);
        if !sums {
            self.graph.product(d_scores, upright, d_q, sizes, false)?;
            return Ok(());
        }
        let strides = match p.packed {
            true => strides,
            false => [p.heads * p.length * p.head_dim, p.length * p.head_dim, p.head_dim, 1],
        };
        let sum = self.graph.given(Role::DQSum, Data::F32, dims, strides, self.offsets[1])?;
        self.graph.product(d_scores, upright, sum, sizes, false)?;
        self.graph.pointwise_to(Pointwise::Identity, sum, None, d_q)?;
        Ok(())
    }
}

/// Builds the operations of a graph.
pub(super) fn build(graph: &mut Graph, problem: Problem, way: Way) -> Result<(), CardError> {
    let builder = Builder::new(graph, problem)?;
    match way {
        Way::Forward => builder.forward(),
        Way::Sums { .. } => builder.backward(true),
        Way::Scores => builder.backward(false),
    }
}
