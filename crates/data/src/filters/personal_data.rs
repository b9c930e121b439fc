//! Personal data (SPEC DATA-1): e-mail addresses, telephone numbers, IP addresses, bank accounts (IBAN, mod 97), payment
//! cards (Luhn) and national identifiers with their checksums. They are masked; documents dense with them go.

use super::{Filter, Reason, Verdict, words};
use crate::documents::Document;
use checks::*;
use regex::Regex;
use std::sync::OnceLock;

mod checks;

/// What a piece of personal data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// E-mail address.
    Email,
    /// Bank account, IBAN.
    Iban,
    /// Payment card.
    Card,
    /// National identifier of a person.
    NationalId,
    /// Telephone number.
    Phone,
    /// IPv4 or IPv6 address that is routed on the Internet.
    Ip,
}

impl Kind {
    /// What stands in its place after masking.
    pub fn placeholder(self) -> &'static str {
        match self {
            Kind::Email => "<EMAIL>",
            Kind::Iban => "<IBAN>",
            Kind::Card => "<CARD>",
            Kind::NationalId => "<ID>",
            Kind::Phone => "<PHONE>",
            Kind::Ip => "<IP>",
        }
    }
}

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// First byte.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
}

/// A kind, the pattern that proposes it, and the check that decides.
type Proposal = (Kind, &'static str, fn(&str) -> bool);

struct Rule {
    kind: Kind,
    pattern: Regex,
    valid: fn(&str) -> bool,
}

/// The patterns, the surest first. A pattern proposes, its check decides.
fn rules() -> &'static [Rule] {
    static RULES: OnceLock<Vec<Rule>> = OnceLock::new();
    RULES.get_or_init(|| {
        let rules: &[Proposal] = &[
            (Kind::Email, r"[\p{L}0-9][\p{L}0-9._%+\-]{0,63}@[A-Za-z0-9](?:[A-Za-z0-9\-]{0,62}\.){1,6}[A-Za-z]{2,18}", |m| !m.starts_with("git@")),
            (Kind::Iban, r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3}\b)?", iban),
            (Kind::Card, r"[3-6][0-9]{3}(?:[ -]?[0-9]{4}){3}|3[47][0-9]{2}[ -]?[0-9]{6}[ -]?[0-9]{5}", card),
            (Kind::NationalId, r"[0-9]{3}-[0-9]{2}-[0-9]{4}", us_social_security),
            (Kind::NationalId, r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", brazil_cpf),
            (Kind::NationalId, r"[0-9XYZ][0-9]{7}-?[A-Z]", spain_dni),
            (Kind::NationalId, r"[A-Z]{6}[0-9]{2}[ABCDEHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]", italy_fiscal_code),
            (Kind::NationalId, r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]", britain_insurance),
            (Kind::NationalId, r"[12] ?[0-9]{2} ?[01][0-9] ?[0-9AB]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}", france_nir),
            (Kind::NationalId, r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}", belgium_register),
            (Kind::NationalId, r"[0-9]{6}[-+][0-9]{4}", sweden_personal),
            (Kind::NationalId, r"[0-9]{6}[-+A][0-9]{3}[0-9A-FHJ-NPR-Y]", finland_identity),
            (Kind::NationalId, r"[1-9][0-9]{5}(?:19|20)[0-9]{9}[0-9X]", china_resident),
            (Kind::NationalId, r"[2-9][0-9]{3} [0-9]{4} [0-9]{4}", india_aadhaar),
            (Kind::NationalId, r"(?:PESEL|pesel)[^0-9\n]{0,12}[0-9]{11}", poland_pesel),
            (Kind::NationalId, r"(?:BSN|bsn|[Bb]urgerservicenummer)[^0-9\n]{0,12}[0-9]{9}", netherlands_bsn),
            (Kind::NationalId, r"(?:Steuer-?ID|Steuer-?IdNr\.?|Identifikationsnummer)[^0-9\n]{0,12}[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}", germany_tax),
            (Kind::Phone, r"\+[0-9]{1,3}[ .\-/]?(?:\(0?[0-9]{1,4}\)[ .\-/]?)?[0-9]{1,5}(?:[ .\-/]?[0-9]{2,5}){1,5}", phone),
            (Kind::Phone, r"\([2-9][0-9]{2}\) ?[2-9][0-9]{2}[ .\-][0-9]{4}", |_| true),
            (Kind::Phone, r"[2-9][0-9]{2}-[2-9][0-9]{2}-[0-9]{4}", |_| true),
            (Kind::Phone, r"(?i:telephone|telefon|teléfono|téléphone|phone|tel|fax|mobile|handy) ?[.:]{0,2} ?\(?0[0-9]{1,4}\)?(?:[ .\-/]{1,3}[0-9]{2,6}){1,4}", phone),
            (Kind::Ip, r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}", public_ipv4),
            (Kind::Ip, r"[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{1,4}){7}|[23][0-9a-fA-F]{3}(?:::?[0-9a-fA-F]{1,4}){1,7}(?:::)?", public_ipv6),
        ];
        rules.iter().filter_map(|(kind, p, valid)| Some(Rule { kind: *kind, pattern: Regex::new(p).ok()?, valid: *valid })).collect()
    })
}

