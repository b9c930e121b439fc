//! The paged key/value cache (POST-4, arXiv 2309.06180).
//!
//! A page holds the keys and values of [`PAGE`] positions in all layers. Pages come on demand from a bounded pool,
//! are counted by reference, and are shared: by the samples of one prompt, and by prompts that begin with the same
//! tokens, even after the first of them is done (until the page is needed for something else). A shared page is
//! always full and never written again; the partly filled last page of a prompt is copied for every further sample.
//! Nothing is promised in advance: when no page is left, the scheduler takes the pages of another sequence.

mod pages;

use crate::kernels::LANES;
pub(crate) use pages::{CacheShape, HostPages, Pages};
use std::collections::{BTreeMap, HashMap};

/// Positions of one page: as many as the kernels take at once.
pub(crate) const PAGE: usize = LANES;

/// Index of a page in the pool.
pub(crate) type PageId = u32;

/// What a full page contains: the page before it (0 at the beginning) and its tokens. Exact, so no two contents
/// are ever confused.
type Content = (u64, [u32; PAGE]);

#[derive(Default)]
struct Page {
    references: u32,
    /// Set while the page can be found by its content: the number of that content and when it was last let go.
    content: Option<(u64, Content)>,
    released: u64,
}

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
    /// What the pages hold, wherever that lies.
    store: Pages,
    capacity: usize,
    pages: Vec<Page>,
    /// Pages without references and without content.
    free: Vec<PageId>,
    /// Pages without references that are kept for their content, the longest unused first.
    kept: BTreeMap<u64, PageId>,
    by_content: HashMap<Content, PageId>,
    clock: u64,
    next_content: u64,
}

impl KvCache {
    /// A pool of at most `capacity` pages.
    pub(crate) fn new(store: Pages, capacity: usize) -> Self {
        Self {
            store,
            capacity,
            pages: Vec::new(),
            free: Vec::new(),
            kept: BTreeMap::new(),
            by_content: HashMap::new(),
            clock: 0,
            next_content: 1,
        }
    }

    /// What the pages hold.
    pub(crate) fn store(&mut self) -> &mut Pages {
        &mut self.store
    }

    /// Pages of the pool.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Pages that sequences refer to now.
    pub(crate) fn used(&self) -> usize {
        self.pages.len() - self.free.len() - self.kept.len()
    }

    /// Pages that sequences could take now.
    pub(crate) fn available(&self) -> usize {
        self.capacity - self.used()
    }

    /// The pages that hold the beginning of `tokens` already, now referred to by one more sequence. At least one
    /// token is left to compute.
    pub(crate) fn find(&mut self, tokens: &[u32]) -> PageTable {
        let mut table = PageTable::default();
        for chunk in tokens[..tokens.len().saturating_sub(1)].chunks_exact(PAGE) {
            let mut key = [0; PAGE];
            key.copy_from_slice(chunk);
            let Some(&page) = self.by_content.get(&(table.last_content, key)) else { break };
            table.last_content = self.pages[page as usize].content.as_ref().map_or(0, |c| c.0);
            self.share(page);
            table.pages.push(page);
        }
        table.length = table.pages.len() * PAGE;
        table
    }

    /// Makes room for the positions up to `length`; `false`, and nothing taken, if there are not enough pages.
    #[must_use]
    pub(crate) fn grow(&mut self, table: &mut PageTable, length: usize) -> bool {
        let missing = length.div_ceil(PAGE).saturating_sub(table.pages.len());
        if missing > self.available() {
            return false;
        }
        for _ in 0..missing {
            let page = self.allocate();
            table.pages.push(page);
        }
        true
    }

