//! From the bytes of tokens to text that may be shown: whole characters only, and nothing of a stop string, even if
//! it begins in one token and ends in another.

/// The text of one answer while it grows.
#[derive(Clone, Debug, Default)]
pub(crate) struct TextStream {
    /// The beginning of a character whose other bytes are still to come.
    bytes: Vec<u8>,
    /// Text that may turn out to be the beginning of a stop string.
    held: String,
    stops: Vec<String>,
}

/// What one more token gave.
#[derive(Debug, PartialEq)]
pub(crate) struct Released {
    /// Text that may be shown now.
    pub text: String,
    /// Whether a stop string was found; the text ends before it.
    pub stopped: bool,
}

impl TextStream {
    pub(crate) fn new(stops: &[String]) -> Self {
        Self { stops: stops.to_vec(), ..Self::default() }
    }

    /// Takes the bytes of the next token.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Released {
        self.bytes.extend_from_slice(bytes);
        self.decode(false);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            let text = self.held[..at].to_string();
            self.held.clear();
            self.bytes.clear();
            return Released { text, stopped: true };
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Released { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// The answer is over: gives what was held back.
    pub(crate) fn finish(&mut self) -> String {
        self.decode(true);
        std::mem::take(&mut self.held)
    }

    /// Moves whole characters from `bytes` to `held`; what is no UTF-8 becomes U+FFFD.
    fn decode(&mut self, last: bool) {
        let mut rest = self.bytes.as_slice();
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.held.push_str(text);
                    rest = &[];
                }
                Err(error) => {
                    let (good, bad) = rest.split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(good));
                    match error.error_len() {
                        Some(length) => {
                            self.held.push(char::REPLACEMENT_CHARACTER);
                            rest = &bad[length..];
                        }
                        None if last => {
                            self.held.push(char::REPLACEMENT_CHARACTER);
                            rest = &[];
                        }
                        None => {
                            rest = bad;
                            break;
                        }
                    }
                }
            }
        }
        let done = self.bytes.len() - rest.len();
        self.bytes.drain(..done);
    }
}

/// Length of the longest end of `text` that begins `stop` (and is shorter than it).
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest)
        .rev()
        .find(|&n| stop.as_bytes().starts_with(&text.as_bytes()[text.len() - n..]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], tokens: &[&[u8]]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|s| s.to_string()).collect();
        let mut stream = TextStream::new(&stops);
        let mut parts = Vec::new();
        for token in tokens {
            let released = stream.push(token);
            parts.push(released.text);
            if released.stopped {
                return (parts, true);
            }
        }
        parts.push(stream.finish());
        (parts, false)
    }

    #[test]
    fn characters_split_over_tokens_come_out_whole() {
        let e = "é€😀".as_bytes();
        let (parts, _) = run(&[], &[&e[..1], &e[1..3], &e[3..6], &e[6..]]);
        assert_eq!(parts, ["", "é", "€", "😀", ""]);
    }

    #[test]
    fn bytes_that_are_no_text_become_what_lossy_decoding_gives() {
        let bytes: &[u8] = b"a\xFFb\xE2\x82";
        let (parts, _) = run(&[], &bytes.chunks(1).collect::<Vec<_>>());
        assert_eq!(parts.concat(), String::from_utf8_lossy(bytes));
    }

    #[test]
    fn a_stop_string_across_tokens_never_leaks() {
        assert_eq!(run(&["END"], &[b"one E", b"N", b"D two"]).0, ["one ", "", ""]);
        assert!(run(&["END"], &[b"one E", b"N", b"D two"]).1);
        // A beginning that turns out to be none is given later.
        assert_eq!(run(&["END"], &[b"one E", b"N", b"O"]).0, ["one ", "", "ENO", ""]);
        // The earliest of several stops wins; repeated beginnings are found.
        assert_eq!(run(&["aab", "c"], &[b"xa", b"aa", b"bc"]).0, ["x", "a", ""]);
        // What is held back comes out at the end of the answer.
        assert_eq!(run(&["END"], &[b"the EN"]).0, ["the ", "EN"]);
    }

    #[test]
    fn a_stop_string_inside_a_split_character_boundary_is_found() {
        let stop = "→";
        let bytes = "go→on".as_bytes();
        let (parts, stopped) = run(&[stop], &bytes.chunks(1).collect::<Vec<_>>());
        assert_eq!((parts.concat().as_str(), stopped), ("go", true));
    }
}
