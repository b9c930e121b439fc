use super::Companions;
use crate::bpe::{Merge, Vocabulary};
use crate::{Error, Tokenizer, special_names};
use std::path::Path;

/// Reads lines of `base64(token) rank`. The file has no special tokens; Llama 3.1's 256 are put after it.
pub(super) fn parse(path: &Path, bytes: &[u8], companions: Companions) -> Result<Tokenizer, Error> {
    let wrong = |problem: String| Error::format(path, problem);
    let mut tokens = Vec::new();
    for (number, line) in bytes.split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let mut fields = line.split(|&b| b == b' ');
        let token = fields.next().and_then(base64);
        let rank =
            fields.next().and_then(|f| std::str::from_utf8(f.trim_ascii()).ok()?.parse::<usize>().ok());
        match (token, rank) {
            (Some(token), Some(rank)) if rank == tokens.len() && !token.is_empty() => tokens.push(token),
            _ => {
                return Err(wrong(format!(
                    "line {}: expected `BASE64 {}` (a tiktoken rank file) or a tokenizer.json",
                    number + 1,
                    tokens.len()
                )));
            }
        }
    }
    let all = tokens.clone();
    let template = companions.chat_template;
    Tokenizer::llama3(tokens, |vocabulary| merges(&all, vocabulary), special_names(), template)
        .map_err(|e| wrong(e.to_string()))
}

/// tiktoken merges any two neighbours whose concatenation is a token, lowest rank of the concatenation first: every
/// split of a token into two tokens is a merge of that rank.
fn merges(tokens: &[Vec<u8>], vocabulary: &Vocabulary) -> Vec<Merge> {
    let mut merges = Vec::new();
    for (rank, token) in tokens.iter().enumerate() {
        let from = merges.len();
        for at in 1..token.len() {
            if let (Some(left), Some(right)) = (vocabulary.id(&token[..at]), vocabulary.id(&token[at..])) {
                merges.push(Merge { left, right, result: rank as u32, rank: rank as u32 });
            }
        }
        merges[from..].sort_by_key(|m| (m.left, m.right));
    }
    merges
}

/// Standard alphabet; padding optional.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|&c| c != b'=').map_or(0, |last| last + 1);
    let text = &text[..end];
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    for group in text.chunks(4) {
        let mut bits = 0u32;
        for &c in group {
            let six = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        bits <<= 6 * (4 - group.len());
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len().max(1)]);
    }
    Some(out)
}
