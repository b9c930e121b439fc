//! The page: head, sections, foot. Each section draws one stage of the run from its files, or says that the stage
//! has not run.

mod align;
mod data;
mod eval;
mod head;
mod pretrain;
mod samples;
mod tokens;

pub use eval::domain_rows;
pub use head::tiles;
pub use samples::{recipe_samples, samples};

use crate::folder::Folder;
use crate::html::escape;

/// The whole document.
pub fn render(folder: &Folder) -> String {
    let sections = [
        (
            "data",
            "Data",
            "From a raw crawl to clean documents: what each step removed, and why.",
            data::body(folder),
        ),
        (
            "tokens",
            "Tokens and mix",
            "The tokenizer and the shards from which the model reads.",
            tokens::body(folder),
        ),
        (
            "pretraining",
            "Pre-training",
            "Initial training, long context, then annealing to a learning rate of zero.",
            pretrain::body(folder),
        ),
        (
            "evaluation",
            "Evaluation",
            "On documents and examples the model never saw. Every score carries its 95% interval.",
            eval::body(folder),
        ),
        (
            "alignment",
            "Alignment",
            "Reward model, rejection sampling, supervised fine-tuning, direct preference optimisation.",
            align::body(folder),
        ),
        (
            "samples",
            "Before and after",
            "The same held-out prompts, answered greedily by both models.",
            samples::body(folder),
        ),
        ("recipe", "Recipe", "The settings of every stage, as they ran.", head::recipe(folder)),
    ];
    let links: String =
        sections.iter().map(|(id, title, ..)| format!("<a href=\"#{id}\">{title}</a>")).collect();
    let bodies: String = sections
        .iter()
        .enumerate()
        .map(|(i, (id, title, intro, body))| {
            let number = i + 1;
            format!(
                "<section id=\"{id}\"><h2><span>{number}</span>{title}</h2><p class=\"intro\">{intro}</p>{body}</section>"
            )
        })
        .collect();
    let problems: String = folder
        .problems
        .iter()
        .map(|problem| format!("<p class=\"problem\">Left out: {}</p>", escape(problem)))
        .collect();
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\
         <title>{name} · Herd</title><style>{style}</style></head>\n<body>{head}<main>{problems}{bodies}</main>\
         <footer>Made by Herd {version} from the files of this run folder alone.</footer></body></html>\n",
        name = escape(&folder.name()),
        style = include_str!("../style.css"),
        head = head::body(folder, &links),
    )
}

/// What a section says if its stage has left nothing.
fn absent(what: &str, command: &str) -> String {
    format!(
        "<p class=\"absent-stage\"><b>{} has not run.</b> <code>{}</code> runs it.</p>",
        escape(what),
        escape(command)
    )
}

/// Figures two abreast.
fn pair(figures: impl IntoIterator<Item = Option<String>>) -> String {
    let figures: Vec<String> = figures.into_iter().flatten().collect();
    if figures.is_empty() {
        String::new()
    } else {
        format!("<div class=\"grid2\">{}</div>", figures.concat())
    }
}
