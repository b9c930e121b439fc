//! A checkpoint in either format.

use crate::Error;
use crate::parts::Part;
use herd_infer::gguf::{self, BlockType, Container};
use herd_model::{LlamaConfig, TensorFiles, TensorType};
use herd_tokenizer::Tokenizer;
use rayon::prelude::*;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The kind of files that a checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Hugging Face's folder, or a safetensors file alone.
    Safetensors,
    /// llama.cpp's file.
    Gguf,
}

/// A number type as a file names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum TensorKind {
    /// One whose blocks are known.
    Known(BlockType),
    /// Any other, by name or number.
    Other(String),
}

impl TensorKind {
    /// The usual name, such as `Q4_K`.
    pub fn name(&self) -> &str {
        match self {
            Self::Known(kind) => kind.name(),
            Self::Other(name) => name,
        }
    }
}

/// A tensor of the file.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// Its name in the file.
    pub name: String,
    /// Its shape, rows first.
    pub shape: Vec<usize>,
    /// Its number type.
    pub kind: TensorKind,
    /// Its size in the file; `None` if the type is unknown.
    pub bytes: Option<u64>,
}

impl StoredTensor {
    /// Numbers in it.
    pub fn numbers(&self) -> u64 {
        self.shape.iter().fold(1, |n, &size| n.saturating_mul(size as u64))
    }
}

/// An open checkpoint. The files are memory-mapped; nothing is read until it is asked for.
pub struct Checkpoint {
    path: PathBuf,
    source: Source,
    config: Result<LlamaConfig, String>,
}

enum Source {
    Gguf(Box<Container>),
    Folder(TensorFiles),
}

