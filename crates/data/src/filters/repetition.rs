use super::{Filter, Reason, Verdict, words};
use crate::documents::Document;
use crate::domain::is_code_line;
use crate::hash;
use crate::settings::Gopher;

/// Drops documents that say the same words again and again (SPEC DATA-4): logs, error messages, generated lists, whose
/// lines are long and unique, so that line de-duplication misses them. Lines of code are left out: code repeats by
/// nature (SPEC DATA-6). With `gopher` also by the thirteen measures of Rae et al. (arXiv 2112.11446, table A1); all of
/// them come from one tokenisation.
pub struct Repetition {
    /// Words per n-gram.
    pub ngram: usize,
    /// Greatest share of characters in repeated n-grams.
    pub max_share: f32,
    /// Bounds of the measures of Gopher; absent, and they are not taken.
    pub gopher: Option<Gopher>,
}

/// A text cut into words once.
struct Tokens<'a> {
    words: Vec<&'a str>,
    hashes: Vec<u64>,
    /// Bytes before each word, of words alone; one more than there are words.
    before: Vec<usize>,
}

/// Counts n-grams: open addressing over their hashes, which are well mixed.
struct Seen {
    slots: Vec<(u64, u32)>,
}

impl Seen {
    fn new(grams: usize) -> Self {
        Self { slots: vec![(0, 0); (2 * grams).next_power_of_two().max(8)] }
    }

    fn clear(&mut self) {
        self.slots.fill((0, 0));
    }

    /// Counts a hash; how often it came before.
    fn add(&mut self, hash: u64) -> u32 {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at].1 > 0 && self.slots[at].0 != hash {
            at = (at + 1) & mask;
        }
        let slot = &mut self.slots[at];
        *slot = (hash, slot.1 + 1);
        slot.1 - 1
    }
}

impl<'a> Tokens<'a> {
    /// Numbers count as one word each, so that counters and times do not hide a pattern.
    fn of(text: &'a str) -> Self {
        let words: Vec<&str> = words(text).collect();
        let hash = |word: &&str| {
            let number = word.bytes().all(|b| b.is_ascii_digit());
            if number { 1 } else { hash::of_word(word) }
        };
        let hashes = words.iter().map(hash).collect();
        let mut before = vec![0];
        for word in &words {
            before.push(before[before.len() - 1] + word.len());
        }
        Self { words, hashes, before }
    }

    fn characters(&self) -> usize {
        self.before[self.words.len()]
    }

    fn grams(&self, n: usize) -> impl Iterator<Item = u64> {
        self.hashes.windows(n).map(hash::of_sequence)
    }

    /// Share of the characters in n-grams that came before, each character once; and where the first of them begins.
    fn repeated(&self, n: usize, seen: &mut Seen) -> (f32, Option<usize>) {
        if self.words.len() < 2 * n {
            return (0.0, None);
        }
        seen.clear();
        let (mut covered, mut covered_to, mut place) = (0, 0, None);
        for (at, gram) in self.grams(n).enumerate() {
            if seen.add(gram) > 0 {
                covered += self.before[at + n] - self.before[covered_to.max(at)];
                covered_to = at + n;
                place.get_or_insert(at);
            }
        }
        (covered as f32 / self.characters() as f32, place)
    }

    /// Share of the characters in all occurrences of the n-gram that takes most of them; and where it begins. One that
    /// occurs once is none.
    fn top(&self, n: usize, seen: &mut Seen) -> (f32, Option<usize>) {
        if self.words.len() < n {
            return (0.0, None);
        }
        seen.clear();
        let mut best = (0, None);
        for (at, gram) in self.grams(n).enumerate() {
            let times = seen.add(gram) as usize + 1;
            let characters = times * (self.before[at + n] - self.before[at]);
            if times > 1 && characters > best.0 {
                best = (characters, Some(at));
            }
        }
        ((best.0 as f32 / self.characters() as f32).min(1.0), best.1)
    }

