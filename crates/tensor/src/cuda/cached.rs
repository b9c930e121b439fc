//! What a card needs of a value of the host, uploaded when first asked for and kept beside it.

use super::Card;
use std::sync::{Arc, Mutex, PoisonError};

/// The upload belonging to the value that holds this; shared by its clones, and no part of its equality.
pub(crate) struct Cached<T>(Arc<Mutex<Upload<T>>>);

/// The card, and what it was given.
type Upload<T> = Option<(Card, Arc<T>)>;

impl<T> Cached<T> {
    /// What was uploaded to this card if it still `serves`, or what `make` uploads now.
    pub fn get_if(&self, card: &Card, serves: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> Arc<T> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*place {
            Some((on, value)) if on.is(card) && serves(value) => Arc::clone(value),
            _ => {
                let value = Arc::new(make());
                *place = Some((card.clone(), Arc::clone(&value)));
                value
            }
        }
    }
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Cached<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> PartialEq for Cached<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Cached<T> {}

impl<T> std::fmt::Debug for Cached<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cached")
    }
}
