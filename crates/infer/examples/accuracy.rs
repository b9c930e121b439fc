//! What `bench/infer/accuracy.py` asks Herd: `accuracy MODEL.gguf QUESTIONS.json [float]`.
//!
//! QUESTIONS has `windows`, lists of tokens whose likelihood is measured, and `prompts`, lists of tokens that are
//! continued greedily by `new_tokens` tokens. With `float` the weights are made single precision first. Prints the sum
//! of the negative log-likelihoods of all tokens but the first of each window, their number, and the continuations.

use herd_infer::{Generator, Sampling, Settings, gguf};
use serde::Deserialize;
use std::error::Error;

#[derive(Deserialize)]
struct Questions {
    windows: Vec<Vec<u32>>,
    prompts: Vec<Vec<u32>>,
    new_tokens: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, questions, rest @ ..] = arguments.as_slice() else {
        return Err("accuracy MODEL.gguf QUESTIONS.json [float]".into());
    };
    let questions: Questions = serde_json::from_str(&std::fs::read_to_string(questions)?)?;
    let mut generator = Generator::open(model.as_ref(), Settings::default())?;
    if rest.first().is_some_and(|r| r == "float") {
        let (llama, params) = gguf::load(model.as_ref())?;
        generator = Generator::new(llama, params, generator.tokenizer().clone(), Settings::default())?;
    }
    let (mut sum, mut count) = (0.0, 0);
    for window in &questions.windows {
        for logprob in generator.score(window)? {
            sum -= f64::from(logprob);
            count += 1;
        }
    }
    let sampling = Sampling { ignore_end: true, ..Sampling::greedy(questions.new_tokens) };
    let answers = generator.generate(&questions.prompts, 1, &sampling)?;
    let answers: Vec<&[u32]> = answers.iter().map(|a| a[0].tokens.as_slice()).collect();
    println!("{}", serde_json::json!({ "nll": sum, "tokens": count, "answers": answers }));
    Ok(())
}