/// All personal data of a text, in order, without overlaps.
pub fn find(text: &str) -> Vec<Found> {
    let mut found: Vec<(usize, Found)> = Vec::new();
    let has_digit = text.bytes().any(|b| b.is_ascii_digit());
    for (rank, rule) in rules().iter().enumerate() {
        let possible = if rule.kind == Kind::Email { text.contains('@') } else { has_digit };
        if !possible {
            continue;
        }
        for m in rule.pattern.find_iter(text) {
            let bounded =
                !touches(text[..m.start()].chars().next_back()) && !touches(text[m.end()..].chars().next());
            if bounded && (rule.valid)(m.as_str()) {
                let start = m.start() + label_length(rule.kind, m.as_str());
                found.push((rank, Found { kind: rule.kind, start, end: m.end() }));
            }
        }
    }
    found.sort_by_key(|(rank, f)| (f.start, *rank));
    let mut out: Vec<Found> = Vec::new();
    for (_, f) in found {
        if out.last().is_none_or(|last| f.start >= last.end) {
            out.push(f);
        }
    }
    out
}

/// A letter or digit beside a match makes it a part of something else, such as a version or a hash.
fn touches(neighbour: Option<char>) -> bool {
    neighbour.is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// Bytes of the word that introduces a number (`PESEL: `, `Tel. `), which stays.
fn label_length(kind: Kind, text: &str) -> usize {
    match kind {
        Kind::NationalId | Kind::Phone
            // Two letters belong to the number, as in Britain's.
            if text.chars().take_while(|c| c.is_alphabetic()).count() > 2 && text.contains([' ', ':', '.']) =>
        {
            text.find(|c: char| c.is_ascii_digit() || c == '(').filter(|n| *n > 2).unwrap_or(0)
        }
        _ => 0,
    }
}

/// The text with placeholders in the places found.
pub fn mask(text: &str, found: &[Found]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for f in found {
        out.push_str(&text[at..f.start]);
        out.push_str(f.kind.placeholder());
        at = f.end;
    }
    out.push_str(&text[at..]);
    out
}

/// Masks personal data and drops documents that consist of it.
pub struct PersonalDataFilter {
    /// Whether to mask.
    pub mask: bool,
    /// Most of them per 100 words.
    pub max_per_100_words: f32,
    /// Fewer are never a reason.
    pub min_count: u32,
}

impl Filter for PersonalDataFilter {
    fn step(&self) -> &'static str {
        "personal data"
    }

    fn apply(&self, document: &mut Document) -> Verdict {
        let found = find(&document.text);
        if found.is_empty() {
            document.values.insert("personal_data".into(), 0.0);
            return Verdict::Keep;
        }
        let density = 100.0 * found.len() as f32 / words(&document.text).count().max(1) as f32;
        document.values.insert("personal_data".into(), density);
        let masked = mask(&document.text, &found);
        if found.len() as u32 >= self.min_count && density > self.max_per_100_words {
            // The excerpt is masked too: rejects are looked at by people.
            return Verdict::Drop(Reason::new("personal data", density, self.max_per_100_words, &masked));
        }
        if self.mask {
            document.text = masked;
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::super::document;
    use super::*;

    fn kinds(text: &str) -> Vec<Kind> {
        find(text).into_iter().map(|f| f.kind).collect()
    }

    #[test]
    fn numbers_with_a_right_checksum_are_found() {
        assert_eq!(
            kinds("IBAN DE89 3704 0044 0532 0130 00 and GB82WEST12345698765432."),
            [Kind::Iban, Kind::Iban]
        );
        assert_eq!(kinds("card 4111 1111 1111 1111, or 378282246310005"), [Kind::Card, Kind::Card]);
        for id in [
            "078-05-1121",
            "529.982.247-25",
            "12345678Z",
            "RSSMRA85T10A562S",
            "AB 12 34 56 C",
            "1 84 12 76 451 089 46",
            "85.07.30-033.28",
            "811228-9874",
            "131052-308T",
            "11010519491231002X",
            "2345 6789 0124",
            "PESEL: 44051401359",
            "BSN 111222333",
            "Steuer-ID 86 095 742 719",
        ] {
            assert_eq!(kinds(&format!("number {id}, given")), [Kind::NationalId], "{id}");
        }
    }

    #[test]
    fn numbers_with_a_wrong_checksum_and_other_numbers_are_not() {
        for text in [
            "IBAN DE89 3704 0044 0532 0130 01",
            "card 4111 1111 1111 1112",
            "529.982.247-26",
            "12345678A",
            "811228-9875",
            "11010519491231002Y",
            "2345 6789 0125",
            "PESEL 44051401358",
            "BSN 111222334",
            "version 2.6.32-5, 1.2.3",
            "on 2026-02-01 at 10:20:30",
            "0x7f 1234567890123456789012345",
            "the mask 255.255.255.0 of 192.168.1.0 or 10.0.0.1",
            "C++ a@b",
            "std::vec::Vec",
            "ISBN 978-3-16-148410-0",
            "000-12-3456",
        ] {
            assert_eq!(kinds(text), [], "{text}");
        }
    }

    #[test]
    fn addresses_are_masked_in_place() {
        let mut page = document(
            "Write to jane.doe@example.org or call +49 (0)30 555 0199 or (555) 555-0123 from 198.51.100.7. Tel: 030 555 0123.",
        );
        let filter = PersonalDataFilter { mask: true, max_per_100_words: 4.0, min_count: 10 };
        assert_eq!(filter.apply(&mut page), Verdict::Keep);
        assert_eq!(page.text, "Write to <EMAIL> or call <PHONE> or <PHONE> from <IP>. Tel: <PHONE>.");
    }

    #[test]
    fn a_list_of_addresses_goes_and_its_excerpt_is_masked() {
        let list: String =
            (0..20).map(|n| format!("Person {n}: p{n}@example.org, +1 202 555 01{n:02}\n")).collect();
        let filter = PersonalDataFilter { mask: true, max_per_100_words: 4.0, min_count: 10 };
        let Verdict::Drop(reason) = filter.apply(&mut document(&list)) else { panic!("kept") };
        assert!(reason.value > 20.0 && !reason.excerpt.contains('@'), "{reason:?}");
    }
}
