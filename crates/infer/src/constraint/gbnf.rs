//! llama.cpp's grammars (GBNF) in the forms that [`llguidance`] knows.
//!
//! What has no recursion becomes one regular expression. Else rules stay rules, and the regular parts between them
//! become lexemes, as large as they can be: a lexeme costs as much as a character. A lexer takes the longest match,
//! though, and GBNF knows no lexer; where that could make a difference (see [`lexemes`]), every character is a lexeme.

mod lexemes;
mod parse;

use lexemes::longest_match_is_exact;
use parse::parse;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Longest translation, bytes: rules are put into each other, which can double the text again and again.
const MOST_TEXT: usize = 1 << 20;
/// Levels of brackets and rules in a lexeme.
const DEEPEST: usize = 300;

/// Inclusive ranges of characters, in order and apart.
type Chars = Vec<(u32, u32)>;

/// A part of a rule.
#[derive(Clone, Debug, PartialEq)]
enum Expr {
    /// One character of a set.
    Chars(Chars),
    Sequence(Vec<Expr>),
    Choice(Vec<Expr>),
    /// At least and at most so often.
    Repeat(Box<Expr>, u32, Option<u32>),
    Rule(usize),
    /// A token of the vocabulary, as llguidance writes it.
    Token(String),
}

/// A grammar in one of llguidance's forms.
#[derive(Debug, PartialEq)]
pub(super) enum Translated {
    Regex(String),
    Lark(String),
}

/// Translates a grammar whose start is the rule `root`.
///
/// # Errors
/// What is wrong, with the line.
pub(super) fn translate(grammar: &str) -> Result<Translated, String> {
    let (rules, root) = parse(grammar)?;
    let rules = Rules { regular: regular(&rules), all: rules };
    if rules.regular[root] {
        let mut regex = String::new();
        rules.regex(&Expr::Rule(root), &mut regex)?;
        return Ok(Translated::Regex(regex));
    }
    let merge = longest_match_is_exact(&rules, root);
    Ok(Translated::Lark(Writer::new(&rules, merge).lark(root)?))
}

/// Which rules reach neither themselves nor another such rule, nor a token, and are not too deep for recursion.
fn regular(rules: &[Expr]) -> Vec<bool> {
    let mut depths: Vec<Option<usize>> = vec![None; rules.len()];
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for (rule, body) in rules.iter().enumerate() {
            if depths[rule].is_some() {
                continue;
            }
            depths[rule] = depth(body, &depths).filter(|&depth| depth <= DEEPEST);
            changed |= depths[rule].is_some();
        }
    }
    depths.into_iter().map(|depth| depth.is_some()).collect()
}

/// How deep a part is when its rules are put into it; `None` if one of them cannot be.
fn depth(expr: &Expr, rules: &[Option<usize>]) -> Option<usize> {
    Some(
        1 + match expr {
            Expr::Chars(_) => 0,
            Expr::Sequence(parts) | Expr::Choice(parts) => {
                parts.iter().try_fold(0, |deepest, part| Some(depth(part, rules)?.max(deepest)))?
            }
            Expr::Repeat(inner, ..) => depth(inner, rules)?,
            Expr::Rule(rule) => rules[*rule]?,
            Expr::Token(_) => return None,
        },
    )
}

fn is_regular(expr: &Expr, rules: &[bool]) -> bool {
    match expr {
        Expr::Chars(_) => true,
        Expr::Sequence(parts) | Expr::Choice(parts) => parts.iter().all(|p| is_regular(p, rules)),
        Expr::Repeat(inner, ..) => is_regular(inner, rules),
        Expr::Rule(rule) => rules[*rule],
        Expr::Token(_) => false,
    }
}

/// The rules of a grammar.
struct Rules {
    all: Vec<Expr>,
    /// Whether a rule can be put into others as a regular expression.
    regular: Vec<bool>,
}