    /// A second sample of the same prompt: shares the full pages and copies the last one if it is partly filled;
    /// `None` if there is no page for the copy.
    pub(crate) fn fork(&mut self, table: &PageTable) -> Option<PageTable> {
        let full = table.length / PAGE;
        let part = table.length > full * PAGE;
        if part && self.available() == 0 {
            return None;
        }
        let mut pages = table.pages[..full].to_vec();
        for &page in &pages {
            self.share(page);
        }
        if part {
            let copy = self.allocate();
            self.store.copy(table.pages[full], copy);
            pages.push(copy);
        }
        Some(PageTable { pages, length: table.length, last_content: table.last_content })
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

    /// Gives back the pages of a sequence. Full ones can still be found until they are needed.
    pub(crate) fn release(&mut self, table: PageTable) {
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

    /// A page for one sequence; the caller has made sure that one is available.
    fn allocate(&mut self) -> PageId {
        let id = if let Some(id) = self.free.pop() {
            id
        } else if self.pages.len() < self.capacity || self.kept.is_empty() {
            self.store.add();
            self.pages.push(Page::default());
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Kept, PageShape};

    const HEAD: PageShape = PageShape { kept: Kept::F32, head_dim: 3 };
    const SHAPE: CacheShape = CacheShape { layers: 2, kv_heads: 2, head: HEAD };

    /// The first dimension of the key at `slot`.
    fn key(page: &[u8], slot: usize) -> f32 {
        f32::from_ne_bytes(page[slot * 4..slot * 4 + 4].try_into().unwrap())
    }

    fn cache(capacity: usize) -> KvCache {
        KvCache::new(Pages::Host(HostPages::new(SHAPE)), capacity)
    }

    fn host(cache: &mut KvCache) -> &mut HostPages {
        let Pages::Host(pages) = cache.store() else { panic!("these caches are the host's") };
        pages
    }

    fn fill(cache: &mut KvCache, tokens: &[u32]) -> PageTable {
        let mut table = cache.find(tokens);
        assert!(cache.grow(&mut table, tokens.len()));
        for (position, &token) in tokens.iter().enumerate().skip(table.length) {
            for layer in 0..2 {
                let page = host(cache).page_mut(table.pages[position / PAGE]);
                SHAPE.put(page, position % PAGE, layer, &[token as f32; 6], &[-(token as f32); 6]);
            }
        }
        cache.advance(&mut table, tokens);
        table
    }

    #[test]
    fn a_prompt_finds_the_pages_of_an_earlier_one() {
        let mut cache = cache(6);
        let first: Vec<u32> = (0..40).collect();
        let table = fill(&mut cache, &first);
        assert_eq!((cache.used(), cache.available()), (3, 3));
        let mut second: Vec<u32> = (0..40).collect();
        second[35] = 99;
        let shared = cache.find(&second);
        assert_eq!((&shared.pages, shared.length), (&table.pages[..2].to_vec(), 32));
        assert_eq!((cache.used(), cache.available()), (3, 3));
        cache.release(table);
        // The two shared pages stay, the partly filled one is free, its content was never offered.
        assert_eq!((cache.used(), cache.available()), (2, 4));
        cache.release(shared);
        assert_eq!((cache.used(), cache.available()), (0, 6));
        // Still found although nobody refers to them.
        let again = cache.find(&first);
        assert_eq!((again.length, cache.used()), (32, 2));
        cache.release(again);
    }

    #[test]
    fn a_whole_page_prompt_keeps_one_token_to_compute() {
        let mut cache = cache(6);
        let tokens: Vec<u32> = (0..32).collect();
        let table = fill(&mut cache, &tokens);
        let again = cache.find(&tokens);
        assert_eq!(again.length, 16);
        cache.release(table);
        cache.release(again);
        assert_eq!(cache.used(), 0);
    }

    #[test]
    fn the_oldest_kept_page_gives_way_and_is_no_longer_found() {
        let mut cache = cache(4);
        for start in [0, 100, 200] {
            let tokens: Vec<u32> = (start..start + 20).collect();
            let table = fill(&mut cache, &tokens);
            cache.release(table);
        }
        let length = |cache: &mut KvCache, start: u32| {
            let tokens: Vec<u32> = (start..start + 20).collect();
            let table = cache.find(&tokens);
            let length = table.length;
            cache.release(table);
            length
        };
        let tokens: Vec<u32> = (300..348).collect();
        let table = fill(&mut cache, &tokens);
        cache.release(table);
        assert_eq!([0, 100, 200].map(|start| length(&mut cache, start)), [0, 0, 16]);
        assert_eq!(cache.used(), 0);
    }

    #[test]
    fn a_fork_shares_full_pages_and_copies_the_last_one() {
        let mut cache = cache(3);
        let tokens: Vec<u32> = (0..20).collect();
        let table = fill(&mut cache, &tokens);
        let fork = cache.fork(&table).unwrap();
        assert_eq!(fork.pages[0], table.pages[0]);
        assert_ne!(fork.pages[1], table.pages[1]);
        let pages = host(&mut cache);
        assert_eq!(pages.read(fork.pages[1], 1, 1), pages.read(table.pages[1], 1, 1));
        SHAPE.put(pages.page_mut(fork.pages[1]), 3, 1, &[7.5; 6], &[7.5; 6]);
        assert_eq!(key(pages.read(table.pages[1], 1, 1), 3), 19.0);
        assert_eq!(key(pages.read(fork.pages[1], 1, 1), 3), 7.5);
        // No page is left for another copy, and none is taken for it.
        assert!(cache.fork(&table).is_none());
        cache.release(table);
        cache.release(fork);
        assert_eq!((cache.used(), cache.available()), (0, 3));
    }

    #[test]
    fn what_does_not_fit_takes_nothing() {
        let mut cache = cache(3);
        let tokens: Vec<u32> = (0..20).collect();
        let mut table = fill(&mut cache, &tokens);
        let mut other = PageTable::default();
        assert!(!cache.grow(&mut other, 17));
        assert_eq!((other.pages.len(), cache.available()), (0, 1));
        assert!(cache.grow(&mut other, 16));
        assert!(!cache.grow(&mut table, 33) && cache.grow(&mut table, 32));
        cache.release(other);
        assert!(cache.grow(&mut table, 33));
        cache.release(table);
        assert_eq!(cache.used(), 0);
    }
}
