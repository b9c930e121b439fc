//! Which language a text is in: fastText's lid.176 (SPEC DATA-7), 176 languages, built into the program.

use fasttext::FastText;
use std::sync::OnceLock;

/// The model; its licence is in `assets/NOTICE.md`.
static MODEL: &[u8] = include_bytes!("../assets/lid.176.ftz");

/// Bytes of a text that are looked at: enough for certainty, little for time.
const WINDOW: usize = 4000;

/// The model with the tree of its output layer.
///
/// The crate's own prediction takes the quantised model's output for a softmax, which it is not: lid.176 is trained with
/// hierarchical softmax, a binary decision at each inner node of a Huffman tree over the labels. So the tree is built
/// here, as fastText builds it, and the crate gives the vectors.
struct Model {
    fasttext: FastText,
    /// Children of each node; leaves, the labels, come first and have none.
    children: Vec<Option<(usize, usize)>>,
    labels: Vec<String>,
}

impl Model {
    fn load(bytes: &[u8]) -> Option<Self> {
        let fasttext = FastText::load(&mut &*bytes).ok()?;
        let (labels, counts) = fasttext.get_labels();
        Some(Self { children: huffman(&counts), labels, fasttext })
    }

    /// Mean of the input vectors of a text's words and their n-grams.
    fn hidden(&self, text: &str) -> Option<Vec<f32>> {
        let dimension = self.fasttext.get_dimension() as usize;
        let (mut sum, mut word_vector, mut count) = (vec![0.0; dimension], vec![0.0; dimension], 0);
        for word in text.split_ascii_whitespace().chain(["</s>"]) {
            let rows = self.fasttext.dict().get_subwords_for_string(word).len();
            self.fasttext.get_word_vector_into(word, &mut word_vector);
            sum.iter_mut().zip(&word_vector).for_each(|(s, v)| *s += rows as f32 * v);
            count += rows;
        }
        sum.iter_mut().for_each(|s| *s /= count.max(1) as f32);
        // Without any known part of a word the end alone decides, as in fastText: for no language with certainty.
        (!text.trim_ascii().is_empty()).then_some(sum)
    }

    /// The leaf with the greatest product of decisions on its path.
    fn best(&self, hidden: &[f32]) -> (usize, f32) {
        let leaves = self.labels.len();
        let mut best = (0, 0.0);
        let mut open = vec![(self.children.len() - 1, 1.0f32)];
        while let Some((node, probability)) = open.pop() {
            if probability <= best.1 {
                continue;
            }
            match self.children[node] {
                None => best = (node, probability),
                Some((left, right)) => {
                    let row = self.fasttext.output_matrix().row((node - leaves) as i64);
                    let score: f32 = row.iter().zip(hidden).map(|(a, b)| a * b).sum();
                    let right_probability = 1.0 / (1.0 + (-score).exp());
                    open.push((left, probability * (1.0 - right_probability)));
                    open.push((right, probability * right_probability));
                }
            }
        }
        best
    }
}

/// fastText's Huffman tree: labels by falling count, two queues, the smaller node to the left.
pub(crate) fn huffman(counts: &[i64]) -> Vec<Option<(usize, usize)>> {
    let leaves = counts.len();
    let mut weight = counts.to_vec();
    weight.resize(2 * leaves - 1, 1_000_000_000_000_000);
    let mut children = vec![None; leaves];
    let (mut leaf, mut inner) = (leaves, leaves); // the next leaf is leaf - 1
    for node in leaves..2 * leaves - 1 {
        let mut next = || {
            if leaf > 0 && weight[leaf - 1] < weight[inner] {
                leaf -= 1;
                leaf
            } else {
                inner += 1;
                inner - 1
            }
        };
        let pair = (next(), next());
        weight[node] = weight[pair.0] + weight[pair.1];
        children.push(Some(pair));
    }
    children
}

/// The most likely language (ISO code) and its probability. `None` for a text without words.
pub fn identify(text: &str) -> Option<(String, f32)> {
    static LOADED: OnceLock<Option<Model>> = OnceLock::new();
    let model = LOADED.get_or_init(|| Model::load(MODEL)).as_ref()?;
    // fastText reads lines; the window is taken from the middle, where boilerplate is rarest.
    let mut start = text.len().saturating_sub(WINDOW) / 2;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let mut end = (start + WINDOW).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let (label, probability) = model.best(&model.hidden(&text[start..end])?);
    Some((model.labels[label].trim_start_matches("__label__").to_string(), probability))
}

#[cfg(test)]
mod tests {
    use super::identify;

    #[test]
    fn languages_of_several_scripts_are_known() {
        for (language, text) in [
            ("en", "The pages of this handbook explain how a system is installed and kept running."),
            ("de", "Die Seiten dieses Handbuchs erklären, wie ein System eingerichtet und gepflegt wird."),
            (
                "pt",
                "As páginas deste manual explicam como um sistema é instalado e mantido em funcionamento.",
            ),
            ("hi", "इस पुस्तिका के पृष्ठ बताते हैं कि प्रणाली कैसे स्थापित की जाती है।"),
            ("ja", "このハンドブックでは、システムの導入と運用の方法を説明します。"),
            ("ru", "Страницы этого руководства объясняют, как установить и поддерживать систему."),
        ] {
            let (found, score) = identify(text).unwrap();
            assert_eq!(found, language);
            assert!(score > 0.5, "{language} {score}");
        }
        assert!(identify("").is_none());
        // fastText 0.9.3 in C++ gives 0.9212 and 0.9974 for these two.
        let score = |text| identify(text).unwrap().1;
        let (english, german) = (
            "The pages of this handbook explain how a system is installed and kept running.",
            "Die Seiten dieses Handbuchs erklären, wie ein System eingerichtet und gepflegt wird.",
        );
        assert!((score(english) - 0.9212).abs() < 2e-3, "{}", score(english));
        assert!((score(german) - 0.9974).abs() < 2e-3, "{}", score(german));
    }
}
