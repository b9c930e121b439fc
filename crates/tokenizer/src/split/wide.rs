//! The windows of [`super::windows`] with AVX-512 VBMI: characters of two and three bytes are classified in registers
//! too, so that other alphabets, Chinese and Japanese go 64 bytes at a time as English does.

use super::classes::{Class, Classes};
use super::llama3::piece_end;
use super::windows::{AHEAD, MOST, Masks, beginnings};
use std::arch::x86_64::*;

/// What a table says of the characters that share some first bytes: bits, so that one instruction tests for each.
const LETTER: u8 = 1;
const SYMBOL: u8 = 2;
/// Rare enough to be left to the rule by hand: numbers beyond ASCII, most blanks, characters of four bytes.
const UNKNOWN: u8 = 4;
/// Another byte has to be looked at.
const ASK: u8 = 8;
/// White space of two bytes.
const BLANK: u8 = 16;

/// Classes by the first, second and third byte of a character; each look-up is of the low six bits of a byte.
pub(super) struct Tables {
    /// By the first byte, from 0xc0.
    first: [u8; 64],
    /// By the second byte, for each first byte.
    second: Box<[[u8; 64]; 64]>,
    /// Which of `blocks` has the third bytes, by the first two (four and six bits).
    third: Box<[u16; 1024]>,
    blocks: Vec<[u8; 64]>,
    /// Punctuation of Chinese and Japanese and the syllables of Japanese, U+3000 to U+30FF.
    kana: [[u8; 64]; 4],
    /// Their wide forms, U+FF00 to U+FF7F.
    wide_forms: [[u8; 64]; 2],
}

impl Tables {
    pub(super) fn new(class: impl Fn(usize) -> Class) -> Self {
        let kind = |code: usize| match class(code) {
            // U+017F is an `s` to the rule's contractions.
            _ if code == 0x17f => UNKNOWN,
            Class::Letter => LETTER,
            Class::Other => SYMBOL,
            Class::Blank if (0x80..0x800).contains(&code) => BLANK,
            Class::Number | Class::Space | Class::Blank | Class::Newline => UNKNOWN,
        };
        let shared = |kinds: &[u8; 64]| if kinds.iter().all(|&k| k == kinds[0]) { kinds[0] } else { ASK };
        let mut tables = Self {
            first: [UNKNOWN; 64],
            second: Box::new([[UNKNOWN; 64]; 64]),
            third: Box::new([0; 1024]),
            blocks: Vec::new(),
            kana: std::array::from_fn(|i| std::array::from_fn(|low| kind(0x3000 + 64 * i + low))),
            wide_forms: std::array::from_fn(|i| std::array::from_fn(|low| kind(0xff00 + 64 * i + low))),
        };
        // 0xc0 to 0xdf begin two bytes, 0xe0 to 0xef three; what no text has (0xc0, surrogates) may be anything.
        for lead in 0..32 {
            tables.second[lead] = std::array::from_fn(|low| kind(lead << 6 | low));
            tables.first[lead] = shared(&tables.second[lead]);
        }
        for lead in 0..16 {
            for middle in 0..64 {
                let block = std::array::from_fn(|low| kind(lead << 12 | middle << 6 | low));
                let known = tables.blocks.iter().position(|other| *other == block);
                tables.third[lead << 6 | middle] = known.unwrap_or(tables.blocks.len()) as u16;
                if known.is_none() {
                    tables.blocks.push(block);
                }
                tables.second[32 + lead][middle] = shared(&block);
            }
            tables.first[32 + lead] = shared(&tables.second[32 + lead]);
        }
        tables
    }
}

/// Whether this processor has the instructions.
#[inline]
pub(super) fn is_supported() -> bool {
    is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
}