/// What stands in a rule, read from left to right.
enum Part<'a> {
    /// A regular part, as large as it can be.
    Lexeme(Vec<&'a Expr>),
    Other(&'a Expr),
}

impl Rules {
    fn is_regular(&self, expr: &Expr) -> bool {
        is_regular(expr, &self.regular)
    }

    /// Joins neighbours that are regular.
    fn parts<'a>(&self, sequence: &'a [Expr]) -> Vec<Part<'a>> {
        let mut parts: Vec<Part<'a>> = Vec::new();
        for expr in sequence {
            match parts.last_mut() {
                Some(Part::Lexeme(run)) if self.is_regular(expr) => run.push(expr),
                _ if self.is_regular(expr) => parts.push(Part::Lexeme(vec![expr])),
                _ => parts.push(Part::Other(expr)),
            }
        }
        parts
    }

    /// Writes a regular part as a regular expression.
    fn regex(&self, expr: &Expr, out: &mut String) -> Result<(), String> {
        if out.len() > MOST_TEXT {
            return Err("it grows too large when its rules are put into each other".into());
        }
        match expr {
            Expr::Chars(chars) => out.push_str(&class(chars)),
            Expr::Sequence(parts) => parts.iter().try_for_each(|p| self.regex(p, out))?,
            Expr::Choice(parts) => {
                out.push_str("(?:");
                for (i, part) in parts.iter().enumerate() {
                    out.push_str(if i > 0 { "|" } else { "" });
                    self.regex(part, out)?;
                }
                out.push(')');
            }
            Expr::Repeat(inner, least, most) => {
                out.push_str("(?:");
                self.regex(inner, out)?;
                let most = most.map(|m| m.to_string()).unwrap_or_default();
                let _ = write!(out, "){{{least},{most}}}");
            }
            Expr::Rule(rule) => self.regex(&self.all[*rule], out)?,
            Expr::Token(_) => return Err("a token stands inside of a lexeme".into()),
        }
        Ok(())
    }
}

/// Writes rules as Lark.
struct Writer<'a> {
    rules: &'a Rules,
    /// Whether regular parts become one lexeme; else each of their characters does.
    merge: bool,
    text: String,
    /// Lexemes by their regular expressions.
    names: BTreeMap<String, usize>,
    /// Rules that are referred to.
    todo: Vec<usize>,
}

impl<'a> Writer<'a> {
    fn new(rules: &'a Rules, merge: bool) -> Self {
        Self { rules, merge, text: String::new(), names: BTreeMap::new(), todo: Vec::new() }
    }

    fn lark(mut self, root: usize) -> Result<String, String> {
        let _ = writeln!(self.text, "start: r{root}");
        let mut seen = vec![false; self.rules.all.len()];
        self.todo.push(root);
        while let Some(rule) = self.todo.pop() {
            if !std::mem::replace(&mut seen[rule], true) {
                let _ = write!(self.text, "r{rule}: ");
                self.expr(&self.rules.all[rule])?;
                self.text.push('\n');
            }
        }
        for (regex, number) in &self.names {
            let _ = writeln!(self.text, "T{number}: /{regex}/");
        }
        Ok(self.text)
    }

    fn lexeme(&mut self, run: &[&Expr]) -> Result<(), String> {
        let mut regex = String::new();
        run.iter().try_for_each(|expr| self.rules.regex(expr, &mut regex))?;
        let next = self.names.len();
        let _ = write!(self.text, "T{} ", self.names.entry(regex).or_insert(next));
        Ok(())
    }

    fn expr(&mut self, expr: &Expr) -> Result<(), String> {
        if self.text.len() > MOST_TEXT {
            return Err("it is too large".into());
        }
        match expr {
            Expr::Chars(_) => self.lexeme(&[expr])?,
            Expr::Sequence(parts) if parts.is_empty() => self.text.push_str("\"\" "),
            _ if self.merge && self.rules.is_regular(expr) => self.lexeme(&[expr])?,
            Expr::Sequence(parts) if self.merge => {
                for part in self.rules.parts(parts) {
                    match part {
                        Part::Lexeme(run) => self.lexeme(&run)?,
                        Part::Other(expr) => self.expr(expr)?,
                    }
                }
            }
            Expr::Sequence(parts) => parts.iter().try_for_each(|p| self.expr(p))?,
            Expr::Choice(parts) => {
                self.text.push('(');
                for (i, part) in parts.iter().enumerate() {
                    self.text.push_str(if i > 0 { "| " } else { "" });
                    self.expr(part)?;
                }
                self.text.push_str(") ");
            }
            Expr::Repeat(inner, least, most) => {
                self.text.push('(');
                self.expr(inner)?;
                match (least, most) {
                    (0, None) => self.text.push_str(")* "),
                    (1, None) => self.text.push_str(")+ "),
                    (least, Some(most)) => {
                        let _ = write!(self.text, "){{{least},{most}}} ");
                    }
                    (least, None) => {
                        let _ = write!(self.text, "){{{least},{least}}} (");
                        self.expr(inner)?;
                        self.text.push_str(")* ");
                    }
                }
            }
            Expr::Rule(rule) => {
                self.todo.push(*rule);
                let _ = write!(self.text, "r{rule} ");
            }
            Expr::Token(token) => {
                let _ = write!(self.text, "{token} ");
            }
        }
        Ok(())
    }
}

