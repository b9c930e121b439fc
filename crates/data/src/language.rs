//! Which language a text is in: fastText's lid.176 (SPEC DATA-7), 176 languages, built into the program.

use fasttext::FastText;
use std::sync::OnceLock;

/// The model; its licence is in `assets/NOTICE.md`.
static MODEL: &[u8] = include_bytes!("../assets/lid.176.ftz");

/// Bytes of a text that are looked at: enough for certainty, little for time.
const WINDOW: usize = 4000;

/// The most likely language (ISO code) and its probability. `None` for a text without words.
pub fn identify(text: &str) -> Option<(String, f32)> {
    static LOADED: OnceLock<Option<FastText>> = OnceLock::new();
    let model = LOADED.get_or_init(|| FastText::load(&mut &*MODEL).ok()).as_ref()?;
    // fastText reads lines; the window is taken from the middle, where boilerplate is rarest.
    let mut start = text.len().saturating_sub(WINDOW) / 2;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    let mut end = (start + WINDOW).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let window: String = text[start..end].chars().map(|c| if c.is_whitespace() { ' ' } else { c }).collect();
    let best = model.predict(&window, 1, 0.0).into_iter().next()?;
    Some((best.label.trim_start_matches("__label__").to_string(), best.prob.min(1.0)))
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
    }
}
