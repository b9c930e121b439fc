//! The part of the mix that a document belongs to, by features of its text (SPEC DATA-6, DATA-8).

use crate::documents::Domain;

/// Share of lines with code from which a document is code.
const CODE_SHARE: f32 = 0.25;
/// Share of words and signs that are formulas from which a document is mathematics.
const MATHEMATICS_SHARE: f32 = 0.015;

/// The domain of a text in a language.
pub fn domain(text: &str, language: &str) -> Domain {
    if mathematics_share(text) >= MATHEMATICS_SHARE {
        return Domain::Mathematics;
    }
    if code_share(text) >= CODE_SHARE {
        return Domain::Code;
    }
    if language == "en" { Domain::General } else { Domain::Multilingual }
}

/// Share of the characters that stand in lines of code.
pub fn code_share(text: &str) -> f32 {
    let (mut code, mut all) = (0usize, 1usize);
    for line in text.lines() {
        all += line.len();
        code += if is_code_line(line) { line.len() } else { 0 };
    }
    code as f32 / all as f32
}

/// Whether a line is source code or a command rather than prose.
pub fn is_code_line(line: &str) -> bool {
    let trimmed = line.trim();
    if trimmed.is_empty() {
        return false;
    }
    if matches!(trimmed, "{" | "}" | "};" | "});" | ")" | "]" | "end" | "*/" | "},") {
        return true;
    }
    let indented = line.starts_with("  ") || line.starts_with('\t');
    let command = ["$ ", "# ", ">>> ", "#!", "#include"].iter().any(|p| trimmed.starts_with(p));
    let prompt = [
        "$ ", "# ", ">>> ", "... ", "//", "/*", "#include", "#!", "#[", "fn ", "pub ", "let ", "use ",
        "impl ", "def ", "import ", "return ",
    ]
    .iter()
    .any(|p| trimmed.starts_with(p));
    let ends = trimmed.ends_with([';', '{', '}'])
        || trimmed.ends_with("=>")
        || trimmed.ends_with("),")
        || trimmed.ends_with("):");
    let signs = trimmed
        .bytes()
        .filter(|b| {
            matches!(
                b,
                b'{' | b'}'
                    | b'('
                    | b')'
                    | b'['
                    | b']'
                    | b'='
                    | b'<'
                    | b'>'
                    | b';'
                    | b'_'
                    | b'&'
                    | b'|'
                    | b'*'
                    | b'/'
                    | b'\\'
                    | b'$'
                    | b'@'
            )
        })
        .count();
    let joined = ["::", "->", "==", "!=", "&&", "||", " = ", "();", "+=", "</", "/>"]
        .iter()
        .filter(|s| trimmed.contains(**s))
        .count();
    let spaces = trimmed.bytes().filter(|b| *b == b' ').count();
    let sentence = trimmed.ends_with('.') && spaces >= 4;
    let dense = signs as f32 / trimmed.len() as f32;
    let score = indented as u32
        + command as u32
        + 2 * prompt as u32
        + 2 * ends as u32
        + joined.min(2) as u32
        + (dense > 0.1) as u32
        + (dense > 0.2) as u32;
    score >= 3 && !(sentence && dense < 0.15) || (indented && score >= 2 && !sentence)
}

/// Share of a text's words that are formulas, LaTeX commands or mathematical signs.
pub fn mathematics_share(text: &str) -> f32 {
    let mut formulas = 0usize;
    let bytes = text.as_bytes();
    for at in memchr::memchr_iter(b'\\', bytes) {
        let rest = &bytes[at + 1..];
        let letters = rest.iter().take_while(|b| b.is_ascii_alphabetic()).count();
        let command = letters >= 2 && LATEX.binary_search(&&rest[..letters]).is_ok();
        formulas += (command || matches!(rest.first(), Some(b'(' | b'['))) as usize;
    }
    let signs = text
        .chars()
        .filter(|c| {
            matches!(
                c,
                '∑' | '∫'
                    | '√'
                    | '∂'
                    | '∞'
                    | '≤'
                    | '≥'
                    | '∈'
                    | '∀'
                    | '∃'
                    | '∇'
                    | '±'
                    | '≠'
                    | '≈'
                    | '∏'
                    | 'π'
                    | 'λ'
                    | 'θ'
                    | 'Γ'
                    | 'ζ'
            )
        })
        .count();
    let words = text.split_ascii_whitespace().count().max(1);
    (formulas + signs) as f32 / words as f32
}

/// Commands of LaTeX that stand in formulas only; sorted.
const LATEX: &[&[u8]] = &[
    b"Delta",
    b"Gamma",
    b"Lambda",
    b"Omega",
    b"Phi",
    b"Psi",
    b"Sigma",
    b"Theta",
    b"alpha",
    b"approx",
    b"begin",
    b"beta",
    b"bigl",
    b"binom",
    b"cdot",
    b"cdots",
    b"chi",
    b"cos",
    b"delta",
    b"dfrac",
    b"dots",
    b"ell",
    b"epsilon",
    b"equiv",
    b"eta",
    b"exp",
    b"frac",
    b"gamma",
    b"ge",
    b"geq",
    b"infty",
    b"int",
    b"kappa",
    b"lambda",
    b"ldots",
    b"le",
    b"left",
    b"leq",
    b"lim",
    b"ln",
    b"log",
    b"mathbb",
    b"mathbf",
    b"mathcal",
    b"mathrm",
    b"mu",
    b"nabla",
    b"ne",
    b"neq",
    b"nu",
    b"omega",
    b"operatorname",
    b"partial",
    b"phi",
    b"pi",
    b"pm",
    b"prime",
    b"prod",
    b"psi",
    b"quad",
    b"rho",
    b"right",
    b"rightarrow",
    b"sigma",
    b"sin",
    b"sqrt",
    b"sum",
    b"tan",
    b"tau",
    b"text",
    b"theta",
    b"times",
    b"to",
    b"varphi",
    b"xi",
    b"zeta",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_of_plain_cases() {
        let prose = include_str!("../tests/prose.txt");
        assert_eq!(domain(prose, "en"), Domain::General);
        assert_eq!(domain(prose, "de"), Domain::Multilingual);
        let code = "A vector grows as it needs.\nlet mut v = Vec::new();\nv.push(1);\nfor x in &v {\n    println!(\"{x}\");\n}\n";
        assert_eq!(domain(code, "en"), Domain::Code);
        let mathematics = r"The integral \int_0^1 x^2 \, dx = \frac{1}{3} follows, and for all n \ge 0 the sum \sum_{k=0}^n k is \frac{n(n+1)}{2}.";
        assert_eq!(domain(mathematics, "en"), Domain::Mathematics);
    }

    #[test]
    fn lines_of_code_and_of_prose() {
        for line in [
            "    if (x == NULL) {",
            "$ apt install herd",
            "}",
            "impl Filter for X {",
            "    return a + b;",
            ">>> print(f(x))",
        ] {
            assert!(is_code_line(line), "{line}");
        }
        for line in [
            "The file is read at the start; then it is closed.",
            "Yes.",
            "Call the function (see below) and wait.",
            "",
            "Use the menu to save the page.",
        ] {
            assert!(!is_code_line(line), "{line}");
        }
    }

    #[test]
    fn the_list_is_sorted() {
        assert!(LATEX.is_sorted());
    }
}
