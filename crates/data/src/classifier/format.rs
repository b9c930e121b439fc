//! fastText's `.bin` file, version 12: little-endian, arguments, dictionary, the two matrices.

use super::features::{Dictionary, LABEL, Shape};
use super::{Classifier, Loss};
use herd_run::atomic::{self, FileError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: i32 = 793_712_314;
const VERSION: i32 = 12;
/// `model_name::sup`.
const SUPERVISED: i32 = 3;

/// Why a model cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file cannot be opened or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The content is not a model that Herd knows.
    #[error("{}: {problem}; give a supervised fastText model (.bin), or make a model with `herd data train-classifier`", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Writes a model.
pub fn save(model: &Classifier, path: &Path) -> Result<(), FileError> {
    atomic::create(path, |out| {
        let written = (|| {
            let shape = model.dictionary.shape();
            let loss = match model.loss {
                Loss::Hierarchical(_) => 1,
                Loss::Softmax => 3,
                Loss::OneVersusAll => 4,
            };
            let ints = [
                MAGIC,
                VERSION,
                model.dimension as i32,
                5, // window; not used by a classifier, nor are the samples below
                5,
                1,
                5,
                shape.word_ngrams as i32,
                loss,
                SUPERVISED,
                shape.buckets as i32,
                shape.min_subword as i32,
                shape.max_subword as i32,
                100,
            ];
            ints.iter().try_for_each(|n| out.write_all(&n.to_le_bytes()))?;
            out.write_all(&1e-4f64.to_le_bytes())?;
            let (words, labels) = (&model.dictionary.words, &model.labels);
            for n in [words.len() + labels.len(), words.len(), labels.len()] {
                out.write_all(&(n as i32).to_le_bytes())?;
            }
            let tokens: i64 = words.iter().map(|(_, n)| n).sum();
            out.write_all(&tokens.to_le_bytes())?;
            out.write_all(&(-1i64).to_le_bytes())?;
            let labels = labels.iter().map(|(name, n)| (format!("{LABEL}{name}"), *n, 1u8));
            for (word, count, kind) in words.iter().map(|(w, n)| (w.clone(), *n, 0u8)).chain(labels) {
                out.write_all(word.as_bytes())?;
                out.write_all(&[0])?;
                out.write_all(&count.to_le_bytes())?;
                out.write_all(&[kind])?;
            }
            for (matrix, rows) in
                [(&model.input, model.dictionary.rows()), (&model.output, model.labels.len())]
            {
                out.write_all(&[0])?;
                out.write_all(&(rows as i64).to_le_bytes())?;
                out.write_all(&(model.dimension as i64).to_le_bytes())?;
                matrix.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))?;
            }
            Ok(())
        })();
        written.map_err(FileError::at("write", path))
    })
}

/// Reads a model.
pub fn load(path: &Path) -> Result<Classifier, ModelError> {
    let bytes = atomic::read(path)?;
    parse(&bytes).map_err(|problem| ModelError::Content { path: path.to_path_buf(), problem })
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut out = [0; N];
        self.0.read_exact(&mut out).map_err(|_| "ends too early".to_string())?;
        Ok(out)
    }

    fn int(&mut self) -> Result<i32, String> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    fn long(&mut self) -> Result<i64, String> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// A number that counts something, below `bound`.
    fn count(&mut self, what: &str, bound: i32) -> Result<usize, String> {
        let n = self.int()?;
        if (0..bound).contains(&n) { Ok(n as usize) } else { Err(format!("has {n} as {what}")) }
    }

    fn word(&mut self) -> Result<String, String> {
        let end = memchr::memchr(0, self.0).ok_or("has a word without end")?;
        let word = String::from_utf8_lossy(&self.0[..end]).into_owned();
        self.0 = &self.0[end + 1..];
        Ok(word)
    }

    fn matrix(&mut self, rows: usize, dimension: usize) -> Result<Vec<f32>, String> {
        if self.array::<1>()? != [0] {
            return Err("has quantised matrices".into());
        }
        let (m, n) = (self.long()?, self.long()?);
        if m != rows as i64 || n != dimension as i64 {
            return Err(format!("has a matrix of {m} x {n} where {rows} x {dimension} belong"));
        }
        let size = rows.saturating_mul(dimension).saturating_mul(4);
        if self.0.len() < size {
            return Err("ends within a matrix".into());
        }
        let (data, rest) = self.0.split_at(size);
        self.0 = rest;
        Ok(data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

fn parse(bytes: &[u8]) -> Result<Classifier, String> {
    let mut at = Cursor(bytes);
    if at.int()? != MAGIC {
        return Err("is no fastText model".into());
    }
    let version = at.int()?;
    if !(11..=VERSION).contains(&version) {
        return Err(format!("has version {version}; known are 11 and 12"));
    }
    let dimension = at.count("dimension", 100_000)?;
    for _ in 0..4 {
        at.int()?; // window, epochs, least count, negative samples
    }
    let word_ngrams = at.count("n-gram length", 1000)?;
    let (loss, model) = (at.int()?, at.int()?);
    if model != SUPERVISED {
        return Err("holds word vectors and no classifier".into());
    }
    let buckets = at.count("buckets", i32::MAX)? as u32;
    let (min_subword, mut max_subword) =
        (at.count("subword length", 1000)?, at.count("subword length", 1000)?);
    if version == 11 {
        max_subword = 0; // such classifiers ignore subwords
    }
    at.int()?;
    at.array::<8>()?;
    let shape = Shape { buckets, min_subword, max_subword, word_ngrams };
    let (size, words, labels) =
        (at.count("entries", i32::MAX)?, at.count("words", i32::MAX)?, at.count("labels", i32::MAX)?);
    at.long()?;
    if at.long()? >= 0 {
        return Err("is pruned".into());
    }
    if words + labels != size || labels == 0 {
        return Err(format!("has {size} entries, {words} words and {labels} labels"));
    }
    let mut entries = Vec::new();
    for n in 0..size {
        let (word, count) = (at.word()?, at.long()?);
        if at.array::<1>()? != [(n >= words) as u8] {
            return Err("has words and labels in another order".into());
        }
        entries.push((word, count));
    }
    let labels: Vec<(String, i64)> = entries
        .split_off(words)
        .into_iter()
        .map(|(word, n)| (word.strip_prefix(LABEL).unwrap_or(&word).to_string(), n))
        .collect();
    let loss = match loss {
        1 => Loss::Hierarchical(crate::language::huffman(&labels.iter().map(|l| l.1).collect::<Vec<_>>())),
        3 => Loss::Softmax,
        4 => Loss::OneVersusAll,
        _ => return Err("is trained with negative sampling, which gives no probabilities".into()),
    };
    let dictionary = Dictionary::new(entries, shape);
    let input = at.matrix(dictionary.rows(), dimension)?;
    let output = at.matrix(labels.len(), dimension)?;
    Ok(Classifier { dictionary, labels, dimension, loss, input, output })
}
