//! Pages saved as files: what `herd data extract` and the benchmark read.

use crate::extract::{Page, extract};
use crate::response::{Body, Http, decode, is_binary, unpack};
use herd_run::atomic::FileError;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of a page that are read; the rest of a larger one is left out.
const MAX_BYTES: usize = 50_000_000;

/// Why a file gives no page.
#[derive(Debug, thiserror::Error)]
pub enum PageFileError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its content is no page.
    #[error("{}: {problem}; give HTML, or HTML in gzip", path.display())]
    NoPage {
        /// The file.
        path: PathBuf,
        /// What it is.
        problem: String,
    },
}

/// A page of a file.
#[derive(Debug)]
pub struct PageFile {
    /// What is on it.
    pub page: Page,
    /// What it took to decode characters, parse and extract, without reading and decompressing.
    pub time: Duration,
    /// What is missing, if the file is damaged or too long.
    pub missing: Option<String>,
}

/// Extracts the page in a file of HTML, gzipped or not, in any character encoding. `url` is its address, empty if it is
/// not known.
pub fn extract_file(path: &Path, url: &str) -> Result<PageFile, PageFileError> {
    let bytes = std::fs::read(path).map_err(FileError::at("read", path))?;
    let no_page = |problem: String| PageFileError::NoPage { path: path.to_path_buf(), problem };
    let Body { bytes: body, missing } =
        unpack(&bytes, MAX_BYTES).map_err(|problem| no_page(format!("damaged: {problem}")))?;
    if is_binary(&body) {
        return Err(no_page("not a page of text".into()));
    }
    let started = Instant::now();
    let (html, _) = decode(&body, &Http::bare(&body));
    let page = extract(&html, url);
    Ok(PageFile { page, time: started.elapsed(), missing })
}
