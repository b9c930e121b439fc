//! A long text in parts, encoded by several threads.

use crate::large_pages::list_with_room;
use crate::split::after_letters;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

/// Of what is left of a text, a thread takes its share divided by this. So all end at about the same time, and stay for long
/// in one place, where the words are the same.
const SHARE: usize = 2;
/// Fewest bytes that a thread takes, but for the last part.
const FEWEST: usize = 1 << 14;

/// The tokens of a text in parts, which stand where the threads that encoded them have written them.
#[derive(Debug, Clone, Default)]
pub struct TokenParts {
    /// Of each thread, those of all its parts.
    lists: Vec<Vec<u32>>,
    /// In the order of the text.
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
struct Part {
    number: usize,
    /// Where its tokens stand: in which list, and which of it.
    list: usize,
    range: Range<usize>,
}

impl TokenParts {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.lists.iter().map(Vec::len).sum()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tokens of each part, in the order of the text.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> {
        self.parts.iter().map(|part| &self.lists[part.list][part.range.clone()])
    }

    /// All tokens in one list.
    pub fn concat(mut self) -> Vec<u32> {
        if self.lists.len() == 1 {
            return self.lists.remove(0);
        }
        let mut all = list_with_room(self.len());
        self.iter().for_each(|ids| all.extend_from_slice(ids));
        all
    }
}

impl From<Vec<u32>> for TokenParts {
    fn from(ids: Vec<u32>) -> Self {
        Self { parts: vec![Part { number: 0, list: 0, range: 0..ids.len() }], lists: vec![ids] }
    }
}

/// The tokens of a text. Each thread of the current rayon pool calls `work` at most once, with its share of the parts.
pub(crate) fn encode(text: &str, work: impl Fn(&mut Share) + Sync) -> TokenParts {
    let threads = rayon::current_num_threads();
    let queue = Queue { threads, rest: Mutex::new((0, text)) };
    let all = Mutex::new(TokenParts::default());
    rayon::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|_| {
                let mut share = Share::new(&queue, text.len() / threads);
                work(&mut share);
                let mut all = lock(&all);
                let list = all.lists.len();
                all.parts.extend(share.parts.into_iter().map(|(number, range)| Part { number, list, range }));
                all.lists.push(share.ids);
            });
        }
    });
    let mut all = all.into_inner().unwrap_or_else(|e| e.into_inner());
    all.parts.sort_unstable_by_key(|part| part.number);
    all
}

/// What is left of a text.
struct Queue<'t> {
    threads: usize,
    /// The number of the next part, and the text from there on.
    rest: Mutex<(usize, &'t str)>,
}

impl<'t> Queue<'t> {
    /// The next part and its number; it ends with letters, or with the text.
    fn next(&self) -> Option<(usize, &'t str)> {
        let mut state = lock(&self.rest);
        let (number, rest) = *state;
        let least = (rest.len() / (SHARE * self.threads)).max(FEWEST);
        let (part, rest) = rest.split_at(after_letters(rest, least.min(rest.len())));
        *state = (number + 1, rest);
        (!part.is_empty()).then_some((number, part))
    }
}

/// The parts that one thread has taken.
pub(crate) struct Share<'t> {
    queue: &'t Queue<'t>,
    ids: Vec<u32>,
    /// The number of each part, and where its tokens stand.
    parts: Vec<(usize, Range<usize>)>,
}

impl<'t> Share<'t> {
    /// Of about so many bytes.
    fn new(queue: &'t Queue<'t>, bytes: usize) -> Self {
        // Most texts have a token for every third byte or fewer; and some threads get more done than others.
        Self { queue, ids: list_with_room(bytes / 2), parts: Vec::new() }
    }

    /// Takes parts until there are no more; `encode` appends the tokens of each, and hears whether it begins the text.
    pub(crate) fn take_all(&mut self, mut encode: impl FnMut(&str, bool, &mut Vec<u32>)) {
        while let Some((number, part)) = self.queue.next() {
            let from = self.ids.len();
            encode(part, number == 0, &mut self.ids);
            self.parts.push((number, from..self.ids.len()));
        }
    }
}

/// Nothing panics while it holds one of the locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_text_and_grow_shorter() {
        let text = "a line of words\n \n\n".repeat(50_000);
        let queue = Queue { threads: 2, rest: Mutex::new((0, text.as_str())) };
        let all: Vec<(usize, &str)> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(all.iter().map(|(_, part)| *part).collect::<String>(), text);
        let mut rest = text.len();
        for (number, (given, part)) in all.iter().enumerate() {
            assert_eq!(*given, number);
            let (share, last) = ((rest / 4).max(FEWEST), number + 1 == all.len());
            assert!(part.len() < share + 20 && (last || part.len() >= share));
            assert!(last || part.ends_with(|c: char| c.is_ascii_lowercase()));
            rest -= part.len();
        }
        assert!(all.len() > 10);
    }

    /// Whoever takes them, the tokens are in the order of the text.
    #[test]
    fn tokens_are_in_the_order_of_the_text() {
        let text: String = (0..60_000).map(|n| format!("{n} is a number\n")).collect();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        for slow in [false, true] {
            let encoded = pool.install(|| {
                encode(&text, |share| {
                    share.take_all(|part, first, ids| {
                        assert_eq!(first, part.starts_with("0 "));
                        if slow {
                            std::thread::yield_now();
                        }
                        ids.extend(part.bytes().map(u32::from));
                    });
                })
            });
            let expected: Vec<u32> = text.bytes().map(u32::from).collect();
            assert_eq!((encoded.len(), encoded.is_empty()), (text.len(), false));
            assert!(encoded.iter().count() > 10);
            assert_eq!(encoded.iter().flatten().copied().collect::<Vec<u32>>(), expected);
            assert_eq!(encoded.concat(), expected);
        }
        assert!(encode("", |share| share.take_all(|_, _, _| unreachable!())).is_empty());
    }
}
