//! Split rules given as a regular expression, without a backtracking engine.

use regex_automata::Input;
use regex_automata::meta::Regex;

/// What almost every rule ends with: white space up to what comes before a word. It is the only look-ahead that is
/// understood, since the longest run of white space says all there is to know about it.
const BLANK_BEFORE_WORD: &str = r"\s+(?!\S)";

/// A compiled rule.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    source: String,
    regex: Regex,
    /// Which of the patterns of `regex` stands for [`BLANK_BEFORE_WORD`].
    blank: Option<usize>,
}

impl Pattern {
    /// # Errors
    /// What in the rule is not understood.
    pub(crate) fn new(source: &str) -> Result<Self, String> {
        let (alternatives, possessive) = scan(source);
        if possessive {
            return Err(format!(
                "the pattern {source:?} has a possessive quantifier, which is not supported"
            ));
        }
        let (mut patterns, mut blank) = (Vec::new(), None);
        let mut begin = 0;
        for (at, alternative) in alternatives.iter().enumerate() {
            if *alternative != BLANK_BEFORE_WORD {
                continue;
            }
            if blank.is_some() || alternatives[at + 1..].iter().any(|&rest| rest != r"\s+" && rest != r"\s") {
                return Err(format!(
                    "the pattern {source:?} goes on after {BLANK_BEFORE_WORD}, which is not supported"
                ));
            }
            if at > begin {
                patterns.push(alternatives[begin..at].join("|"));
            }
            blank = Some(patterns.len());
            patterns.push(r"\s+".to_string());
            begin = at + 1;
        }
        if begin < alternatives.len() {
            patterns.push(alternatives[begin..].join("|"));
        }
        let regex = Regex::new_many(&patterns).map_err(|e| {
            // The cause names the place; the outer message is only "error building ...".
            let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), |c| c.to_string());
            format!("the pattern {source:?} is not supported: {}", cause.lines().last().unwrap_or_default())
        })?;
        Ok(Self { source: source.to_string(), regex, blank })
    }

    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Appends the ends of the pieces of `text[start..end]`: matches, and what stands between them.
    pub(super) fn split(&self, text: &str, start: usize, end: usize, ends: &mut Vec<usize>) {
        let (mut done, mut from) = (start, start);
        let piece = &text[..end];
        while from < end {
            // As if the text began at `start`: rules have no look-behind, only `^` would see the difference.
            let Some(found) = self.regex.search(&Input::new(piece).range(from..end)) else { break };
            let mut stop = found.end();
            if Some(found.pattern().as_usize()) == self.blank && stop < end {
                let last = piece[found.start()..stop].char_indices().next_back();
                match last {
                    Some((0, _)) | None if self.regex.pattern_len() == found.pattern().as_usize() + 1 => {
                        // A single blank before a word, and no alternative that takes it.
                        from = stop;
                        continue;
                    }
                    Some((0, _)) | None => {}
                    Some((at, _)) => stop = found.start() + at,
                }
            }
            if found.is_empty() {
                // An empty match moves on by a character and cuts nothing.
                from += piece[from..].chars().next().map_or(1, char::len_utf8);
                continue;
            }
            if found.start() > done {
                ends.push(found.start());
            }
            ends.push(stop);
            (done, from) = (stop, stop);
        }
        if done < end {
            ends.push(end);
        }
    }
}

/// The alternatives of a pattern, cut at each `|` that is outside of groups and classes; and whether there is a
/// quantifier such as `++`, which means something else to the engine used here.
fn scan(source: &str) -> (Vec<&str>, bool) {
    let (mut out, mut begin, mut depth, mut class, mut possessive) = (Vec::new(), 0, 0usize, false, false);
    let mut before = ' ';
    for (at, c) in source.char_indices() {
        if before == '\\' {
            // Escaped, and so no quantifier either.
            before = ' ';
            continue;
        }
        match c {
            '[' => class = true,
            ']' => class = false,
            '(' if !class => depth += 1,
            ')' if !class => depth = depth.saturating_sub(1),
            '+' if !class && matches!(before, '+' | '*' | '?') => possessive = true,
            '|' if !class && depth == 0 => {
                out.push(&source[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
        before = c;
    }
    out.push(&source[begin..]);
    (out, possessive)
}
