//! The paged key/value cache (POST-4, arXiv 2309.06180).
//!
//! A page holds the keys and values of [`PAGE`] positions in all layers. Pages come on demand from a bounded pool,
//! are counted by reference, and are shared: by the samples of one prompt, and by prompts that begin with the same
//! tokens, even after the first of them is done (until the page is needed for something else). A shared page is
//! always full and never written again; the partly filled last page of a prompt is copied for every further sample.
//! A sequence is admitted only if all pages that it may need are free, so it never has to be thrown out.

use crate::kernels::{LANES, PageShape};
use std::collections::{BTreeMap, HashMap};

/// Positions of one page: as many as the kernels take at once.
pub(crate) const PAGE: usize = LANES;

/// Sizes of the cache's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheShape {
    pub layers: usize,
    pub kv_heads: usize,
    /// Keys and values of one layer and head.
    pub head: PageShape,
}

impl CacheShape {
    /// Bytes of one page.
    pub(crate) fn page_bytes(&self) -> usize {
        self.layers * self.kv_heads * self.head.bytes()
    }

    /// Puts key and value [kv_heads, head_dim] of one position into its page.
    pub(crate) fn put(&self, page: &mut [u8], slot: usize, layer: usize, key: &[f32], value: &[f32]) {
        let heads = page[layer * self.kv_heads * self.head.bytes()..].chunks_exact_mut(self.head.bytes());
        let rows = key.chunks_exact(self.head.head_dim).zip(value.chunks_exact(self.head.head_dim));
        for (head, (key, value)) in heads.zip(rows) {
            self.head.put(head, slot, key, value);
        }
    }
}

/// Index of a page in the pool.
pub(crate) type PageId = u32;

/// What a full page contains: the page before it (0 at the beginning) and its tokens. Exact, so no two contents
/// are ever confused.
type Content = (u64, [u32; PAGE]);

struct Page {
    /// Per layer and head what [`PageShape`] says.
    data: Box<[u8]>,
    references: u32,
    /// Set while the page can be found by its content: the number of that content and when it was last let go.
    content: Option<(u64, Content)>,
    released: u64,
}

/// A promise of pages, made at admission and used up by [`KvCache::allocate`].
#[derive(Debug, Default)]
pub(crate) struct Reservation(usize);

/// Pages and positions of one sequence.
#[derive(Debug, Default)]
pub(crate) struct PageTable {
    pub pages: Vec<PageId>,
    /// Positions whose keys and values are in the pages.
    pub length: usize,
    /// Number of the content of the last full page, 0 at the beginning.
    last_content: u64,
}

/// The pool.
pub(crate) struct KvCache {
    shape: CacheShape,
    capacity: usize,
    pages: Vec<Page>,
    /// Pages without references and without content.
    free: Vec<PageId>,
    /// Pages without references that are kept for their content, the longest unused first.
    kept: BTreeMap<u64, PageId>,
    by_content: HashMap<Content, PageId>,
    reserved: usize,
    clock: u64,
    next_content: u64,
}

impl KvCache {
    /// A pool of at most `capacity` pages; memory is taken as pages are needed.
    pub(crate) fn new(shape: CacheShape, capacity: usize) -> Self {
        Self {
            shape,
            capacity,
            pages: Vec::new(),
            free: Vec::new(),
            kept: BTreeMap::new(),
            by_content: HashMap::new(),
            reserved: 0,
            clock: 0,
            next_content: 1,
        }
    }

    pub(crate) fn shape(&self) -> CacheShape {
        self.shape
    }

    /// Pages of the pool.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Pages that sequences refer to now.
    pub(crate) fn used(&self) -> usize {
        self.pages.len() - self.free.len() - self.kept.len()
    }

    /// Pages that could be promised now.
    pub(crate) fn available(&self) -> usize {
        self.capacity - self.used() - self.reserved
    }

    /// Admits a sequence that begins with `tokens` and needs `pages` pages in all, of which those already in the
    /// pool are shared; `None` if the rest is not available. At least one token is left to compute.
    pub(crate) fn admit(&mut self, tokens: &[u32], pages: usize) -> Option<(PageTable, Reservation)> {
        let mut found = Vec::new();
        let mut last_content = 0;
        for chunk in tokens[..tokens.len().saturating_sub(1)].chunks_exact(PAGE) {
            let mut key = [0; PAGE];
            key.copy_from_slice(chunk);
            let Some(&page) = self.by_content.get(&(last_content, key)) else { break };
            last_content = self.pages[page as usize].content.as_ref().map_or(0, |c| c.0);
            found.push(page);
        }
        let revived = found.iter().filter(|&&p| self.pages[p as usize].references == 0).count();
        let fresh = pages.saturating_sub(found.len());
        if fresh + revived > self.available() {
            return None;
        }
        for &page in &found {
            self.share(page);
        }
        self.reserved += fresh;
        let length = found.len() * PAGE;
        Some((PageTable { pages: found, length, last_content }, Reservation(fresh)))
    }

