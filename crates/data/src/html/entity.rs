//! Character references (`&amp;`, `&#233;`, `&#x1F980;`).

use markup5ever::data::NAMED_ENTITIES;

/// Longest name in the standard's table, with its semicolon.
const LONGEST_NAME: usize = 33;

/// Appends `text` to `out` with its references replaced. In an attribute a name without a semicolon before `=` or a
/// letter is left as it is (`?a=b&copy=1`).
pub fn decode(text: &str, in_attribute: bool, out: &mut String) {
    let mut rest = text;
    while let Some(at) = ampersand(rest) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match reference(rest, in_attribute) {
            Some((first, second, length)) => {
                out.push(first);
                out.extend(second);
                rest = &rest[length..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
}

fn ampersand(text: &str) -> Option<usize> {
    memchr::memchr(b'&', text.as_bytes())
}

/// The reference at the start of `text`: its characters and its length in bytes.
fn reference(text: &str, in_attribute: bool) -> Option<(char, Option<char>, usize)> {
    let bytes = text.as_bytes();
    if bytes.get(1) == Some(&b'#') {
        return numeric(bytes);
    }
    let letters = bytes[1..].iter().take(LONGEST_NAME).take_while(|b| b.is_ascii_alphanumeric()).count();
    if letters == 0 {
        return None;
    }
    let semicolon = bytes.get(1 + letters) == Some(&b';');
    // The longest known prefix counts: `&notit;` is `¬it;`.
    for length in (1..=letters + semicolon as usize).rev() {
        let name = &text[1..1 + length];
        let Some(&(first, second)) = NAMED_ENTITIES.get(name) else { continue };
        let first = char::from_u32(first).filter(|c| *c != '\0');
        let Some(first) = first else { continue };
        let next = bytes.get(1 + length);
        let ambiguous = in_attribute
            && !name.ends_with(';')
            && next.is_some_and(|b| *b == b'=' || b.is_ascii_alphanumeric());
        if ambiguous {
            return None;
        }
        return Some((first, char::from_u32(second).filter(|c| *c != '\0'), 1 + length));
    }
    None
}

fn numeric(bytes: &[u8]) -> Option<(char, Option<char>, usize)> {
    let hex = matches!(bytes.get(2), Some(b'x' | b'X'));
    let start = if hex { 3 } else { 2 };
    let radix = if hex { 16 } else { 10 };
    let digits = bytes[start..].iter().take_while(|b| (**b as char).is_digit(radix)).count();
    if digits == 0 {
        return None;
    }
    let code = bytes[start..start + digits].iter().fold(0u32, |code, b| {
        code.saturating_mul(radix).saturating_add((*b as char).to_digit(radix).unwrap_or(0))
    });
    let end = start + digits;
    let length = end + (bytes.get(end) == Some(&b';')) as usize;
    Some((character(code), None, length))
}

/// The character of a code; codes 0x80-0x9F mean windows-1252, as in browsers.
fn character(code: u32) -> char {
    const WINDOWS_1252: [u16; 32] = [
        0x20AC, 0x81, 0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160, 0x2039, 0x0152,
        0x8D, 0x017D, 0x8F, 0x90, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014, 0x02DC, 0x2122,
        0x0161, 0x203A, 0x0153, 0x9D, 0x017E, 0x0178,
    ];
    match code {
        0 => char::REPLACEMENT_CHARACTER,
        0x80..=0x9F => {
            char::from_u32(WINDOWS_1252[code as usize - 0x80] as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
        _ => char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER),
    }
}

#[cfg(test)]
mod tests {
    fn decoded(text: &str, in_attribute: bool) -> String {
        let mut out = String::new();
        super::decode(text, in_attribute, &mut out);
        out
    }

    #[test]
    fn references_are_replaced_as_browsers_do() {
        assert_eq!(decoded("a &amp; b &lt;c&gt; &eacute;&#233;&#xe9; &#150;", false), "a & b <c> ééé –");
        assert_eq!(
            decoded("&notit; &nbsp;&unknown; & &; &#; &#x;", false),
            "¬it; \u{a0}&unknown; & &; &#; &#x;"
        );
        assert_eq!(decoded("&#x110000; &#0; &#99999999999;", false), "\u{fffd} \u{fffd} \u{fffd}");
        assert_eq!(decoded("?a=1&copy=2&amp;b&copy", true), "?a=1&copy=2&b©");
        assert_eq!(decoded("&NotEqualTilde;", false), "≂̸");
    }
}