    /// The text from a word on.
    fn from<'t>(&self, text: &'t str, place: Option<usize>) -> &'t str {
        let start = place.map_or(0, |at| self.words[at].as_ptr() as usize - text.as_ptr() as usize);
        &text[start..]
    }
}

/// The share of a text's word characters that lie in n-grams seen before in it (each character counts once), and a place
/// where an n-gram repeats.
pub fn repeated_share(text: &str, n: usize) -> (f32, Option<&str>) {
    let tokens = Tokens::of(text);
    let (share, place) = tokens.repeated(n, &mut Seen::new(tokens.words.len()));
    (share, place.map(|_| tokens.from(text, place)))
}

/// Shares of parts (lines, paragraphs) that came before, and of their characters; the first of them.
fn repeated_parts<'a>(parts: impl Iterator<Item = &'a str>) -> (f32, f32, &'a str) {
    let parts: Vec<&str> = parts.map(str::trim).filter(|part| !part.is_empty()).collect();
    let mut seen = Seen::new(parts.len());
    let (mut count, mut characters, mut first) = (0, 0, "");
    for part in &parts {
        if seen.add(hash::of_bytes(part.as_bytes())) > 0 {
            first = if count == 0 { part } else { first };
            count += 1;
            characters += part.len();
        }
    }
    let all: usize = parts.iter().map(|part| part.len()).sum();
    (count as f32 / parts.len().max(1) as f32, characters as f32 / all.max(1) as f32, first)
}

impl Repetition {
    /// Takes the measures of Gopher, each a column; the first that passes its bound.
    fn gopher(
        &self,
        bounds: &Gopher,
        text: &str,
        tokens: &Tokens,
        seen: &mut Seen,
        document: &mut Document,
    ) -> Option<Reason> {
        let mut reason = None;
        let mut judge = |name: &str, value: f32, bound: f32, excerpt: &str| {
            document.values.insert(name.to_string(), value);
            if value > bound && reason.is_none() {
                reason = Some(Reason::new(&name.replace('_', " "), value, bound, excerpt));
            }
        };
        let (lines, of_lines, line) = repeated_parts(text.lines());
        judge("duplicate_lines", lines, bounds.duplicate_lines, line);
        judge("duplicate_line_characters", of_lines, bounds.duplicate_line_characters, line);
        // Herd's texts have a paragraph a line; an empty line ends a longer one.
        let (paragraphs, of_paragraphs, paragraph) = repeated_parts(text.split("\n\n"));
        judge("duplicate_paragraphs", paragraphs, bounds.duplicate_paragraphs, paragraph);
        judge(
            "duplicate_paragraph_characters",
            of_paragraphs,
            bounds.duplicate_paragraph_characters,
            paragraph,
        );
        for (n, bound) in (2..).zip(bounds.top_ngrams) {
            let (share, place) = tokens.top(n, seen);
            judge(&format!("top_{n}gram"), share, bound, tokens.from(text, place));
        }
        for (n, bound) in (5..).zip(bounds.duplicate_ngrams) {
            let (share, place) = tokens.repeated(n, seen);
            judge(&format!("duplicate_{n}grams"), share, bound, tokens.from(text, place));
        }
        reason
    }
}

impl Filter for Repetition {
    fn step(&self) -> &'static str {
        "repetition"
    }

    fn apply(&self, document: &mut Document) -> Verdict {
        let prose: Vec<&str> = document.text.lines().filter(|line| !is_code_line(line)).collect();
        let prose = prose.join("\n");
        let tokens = Tokens::of(&prose);
        let mut seen = Seen::new(tokens.words.len());
        let (share, place) = tokens.repeated(self.ngram, &mut seen);
        document.values.insert("repeated_ngrams".into(), share);
        let mut reason = (share > self.max_share)
            .then(|| Reason::new("repeated n-grams", share, self.max_share, tokens.from(&prose, place)));
        if let Some(bounds) = &self.gopher {
            let other = self.gopher(bounds, &prose, &tokens, &mut seen, document);
            reason = reason.or(other);
        }
        reason.map_or(Verdict::Keep, Verdict::Drop)
    }
}