    /// Promises pages without content, for a further sample of an admitted prompt.
    pub(crate) fn reserve(&mut self, pages: usize) -> Option<Reservation> {
        (pages <= self.available()).then(|| {
            self.reserved += pages;
            Reservation(pages)
        })
    }

    /// Makes room for the positions up to `length`.
    pub(crate) fn grow(&mut self, table: &mut PageTable, length: usize, reservation: &mut Reservation) {
        while table.pages.len() * PAGE < length {
            table.pages.push(self.allocate(reservation));
        }
    }

    /// A second sample of the same prompt: shares the full pages and copies the last one if it is partly filled.
    pub(crate) fn fork(&mut self, table: &PageTable, reservation: &mut Reservation) -> PageTable {
        let full = table.length / PAGE;
        let mut pages = table.pages[..full].to_vec();
        for &page in &pages {
            self.share(page);
        }
        if table.length > full * PAGE {
            let copy = self.allocate(reservation);
            let [from, to] = [table.pages[full] as usize, copy as usize];
            let (low, high) = self.pages.split_at_mut(from.max(to));
            let (from, to) = if from < to { (&low[from], &mut high[0]) } else { (&high[0], &mut low[to]) };
            to.data.copy_from_slice(&from.data);
            pages.push(copy);
        }
        PageTable { pages, length: table.length, last_content: table.last_content }
    }

    /// Says that the positions up to `tokens.len()` are computed; pages that became full can be found from now on.
    pub(crate) fn advance(&mut self, table: &mut PageTable, tokens: &[u32]) {
        for index in table.length / PAGE..tokens.len() / PAGE {
            let mut key = [0; PAGE];
            key.copy_from_slice(&tokens[index * PAGE..(index + 1) * PAGE]);
            let content = (table.last_content, key);
            let page = table.pages[index];
            let first = *self.by_content.entry(content).or_insert(page);
            if first == page {
                self.pages[page as usize].content = Some((self.next_content, content));
                self.next_content += 1;
            }
            // Another sequence computed the same page first: what follows is found behind that one.
            table.last_content = self.pages[first as usize].content.as_ref().map_or(0, |c| c.0);
        }
        table.length = tokens.len();
    }

    /// Gives back the pages and the unused promise of a sequence.
    pub(crate) fn release(&mut self, table: PageTable, reservation: Reservation) {
        self.reserved -= reservation.0;
        // The end of a sequence is let go first, so that it is also dropped first.
        for &id in table.pages.iter().rev() {
            let page = &mut self.pages[id as usize];
            page.references -= 1;
            if page.references == 0 {
                if page.content.is_some() {
                    self.clock += 1;
                    page.released = self.clock;
                    self.kept.insert(self.clock, id);
                } else {
                    self.free.push(id);
                }
            }
        }
    }

    fn share(&mut self, id: PageId) {
        let page = &mut self.pages[id as usize];
        if page.references == 0 {
            self.kept.remove(&page.released);
        }
        page.references += 1;
    }

    fn allocate(&mut self, reservation: &mut Reservation) -> PageId {
        // A sequence asks for no more than was computed at its admission.
        debug_assert!(reservation.0 > 0, "a page beyond the promise");
        let promised = reservation.0.min(1);
        reservation.0 -= promised;
        self.reserved -= promised;
        let id = if let Some(id) = self.free.pop() {
            id
        } else if self.pages.len() < self.capacity || self.kept.is_empty() {
            let data = vec![0; self.shape.page_bytes()].into_boxed_slice();
            self.pages.push(Page { data, references: 0, content: None, released: 0 });
            (self.pages.len() - 1) as PageId
        } else {
            let (_, id) = self.kept.pop_first().unwrap_or((0, 0));
            if let Some((_, content)) = self.pages[id as usize].content.take() {
                self.by_content.remove(&content);
            }
            id
        };
        self.pages[id as usize].references = 1;
        id
    }

    /// The bytes of a page, to be filled by [`CacheShape::put`].
    pub(crate) fn page_mut(&mut self, page: PageId) -> &mut [u8] {
        &mut self.pages[page as usize].data
    }

