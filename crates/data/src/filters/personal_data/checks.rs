//! Checksums and ranges that tell personal numbers from others.

fn digits(text: &str) -> Vec<u32> {
    text.chars().filter_map(|c| c.to_digit(10)).collect()
}

/// ISO 7064 mod 97-10 over the rearranged account (ISO 13616), with the length of its country.
pub fn iban(text: &str) -> bool {
    const LENGTHS: &[(&str, usize)] = &[
        ("AD", 24),
        ("AE", 23),
        ("AT", 20),
        ("BE", 16),
        ("BG", 22),
        ("BR", 29),
        ("CH", 21),
        ("CY", 28),
        ("CZ", 24),
        ("DE", 22),
        ("DK", 18),
        ("EE", 20),
        ("ES", 24),
        ("FI", 18),
        ("FR", 27),
        ("GB", 22),
        ("GR", 27),
        ("HR", 21),
        ("HU", 28),
        ("IE", 22),
        ("IL", 23),
        ("IS", 26),
        ("IT", 27),
        ("LI", 21),
        ("LT", 20),
        ("LU", 20),
        ("LV", 21),
        ("MC", 27),
        ("MT", 31),
        ("NL", 18),
        ("NO", 15),
        ("PL", 28),
        ("PT", 25),
        ("RO", 24),
        ("RS", 22),
        ("SA", 24),
        ("SE", 24),
        ("SI", 19),
        ("SK", 24),
        ("TR", 26),
        ("UA", 29),
    ];
    let compact: String = text.chars().filter(|c| *c != ' ').collect();
    let known =
        LENGTHS.iter().any(|(country, length)| compact.starts_with(country) && compact.len() == *length);
    known && {
        let turned = compact[4..].chars().chain(compact[..4].chars());
        let rest = turned.filter_map(|c| c.to_digit(36)).fold(0u64, |rest, d| {
            if d > 9 { (rest * 100 + d as u64) % 97 } else { (rest * 10 + d as u64) % 97 }
        });
        rest == 1
    }
}

fn luhn(digits: &[u32]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(n, d)| if n % 2 == 1 { if d * 2 > 9 { d * 2 - 9 } else { d * 2 } } else { *d })
        .sum();
    sum.is_multiple_of(10)
}

/// Luhn, and not one digit repeated.
pub fn card(text: &str) -> bool {
    let digits = digits(text);
    luhn(&digits) && digits.iter().any(|d| *d != digits[0])
}

/// At least eight digits, at most fifteen (ITU-T E.164).
pub fn phone(text: &str) -> bool {
    (7..=15).contains(&digits(text).len())
}

/// Four octets outside the private, loopback, link-local and mask ranges.
pub fn public_ipv4(text: &str) -> bool {
    let octets: Vec<u32> = text.split('.').filter_map(|o| o.parse().ok()).filter(|o| *o < 256).collect();
    let written = text.split('.').all(|o| o.len() == 1 || !o.starts_with('0'));
    let [a, b, _, _] = octets[..] else { return false };
    written
        && !(a == 0
            || a == 10
            || a == 127
            || a >= 224
            || (a == 172 && (16..32).contains(&b))
            || (a == 192 && b == 168)
            || (a == 169 && b == 254))
        && a > 9 // single-digit first octets are mostly versions: 1.2.3.4
}

/// Any address that parses and is neither loopback nor local.
pub fn public_ipv6(text: &str) -> bool {
    text.parse::<std::net::Ipv6Addr>()
        .is_ok_and(|a| !a.is_loopback() && !a.is_unspecified() && a.segments()[0] & 0xFE00 != 0xFC00)
}

/// Ranges that the Social Security Administration assigns.
pub fn us_social_security(text: &str) -> bool {
    let (area, group, serial) = (&text[..3], &text[4..6], &text[7..]);
    area != "000" && area != "666" && !area.starts_with('9') && group != "00" && serial != "0000"
}

/// Two check digits mod 11.
pub fn brazil_cpf(text: &str) -> bool {
    let d = digits(text);
    let check = |n: usize| {
        let sum: u32 = d[..n].iter().enumerate().map(|(i, x)| x * (n as u32 + 1 - i as u32)).sum();
        let rest = sum * 10 % 11;
        if rest == 10 { 0 } else { rest }
    };
    d.iter().any(|x| *x != d[0]) && check(9) == d[9] && check(10) == d[10]
}

/// Letter by mod 23.
pub fn spain_dni(text: &str) -> bool {
    let compact: String = text.chars().filter(|c| *c != '-').collect();
    let number = compact[..compact.len() - 1].replace('X', "0").replace('Y', "1").replace('Z', "2");
    let letters = b"TRWAGMYFPDXBNJZSQVHLCKE";
    number.parse::<usize>().is_ok_and(|n| compact.as_bytes().last() == Some(&letters[n % 23]))
}