/// See [`super::windows::piece_ends`].
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
pub(super) fn piece_ends(classes: &Classes, text: &[u8], start: usize, ends: &mut [usize]) -> usize {
    let mut region = Region::EMPTY;
    let seen = start + region.fill(&classes.wide, &text[start..]);
    let (mut at, mut count) = (start, 0);
    while at < text.len() && count + MOST < ends.len() {
        if at + BLOCK > seen {
            // Better go on with a new region, unless the text ends.
            if count > 0 && text.len() - at >= READ {
                break;
            }
            at = piece_end(classes, text, at);
            ends[count] = at;
            count += 1;
            continue;
        }
        let masks = region.window(at - start);
        let found = beginnings(&text[at..], masks);
        if found != 0 {
            let Some(room) = ends[count..].first_chunk_mut::<MOST>() else { break };
            count += write_places(found, at, room);
            at += 63 - found.leading_zeros() as usize;
            continue;
        }
        // The end of the first piece is not in sight. If it shows nothing but one long run of letters, it goes on with them.
        let last = (masks.known as usize).saturating_sub(1);
        let goes_on = last > 0 && masks.letters >> (last - 1) & 1 != 0;
        at = if !goes_on || masks.newlines != 0 || text[at] == b'\'' {
            piece_end(classes, text, at)
        } else if let Some(end) = region.letters_end(classes, text, start, at + last, seen) {
            end
        } else if count > 0 {
            break;
        } else {
            piece_end(classes, text, at)
        };
        ends[count] = at;
        count += 1;
    }
    count
}

/// Bytes that are classified at once.
const BLOCK: usize = 64;
/// Bytes that a block reads: the bytes of its last character may stand behind it.
const READ: usize = BLOCK + 2;
/// Blocks of a region.
const BLOCKS: usize = 17;
/// Bytes of a window: as many bits as eight bytes hold wherever in their first byte the window begins.
const WINDOW: u32 = 57;

/// One bit for each byte of the text from some place on, by class. Classified before pieces are looked for, so that one
/// block need not wait for another: where a window begins depends on the one before.
struct Region {
    letters: Bits,
    digits: Bits,
    spaces: Bits,
    blanks: Bits,
    newlines: Bits,
    symbols: Bits,
    unknown: Bits,
    continuing: Bits,
    apostrophes: Bits,
}

/// With a number more than blocks, for windows that begin in the last.
type Bits = [u64; BLOCKS + 1];

impl Region {
    const EMPTY: Self = {
        let none = [0; BLOCKS + 1];
        Self {
            letters: none,
            digits: none,
            spaces: none,
            blanks: none,
            newlines: none,
            symbols: none,
            unknown: none,
            continuing: none,
            apostrophes: none,
        }
    };

    /// Classifies the beginning of a text; how many bytes of it.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    #[inline]
    fn fill(&mut self, tables: &Tables, text: &[u8]) -> usize {
        let mut blocks = 0;
        let mut before = (0, 0, 0);
        while blocks < BLOCKS
            && let Some(block) = text.get(blocks * BLOCK..).and_then(|rest| rest.first_chunk::<READ>())
        {
            let Block {
                letters,
                digits,
                spaces,
                blanks,
                newlines,
                symbols,
                unknown,
                continuing,
                apostrophes,
            } = classify(tables, block);
            before.0 = Masks::whole(letters, continuing, before.0);
            before.1 = Masks::whole(symbols, continuing, before.1);
            before.2 = Masks::whole(blanks, continuing, before.2);
            self.letters[blocks] = before.0;
            self.digits[blocks] = digits;
            self.spaces[blocks] = spaces;
            self.blanks[blocks] = before.2;
            self.newlines[blocks] = newlines;
            self.symbols[blocks] = before.1;
            self.unknown[blocks] = unknown;
            self.continuing[blocks] = continuing;
            self.apostrophes[blocks] = apostrophes;
            blocks += 1;
        }
        blocks * BLOCK
    }

    /// The window that begins at a byte of the region.
    #[inline(always)]
    fn window(&self, at: usize) -> Masks {
        assert!(at < BLOCKS * BLOCK);
        // SAFETY: eight bytes stand from every byte but those of the last number on.
        let of = |bits: &Bits| unsafe { bits.as_ptr().byte_add(at / 8).read_unaligned() } >> (at % 8);
        Masks {
            letters: of(&self.letters),
            digits: of(&self.digits),
            spaces: of(&self.spaces),
            blanks: of(&self.blanks),
            newlines: of(&self.newlines),
            symbols: of(&self.symbols),
            continuing: of(&self.continuing),
            apostrophes: of(&self.apostrophes),
            known: of(&self.unknown).trailing_zeros().min(WINDOW - AHEAD + 1),
        }
    }
}

