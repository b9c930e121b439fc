//! Whether a lexer that takes the longest match loses an answer that the grammar allows.
//!
//! It does if some text is a whole lexeme, the grammar goes on after it with a character c, and with c the text is
//! also the beginning of a longer lexeme. Each lexeme is an automaton whose states are its sets of characters
//! (Glushkov), repeated parts are taken to repeat without end, and every pair of lexemes is walked through together;
//! all of this can only find too many such places.

use super::{Chars, Expr, Part, Rules};
use std::collections::{HashMap, HashSet};

/// Pairs of states that are looked at before the answer is "it may".
const MOST_PAIRS: usize = 2_000_000;
/// Times that all rules are gone through.
const MOST_ROUNDS: usize = 100;
/// States of one lexeme.
const MOST_STATES: usize = 2_000;

pub(super) fn longest_match_is_exact(rules: &Rules, root: usize) -> bool {
    let mut flow = Flow {
        rules,
        first: vec![Chars::new(); rules.all.len()],
        empty: vec![false; rules.all.len()],
        after: vec![Chars::new(); rules.all.len()],
        lexemes: Vec::new(),
        numbers: HashMap::new(),
        changed: true,
        failed: false,
    };
    let mut reached = HashSet::from([root]);
    for _ in 0..MOST_ROUNDS {
        if !std::mem::take(&mut flow.changed) {
            return !flow.failed && flow.no_conflict();
        }
        for rule in reached.clone() {
            let after = flow.after[rule].clone();
            let (first, empty) = flow.walk(&rules.all[rule], &after, &mut reached);
            flow.changed |= union(&mut flow.first[rule], &first);
            flow.changed |= empty && !std::mem::replace(&mut flow.empty[rule], true);
        }
    }
    false
}

/// The states of a lexeme.
#[derive(Default)]
struct Automaton {
    states: Vec<Chars>,
    first: Vec<usize>,
    last: Vec<usize>,
    next: Vec<Vec<usize>>,
    /// Whether the empty text is one.
    empty: bool,
    /// What may follow in the grammar.
    after: Chars,
}

/// What each rule and lexeme begins with and is followed by.
struct Flow<'a> {
    rules: &'a Rules,
    first: Vec<Chars>,
    empty: Vec<bool>,
    after: Vec<Chars>,
    lexemes: Vec<Automaton>,
    numbers: HashMap<Vec<*const Expr>, usize>,
    changed: bool,
    failed: bool,
}

impl Flow<'_> {
    /// The first characters of `expr`, not counting what follows it, and whether it can be empty.
    fn walk(&mut self, expr: &Expr, after: &Chars, reached: &mut HashSet<usize>) -> (Chars, bool) {
        if self.rules.is_regular(expr) {
            return self.lexeme(&[expr], after);
        }
        match expr {
            Expr::Chars(chars) => (chars.clone(), false),
            Expr::Sequence(parts) => {
                let (mut first, mut empty) = (Chars::new(), true);
                let mut after = after.clone();
                for part in self.rules.parts(parts).into_iter().rev() {
                    let (begins, may_be_empty) = match part {
                        Part::Lexeme(run) => self.lexeme(&run, &after),
                        Part::Other(expr) => self.walk(expr, &after, reached),
                    };
                    if !may_be_empty {
                        (after, first) = (Chars::new(), Chars::new());
                    }
                    union(&mut after, &begins);
                    union(&mut first, &begins);
                    empty &= may_be_empty;
                }
                (first, empty)
            }
            Expr::Choice(parts) => {
                let (mut first, mut empty) = (Chars::new(), false);
                for part in parts {
                    let (begins, may_be_empty) = self.walk(part, after, reached);
                    union(&mut first, &begins);
                    empty |= may_be_empty;
                }
                (first, empty)
            }
            Expr::Repeat(inner, least, most) => {
                let (first, empty) = self.walk(inner, after, reached);
                if *most != Some(1) {
                    let mut again = after.clone();
                    union(&mut again, &first);
                    self.walk(inner, &again, reached);
                }
                (first, empty || *least == 0)
            }
            Expr::Rule(rule) => {
                self.changed |= reached.insert(*rule);
                self.changed |= union(&mut self.after[*rule], after);
                (self.first[*rule].clone(), self.empty[*rule])
            }
            // No text goes on into a token.
            Expr::Token(_) => (Chars::new(), false),
        }
    }

    fn lexeme(&mut self, run: &[&Expr], after: &Chars) -> (Chars, bool) {
        let key = run.iter().map(|expr| std::ptr::from_ref(*expr)).collect();
        let next = self.lexemes.len();
        let number = *self.numbers.entry(key).or_insert(next);
        if number == next {
            let mut automaton = Automaton { empty: true, ..Automaton::default() };
            for expr in run {
                let part = automaton.add(expr, self.rules);
                automaton.append(part);
            }
            self.failed |= automaton.states.len() > MOST_STATES;
            self.lexemes.push(automaton);
        }
        let automaton = &mut self.lexemes[number];
        self.changed |= union(&mut automaton.after, after);
        let mut first = Chars::new();
        for &state in &automaton.first {
            union(&mut first, &automaton.states[state]);
        }
        (first, automaton.empty)
    }

    fn no_conflict(&self) -> bool {
        let mut budget = MOST_PAIRS;
        self.lexemes.iter().all(|a| self.lexemes.iter().all(|b| !conflict(a, b, &mut budget)))
    }
}

