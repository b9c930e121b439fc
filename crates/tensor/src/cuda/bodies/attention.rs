//! Attention on a card: which tiles of rows attend to which, and the launches. Queries and keys are rotated before; what is
//! kept for the backward pass is the rotated copy.

use super::rope::{rotate, rotated};
use super::{Place, int, read, uploaded};
use crate::cuda::card::{Arg, Grid, THREADS};
use crate::cuda::{Block, DType};
use crate::{Attention, Segments, Tensor};
use std::ffi::CStr;
use std::sync::Arc;

/// The widest head for which there is a kernel.
const WIDEST: usize = 128;

/// A family of kernels: names, rows of a tile, threads, bytes of shared memory in the forward and the backward pass.
struct Kernels {
    names: [&'static CStr; 3],
    tile: usize,
    threads: usize,
    shared: [usize; 2],
}

/// Tensor cores where they apply; else plain f32 arithmetic.
fn kernels(dtype: DType, head_dim: usize) -> Kernels {
    let names = match (dtype, head_dim) {
        (DType::Bf16, 64) => [c"attention_forward_64", c"attention_dq_64", c"attention_dkv_64"],
        (DType::Bf16, 128) => [c"attention_forward_128", c"attention_dq_128", c"attention_dkv_128"],
        _ => {
            let (tile, row) = (32, head_dim + 1);
            let scores = tile * (tile + 1);
            let shared = [4 * (2 * tile * row + scores + 3 * tile), 4 * (4 * tile * row + 2 * scores)];
            let names = [c"attention_forward", c"attention_dq", c"attention_dkv"];
            return Kernels { names, tile, threads: THREADS, shared };
        }
    };
    let (tile, row) = (64, head_dim + 8);
    Kernels { names, tile, threads: 128, shared: [2 * 3 * tile * row, 2 * 4 * tile * row + 8 * tile] }
}

/// Which tiles each tile visits, as the kernels read it.
#[derive(Debug, PartialEq, Eq)]
struct Visits {
    starts: Vec<u32>,
    list: Vec<u32>,
}

/// What the host knows of a batch's segments: for every row what it sees, for every tile of queries the tiles of keys, and
/// for every tile of keys the tiles of queries.
struct Plan {
    first: Vec<u32>,
    prefix: Vec<u32>,
    keys: Visits,
    queries: Visits,
}

fn plan(segments: &Segments, tile: usize) -> Plan {
    let n = segments.rows();
    let tiles = n.div_ceil(tile);
    let (mut first, mut prefix) = (Vec::with_capacity(n), Vec::with_capacity(2 * n));
    for segment in segments.list() {
        for _ in segment.rows.clone() {
            first.push(segment.rows.start as u32);
            prefix.extend([segment.prefix.start as u32, segment.prefix.end as u32]);
        }
    }
    let mut of_keys: Vec<Vec<u32>> = vec![Vec::new(); tiles];
    let mut keys = Visits { starts: vec![0], list: Vec::new() };
    let mut segment = 0;
    for query_tile in 0..tiles {
        let rows = query_tile * tile..((query_tile + 1) * tile).min(n);
        while segments.list()[segment].rows.end <= rows.start {
            segment += 1;
        }
        let here = segments.list()[segment..].iter().take_while(|s| s.rows.start < rows.end);
        let mut seen = Vec::new();
        let mut ranges = Vec::new();
        for s in here {
            ranges.push(s.rows.start..s.rows.end.min(rows.end));
            ranges.push(s.prefix.clone());
        }
        for range in ranges.iter().filter(|range| !range.is_empty()) {
            seen.extend(range.start / tile..range.end.div_ceil(tile));
        }
        seen.sort_unstable();
        seen.dedup();
        // All rows of this tile and all of that see each other: nothing is to be checked.
        let only = &segments.list()[segment];
        let whole = rows.len() == tile && only.rows.end >= rows.end;
        for key_tile in seen {
            let (start, end) = (key_tile * tile, (key_tile + 1) * tile);
            let own = start >= only.rows.start && end <= rows.start + 1;
            let in_prefix = start >= only.prefix.start && end <= only.prefix.end;
            let checked = u32::from(!(whole && (own || in_prefix)));
            keys.list.push(2 * key_tile as u32 + checked);
            of_keys[key_tile].push(2 * query_tile as u32 + checked);
        }
        keys.starts.push(keys.list.len() as u32);
    }
    let mut queries = Visits { starts: vec![0], list: Vec::new() };
    for list in of_keys {
        queries.list.extend(list);
        queries.starts.push(queries.list.len() as u32);
    }
    Plan { first, prefix, keys, queries }
}

/// The plan on the card: starts and list for queries, for keys, `first`, `prefix`.
fn on_card(place: Place, segments: &Arc<Segments>, tile: usize) -> Arc<Vec<Block>> {
    place.card.cached().get(segments, ("tiles", tile), || {
        let plan = plan(segments, tile);
        let lists = [
            plan.keys.starts,
            plan.keys.list,
            plan.queries.starts,
            plan.queries.list,
            plan.first,
            plan.prefix,
        ];
        lists.iter().map(|list| uploaded(place.card, list)).collect()
    })
}

fn sizes(call: &Attention, n: usize) -> [Arg; 5] {
    let s = &call.shape;
    [int(n), int(s.heads), int(s.kv_heads), int(s.head_dim), Arg::Float(1.0 / (s.head_dim as f32).sqrt())]
}

/// The rotated copy of `qkv`, the output, and its log-sum-exp `[heads, n]`.
pub fn forward(call: &Attention, qkv: &Tensor) -> (Tensor, Tensor, Tensor) {
    let (place, n, shape) = (Place::of(qkv), qkv.rows(), call.shape);
    assert!(
        shape.head_dim <= WIDEST,
        "attention: heads are {} wide; on a card there are kernels up to {WIDEST}",
        shape.head_dim
    );
    let qkv = match &call.rope {
        Some(rope) => rotated(qkv, rope, shape.heads + shape.kv_heads, 1.0),
        None => qkv.clone(),
    };
    let mut out = place.stale(&[n, shape.heads * shape.head_dim]);
    let mut lse = Tensor::stale_on(place.card, DType::F32, &[shape.heads, n]);
    let kernels = kernels(place.dtype, shape.head_dim);
    let plan = on_card(place, &call.segments, kernels.tile);
    let word = |i: usize| Arg::Word(plan[i].at());
    let mut args = vec![read(&qkv), Arg::Word(out.at_mut()), Arg::Word(lse.at_mut())];
    args.extend([word(0), word(1), word(4), word(5)]);
    args.extend(sizes(call, n));
    let blocks = [n.div_ceil(kernels.tile), shape.heads, 1];
    let grid = Grid { blocks, threads: kernels.threads, shared: kernels.shared[0] };
    place.card.launch(place.dtype, kernels.names[0], grid, &args);
    (qkv, out, lse)
}

/// The gradient of `qkv`, given the rotated copy.
pub fn backward(call: &Attention, qkv: &Tensor, out: &Tensor, lse: &Tensor, dout: &Tensor) -> Tensor {
    let (place, n, shape) = (Place::of(qkv), qkv.rows(), call.shape);
    let delta = place.card.block(4 * n * shape.heads);
    let args = [read(out), read(dout), Arg::Word(delta.at()), int(n), int(shape.heads), int(shape.head_dim)];
    place.card.launch(place.dtype, c"attention_delta", Grid::values(n * shape.heads), &args);
    let mut d_qkv = place.stale(qkv.shape());
    let kernels = kernels(place.dtype, shape.head_dim);
    let plan = on_card(place, &call.segments, kernels.tile);
    let word = |i: usize| Arg::Word(plan[i].at());
    for (name, lists, heads) in [(kernels.names[1], 0, shape.heads), (kernels.names[2], 2, shape.kv_heads)] {
        let mut args =
            vec![read(qkv), read(dout), read(lse), Arg::Word(delta.at()), Arg::Word(d_qkv.at_mut())];
        args.extend([word(lists), word(lists + 1), word(4), word(5)]);
        args.extend(sizes(call, n));
        let blocks = [n.div_ceil(kernels.tile), heads, 1];
        let grid = Grid { blocks, threads: kernels.threads, shared: kernels.shared[1] };
        place.card.launch(place.dtype, name, grid, &args);
    }
    if let Some(rope) = &call.rope {
        rotate(&mut d_qkv, rope, shape.heads + shape.kv_heads, -1.0);
    }
    d_qkv
}

#[cfg(test)]
mod tests {
    use super::plan;
    use crate::{Segment, Segments};

