//! Answers that must have a form.

mod tiny;

use herd_infer::{Error, FinishReason, Generator, Grammar, Sampling, Settings};
use serde_json::{Value, json};
use tiny::{generator, prompt};

fn answers(
    generator: &Generator,
    grammar: &Grammar,
    n: usize,
    sampling: Sampling,
) -> Vec<(String, FinishReason)> {
    let sampling = Sampling { constraint: Some(generator.compile(grammar).unwrap()), ..sampling };
    let answers = generator.generate(&[prompt(20, 1)], n, &sampling).unwrap().remove(0);
    answers.into_iter().map(|a| (a.text, a.finish_reason)).collect()
}

fn sampling(seed: u64) -> Sampling {
    Sampling { max_tokens: 200, seed, ..Sampling::default() }
}

#[test]
fn a_schema_makes_even_a_random_model_write_what_it_describes() {
    let generator = generator(Settings::default());
    let schema = json!({
        "type": "object",
        "properties": {
            "name": { "enum": ["cat", "dog"] },
            "age": { "type": "integer", "minimum": 0, "maximum": 30 },
            "friend": { "$ref": "#/$defs/friend" },
        },
        "required": ["name", "age", "friend"],
        "additionalProperties": false,
        "$defs": { "friend": { "type": ["boolean", "null"] } },
    });
    for temperature in [0.0, 1.0, 3.0] {
        let sampling = Sampling { temperature, ..sampling(3) };
        for (text, reason) in answers(&generator, &Grammar::JsonSchema(schema.clone()), 8, sampling) {
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            assert_eq!(reason, FinishReason::Stop);
            assert!(["cat", "dog"].contains(&value["name"].as_str().unwrap()));
            assert!((0..=30).contains(&value["age"].as_i64().unwrap()));
            assert!(value["friend"].is_boolean() || value["friend"].is_null());
            assert_eq!(value.as_object().unwrap().len(), 3);
        }
    }
}

#[test]
fn a_regular_expression_and_a_grammar_are_followed() {
    let generator = generator(Settings::default());
    for (text, _) in answers(&generator, &Grammar::Regex("(cat|dog) [0-9]{2}".into()), 8, sampling(1)) {
        let (animal, number) = text.split_once(' ').unwrap();
        assert!(
            ["cat", "dog"].contains(&animal) && number.len() == 2 && number.parse::<u8>().is_ok(),
            "{text}"
        );
    }
    let sum = Grammar::of_text("start: NUMBER (\"+\" NUMBER){1,3}\nNUMBER: /[1-9]/");
    let texts = answers(&generator, &sum, 8, sampling(2));
    for (text, _) in &texts {
        assert!((2..=4).contains(&text.split('+').count()), "{text}");
        assert!(text.split('+').all(|n| n.len() == 1 && n.parse::<u8>().is_ok_and(|n| n > 0)), "{text}");
    }
    assert!(texts.iter().any(|t| t.0 != texts[0].0), "the samples differ");
}

/// llama.cpp's grammar of JSON.
const JSON: &str = r##"
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws   # of any kind
object ::=
  "{" ws (
    string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"##;

#[test]
fn a_grammar_of_llama_cpp_is_followed() {
    let generator = generator(Settings::default());
    let mut whole = 0;
    for (text, reason) in answers(&generator, &Grammar::of_text(JSON), 16, sampling(4)) {
        assert!(text.starts_with('{'), "{text}");
        if reason == FinishReason::Stop {
            let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
            whole += usize::from(value.is_object());
        }
    }
    assert!(whole > 0);
    // Without recursion, with it, and where the longest lexeme would never let the answer end.
    for (grammar, fits) in [
        ("root ::= ([1-9] \"+\"){2} [1-9]", "1+1+1"),
        ("root ::= \"<\" root? \">\"", "<<>>"),
        ("root ::= \"<\" (root | word) \"x>\"\nword ::= [a-z]+", "<<ax>x>"),
    ] {
        let open = fits.matches('<').count();
        for (text, reason) in answers(&generator, &Grammar::of_text(grammar), 8, sampling(6)) {
            if reason == FinishReason::Length {
                continue;
            }
            match open {
                0 => assert!(text.split('+').count() == 3 && text.len() == 5, "{text}"),
                _ => {
                    let ends = text.matches('>').count();
                    assert_eq!(text.matches('<').count(), ends, "{text}");
                    assert!(open == 2 && text.ends_with(if grammar.contains("word") { "x>" } else { ">" }));
                }
            }
        }
    }
}

#[test]
fn the_form_does_not_change_with_the_company() {
    let generator = generator(Settings::default());
    let grammar = Grammar::Regex("[a-z ]{5,40}\\.".into());
    let alone: Vec<_> = answers(&generator, &grammar, 1, sampling(5));
    let together = answers(&generator, &grammar, 16, sampling(5));
    assert_eq!(alone[0], together[0]);
    // A form that every text has changes nothing.
    let free = generator.generate(&[prompt(20, 1)], 2, &Sampling { max_tokens: 20, ..sampling(6) }).unwrap();
    let any = Grammar::Lark("start: ANY\nANY: /(?s:.*)/".into());
    let formed = answers(&generator, &any, 2, Sampling { max_tokens: 20, ..sampling(6) });
    let plain = |text: &str| !text.contains('\u{fffd}');
    for (free, formed) in free[0].iter().zip(&formed).filter(|(f, _)| plain(&f.text)) {
        assert!(formed.0.contains('\u{fffd}') || free.text == formed.0 || free.finish_reason != formed.1);
    }
}

#[test]
fn what_cannot_be_compiled_says_why() {
    let generator = generator(Settings::default());
    let cases = [
        Grammar::JsonSchema(json!({ "type": "banana" })),
        Grammar::JsonSchema(json!({ "$ref": "#/$defs/nowhere" })),
        Grammar::JsonSchema(json!({ "type": "string", "pattern": "(" })),
        Grammar::JsonSchema(json!({ "type": "integer", "minimum": 5, "maximum": 2 })),
        Grammar::Regex("(".into()),
        Grammar::Lark("start: nowhere".into()),
        Grammar::Lark(String::new()),
        Grammar::Gbnf("root ::= nowhere".into()),
        Grammar::Gbnf("root ::= root \"a\"".into()),
    ];
    for grammar in cases {
        match generator.compile(&grammar) {
            Err(Error::Grammar(problem)) => assert!(!problem.is_empty() && problem.len() < 1000, "{problem}"),
            other => panic!("{grammar:?}: {other:?}"),
        }
    }
}

#[test]
fn embeddings_are_of_length_one_and_do_not_depend_on_chunks() {
    use herd_infer::Pooling;
    let whole = generator(Settings::default());
    let chunked = generator(Settings { batch_tokens: 7, ..Settings::default() });
    for pooling in [Pooling::Mean, Pooling::Last] {
        let one = whole.embed(&prompt(60, 1), pooling).unwrap();
        assert_eq!(one.len(), whole.embedding_size());
        assert!((one.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
        assert_eq!(one, chunked.embed(&prompt(60, 1), pooling).unwrap());
        assert_ne!(one, whole.embed(&prompt(60, 2), pooling).unwrap());
    }
    assert!(matches!(whole.embed(&[], Pooling::Mean), Err(Error::EmptyPrompt)));
    assert!(matches!(whole.embed(&[0; 300], Pooling::Mean), Err(Error::ContextOverflow { .. })));
}
