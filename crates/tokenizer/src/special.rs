//! The special tokens of Llama 3.1: 256 names at the top of the vocabulary, always in this order.

/// How many special tokens a vocabulary ends with.
pub const SPECIAL_COUNT: usize = 256;

const NAMED: [(usize, &str); 8] = [
    (0, "<|begin_of_text|>"),
    (1, "<|end_of_text|>"),
    (4, "<|finetune_right_pad_id|>"),
    (6, "<|start_header_id|>"),
    (7, "<|end_header_id|>"),
    (8, "<|eom_id|>"),
    (9, "<|eot_id|>"),
    (10, "<|python_tag|>"),
];

/// The names of the 256 special tokens in the order of their ids, which start where the BPE tokens end.
pub fn special_names() -> Vec<String> {
    let mut reserved = 0..;
    (0..SPECIAL_COUNT)
        .map(|at| match NAMED.iter().find(|(i, _)| *i == at) {
            Some((_, name)) => name.to_string(),
            None => format!("<|reserved_special_token_{}|>", reserved.next().unwrap_or(0)),
        })
        .collect()
}

/// Ids of the special tokens that have a meaning of their own; [`Specials::NONE`] where a vocabulary lacks one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Specials {
    /// `<|begin_of_text|>`, the first token of a document or dialog.
    pub bos: u32,
    /// `<|end_of_text|>`, the last token of a document.
    pub end_of_text: u32,
    /// `<|start_header_id|>`, before the role of a message.
    pub start_header: u32,
    /// `<|end_header_id|>`, after it.
    pub end_header: u32,
    /// `<|eot_id|>`, the end of a turn.
    pub eot: u32,
    /// `<|eom_id|>`, the end of a message after which the turn goes on (a tool call).
    pub eom: u32,
    /// `<|python_tag|>`, before code or a built-in tool call.
    pub python_tag: u32,
    /// `<|finetune_right_pad_id|>`
    pub pad: u32,
}

impl Specials {
    /// No token at all.
    pub const NONE: u32 = u32::MAX;

    /// Looks the names up, those of Llama 3.1 first, then what other models call the same.
    pub(crate) fn find(id: impl Fn(&str) -> Option<u32>, bos: Option<u32>, eos: Option<u32>) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| id(name));
        let or_none = |found: Option<u32>| found.unwrap_or(Self::NONE);
        let end_of_text = first(&["<|end_of_text|>", "<|endoftext|>", "</s>"]).or(eos);
        let eot = first(&["<|eot_id|>", "<|im_end|>"]).or(eos);
        Self {
            bos: or_none(first(&["<|begin_of_text|>"]).or(bos)),
            end_of_text: or_none(end_of_text),
            start_header: or_none(first(&["<|start_header_id|>"])),
            end_header: or_none(first(&["<|end_header_id|>"])),
            eot: or_none(eot),
            // Llama 3.0 had no names for these yet: its files call them reserved tokens.
            eom: or_none(first(&["<|eom_id|>"]).or(eot)),
            python_tag: or_none(first(&["<|python_tag|>", "<|reserved_special_token_5|>"])),
            pad: or_none(first(&["<|finetune_right_pad_id|>"]).or(end_of_text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_llama_3_1() {
        let names = special_names();
        assert_eq!(names.len(), 256);
        for (at, name) in [
            (2, "<|reserved_special_token_0|>"),
            (3, "<|reserved_special_token_1|>"),
            (5, "<|reserved_special_token_2|>"),
            (10, "<|python_tag|>"),
            (11, "<|reserved_special_token_3|>"),
            (255, "<|reserved_special_token_247|>"),
        ] {
            assert_eq!(names[at], name);
        }
    }
}