impl Region {
    /// End of `\\p{L}*` from a byte of a letter on, if it is seen before `seen`; the region begins at `start`.
    fn letters_end(
        &self,
        classes: &Classes,
        text: &[u8],
        start: usize,
        from: usize,
        seen: usize,
    ) -> Option<usize> {
        let mut at = from - start;
        while start + at < seen {
            let others = !self.letters[at / BLOCK] >> (at % BLOCK);
            if others == 0 {
                at = (at / BLOCK + 1) * BLOCK;
                continue;
            }
            at += others.trailing_zeros() as usize;
            if self.unknown.get(at / BLOCK)? >> (at % BLOCK) & 1 == 0 {
                break;
            }
            let (class, length) = classes.at(text, start + at);
            if class != Class::Letter {
                break;
            }
            at += length;
        }
        (start + at < seen).then_some(start + at)
    }
}

/// Writes `start` plus the place of each bit, in order, and says how many; after them anything.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
#[inline]
fn write_places(bits: u64, start: usize, out: &mut [usize; MOST]) -> usize {
    const PLACES: [u8; 64] = {
        let mut places = [0; 64];
        let mut i = 0;
        while i < 64 {
            places[i] = i as u8;
            i += 1;
        }
        places
    };
    // SAFETY: 64 bytes are there.
    let places = unsafe { _mm512_loadu_si512(PLACES.as_ptr().cast()) };
    let places = _mm512_maskz_compress_epi8(bits, places);
    let start = _mm512_set1_epi64(start as i64);
    let quarters = [
        _mm512_castsi512_si128(places),
        _mm512_extracti32x4_epi32::<1>(places),
        _mm512_extracti32x4_epi32::<2>(places),
        _mm512_extracti32x4_epi32::<3>(places),
    ];
    let count = bits.count_ones() as usize;
    for (number, (quarter, out)) in quarters.into_iter().zip(out.as_chunks_mut::<16>().0).enumerate() {
        // Half of the places whatever their number: more are rare, and fewer could not be predicted.
        if number == 2 && count <= 32 {
            break;
        }
        let high = _mm_unpackhi_epi64(quarter, quarter);
        for (eight, out) in [quarter, high].into_iter().zip(out.as_chunks_mut::<8>().0) {
            let eight = _mm512_add_epi64(start, _mm512_cvtepu8_epi64(eight));
            // SAFETY: room for eight numbers of 64 bits, which `usize` has wherever this is compiled.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), eight) };
        }
    }
    count
}

/// One bit for each byte of a block; of characters of several bytes only the first has it.
struct Block {
    letters: u64,
    digits: u64,
    spaces: u64,
    blanks: u64,
    newlines: u64,
    symbols: u64,
    /// First bytes of characters that may be anything.
    unknown: u64,
    continuing: u64,
    apostrophes: u64,
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
#[inline]
fn classify(tables: &Tables, window: &[u8; READ]) -> Block {
    // SAFETY: 64 bytes are there.
    let bytes = unsafe { _mm512_loadu_si512(window.as_ptr().cast()) };
    let is = |byte: u8| _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte as i8));
    let within = |bytes, first: u8, count: i8| {
        let from = _mm512_sub_epi8(bytes, _mm512_set1_epi8(first as i8));
        _mm512_cmplt_epu8_mask(from, _mm512_set1_epi8(count))
    };
    let lower = _mm512_or_si512(bytes, _mm512_set1_epi8(0x20));
    let mut block = Block {
        letters: within(lower, b'a', 26),
        digits: within(bytes, b'0', 10),
        spaces: is(b' '),
        blanks: is(b'\t') | within(bytes, 0x0b, 2),
        newlines: is(b'\n') | is(b'\r'),
        symbols: 0,
        unknown: 0,
        continuing: 0,
        apostrophes: is(b'\''),
    };
    let Block { letters, digits, spaces, blanks, newlines, .. } = block;
    let high = _mm512_movepi8_mask(bytes);
    block.symbols = !(letters | digits | spaces | blanks | newlines | high);
    if high != 0 {
        add_high(tables, window, bytes, high, &mut block);
    }
    block
}

