use super::filter::Filter;
use super::long_pieces::fetch;
use crate::hashing::mix;
use crate::large_pages::LargePages;
use bytemuck::Zeroable;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A pair of neighbours and what it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Merge {
    pub(crate) left: u32,
    pub(crate) right: u32,
    pub(crate) result: u32,
    /// Lower ranks merge first. Merges of the same rank have the same result.
    pub(crate) rank: u32,
}

/// No token, or no merge: loses against every rank.
pub(crate) const NONE: u32 = u32::MAX;

/// Longest piece for which scanning all pairs for the lowest rank beats a heap, bytes.
const SCAN_LIMIT: usize = 64;

/// All merges: an open-addressed table from a pair to its rank, made for the inner loop.
pub(crate) struct MergeTable {
    slots: LargePages<Slot>,
    shift: u32,
    filter: Filter,
    /// Token that the merge of a rank makes.
    results: Vec<u32>,
    ordered: Vec<Merge>,
    byte_ids: [u32; 256],
    /// Rank of each pair of bytes; small enough to stay in the processor's cache.
    byte_ranks: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Slot {
    left: u32,
    right: u32,
    /// [`NONE`] if the slot is empty.
    rank: u32,
}

// SAFETY: numbers.
unsafe impl Zeroable for Slot {}

#[inline]
fn hash(left: u32, right: u32) -> u64 {
    mix(u64::from(left) << 32 | u64::from(right))
}

impl MergeTable {
    /// A table of merges over tokens of which `byte_ids` are those of single bytes. If a pair occurs twice the first
    /// wins.
    pub(crate) fn new(merges: Vec<Merge>, byte_ids: [u32; 256]) -> Self {
        let size = (merges.len() * 3 / 2).next_power_of_two().max(2);
        let highest = merges.iter().map(|m| m.rank as usize + 1).max().unwrap_or(0);
        let mut table = Self {
            slots: LargePages::zeroed(size),
            shift: 64 - size.ilog2(),
            filter: Filter::new(size),
            results: vec![NONE; highest],
            ordered: merges,
            byte_ids,
            byte_ranks: Vec::new(),
        };
        table.slots.fill(Slot { left: NONE, right: NONE, rank: NONE });
        for merge in &table.ordered {
            table.results[merge.rank as usize] = merge.result;
            let hash = hash(merge.left, merge.right);
            table.filter.insert(hash);
            let mut at = (hash >> table.shift) as usize;
            while table.slots[at].rank != NONE
                && (table.slots[at].left, table.slots[at].right) != (merge.left, merge.right)
            {
                at = (at + 1) & (size - 1);
            }
            if table.slots[at].rank == NONE {
                table.slots[at] = Slot { left: merge.left, right: merge.right, rank: merge.rank };
            }
        }
        let pairs = byte_ids.iter().flat_map(|&left| byte_ids.iter().map(move |&right| (left, right)));
        table.byte_ranks = pairs.map(|(left, right)| table.rank(left, right)).collect();
        table
    }

    /// The merges as they were given.
    pub(crate) fn ordered(&self) -> &[Merge] {
        &self.ordered
    }

    /// The hash of a pair if it may merge; its slot is on the way then.
    #[inline]
    fn may_merge(&self, left: u32, right: u32) -> Option<u64> {
        let hash = hash(left, right);
        if !self.filter.may_have(hash) {
            return None;
        }
        fetch(&raw const self.slots[(hash >> self.shift) as usize]);
        Some(hash)
    }

    /// Rank of a pair whose hash [`may_merge`](Self::may_merge) gave; [`NONE`] if it does not merge.
    #[inline]
    fn rank_of(&self, left: u32, right: u32, hash: Option<u64>) -> u32 {
        let Some(hash) = hash else { return NONE };
        let mut at = (hash >> self.shift) as usize;
        loop {
            let slot = &self.slots[at & (self.slots.len() - 1)];
            if (slot.left == left && slot.right == right) || slot.rank == NONE {
                if slot.rank != NONE {
                    fetch(&raw const self.results[slot.rank as usize]);
                }
                return slot.rank;
            }
            at += 1;
        }
    }

    /// Rank of a pair; [`NONE`] if it does not merge.
    #[inline]
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.rank_of(left, right, self.may_merge(left, right))
    }

    /// Appends the tokens of a piece: merges the pair of lowest rank, leftmost first, until none is left.
    pub(crate) fn encode(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        if piece.len() <= SCAN_LIMIT {
            self.encode_short(piece, out);
        } else {
            self.encode_long(piece, scratch, out);
        }
    }

    /// Quadratic in theory, fastest for the few bytes of a word.
    fn encode_short(&self, piece: &[u8], out: &mut Vec<u32>) {
        // ranks[i] is the rank of the pair (ids[i], ids[i + 1]).
        let mut ids = [0; SCAN_LIMIT];
        let mut ranks = [NONE; SCAN_LIMIT];
        let mut count = piece.len();
        for (id, &byte) in ids.iter_mut().zip(piece) {
            *id = self.byte_ids[usize::from(byte)];
        }
        for (rank, two) in ranks.iter_mut().zip(piece.windows(2)) {
            *rank = self.byte_ranks[usize::from(two[0]) << 8 | usize::from(two[1])];
        }
        while count > 1 {
            let (mut lowest, mut at) = (NONE, 0);
            for (i, &rank) in ranks[..count - 1].iter().enumerate() {
                if rank < lowest {
                    (lowest, at) = (rank, i);
                }
            }
            if lowest == NONE {
                break;
            }
            let merged = self.results[lowest as usize];
            ids[at] = merged;
            ids.copy_within(at + 2..count, at + 1);
            ranks.copy_within(at + 1..count, at);
            count -= 1;
            ranks[count - 1] = NONE;
            // Both are asked for before one is waited for.
            let after = (at + 1 < count).then(|| ids[at + 1]);
            let before = (at > 0).then(|| ids[at - 1]);
            let hash_after = after.and_then(|after| self.may_merge(merged, after));
            let hash_before = before.and_then(|before| self.may_merge(before, merged));
            if let Some(after) = after {
                ranks[at] = self.rank_of(merged, after, hash_after);
            }
            if let Some(before) = before {
                ranks[at - 1] = self.rank_of(before, merged, hash_before);
            }
        }
        out.extend_from_slice(&ids[..count]);
    }

    /// O(n log n): a heap of pairs over a linked list of parts. A heap entry whose left part has changed since is
    /// stale: it no longer names the pair that stands there.
    fn encode_long(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { nodes, heap } = scratch;
        nodes.clear();
        heap.clear();
        let last = piece.len() - 1;
        nodes.extend(piece.iter().enumerate().map(|(i, &b)| Node {
            id: self.byte_ids[usize::from(b)],
            previous: i.wrapping_sub(1),
            next: if i == last { usize::MAX } else { i + 1 },
        }));
        for i in 0..last {
            self.offer(nodes, heap, i);
        }
        while let Some(Reverse((rank, at))) = heap.pop() {
            let Node { id, next, .. } = nodes[at];
            if id == NONE || next == usize::MAX || self.rank(id, nodes[next].id) != rank {
                continue;
            }
            nodes[at].id = self.results[rank as usize];
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
        let rank = self.rank(nodes[at].id, nodes[nodes[at].next].id);
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
    nodes: Vec<Node>,
    heap: BinaryHeap<Reverse<(u32, usize)>>,
}
