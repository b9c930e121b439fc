//! The windows of [`super::windows`] with AVX-512 VBMI: characters of two and three bytes are classified in registers
//! too, so that other alphabets, Chinese and Japanese go 64 bytes at a time as English does.

use super::blocks::{BLOCK, Block, READ, Tables, classify};
use super::classes::{Class, Classes};
use super::llama3::piece_end;
use super::windows::{AHEAD, MOST, Masks, beginnings};
use std::arch::x86_64::*;

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
pub(super) fn piece_ends(
    classes: &Classes,
    text: &[u8],
    start: usize,
    ends: &mut [usize],
    workspace: &mut Workspace,
) -> usize {
    let Workspace { region, more } = workspace;
    let seen = start + region.fill(&classes.wide, &text[start..]);
    let scan = Scan { classes, text, start, seen, region };
    let mut walk = Walk { at: start, count: 0 };
    if let Some(middle) = region.border((seen - start) / BLOCK).map(|at| start + at) {
        // A window waits for the one before: two walks wait at the same time.
        let mut other = Walk { at: middle, count: 0 };
        while scan.step(&mut walk, ends, middle) & scan.step(&mut other, more, usize::MAX) {}
        while scan.step(&mut walk, ends, middle) {}
        if walk.at == middle {
            while scan.step(&mut other, more, usize::MAX) {}
            let room = &mut ends[walk.count..];
            let count = other.count.min(room.len());
            room[..count].copy_from_slice(&more[..count]);
            return walk.count + count;
        }
    } else {
        while scan.step(&mut walk, ends, usize::MAX) {}
    }
    walk.count
}

/// Room for the ends that the second of two walks finds.
const HALF: usize = 768;

/// What is written before it is read in every call; kept, since clearing it would take as long as a part of the work.
pub(super) struct Workspace {
    region: Region,
    more: [usize; HALF],
}

impl Workspace {
    pub(super) const NEW: Self = Self { region: Region::EMPTY, more: [0; HALF] };
}

/// What is looked at for pieces.
struct Scan<'s> {
    classes: &'s Classes,
    text: &'s [u8],
    /// Where the region begins and ends.
    start: usize,
    seen: usize,
    region: &'s Region,
}

/// How far pieces were found, and how many.
struct Walk {
    at: usize,
    count: usize,
}

impl Scan<'_> {
    /// Writes the ends of some pieces, none beyond `limit`, where one ends; false if no more can be found.
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt")]
    #[inline]
    fn step(&self, walk: &mut Walk, ends: &mut [usize], limit: usize) -> bool {
        let &Self { classes, text, start, seen, region } = self;
        let &mut Walk { at, count } = walk;
        if at >= text.len().min(limit) || count + MOST >= ends.len() {
            return false;
        }
        let end = if at + BLOCK > seen {
            // Better go on with a new region, unless the text ends.
            if count > 0 && text.len() - at >= READ {
                return false;
            }
            piece_end(classes, text, at)
        } else {
            let masks = region.window(at - start);
            let found = beginnings(&text[at..], masks) & ((2 << (limit - at).min(62)) - 1);
            if found != 0 {
                let Some(room) = ends[count..].first_chunk_mut::<MOST>() else { return false };
                walk.count += write_places(found, at, room);
                walk.at += 63 - found.leading_zeros() as usize;
                return true;
            }
            // The end of the first piece is not in sight. If it shows nothing but one long run of letters, it goes on with them.
            let last = (masks.known as usize).saturating_sub(1);
            let goes_on = last > 0 && masks.letters >> (last - 1) & 1 != 0;
            if !goes_on || masks.newlines != 0 || text[at] == b'\'' {
                piece_end(classes, text, at)
            } else if let Some(end) = region.letters_end(classes, text, start, at + last, seen) {
                end
            } else if count > 0 {
                return false;
            } else {
                piece_end(classes, text, at)
            }
        };
        ends[count] = end;
        *walk = Walk { at: end, count: count + 1 };
        true
    }
}

/// Blocks of a region.
const BLOCKS: usize = 65;
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
            // The region after this one; what the processor fetches by itself comes late after each pause.
            let ahead = text.as_ptr().wrapping_add((blocks + BLOCKS) * BLOCK);
            _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
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

    /// A place near the middle of the region where a piece certainly ends: after a letter, before anything else.
    fn border(&self, blocks: usize) -> Option<usize> {
        (blocks / 2..blocks.saturating_sub(2)).find_map(|block| {
            let before = block.checked_sub(1).map_or(0, |before| self.letters[before] >> 63);
            let others = self.spaces[block] | self.blanks[block] | self.newlines[block] | self.symbols[block];
            let ends = (self.letters[block] << 1 | before) & (others | self.digits[block]);
            (ends != 0).then(|| block * BLOCK + ends.trailing_zeros() as usize)
        })
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

#[cfg(test)]
mod tests {
    use super::super::classes::CLASSES;
    use super::super::windows::tests::check_text;
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
        let mut workspace = Workspace::NEW;
        // Some reach beyond a region.
        for seed in 0..4_000 {
            let size = if seed % 40 == 0 { 3 * BLOCKS * BLOCK } else { 400 };
            // SAFETY: the instructions are there.
            check_text(&text(seed, size), |bytes, start, ends| unsafe {
                piece_ends(&CLASSES, bytes, start, ends, &mut workspace)
            });
        }
    }

    #[test]
    fn a_piece_ends_where_the_rule_says_from_every_character_and_before_every_end() {
        if !is_supported() {
            return;
        }
        let mut workspace = Workspace::NEW;
        for seed in 0..200 {
            let text = text(seed, 150);
            for (start, _) in text.char_indices() {
                for end in (start + 1..=text.len()).filter(|&end| text.is_char_boundary(end)) {
                    let bytes = &text.as_bytes()[..end];
                    let mut ends = [0; 2 * MOST];
                    // SAFETY: the instructions are there.
                    let count = unsafe { piece_ends(&CLASSES, bytes, start, &mut ends, &mut workspace) };
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
}
