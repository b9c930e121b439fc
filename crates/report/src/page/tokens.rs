//! The tokenizer and the token shards.

use super::absent;
use crate::chart::{Part, Stack, domain_colour};
use crate::folder::Folder;
use crate::html::{facts, table};
use crate::json::Json;
use crate::number;

pub fn body(folder: &Folder) -> String {
    let (tokenizer, index) = (folder.tokenizer(), folder.index());
    if !tokenizer.exists() && !index.exists() {
        return absent("The tokenizer stage", "herd tokenizer");
    }
    let mut html = String::new();
    let mut pairs: Vec<(&str, String)> = Vec::new();
    let mut add = |name, key: &str, show: &dyn Fn(f64) -> String| {
        if let Some(value) = tokenizer.at(key).number() {
            pairs.push((name, show(value)));
        }
    };
    add("Vocabulary", "vocab_size", &number::whole);
    add("Trained on documents", "documents", &number::whole);
    add("Trained on text", "bytes", &number::bytes);
    add("Distinct pieces", "distinct_pieces", &number::whole);
    add("Characters per token", "characters_per_token", &|ratio| format!("{ratio:.2}"));
    if !pairs.is_empty() {
        html.push_str(&format!("<div class=\"card\"><h3>Tokenizer</h3>{}</div>", facts(&pairs)));
    }
    let domains: Vec<Json> = index.at("domains").items().collect();
    if domains.is_empty() {
        return html + &absent("The shards stage", "herd shards");
    }
    let tokens = |domain: &Json| domain.at("train.tokens").number().unwrap_or(0.0);
    let name = |domain: &Json| domain.at("name").text().unwrap_or("?").to_string();
    let stack = Stack {
        title: "Training tokens by domain".into(),
        note: "as stored; the mix during training is set by weights in the recipe".into(),
        parts: domains
            .iter()
            .map(|d| Part {
                name: name(d),
                size: tokens(d),
                text: number::compact(tokens(d)),
                colour: domain_colour(&name(d)),
            })
            .collect(),
    };
    html.push_str(&stack.figure().unwrap_or_default());
    let rows: Vec<Vec<String>> = domains
        .iter()
        .map(|domain| {
            let cell = |path: &str| domain.at(path).number().map_or("-".into(), number::whole);
            let ratio = domain.at("train.bytes").number().zip(domain.at("train.tokens").number());
            let ratio = ratio
                .filter(|(_, tokens)| *tokens > 0.0)
                .map_or("-".into(), |(b, t)| format!("{:.2}", b / t));
            let held_out = cell("held_out.tokens");
            vec![
                name(domain),
                cell("train.documents"),
                cell("train.tokens"),
                ratio,
                cell("held_out.documents"),
                held_out,
            ]
        })
        .collect();
    let heads = ["Domain", "Documents", "Tokens", "Bytes per token", "Held-out documents", "Held-out tokens"];
    html + &format!("<div class=\"card\">{}</div>", table(&heads, &rows))
}
