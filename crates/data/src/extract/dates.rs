//! Days of publication as `YYYY-MM-DD`, from the many forms in which pages state them.

/// The first day in a text: ISO (`2019-11-20T…`), `20191120`, `2019/11/20`, `20.11.2019`, `20 November 2019`,
/// `Nov. 20, 2019`, `20 de noviembre de 2019`, `2019年11月20日`. Month names of ten languages. `None` if there is none,
/// or only an ambiguous one such as `11/12/2019`.
pub fn day(text: &str) -> Option<String> {
    let pieces = pieces(text);
    (0..pieces.len()).find_map(|n| at(&pieces[n..]))
}

/// The day in the path of an address: `/2019/11/20/` or `/2019-11-20-`.
pub fn day_of_address(url: &str) -> Option<String> {
    let path = url.split_once("://").map_or(url, |(_, rest)| rest).split(['?', '#']).next()?;
    let parts: Vec<&str> = path.split(['/', '-', '_', '.']).collect();
    parts.windows(3).find_map(|w| match w {
        [y, m, d] if y.len() == 4 && (1..=2).contains(&m.len()) && (1..=2).contains(&d.len()) => {
            valid(y.parse().ok()?, m.parse().ok()?, d.parse().ok()?)
        }
        _ => None,
    })
}

/// A number with its count of digits, or the number of a month's name, with what follows it.
#[derive(Debug, Clone, Copy)]
enum Piece {
    Number(u32, usize, char),
    Month(u32),
    Word,
}

/// Longest text that is read.
const MAX_CHARS: usize = 200;

fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut chars = text.chars().take(MAX_CHARS).peekable();
    while let Some(c) = chars.next() {
        if let Some(first) = c.to_digit(10) {
            let (mut value, mut digits) = (first, 1);
            while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
                value = value.saturating_mul(10).saturating_add(digit);
                digits += 1;
                chars.next();
            }
            pieces.push(Piece::Number(value, digits, chars.peek().copied().unwrap_or(' ')));
        } else if c.is_alphabetic() {
            let mut word: String = c.to_lowercase().collect();
            while let Some(next) = chars.next_if(|c| c.is_alphabetic() && !matches!(c, '年' | '月' | '日'))
            {
                word.extend(next.to_lowercase());
            }
            // What only joins the parts of a day.
            if !matches!(
                word.as_str(),
                "de" | "del" | "of" | "the" | "st" | "nd" | "rd" | "th" | "er" | "年" | "月" | "日"
            ) {
                pieces.push(month(&word).map_or(Piece::Word, Piece::Month));
            }
        }
    }
    pieces
}

fn at(pieces: &[Piece]) -> Option<String> {
    use Piece::{Month, Number};
    match *pieces {
        [Number(y, 4, a), Number(m, 1..=2, b), Number(d, 1..=2, _), ..]
            if matches!((a, b), ('-', '-') | ('/', '/') | ('.', '.') | ('年', '月')) =>
        {
            valid(y, m, d)
        }
        [Number(all, 8, _), ..] => valid(all / 10_000, all / 100 % 100, all % 100),
        // Day first with dots everywhere, with slashes only where the other reading is impossible.
        [Number(d, 1..=2, '.'), Number(m, 1..=2, '.'), Number(y, 4, _), ..] => valid(y, m, d),
        [Number(a, 1..=2, s @ ('/' | '-')), Number(b, 1..=2, t), Number(y, 4, _), ..] if s == t => {
            match (a > 12, b > 12) {
                (true, false) => valid(y, b, a),
                (false, true) => valid(y, a, b),
                _ if a == b => valid(y, a, b),
                _ => None,
            }
        }
        [Number(d, 1..=2, _), Month(m), Number(y, 4, _), ..] => valid(y, m, d),
        [Month(m), Number(d, 1..=2, _), Number(y, 4, _), ..] => valid(y, m, d),
        [Number(y, 4, _), Month(m), Number(d, 1..=2, _), ..] => valid(y, m, d),
        _ => None,
    }
}

