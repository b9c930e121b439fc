//! Which tiles of rows attend to which: what the kernels of attention on a card read.

use crate::cuda::{Card, CardBuffer, expect};
use crate::{Segment, Segments};
use std::ops::Range;
use std::sync::Arc;

/// The tiles that each tile visits: `list[starts[i]..starts[i + 1]]` are those of tile `i`, times 2, plus 1 where not
/// every row of one sees every row of the other.
#[derive(Default)]
struct Visits {
    starts: Vec<u32>,
    list: Vec<u32>,
}

impl Visits {
    fn new(lists: &[Vec<u32>]) -> Self {
        let starts = lists.iter().scan(0, |end, list| {
            *end += list.len() as u32;
            Some(*end)
        });
        Self { starts: std::iter::once(0).chain(starts).collect(), list: lists.concat() }
    }
}

/// For every tile of queries the tiles of keys that they see, for every tile of keys the tiles of queries that see them,
/// in order.
fn visits(segments: &Segments, tile: usize) -> [Visits; 2] {
    let tiles = segments.rows().div_ceil(tile);
    let (mut keys, mut queries) = (vec![Vec::new(); tiles], vec![Vec::new(); tiles]);
    let mut list = segments.list();
    for (query, keys) in keys.iter_mut().enumerate() {
        let rows = query * tile..segments.rows().min((query + 1) * tile);
        while list[0].rows.end <= rows.start {
            list = &list[1..];
        }
        let here = list.iter().take_while(|segment| segment.rows.start < rows.end);
        let seen = here.flat_map(|s| [s.rows.start..s.rows.end.min(rows.end), s.prefix.clone()]);
        let mut seen: Vec<usize> = seen
            .filter(|range| !range.is_empty())
            .flat_map(|range| range.start / tile..range.end.div_ceil(tile))
            .collect();
        seen.sort_unstable();
        seen.dedup();
        for key in seen {
            let visible = rows.len() == tile && all_see(&list[0], &rows, &(key * tile..(key + 1) * tile));
            keys.push(2 * key as u32 + u32::from(!visible));
            queries[key].push(2 * query as u32 + u32::from(!visible));
        }
    }
    [Visits::new(&keys), Visits::new(&queries)]
}

/// Whether all of `rows` are of a segment and see all of `keys`.
fn all_see(segment: &Segment, rows: &Range<usize>, keys: &Range<usize>) -> bool {
    let own = keys.start >= segment.rows.start && keys.end <= rows.start + 1;
    let in_prefix = keys.start >= segment.prefix.start && keys.end <= segment.prefix.end;
    segment.rows.start <= rows.start && segment.rows.end >= rows.end && (own || in_prefix)
}

/// What every row sees besides: its segment's first row (it sees from there to itself), and start and end of the prefix.
fn sights(segments: &Segments) -> Vec<[u32; 3]> {
    let sight = |s: &Segment| [s.rows.start as u32, s.prefix.start as u32, s.prefix.end as u32];
    segments.list().iter().flat_map(|s| std::iter::repeat_n(sight(s), s.rows.len())).collect()
}

/// Who sees whom, on a card.
pub(crate) struct CardTiles {
    /// Rows of a tile.
    tile: usize,
    /// `starts` and `list` of the keys that tiles of queries visit.
    pub keys: [CardBuffer; 2],
    /// The same of the queries that tiles of keys visit.
    pub queries: [CardBuffer; 2],
    /// u32 `[n, 3]`
    pub sights: CardBuffer,
}

impl CardTiles {
    fn is_current(&self) -> bool {
        let Self { keys, queries, sights, .. } = self;
        keys.iter().chain(queries).chain([sights]).all(CardBuffer::is_current)
    }
}

impl Segments {
    /// Who sees whom in tiles of so many rows; uploaded once, or once in each pass. How many tiles are visited differs from
    /// batch to batch, so there is room for more.
    pub(super) fn tiles_on(&self, card: &Card, tile: usize) -> Arc<CardTiles> {
        let is_it = |tiles: &CardTiles| tiles.tile == tile && tiles.is_current();
        self.on_card.get_if(card, is_it, || {
            let input = |values: &[u32], room: usize| expect(CardBuffer::input(card, values, room));
            let [keys, queries] = visits(self, tile).map(|Visits { starts, list }| {
                [input(&starts, starts.len()), input(&list, list.len().next_power_of_two())]
            });
            let sights = sights(self);
            CardTiles { tile, keys, queries, sights: input(sights.as_flattened(), 3 * sights.len()) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{sights, visits};
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
        let mut unchecked = 0;
        for segments in [shared, Segments::causal(33), Segments::documents(&[3, 1, 14, 7, 40])] {
            for tile in [4, 8, 16] {
                let (n, sights, [keys, queries]) =
                    (segments.rows(), sights(&segments), visits(&segments, tile));
                let sees = |i: usize, j: usize| {
                    let [first, from, to] = sights[i].map(|row| row as usize);
                    (first <= j && j <= i) || (from <= j && j < to)
                };
                let mut pairs = 0;
                for (q, bounds) in keys.starts.windows(2).enumerate() {
                    for &visit in &keys.list[bounds[0] as usize..bounds[1] as usize] {
                        let k = visit as usize / 2;
                        let at = queries.starts[k] as usize..queries.starts[k + 1] as usize;
                        assert!(queries.list[at].contains(&(2 * q as u32 + visit % 2)));
                        let inside = (q * tile..n.min((q + 1) * tile))
                            .flat_map(|i| (k * tile..n.min((k + 1) * tile)).map(move |j| (i, j)))
                            .filter(|(i, j)| sees(*i, *j))
                            .count();
                        assert!(inside > 0, "a visit for nothing: {q} {k}");
                        assert!(visit % 2 == 1 || inside == tile * tile, "not checked: {q} {k}");
                        unchecked += (visit + 1) % 2;
                        pairs += inside;
                    }
                }
                assert_eq!(pairs, segments.pairs());
                assert_eq!(keys.list.len(), queries.list.len());
            }
        }
        assert!(unchecked > 0, "some pairs of tiles need no check");
    }
}