/// Check letter of the codice fiscale.
pub fn italy_fiscal_code(text: &str) -> bool {
    const ODD: [u32; 36] = [
        1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12,
        14, 16, 10, 22, 25, 24, 23,
    ];
    let value = |c: char| c.to_digit(36).unwrap_or(0);
    let sum: u32 = text[..15]
        .chars()
        .enumerate()
        .map(|(n, c)| {
            if n % 2 == 0 {
                ODD[value(c) as usize]
            } else if c.is_ascii_digit() {
                value(c)
            } else {
                value(c) - 10
            }
        })
        .sum();
    text.as_bytes()[15] as u32 - b'A' as u32 == sum % 26
}

/// Prefixes that are not issued.
pub fn britain_insurance(text: &str) -> bool {
    !["BG", "GB", "KN", "NK", "NT", "TN", "ZZ"].contains(&&text[..2])
}

/// Key: 97 minus the number mod 97; Corsica's departments 2A and 2B count as 19 and 18.
pub fn france_nir(text: &str) -> bool {
    let compact: String = text.chars().filter(|c| *c != ' ').collect();
    let number = compact[..13].replace("2A", "19").replace("2B", "18");
    let month = compact[3..5].parse::<u32>().unwrap_or(0);
    (1..=12).contains(&month) && number.parse::<u64>().is_ok_and(|n| compact[13..].parse() == Ok(97 - n % 97))
}

/// 97 minus the first nine digits mod 97; with a 2 in front for those born since 2000.
pub fn belgium_register(text: &str) -> bool {
    let d: String = text.chars().filter(char::is_ascii_digit).collect();
    let (Ok(number), Ok(check)) = (d[..9].parse::<u64>(), d[9..].parse::<u64>()) else { return false };
    check == 97 - number % 97 || check == 97 - (2_000_000_000 + number) % 97
}

fn month_and_day(month: u32, day: u32) -> bool {
    (1..=12).contains(&month) && (1..=31).contains(&day)
}

/// Date and Luhn.
pub fn sweden_personal(text: &str) -> bool {
    let d = digits(text);
    month_and_day(d[2] * 10 + d[3], d[4] * 10 + d[5]) && luhn(&d)
}

/// Date, and the check character of the nine digits mod 31.
pub fn finland_identity(text: &str) -> bool {
    let d = digits(&text[..10]);
    let number = d.iter().fold(0u64, |n, x| n * 10 + *x as u64);
    let characters = b"0123456789ABCDEFHJKLMNPRSTUVWXY";
    d.len() == 9
        && month_and_day(d[2] * 10 + d[3], d[0] * 10 + d[1])
        && text.as_bytes().last() == Some(&characters[(number % 31) as usize])
}

/// Date, and ISO 7064 mod 11-2.
pub fn china_resident(text: &str) -> bool {
    const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    let d = digits(&text[..17]);
    let sum: u32 = d.iter().zip(WEIGHTS).map(|(x, w)| x * w).sum();
    month_and_day(d[10] * 10 + d[11], d[12] * 10 + d[13])
        && text.as_bytes()[17] == b"10X98765432"[(sum % 11) as usize]
}

/// Verhoeff's dihedral check.
pub fn india_aadhaar(text: &str) -> bool {
    const PERMUTATION: [u32; 10] = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4];
    let product = |a: u32, b: u32| match (a < 5, b < 5) {
        (true, true) => (a + b) % 5,
        (true, false) => 5 + (a + b - 5) % 5,
        (false, true) => 5 + (a - 5 + 5 - b) % 5,
        (false, false) => (a + 5 - b) % 5,
    };
    let check = digits(text).iter().rev().enumerate().fold(0, |check, (n, d)| {
        let permuted = (0..n % 8).fold(*d, |x, _| PERMUTATION[x as usize]);
        product(check, permuted)
    });
    check == 0
}

/// Weights 1, 3, 7, 9 mod 10.
pub fn poland_pesel(text: &str) -> bool {
    let d = digits(text);
    let sum: u32 = d.iter().zip([1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]).map(|(x, w)| x * w).sum();
    d.len() == 11 && sum.is_multiple_of(10)
}

/// The eleven test.
pub fn netherlands_bsn(text: &str) -> bool {
    let d = digits(text);
    let sum: i32 = d.iter().zip([9, 8, 7, 6, 5, 4, 3, 2, -1]).map(|(x, w)| *x as i32 * w).sum();
    d.len() == 9 && sum % 11 == 0
}

/// ISO 7064 mod 11,10.
pub fn germany_tax(text: &str) -> bool {
    let d = digits(text);
    if d.len() != 11 || d[0] == 0 {
        return false;
    }
    let product = d[..10].iter().fold(10, |product, x| {
        let sum = (x + product) % 10;
        if sum == 0 { 10 * 2 % 11 } else { sum * 2 % 11 }
    });
    (11 - product) % 10 == d[10]
}
