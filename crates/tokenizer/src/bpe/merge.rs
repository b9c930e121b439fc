use crate::hashing::mix;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A pair of neighbours and what it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Merge {
    pub(crate) left: u32,
    pub(crate) right: u32,
    pub(crate) result: u32,
    /// Lower ranks merge first.
    pub(crate) rank: u32,
}

/// No merge: loses against every rank.
const NONE: u32 = u32::MAX;

/// Longest piece for which scanning all pairs for the lowest rank beats a heap.
const SCAN_LIMIT: usize = 96;

/// All merges: an open-addressed table from a pair to its rank and result, made for the inner loop.
pub(crate) struct MergeTable {
    /// `(left << 32 | right, rank << 32 | result)`; an empty slot has rank [`NONE`].
    slots: Vec<(u64, u64)>,
    shift: u32,
    ordered: Vec<Merge>,
}

const EMPTY: (u64, u64) = (u64::MAX, u64::MAX);

#[inline]
fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl MergeTable {
    /// A table of merges. If a pair occurs twice the first wins.
    pub(crate) fn new(merges: Vec<Merge>) -> Self {
        let size = (merges.len() * 2).next_power_of_two().max(2);
        let mut table = Self { slots: vec![EMPTY; size], shift: 64 - size.ilog2(), ordered: merges };
        for merge in &table.ordered {
            let key = key(merge.left, merge.right);
            let mut at = (mix(key) >> table.shift) as usize;
            while table.slots[at] != EMPTY && table.slots[at].0 != key {
                at = (at + 1) & (size - 1);
            }
            if table.slots[at] == EMPTY {
                table.slots[at] = (key, u64::from(merge.rank) << 32 | u64::from(merge.result));
            }
        }
        table
    }

    /// The merges as they were given.
    pub(crate) fn ordered(&self) -> &[Merge] {
        &self.ordered
    }

    /// Rank and result of a pair; rank [`NONE`] if it does not merge.
    #[inline]
    fn find(&self, left: u32, right: u32) -> (u32, u32) {
        let key = key(left, right);
        let mut at = (mix(key) >> self.shift) as usize;
        loop {
            let (found, value) = self.slots[at];
            if found == key || found == EMPTY.0 {
                return ((value >> 32) as u32, value as u32);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// Appends the tokens of a piece: merges the pair of lowest rank, leftmost first, until none is left.
    pub(crate) fn encode(
        &self,
        byte_ids: &[u32; 256],
        piece: &[u8],
        scratch: &mut Scratch,
        out: &mut Vec<u32>,
    ) {
        if piece.len() <= SCAN_LIMIT {
            self.encode_short(byte_ids, piece, scratch, out);
        } else {
            self.encode_long(byte_ids, piece, scratch, out);
        }
    }

    /// Quadratic in theory, fastest for the few bytes of a word.
    fn encode_short(&self, byte_ids: &[u32; 256], piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        // parts[i] = (rank of the pair (i, i + 1), its result, the token itself)
        let parts = &mut scratch.parts;
        parts.clear();
        parts.extend(piece.iter().map(|&b| (NONE, 0, byte_ids[usize::from(b)])));
        for i in 1..parts.len() {
            (parts[i - 1].0, parts[i - 1].1) = self.find(parts[i - 1].2, parts[i].2);
        }
        loop {
            let (mut lowest, mut at) = (NONE, 0);
            for (i, part) in parts.iter().enumerate() {
                if part.0 < lowest {
                    (lowest, at) = (part.0, i);
                }
            }
            if lowest == NONE {
                break;
            }
            let merged = parts[at].1;
            parts.remove(at + 1);
            let (rank, result) = match parts.get(at + 1) {
                Some(next) => self.find(merged, next.2),
                None => (NONE, 0),
            };
            parts[at] = (rank, result, merged);
            if at > 0 {
                (parts[at - 1].0, parts[at - 1].1) = self.find(parts[at - 1].2, merged);
            }
        }
        out.extend(parts.iter().map(|part| part.2));
    }

    /// O(n log n): a heap of pairs over a linked list of parts. A heap entry whose left part has changed since is
    /// stale: it no longer names the pair that stands there.
    fn encode_long(&self, byte_ids: &[u32; 256], piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { nodes, heap, .. } = scratch;
        nodes.clear();
        heap.clear();
        let last = piece.len() - 1;
        nodes.extend(piece.iter().enumerate().map(|(i, &b)| Node {
            id: byte_ids[usize::from(b)],
            previous: i.wrapping_sub(1),
            next: if i == last { usize::MAX } else { i + 1 },
        }));
        for i in 0..last {
            self.offer(nodes, heap, i);
        }
        while let Some(Reverse((rank, at))) = heap.pop() {
            let Node { id, next, .. } = nodes[at];
            if id == NONE || next == usize::MAX {
                continue;
            }
            let (current, result) = self.find(id, nodes[next].id);
            if current != rank {
                continue;
            }
            nodes[at].id = result;
            nodes[next].id = NONE;
            let after = nodes[next].next;
            nodes[at].next = after;
            if after != usize::MAX {
                nodes[after].previous = at;
                self.offer(nodes, heap, at);
            }
            if nodes[at].previous != usize::MAX {
                self.offer(nodes, heap, nodes[at].previous);
            }
        }
        out.extend(nodes.iter().filter(|n| n.id != NONE).map(|n| n.id));
    }

    fn offer(&self, nodes: &[Node], heap: &mut BinaryHeap<Reverse<(u32, usize)>>, at: usize) {
        let (rank, _) = self.find(nodes[at].id, nodes[nodes[at].next].id);
        if rank != NONE {
            heap.push(Reverse((rank, at)));
        }
    }
}

#[derive(Clone, Copy)]
struct Node {
    /// [`NONE`] once merged into the node before it.
    id: u32,
    previous: usize,
    next: usize,
}

/// Buffers that encoding reuses from piece to piece.
#[derive(Default)]
pub(crate) struct Scratch {
    parts: Vec<(u32, u32, u32)>,
    nodes: Vec<Node>,
    heap: BinaryHeap<Reverse<(u32, usize)>>,
}
