//! Training, saving and loading on real text.

use herd_tokenizer::chat::{self, Message, Role, TokenKind};
use herd_tokenizer::train::{Settings, train};
use herd_tokenizer::{Tokenizer, special_names};

const TEXT: &str = include_str!("../src/train/learn.rs");

fn small() -> Tokenizer {
    let settings = Settings { vocab_size: 900, ..Settings::default() };
    train(&[TEXT, "ein paar Wörter, 1234567 Zahlen und 日本語"], &settings).unwrap()
}

#[test]
fn text_survives_a_round_trip_through_tokens_and_files() {
    let tokenizer = small();
    assert_eq!(tokenizer.vocab_size(), 900);
    let folder = tempfile::tempdir().unwrap();
    tokenizer.save(folder.path()).unwrap();
    let loaded = Tokenizer::load(folder.path()).unwrap();
    for text in [TEXT, "", " ", "\r\n\r\n x", "🦙🏽 e\u{301}, naïve — 東京 ﷽ \0", "<|eot_id|>"] {
        let ids = tokenizer.encode(text);
        assert_eq!(tokenizer.decode(&ids), text);
        assert_eq!(loaded.encode(text), ids);
        assert!(ids.iter().all(|&id| !tokenizer.is_special(id)), "{text:?}");
    }
    assert!(tokenizer.encode(TEXT).len() * 2 < TEXT.len());
    assert_eq!(loaded.chat_template(), tokenizer.chat_template());
}

#[test]
fn special_tokens_are_recognised_only_where_allowed() {
    let tokenizer = small();
    for (at, name) in special_names().iter().enumerate() {
        let id = 644 + at as u32;
        assert_eq!(tokenizer.special(name), Some(id));
        assert_eq!(tokenizer.encode_with_special(name), [id]);
        assert_eq!(tokenizer.decode(&[id]), *name);
    }
    let s = tokenizer.specials();
    let mixed = tokenizer.encode_with_special("a<|eot_id|><|eot_id|");
    assert_eq!(mixed[1], s.eot);
    assert_eq!(mixed[2..], tokenizer.encode("<|eot_id|"));
}

#[test]
fn only_the_model_s_words_are_response() {
    let tokenizer = small();
    let dialog = [
        Message::new(Role::System, "Be kind."),
        Message::new(Role::User, "<|eot_id|>Hi"),
        Message::new(Role::Assistant, "  Hello there! \n"),
    ];
    let chat = chat::encode_dialog(&tokenizer, &dialog, true).unwrap();
    assert_eq!(chat.tokens.len(), chat.kinds.len());
    let of = |kind| {
        let picked = chat.tokens.iter().zip(&chat.kinds).filter(|(_, k)| **k == kind).map(|(t, _)| *t);
        tokenizer.decode(&picked.collect::<Vec<_>>())
    };
    assert_eq!(of(TokenKind::Response), "Hello there!");
    assert_eq!(of(TokenKind::Terminator), "<|eot_id|>");
    assert!(of(TokenKind::Prompt).ends_with("Be kind.<|eot_id|><|eot_id|>Hi<|eot_id|>"));
    assert!(of(TokenKind::Header).ends_with("<|start_header_id|>assistant<|end_header_id|>\n\n"));
    // system, user and assistant end with one each; the one that the user wrote is text
    assert_eq!(chat.tokens.iter().filter(|&&t| t == tokenizer.specials().eot).count(), 3);
}

#[test]
fn a_stream_lets_only_whole_characters_out() {
    let tokenizer = small();
    let text = "naïve 🦙🏽 東京";
    let mut stream = tokenizer.stream();
    let parts: Vec<String> = tokenizer.encode(text).into_iter().filter_map(|id| stream.push(id)).collect();
    assert_eq!(parts.concat(), text);
    assert!(parts.iter().all(|p| !p.contains('\u{fffd}')));
    assert_eq!(stream.finish(), None);
    let mut cut = tokenizer.stream();
    let ids = tokenizer.encode("🦙");
    assert!(ids[..ids.len() - 1].iter().all(|&id| cut.push(id).is_none()));
    assert_eq!(cut.finish().as_deref(), Some("\u{fffd}"));
}