/// What bytes above 0x7f are.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
#[inline]
fn add_high(tables: &Tables, window: &[u8; READ], bytes: __m512i, high: u64, all: &mut Block) {
    // SAFETY: every table has 64 bytes.
    let table = |table: &[u8; 64]| unsafe { _mm512_loadu_si512(table.as_ptr().cast()) };
    // SAFETY: 64 bytes stand from each of the first three on.
    let after = |bytes: usize| unsafe { _mm512_loadu_si512(window[bytes..].as_ptr().cast()) };
    let is = |bytes, byte: u8| _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte as i8));
    let (mut letters, mut symbols, mut blanks, mut unknown) = (0, 0, 0, 0);
    // Adds what a table says of some characters, and returns those for which it says that another byte is to be asked.
    let mut add = |kinds, of: u64| {
        let are = |kind: u8| _mm512_mask_test_epi8_mask(of, kinds, _mm512_set1_epi8(kind as i8));
        letters |= are(LETTER);
        symbols |= are(SYMBOL);
        blanks |= are(BLANK);
        unknown |= are(UNKNOWN);
        are(ASK)
    };
    let first = high & _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(0xc0_u8 as i8));
    let mut ask = add(_mm512_permutexvar_epi8(bytes, table(&tables.first)), first);
    // What every sentence of Chinese and Japanese has goes without a turn of its own.
    // Six bits of the third byte and two of the second (0xd8: where the last has a bit, the second, else the first).
    let kana = ask & is(bytes, 0xe3) & _mm512_cmplt_epu8_mask(after(1), _mm512_set1_epi8(0x84_u8 as i8));
    if kana != 0 {
        let place = _mm512_ternarylogic_epi64::<0xd8>(
            _mm512_slli_epi16::<6>(after(1)),
            after(2),
            _mm512_set1_epi8(0x3f),
        );
        let half =
            |i: usize| _mm512_permutex2var_epi8(table(&tables.kana[i]), place, table(&tables.kana[i + 1]));
        let second = _mm512_test_epi8_mask(after(1), _mm512_set1_epi8(2));
        add(_mm512_mask_blend_epi8(second, half(0), half(2)), kana);
        ask &= !kana;
    }
    let wide = ask & is(bytes, 0xef) & is(_mm512_and_si512(after(1), _mm512_set1_epi8(!1)), 0xbc);
    if wide != 0 {
        let place = _mm512_ternarylogic_epi64::<0xd8>(
            _mm512_slli_epi16::<6>(after(1)),
            after(2),
            _mm512_set1_epi8(0x3f),
        );
        let [low, high] = &tables.wide_forms;
        add(_mm512_permutex2var_epi8(table(low), place, table(high)), wide);
        ask &= !wide;
    }
    // U+4DC0 to U+4DFF are the only characters that begin with 0xe4 and are not Chinese.
    let chinese = ask & is(bytes, 0xe4);
    let hexagrams = chinese & is(after(1), 0xb7);
    ask &= !chinese;
    // One turn for each first byte, then for each pair of first bytes: few, since texts keep to an alphabet.
    let mut ask_third = 0;
    while ask != 0 {
        let lead = window[ask.trailing_zeros() as usize & 63];
        let same = ask & is(bytes, lead);
        ask &= !same;
        let kinds = table(&tables.second[usize::from(lead & 63)]);
        ask_third |= add(_mm512_permutexvar_epi8(after(1), kinds), same);
    }
    while ask_third != 0 {
        let at = ask_third.trailing_zeros() as usize & 63;
        let (lead, middle) = (window[at], window[at + 1]);
        let same = ask_third & is(bytes, lead) & is(after(1), middle);
        ask_third &= !same;
        let block = tables.third[usize::from(lead & 15) << 6 | usize::from(middle & 63)];
        add(_mm512_permutexvar_epi8(after(2), table(&tables.blocks[usize::from(block)])), same);
    }
    all.continuing = high & !first;
    all.letters |= letters | (chinese & !hexagrams);
    all.symbols |= symbols;
    all.blanks |= blanks;
    all.unknown = unknown | hexagrams;
}

