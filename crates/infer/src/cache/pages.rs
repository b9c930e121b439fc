//! What the pages of a cache hold, in the host's memory or in a card's.

use super::PageId;
use crate::card::CardPages;
use crate::kernels::PageShape;

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

/// The contents of pages. Which page is whose, the cache alone knows.
pub(crate) enum Pages {
    /// A box for each page.
    Host(HostPages),
    /// One pool in a card's memory.
    Card(CardPages),
}

impl Pages {
    /// Makes room for one page more.
    pub(super) fn add(&mut self) {
        match self {
            Pages::Host(pages) => pages.pages.push(vec![0; pages.shape.page_bytes()].into_boxed_slice()),
            // All of the pool is there from the first pass on.
            Pages::Card(_) => {}
        }
    }

    /// Copies what a page holds to another one.
    pub(super) fn copy(&mut self, from: PageId, to: PageId) {
        match self {
            Pages::Host(pages) => {
                let (from, to) = (from as usize, to as usize);
                let (low, high) = pages.pages.split_at_mut(from.max(to));
                let (from, to) =
                    if from < to { (&low[from], &mut high[0]) } else { (&high[0], &mut low[to]) };
                to.copy_from_slice(from);
            }
            Pages::Card(pages) => pages.copy(from, to),
        }
    }
}

/// Pages in the host's memory, which is taken as they are needed.
pub(crate) struct HostPages {
    shape: CacheShape,
    /// Per layer and head what [`PageShape`] says.
    pages: Vec<Box<[u8]>>,
}

impl HostPages {
    pub(crate) fn new(shape: CacheShape) -> Self {
        Self { shape, pages: Vec::new() }
    }

    pub(crate) fn shape(&self) -> CacheShape {
        self.shape
    }

    /// The bytes of a page, to be filled by [`CacheShape::put`].
    pub(crate) fn page_mut(&mut self, page: PageId) -> &mut [u8] {
        &mut self.pages[page as usize]
    }

    /// Keys and values of one page, layer and head.
    pub(crate) fn read(&self, page: PageId, layer: usize, head: usize) -> &[u8] {
        let size = self.shape.head.bytes();
        &self.pages[page as usize][(layer * self.shape.kv_heads + head) * size..][..size]
    }
}
