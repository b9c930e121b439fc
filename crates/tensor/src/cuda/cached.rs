//! What several operators of a step need on the card and the host computes once: tables of angles, positions, which
//! blocks attend to which. Each is known by the shared host value that it was made from.

use super::memory::Block;
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

/// Values kept at once; the oldest goes first.
const KEPT: usize = 16;

/// One value: the host value (kept alive, so that its address stays its own), what it is for, and its blocks.
struct Entry {
    source: Arc<dyn Any + Send + Sync>,
    purpose: (&'static str, usize),
    blocks: Arc<Vec<Block>>,
}

/// The values of a card.
#[derive(Default)]
pub struct Cached(Mutex<Vec<Entry>>);

impl Cached {
    /// The blocks made from `source` for a purpose and a size, made by `make` if they are not there.
    pub fn get<T: Send + Sync + 'static>(
        &self,
        source: &Arc<T>,
        purpose: (&'static str, usize),
        make: impl FnOnce() -> Vec<Block>,
    ) -> Arc<Vec<Block>> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = Arc::as_ptr(source).cast::<()>();
        let same = |e: &Entry| Arc::as_ptr(&e.source).cast::<()>() == address && e.purpose == purpose;
        if let Some(at) = entries.iter().position(same) {
            return Arc::clone(&entries[at].blocks);
        }
        if entries.len() == KEPT {
            entries.remove(0);
        }
        let blocks = Arc::new(make());
        let source: Arc<dyn Any + Send + Sync> = source.clone();
        entries.push(Entry { source, purpose, blocks: Arc::clone(&blocks) });
        blocks
    }
}
