//! Classes of 64 bytes of text at once, one bit for each byte, with AVX-512 VBMI: characters of two and three bytes are
//! looked up in registers.

use super::classes::Class;
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
    /// Quotation marks and dashes, U+2000 to U+203F.
    marks: [u8; 64],
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
            marks: std::array::from_fn(|low| kind(0x2000 + low)),
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

/// Bytes that are classified at once.
pub(super) const BLOCK: usize = 64;
/// Bytes that a block reads: the bytes of its last character may stand behind it.
pub(super) const READ: usize = BLOCK + 2;
/// One bit for each byte of a block; of characters of several bytes only the first has it.
pub(super) struct Block {
    pub(super) letters: u64,
    pub(super) digits: u64,
    pub(super) spaces: u64,
    pub(super) blanks: u64,
    pub(super) newlines: u64,
    pub(super) symbols: u64,
    /// First bytes of characters that may be anything.
    pub(super) unknown: u64,
    pub(super) continuing: u64,
    pub(super) apostrophes: u64,
}

#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
#[inline]
pub(super) fn classify(tables: &Tables, window: &[u8; READ]) -> Block {
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
    let first = high & _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(0xc0_u8 as i8));
    // What the tables say of the character that begins with each byte; meaningless for bytes inside characters.
    let mut kinds = _mm512_permutexvar_epi8(bytes, table(&tables.first));
    let asks = |kinds, of: u64| _mm512_mask_test_epi8_mask(of, kinds, _mm512_set1_epi8(ASK as i8));
    let mut ask = asks(kinds, first);
    // What every sentence of Chinese and Japanese has goes without a turn of its own, and without a branch.
    let three = ask & _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(0xe0_u8 as i8));
    if three != 0 {
        let (second, third) = (after(1), after(2));
        let chinese = three & is(bytes, 0xe4);
        kinds = _mm512_mask_permutexvar_epi8(kinds, chinese, second, table(&tables.second[32 + 4]));
        let marks = three & is(bytes, 0xe2) & is(second, 0x80);
        kinds = _mm512_mask_permutexvar_epi8(kinds, marks, third, table(&tables.marks));
        // Six bits of the third byte and two of the second (0xd8: where the last has a bit, the second, else the first).
        let place =
            _mm512_ternarylogic_epi64::<0xd8>(_mm512_slli_epi16::<6>(second), third, _mm512_set1_epi8(0x3f));
        let of = |tables: &[[u8; 64]]| _mm512_permutex2var_epi8(table(&tables[0]), place, table(&tables[1]));
        let kana = three & is(bytes, 0xe3) & _mm512_cmplt_epu8_mask(second, _mm512_set1_epi8(0x84_u8 as i8));
        let later = _mm512_mask_test_epi8_mask(kana, second, _mm512_set1_epi8(2));
        kinds = _mm512_mask_mov_epi8(kinds, kana & !later, of(&tables.kana[..2]));
        kinds = _mm512_mask_mov_epi8(kinds, later, of(&tables.kana[2..]));
        let wide = three & is(bytes, 0xef) & is(_mm512_and_si512(second, _mm512_set1_epi8(!1)), 0xbc);
        kinds = _mm512_mask_mov_epi8(kinds, wide, of(&tables.wide_forms));
        ask &= !(chinese | marks | kana | wide);
    }
    // One turn for each first byte, then for each pair of first bytes: few, since texts keep to an alphabet.
    let asked = ask;
    while ask != 0 {
        let lead = window[ask.trailing_zeros() as usize & 63];
        let same = ask & is(bytes, lead);
        ask &= !same;
        let by_second = table(&tables.second[usize::from(lead & 63)]);
        kinds = _mm512_mask_permutexvar_epi8(kinds, same, after(1), by_second);
    }
    let mut ask = if asked == 0 { 0 } else { asks(kinds, asked) };
    while ask != 0 {
        let at = ask.trailing_zeros() as usize & 63;
        let (lead, middle) = (window[at], window[at + 1]);
        let same = ask & is(bytes, lead) & is(after(1), middle);
        ask &= !same;
        let block = tables.third[usize::from(lead & 15) << 6 | usize::from(middle & 63)];
        let by_third = table(&tables.blocks[usize::from(block)]);
        kinds = _mm512_mask_permutexvar_epi8(kinds, same, after(2), by_third);
    }
    let are = |kind: u8| _mm512_mask_test_epi8_mask(first, kinds, _mm512_set1_epi8(kind as i8));
    all.continuing = high & !first;
    all.letters |= are(LETTER);
    all.symbols |= are(SYMBOL);
    all.blanks |= are(BLANK);
    all.unknown = are(UNKNOWN);
}

#[cfg(test)]
mod tests {
    use super::super::classes::CLASSES;
    use super::super::wide::is_supported;
    use super::*;

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