#[cfg(test)]
mod tests {
    use super::super::classes::CLASSES;
    use super::*;

    /// Unicode in runs: of one character, of one alphabet, and of anything.
    fn text(mut seed: u64, size: usize) -> String {
        let mut next = |below: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((seed >> 33) % u64::from(below)) as u32
        };
        const ALPHABETS: [(u32, u32); 19] = [
            (0x20, 0x5f),
            (0x20, 0x5f),
            (0x09, 5),
            (0x27, 1),
            (0x73, 1),
            (0x80, 0x100),
            (0xa0, 1),
            (0x17f, 1),
            (0x370, 0x200),
            (0x600, 0x180),
            (0x900, 0x200),
            (0x2000, 0x100),
            (0x3000, 0x40),
            (0x3000, 0x100),
            (0x4dc0, 0x80),
            (0x4e00, 0x5200),
            (0xac00, 0x2bb0),
            (0xff00, 0x100),
            (0, 0x11_0000),
        ];
        let mut text = String::new();
        while text.len() < size {
            let (first, count) = ALPHABETS[next(ALPHABETS.len() as u32) as usize];
            let most = [1, 3, 12, 60][next(4) as usize];
            let same = next(3) == 0;
            let mut code = first + next(count);
            for _ in 0..=next(most) {
                text.extend(char::from_u32(code));
                code = if same { code } else { first + next(count) };
            }
        }
        text
    }

    #[test]
    fn pieces_end_where_the_rule_says_in_all_of_unicode() {
        if !is_supported() {
            return;
        }
        for seed in 0..4_000 {
            let text = text(seed, 400);
            let bytes = text.as_bytes();
            let mut start = 0;
            while start < bytes.len() {
                let mut ends = [0; 2 * MOST];
                // SAFETY: the instructions are there.
                let count = unsafe { piece_ends(&CLASSES, bytes, start, &mut ends) };
                assert!(count > 0);
                for &end in &ends[..count] {
                    assert_eq!(
                        end,
                        piece_end(&CLASSES, bytes, start),
                        "seed {seed}, byte {start} of {text:?}"
                    );
                    start = end;
                }
            }
        }
    }

    #[test]
    fn a_piece_ends_where_the_rule_says_from_every_character_and_before_every_end() {
        if !is_supported() {
            return;
        }
        for seed in 0..200 {
            let text = text(seed, 150);
            for (start, _) in text.char_indices() {
                for end in (start + 1..=text.len()).filter(|&end| text.is_char_boundary(end)) {
                    let bytes = &text.as_bytes()[..end];
                    let mut ends = [0; 2 * MOST];
                    // SAFETY: the instructions are there.
                    let count = unsafe { piece_ends(&CLASSES, bytes, start, &mut ends) };
                    assert!(count > 0);
                    let mut at = start;
                    for &found in &ends[..count] {
                        assert_eq!(
                            found,
                            piece_end(&CLASSES, bytes, at),
                            "seed {seed}, {at} of {:?}",
                            &text[..end]
                        );
                        at = found;
                    }
                }
            }
        }
    }

    #[test]
    fn every_character_of_two_and_three_bytes_has_its_class() {
        if !is_supported() {
            return;
        }
        for c in ('\u{80}'..='\u{ffff}').filter(|&c| c != '\u{17f}') {
            let mut window = [b'.'; READ];
            c.encode_utf8(&mut window);
            // SAFETY: the instructions are there.
            let Block { letters, symbols, blanks, unknown, continuing, .. } =
                unsafe { classify(&CLASSES.wide, &window) };
            let bits = (1 << c.len_utf8()) - 1;
            let expected = match CLASSES.at(&window, 0).0 {
                _ if ('\u{4dc0}'..='\u{4dff}').contains(&c) => [0, 0, 0, 1],
                Class::Letter => [1, 0, 0, 0],
                Class::Other => [0, 1, 0, 0],
                Class::Blank if c.len_utf8() == 2 => [0, 0, 1, 0],
                _ => [0, 0, 0, 1],
            };
            assert_eq!([letters, symbols, blanks, unknown].map(|mask| mask & bits), expected, "{c:?}");
            assert_eq!(continuing, bits & !1, "{c:?}");
        }
    }
}
