//! Attention of a batch by cuDNN, as the operator asks for it.

use super::CudnnUse;
use super::attention::{Problem, Way};
use super::batch::Layout;
use super::graph::Role;
use super::plan::Places;
use super::trust::Class;
use crate::cuda::{Arg, Card, CardBuffer, CardError, DType, THREADS};
use crate::{AttentionShape, Segments};

/// A batch whose attention cuDNN computes.
pub(crate) struct Fused {
    shape: AttentionShape,
    layout: Layout,
    rows: usize,
    /// Their lengths and offsets lie on the card; in another pass they have to be brought there again.
    segments: Segments,
}

/// Addresses and sizes of what the backward pass reads and writes; `qkv` and `d_qkv` bf16 `[n, (h + 2 kv) hd]`, `out` and
/// `dout` bf16 `[n, h hd]`, `stats` as the forward pass left them.
#[derive(Clone, Copy)]
pub(crate) struct Gradients<'a> {
    pub qkv: &'a CardBuffer,
    pub out: &'a CardBuffer,
    pub stats: &'a CardBuffer,
    pub dout: &'a CardBuffer,
    pub d_qkv: &'a CardBuffer,
}

/// Bytes of bf16 and of f32.
const HALF: usize = 2;
const FULL: usize = 4;

impl Card {
    /// This batch for cuDNN's forward pass; `None` if cuDNN is not to be used for it.
    pub(crate) fn fused(
        &self,
        activations: DType,
        shape: AttentionShape,
        segments: &Segments,
    ) -> Option<Fused> {
        if activations != DType::Bf16 || ![64, 128].contains(&shape.head_dim) {
            return None;
        }
        let layout = Layout::of(segments, shape, self.cudnn_version()?)?;
        let class = Class { way: Way::Forward, packed: layout.is_packed(), head_dim: shape.head_dim };
        let usable = self.trusts(class) && self.has_plan(layout.problem(shape), Way::Forward);
        usable.then(|| Fused::new(shape, segments, layout))
    }
}

impl Fused {
    pub(super) fn new(shape: AttentionShape, segments: &Segments, layout: Layout) -> Self {
        Self { shape, layout, rows: segments.rows(), segments: segments.clone() }
    }

    /// Addresses of heads of packed rows.
    fn heads(&self, base: u64, roles: [Role; 3], places: &mut Places) {
        let AttentionShape { heads, kv_heads, head_dim } = self.shape;
        let columns = [0, heads, heads + kv_heads].map(|head| head * head_dim);
        for (role, column) in roles.into_iter().zip(columns) {
            places.set(role, base + (HALF * column) as u64);
        }
    }

    fn places(&self, qkv: &CardBuffer, out: &CardBuffer, stats: &CardBuffer) -> Places {
        let mut places = Places::none();
        if let Some(lists) = self.segments.batch_on(qkv.card(), self.shape, self.layout) {
            lists.place(&mut places);
        }
        self.heads(qkv.address(), [Role::Q, Role::K, Role::V], &mut places);
        places.set(Role::Out, out.address()).set(Role::Stats, stats.address());
        places
    }

    /// Values of a float for each row and head.
    fn per_row(&self, card: &Card) -> Result<CardBuffer, CardError> {
        CardBuffer::stale(card, FULL * self.shape.heads * self.rows)
    }

    /// Writes the output and returns the statistics that the backward pass takes.
    pub fn forward(&self, qkv: &CardBuffer, out: &CardBuffer) -> Result<CardBuffer, CardError> {
        let card = qkv.card();
        let stats = self.per_row(card)?;
        card.run_plan(self.layout.problem(self.shape), Way::Forward, self.places(qkv, out, &stats))?;
        Ok(stats)
    }

    /// How cuDNN computes the backward pass of this batch; `None` if it does not.
    pub fn backward_way(&self, card: &Card) -> Option<Way> {
        let any = card.cudnn_use() == CudnnUse::AnyOrder;
        let ways: &[Way] = match any {
            true => &[Way::Sums { ordered: false }],
            false => &[Way::Sums { ordered: true }, Way::Scores],
        };
        let problem = self.layout.problem(self.shape);
        let offered = ways.iter().copied().find(|way| {
            part(problem, *way, card.cudnn_workspace()).is_some_and(|part| card.has_plan(part, *way))
        });
        let Some(way) = offered else {
            card.note_of_cudnn(|version| {
                format!(
                    "cuDNN {version} has no backward pass for {problem:?} whose bits are the same every time; \
                     Herd's kernels compute it"
                )
            });
            return None;
        };
        let class = Class { way, packed: self.layout.is_packed(), head_dim: self.shape.head_dim };
        card.trusts(class).then_some(way)
    }

