//! Encoding beside byte-pair encoding written plainly, on vocabularies made to be difficult: tokens cut out of text at
//! any byte, so that they begin and end inside characters and many cannot be reached by merging.

use herd_tokenizer::{Tokenizer, pieces};
use std::collections::HashMap;

const CORPUS: &str = include_str!("golden/corpus.txt");

/// splitmix64
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// tiktoken's rule: a piece that is a token is that token; else merge the neighbours whose concatenation has the lowest
/// rank, the leftmost first.
fn reference(ranks: &HashMap<Vec<u8>, u32>, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    for piece in pieces(text) {
        let mut parts: Vec<Vec<u8>> = piece.bytes().map(|b| vec![b]).collect();
        if ranks.contains_key(piece.as_bytes()) {
            parts = vec![piece.as_bytes().to_vec()];
        }
        let lowest = |parts: &[Vec<u8>]| {
            (1..parts.len()).filter_map(|i| Some((*ranks.get(&parts[i - 1..=i].concat())?, i))).min()
        };
        while let Some((_, i)) = lowest(&parts) {
            let right = parts.remove(i);
            parts[i - 1].extend(right);
        }
        ids.extend(parts.iter().map(|part| ranks[part]));
    }
    ids
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0u32, |bits, &b| bits << 8 | u32::from(b)) << (8 * (3 - three.len()));
        let digit = |i: usize| char::from(DIGITS[(bits >> (18 - 6 * i)) as usize & 63]);
        (0..4).for_each(|i| out.push(if i <= three.len() { digit(i) } else { '=' }));
    }
    out
}

#[test]
fn encoding_is_that_of_the_plain_rule() {
    let mut random = Random(5);
    let folder = tempfile::tempdir().unwrap();
    // The part with many scripts and the code; Shakespeare alone would be easy.
    let text = &CORPUS[CORPUS.find("All human beings").unwrap()..];
    for (round, longest) in [3, 5, 9, 24].into_iter().enumerate() {
        let mut ranks: HashMap<Vec<u8>, u32> = (0..=255u8).map(|b| (vec![b], u32::from(b))).collect();
        while ranks.len() < 2500 {
            let length = 2 + random.below(longest - 1);
            let start = random.below(text.len() - length);
            let rank = ranks.len() as u32;
            ranks.entry(text.as_bytes()[start..start + length].to_vec()).or_insert(rank);
        }
        let mut lines: Vec<_> = ranks.iter().map(|(token, rank)| (rank, base64(token))).collect();
        lines.sort();
        let file: String = lines.iter().map(|(rank, token)| format!("{token} {rank}\n")).collect();
        let path = folder.path().join("tokenizer.model");
        std::fs::write(&path, file).unwrap();
        let tokenizer = Tokenizer::load(&path).unwrap();

        let characters: Vec<char> = text.chars().collect();
        for _ in 0..400 {
            // Stretches of the text without spaces in between, so that pieces become long.
            let mut sample = String::new();
            for _ in 0..1 + random.below(12) {
                let length = 1 + random.below(20);
                let start = random.below(characters.len() - length);
                let keep_spaces = random.below(2) == 0;
                sample.extend(characters[start..start + length].iter().filter(|c| keep_spaces || **c != ' '));
            }
            let expected = reference(&ranks, &sample);
            assert_eq!(tokenizer.encode(&sample), expected, "round {round}: {sample:?}");
            assert_eq!(tokenizer.encode(&sample), expected, "round {round}, again: {sample:?}");
        }
        assert_eq!(tokenizer.encode(text), reference(&ranks, text), "round {round}");
    }
}

/// Time must not grow with the square of a piece's length: these take many minutes if it does.
#[test]
fn long_pieces_take_no_time() {
    let tokenizer = Tokenizer::load(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).unwrap();
    for unit in ["a", "ab", "语", "=", "\u{301}", "\n", " ", "é", "0"] {
        let text = unit.repeat(300_000);
        let ids = tokenizer.encode(&text);
        assert_eq!(tokenizer.decode(&ids), text);
    }
}

#[test]
fn parallel_encoding_gives_the_same_ids() {
    let lines = "Lines of words,\n\n  and 1234 numbers;\nsome end\r\nlike this.\n \nЭто\n\nстрока。他说：\n　　好。\n";
    let text = format!("{}{}", lines.repeat(8_000), "字。\n".repeat(60_000));
    let tokenizer = herd_tokenizer::train::train(&[&text[..5000]], &small()).unwrap();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let parts = pool.install(|| tokenizer.encode_parallel(&text));
    assert!(parts.iter().count() > 10);
    assert_eq!(parts.concat(), tokenizer.encode(&text));
}

fn small() -> herd_tokenizer::train::Settings {
    herd_tokenizer::train::Settings { vocab_size: 600, ..Default::default() }
}