    /// Every visible pair is in a visited pair of tiles, and pairs of tiles that are not checked are wholly visible.
    #[test]
    fn tiles_visit_what_their_rows_see() {
        let shared = Segments::new(vec![
            Segment { rows: 0..5, prefix: 0..0 },
            Segment { rows: 5..30, prefix: 0..0 },
            Segment { rows: 30..47, prefix: 8..24 },
            Segment { rows: 47..60, prefix: 6..30 },
        ]);
        for segments in [shared, Segments::causal(33), Segments::documents(&[3, 1, 14, 7, 40])] {
            for tile in [4, 8, 16] {
                let (n, plan) = (segments.rows(), plan(&segments, tile));
                let sees = |i: usize, j: usize| {
                    let in_prefix =
                        (plan.prefix[2 * i] as usize..plan.prefix[2 * i + 1] as usize).contains(&j);
                    i < n && j < n && (plan.first[i] as usize <= j && j <= i || in_prefix)
                };
                let mut pairs = 0;
                for (q, bounds) in plan.keys.starts.windows(2).enumerate() {
                    for &visit in &plan.keys.list[bounds[0] as usize..bounds[1] as usize] {
                        let k = visit as usize / 2;
                        let at = plan.queries.starts[k] as usize..plan.queries.starts[k + 1] as usize;
                        assert!(plan.queries.list[at].contains(&(2 * q as u32 + visit % 2)));
                        let inside = (q * tile..(q + 1) * tile)
                            .flat_map(|i| (k * tile..(k + 1) * tile).map(move |j| (i, j)))
                            .filter(|(i, j)| *i < n && *j < n && sees(*i, *j))
                            .count();
                        assert!(inside > 0, "a visit for nothing: {q} {k}");
                        assert!(visit % 2 == 1 || inside == tile * tile, "not checked: {q} {k}");
                        pairs += inside;
                    }
                }
                assert_eq!(pairs, segments.pairs());
                assert_eq!(plan.keys.list.len(), plan.queries.list.len());
            }
        }
    }
}