#[cfg(test)]
mod tests {
    use super::super::document;
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_log_goes_and_prose_stays() {
        let filter = Repetition { ngram: 5, max_share: 0.5, gopher: None };
        let log: String = (0..40)
            .map(|n| format!("[{:.3}] kernel: usb 1-{n}: new high-speed USB device number {n} using the driver xhci_hcd\n", n as f32 * 1.7))
            .collect();
        let Verdict::Drop(reason) = filter.apply(&mut document(&log)) else { panic!("a log was kept") };
        assert!(reason.value > 0.9 && reason.excerpt.contains("kernel"), "{reason:?}");
        let prose = include_str!("../../tests/prose.txt");
        assert_eq!(filter.apply(&mut document(prose)), Verdict::Keep);
        assert!(repeated_share(prose, 5).0 < 0.05);
    }

    #[test]
    fn each_character_counts_once() {
        let (share, _) = repeated_share("a b c d a b c d", 2);
        assert_eq!(share, 3.0 / 8.0 + 1.0 / 8.0, "the second a b, b c, c d cover four of eight characters");
        assert_eq!(repeated_share("a b", 2).0, 0.0);
    }

    #[test]
    fn the_measures_of_gopher() {
        let filter = Repetition { ngram: 5, max_share: 1.0, gopher: Some(Gopher::default()) };
        let prose = include_str!("../../tests/prose.txt");
        let mut page = document(prose);
        assert_eq!(filter.apply(&mut page), Verdict::Keep);
        assert_eq!(page.values.len(), 14, "{:?}", page.values);

        let lines = "one line here\nanother line\none line here\none line here\n\nlast";
        let mut page = document(lines);
        let Verdict::Drop(reason) = filter.apply(&mut page) else { panic!("kept") };
        assert_eq!((reason.rule.as_str(), reason.value, reason.threshold), ("duplicate lines", 0.4, 0.3));
        assert_eq!(reason.excerpt, "one line here");
        assert_eq!(page.values["duplicate_line_characters"], 26.0 / (13.0 * 3.0 + 12.0 + 4.0));
        assert_eq!(page.values["duplicate_paragraphs"], 0.0);

        // "very good" four times among sixteen characters of each two words and eight others.
        let mut page = document("very good very good very good very good aaaaaaaa");
        filter.apply(&mut page);
        assert_eq!(page.values["top_2gram"], 32.0 / 40.0);
        // The bigrams "good very" are covered by those too: all but the first "very good".
        assert_eq!(page.values["duplicate_5grams"], 0.0, "nine words are fewer than two 5-grams");
    }

    /// Against a plain count of all n-grams.
    #[test]
    fn shares_agree_with_a_plain_count() {
        let text: String = (0..600u64).map(|n| format!("w{} ", hash::mix(n) % 7)).collect();
        let tokens = Tokens::of(&text);
        let mut seen = Seen::new(tokens.words.len());
        for n in [2, 3, 4, 5, 10] {
            let words: Vec<&str> = text.split_whitespace().collect();
            let mut counts: HashMap<String, usize> = HashMap::new();
            let mut covered = vec![false; words.len()];
            for at in 0..=words.len() - n {
                let count = counts.entry(words[at..at + n].join(" ")).or_default();
                if *count > 0 {
                    covered[at..at + n].fill(true);
                }
                *count += 1;
            }
            let share = covered.iter().filter(|c| **c).count() as f32 / words.len() as f32;
            assert!((tokens.repeated(n, &mut seen).0 - share).abs() < 1e-6, "{n}");
            let most = counts.values().max().unwrap();
            let top = if *most > 1 { (most * n) as f32 / words.len() as f32 } else { 0.0 };
            assert!((tokens.top(n, &mut seen).0 - top.min(1.0)).abs() < 1e-6, "{n}");
        }
    }
}
