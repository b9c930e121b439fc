//! The needle task: well-formed cases, documents of exact length, and a recall that tells a model that copies from one
//! that does not.

use herd_model::Llama;
use herd_run::Context;
use herd_run::Random;
use herd_tokenizer::{Tokenizer, train};
use herd_train::needle::{self, CANDIDATES, Case, NeedleKind, Recall, Sentences};

fn tokenizer() -> Tokenizer {
    let text = include_str!("needle.rs");
    train::train(
        &[text, "The magic number of Lisbon is 4821. 1234 5678 90"],
        &train::Settings { vocab_size: 640, ..train::Settings::default() },
    )
    .unwrap()
}

fn filler(tokenizer: &Tokenizer) -> Vec<u32> {
    tokenizer.encode(include_str!("needle.rs"))
}

fn longest(case: &Case) -> usize {
    case.candidates.iter().map(Vec::len).max().unwrap()
}

#[test]
fn a_case_states_its_fact_at_the_depth_and_asks_for_it_at_the_end() {
    let tokenizer = tokenizer();
    let sentences = Sentences::new(&tokenizer, NeedleKind::Number);
    let filler = filler(&tokenizer);
    for (i, (length, depth)) in [(128, 0.0), (300, 0.5), (1000, 1.0), (5000, 0.3)].into_iter().enumerate() {
        let case = sentences.case(&filler, length, depth, Random::new(1, &[i as u64]));
        assert_eq!(case.length, length);
        assert_eq!(case.prompt.len() + longest(&case), length);
        assert_eq!(case.candidates.len(), CANDIDATES);
        let answers: Vec<String> = case.candidates.iter().map(|c| tokenizer.decode(c)).collect();
        assert!(answers.iter().all(|a| a.len() == 4 && a.parse::<u32>().is_ok()), "{answers:?}");
        let text = tokenizer.decode(&case.prompt);
        let question = text.lines().last().unwrap();
        assert!(question.starts_with("The magic number of ") && question.ends_with(" is "), "{question}");
        let fact = format!("{question}{}.", answers[0]);
        assert_eq!(text.matches(&fact).count(), 1, "the fact stands there once");
        let at = text.find(&fact).unwrap() as f64 / (text.len() - question.len() - fact.len()) as f64;
        assert!((at - depth).abs() < 0.15, "depth {depth}: {at}");
        // The tokens are those of the whole text: no seam gives the needle away.
        assert!(tokenizer.encode(&fact).ends_with(&tokenizer.encode(&format!("{}.", answers[0]))));
    }
}

#[test]
fn training_documents_have_the_exact_length_and_can_be_predicted_from_further_up() {
    let tokenizer = tokenizer();
    let sentences = Sentences::new(&tokenizer, NeedleKind::Number);
    let filler = filler(&tokenizer);
    let (mut facts, mut passages) = (0, 0);
    for (i, length) in [3, 40, 128, 257, 1025, 4097].into_iter().cycle().take(120).enumerate() {
        let tokens = sentences.training_document(&filler, length, Random::new(2, &[i as u64]));
        assert_eq!(tokens.len(), length);
        assert_eq!(tokens[0], tokenizer.specials().bos);
        if length < 1000 {
            continue;
        }
        assert_eq!(*tokens.last().unwrap(), tokenizer.specials().end_of_text);
        let text = tokenizer.decode(&tokens);
        let last = text.trim_end_matches("<|end_of_text|>").trim_end().lines().last().unwrap();
        if last.starts_with("The magic number of ") && last.ends_with('.') {
            assert!(text.matches(last).count() >= 3, "{last}");
            facts += 1;
        } else {
            let inside = &tokens[1..length - 1];
            let period = (8..=inside.len() / 2).find(|&p| inside[p..] == inside[..inside.len() - p]);
            assert!(period.is_some(), "{text}");
            passages += 1;
        }
    }
    assert!(facts >= 10 && passages >= 10, "{facts} {passages}");
    let again = |seed| sentences.training_document(&filler, 300, Random::new(seed, &[]));
    assert!(again(1) == again(1) && again(1) != again(2));
    assert_eq!(sentences.training_document(&[], 64, Random::new(0, &[])).len(), 64, "no filler, no hang");
}

#[test]
fn a_secret_city_is_stated_once_and_asked_for() {
    let tokenizer = tokenizer();
    let sentences = Sentences::new(&tokenizer, NeedleKind::City);
    let filler = filler(&tokenizer);
    let case = sentences.case(&filler, 400, 0.5, Random::new(4, &[]));
    assert_eq!(case.prompt.len() + longest(&case), 400);
    let answers: Vec<String> = case.candidates.iter().map(|c| tokenizer.decode(c)).collect();
    assert!(answers.iter().all(|a| a.starts_with(' ')), "{answers:?}");
    let text = tokenizer.decode(&case.prompt);
    assert!(text.ends_with("\nThe secret city of this text is"), "{text}");
    let fact = format!("The secret city of this text is{}.", answers[0]);
    assert_eq!(text.matches(&fact).count(), 1);
    assert!(tokenizer.encode(&fact).ends_with(&tokenizer.encode(&format!("{}.", answers[0]))), "no seam");
    let documents = (0..8).map(|i| sentences.training_document(&filler, 600, Random::new(5, &[i])));
    let stated = documents.map(|d| tokenizer.decode(&d).matches("The secret city of this text is").count());
    assert!(stated.max().unwrap() >= 3);
}

#[test]
fn an_untrained_model_finds_needles_only_by_chance() {
    let tokenizer = tokenizer();
    let sentences = Sentences::new(&tokenizer, NeedleKind::Number);
    let filler = filler(&tokenizer);
    let shape = herd_model::Settings {
        layers: 1,
        model_dimension: 32,
        ffn_dimension: 64,
        attention_heads: 2,
        key_value_heads: 1,
        max_context: 512,
        init_std: 0.5,
        ..herd_model::Settings::default()
    };
    let llama = Llama::new(shape.config(tokenizer.vocab_size(), 0, vec![1]));
    let mut params = llama.params();
    params.initialize(3);
    let cases = sentences.cases(128, 5, 20, 1, |_| filler.clone());
    let found = needle::recall(&llama, &params, &cases, &Context::quiet()).unwrap();
    let recall = Recall::of(&found);
    assert_eq!(recall.cases, 100);
    assert!(recall.exact < 0.05 && recall.ranked < 0.35, "{recall:?}");
    let stopped = Context::quiet();
    stopped.stop.request();
    assert!(needle::recall(&llama, &params, &cases, &stopped).is_err());
}
