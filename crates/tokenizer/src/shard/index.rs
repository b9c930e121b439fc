use crate::Error;
use herd_run::atomic;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// `index.json` of a shard folder: which files hold the tokens of which domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShardIndex {
    /// Size of the vocabulary that the ids belong to.
    pub vocab_size: usize,
    /// Content hash of the `tokenizer.json` that made the ids.
    pub tokenizer_hash: String,
    /// Domains in alphabetical order.
    pub domains: Vec<DomainShards>,
}

/// The shards of one domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainShards {
    /// Name of the domain, such as `general`.
    pub name: String,
    /// Documents to train on.
    pub train: FileStats,
    /// Documents kept back for evaluation.
    pub held_out: FileStats,
}

/// A shard file and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStats {
    /// File name inside the shard folder.
    pub file: String,
    /// Tokens, begin and end of text included.
    pub tokens: u64,
    /// Documents.
    pub documents: u64,
    /// Bytes of text before tokenisation.
    pub bytes: u64,
}

impl ShardIndex {
    /// Name of the file inside a shard folder.
    pub const FILE: &str = "index.json";

    /// Reads `index.json` of a shard folder.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        Ok(atomic::read_json(&folder.join(Self::FILE))?)
    }

    /// Writes `index.json` into a shard folder, complete or not at all.
    pub fn save(&self, folder: &Path) -> Result<(), Error> {
        Ok(atomic::write_json(&folder.join(Self::FILE), self)?)
    }
}
