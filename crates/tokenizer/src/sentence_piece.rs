//! BPE over characters as SentencePiece does it for Llama 2: spaces become `▁`, characters without a piece become
//! bytes.

use crate::Error;
use crate::bpe::{Borders, Cache, NONE, Vocabulary};
use crate::hashing::FastMap;
use crate::vocabulary::{Entry, EntryKind, Strings};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::OnceLock;

/// How a space is written in pieces.
pub(crate) const SPACE: char = '▁';

/// Where a space is put before a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpacePrefix {
    /// Nowhere.
    Never,
    /// At the beginning and after every special token.
    Always,
    /// As `Always`, except where a space stands already.
    UnlessSpace,
    /// Only at the beginning of the whole text.
    First,
}

/// What makes pairs merge before others.
pub(crate) enum Ranking<'m> {
    /// Left and right piece, in order of priority (`tokenizer.json`).
    Merges(&'m [(u32, u32)]),
    /// A score for each id: of all neighbours that are a piece together, those with the highest score merge first.
    Scores(&'m [f32]),
}

/// A SentencePiece vocabulary, ready to encode.
pub(crate) struct SentencePiece {
    /// By their text with `▁`.
    pieces: Vocabulary,
    /// What each id decodes to.
    output: Strings,
    /// Rank and result of the pairs that merge.
    merges: FastMap<(u32, u32), (u32, u32)>,
    /// Characters that are parts of pieces without being one, and the numbers that stand for them meanwhile.
    parts: FastMap<char, u32>,
    byte_ids: [u32; 256],
    /// Found when a text is first encoded.
    borders: OnceLock<Borders>,
    prefix: SpacePrefix,
    /// Whether a piece may hold a space only at its beginning, and nothing merges across.
    split_words: bool,
    /// For files in the other format: pairs by priority, or scores.
    source: Source,
}

/// What the vocabulary was ranked by.
enum Source {
    /// Pairs of ids by priority.
    Merges(Vec<(u32, u32)>),
    /// One for each id.
    Scores(Vec<f32>),
}

impl SentencePiece {
    /// `entries` hold the pieces' text with `▁`, and single bytes.
    ///
    /// # Errors
    /// Two pieces with the same text, or a byte without a token.
    pub(crate) fn new(
        entries: &[Entry],
        ranking: Ranking,
        prefix: SpacePrefix,
        split_words: bool,
    ) -> Result<Self, Error> {
        let pieces = Vocabulary::new(entries)?;
        let mut byte_ids = [NONE; 256];
        for (id, entry) in (0..).zip(entries).filter(|(_, entry)| entry.kind == EntryKind::Byte) {
            if let [byte] = entry.bytes[..] {
                byte_ids[usize::from(byte)] = id;
            }
        }
        if let Some(byte) = byte_ids.iter().position(|&id| id == NONE) {
            return Err(Error::Vocabulary(format!(
                "no token <0x{byte:02X}>; a SentencePiece vocabulary needs one for every byte"
            )));
        }
        let text = || (0u32..).zip(entries).filter(|(_, entry)| entry.kind == EntryKind::Text);
        let mut parts = FastMap::default();
        let (merges, source) = match ranking {
            Ranking::Merges(pairs) => {
                let mut merges = FastMap::default();
                for (rank, &(left, right)) in (0u32..).zip(pairs) {
                    let both = [pieces.bytes(left), pieces.bytes(right)].concat();
                    if let Some(result) = pieces.id(&both) {
                        merges.entry((left, right)).or_insert((rank, result));
                    }
                }
                (merges, Source::Merges(pairs.to_vec()))
            }
            Ranking::Scores(scores) => {
                for (_, entry) in text() {
                    for c in String::from_utf8_lossy(&entry.bytes).chars() {
                        if pieces.id(c.encode_utf8(&mut [0; 4]).as_bytes()).is_none() {
                            let number = entries.len() as u32 + parts.len() as u32;
                            parts.entry(c).or_insert(number);
                        }
                    }
                }
                (merges_of(&text, &pieces, &parts, scores), Source::Scores(scores.to_vec()))
            }
        };
        let output = entries.iter().map(|entry| match entry.kind {
            EntryKind::Text => spaces(&entry.bytes),
            _ => entry.bytes.clone(),
        });
        let output: Vec<Vec<u8>> = output.collect();
        let output = Strings::new(output.iter().map(Vec::as_slice));
        let borders = OnceLock::new();
        Ok(Self { pieces, output, merges, parts, byte_ids, borders, prefix, split_words, source })
    }

    fn borders(&self) -> &Borders {
        self.borders.get_or_init(|| Borders::new(self.pieces.texts().map(|(_, bytes)| bytes)))
    }

    pub(crate) fn output(&self) -> &Strings {
        &self.output
    }

    pub(crate) fn pieces(&self) -> &Vocabulary {
        &self.pieces
    }

    pub(crate) fn prefix(&self) -> SpacePrefix {
        self.prefix
    }

    pub(crate) fn split_words(&self) -> bool {
        self.split_words
    }

    /// Whether any piece has a space after its first character.
    pub(crate) fn spans_spaces(&self) -> bool {
        (0..self.output.len() as u32).any(|id| {
            let piece = String::from_utf8_lossy(self.pieces.bytes(id));
            piece.chars().skip(1).any(|c| c == SPACE)
        })
    }

    /// The pairs that merge, by priority.
    pub(crate) fn pairs(&self) -> Vec<(u32, u32)> {
        if let Source::Merges(pairs) = &self.source {
            return pairs.clone();
        }
        let known = |id: u32| (id as usize) < self.output.len();
        let mut pairs: Vec<_> =
            self.merges.iter().filter(|((l, r), _)| known(*l) && known(*r)).map(|(&p, &m)| (m, p)).collect();
        pairs.sort_unstable();
        pairs.into_iter().map(|(_, pair)| pair).collect()
    }

    /// A score for each of `count` ids that gives the same priorities.
    pub(crate) fn scores(&self, count: usize) -> Vec<f32> {
        match &self.source {
            Source::Scores(scores) => scores.clone(),
            Source::Merges(pairs) => {
                let mut order: Vec<(u32, u32)> = self.merges.values().copied().collect();
                order.sort_unstable();
                // What no merge makes comes after all that merges make.
                let mut scores = vec![-(pairs.len() as f32); count];
                let mut place = 0.0;
                let mut seen = vec![false; count];
                for (_, result) in order {
                    if !std::mem::replace(&mut seen[result as usize], true) {
                        scores[result as usize] = place;
                        place -= 1.0;
                    }
                }
                scores
            }
        }
    }

    /// Appends the tokens of a text; `first` if nothing stands before it.
    pub(crate) fn encode(&self, text: &str, first: bool, cache: &mut Cache, out: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let mut written = String::with_capacity(text.len() + text.len() / 2);
        match self.prefix {
            SpacePrefix::Always => written.push(SPACE),
            SpacePrefix::UnlessSpace if !text.starts_with([' ', SPACE]) => written.push(SPACE),
            SpacePrefix::First if first && !text.starts_with([' ', SPACE]) => written.push(SPACE),
            _ => {}
        }
        written.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        let bytes = written.as_bytes();
        let mut start = 0;
        while start < bytes.len() {
            let mut end = self.borders().next(bytes, start, bytes.len());
            if self.split_words {
                let after = start + written[start..end].chars().next().map_or(1, char::len_utf8);
                end = written[after..end].find(SPACE).map_or(end, |at| after + at);
            }
            let part = &bytes[start..end];
            if !cache.long.get(part, out) {
                let from = out.len();
                self.merge(&written[start..end], out);
                cache.long.insert(part, &out[from..]);
            }
            start = end;
        }
    }

    /// Appends what merging the characters of a text gives: the pair of the lowest rank first, leftmost first.
    fn merge(&self, text: &str, out: &mut Vec<u32>) {
        let mut nodes: Vec<Node> = Vec::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            let end = at + c.len_utf8();
            let id = self.pieces.id(&text.as_bytes()[at..end]);
            let id = id.or_else(|| self.parts.get(&c).copied()).unwrap_or(NONE);
            let next = nodes.len() + 1;
            nodes.push(Node { id, start: at, end, previous: nodes.len().wrapping_sub(1), next });
        }
        let count = nodes.len();
        let mut heap = BinaryHeap::new();
        for at in 1..count {
            self.offer(&nodes, at - 1, &mut heap);
        }
        while let Some(Reverse((rank, at, id, next_id))) = heap.pop() {
            let next = nodes[at].next;
            // An entry of a pair that stands here no longer.
            if nodes[at].id != id || nodes[at].is_gone() || next >= count || nodes[next].id != next_id {
                continue;
            }
            let Some(&(now, result)) = self.merges.get(&(id, next_id)) else { continue };
            debug_assert_eq!(now, rank);
            nodes[at].id = result;
            nodes[at].end = nodes[next].end;
            nodes[at].next = nodes[next].next;
            nodes[next].end = nodes[next].start;
            let after = nodes[at].next;
            if after < count {
                nodes[after].previous = at;
                self.offer(&nodes, at, &mut heap);
            }
            if nodes[at].previous < count {
                self.offer(&nodes, nodes[at].previous, &mut heap);
            }
        }
        for node in nodes.iter().filter(|node| !node.is_gone()) {
            if (node.id as usize) < self.output.len() {
                out.push(node.id);
            } else {
                let bytes = &text.as_bytes()[node.start..node.end];
                out.extend(bytes.iter().map(|&byte| self.byte_ids[usize::from(byte)]));
            }
        }
    }

    fn offer(&self, nodes: &[Node], at: usize, heap: &mut BinaryHeap<Reverse<(u32, usize, u32, u32)>>) {
        let (left, right) = (nodes[at].id, nodes[nodes[at].next].id);
        if let Some(&(rank, _)) = self.merges.get(&(left, right)) {
            heap.push(Reverse((rank, at, left, right)));
        }
    }
}