impl Checkpoint {
    /// Opens a GGUF file, a Hugging Face folder, or a safetensors file (whose `config.json` may stand beside it).
    ///
    /// # Errors
    /// A file that is missing, cut off or of another kind. A model that is no Llama can be opened; see
    /// [`config`](Self::config).
    pub fn open(path: &Path) -> Result<Self, Error> {
        if gguf::is_gguf(path) || path.extension().is_some_and(|e| e == "gguf") {
            let container = Container::open(path)?;
            let config = container.config().map_err(|e| e.to_string());
            return Ok(Self { path: path.into(), source: Source::Gguf(Box::new(container)), config });
        }
        if path.is_file() && path.extension().is_none_or(|e| e != "safetensors") {
            let problem = "is neither GGUF nor .safetensors; name one of these, or a folder with config.json";
            return Err(Error::at(path, problem));
        }
        let (files, folder) = match path.is_dir() {
            true => (TensorFiles::open(path)?, path),
            false => (TensorFiles::open_file(path)?, path.parent().unwrap_or(Path::new("."))),
        };
        let config = LlamaConfig::read(folder).map_err(|e| e.to_string());
        Ok(Self { path: path.into(), source: Source::Folder(files), config })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kind of its files.
    pub fn format(&self) -> Format {
        match self.source {
            Source::Gguf(_) => Format::Gguf,
            Source::Folder(_) => Format::Safetensors,
        }
    }

    /// The GGUF file, if it is one.
    pub fn gguf(&self) -> Option<&Container> {
        match &self.source {
            Source::Gguf(container) => Some(container),
            Source::Folder(_) => None,
        }
    }

    /// The configuration.
    ///
    /// # Errors
    /// Why it is not that of a Llama.
    pub fn config(&self) -> Result<&LlamaConfig, &str> {
        self.config.as_ref().map_err(String::as_str)
    }

    /// The tokenizer of the file or folder.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        Ok(match &self.source {
            Source::Gguf(container) => container.tokenizer()?,
            Source::Folder(_) if self.path.is_dir() => Tokenizer::load(&self.path)?,
            Source::Folder(_) => Tokenizer::load(self.path.parent().unwrap_or(Path::new(".")))?,
        })
    }

    /// All tensors of the files, by name.
    pub fn tensors(&self) -> Vec<StoredTensor> {
        match &self.source {
            Source::Gguf(container) => (container.tensors.iter())
                .map(|(name, entry)| {
                    let shape: Vec<usize> = entry.shape.iter().rev().copied().collect();
                    let known = BlockType::of(entry.kind);
                    let bytes = known.and_then(|kind| {
                        let (weights, size) = kind.block();
                        let numbers = shape.iter().try_fold(1u64, |n, &s| n.checked_mul(s as u64))?;
                        (numbers / weights as u64).checked_mul(size as u64)
                    });
                    let kind = known
                        .map_or_else(|| TensorKind::Other(format!("type {}", entry.kind)), TensorKind::Known);
                    StoredTensor { name: name.clone(), shape, kind, bytes }
                })
                .collect(),
            Source::Folder(files) => (files.names().filter_map(|name| Some((name, files.get(name)?))))
                .map(|(name, tensor)| StoredTensor {
                    name: name.to_string(),
                    shape: tensor.shape.to_vec(),
                    kind: match tensor.dtype {
                        TensorType::F32 => TensorKind::Known(BlockType::F32),
                        TensorType::F16 => TensorKind::Known(BlockType::F16),
                        TensorType::BF16 => TensorKind::Known(BlockType::Bf16),
                        other => TensorKind::Other(format!("{other:?}")),
                    },
                    bytes: Some(tensor.bytes.len() as u64),
                })
                .collect(),
        }
    }

    /// Checks that a tensor is there as the configuration asks for it.
    pub(crate) fn check(&self, part: &Part) -> Result<(), Error> {
        match &self.source {
            Source::Gguf(container) => {
                container.locate(&part.gguf, [part.rows(), part.columns()])?;
            }
            Source::Folder(files) => {
                files.expect(&part.hf, &part.shape)?;
            }
        }
        Ok(())
    }

    /// The stored bytes of some rows if they lie in `wanted` already and in the order that is wanted.
    pub(crate) fn stored(&self, part: &Part, wanted: BlockType, rows: Range<usize>) -> Option<&[u8]> {
        let Source::Gguf(container) = &self.source else { return None };
        let (kind, bytes) = container.locate(&part.gguf, [part.rows(), part.columns()]).ok()?;
        let row = bytes.len() / part.rows();
        (kind == wanted).then(|| &bytes[rows.start * row..rows.end * row])
    }

    /// Reads rows as f32; `order` says which row of the file each is.
    pub(crate) fn read(
        &self,
        part: &Part,
        rows: Range<usize>,
        order: Format,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let columns = part.columns();
        let row_in_file = |row: usize| match (order, self.format()) {
            (Format::Gguf, Format::Safetensors) => part.hf_row(row),
            (Format::Safetensors, Format::Gguf) => part.gguf_row(row),
            _ => row,
        };
        // The biases of queries and keys: each number is a row of its own.
        let vector = part.shape.len() == 1;
        match &self.source {
            Source::Gguf(container) => {
                let (kind, bytes) = container.locate(&part.gguf, [part.rows(), columns])?;
                let row_bytes = bytes.len() / part.rows();
                if vector {
                    let mut all = vec![0.0; columns];
                    kind.dequantise(bytes, &mut all);
                    out.iter_mut().enumerate().for_each(|(i, out)| *out = all[row_in_file(i)]);
                } else {
                    out.par_chunks_mut(columns).enumerate().for_each(|(i, out)| {
                        let at = row_in_file(rows.start + i) * row_bytes;
                        kind.dequantise(&bytes[at..at + row_bytes], out);
                    });
                }
            }
            Source::Folder(files) => {
                let stored = files.expect(&part.hf, &part.shape)?;
                if vector {
                    let mut all = vec![0.0; columns];
                    stored.copy_to(0, &mut all);
                    out.iter_mut().enumerate().for_each(|(i, out)| *out = all[row_in_file(i)]);
                } else {
                    out.par_chunks_mut(columns).enumerate().for_each(|(i, out)| {
                        stored.copy_to(row_in_file(rows.start + i) * columns, out);
                    });
                }
            }
        }
        match out.par_iter().position_first(|x| !x.is_finite()) {
            None => Ok(()),
            Some(at) => Err(Error::at(
                &self.path,
                format!("tensor `{}` holds NaN or infinity in row {}", part.hf, rows.start + at / columns),
            )),
        }
    }
}