    /// Keys and values of one page, layer and head.
    pub(crate) fn read(&self, page: PageId, layer: usize, head: usize) -> &[u8] {
        let size = self.shape.head.bytes();
        &self.pages[page as usize].data[(layer * self.shape.kv_heads + head) * size..][..size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Kept;

    const HEAD: PageShape = PageShape { kept: Kept::F32, head_dim: 3 };
    const SHAPE: CacheShape = CacheShape { layers: 2, kv_heads: 2, head: HEAD };

    /// The first dimension of the key at `slot`.
    fn key(page: &[u8], slot: usize) -> f32 {
        f32::from_ne_bytes(page[slot * 4..slot * 4 + 4].try_into().unwrap())
    }

    fn fill(cache: &mut KvCache, tokens: &[u32], pages: usize) -> (PageTable, Reservation) {
        let (mut table, mut reservation) = cache.admit(tokens, pages).unwrap();
        cache.grow(&mut table, tokens.len(), &mut reservation);
        for (position, &token) in tokens.iter().enumerate().skip(table.length) {
            for layer in 0..2 {
                let page = cache.page_mut(table.pages[position / PAGE]);
                SHAPE.put(page, position % PAGE, layer, &[token as f32; 6], &[-(token as f32); 6]);
            }
        }
        cache.advance(&mut table, tokens);
        (table, reservation)
    }

    #[test]
    fn a_prompt_finds_the_pages_of_an_earlier_one_and_its_promise_counts_them() {
        let mut cache = KvCache::new(SHAPE, 6);
        let first: Vec<u32> = (0..40).collect();
        let (table, reservation) = fill(&mut cache, &first, 4);
        assert_eq!((cache.used(), cache.available()), (3, 2));
        let mut second: Vec<u32> = (0..40).collect();
        second[35] = 99;
        let (shared, promise) = cache.admit(&second, 4).unwrap();
        assert_eq!((&shared.pages, shared.length), (&table.pages[..2].to_vec(), 32));
        assert_eq!((cache.used(), cache.available()), (3, 0));
        cache.release(table, reservation);
        // The two shared pages stay, the partly filled one is free, its content was never offered.
        assert_eq!((cache.used(), cache.available()), (2, 2));
        cache.release(shared, promise);
        assert_eq!((cache.used(), cache.available()), (0, 6));
        // Still found although nobody refers to them.
        let (again, promise) = cache.admit(&first, 3).unwrap();
        assert_eq!(again.length, 32);
        cache.release(again, promise);
    }

    #[test]
    fn a_whole_page_prompt_keeps_one_token_to_compute() {
        let mut cache = KvCache::new(SHAPE, 6);
        let tokens: Vec<u32> = (0..32).collect();
        let (table, reservation) = fill(&mut cache, &tokens, 3);
        let (again, promise) = cache.admit(&tokens, 3).unwrap();
        assert_eq!(again.length, 16);
        cache.release(table, reservation);
        cache.release(again, promise);
        assert_eq!(cache.used(), 0);
    }

    #[test]
    fn the_oldest_kept_page_gives_way_and_is_no_longer_found() {
        let mut cache = KvCache::new(SHAPE, 4);
        for start in [0, 100, 200] {
            let tokens: Vec<u32> = (start..start + 20).collect();
            let (table, reservation) = fill(&mut cache, &tokens, 2);
            cache.release(table, reservation);
        }
        let length = |cache: &mut KvCache, start: u32| {
            let tokens: Vec<u32> = (start..start + 20).collect();
            let (table, reservation) = cache.admit(&tokens, 2).unwrap();
            let length = table.length;
            cache.release(table, reservation);
            length
        };
        let tokens: Vec<u32> = (300..348).collect();
        let (table, reservation) = fill(&mut cache, &tokens, 3);
        cache.release(table, reservation);
        assert_eq!([0, 100, 200].map(|start| length(&mut cache, start)), [0, 0, 16]);
        assert_eq!(cache.used(), 0);
    }

    #[test]
    fn a_fork_shares_full_pages_and_copies_the_last_one() {
        let mut cache = KvCache::new(SHAPE, 6);
        let tokens: Vec<u32> = (0..20).collect();
        let (table, reservation) = fill(&mut cache, &tokens, 2);
        let mut promise = cache.reserve(1).unwrap();
        let fork = cache.fork(&table, &mut promise);
        assert_eq!(fork.pages[0], table.pages[0]);
        assert_ne!(fork.pages[1], table.pages[1]);
        assert_eq!(cache.read(fork.pages[1], 1, 1), cache.read(table.pages[1], 1, 1));
        SHAPE.put(cache.page_mut(fork.pages[1]), 3, 1, &[7.5; 6], &[7.5; 6]);
        assert_eq!(key(cache.read(table.pages[1], 1, 1), 3), 19.0);
        assert_eq!(key(cache.read(fork.pages[1], 1, 1), 3), 7.5);
        cache.release(table, reservation);
        cache.release(fork, promise);
        assert_eq!((cache.used(), cache.available()), (0, 6));
    }

    #[test]
    fn what_does_not_fit_is_not_admitted() {
        let mut cache = KvCache::new(SHAPE, 3);
        let tokens: Vec<u32> = (0..20).collect();
        let (table, reservation) = fill(&mut cache, &tokens, 3);
        assert!(cache.admit(&tokens[1..], 2).is_none());
        // Shares one page with the first, so one more is enough; but that one is promised to the first.
        assert!(cache.admit(&tokens, 2).is_none());
        cache.release(table, reservation);
        assert!(cache.admit(&tokens[1..], 2).is_some());
    }
}
