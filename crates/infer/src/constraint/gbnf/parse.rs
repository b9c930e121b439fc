//! Reading GBNF, as llama.cpp documents it.

use super::{Chars, Expr};
use std::collections::HashMap;

/// Brackets within brackets at most.
const DEEPEST: usize = 100;
/// Longest grammar, bytes.
const MOST_TEXT: usize = 256 << 10;
/// Most rules of one grammar.
const MOST_RULES: usize = 2_000;
/// Largest number of a repetition.
const MOST_REPEATS: u32 = 100_000;
const LAST_CHAR: u32 = char::MAX as u32;

/// The rules of a grammar and the number of `root`.
pub(super) fn parse(grammar: &str) -> Result<(Vec<Expr>, usize), String> {
    if grammar.len() > MOST_TEXT {
        return Err(format!("it has {} bytes; at most {MOST_TEXT}", grammar.len()));
    }
    let mut parser = Parser { text: grammar, at: 0, rules: Vec::new(), numbers: HashMap::new(), depth: 0 };
    parser.blank(true);
    while parser.peek().is_some() {
        parser.rule()?;
        parser.blank(true);
    }
    let mut rules = Vec::with_capacity(parser.rules.len());
    for (name, line, body) in parser.rules {
        rules.push(body.ok_or_else(|| format!("line {line}: the rule `{name}` is not defined"))?);
    }
    if rules.len() > MOST_RULES {
        return Err(format!("it has {} rules; at most {MOST_RULES}", rules.len()));
    }
    let root = parser.numbers.get("root").ok_or("it has no rule `root`, where answers begin")?;
    Ok((rules, *root))
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// Name, line where it was met first, and what it stands for once that is known.
    rules: Vec<(&'a str, usize, Option<Expr>)>,
    numbers: HashMap<&'a str, usize>,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, wanted: &str) -> bool {
        let found = self.text[self.at..].starts_with(wanted);
        self.at += if found { wanted.len() } else { 0 };
        found
    }

    fn wrong<T>(&self, problem: impl AsRef<str>) -> Result<T, String> {
        let line = 1 + self.text[..self.at].matches('\n').count();
        Err(format!("line {line}: {}", problem.as_ref()))
    }

    /// Skips white space and comments; line ends only if the rule may go on after them.
    fn blank(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\n' | '\r' if lines => self.at += 1,
                '#' => {
                    self.at += self.text[self.at..].find(['\n', '\r']).unwrap_or(self.text.len() - self.at)
                }
                _ => return,
            }
        }
    }

    fn name(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        let name = &rest[..length.unwrap_or(rest.len())];
        self.at += name.len();
        name
    }

    fn number_of(&mut self, name: &'a str) -> usize {
        let line = 1 + self.text[..self.at].matches('\n').count();
        let (rules, next) = (&mut self.rules, self.numbers.len());
        *self.numbers.entry(name).or_insert_with(|| {
            rules.push((name, line, None));
            next
        })
    }

    fn rule(&mut self) -> Result<(), String> {
        let name = self.name();
        if name.is_empty() {
            let found = self.peek().unwrap_or_default();
            return self.wrong(format!("`{found}` is not expected here"));
        }
        let number = self.number_of(name);
        self.blank(false);
        if !self.eat("::=") {
            return self.wrong(format!("`::=` is missing after `{name}`"));
        }
        self.blank(true);
        let body = self.choice(false)?;
        self.rules[number].2 = Some(body);
        match self.peek() {
            None | Some('\n' | '\r') => Ok(()),
            Some(other) => self.wrong(format!("`{other}` is not expected here")),
        }
    }

    /// Alternatives, up to the end of the rule or of the brackets.
    fn choice(&mut self, nested: bool) -> Result<Expr, String> {
        let mut choices = vec![self.sequence(nested)?];
        while self.eat("|") {
            self.blank(true);
            choices.push(self.sequence(nested)?);
        }
        Ok(if choices.len() == 1 { choices.remove(0) } else { Expr::Choice(choices) })
    }

    fn sequence(&mut self, nested: bool) -> Result<Expr, String> {
        let mut parts: Vec<Expr> = Vec::new();
        // Where the last item begins: a string is one item of several characters.
        let mut last = 0;
        loop {
            match self.peek() {
                Some('"') => {
                    last = parts.len();
                    self.string(&mut parts)?;
                    if parts.len() - last != 1 {
                        let string = Expr::Sequence(parts.split_off(last));
                        parts.push(string);
                    }
                }
                Some('[') => {
                    last = parts.len();
                    parts.push(self.set()?);
                }
                Some('.') => {
                    self.at += 1;
                    last = parts.len();
                    parts.push(Expr::Chars(without(Vec::new())));
                }
                Some('(') => {
                    self.at += 1;
                    self.depth += 1;
                    if self.depth > DEEPEST {
                        return self.wrong(format!("brackets are nested more than {DEEPEST} times"));
                    }
                    self.blank(true);
                    last = parts.len();
                    let inner = self.choice(true)?;
                    if !self.eat(")") {
                        return self.wrong("`)` is missing");
                    }
                    self.depth -= 1;
                    parts.push(inner);
                }
                Some('<') => {
                    last = parts.len();
                    parts.push(self.token()?);
                }
                Some(c @ ('*' | '+' | '?' | '{')) => {
                    if parts.len() <= last {
                        return self.wrong(format!("nothing to repeat before `{c}`"));
                    }
                    let (least, most) = self.repetition()?;
                    if let Some(repeated) = parts.pop() {
                        parts.push(Expr::Repeat(Box::new(repeated), least, most));
                    }
                }
                Some(c) if c.is_ascii_alphanumeric() || c == '-' || c == '_' => {
                    last = parts.len();
                    let name = self.name();
                    let number = self.number_of(name);
                    parts.push(Expr::Rule(number));
                }
                _ => break,
            }
            self.blank(nested);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::Sequence(parts) })
    }

    fn string(&mut self, parts: &mut Vec<Expr>) -> Result<(), String> {
        self.at += 1;
        loop {
            match self.peek() {
                None | Some('\n') => return self.wrong("a string that does not end"),
                Some('"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(_) => {
                    let c = self.character()?;
                    parts.push(Expr::Chars(vec![(c, c)]));
                }
            }
        }
    }

    fn set(&mut self) -> Result<Expr, String> {
        self.at += 1;
        let negated = self.eat("^");
        let mut ranges = Vec::new();
        loop {
            match self.peek() {
                None | Some('\n') => return self.wrong("a set of characters that does not end"),
                Some(']') => break,
                Some(_) => {}
            }
            let low = self.character()?;
            let dash = self.text[self.at..].starts_with('-') && !self.text[self.at..].starts_with("-]");
            let high = if dash {
                self.at += 1;
                self.character()?
            } else {
                low
            };
            if high < low {
                let show = |c: u32| char::from_u32(c).unwrap_or(char::REPLACEMENT_CHARACTER);
                return self.wrong(format!("the range {}-{} is empty", show(low), show(high)));
            }
            ranges.push((low, high));
        }
        self.at += 1;
        let chars = if negated { without(ranges) } else { without(without(ranges)) };
        if chars.is_empty() {
            return self.wrong("a set without characters");
        }
        Ok(Expr::Chars(chars))
    }

    /// One character of a string or a set.
    fn character(&mut self) -> Result<u32, String> {
        let Some(c) = self.next() else { return self.wrong("it ends in the middle") };
        if c != '\\' {
            return Ok(c.into());
        }
        let Some(escape) = self.next() else { return self.wrong("it ends in the middle") };
        let digits = match escape {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            't' => return Ok(u32::from('\t')),
            'r' => return Ok(u32::from('\r')),
            'n' => return Ok(u32::from('\n')),
            '\\' | '"' | '[' | ']' | '-' | '^' | '/' | '\'' => return Ok(escape.into()),
            other => return self.wrong(format!("unknown escape `\\{other}`")),
        };
        let code = self.text.get(self.at..self.at + digits).and_then(|d| u32::from_str_radix(d, 16).ok());
        match code.filter(|&c| char::from_u32(c).is_some()) {
            Some(code) => {
                self.at += digits;
                Ok(code)
            }
            None => self.wrong(format!("`\\{escape}` needs the {digits} hexadecimal digits of a character")),
        }
    }

    /// `*`, `+`, `?`, `{n}`, `{n,}`, `{,m}` or `{n,m}`.
    fn repetition(&mut self) -> Result<(u32, Option<u32>), String> {
        match self.next() {
            Some('*') => return Ok((0, None)),
            Some('+') => return Ok((1, None)),
            Some('?') => return Ok((0, Some(1))),
            _ => {}
        }
        let end = self.text[self.at..].find('}').filter(|&end| end < 30);
        let Some(end) = end else { return self.wrong("`}` is missing") };
        let inside = &self.text[self.at..self.at + end];
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|&n| n <= MOST_REPEATS);
        let bounds = match inside.split_once(',') {
            None => number(inside).map(|n| (n, Some(n))),
            Some((least, most)) => {
                let least = if least.trim().is_empty() { Some(0) } else { number(least) };
                let most = if most.trim().is_empty() { Some(None) } else { number(most).map(Some) };
                least.zip(most)
            }
        };
        let Some((least, most)) = bounds else {
            return self.wrong(format!("`{{{inside}}}` is no repetition (numbers up to {MOST_REPEATS})"));
        };
        if most.is_some_and(|most| most < least || most == 0) {
            return self.wrong(format!("{{{inside}}} allows nothing"));
        }
        self.at += end + 1;
        Ok((least, most))
    }

    /// `<[1234]>` or `<name>`: one token of the vocabulary.
    fn token(&mut self) -> Result<Expr, String> {
        let rest = &self.text[self.at..];
        let end = rest.find('>').filter(|&end| end < 100 && !rest[..end].contains(char::is_whitespace));
        let Some(end) = end else { return self.wrong("`>` is missing after the name of a token") };
        self.at += end + 1;
        Ok(Expr::Token(rest[..=end].to_string()))
    }
}

/// All characters but those of some ranges, in order.
fn without(mut ranges: Vec<(u32, u32)>) -> Chars {
    // Surrogates are no characters.
    ranges.sort_unstable();
    let (mut chars, mut from) = (Vec::new(), 0);
    let mut keep = |low: u32, high: u32| {
        for (first, last) in [(0, 0xD7FF), (0xE000, LAST_CHAR)] {
            let (low, high) = (low.max(first), high.min(last));
            if low <= high {
                chars.push((low, high));
            }
        }
    };
    for (low, high) in ranges {
        if low > from {
            keep(from, low - 1);
        }
        from = from.max(high + 1);
    }
    if from <= LAST_CHAR {
        keep(from, LAST_CHAR);
    }
    chars
}