/// Whether a text of `a`, with a character that may follow it, begins a text of `b`.
fn conflict(a: &Automaton, b: &Automaton, budget: &mut usize) -> bool {
    let mut todo = Vec::new();
    let mut seen = HashSet::new();
    let pairs = |ps: &[usize], qs: &[usize], todo: &mut Vec<(usize, usize)>| {
        for &p in ps {
            todo.extend(qs.iter().filter(|&&q| overlap(&a.states[p], &b.states[q])).map(|&q| (p, q)));
        }
    };
    pairs(&a.first, &b.first, &mut todo);
    while let Some((p, q)) = todo.pop() {
        if !seen.insert((p, q)) {
            continue;
        }
        if *budget == 0 {
            return true;
        }
        *budget -= 1;
        if a.last.contains(&p) && b.next[q].iter().any(|&n| overlap(&b.states[n], &a.after)) {
            return true;
        }
        pairs(&a.next[p], &b.next[q], &mut todo);
    }
    false
}

/// A part of an automaton: where it begins and ends, and whether it can be skipped.
struct Piece {
    first: Vec<usize>,
    last: Vec<usize>,
    empty: bool,
}

impl Automaton {
    /// Adds the states of a regular part.
    fn add(&mut self, expr: &Expr, rules: &Rules) -> Piece {
        if self.states.len() > MOST_STATES {
            return Piece { first: Vec::new(), last: Vec::new(), empty: true };
        }
        match expr {
            Expr::Chars(chars) => {
                let state = self.states.len();
                self.states.push(chars.clone());
                self.next.push(Vec::new());
                Piece { first: vec![state], last: vec![state], empty: false }
            }
            Expr::Sequence(parts) => {
                let mut whole = Piece { first: Vec::new(), last: Vec::new(), empty: true };
                for part in parts {
                    let part = self.add(part, rules);
                    self.join(&mut whole, part);
                }
                whole
            }
            Expr::Choice(parts) => {
                let mut whole = Piece { first: Vec::new(), last: Vec::new(), empty: false };
                for part in parts {
                    let part = self.add(part, rules);
                    whole.first.extend(part.first);
                    whole.last.extend(part.last);
                    whole.empty |= part.empty;
                }
                whole
            }
            Expr::Repeat(inner, least, _) => {
                let mut piece = self.add(inner, rules);
                for &last in &piece.last {
                    self.next[last].extend_from_slice(&piece.first);
                }
                piece.empty |= *least == 0;
                piece
            }
            Expr::Rule(rule) => self.add(&rules.all[*rule], rules),
            Expr::Token(_) => Piece { first: Vec::new(), last: Vec::new(), empty: true },
        }
    }

    fn join(&mut self, whole: &mut Piece, part: Piece) {
        for &last in &whole.last {
            self.next[last].extend_from_slice(&part.first);
        }
        if whole.empty {
            whole.first.extend_from_slice(&part.first);
        }
        if part.empty {
            whole.last.extend(part.last);
        } else {
            whole.last = part.last;
        }
        whole.empty &= part.empty;
    }

    /// Puts a part behind what is there.
    fn append(&mut self, part: Piece) {
        let (first, last) = (std::mem::take(&mut self.first), std::mem::take(&mut self.last));
        let mut whole = Piece { first, last, empty: self.empty };
        self.join(&mut whole, part);
        (self.first, self.last, self.empty) = (whole.first, whole.last, whole.empty);
    }
}

/// Whether two sets have a character in common.
fn overlap(a: &Chars, b: &Chars) -> bool {
    a.iter().any(|x| b.iter().any(|y| x.0 <= y.1 && y.0 <= x.1))
}

/// Adds `more` to `set`; true if that made it larger.
fn union(set: &mut Chars, more: &Chars) -> bool {
    let mut all: Chars = set.iter().chain(more).copied().collect();
    all.sort_unstable();
    let mut merged = Chars::new();
    for (low, high) in all {
        match merged.last_mut() {
            Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
            _ => merged.push((low, high)),
        }
    }
    let changed = merged != *set;
    *set = merged;
    changed
}
