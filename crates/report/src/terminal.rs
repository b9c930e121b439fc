//! The ending of `herd run` on a terminal: a short table and a sample chat.

use crate::folder::Folder;
use crate::html::shorten;
use crate::page;
use crate::{Error, open};
use std::fmt::Write;
use std::path::Path;

/// The most important results of the run in folder `run` as plain text, with a sample chat.
///
/// # Errors
/// `run` is no run folder.
pub fn text_summary(run: &Path) -> Result<String, Error> {
    let folder = open(run)?;
    let mut text = String::new();
    for tile in page::tiles(&folder) {
        let _ = writeln!(text, "  {:<17} {:<12} {}", tile.name, plain(&tile.value), plain(&tile.note));
    }
    bits_per_byte(&folder, &mut text);
    sample_chat(&folder, &mut text);
    for problem in &folder.problems {
        let _ = writeln!(text, "\n  left out: {}", plain(problem));
    }
    Ok(text)
}

fn bits_per_byte(folder: &Folder, text: &mut String) {
    let rows = page::domain_rows(folder);
    if rows.is_empty() {
        return;
    }
    let heads = ["bits per byte", "Transformer", "trigram", "bigram", "unigram"].map(String::from);
    text.push('\n');
    for row in std::iter::once(&heads.to_vec()).chain(&rows) {
        let cells: String = row.iter().skip(1).map(|cell| format!(" {cell:>20}")).collect();
        let _ = writeln!(text, "  {:<14}{cells}", plain(&row[0]));
    }
}

fn sample_chat(folder: &Folder, text: &mut String) {
    let named = page::recipe_samples(folder);
    let samples = if named.is_empty() { page::samples(folder) } else { named };
    let chats = samples.iter().filter_map(|sample| Some((sample.prompt, sample.chat?)));
    for (prompt, answer) in chats.take(3) {
        let _ = writeln!(text, "\n  user       {}", plain(&shorten(prompt, 160)));
        let _ = writeln!(text, "  assistant  {}", plain(&shorten(answer.trim(), 240)));
    }
}

/// Without control characters, which a terminal would obey, and on one line.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