    /// Writes the gradients.
    pub fn backward(&self, way: Way, of: Gradients) -> Result<(), CardError> {
        let card = of.qkv.card();
        let whole = self.layout.problem(self.shape);
        let AttentionShape { heads, kv_heads, head_dim } = self.shape;
        let mut places = self.places(of.qkv, of.out, of.stats);
        let delta = self.per_row(card)?;
        places.set(Role::DOut, of.dout.address()).set(Role::Delta, delta.address());
        // Memory that must live until everything is asked for.
        let mut held = Vec::new();
        let mut take = |bytes: usize| -> Result<u64, CardError> {
            held.push(CardBuffer::stale(card, bytes)?);
            Ok(held[held.len() - 1].address())
        };
        let (of_queries, of_keys) = (self.rows * heads * head_dim, self.rows * kv_heads * head_dim);
        if matches!(way, Way::Sums { .. }) {
            places.set(Role::DQSum, take(FULL * of_queries)?);
        }
        if !whole.packed {
            self.heads(of.d_qkv.address(), [Role::DQ, Role::DK, Role::DV], &mut places);
            let part = part(whole, way, card.cudnn_workspace()).expect("a way that is offered");
            for sequence in (0..whole.batch).step_by(part.batch) {
                for head in (0..heads).step_by(part.heads) {
                    card.run_plan(part, way, self.shifted(places, sequence, head))?;
                }
            }
            return Ok(());
        }
        let packed = [take(HALF * of_queries)?, take(HALF * of_keys)?, take(HALF * of_keys)?];
        for (role, address) in [Role::DQ, Role::DK, Role::DV].into_iter().zip(packed) {
            places.set(role, address);
        }
        if kv_heads < heads {
            // As much as cuDNN's own front end reserves.
            places.set(Role::DKHeads, take(FULL * of_queries)?);
            places.set(Role::DVHeads, take(FULL * of_queries)?);
        }
        card.run_plan(whole, way, places)?;
        let [dq, dk, dv] = packed.map(Arg::from);
        let count = of_queries + 2 * of_keys;
        let rows = [heads * head_dim, kv_heads * head_dim].map(|row| Arg::from(row as i32));
        let arguments = [dq, dk, dv, of.d_qkv.into(), count.into(), rows[0], rows[1]];
        card.launch(DType::Bf16, "attention_join", (count.div_ceil(THREADS), 1), &arguments)
    }

    /// The places of a part that begins with this sequence and this query head.
    fn shifted(&self, mut places: Places, sequence: usize, head: usize) -> Places {
        let p = self.layout.problem(self.shape);
        let kv_head = head / (p.heads / p.kv_heads);
        let (first, hd) = (sequence * p.length, p.head_dim);
        let shifts = [
            (Role::Q, HALF * (first * p.row + head * hd)),
            (Role::DQ, HALF * (first * p.row + head * hd)),
            (Role::K, HALF * (first * p.row + kv_head * hd)),
            (Role::V, HALF * (first * p.row + kv_head * hd)),
            (Role::DK, HALF * (first * p.row + kv_head * hd)),
            (Role::DV, HALF * (first * p.row + kv_head * hd)),
            (Role::Out, HALF * (first * p.out_row + head * hd)),
            (Role::DOut, HALF * (first * p.out_row + head * hd)),
            (Role::Stats, FULL * (first * p.heads + head * p.length)),
            (Role::Delta, FULL * (first * p.heads + head * p.length)),
        ];
        shifts.into_iter().for_each(|(role, bytes)| places.shift(role, bytes as u64));
        places
    }

    /// The statistics as Herd's own kernels read them: f32 `[h, n]`.
    pub fn lse(&self, stats: &CardBuffer) -> Result<CardBuffer, CardError> {
        let (card, heads) = (stats.card(), self.shape.heads);
        let lse = self.per_row(card)?;
        let p = self.layout.problem(self.shape);
        let (length, strides) = match p.packed {
            true => (self.rows, [0, 1, heads]),
            false => (p.length, [heads * p.length, p.length, 1]),
        };
        let count = heads * self.rows;
        let [of_sequence, of_head, of_row] = strides.map(|stride| Arg::from(stride as i32));
        let (rows, length) = (Arg::from(self.rows as i32), Arg::from(length as i32));
        let arguments =
            [stats.into(), (&lse).into(), count.into(), rows, length, of_sequence, of_head, of_row];
        card.launch(DType::Bf16, "attention_lse", (count.div_ceil(THREADS), 1), &arguments)?;
        Ok(lse)
    }
}

/// The largest part of a problem that works in `most` bytes. Only [`Way::Scores`] takes more memory for more rows than
/// others; then sequences, and heads of a sequence, are computed one after the other.
pub(super) fn part(problem: Problem, way: Way, most: usize) -> Option<Problem> {
    if way != Way::Scores {
        return Some(problem);
    }
    if problem.packed {
        return None;
    }
    // An eighth is left for what engines need besides.
    let scores = |part: &Problem| part.batch * part.heads * part.length * part.length * HALF;
    let fits = |part: &Problem| scores(part) <= most - most / 8;
    if fits(&problem) {
        return Some(problem);
    }
    let group = problem.heads / problem.kv_heads;
    let of_one = (1..=problem.kv_heads)
        .rev()
        .filter(|kv_heads| problem.kv_heads.is_multiple_of(*kv_heads))
        .map(|kv_heads| Problem { batch: 1, heads: kv_heads * group, kv_heads, ..problem });
    // Parts of the statistics begin at multiples of 16 bytes.
    of_one.into_iter().find(|part| fits(part) && problem.length.is_multiple_of(4))
}

#[cfg(test)]
mod tests {
    use super::{Problem, Way, part};

    #[test]
    fn scores_are_computed_in_parts_that_fit() {
        let problem = Problem {
            batch: 4,
            heads: 32,
            kv_heads: 8,
            length: 8192,
            head_dim: 64,
            row: 48 * 64,
            out_row: 32 * 64,
            packed: false,
        };
        let gib = 1 << 30;
        assert_eq!(part(problem, Way::Sums { ordered: true }, gib), Some(problem));
        assert_eq!(part(problem, Way::Scores, 20 * gib), Some(problem));
        let of_one = Problem { batch: 1, ..problem };
        assert_eq!(part(problem, Way::Scores, 5 * gib), Some(of_one));
        // 4 heads are 0.5 GiB.
        assert_eq!(part(problem, Way::Scores, gib), Some(Problem { heads: 4, kv_heads: 1, ..of_one }));
        assert_eq!(part(problem, Way::Scores, gib / 2), None);
        assert_eq!(part(Problem { packed: true, ..problem }, Way::Scores, 99 * gib), None);
        assert_eq!(part(Problem { length: 8191, ..problem }, Way::Scores, gib), None);
    }
}
