//! What holds for every text, of any bytes: tried on thousands, and the smallest that fails is shown.

use fancy_regex::Regex;
use herd_tokenizer::train::{Settings, train};
use herd_tokenizer::{Tokenizer, pieces, special_names};
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::LazyLock;

const CORPUS: &str = include_str!("golden/corpus.txt");
/// The published rule, in the words of tiktoken.
const RULE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| train(&[CORPUS], &Settings { vocab_size: 2000, ..Settings::default() }).unwrap());

/// The tokens by their bytes: an id is a rank, since training numbers tokens in the order of merges.
static RANKS: LazyLock<HashMap<Vec<u8>, u32>> = LazyLock::new(|| {
    let all = (0..TOKENIZER.vocab_size() as u32).filter(|&id| !TOKENIZER.is_special(id));
    all.map(|id| (TOKENIZER.token_bytes(id).to_vec(), id)).collect()
});

/// The pieces of a text by the regular expression.
fn split(text: &str) -> Vec<&str> {
    static SPLIT: LazyLock<Regex> = LazyLock::new(|| Regex::new(RULE).unwrap());
    SPLIT.find_iter(text).map(|piece| piece.unwrap().as_str()).collect()
}

/// What Llama 3's rule gives, written as plainly as it can be: in each piece the pair of lowest rank merged
/// until there is none.
fn plainly(text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    for piece in split(text) {
        let piece = piece.as_bytes();
        if let Some(&id) = RANKS.get(piece) {
            ids.push(id);
            continue;
        }
        let mut parts: Vec<Vec<u8>> = piece.iter().map(|&byte| vec![byte]).collect();
        while let Some((_, at)) =
            parts.windows(2).enumerate().filter_map(|(at, two)| Some((*RANKS.get(&two.concat())?, at))).min()
        {
            let right = parts.remove(at + 1);
            parts[at].extend(right);
        }
        ids.extend(parts.iter().map(|part| RANKS[part]));
    }
    ids
}

/// Texts: of any bytes (those that are no UTF-8 replaced), of any characters, of what the rule treats differently, and of
/// parts of the corpus with names of special tokens between them.
fn texts() -> impl Strategy<Value = String> {
    let bytes =
        prop::collection::vec(any::<u8>(), 0..400).prop_map(|b| String::from_utf8_lossy(&b).into_owned());
    let characters = prop::collection::vec(any::<char>(), 0..200).prop_map(String::from_iter);
    let few = "[ a-z'A-Z0-9\n\r\t.,!\u{a0}é世。ー]{0,200}";
    let part = (any::<prop::sample::Index>(), 0..120_usize).prop_map(|(from, length)| {
        let from = CORPUS.ceil_char_boundary(from.index(CORPUS.len()));
        CORPUS[from..CORPUS.ceil_char_boundary((from + length).min(CORPUS.len()))].to_string()
    });
    const PIECES: [&str; 24] = [
        "'s", "'d", "'LL", "'re", "'Ve", "'", " ", "  ", "\n", "\r\n", "\t", "a", "the", "Herd", "12",
        "1234567", ".", "...", "(", "é", "世界", "。", "ー", "\u{a0}",
    ];
    let pieces =
        prop::collection::vec(prop::sample::select(&PIECES[..]), 0..120).prop_map(|parts| parts.concat());
    let name = prop::sample::select(special_names());
    let mixed =
        prop::collection::vec(prop_oneof![4 => part, 1 => name], 0..6).prop_map(|parts| parts.concat());
    prop_oneof![bytes, characters, few, pieces, mixed]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_are_those_of_the_regular_expression(text in texts()) {
        prop_assert_eq!(pieces(&text).collect::<Vec<_>>(), split(&text));
    }

    /// Also cold, warm (twice) and in parts for several threads.
    #[test]
    fn ids_are_those_of_the_plain_rule(text in texts()) {
        let ids = plainly(&text);
        prop_assert_eq!(&TOKENIZER.encode(&text), &ids);
        prop_assert_eq!(&TOKENIZER.encode(&text), &ids);
        prop_assert_eq!(TOKENIZER.encode_parallel(&text).concat(), &ids[..]);
        let mut after = vec![7];
        TOKENIZER.encode_into(&text, &mut after);
        prop_assert_eq!(&after[1..], &ids[..]);
    }

    #[test]
    fn ids_decode_to_the_text_and_none_is_special(text in texts()) {
        let ids = TOKENIZER.encode(&text);
        prop_assert!(ids.iter().all(|&id| !TOKENIZER.is_special(id)));
        prop_assert_eq!(TOKENIZER.decode_bytes(&ids), text.as_bytes());
        let allowed = TOKENIZER.encode_with_special(&text);
        prop_assert_eq!(TOKENIZER.decode(&allowed), &text[..]);
        let named: usize = special_names().iter().map(|name| text.matches(name.as_str()).count()).sum();
        prop_assert_eq!(allowed.iter().filter(|&&id| TOKENIZER.is_special(id)).count(), named);
    }

    /// Any ids at all decode to something, by the token as at once.
    #[test]
    fn any_ids_decode(ids in prop::collection::vec(any::<u32>().prop_map(|id| id % 2100), 0..100)) {
        let whole = TOKENIZER.decode(&ids);
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| TOKENIZER.token_bytes(id)).copied().collect();
        prop_assert_eq!(whole, String::from_utf8_lossy(&bytes));
    }
}
