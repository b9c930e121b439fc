use super::{Filter, Reason, Verdict, is_unspaced};
use crate::documents::Document;

/// Drops documents with too little text. A character of a script without spaces counts as three.
pub struct MinLength {
    /// Least visible characters.
    pub min_chars: usize,
}

impl Filter for MinLength {
    fn step(&self) -> &'static str {
        "length"
    }

    fn apply(&self, document: &mut Document) -> Verdict {
        let weight = |c: char| if c.is_whitespace() { 0 } else { 1 + 2 * is_unspaced(c) as usize };
        let chars: usize = document.text.chars().map(weight).sum();
        document.values.insert("characters".into(), chars as f32);
        if chars >= self.min_chars {
            return Verdict::Keep;
        }
        Verdict::Drop(Reason::new("too short", chars as f32, self.min_chars as f32, &document.text))
    }
}

#[cfg(test)]
mod tests {
    use super::super::document;
    use super::*;

    #[test]
    fn short_texts_go_and_dense_scripts_count_more() {
        let filter = MinLength { min_chars: 30 };
        assert_eq!(
            filter.apply(&mut document("The system starts, and then it waits for work.")),
            Verdict::Keep
        );
        assert_eq!(filter.apply(&mut document("システムを起動します。")), Verdict::Keep);
        assert!(matches!(filter.apply(&mut document("Next page")), Verdict::Drop(_)));
    }
}