/// A set of characters as a class of a regular expression.
fn class(chars: &Chars) -> String {
    let one = |c: u32| match char::from_u32(c) {
        Some(c) if c.is_ascii_alphanumeric() || c == ' ' => c.to_string(),
        _ => format!("\\x{{{c:X}}}"),
    };
    match chars.as_slice() {
        [(low, high)] if low == high => one(*low),
        _ => {
            let range = |(low, high): &(u32, u32)| {
                if low == high { one(*low) } else { format!("{}-{}", one(*low), one(*high)) }
            };
            format!("[{}]", chars.iter().map(range).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lark(grammar: &str) -> String {
        match translate(grammar).unwrap() {
            Translated::Lark(text) => text,
            Translated::Regex(regex) => panic!("{regex}"),
        }
    }

    #[test]
    fn what_has_no_recursion_is_one_regular_expression() {
        let grammar = "# two words\nroot ::= word (\" \" | \"-\")? word{2,3}\nword ::= [a-cx] \"\\n\"+ .";
        let word = "[a-cx](?:\\x{A}){1,}[\\x{0}-\\x{D7FF}\\x{E000}-\\x{10FFFF}]";
        let expected = format!("{word}(?:(?: |\\x{{2D}})){{0,1}}(?:{word}){{2,3}}");
        assert_eq!(translate(grammar), Ok(Translated::Regex(expected)));
    }

    #[test]
    fn regular_parts_of_a_recursive_grammar_are_lexemes() {
        let text = lark("root ::= \"(\" ws (root | num) ws \")\"\nnum ::= [0-9]+\nws ::= \" \"*");
        let expected = "start: r0\nr0: T0 (r0 | T1 ) T2 \nT2: /(?: ){0,}\\x{29}/\nT1: /(?:[0-9]){1,}/\n\
                        T0: /\\x{28}(?: ){0,}/\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn where_the_longest_match_would_be_wrong_characters_are_lexemes() {
        // After a word the longest match would take the x that ends the brackets.
        let text = lark("root ::= \"(\" (root | word) \"x\"\nword ::= [a-z]+");
        assert!(text.contains("r1: (T") && text.contains(")+"), "{text}");
        // \"a\" then \"b\", or \"ab\" then \"c\".
        assert!(lark("root ::= \"a\" root? \"b\" | \"ab\" root \"c\"").contains("T0 T1 r0 T2"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (grammar, problem) in [
            ("", "it has no rule `root`, where answers begin"),
            ("root ::= a", "line 1: the rule `a` is not defined"),
            ("root ::= \"a", "line 1: a string that does not end"),
            ("root ::= \"a\"\nb ::= [a", "line 2: a set of characters that does not end"),
            ("root ::= [z-a]", "line 1: the range z-a is empty"),
            ("root ::= (\"a\"", "line 1: `)` is missing"),
            ("root ::= \"a\"{3,2}", "line 1: {3,2} allows nothing"),
            ("root = \"a\"", "line 1: `::=` is missing after `root`"),
            ("root ::= * \"a\"", "line 1: nothing to repeat before `*`"),
            ("root ::= \"\\q\"", "line 1: unknown escape `\\q`"),
            ("root ::= \"a\" )", "line 1: `)` is not expected here"),
        ] {
            assert_eq!(translate(grammar), Err(problem.to_string()), "{grammar}");
        }
        let doubling: String = (0..40).map(|i| format!("r{i} ::= r{0} r{0}\n", i + 1)).collect();
        let huge = format!("root ::= r0\n{doubling}r40 ::= \"a\"");
        assert!(translate(&huge).unwrap_err().contains("too large"));
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(5000), ")".repeat(5000));
        assert!(translate(&deep).unwrap_err().contains("nested"));
    }
}
