//! A long text in parts, encoded by several threads and joined in order.

use crate::large_pages::list_with_room;
use std::collections::BTreeMap;
use std::mem::{MaybeUninit, take};
use std::sync::{Mutex, MutexGuard};

/// Bytes that one thread encodes at a time, about: few enough that their tokens are near the processor when they are
/// copied.
const PART: usize = 1 << 18;

/// The tokens of a text. Each thread of the current rayon pool calls `work` at most once; it takes parts until there are
/// no more, and hands over the tokens of each.
pub(crate) fn encode(text: &str, work: impl Fn(&Parts, &Join) + Sync) -> Vec<u32> {
    let mut ids = list_with_room(text.len() / 3);
    let parts = Parts(Mutex::new((0, text)));
    let join = Join::new(ids.spare_capacity_mut());
    rayon::scope(|scope| {
        for _ in 0..rayon::current_num_threads() {
            scope.spawn(|_| work(&parts, &join));
        }
    });
    let (length, overflow) = join.finish();
    // SAFETY: every list was copied to its place, and there are no gaps.
    unsafe { ids.set_len(length) };
    ids.extend(overflow.iter().flatten());
    ids
}

/// The number of the next part of a text, and what is left of it.
pub(crate) struct Parts<'t>(Mutex<(usize, &'t str)>);

impl<'t> Parts<'t> {
    /// The next part and its number; it ends with a newline before an ASCII letter or digit, or with the text.
    pub(crate) fn next(&self) -> Option<(usize, &'t str)> {
        let mut state = lock(&self.0);
        let (number, rest) = *state;
        let after = rest.as_bytes().get(PART..).and_then(|bytes| {
            let begins_line = |&at: &usize| bytes.get(at + 1).is_some_and(u8::is_ascii_alphanumeric);
            memchr::memchr_iter(b'\n', bytes).find(begins_line)
        });
        let (part, rest) = rest.split_at(after.map_or(rest.len(), |at| PART + at + 1));
        *state = (number + 1, rest);
        (!part.is_empty()).then_some((number, part))
    }
}

/// The tokens of parts, which come in any order, one after the other.
pub(crate) struct Join<'o>(Mutex<State<'o>>);

struct State<'o> {
    /// The part that comes next.
    next: usize,
    /// Parts behind one that is still to come.
    waiting: BTreeMap<usize, Vec<u32>>,
    /// Where the next one's tokens go; empty as soon as one has not had enough room.
    room: &'o mut [MaybeUninit<u32>],
    /// Tokens that have a place in the room.
    placed: usize,
    /// Lists that found no room.
    overflow: Vec<Vec<u32>>,
    /// Lists that were copied: their memory is near.
    spare: Vec<Vec<u32>>,
}

impl<'o> Join<'o> {
    fn new(room: &'o mut [MaybeUninit<u32>]) -> Self {
        let (waiting, overflow, spare) = Default::default();
        Self(Mutex::new(State { next: 0, waiting, room, placed: 0, overflow, spare }))
    }

    /// Takes the tokens of a part; copies those of all parts in front of which none is missing any more. Gives an empty
    /// list for another part, if possible the same.
    pub(crate) fn put(&self, number: usize, ids: Vec<u32>) -> Vec<u32> {
        let mut state = lock(&self.0);
        state.waiting.insert(number, ids);
        let mut ready = Vec::new();
        while let Some((place, ids)) = state.next() {
            ready.push((place, ids));
        }
        drop(state);
        let mut lists = ready.into_iter().map(|(place, mut ids)| {
            place.write_copy_of_slice(&ids);
            ids.clear();
            ids
        });
        let first = lists.next();
        let others: Vec<_> = lists.collect();
        let spare = &mut lock(&self.0).spare;
        spare.extend(others);
        first.or_else(|| spare.pop()).unwrap_or_default()
    }

    /// How many tokens stand in the room, and those that come after them.
    fn finish(self) -> (usize, Vec<Vec<u32>>) {
        let state = self.0.into_inner().unwrap_or_else(|e| e.into_inner());
        (state.placed, state.overflow)
    }
}

impl<'o> State<'o> {
    /// The next part's tokens and their place, if they are there and there is room.
    fn next(&mut self) -> Option<(&'o mut [MaybeUninit<u32>], Vec<u32>)> {
        while let Some(ids) = self.waiting.remove(&self.next) {
            self.next += 1;
            let room = take(&mut self.room);
            if room.len() < ids.len() {
                self.overflow.push(ids);
                continue;
            }
            let (place, room) = room.split_at_mut(ids.len());
            self.room = room;
            self.placed += ids.len();
            return Some((place, ids));
        }
        None
    }
}

/// Nothing panics while it holds one of the locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lists that come in any order are joined in order, also those that find no room.
    #[test]
    fn lists_are_joined_in_order() {
        for room in [0, 1, 5, 6, 100] {
            for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
                let lists = [vec![1, 2, 3], vec![], vec![4, 5, 6, 7], vec![8]];
                let mut ids: Vec<u32> = Vec::with_capacity(room);
                let join = Join::new(&mut ids.spare_capacity_mut()[..room]);
                for number in order {
                    assert!(join.put(number, lists[number].clone()).is_empty());
                }
                let (length, overflow) = join.finish();
                assert!(length <= room);
                // SAFETY: so many were written.
                unsafe { ids.set_len(length) };
                ids.extend(overflow.iter().flatten());
                assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7, 8], "{room} {order:?}");
            }
        }
    }

    #[test]
    fn parts_are_the_text_and_end_where_lines_begin() {
        let text = "a line of words\n \n\n".repeat(40_000);
        let parts = Parts(Mutex::new((0, text.as_str())));
        let all: Vec<(usize, &str)> = std::iter::from_fn(|| parts.next()).collect();
        assert!(all.len() > 2);
        assert_eq!(all.iter().map(|(_, part)| *part).collect::<String>(), text);
        for (number, (given, part)) in all.iter().enumerate() {
            assert_eq!(*given, number);
            assert!(part.starts_with('a') && part.len() < PART + 40);
        }
    }
}
