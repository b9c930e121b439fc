//! Training, saving and loading on real text.

use herd_run::Context;
use herd_tokenizer::chat::{self, Message, Role, TokenKind};
use herd_tokenizer::train::{Settings, Trainer, train};
use herd_tokenizer::{SPECIAL_COUNT, Tokenizer, special_names};

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

#[test]
fn an_extended_vocabulary_keeps_its_tokens_and_shortens_other_languages() {
    let settings = |vocab_size| Settings { vocab_size, ..Settings::default() };
    let english = "the cow and the calf walk to the herd on the hill\n".repeat(40);
    let german = "die Kühe und das Kälbchen gehen über den Hügel zur Herde\n".repeat(40);
    let base = train(&[&english], &settings(560)).unwrap();
    let mut trainer = Trainer::new(settings(640)).unwrap();
    trainer.feed(&[&german]).unwrap();
    let extended = trainer.extend(&base, &Context::quiet()).unwrap();

    let text_tokens = base.vocab_size() as u32 - SPECIAL_COUNT as u32;
    for id in 0..text_tokens {
        assert_eq!(base.token_bytes(id), extended.token_bytes(id), "token {id}");
    }
    assert!(extended.vocab_size() > base.vocab_size());
    assert!(extended.encode(&german).len() * 2 < base.encode(&german).len());
    // Merges that were there go first, so a text that needs no new token has the ids that it had.
    assert_eq!(extended.encode("the cow"), base.encode("the cow"));
    for text in [&german, &english] {
        assert_eq!(extended.decode(&extended.encode(text)), *text);
    }
    // The file says the same as what was learned.
    let folder = tempfile::tempdir().unwrap();
    extended.save(folder.path()).unwrap();
    assert_eq!(Tokenizer::load(folder.path()).unwrap().encode(&german), extended.encode(&german));

    let too_small = Trainer::new(settings(530)).unwrap().extend(&base, &Context::quiet()).err().unwrap();
    assert!(too_small.to_string().contains("vocab_size"), "{too_small}");
}
