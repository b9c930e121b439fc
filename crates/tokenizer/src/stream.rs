use crate::Tokenizer;

/// Decodes token by token and lets only whole UTF-8 characters out. Made by [`Tokenizer::stream`].
pub struct TokenStream {
    tokenizer: Tokenizer,
    /// Bytes of a character whose end has not come yet; at most 3.
    pending: Vec<u8>,
    /// Whether a space at the beginning is still to be taken away.
    strip: bool,
}

impl TokenStream {
    pub(crate) fn new(tokenizer: Tokenizer) -> Self {
        let strip = tokenizer.strips_space();
        Self { tokenizer, pending: Vec::new(), strip }
    }

    /// Takes the next token. Returns the text that became certain, `None` if there is none yet.
    ///
    /// Bytes that can never become a character come out as U+FFFD, as [`Tokenizer::decode`] gives them. Special
    /// tokens come out by name.
    pub fn push(&mut self, id: u32) -> Option<String> {
        self.pending.extend_from_slice(self.tokenizer.token_bytes(id));
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        self.pending = rest.to_vec();
        if self.strip && !text.is_empty() {
            self.strip = false;
            if text.starts_with(' ') {
                text.remove(0);
            }
        }
        (!text.is_empty()).then_some(text)
    }

    /// What is left at the end: U+FFFD for a character that never became whole.
    pub fn finish(self) -> Option<String> {
        (!self.pending.is_empty()).then(|| char::REPLACEMENT_CHARACTER.to_string())
    }
}
