//! What the commands that open a model share.

use crate::folder::model_folder;
use herd_infer::{Generator, Settings};
use std::io::Read;
use std::path::Path;

/// Opens a GGUF file, a model folder, or the most finished model of a run folder.
pub fn open(path: &Path) -> anyhow::Result<Generator> {
    Ok(Generator::open(&model_folder(path)?, Settings::default())?)
}

/// The text of a file; `-` is standard input.
pub fn text_of(path: &Path) -> anyhow::Result<String> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes)?;
        bytes
    } else {
        herd_run::atomic::read(path)?
    };
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!("{}: not UTF-8 at byte {at}; convert the file first", path.display())
    })
}
