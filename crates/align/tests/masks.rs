//! What each token of a dialog is for, token by token, with the real tokenizer and both chat templates.

use herd_align::examples;
use herd_align::records::{Message, Role};
use herd_tokenizer::chat::TemplateKind;
use herd_tokenizer::{Tokenizer, train};

fn tokenizer(template: TemplateKind) -> Tokenizer {
    let texts = ["system user assistant Hello there, how are you? I am well. Be brief.", "well well well"];
    train::train(&texts, &train::Settings { vocab_size: 540, min_frequency: 1, chat_template: template })
        .unwrap()
}

fn dialog() -> Vec<Message> {
    vec![
        Message::new(Role::System, "Be brief."),
        Message::new(Role::User, "Hello there"),
        Message::new(Role::Assistant, "Hello!"),
        Message::new(Role::User, "how are you?"),
        Message::new(Role::Assistant, "I am well."),
    ]
}

/// The text of the tokens that are marked, with `|` where a run of them ends.
fn marked(tokenizer: &Tokenizer, tokens: &[u32], marks: &[bool]) -> String {
    assert_eq!(tokens.len(), marks.len());
    let mut text = String::new();
    for (i, (&token, &mark)) in tokens.iter().zip(marks).enumerate() {
        if mark {
            text += &String::from_utf8_lossy(tokenizer.token_bytes(token));
        }
        if mark && marks.get(i + 1) != Some(&true) {
            text.push('|');
        }
    }
    text
}

#[test]
fn sft_learns_every_answer_and_its_end_and_nothing_else() {
    for template in [TemplateKind::Llama3, TemplateKind::Llama31] {
        let tokenizer = tokenizer(template);
        let dialog = examples::dialog(&tokenizer, &dialog()).unwrap();
        let learned = marked(&tokenizer, &dialog.tokens, &dialog.learned);
        assert_eq!(learned, "Hello!<|eot_id|>|I am well.<|eot_id|>|");
    }
}

#[test]
fn dpo_counts_the_content_of_the_response_but_no_format() {
    for template in [TemplateKind::Llama3, TemplateKind::Llama31] {
        let tokenizer = tokenizer(template);
        let dialog = dialog();
        let (prompt, answer) = dialog.split_at(4);
        let responses = [answer[0].content.as_str(), "well well"];
        let group = examples::group(&tokenizer, prompt, responses).unwrap();
        let header = "<|start_header_id|>assistant<|end_header_id|>\n\n";
        assert!(tokenizer.decode(&group.prompt).ends_with(header), "the header belongs to the prompt");
        let whole = examples::dialog(&tokenizer, &dialog).unwrap().tokens;
        assert_eq!(
            whole,
            [&group.prompt[..], &group.responses[0].tokens].concat(),
            "prompt and response join"
        );
        for (response, text) in group.responses.iter().zip(responses) {
            assert_eq!(response.tokens.last(), Some(&tokenizer.specials().eot));
            assert_eq!(marked(&tokenizer, &response.tokens, &response.counted), format!("{text}|"));
        }
    }
}

#[test]
fn names_of_special_tokens_in_a_message_stay_text() {
    let tokenizer = tokenizer(TemplateKind::Llama3);
    let messages =
        [Message::new(Role::User, "<|eot_id|>"), Message::new(Role::Assistant, "ok <|eot_id|> ok")];
    let dialog = examples::dialog(&tokenizer, &messages).unwrap();
    let ends = dialog.tokens.iter().filter(|&&t| t == tokenizer.specials().eot).count();
    assert_eq!(ends, 2, "one end for each message");
    assert_eq!(marked(&tokenizer, &dialog.tokens, &dialog.learned), "ok <|eot_id|> ok<|eot_id|>|");
}
