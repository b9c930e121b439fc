//! The split rule of Llama 3 on 64 bytes at once: one bit a byte for each class of characters, and shifts and masks
//! instead of a branch per character.
//!
//! A window begins where a piece begins. Beginnings are trusted only where the window shows all that the rule looks at:
//! up to the first character that is not known (here those above 0x7f, in `wide` only the rare ones), and a few bytes
//! before the end. What a window cannot settle (a long piece, the end of the text) is left to [`piece_end`].

use super::classes::Classes;
use super::llama3::piece_end;

/// Bytes of a window.
const WINDOW: usize = 64;
/// Bytes at the end of a window that are only looked at: a contraction reaches three bytes ahead.
pub(super) const AHEAD: u32 = 4;
/// Room for ends that is worth a call of [`piece_ends`], which looks at some thousand bytes at once.
pub(crate) const ENDS: usize = 1024;
/// Most pieces of a window.
pub(crate) const MOST: usize = WINDOW;

/// One bit for each byte of a window, the first lowest. All bytes of a character have its bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Masks {
    pub(super) letters: u64,
    /// `0` to `9`
    pub(super) digits: u64,
    pub(super) spaces: u64,
    /// ASCII whitespace besides the space and newlines.
    pub(super) blanks: u64,
    /// `\r` and `\n`
    pub(super) newlines: u64,
    pub(super) symbols: u64,
    /// Bytes of a character after its first.
    pub(super) continuing: u64,
    pub(super) apostrophes: u64,
    /// How many bytes from the first are known, and known to be followed by enough others.
    pub(super) known: u32,
}

impl Masks {
    /// A mask with the other bytes of the characters whose first bytes it has; of three bytes at most. `before` is the
    /// result for the bytes before, where a character may have begun.
    #[inline(always)]
    pub(super) fn whole(first: u64, continuing: u64, before: u64) -> u64 {
        let second = (first << 1 | before >> 63) & continuing;
        first | second | (second << 1 & continuing)
    }
}

/// Room that [`piece_ends`] works in.
pub(crate) struct Workspace {
    #[cfg(target_arch = "x86_64")]
    wide: super::wide::Workspace,
}

impl Workspace {
    pub(crate) const NEW: Self = Self {
        #[cfg(target_arch = "x86_64")]
        wide: super::wide::Workspace::NEW,
    };
}

