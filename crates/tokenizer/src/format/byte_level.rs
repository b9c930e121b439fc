//! GPT-2's printable names of bytes, in which `tokenizer.json` writes tokens.

use std::sync::LazyLock;

/// Bytes in the order of their printable characters: first those that print as themselves, then the others, which
/// take the characters from U+0100 on. GPT-2 and tiktoken number the single-byte tokens in this order.
pub(crate) fn byte_order() -> impl Iterator<Item = u8> {
    (0..=u8::MAX).filter(|&b| prints(b)).chain((0..=u8::MAX).filter(|&b| !prints(b)))
}

fn prints(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

static CHARS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut chars = ['\0'; 256];
    let mut free = '\u{100}'..;
    for byte in byte_order() {
        chars[usize::from(byte)] =
            if prints(byte) { char::from(byte) } else { free.next().unwrap_or_default() };
    }
    chars
});

/// The printable form of a token.
pub(crate) fn to_text(token: &[u8]) -> String {
    token.iter().map(|&b| CHARS[usize::from(b)]).collect()
}

/// The bytes of a printable form, or the first character that stands for no byte.
pub(crate) fn to_bytes(text: &str) -> Result<Vec<u8>, char> {
    let mut bytes = Vec::with_capacity(text.len());
    append_bytes(text, &mut bytes)?;
    Ok(bytes)
}

/// As [`to_bytes`], behind what `bytes` holds.
pub(crate) fn append_bytes(text: &str, bytes: &mut Vec<u8>) -> Result<(), char> {
    static BYTES: LazyLock<[Option<u8>; 0x144]> = LazyLock::new(|| {
        let mut bytes = [None; 0x144];
        for byte in 0..=u8::MAX {
            bytes[CHARS[usize::from(byte)] as usize] = Some(byte);
        }
        bytes
    });
    let of = &*BYTES;
    for c in text.chars() {
        bytes.push(of.get(c as usize).copied().flatten().ok_or(c)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_printable_name_and_comes_back() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        let text = to_text(&all);
        assert_eq!(to_bytes(&text), Ok(all));
        assert_eq!(to_text(b" \n\xff"), "ĠĊÿ");
        assert_eq!(to_bytes("a b"), Err(' '));
    }
}