fn valid(year: u32, month: u32, day: u32) -> Option<String> {
    let days = match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    ((1990..2100).contains(&year) && (1..=12).contains(&month) && (1..=days).contains(&day))
        .then(|| format!("{year:04}-{month:02}-{day:02}"))
}

/// The month that a word names, in English, German, French, Spanish, Portuguese, Italian, Dutch, Polish, Swedish,
/// Russian; by beginnings, since names are shortened and declined.
fn month(word: &str) -> Option<u32> {
    const STARTS: [(&str, u32); 46] = [
        ("jan", 1),
        ("jän", 1),
        ("ene", 1),
        ("gen", 1),
        ("sty", 1),
        ("янв", 1),
        ("feb", 2),
        ("fév", 2),
        ("fev", 2),
        ("lut", 2),
        ("фев", 2),
        ("mar", 3),
        ("mär", 3),
        ("mrz", 3),
        ("maa", 3),
        ("мар", 3),
        ("apr", 4),
        ("avr", 4),
        ("abr", 4),
        ("kwi", 4),
        ("апр", 4),
        ("may", 5),
        ("mai", 5),
        ("mag", 5),
        ("mei", 5),
        ("maj", 5),
        ("мая", 5),
        ("май", 5),
        ("jun", 6),
        ("giu", 6),
        ("cze", 6),
        ("июн", 6),
        ("jul", 7),
        ("lug", 7),
        ("lip", 7),
        ("июл", 7),
        ("aug", 8),
        ("ago", 8),
        ("aoû", 8),
        ("sie", 8),
        ("авг", 8),
        ("sep", 9),
        ("set", 9),
        ("wrz", 9),
        ("сен", 9),
        ("okt", 10),
    ];
    const MORE: [(&str, u32); 14] = [
        ("oct", 10),
        ("out", 10),
        ("ott", 10),
        ("paź", 10),
        ("окт", 10),
        ("nov", 11),
        ("lis", 11),
        ("ноя", 11),
        ("dec", 12),
        ("dez", 12),
        ("dic", 12),
        ("déc", 12),
        ("gru", 12),
        ("дек", 12),
    ];
    match word {
        "juin" => return Some(6),
        "juillet" | "juil" => return Some(7),
        "août" => return Some(8),
        _ => {}
    }
    if word.chars().count() > 12 {
        return None;
    }
    STARTS.iter().chain(&MORE).find(|(start, _)| word.starts_with(start)).map(|(_, month)| *month)
}

#[cfg(test)]
mod tests {
    use super::{day, day_of_address};

    #[test]
    fn days_are_read_in_many_forms() {
        for text in [
            "2019-11-20T08:00:00+01:00",
            "Wed, 20 Nov 2019 08:00:00 GMT",
            "Published: November 20th, 2019",
            "20. November 2019, 10:15 Uhr",
            "20.11.2019",
            "20/11/2019",
            "miércoles, 20 de noviembre de 2019",
            "20 listopada 2019",
            "20 ноября 2019",
            "2019年11月20日",
            "20191120",
            "Nov. 20, 2019",
        ] {
            assert_eq!(day(text).as_deref(), Some("2019-11-20"), "{text}");
        }
        for text in ["11/12/2019", "2019", "31.02.2019 or so", "1 2 3", "", "call 555 2019 1234"] {
            assert_eq!(day(text), None, "{text}");
        }
        assert_eq!(day("14 juillet 2020").as_deref(), Some("2020-07-14"));
    }

    #[test]
    fn addresses_hold_days() {
        assert_eq!(day_of_address("https://a.b/2019/11/20/c.html").as_deref(), Some("2019-11-20"));
        assert_eq!(day_of_address("https://a.b/c-2019-11-20-d").as_deref(), Some("2019-11-20"));
        assert_eq!(day_of_address("https://a.b/1234/99/20/"), None);
    }
}