/// Writes the ends of the pieces from `start` on, where one begins, until the text or the room for them ends (`ends` has
/// room for more than [`MOST`]); how many.
pub(crate) fn piece_ends(
    classes: &Classes,
    text: &[u8],
    start: usize,
    ends: &mut [usize],
    workspace: &mut Workspace,
) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        if super::wide::is_supported() {
            // SAFETY: the instructions are there.
            return unsafe { super::wide::piece_ends(classes, text, start, ends, &mut workspace.wide) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
            // SAFETY: the instructions are there.
            return unsafe { x86::by_avx2(classes, text, start, ends) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = workspace;
    fill(classes, text, start, ends, None::<fn(&[u8; WINDOW]) -> Masks>)
}

#[inline(always)]
fn fill(
    classes: &Classes,
    text: &[u8],
    start: usize,
    ends: &mut [usize],
    masks: Option<impl Fn(&[u8; WINDOW]) -> Masks>,
) -> usize {
    let (mut at, mut count) = (start, 0);
    while at < text.len() && count + MOST < ends.len() {
        if let Some(masks) = &masks
            && let Some(window) = text[at..].first_chunk::<WINDOW>()
            // Other alphabets are not for windows.
            && (window[0] | window[1] | window[2]) < 0x80
        {
            let settled = ends_of(beginnings(window, masks(window)), at, &mut ends[count..]);
            if settled > 0 {
                count += settled;
                at = ends[count - 1];
                continue;
            }
        }
        at = piece_end(classes, text, at);
        ends[count] = at;
        count += 1;
    }
    count
}

/// From bits to places; how many.
#[inline(always)]
fn ends_of(mut bits: u64, start: usize, ends: &mut [usize]) -> usize {
    let count = bits.count_ones() as usize;
    // Eight at a time whatever their number, so that nothing is to be predicted but how many eights.
    for eight in ends[..MOST].as_chunks_mut::<8>().0 {
        for end in eight {
            *end = start + bits.trailing_zeros() as usize;
            bits &= bits.wrapping_sub(1);
        }
        if bits == 0 {
            break;
        }
    }
    count
}

/// Where pieces begin after the first byte, as far as it can be trusted.
#[inline(always)]
pub(super) fn beginnings(window: &[u8], masks: Masks) -> u64 {
    let Masks { letters, digits, spaces, blanks, newlines, symbols, continuing, apostrophes, known } = masks;
    let before = |mask: u64| mask << 1;
    let gaps = spaces | blanks;
    // Symbols go together, with a space before them and newlines after them.
    let symbol = symbols & !before(symbols) & !before(spaces);
    let newline = newlines & !before(newlines | gaps | symbols);
    // Of several blanks in a row the last one begins a piece of its own, for what follows may take it.
    let last = gaps & !(continuing >> 1) & !((gaps | newlines) >> 1);
    let gap = gaps & (!before(gaps) | (last & !continuing) | (last & continuing) >> 1);
    // One character that is no newline, letter or digit, and begins a piece, takes the letters after it.
    let letter = letters & !before(letters | gaps | Masks::whole(symbol, continuing, 0));
    let mut found = letter | symbol | newline | gap | (digits & !before(digits));
    // Digits go in threes: a digit with three before it begins a piece, and the two after it do not.
    let mut fourth = digits & digits << 1 & digits << 2 & digits << 3;
    while fourth != 0 {
        let at = fourth.trailing_zeros();
        found |= 1 << at;
        fourth &= !(7 << at);
    }
    // A run of whitespace with newlines inside is one piece up to the last of them; those after symbols are not of the run.
    let mut inside = if gaps & newlines >> 1 == 0 { 0 } else { gaps & before(newlines) };
    while inside != 0 {
        let at = inside.trailing_zeros();
        let run = (gaps | newlines) & !(((gaps | newlines) >> at).wrapping_add(1) << at);
        let newlines_after = newlines & run & u64::MAX << at;
        if newlines_after != 0 {
            let line = (!newlines & ((1 << at) - 1)).leading_zeros();
            let apart = line < u64::BITS && symbols >> (63 - line) & 1 != 0;
            let to_last = u64::MAX >> newlines_after.leading_zeros();
            found &= !(to_last & u64::MAX << at) | u64::from(apart) << at;
        }
        inside &= inside - 1;
    }
    // Whitespace that reaches the end of what is known may go on to a newline: then only its beginning is certain.
    let solid = !(gaps | newlines) & ((1u64 << known) - 1);
    let trusted = known.saturating_sub(1).min(u64::BITS - solid.leading_zeros() + 1);
    let trusted = (1u64 << trusted) - 1;
    let mut contractions = apostrophes & (symbol | 1) & trusted;
    while contractions != 0 {
        let at = contractions.trailing_zeros() as usize;
        let after = match [window[at + 1] | 0x20, window[at + 2] | 0x20] {
            [b's' | b't' | b'm' | b'd', _] => at + 2,
            [b'r' | b'v', b'e'] | [b'l', b'l'] => at + 3,
            _ => WINDOW - 1,
        };
        found |= letters & 1 << after;
        contractions &= contractions - 1;
    }
    found & trusted & !1
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{AHEAD, Classes, Masks, WINDOW, fill};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub(super) fn by_avx2(classes: &Classes, text: &[u8], start: usize, ends: &mut [usize]) -> usize {
        fill(classes, text, start, ends, Some(|window: &[u8; WINDOW]| avx2(window)))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn avx2(window: &[u8; WINDOW]) -> Masks {
        // SAFETY: 64 bytes are there.
        let halves = unsafe {
            [_mm256_loadu_si256(window.as_ptr().cast()), _mm256_loadu_si256(window[32..].as_ptr().cast())]
        };
        let join = |low: __m256i, high: __m256i| {
            u64::from(_mm256_movemask_epi8(low) as u32) | u64::from(_mm256_movemask_epi8(high) as u32) << 32
        };
        let both = |f: &dyn Fn(__m256i) -> __m256i| join(f(halves[0]), f(halves[1]));
        let is = |byte: u8| both(&|bytes| _mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(byte as i8)));
        let within = |first: u8, last: u8, fold: i8| {
            both(&|bytes| {
                let bytes = _mm256_or_si256(bytes, _mm256_set1_epi8(fold));
                let from = _mm256_sub_epi8(bytes, _mm256_set1_epi8(first as i8));
                _mm256_cmpeq_epi8(_mm256_min_epu8(from, _mm256_set1_epi8((last - first) as i8)), from)
            })
        };
        let (letters, digits) = (within(b'a', b'z', 0x20), within(b'0', b'9', 0));
        let (spaces, blanks) = (is(b' '), is(b'\t') | within(0x0b, 0x0c, 0));
        let newlines = is(b'\n') | is(b'\r');
        let high = join(halves[0], halves[1]);
        let symbols = !(letters | digits | spaces | blanks | newlines | high);
        let apostrophes = is(b'\'');
        let known = high.trailing_zeros().min(WINDOW as u32 - AHEAD + 1);
        Masks { letters, digits, spaces, blanks, newlines, symbols, continuing: 0, apostrophes, known }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::classes::CLASSES;
    use super::super::llama3::piece_end;
    use super::*;

    /// Texts of characters that the rule treats differently, in runs, from a seed.
    fn text(mut seed: u64) -> String {
        const CHARACTERS: [&str; 26] = [
            "a", "T", "s", "M", "d", "re", "ll", "ve", "'", "'", " ", " ", " ", "\n", "\r", "\t", "\x0b",
            ".", "(", "-", "1", "7", "x", "é", "世", "\u{a0}",
        ];
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize
        };
        let mut text = String::new();
        while text.len() < 300 {
            let some = if next() % 3 == 0 { CHARACTERS.len() } else { CHARACTERS.len() - 3 };
            let character = CHARACTERS[next() % some];
            let most = if next() % 8 == 0 { 12 } else { 2 };
            for _ in 0..=next() % most {
                text.push_str(character);
            }
        }
        text
    }

    fn check(mut by: impl FnMut(&[u8], usize, &mut [usize]) -> usize) {
        for seed in 0..20_000 {
            check_text(&text(seed), &mut by);
        }
    }

    /// Whether all pieces of a text end where the rule by hand says.
    pub(in super::super) fn check_text(text: &str, mut by: impl FnMut(&[u8], usize, &mut [usize]) -> usize) {
        let bytes = text.as_bytes();
        for room in [2 * MOST, ENDS] {
            let mut start = 0;
            while start < bytes.len() {
                let mut ends = [0; ENDS];
                let count = by(bytes, start, &mut ends[..room]);
                assert!(count > 0);
                for &end in &ends[..count] {
                    assert_eq!(end, piece_end(&CLASSES, bytes, start), "byte {start} of {text:?}");
                    start = end;
                }
            }
        }
    }

    #[test]
    fn pieces_end_where_the_rule_says() {
        let mut workspace = Workspace::NEW;
        check(|text, start, ends| piece_ends(&CLASSES, text, start, ends, &mut workspace));
        check(|text, start, ends| fill(&CLASSES, text, start, ends, None::<fn(&[u8; WINDOW]) -> Masks>));
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
            // SAFETY: the instructions are there.
            check(|text, start, ends| unsafe { x86::by_avx2(&CLASSES, text, start, ends) });
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn windows_settle_most_of_english() {
        if is_x86_feature_detected!("avx2") {
            let window = b"The herd isn't far: 1234567 cows, (one calf)  and a dog...\n\nStay";
            let window = window.first_chunk().unwrap();
            // SAFETY: the instructions are there.
            let masks = unsafe { x86::avx2(window) };
            let mut ends = [0; MOST];
            let count = ends_of(beginnings(window, masks), 0, &mut ends);
            let pieces = ends[..count].iter().scan(0, |start, &end| {
                let piece = &window[*start..end];
                *start = end;
                Some(std::str::from_utf8(piece).unwrap())
            });
            let pieces = pieces.collect::<Vec<_>>();
            let wanted = [
                "The", " herd", " isn", "'t", " far", ":", " ", "123", "456", "7", " cows", ",", " (", "one",
                " calf", ")", " ", " and", " a", " dog",
            ];
            assert_eq!(pieces, wanted);
        }
    }
}