/// A part of a text while it is merged.
struct Node {
    /// [`NONE`] for a character that is in no piece.
    id: u32,
    start: usize,
    /// `start` once merged into the node before it.
    end: usize,
    previous: usize,
    next: usize,
}

impl Node {
    fn is_gone(&self) -> bool {
        self.start == self.end
    }
}

/// All pairs that make a piece, with ranks by descending score; equal scores have equal ranks, and the leftmost
/// merges first.
fn merges_of<'e, I: Iterator<Item = (u32, &'e Entry)>>(
    text: &impl Fn() -> I,
    pieces: &Vocabulary,
    parts: &FastMap<char, u32>,
    scores: &[f32],
) -> FastMap<(u32, u32), (u32, u32)> {
    let score = |id: u32| scores.get(id as usize).copied().unwrap_or(0.0);
    let mut distinct: Vec<f32> = text().map(|(id, _)| score(id)).collect();
    distinct.sort_by(|a, b| b.total_cmp(a));
    distinct.dedup();
    let number = |bytes: &[u8]| {
        pieces.id(bytes).or_else(|| {
            let mut chars = std::str::from_utf8(bytes).ok()?.chars();
            let c = chars.next()?;
            chars.next().is_none().then(|| parts.get(&c).copied())?
        })
    };
    let mut merges = FastMap::default();
    for (id, entry) in text() {
        let rank = distinct.partition_point(|&other| other.total_cmp(&score(id)).is_gt()) as u32;
        let bytes = &entry.bytes;
        for at in (1..bytes.len()).filter(|&at| bytes[at] & 0xc0 != 0x80) {
            if let (Some(left), Some(right)) = (number(&bytes[..at]), number(&bytes[at..])) {
                merges.insert((left, right), (rank, id));
            }
        }
    }
    merges
}

/// The text of a piece with spaces for `▁`.
fn spaces(piece: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(piece).replace(SPACE, " ").into_bytes()
}
