//! The self-contained HTML report of a run.
//!
//! It reads only the files of the run folder, draws its charts as inline SVG, loads nothing from anywhere and runs no
//! script. A stage that has not run, or a file that cannot be read, is said so in its place.

mod chart;
mod folder;
mod html;
mod inspect;
mod json;
mod number;
mod page;
mod terminal;

pub use inspect::inspection;
pub use terminal::text_summary;

use folder::Folder;
use herd_run::atomic::{self, FileError};
use std::path::Path;

/// Why the report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no run in this folder.
    #[error("{}: not a run folder (no manifest.json and no stage's files); `herd run RECIPE.toml` makes one", .0.display())]
    NotARun(std::path::PathBuf),
    /// The report cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Folders of a run, any of which makes a folder a run.
const PARTS: [&str; 7] = ["manifest.json", "data", "tokenizer", "shards", "pretrain", "align", "eval"];

fn open(run: &Path) -> Result<Folder, Error> {
    if !PARTS.iter().any(|part| run.join(part).exists()) {
        return Err(Error::NotARun(run.to_path_buf()));
    }
    Ok(Folder::read(run))
}

/// Writes the report of the run in folder `run` to `out` (usually `report.html` in that folder).
///
/// # Errors
/// `run` is no run folder, or `out` cannot be written. Missing or broken files inside it are no error: the report
/// says what it left out.
pub fn write(run: &Path, out: &Path) -> Result<(), Error> {
    let folder = open(run)?;
    Ok(atomic::write(out, page::render(&folder))?)
}
