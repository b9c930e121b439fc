//! Which rows see which: documents packed into one batch, and completions that share a prompt.

use crate::cuda::{Cached, CardBatch, CardTiles};
use std::ops::Range;

/// A run of rows that attend causally among themselves, and fully to `prefix`: row `i` of `rows` sees `prefix` and
/// `rows.start..=i`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The rows of this segment; not empty.
    pub rows: Range<usize>,
    /// Earlier rows that all of `rows` see (a shared prompt); may be empty.
    pub prefix: Range<usize>,
}

/// A sorted, disjoint cover of rows `0..n` by segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    list: Vec<Segment>,
    rows: usize,
    islands: Vec<Range<usize>>,
    pub(crate) on_card: Cached<CardTiles>,
    pub(crate) batch_on_card: Cached<CardBatch>,
}

impl Segments {
    /// One causal sequence of `n` rows.
    pub fn causal(n: usize) -> Self {
        Self::documents(&[n])
    }

    /// Documents of the given lengths, one after the other, blind to each other. Empty documents are skipped.
    pub fn documents(lengths: &[usize]) -> Self {
        let mut start = 0;
        let mut list = Vec::with_capacity(lengths.len());
        for &length in lengths.iter().filter(|length| **length > 0) {
            list.push(Segment { rows: start..start + length, prefix: 0..0 });
            start += length;
        }
        Self::new(list)
    }

    /// Any cover. Panics unless the segments are in order, not empty, leave no gap, and each prefix ends at or before
    /// its segment's first row.
    pub fn new(list: Vec<Segment>) -> Self {
        let mut rows = 0;
        for (index, segment) in list.iter().enumerate() {
            assert!(
                segment.rows.start == rows && segment.rows.end > rows,
                "segments: segment {index} covers rows {:?} but must begin at row {rows} and not be empty",
                segment.rows
            );
            assert!(
                segment.prefix.is_empty() || segment.prefix.end <= segment.rows.start,
                "segments: the prefix {:?} of segment {index} must end at or before row {}",
                segment.prefix,
                segment.rows.start
            );
            rows = segment.rows.end;
        }
        let islands = islands(&list);
        Self { list, rows, islands, on_card: Cached::default(), batch_on_card: Cached::default() }
    }

    /// The segments in row order.
    pub fn list(&self) -> &[Segment] {
        &self.list
    }

    /// Number of rows covered.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Sum over rows of the number of rows each sees: the work of attention, in query-key pairs.
    pub fn pairs(&self) -> usize {
        self.list.iter().map(|s| s.rows.len() * (s.rows.len() + 1) / 2 + s.rows.len() * s.prefix.len()).sum()
    }

    /// Runs of segments (as index ranges) such that no prefix crosses between runs. The backward pass of attention
    /// works on runs in parallel.
    pub(crate) fn islands(&self) -> &[Range<usize>] {
        &self.islands
    }

    /// Rows covered by a run of segments.
    pub(crate) fn rows_of(&self, island: &Range<usize>) -> Range<usize> {
        self.list[island.start].rows.start..self.list[island.end - 1].rows.end
    }
}

fn islands(list: &[Segment]) -> Vec<Range<usize>> {
    let mut islands: Vec<Range<usize>> = Vec::new();
    for (index, segment) in list.iter().enumerate() {
        islands.push(index..index + 1);
        if segment.prefix.is_empty() {
            continue;
        }
        while let [.., before, _] = islands.as_slice() {
            if list[before.end - 1].rows.end <= segment.prefix.start {
                break;
            }
            let start = before.start;
            islands.pop();
            islands.pop();
            islands.push(start..index + 1);
        }
    }
    islands
}

#[cfg(test)]
mod tests {
    use super::{Segment, Segments};

    #[test]
    fn runs_of_connected_segments_are_found() {
        let segments = Segments::new(vec![
            Segment { rows: 0..2, prefix: 0..0 },
            Segment { rows: 2..5, prefix: 0..0 },
            Segment { rows: 5..6, prefix: 0..0 },
            Segment { rows: 6..9, prefix: 3..5 },
            Segment { rows: 9..10, prefix: 0..0 },
        ]);
        assert_eq!(segments.islands(), [0..1, 1..4, 4..5]);
        assert_eq!(segments.rows_of(&(1..4)), 2..9);
        assert_eq!(segments.pairs(), 3 + 6 + 1 + (6 + 3 * 2) + 1);
    }

    #[test]
    fn empty_documents_are_skipped() {
        assert_eq!(Segments::documents(&[2, 0, 3]), Segments::documents(&[2, 3]));
    }

    #[test]
    #[should_panic(expected = "segment 1 covers rows 3..4 but must begin at row 2")]
    fn a_gap_is_named() {
        Segments::new(vec![Segment { rows: 0..2, prefix: 0..0 }, Segment { rows: 3..4, prefix: 0..0 }]);
    }
}
